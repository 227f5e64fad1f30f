//! `GET /admin/events`: what changes in this node's view, as it happens, as server-sent events.
//!
//! Each reader has a picture of what it was told last; several times a second the view is compared with it, and the
//! differences are sent. So nothing is kept for a reader that is slow: it is told of fewer, later differences,
//! and one that takes no byte for `server.writeTimeout` is let go like any other client.

use super::App;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use llm_router_logic::time::millis;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often the view is compared.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A reader that has been told nothing for this long is sent a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Readers at once.
pub(crate) const READERS_MAX: usize = 16;

/// What a reader knows: the state of each subject, by kind and name.
type Picture = BTreeMap<(&'static str, String), Value>;

struct Reader {
    app: App,
    told: Option<Picture>,
    silent: Duration,
    /// Held for its drop.
    _place: OwnedSemaphorePermit,
}

pub(super) async fn events(State(app): State<App>) -> Response {
    let Ok(place) = Arc::clone(&app.fixed.event_readers).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "as many read the events as may\n").into_response();
    };
    let reader = Reader { app, told: None, silent: Duration::ZERO, _place: place };
    let events = stream::unfold(reader, |mut reader| async move {
        let bytes = reader.next().await;
        Some((Ok::<_, Infallible>(bytes), reader))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Places for readers.
pub(crate) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(READERS_MAX))
}

impl Reader {
    /// What is to be told next: everything at first, then what changed.
    async fn next(&mut self) -> Bytes {
        loop {
            if self.told.is_some() {
                tokio::time::sleep(LOOK_EVERY).await;
                self.silent += LOOK_EVERY;
            }
            let now = picture(&self.app);
            let before = self.told.replace(now.clone()).unwrap_or_default();
            let told: String = differences(&before, &now).iter().map(event).collect();
            if !told.is_empty() || self.silent >= KEEP_ALIVE {
                self.silent = Duration::ZERO;
                return Bytes::from(if told.is_empty() { ": keep-alive\n\n".to_owned() } else { told });
            }
        }
    }
}

/// Everything a reader is told of.
fn picture(app: &App) -> Picture {
    let snapshot = app.handle.snapshot();
    let now = app.handle.clock().now();
    let view = &snapshot.view;
    let mut picture = Picture::new();
    for member in &view.members {
        let state = json!({
            "region": member.region, "generation": member.generation, "live": member.live,
            "leaving": member.leaving, "relays": member.relay.is_some(),
        });
        picture.insert(("member", member.node.to_string()), state);
    }
    for backend in &view.backends {
        let name = backend.spec.id.to_string();
        let health = backend.own.as_ref().map(|own| own.report.health);
        let state = json!({
            "here": health, "alive_anywhere": backend.alive_anywhere(now),
            "via": view.via(backend, now).map(|fact| fact.node.to_string()),
        });
        picture.insert(("health", name.clone()), state);
        for guard in backend.own.iter().flat_map(|own| own.guards.iter()) {
            let note = guard.told(now);
            let state = json!({ "breaker": note.breaker, "why": note.why });
            picture.insert(("breaker", format!("{name}/{}", note.model)), state);
        }
    }
    let why_not = app.readiness.why_not(&app.handle);
    picture
        .insert(("readiness", view.node.to_string()), json!({ "ready": why_not.is_none(), "why": why_not }));
    for result in ["applied", "refused"] {
        let count = app.handle.metrics().config_reloads_total.with_label_values(&[result]).get();
        picture.insert(("reload", result.to_owned()), json!({ "count": count }));
    }
    picture
}

/// What is new or different, and what is gone (`null`).
fn differences(before: &Picture, now: &Picture) -> Vec<(&'static str, String, Value)> {
    let new = now.iter().filter(|(subject, state)| before.get(*subject) != Some(*state));
    let gone = before.keys().filter(|subject| !now.contains_key(*subject));
    let told = |(kind, name): &(&'static str, String), state: Value| (*kind, name.clone(), state);
    let new = new.map(|(subject, state)| told(subject, state.clone()));
    new.chain(gone.map(|subject| told(subject, Value::Null))).collect()
}

fn event((kind, name, state): &(&'static str, String, Value)) -> String {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
    format!("event: {kind}\ndata: {}\n\n", json!({ "at_ms": at, "name": name, "state": state }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told_and_what_is_gone_is_null() {
        let of = |rows: &[(&'static str, &str, u64)]| -> Picture {
            rows.iter().map(|(kind, name, state)| ((*kind, (*name).to_owned()), json!(state))).collect()
        };
        let before = of(&[("member", "a", 1), ("member", "b", 1), ("health", "c", 1)]);
        let now = of(&[("member", "a", 1), ("member", "b", 2), ("breaker", "c/m", 1)]);
        let told = differences(&before, &now);
        let expected = [
            ("breaker", "c/m".to_owned(), json!(1)),
            ("member", "b".to_owned(), json!(2)),
            ("health", "c".to_owned(), Value::Null),
        ];
        assert_eq!(told, expected);
        assert!(differences(&now, &now).is_empty());
        assert!(event(&told[0]).starts_with("event: breaker\ndata: {"));
    }
}
