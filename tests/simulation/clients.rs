//! Simulated clients, and the marks by which an answer's text tells where it came from.

use crate::fleet::Fleet;
use crate::history::{End, Event, Piece};
use crate::network::Host;
use crate::randomness::Draws;
use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;
use tower::ServiceExt;

/// What a client gives the router for an answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
const MARK: &str = "sim-request-";
/// What a backend's text stands behind, in an OpenAI message or chunk.
const CONTENT: &str = "\"content\":\"";

/// Puts `[a<attempt>.<nth>]` before each piece of text in a backend's bytes.
pub(crate) fn tagged(bytes: &Bytes, attempt: u64, nth: &mut u64) -> Bytes {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.clone() };
    let mut tagged = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some(at) = rest.find(CONTENT) {
        let (before, after) = rest.split_at(at + CONTENT.len());
        tagged.push_str(before);
        if !after.starts_with('"') {
            tagged.push_str(&format!("[a{attempt}.{nth}]"));
            *nth += 1;
        }
        rest = after;
    }
    tagged.push_str(rest);
    Bytes::from(tagged)
}

/// The marks in a text, in order.
pub(crate) fn pieces(text: &str) -> Vec<Piece> {
    let marks = text.split("[a").skip(1).filter_map(|rest| rest.split_once(']'));
    let parsed = marks.filter_map(|(mark, _)| {
        let (attempt, nth) = mark.split_once('.')?;
        Some(Piece { attempt: attempt.parse().ok()?, nth: nth.parse().ok()? })
    });
    parsed.collect()
}

/// The request a backend's incoming body belongs to; `None` for a measurement of the router's own.
pub(crate) fn request_of(body: &Bytes) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(MARK)?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// One request from start to end, told to the history.
pub(crate) async fn ask(fleet: Fleet, request: u64, node: usize, mut draws: Draws) {
    let deadline_ms = DEADLINE.as_millis() as u64;
    fleet.history.note(Event::Sent { request, node, deadline_ms });
    let stream = draws.chance(0.7);
    let leaves_after = draws.chance(0.05).then(|| Duration::from_millis(draws.between(10, 4_000)));
    let mut text = String::new();
    let exchange = exchange(&fleet, request, node, stream, &mut text);
    let left = async {
        match leaves_after {
            Some(after) => sleep(after).await,
            None => std::future::pending().await,
        }
    };
    let host = Host::Node(node);
    let life = fleet.network.life(host);
    let end = tokio::select! {
        biased;
        () = fleet.network.gone(host, life) => End::RouterDown,
        () = left => End::Left,
        end = exchange => end,
    };
    fleet.history.note(Event::Ended { request, end, pieces: pieces(&text) });
}

async fn exchange(fleet: &Fleet, request: u64, node: usize, stream: bool, text: &mut String) -> End {
    fleet.network.thawed(Host::Node(node)).await;
    let Some(routes) = fleet.routes(node) else { return End::RouterDown };
    let body = json!({
        "model": "tiny",
        "stream": stream,
        "max_tokens": 12,
        "messages": [{"role": "user", "content": format!("{MARK}{request} tell me something")}],
    });
    let request = Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .header("x-llm-router-deadline-ms", DEADLINE.as_millis().to_string())
        .body(Body::from(body.to_string()))
        .unwrap();
    let Ok(response) = routes.oneshot(request).await;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        fleet.network.thawed(Host::Node(node)).await;
        match frame {
            Ok(frame) => {
                let bytes = frame.into_data().unwrap_or_default();
                text.push_str(std::str::from_utf8(&bytes).unwrap_or("\u{0}"));
            }
            Err(_) => return End::Truncated,
        }
    }
    judged(status, stream, text)
}

/// How a body that has ended looks to a client.
fn judged(status: u16, stream: bool, text: &str) -> End {
    let typed = |value: &Value| value["error"]["message"].is_string() && value["error"]["type"].is_string();
    if status != 200 {
        let refusal = serde_json::from_str(text).is_ok_and(|value: Value| typed(&value));
        return if refusal { End::Refused(status) } else { End::Unreadable };
    }
    if !stream {
        return match serde_json::from_str::<Value>(text) {
            Ok(value) if value["choices"][0]["finish_reason"].is_string() => End::Complete,
            _ => End::Unreadable,
        };
    }
    let events: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    let parsed: Vec<Option<Value>> = events.iter().map(|event| serde_json::from_str(event).ok()).collect();
    if parsed.iter().flatten().any(typed) {
        return End::Refused(status);
    }
    let Some((&"[DONE]", before)) = events.split_last() else { return End::Truncated };
    let finished = parsed.iter().flatten().any(|value| value["choices"][0]["finish_reason"].is_string());
    if before.len() + 1 == events.len() && finished { End::Complete } else { End::Truncated }
}
