//! A backend that only one region reaches, used from another through the router there.

use crate::certified::{Place, all_live, free_port, lay_down};
use crate::fixture::{Router, cluster, events, eventually, fast, file, header, hello, json_body, upstream};
use futures_util::StreamExt;
use llm_router::certs::{Authority, Request, days};
use llm_router::identity::{Contents, Identity, IdentityFiles, NodeName};
use llm_router::mock::{Action, Faults, Mock, Wait};
use llm_router_logic::backend::Kind;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Two routers of one cluster, A and B, each of which takes requests of the other.
struct Pair {
    place: Place,
    authority: Authority,
    a: Router,
    b: Router,
}

/// The cluster `private`, which only region B reaches.
fn private(mock: &Mock) -> String {
    cluster("private", mock, 0.05).replace("authType: none", "authType: none, reachedFrom: [region-b]")
}

/// A node's settings, with a relay.
fn relaying(place: &Place, name: &str, port: u16, seed: u16) -> String {
    let yaml = place.node(name, "fleet", port, seed);
    yaml.replace("identity: {", "relay: {listen: \"127.0.0.1:0\"}, identity: {")
}

impl Pair {
    /// `at_a` and `at_b` are the clusters each of them is told of.
    async fn start(at_a: &str, at_b: &str) -> Self {
        let place = Place::new();
        let authority = Authority::new("fleet").unwrap();
        for node in ["a", "b"] {
            lay_down(place.directory.path(), node, &authority, authority.pem());
        }
        let (first, second) = (free_port(), free_port());
        let b = Router::start_unready(&file(&relaying(&place, "b", second, first), at_b, "")).await;
        let a = Router::start_unready(&file(&relaying(&place, "a", first, second), at_a, "")).await;
        all_live(&[&a, &b]).await;
        Self { place, authority, a, b }
    }

    /// Waits until A may use `private` through B.
    async fn ready(&self) {
        self.a
            .wait_for("B to say that it reaches the cluster and relays", |view| {
                let relays = view["members"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|m| m["node"] == "b" && m["relay"].is_string());
                let facts = view["backends"][0]["peers"].as_array().unwrap().iter();
                let reached = facts
                    .into_iter()
                    .any(|fact| fact["health"] == "healthy" && fact["tokens_per_second"].is_f64());
                relays && reached
            })
            .await;
    }

    /// Where B's relay listens, as A knows it.
    async fn relay_of_b(&self) -> String {
        let view = self.a.view().await;
        let members = view["members"].as_array().unwrap();
        members.iter().find(|m| m["node"] == "b").unwrap()["relay"].as_str().unwrap().to_owned()
    }

    /// The identity files of a node, made by `authority`.
    fn files(&self, name: &str) -> IdentityFiles {
        let path = |suffix: &str| -> PathBuf { self.place.path(&format!("{name}{suffix}")) };
        IdentityFiles { cert: path(".pem"), key: path(".key"), ca: path("-ca.pem") }
    }
}

async fn taken(router: &Router, result: &str) -> f64 {
    let series = format!("llm_router_relayed_requests_total{{direction=\"taken\",result=\"{result}\"}}");
    router.metric(&series).await.unwrap_or(0.0)
}

