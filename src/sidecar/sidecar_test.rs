//! The sidecar between a signing client and a llama mock, over real sockets.

use super::{Sidecar, Stats, start};
use crate::config::{HmacKey, SidecarAuth, SidecarConfig};
use crate::mock::testing::{any_port, client, events, eventually, faulty, openai_chat, quick, started};
use crate::mock::{Mock, MockConfig};
use futures_util::StreamExt;
use llm_router_logic::backend::Kind;
use llm_router_logic::money::Money;
use llm_router_logic::sign::sign_v1;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "k7-never-told";
const LABELS: [&str; 3] = [r#"cluster="aws-gpu""#, r#"provider="aws""#, r#"region="us-west-2""#];
const SOON: Duration = Duration::from_secs(2);

fn hmac() -> SidecarAuth {
    SidecarAuth::Hmac { v1: true, keys: vec![HmacKey::new(None, SECRET.into())] }
}

fn config(upstream: String) -> SidecarConfig {
    SidecarConfig {
        listen: any_port(),
        upstream,
        auth: hmac(),
        tls: None,
        cost_per_hour: Money::from_usd(0.378).unwrap(),
        overhead_factor: 1.1,
        provider: "aws".into(),
        region: "us-west-2".into(),
        name: "aws-gpu".into(),
        upstream_api_key: None,
        max_body_bytes: 64 * 1024,
        drain_timeout: Duration::from_secs(25),
    }
}

async fn beside(mock: &Mock) -> Sidecar {
    client();
    start(config(mock.url())).await.unwrap()
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn signed_at(
    sidecar: &Sidecar,
    method: &str,
    path: &str,
    body: &str,
    timestamp: u64,
) -> reqwest::RequestBuilder {
    client()
        .request(method.parse().unwrap(), format!("http://{}{path}", sidecar.addr()))
        .header("X-Timestamp", timestamp)
        .header("X-Signature", sign_v1(SECRET.as_bytes(), timestamp, method, path, body.as_bytes()))
        .header("X-Auth-Type", "hmac-sha256")
        .body(body.to_owned())
}

fn signed(sidecar: &Sidecar, body: &Value) -> reqwest::RequestBuilder {
    signed_at(sidecar, "POST", CHAT, &body.to_string(), unix_now())
}

async fn get(sidecar: &Sidecar, path: &str) -> (u16, String) {
    let response = client().get(format!("http://{}{path}", sidecar.addr())).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// The value of a series that has the sidecar's labels and `label`.
fn series(metrics: &str, name: &str, label: &str) -> Option<f64> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("llm_sidecar_")?.strip_prefix(name));
    let (_, value) = lines
        .filter_map(|rest| rest.strip_prefix('{')?.split_once("} "))
        .find(|(labels, _)| LABELS.iter().all(|own| labels.contains(own)) && labels.contains(label))?;
    value.parse().ok()
}

async fn refused(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert!(!text.contains(SECRET), "{text}");
    let error: Value = serde_json::from_str(&text).unwrap();
    (status, error["error"]["code"].as_str().unwrap().to_owned())
}

async fn stats(sidecar: &Sidecar) -> Stats {
    let response = signed_at(sidecar, "GET", "/stats", "", unix_now()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_signed_request_passes_with_the_servers_own_key() {
    let mock = started(MockConfig { api_key: Some("llama-key".into()), ..quick(Kind::Llama) }).await;
    client();
    let keyed = SidecarConfig { upstream_api_key: Some("llama-key".into()), ..config(mock.url()) };
    let sidecar = start(keyed).await.unwrap();
    let request = signed(&sidecar, &openai_chat("hi", true)).header("authorization", "Bearer the-clients");
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let (lines, whole) = events(response).await;
    assert!(whole);
    assert_eq!(lines.last().unwrap(), "[DONE]");
    assert_eq!((mock.books().requests, mock.books().output_tokens), (1, 12));
}

#[tokio::test]
async fn events_pass_as_they_come_and_end_when_the_server_is_killed() {
    let config = MockConfig { tokens_per_second: 20.0, output_tokens: 1_000_000, ..quick(Kind::Llama) };
    let mock = started(config).await;
    let sidecar = beside(&mock).await;
    let response = signed(&sidecar, &openai_chat("hi", true)).send().await.unwrap();
    let mut chunks = response.bytes_stream();
    let first = tokio::time::timeout(SOON, chunks.next()).await.unwrap().unwrap().unwrap();
    assert!(first.starts_with(b"data: "), "the first event must not wait for the others");
    drop(mock);
    let last = async { while let Some(Ok(_)) = chunks.next().await {} };
    tokio::time::timeout(SOON, last).await.unwrap();
    assert_eq!(sidecar.stats().await.in_flight, 0);
}

#[tokio::test]
async fn bad_stale_replayed_and_unsigned_requests_are_told_why_and_go_no_further() {
    let mock = started(quick(Kind::Llama)).await;
    let sidecar = beside(&mock).await;
    let body = openai_chat("hi", false).to_string();
    let url = format!("http://{}{CHAT}", sidecar.addr());
    assert_eq!(refused(client().post(url).body(body.clone())).await, (401, "unsigned".into()));
    let stale = signed_at(&sidecar, "POST", CHAT, &body, unix_now() - 400);
    assert_eq!(refused(stale).await, (401, "stale".into()));
    let bent = signed_at(&sidecar, "POST", CHAT, &body, unix_now()).body(body.replace("hi", "ho"));
    assert_eq!(refused(bent).await, (401, "bad_signature".into()));
    let moved = signed_at(&sidecar, "POST", "/v1/embeddings", &body, unix_now());
    let moved = moved.build().unwrap();
    let mut elsewhere = signed_at(&sidecar, "POST", CHAT, &body, unix_now()).build().unwrap();
    *elsewhere.headers_mut() = moved.headers().clone();
    assert_eq!(client().execute(elsewhere).await.unwrap().status(), 401, "the path is signed");
    assert_eq!(mock.books().received, 0);

    let timestamp = unix_now();
    let once = || signed_at(&sidecar, "POST", CHAT, &body, timestamp);
    assert_eq!(once().send().await.unwrap().status(), 200);
    assert_eq!(refused(once()).await, (401, "replayed".into()));
    assert_eq!(mock.books().received, 1);
    let (_, metrics) = get(&sidecar, "/metrics").await;
    for (why, count) in [("unsigned", 1.0), ("stale", 1.0), ("bad_signature", 2.0), ("replayed", 1.0)] {
        assert_eq!(series(&metrics, "auth_refused_total", &format!("why=\"{why}\"")), Some(count), "{why}");
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused() {
    let mock = started(quick(Kind::Llama)).await;
    let sidecar = beside(&mock).await;
    let body = openai_chat(&"x".repeat(70_000), false);
    assert_eq!(refused(signed(&sidecar, &body)).await, (413, "too_large".into()));
    assert_eq!(mock.books().received, 0);
}

#[tokio::test]
async fn the_figures_move_with_the_traffic() {
    let pace = MockConfig { ttft: Duration::from_millis(50), tokens_per_second: 200.0, ..quick(Kind::Llama) };
    let mock = started(MockConfig { output_tokens: 40, ..pace }).await;
    let sidecar = beside(&mock).await;
    let before = sidecar.stats().await;
    assert_eq!((before.tokens_per_second, before.latency_p95_ms, before.tokens_total), (None, None, 0));
    assert_eq!((before.slots, before.busy_slots, before.queue_depth), (Some(4), Some(0), Some(0)));
    let (lines, _) = events(signed(&sidecar, &openai_chat("hi", true)).send().await.unwrap()).await;
    assert!(!lines.is_empty());
    let after = stats(&sidecar).await;
    assert_eq!((after.tokens_total, after.in_flight), (40, 0));
    let speed = after.tokens_per_second.unwrap();
    // 40 tokens in 50 ms and 39 pauses of 5 ms make 163 a second; a busy machine is slower.
    assert!((20.0..=165.0).contains(&speed), "{speed}");
    let p95 = after.latency_p95_ms.unwrap();
    assert!((50.0..1_000.0).contains(&p95), "{p95}");
    // A plain answer counts by its own usage and shows its first token by its timings.
    let plain = signed(&sidecar, &openai_chat("hi", false)).send().await.unwrap();
    plain.bytes().await.unwrap();
    eventually(SOON, "the plain answer is counted", || sidecar.app.meter.read().output_tokens == 80).await;
    let (status, metrics) = get(&sidecar, "/metrics").await;
    assert_eq!(status, 200);
    for name in
        ["tokens_per_second", "cost_per_1k_tokens", "queue_depth", "latency_p95_seconds", "cost_per_hour"]
    {
        assert!(series(&metrics, name, "").is_some(), "{name} in\n{metrics}");
    }
    let cost = 0.378 / (series(&metrics, "tokens_per_second", "").unwrap() * 3600.0) * 1.1 * 1000.0;
    assert!((series(&metrics, "cost_per_1k_tokens", "").unwrap() - cost).abs() < 1e-9);
    assert_eq!(series(&metrics, "requests_total", "status=\"200\""), Some(2.0));
    assert_eq!(series(&metrics, "tokens_total", "type=\"output\""), Some(80.0));
    let (_, own) = get(&sidecar, "/upstream/metrics").await;
    assert!(own.contains("llamacpp:tokens_predicted_total 80\n"), "{own}");
}

#[tokio::test]
async fn the_queue_shows_while_the_slots_are_full() {
    let pace =
        MockConfig { slots: 1, tokens_per_second: 50.0, output_tokens: 1_000_000, ..quick(Kind::Llama) };
    let mock = started(pace).await;
    let sidecar = beside(&mock).await;
    let post = |text: &str| tokio::spawn(signed(&sidecar, &openai_chat(text, true)).send());
    let running = [post("one"), post("two"), post("three")];
    eventually(SOON, "one runs and two wait", || mock.books().queued == 2).await;
    let full = stats(&sidecar).await;
    assert_eq!((full.slots, full.busy_slots, full.queue_depth), (Some(1), Some(1), Some(2)));
    assert_eq!(full.in_flight, 3);
    for request in running {
        request.abort();
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_request_at_the_server() {
    for streams in [true, false] {
        let pace =
            MockConfig { slots: 1, tokens_per_second: 50.0, output_tokens: 1_000_000, ..quick(Kind::Llama) };
        let mock = started(pace).await;
        let sidecar = beside(&mock).await;
        let post = |text: &str| tokio::spawn(signed(&sidecar, &openai_chat(text, streams)).send());
        let running = post("one");
        eventually(SOON, "it runs", || mock.books().in_flight == 1).await;
        let queued = post("two");
        eventually(SOON, "it waits", || mock.books().queued == 1).await;
        for request in [queued, running] {
            request.abort();
            // Waits until the response, if there was one, is dropped.
            let _ = request.await;
        }
        eventually(Duration::from_secs(1), "both are cancelled", || mock.books().cancelled == 2).await;
        assert_eq!(sidecar.stats().await.in_flight, 0);
    }
}

#[tokio::test]
async fn health_is_the_servers_own_and_needs_no_signature() {
    let mock = faulty(Kind::Llama, "[{match: {nth: 2}, action: unhealthy}]").await;
    let sidecar = beside(&mock).await;
    assert_eq!(get(&sidecar, "/health").await.0, 200);
    assert_eq!(get(&sidecar, "/health").await.0, 503);
    drop(mock);
    let (status, text) = get(&sidecar, "/health").await;
    assert!(status == 503 && text.contains("cannot be reached"), "{status} {text}");
    assert_eq!(
        refused(signed(&sidecar, &openai_chat("hi", false))).await,
        (503, "upstream_unreachable".into())
    );
    let (_, metrics) = get(&sidecar, "/metrics").await;
    assert_eq!(series(&metrics, "upstream_up", ""), Some(0.0));
    assert_eq!(series(&metrics, "tokens_per_second", ""), None, "unknown has no series");
    assert_eq!(sidecar.stats().await.queue_depth, None);
}

#[tokio::test]
async fn statistics_need_a_signature_and_looks_at_the_server_are_shared() {
    let mock = faulty(Kind::Llama, "[{match: {path: /slots}, action: {slow: {ttft: 0}}}]").await;
    let sidecar = beside(&mock).await;
    let bare = client().get(format!("http://{}/stats", sidecar.addr()));
    assert_eq!(refused(bare).await, (401, "unsigned".into()));
    for _ in 0..3 {
        stats(&sidecar).await;
    }
    assert_eq!(mock.books().faults, 1, "`/slots` was read once for three looks within two seconds");
}

#[tokio::test]
async fn a_stopped_sidecar_lets_running_answers_end() {
    let pace = MockConfig { tokens_per_second: 50.0, output_tokens: 10, ..quick(Kind::Llama) };
    let mock = started(pace).await;
    let sidecar = beside(&mock).await;
    let addr = sidecar.addr();
    let response = signed(&sidecar, &openai_chat("hi", true)).send().await.unwrap();
    let (_, (lines, whole)) = tokio::join!(sidecar.shutdown(), events(response));
    assert!(whole);
    assert_eq!(lines.last().unwrap(), "[DONE]");
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn an_answer_that_outlasts_the_drain_limit_is_cut() {
    let mock = started(MockConfig { tokens_per_second: 1.0, output_tokens: 100, ..quick(Kind::Llama) }).await;
    let brief = SidecarConfig { drain_timeout: Duration::from_millis(50), ..config(mock.url()) };
    client();
    let sidecar = start(brief).await.unwrap();
    let response = signed(&sidecar, &openai_chat("hi", true)).send().await.unwrap();
    let (stopped, (_, whole)) =
        tokio::join!(tokio::time::timeout(SOON, sidecar.shutdown()), events(response));
    assert!(stopped.is_ok());
    assert!(!whole);
}
