//! What one region finds out of a provider's outage, the others need not.

use crate::fixture::{Router, eventually, fast, file, header, hello, provider, upstream};
use llm_router::mock::{Action, Faults, Mock, Wait};
use llm_router_logic::backend::Kind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const SHARED: &str = "shared";

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Fleet {
    routers: [Router; 3],
    cheap: Mock,
    _dear: Mock,
}

impl Fleet {
    /// Three nodes over the same two providers, each of which has served each of them.
    async fn start(gossip: &str) -> Self {
        let (cheap, dear) =
            (upstream(fast(Kind::OpenAi, SHARED)).await, upstream(fast(Kind::OpenAi, SHARED)).await);
        let ports = [free_port(), free_port(), free_port()];
        let prices =
            provider("dear", &dear, SHARED).replace("input: 1.0, output: 2.0", "input: 9.0, output: 9.0");
        let backends = provider("cheap", &cheap, SHARED) + &prices;
        let mut routers = Vec::new();
        for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
            let (port, seed) = (ports[index], ports[(index + 1) % 3]);
            let more = format!(
                "node: {{name: {name}, region: region-{name}}}\n\
                 router: {{routingStrategy: cost, healthCheckInterval: 2s, stickinessWindow: 0s}}\n\
                 gossip: {{listen: \"127.0.0.1:{port}\", seeds: [\"127.0.0.1:{seed}\"]{gossip}}}"
            );
            routers.push(Router::start(&file(&more, "", &backends)).await);
        }
        for router in &routers {
            let three = |view: &serde_json::Value| {
                let members = view["members"].as_array().unwrap();
                members.len() == 3 && members.iter().all(|member| member["live"] == true)
            };
            router.wait_for("three live members", three).await;
            assert_eq!(chosen(router).await, "cheap");
        }
        let routers = routers.try_into().unwrap_or_else(|_| panic!("three"));
        Self { routers, cheap, _dear: dear }
    }

    fn fail_with(&self, code: u16, retry_after: Option<u64>) {
        let retry_after = retry_after.map(|secs| Wait(Duration::from_secs(secs)));
        self.cheap.set_faults(Faults::always(Action::Status { code, retry_after, body: None }).unwrap());
    }
}

async fn chosen(router: &Router) -> String {
    let response = router.chat(hello(SHARED, false), &[]).await;
    assert_eq!(response.status(), 200);
    let backend = header(&response, "x-llm-router-backend").to_owned();
    response.text().await.unwrap();
    backend
}

async fn heeded(router: &Router) -> bool {
    router.metric("llm_router_gossip_outages_total{what=\"heeded\"}").await.is_some_and(|count| count >= 1.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_regions_429_keeps_every_region_away_for_as_long_as_it_was_asked() {
    let fleet = Fleet::start("").await;
    let [a, b, c] = &fleet.routers;
    fleet.fail_with(429, Some(5));
    let throttled = Instant::now();
    assert_eq!(chosen(a).await, "dear", "the throttled request goes on elsewhere");
    // To everybody but the one that was refused, the provider looks as well as ever.
    fleet.cheap.set_faults(Faults::none());
    for router in [b, c] {
        eventually("the news", async || heeded(router).await).await;
    }
    let known_after = throttled.elapsed();
    assert!(known_after < Duration::from_secs(2), "{known_after:?}");
    let before = fleet.cheap.books().received;
    while throttled.elapsed() < Duration::from_millis(4_500) {
        for router in [a, b, c] {
            assert_eq!(chosen(router).await, "dear");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(fleet.cheap.books().received, before, "nobody asked it meanwhile");
    let view = b.view().await;
    let facts = view["facts"].as_array().unwrap();
    assert!(
        facts.iter().any(|fact| fact["topic"] == "outage" && fact["name"] == "cheap" && fact["node"] == "a")
    );
    for router in [a, b, c] {
        eventually("the provider to be used again", async || chosen(router).await == "cheap").await;
    }
    let back_after = throttled.elapsed();
    assert!(back_after < Duration::from_secs(8), "{back_after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_regions_open_breaker_opens_the_others_and_one_trial_closes_all() {
    let fleet = Fleet::start("").await;
    let [a, b, c] = &fleet.routers;
    fleet.fail_with(500, None);
    let before = fleet.cheap.books().received;
    for _ in 0..6 {
        assert_eq!(chosen(a).await, "dear");
    }
    let opened = Instant::now();
    for router in [b, c] {
        eventually("the open breaker", async || {
            let view = router.view().await;
            let guards = view["backends"][0]["own"]["guards"].as_array().cloned().unwrap_or_default();
            guards.iter().any(|guard| {
                guard["breaker"] == "open" && guard["why"].as_str().unwrap().contains("another router")
            })
        })
        .await;
    }
    // All go on asking for longer than a breaker stays open: the outage costs five requests and a trial.
    while opened.elapsed() < Duration::from_millis(7_500) {
        for router in [a, b, c] {
            assert_eq!(chosen(router).await, "dear");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let spent = fleet.cheap.books().received - before;
    assert!((5..=7).contains(&spent), "{spent} requests of three regions went into the outage");
    fleet.cheap.set_faults(Faults::none());
    let back = async || {
        for router in [a, b, c] {
            if chosen(router).await != "cheap" {
                return false;
            }
        }
        true
    };
    let (started, mut all) = (Instant::now(), false);
    while !all && started.elapsed() < Duration::from_secs(25) {
        all = back().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(all, "a good trial of one closes the breakers of all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_told_not_to_heed_outages_goes_by_its_own_requests() {
    let fleet = Fleet::start(", heedOutages: false").await;
    let [a, b, _] = &fleet.routers;
    fleet.fail_with(429, Some(5));
    assert_eq!(chosen(a).await, "dear");
    fleet.cheap.set_faults(Faults::none());
    b.wait_for("the news on the board", |view| {
        let mut facts = view["facts"].as_array().unwrap().iter();
        facts.any(|fact| fact["topic"] == "outage" && fact["node"] == "a")
    })
    .await;
    assert_eq!(chosen(b).await, "cheap");
    assert!(!heeded(b).await);
}
