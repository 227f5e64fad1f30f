//! What the mock's tests share: quick mocks, a client, and waiting with a deadline.

use super::{Faults, Mock, MockConfig, start};
use futures_util::StreamExt;
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;
use tokio::time::Instant;

static PROVIDER: Once = Once::new();

/// A mock that answers at once.
pub(crate) fn quick(kind: Kind) -> MockConfig {
    MockConfig { ttft: Duration::ZERO, tokens_per_second: 0.0, output_tokens: 12, ..MockConfig::new(kind) }
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) async fn started(config: MockConfig) -> Mock {
    start(any_port(), config, Faults::none()).await.unwrap()
}

pub(crate) async fn faulty(kind: Kind, rules: &str) -> Mock {
    start(any_port(), quick(kind), Faults::parse(rules).unwrap()).await.unwrap()
}

pub(crate) fn client() -> reqwest::Client {
    PROVIDER.call_once(|| {
        // Refused only where another test of this binary was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Sends a POST with the headers every dialect's test mock accepts.
pub(crate) async fn send(mock: &Mock, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
    client().post(format!("{}{path}", mock.url())).body(body.to_string()).send().await
}

pub(crate) async fn post(mock: &Mock, path: &str, body: &Value) -> (u16, Value) {
    let response = send(mock, path, body).await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub(crate) async fn get(mock: &Mock, path: &str) -> (u16, String) {
    let response = client().get(format!("{}{path}", mock.url())).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// The data of each event of a stream, and whether its body ended in good form.
pub(crate) async fn events(response: reqwest::Response) -> (Vec<String>, bool) {
    let (mut text, mut whole) = (String::new(), true);
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    (data.map(|line| line.trim_end().to_owned()).collect(), whole)
}

/// The events of a stream as JSON, end markers left out.
pub(crate) async fn stream(mock: &Mock, path: &str, body: &Value) -> Vec<Value> {
    let response = send(mock, path, body).await.unwrap();
    assert_eq!(response.status(), 200);
    let (events, whole) = events(response).await;
    assert!(whole);
    events
        .iter()
        .filter(|event| *event != "[DONE]")
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

/// Waits until `condition` holds; fails after `limit`.
pub(crate) async fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn openai_chat(prompt: &str, stream: bool) -> Value {
    json!({"model": "gpt-4o-mini", "stream": stream, "messages": [{"role": "user", "content": prompt}]})
}