async fn requests(router: &Router) -> u64 {
    let spend = router.admin("/admin/spend").await;
    spend["total"]["requests"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_another_regions_private_network_is_used_through_the_router_there() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let pair = Pair::start(&private(&mock), &private(&mock)).await;
    pair.ready().await;
    assert!(pair.a.view().await["backends"][0]["own"].is_null(), "A never looks at it");
    let before = mock.books().requests;

    let plain = pair.a.chat(hello("tiny", false), &[]).await;
    assert_eq!(plain.status(), 200);
    assert_eq!(header(&plain, "x-llm-router-backend"), "private");
    assert_eq!(header(&plain, "x-llm-router-via"), "b");
    assert_eq!(header(&plain, "x-llm-router-region"), "region-a");
    let decision = header(&plain, "x-llm-router-decision").to_owned();
    let cost = header(&plain, "x-llm-router-cost-usd").to_owned();
    assert_ne!(json_body(plain).await["choices"][0]["message"]["content"], "");

    let stream = pair.a.chat(hello("tiny", true), &[]).await;
    assert_eq!(header(&stream, "x-llm-router-via"), "b");
    let text = stream.text().await.unwrap();
    assert_eq!(events(&text).last().map(String::as_str), Some("[DONE]"));

    // Made once, and booked once, where the client came.
    assert_eq!(mock.books().requests, before + 2);
    eventually("A to book both", async || requests(&pair.a).await == 2).await;
    assert_eq!(requests(&pair.b).await, 0);
    eventually("B to have taken both", async || taken(&pair.b, "served").await == 2.0).await;
    let record = pair.a.admin(&format!("/admin/decisions/{decision}")).await;
    assert_eq!(record["attempts"][0]["via"], "b");
    assert_eq!(record["candidates"][0]["via"], "b");
    assert_eq!(record["outcome"], "served");
    assert!(cost.parse::<f64>().is_ok_and(|cost| cost > 0.0), "{cost}");
    let of_b = pair.b.admin("/admin/decisions").await;
    assert_eq!(of_b["decisions"].as_array().unwrap().len(), 0);
    // B judges its cluster by what came of it, and its figures know of it.
    assert!(pair.b.view().await["backends"][0]["own"]["ttft_ms"].is_u64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_copy_never_goes_through_a_peer() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let near = upstream(fast(Kind::Llama, "near")).await;
    let shadows =
        "shadows:\n  - {name: trial, share: 1.0, backend: private, model: tiny, maxSpendShare: 1000.0}\n";
    let at_a = private(&mock) + &cluster("near", &near, 0.05) + shadows;
    let pair = Pair::start(&at_a, &private(&mock)).await;
    pair.ready().await;
    pair.a.wait_for("the near one", |view| view["backends"][1]["own"]["tokens_per_second"].is_number()).await;
    let before = mock.books().requests;
    let response = pair.a.chat(hello("near", false), &[]).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-llm-router-backend")), (200, "near"));
    let refused = "llm_router_shadow_requests_total{outcome=\"relayed\",shadow=\"trial\"}";
    eventually("the copy to be refused", async || pair.a.metric(refused).await == Some(1.0)).await;
    assert_eq!((mock.books().requests, taken(&pair.b, "served").await), (before, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_is_gone_around_and_used_again_when_it_is_back() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let both = cluster("private", &mock, 0.05);
    // A's own way there is a door of ours in front of the cluster.
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = door.local_addr().unwrap();
    let at_a = both.replace(&mock.url(), &format!("http://{address}"));
    drop(door);
    let pair = Pair::start(&at_a, &both).await;
    pair.a
        .wait_for("A to give up its own way", |view| view["backends"][0]["own"]["health"] == "unhealthy")
        .await;
    pair.ready().await;
    let response = pair.a.chat(hello("tiny", false), &[]).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-llm-router-via")), (200, "b"));

    // The link is back.
    let door = tokio::net::TcpListener::bind(address).await.unwrap();
    let cluster_at = mock.addr();
    let through = tokio::spawn(async move {
        while let Ok((mut near, _)) = door.accept().await {
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(cluster_at).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    pair.a.wait_for("A's own way to be back", |view| view["backends"][0]["own"]["health"] == "healthy").await;
    eventually("A to go its own way again", async || {
        header(&pair.a.chat(hello("tiny", false), &[]).await, "x-llm-router-via").is_empty()
    })
    .await;
    through.abort();
}

/// The decision record of the answer to `response`.
async fn record(router: &Router, response: reqwest::Response) -> Value {
    let decision = header(&response, "x-llm-router-decision").to_owned();
    let _ = response.bytes().await;
    router.admin(&format!("/admin/decisions/{decision}")).await
}

fn tried(record: &Value) -> Vec<&str> {
    let attempts = record["attempts"].as_array().unwrap().iter();
    attempts.map(|attempt| attempt["via"].as_str().unwrap_or("directly")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_cannot_be_reached_is_gone_around_through_the_next_one() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let cluster = cluster("private", &mock, 0.05)
        .replace("authType: none", "authType: none, reachedFrom: [region-b, region-c]")
        .replace("region: r1", "region: region-b");
    let place = Place::new();
    let authority = Authority::new("fleet").unwrap();
    for node in ["a", "b", "c"] {
        lay_down(place.directory.path(), node, &authority, authority.pem());
    }
    let ports = [free_port(), free_port(), free_port()];
    // B takes requests of peers at an address behind which there is nothing.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let of_b = relaying(&place, "b", ports[1], ports[0]).replace(
        "relay: {listen: \"127.0.0.1:0\"",
        &format!("relay: {{listen: \"127.0.0.1:0\", advertise: \"{nowhere}\""),
    );
    let b = Router::start_unready(&file(&of_b, &cluster, "")).await;
    let c = Router::start_unready(&file(&relaying(&place, "c", ports[2], ports[0]), &cluster, "")).await;
    let a = Router::start_unready(&file(&relaying(&place, "a", ports[0], ports[1]), &cluster, "")).await;
    all_live(&[&a, &b, &c]).await;
    a.wait_for("both others to say that they reach it and relay", |view| {
        let members = view["members"].as_array().unwrap().iter();
        let relays = members.filter(|member| member["node"] != "a" && member["relay"].is_string()).count();
        let facts = view["backends"][0]["peers"].as_array().unwrap().iter();
        let reached =
            facts.filter(|fact| fact["health"] == "healthy" && fact["tokens_per_second"].is_f64()).count();
        relays == 2 && reached == 2
    })
    .await;
    let before = mock.books().requests;

    let answers = futures_util::future::join_all((0..4).map(|_| a.chat(hello("tiny", false), &[]))).await;
    for answer in answers {
        assert_eq!((answer.status().as_u16(), header(&answer, "x-llm-router-via")), (200, "c"));
        let record = record(&a, answer).await;
        let tried = tried(&record);
        assert!(tried == ["b", "c"] || tried == ["c"], "{record}");
    }
    // What one request has found out, the next knows at once, whether or not a new view was made.
    let next = a.chat(hello("tiny", true), &[]).await;
    assert_eq!((next.status().as_u16(), header(&next, "x-llm-router-via")), (200, "c"));
    let record = record(&a, next).await;
    assert_eq!(tried(&record), ["c"], "{record}");
    assert_eq!(mock.books().requests, before + 5, "each was asked for once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_finds_its_way_cut_goes_through_a_peer() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let both = cluster("private", &mock, 0.05);
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at_a = both.replace(&mock.url(), &format!("http://{}", door.local_addr().unwrap()));
    let cluster_at = mock.addr();
    let through = tokio::spawn(async move {
        while let Ok((mut near, _)) = door.accept().await {
            let mut far = tokio::net::TcpStream::connect(cluster_at).await.unwrap();
            // A connection for one request each: none is left to go on when the door is shut.
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    });
    let pair = Pair::start(&at_a, &both).await;
    pair.ready().await;
    pair.a.wait_for("A's own way", |view| view["backends"][0]["own"]["health"] == "healthy").await;
    through.abort();
    let _ = through.await;

    let response = pair.a.chat(hello("tiny", false), &[]).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-llm-router-via")), (200, "b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_cancels_the_upstream_behind_the_peer() {
    let mut config = fast(Kind::Llama, "tiny");
    config.tokens_per_second = 20.0;
    config.output_tokens = 2_000;
    let mock = upstream(config).await;
    let pair = Pair::start(&private(&mock), &private(&mock)).await;
    pair.ready().await;
    let cancelled = mock.books().cancelled;
    let response = pair.a.chat(hello("tiny", true), &[]).await;
    let mut body = response.bytes_stream();
    let first = body.next().await.unwrap().unwrap();
    assert!(!first.is_empty(), "it streams before its end");
    let left = Instant::now();
    drop(body);
    eventually("the upstream to be cancelled", async || mock.books().cancelled == cancelled + 1).await;
    assert!(left.elapsed() < Duration::from_secs(2), "after {:?}", left.elapsed());
    eventually("B's place to be free", async || pair.b.view().await["backends"][0]["own"]["in_flight"] == 0)
        .await;
    eventually("A to book what was seen", async || requests(&pair.a).await == 1).await;

    // A deadline is kept behind the peer too.
    let started = Instant::now();
    let late = pair.a.chat(hello("tiny", true), &[("x-llm-router-deadline-ms", "700")]).await;
    let text = late.text().await.unwrap();
    assert!(text.contains("deadline"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(3));
    eventually("the upstream to be cancelled", async || mock.books().cancelled == cancelled + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_dies_behind_the_peer_is_a_fault_like_any_other() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let pair = Pair::start(&private(&mock), &private(&mock)).await;
    pair.ready().await;
    drop(mock);
    // The cluster is gone: B finds out, and says so as a fault of the attempt.
    let response = pair.a.chat(hello("tiny", false), &[]).await;
    assert!(matches!(response.status().as_u16(), 502 | 503), "{}", response.status());
    let error = json_body(response).await.to_string();
    assert!(error.contains("private"), "{error}");
    pair.a
        .wait_for("A to hear of it", |view| {
            view["backends"][0]["peers"].as_array().unwrap().iter().all(|fact| fact["health"] == "unhealthy")
        })
        .await;
    let refused = pair.a.chat(hello("tiny", false), &[]).await;
    assert_eq!(refused.status(), 503);
    let told = json_body(refused).await.to_string();
    assert!(told.contains("region-b"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_429_behind_the_peer_is_told_with_its_wait_and_the_wait_is_kept() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let pair = Pair::start(&private(&mock), &private(&mock)).await;
    pair.ready().await;
    let wait = Some(Wait(Duration::from_secs(7)));
    mock.set_faults(Faults::always(Action::Status { code: 429, retry_after: wait, body: None }).unwrap());
    let limited = pair.a.chat(hello("tiny", false), &[]).await;
    assert_eq!(limited.status(), 429);
    assert_eq!(header(&limited, "retry-after"), "7");
    mock.set_faults(Faults::none());
    pair.a
        .wait_for("A to hear of the wait", |view| {
            view["backends"][0]["peers"][0]["backoff_ms"].as_u64().is_some_and(|left| left > 0)
        })
        .await;
    let before = mock.books().requests;
    let refused = pair.a.chat(hello("tiny", false), &[]).await;
    assert_eq!(refused.status(), 503);
    assert!((1..=7).contains(&header(&refused, "retry-after").parse::<u64>().unwrap()));
    assert_eq!(mock.books().requests, before, "nobody asked it again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_relayed_twice() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    // Neither of them reaches it, and both relay: a request must not go back and forth.
    let nobody =
        cluster("private", &mock, 0.05).replace("authType: none", "authType: none, reachedFrom: [region-c]");
    let pair = Pair::start(&nobody, &nobody).await;
    let response = pair.a.chat(hello("tiny", false), &[]).await;
    assert_eq!(response.status(), 503);
    let told = json_body(response).await.to_string();
    assert!(told.contains("region-c"), "{told}");
    assert_eq!(mock.books().requests, 0);

    // The receiver refuses it as well, whatever a peer believes.
    let relay = pair.relay_of_b().await;
    let name = NodeName { cluster: "fleet".to_owned(), node: "a".into() };
    let identity = Identity::new(&Contents::read(&pair.files("a")).unwrap(), &name).unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(identity.client_config(b"h2").unwrap())
        .build()
        .unwrap();
    let ask = async |backend: &str, path: &str, hops: &str| {
        let response = client
            .post(format!("https://{relay}/relay/v1/{backend}"))
            .header("x-llm-router-relay-path", path)
            .header("x-llm-router-relay-model", "tiny")
            .header("x-llm-router-relay-hops", hops)
            .body("{}")
            .send()
            .await
            .unwrap();
        response.status().as_u16()
    };
    let chat = "/v1/chat/completions";
    assert_eq!(ask("private", chat, "2").await, 508);
    assert_eq!(ask("private", chat, "").await, 508);
    assert_eq!(ask("private", chat, "1").await, 503, "B does not reach it itself");
    assert_eq!(ask("nobody", chat, "1").await, 503);
    assert_eq!(mock.books().requests, 0);
    assert_eq!(taken(&pair.b, "loop").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_relays_door_are_refused_and_counted() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let pair = Pair::start(&private(&mock), &private(&mock)).await;
    pair.ready().await;
    let relay = pair.relay_of_b().await;
    let foreign = Authority::new("fleet").unwrap();
    let (now, day) = (SystemTime::now(), days(1));
    let request = |node: &str| Request { node: node.to_owned(), valid: day, dns: Vec::new(), ip: Vec::new() };
    let strangers = [
        ("certificate_missing", None),
        ("certificate_foreign", Some(foreign.issue(&request("a")).unwrap())),
        (
            "certificate_expired",
            Some(pair.authority.issue_between(&request("a"), "fleet", now - day * 2, now - day).unwrap()),
        ),
        (
            "certificate_cluster",
            Some(pair.authority.issue_between(&request("a"), "other", now - day, now + day).unwrap()),
        ),
    ];
    for (why, issued) in strangers {
        let mut builder = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
        if let Some(issued) = issued {
            let pem = format!("{}\n{}", issued.cert, issued.key);
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        let asked = builder.build().unwrap().post(format!("https://{relay}/relay/v1/private")).body("{}");
        assert!(asked.send().await.is_err(), "{why}");
        let series = format!("llm_router_relay_refused_total{{why=\"{why}\"}}");
        eventually(why, async || pair.b.metric(&series).await == Some(1.0)).await;
    }
    let good = pair.a.chat(hello("tiny", false), &[]).await;
    assert_eq!(header(&good, "x-llm-router-via"), "b");
}

/// The first message of a client that speaks TLS 1.2 and nothing newer (RFC 5246, 7.4.1.2).
fn hello_of_tls_1_2() -> Vec<u8> {
    // Signature algorithms and groups that every server takes; without `supported_versions` it is 1.2.
    let extensions = [0, 13, 0, 6, 0, 4, 4, 3, 8, 4, 0, 10, 0, 4, 0, 2, 0, 23];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_no_newer_tls_than_1_2_is_refused_at_the_relays_door() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let pair = Pair::start(&private(&mock), &private(&mock)).await;
    pair.ready().await;
    let mut line = tokio::net::TcpStream::connect(pair.relay_of_b().await).await.unwrap();
    line.write_all(&hello_of_tls_1_2()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), line.read_to_end(&mut answer)).await.unwrap().unwrap();
    // A fatal alert, `protocol_version` (70), and the end of the connection.
    assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{answer:?}");
    let series = "llm_router_relay_refused_total{why=\"handshake\"}";
    eventually("the refusal to be counted", async || pair.b.metric(series).await == Some(1.0)).await;
    assert_eq!(pair.a.chat(hello("tiny", false), &[]).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificates_cost_no_relayed_request() {
    let mut config = fast(Kind::Llama, "tiny");
    config.tokens_per_second = 100.0;
    config.output_tokens = 60;
    let mock = upstream(config).await;
    let pair = Pair::start(&private(&mock), &private(&mock)).await;
    pair.ready().await;
    let running = pair.a.chat(hello("tiny", true), &[]).await;
    let new = Authority::new("fleet").unwrap();
    let both = format!("{}{}", pair.authority.pem(), new.pem());
    let steps: [(&Authority, &str); 3] = [(&pair.authority, &both), (&new, &both), (&new, new.pem())];
    for (issuer, trusted) in steps {
        for node in ["a", "b"] {
            lay_down(pair.place.directory.path(), node, issuer, trusted);
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(2_500) {
            let response = pair.a.chat(hello("tiny", false), &[]).await;
            assert_eq!((response.status().as_u16(), header(&response, "x-llm-router-via")), (200, "b"));
        }
    }
    let text = running.text().await.unwrap();
    assert_eq!(events(&text).last().map(String::as_str), Some("[DONE]"), "the stream of before went on");
    let lost: Value = pair.a.admin("/admin/spend").await;
    assert_eq!(lost["total"]["errors"], 0);
}
