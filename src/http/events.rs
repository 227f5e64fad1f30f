//! `GET /admin/events`: what changes in this node's view, as it happens, as server-sent events.
//!
//! A task per reader compares the view with what it saw last, several times a second, and hands the differences to the
//! reader's stream, which holds a few of them. Of a slow reader what does not fit is counted and not kept: it is
//! told how many changes it missed (`missed`), and then how things are now. One that takes no byte for
//! `server.writeTimeout` is let go like any other client.

use super::App;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use llm_router_logic::backend::Placement;
use llm_router_logic::time::millis;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// How often the view is compared.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A reader that has been told nothing for this long is sent a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Readers at once.
pub(crate) const READERS_MAX: usize = 16;

/// Batches of events that wait for one reader.
const WAITING_MAX: usize = 16;

/// What a reader knows: the state of each subject, by kind and name.
type Picture = BTreeMap<(&'static str, String), Value>;

pub(super) async fn events(State(app): State<App>) -> Response {
    let Ok(place) = Arc::clone(&app.fixed.event_readers).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "as many read the events as may\n").into_response();
    };
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tokio::spawn(watch(app, sender, place));
    let events = stream::unfold(receiver, |mut receiver| async move {
        let bytes: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(bytes), receiver))
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

/// Tells one reader what changes until it is gone. `_place` is held for its drop.
async fn watch(app: App, reader: mpsc::Sender<Bytes>, _place: OwnedSemaphorePermit) {
    let mut told = Told::default();
    let mut silent = Duration::ZERO;
    loop {
        match told.look(picture(&app), reader.capacity() > 0) {
            Some(text) => {
                silent = Duration::ZERO;
                // There is room: nobody else sends.
                let _ = reader.try_send(Bytes::from(text));
            }
            None if silent >= KEEP_ALIVE => {
                silent = Duration::ZERO;
                let _ = reader.try_send(Bytes::from_static(b": keep-alive\n\n"));
            }
            None => silent += LOOK_EVERY,
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = reader.closed() => return,
        }
    }
}

/// What a reader was told, and what it missed.
#[derive(Default)]
struct Told {
    told: Picture,
    /// As it was looked at last, told or not.
    seen: Picture,
    missed: usize,
}

impl Told {
    /// The events of what changed; `None` where nothing did or the reader has no room, which is counted.
    fn look(&mut self, now: Picture, has_room: bool) -> Option<String> {
        if !has_room {
            self.missed += differences(&self.seen, &now).len();
            self.seen = now;
            return None;
        }
        let changes = differences(&self.told, &now);
        let missed = std::mem::take(&mut self.missed);
        let mut text = String::new();
        if missed > 0 {
            text.push_str(&event(&("missed", "changes".to_owned(), json!({ "count": missed }))));
        }
        text.extend(changes.iter().map(event));
        (self.told, self.seen) = (now.clone(), now);
        (!text.is_empty()).then_some(text)
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
    let unheard: Vec<&str> = view
        .members
        .iter()
        .filter(|member| !member.live && !member.leaving)
        .map(|member| member.node.as_str())
        .collect();
    let split = json!({ "unheard": unheard, "partitioned": !unheard.is_empty() });
    picture.insert(("partition", view.node.to_string()), split);
    let roll = app.handle.roll();
    for backend in &view.backends {
        let stated = roll.backends.get(&backend.spec.id).cloned().unwrap_or_default();
        if let Placement::Cluster { cost_per_hour, .. } = backend.spec.placement {
            let said = stated.spoken.price.value.is_some();
            let state = json!({ "cost_per_hour_usd": cost_per_hour, "said": said });
            picture.insert(("price", backend.spec.id.to_string()), state);
        }
        if let Some(ends) = stated.spoken.preemption.value {
            picture.insert(("notice", backend.spec.id.to_string()), json!({ "ends_unix_ms": ends }));
        }
        if backend.spec.scale_to_zero.is_some() {
            let state = json!({ "state": backend.standing.warmth.as_str() });
            picture.insert(("warmth", backend.spec.id.to_string()), state);
        }
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
    for (why, count) in app.handle.metrics().gossip_refusals() {
        picture.insert(("dropped", why), json!({ "count": count }));
    }
    let draining = app.readiness.is_draining();
    picture.insert(("drain", view.node.to_string()), json!({ "draining": draining }));
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

    #[test]
    fn a_reader_without_room_is_told_how_many_changes_it_missed_and_how_things_are_now() {
        let of = |state: u64| Picture::from([(("member", "a".to_owned()), json!(state))]);
        let mut told = Told::default();
        assert!(told.look(of(1), true).unwrap().contains("\"state\":1"));
        assert_eq!(told.look(of(1), true), None, "nothing changed");
        for state in 2..7 {
            assert_eq!(told.look(of(state), false), None);
        }
        let text = told.look(of(7), true).unwrap();
        assert!(text.starts_with("event: missed\n") && text.contains("\"count\":5"), "{text}");
        assert!(text.contains("\"state\":7") && !text.contains("\"state\":6"), "{text}");
        assert_eq!(told.look(of(7), true), None, "missed changes are told once");
    }
}
