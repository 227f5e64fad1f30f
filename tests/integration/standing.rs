//! Prices that change, machines that are taken away and clusters scaled to zero, through real nodes.

use crate::fixture::{
    Router, TOKEN, cluster, eventually, fast, file, header, hello, provider, settings, upstream,
};
use axum::routing::post;
use llm_router::mock::{self, Faults};
use llm_router_logic::backend::Kind;
use llm_router_logic::webhook::signature;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHARED: &str = "shared";

fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn gossiping(name: &str, port: u16, seed: u16) -> String {
    format!(
        "node: {{name: {name}, region: {name}}}\nrouter: {{routingStrategy: cost, healthCheckInterval: 2s}}\n\
         gossip: {{listen: \"127.0.0.1:{port}\", seeds: [\"127.0.0.1:{seed}\"]}}"
    )
}

impl Router {
    async fn say(&self, method: &str, path: &str, body: Value) -> u16 {
        let url = format!("http://{}{path}", self.node.admin_addr().unwrap());
        let request = self.client.request(method.parse().unwrap(), url).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json").body(body.to_string());
        request.send().await.unwrap().status().as_u16()
    }

    async fn chosen(&self) -> String {
        let response = self.chat(hello(SHARED, false), &[]).await;
        let backend = header(&response, "x-llm-router-backend").to_owned();
        response.text().await.unwrap();
        backend
    }

    async fn backend(&self, name: &str) -> Value {
        let view = self.view().await;
        view["backends"].as_array().unwrap().iter().find(|backend| backend["name"] == name).unwrap().clone()
    }
}

/// Two nodes over the same cheap cluster and the same provider.
async fn pair(spot: &str) -> (Router, Router, [mock::Mock; 2], Vec<String>) {
    let (llama, openai) =
        (upstream(fast(Kind::Llama, SHARED)).await, upstream(fast(Kind::OpenAi, SHARED)).await);
    let (one, other) = (free_port(), free_port());
    let own = cluster("own", &llama, 0.05).replace("authType", &format!("{spot}authType"));
    let yaml = [("a", one, other), ("b", other, one)].map(|(name, port, seed)| {
        file(&gossiping(name, port, seed), &own, &provider("api", &openai, SHARED))
    });
    let (a, b) = (Router::start(&yaml[0]).await, Router::start(&yaml[1]).await);
    for router in [&a, &b] {
        router.wait_for("each other", |view| view["members"].as_array().unwrap().len() == 2).await;
        assert_eq!(router.chosen().await, "own");
    }
    (a, b, [llama, openai], yaml.to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_said_to_one_node_or_changed_by_a_reload_moves_the_decisions_of_all() {
    let (a, b, _mocks, yaml) = pair("").await;
    assert_eq!(a.say("POST", "/admin/backends/own/price", json!({"cost_per_hour": 500.0})).await, 202);
    for router in [&a, &b] {
        eventually("the dear cluster to be left", async || router.chosen().await == "api").await;
        let own = router.backend("own").await;
        assert_eq!((own["cost_per_hour_usd"].as_f64(), &own["price_said"]), (Some(500.0), &json!(true)));
        assert!(own["average_cost_per_1k_usd"].as_f64().unwrap() > 0.01);
        assert_eq!(own["marginal_cost_per_1k_usd"].as_f64(), Some(0.0), "its hour is paid all the same");
        let series = "llm_router_backend_price_per_hour_usd{backend=\"own\"}";
        assert_eq!(router.metric(series).await, Some(500.0));
    }
    assert_eq!(b.say("POST", "/admin/backends/own/price", json!({"cost_per_hour": null})).await, 202);
    for router in [&a, &b] {
        eventually("the configured price", async || router.chosen().await == "own").await;
    }
    // One node reads a new file; the other follows before it does.
    b.node.reconfigure(settings(&yaml[1].replace("costPerHour: 0.05", "costPerHour: 400"))).await.unwrap();
    for router in [&a, &b] {
        eventually("the reloaded price", async || router.chosen().await == "api").await;
    }
    for (path, body, status) in [
        ("/admin/backends/nobody/price", json!({"cost_per_hour": 1}), 404),
        ("/admin/backends/api/price", json!({"cost_per_hour": 1}), 400),
        ("/admin/backends/own/price", json!({"cost_per_hour": -1}), 400),
        ("/admin/backends/own/preempt", json!({"in_seconds": -1}), 400),
        ("/admin/backends/own/preempt", json!({"when": 1}), 400),
    ] {
        assert_eq!(a.say("POST", path, body).await, status, "{path}");
    }
    let url = format!("http://{}/admin/backends/own/price", a.node.admin_addr().unwrap());
    assert_eq!(a.client.post(url).body("{}").send().await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preempted_cluster_gets_nothing_that_would_not_end_and_running_streams_go_on() {
    let mut slow = fast(Kind::Llama, SHARED);
    slow.tokens_per_second = 20.0;
    slow.output_tokens = 40;
    let (llama, openai) = (upstream(slow).await, upstream(fast(Kind::OpenAi, SHARED)).await);
    let more = "router: {routingStrategy: cost, costBasis: marginal, healthCheckInterval: 2s}";
    let router =
        Router::start(&file(more, &cluster("own", &llama, 0.001), &provider("api", &openai, SHARED))).await;
    let running = router.chat(hello(SHARED, true), &[]).await;
    assert_eq!(header(&running, "x-llm-router-backend"), "own");
    assert_eq!(router.say("POST", "/admin/backends/own/preempt", json!({"in_seconds": 1.5})).await, 202);
    eventually("the notice", async || router.chosen().await == "api").await;
    let latest = &router.admin("/admin/decisions?limit=1").await["decisions"][0];
    assert_eq!(latest["refused"][0][1]["why"], "preempted");
    assert!(router.backend("own").await["preempted_in_ms"].is_u64());
    assert!(running.text().await.unwrap().ends_with("data: [DONE]\n\n"), "what runs there goes on");
    assert_eq!(router.chosen().await, "api", "after its end it is gone, well or not");
    assert_eq!(router.say("DELETE", "/admin/backends/own/preempt", json!({})).await, 202);
    eventually("the notice to be taken back", async || router.chosen().await == "own").await;
    assert!(router.backend("own").await["preempted_in_ms"].is_null());
    assert_eq!(router.metric("llm_router_backend_preempted_in_seconds{backend=\"own\"}").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_file_tells_price_and_end_to_all_nodes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spot.json");
    let (a, b, _mocks, _) = pair(&format!("spot: {{noticeFile: \"{}\"}}, ", path.display())).await;
    std::fs::write(&path, r#"{"cost_per_hour": 500}"#).unwrap();
    for router in [&a, &b] {
        eventually("the price of the file", async || router.chosen().await == "api").await;
    }
    std::fs::write(&path, r#"{"action": "terminate", "time": "2001-01-01T00:00:00Z"}"#).unwrap();
    for router in [&a, &b] {
        // Long past and the machine is well: the notice did not come true.
        eventually("the price to be as configured", async || router.chosen().await == "own").await;
    }
    std::fs::write(&path, r#"{"preempt_at": "REPLACED"}"#.replace("REPLACED", &soon())).unwrap();
    for router in [&a, &b] {
        eventually("the end of the file", async || router.chosen().await == "api").await;
    }
    std::fs::remove_file(&path).unwrap();
    for router in [&a, &b] {
        eventually("no file, no notice", async || router.chosen().await == "own").await;
    }
}

/// The shortest of three times from `say` to the moment both routers decide as `expected`, and back by `unsay`: what
/// a busy machine adds is no part of it.
async fn changes_within(
    routers: [&Router; 2],
    say: impl AsyncFn(),
    expected: &str,
    unsay: impl AsyncFn(),
    otherwise: &str,
) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let started = std::time::Instant::now();
        say().await;
        for router in routers {
            eventually("the decision to change", async || router.chosen().await == expected).await;
        }
        shortest = shortest.min(started.elapsed());
        unsay().await;
        for router in routers {
            eventually("the decision to change back", async || router.chosen().await == otherwise).await;
        }
    }
    shortest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spot_price_or_a_notice_changes_the_decision_of_every_node_within_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spot.json");
    let (a, b, _mocks, _) = pair(&format!("spot: {{noticeFile: \"{}\"}}, ", path.display())).await;
    let both = [&a, &b];
    let price = "/admin/backends/own/price";
    let call = async |method: &str, path: &str, body: Value| assert_eq!(a.say(method, path, body).await, 202);
    let by_call = changes_within(
        both,
        async || call("POST", price, json!({"cost_per_hour": 500.0})).await,
        "api",
        async || call("POST", price, json!({"cost_per_hour": null})).await,
        "own",
    );
    let by_call = by_call.await;
    let preempted = "/admin/backends/own/preempt";
    let by_notice = changes_within(
        both,
        async || call("POST", preempted, json!({"in_seconds": 0.001})).await,
        "api",
        async || call("DELETE", preempted, json!({})).await,
        "own",
    );
    let by_notice = by_notice.await;
    let by_file = changes_within(
        both,
        async || std::fs::write(&path, r#"{"cost_per_hour": 500}"#).unwrap(),
        "api",
        async || std::fs::remove_file(&path).unwrap(),
        "own",
    );
    let by_file = by_file.await;
    let second = Duration::from_secs(1);
    assert!(
        by_call < second && by_notice < second && by_file < second,
        "{by_call:?} {by_notice:?} {by_file:?}"
    );
}

fn soon() -> String {
    humantime::format_rfc3339_millis(std::time::SystemTime::now() + Duration::from_millis(1)).to_string()
}

/// A receiver of calls that remembers them.
async fn bell() -> (String, Arc<Mutex<Vec<Value>>>) {
    let calls: Arc<Mutex<Vec<Value>>> = Arc::default();
    let heard = Arc::clone(&calls);
    let ring = async move |headers: http::HeaderMap, body: String| {
        let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
        let stamp = header("x-llm-router-timestamp").parse().unwrap();
        let wanted = format!("v1={}", signature(b"bell-secret", stamp, body.as_bytes()));
        assert_eq!(header("x-llm-router-signature"), wanted);
        heard.lock().unwrap().push(serde_json::from_str(&body).unwrap());
        "ok"
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/wake", listener.local_addr().unwrap());
    let app = axum::Router::new().route("/wake", post(ring));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, calls)
}

fn sleeper(port: u16, url: &str, cold_start: &str) -> String {
    format!(
        "  - {{name: gpu, endpoint: \"http://127.0.0.1:{port}\", region: r1, provider: aws, costPerHour: 0.001, \
         authType: none, models: [{SHARED}], scaleToZero: {{coldStart: {cold_start}, demandWindow: 5s, \
         tokensPerSecond: 500, wakeUrl: \"{url}\", wakeSecret: bell-secret}}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_wake_a_cold_cluster_once_and_overflow_until_it_is_warm() {
    let openai = upstream(fast(Kind::OpenAi, SHARED)).await;
    let (url, calls) = bell().await;
    let (gpu, one, other) = (free_tcp_port(), free_port(), free_port());
    let yaml = |name, port, seed| {
        file(&gossiping(name, port, seed), &sleeper(gpu, &url, "20s"), &provider("api", &openai, SHARED))
    };
    let a = Router::start_unready(&yaml("a", one, other)).await;
    let b = Router::start_unready(&yaml("b", other, one)).await;
    for router in [&a, &b] {
        router
            .wait_for("a cold cluster and its peer", |view| {
                view["members"].as_array().unwrap().len() == 2
                    && view["backends"][0]["warmth"]["state"] == "cold"
                    && view["backends"][1]["own"]["health"] == "healthy"
            })
            .await;
    }
    assert_eq!(a.demand().await, Some(0.0));
    let asked = tokio::join!(a.chosen(), b.chosen());
    assert_eq!(asked, ("api".to_owned(), "api".to_owned()), "it overflows meanwhile");
    let latest = &a.admin("/admin/decisions?limit=1").await["decisions"][0];
    assert_eq!(latest["wanted"], "gpu");
    assert!(["cold", "waking"].contains(&latest["refused"][0][1]["why"].as_str().unwrap()));
    for router in [&a, &b] {
        eventually("demand", async || router.demand().await.unwrap() >= 1.0).await;
        let view = router.wait_for("waking", |view| view["backends"][0]["warmth"]["state"] == "waking").await;
        assert!(view["backends"][0]["warmth"]["ready_in_ms"].as_u64().unwrap() <= 20_000);
        let open = router.metric("llm_router_backend_breaker_open{backend=\"gpu\"}").await;
        assert!(open.is_none_or(|open| open == 0.0), "asleep is not ill");
    }
    eventually("the call", async || !calls.lock().unwrap().is_empty()).await;
    let listen = SocketAddr::from(([127, 0, 0, 1], gpu));
    let machine = mock::start(listen, fast(Kind::Llama, SHARED), Faults::none()).await.unwrap();
    for router in [&a, &b] {
        eventually("the machine to serve", async || router.chosen().await == "gpu").await;
        let series = "llm_router_cluster_warmth{backend=\"gpu\",state=\"warm\"}";
        eventually("the metric", async || router.metric(series).await == Some(1.0)).await;
    }
    let heard = calls.lock().unwrap().clone();
    assert_eq!(heard.len(), 1, "one region woke it: {heard:?}");
    assert_eq!((&heard[0]["event"], &heard[0]["backend"]), (&json!("wake"), &json!("gpu")));
    // Demand holds while it serves, falls to nothing when idle, and then the machine may go.
    assert!(a.demand().await.unwrap() >= 1.0);
    eventually("idleness", async || a.demand().await == Some(0.0)).await;
    machine.shutdown().await;
    a.wait_for("sleep", |view| view["backends"][0]["warmth"]["state"] == "cold").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_else_serves_a_request_waits_for_the_machine_or_is_told_when_it_comes() {
    let (url, calls) = bell().await;
    let gpu = free_tcp_port();
    let router = Router::start_unready(&file("", &sleeper(gpu, &url, "30s"), "")).await;
    router.wait_for("a cold cluster", |view| view["backends"][0]["warmth"]["state"] == "cold").await;
    let hurried = router.chat(hello(SHARED, false), &[("x-llm-router-deadline-ms", "2000")]).await;
    assert_eq!(hurried.status(), 503);
    let wait: u64 = header(&hurried, "retry-after").parse().unwrap();
    assert!((25..=30).contains(&wait), "the time it takes to come, not {wait}");
    let waiting = tokio::spawn({
        let (client, url) = (router.client.clone(), format!("{}/v1/chat/completions", router.url));
        let request = client.post(url).header("content-type", "application/json");
        request.body(hello(SHARED, false).to_string()).send()
    });
    eventually("the call", async || !calls.lock().unwrap().is_empty()).await;
    let listen = SocketAddr::from(([127, 0, 0, 1], gpu));
    let _machine = mock::start(listen, fast(Kind::Llama, SHARED), Faults::none()).await.unwrap();
    let served = waiting.await.unwrap().unwrap();
    assert_eq!(served.status(), 200);
    assert_eq!(header(&served, "x-llm-router-backend"), "gpu");
    let latest = &router.admin("/admin/decisions?limit=1").await["decisions"][0];
    assert!(latest["waited_ms"].as_u64().unwrap() > 0);
    assert_eq!(calls.lock().unwrap().len(), 1);
}

fn free_tcp_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Router {
    async fn demand(&self) -> Option<f64> {
        self.metric("llm_router_cluster_demand{backend=\"gpu\"}").await
    }
}
