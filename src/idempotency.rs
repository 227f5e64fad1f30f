//! `Idempotency-Key`: a request repeated under the same key is generated and billed once.
//!
//! Owns what each key stands for on this node ([`register`]). A repeat goes along with the running generation
//! or gets its kept answer; the same key with another request is a conflict. A key belongs to the API key it
//! came with: nobody meets another's.

mod register;

use crate::cache::flight::{Flight, Landed, Room, launch};
use crate::config::Idempotency as Settings;
use crate::decisions::AnsweredFrom;
use crate::relay::{Call, Failed, Relay};
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use llm_router_actors::clock::Clock;
use llm_router_actors::metrics::Metrics;
use llm_router_logic::cache_key::{Digest256, digest_of, fingerprint};
use llm_router_logic::fault::{ApiError, ErrorKind};
use register::{Begin, Bounds, Register};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// The request header.
pub(crate) const HEADER: &str = "idempotency-key";
/// The response header of a repeat.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// When a request is worth repeating that met a busy key or a full register.
const SOON: Duration = Duration::from_secs(1);

/// What each key stands for.
pub(crate) struct Idempotency {
    /// Longest key taken, in bytes.
    key_bytes_max: AtomicUsize,
    register: Mutex<Register<Weak<Flight>>>,
    room: Arc<Room>,
    clock: Clock,
    metrics: Metrics,
}

impl Idempotency {
    pub(crate) fn new(settings: &Settings, clock: Clock, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            key_bytes_max: AtomicUsize::new(settings.max_key_bytes),
            register: Mutex::new(Register::new(bounds(settings))),
            room: Room::new(settings.max_entry_bytes, settings.max_bytes),
            clock,
            metrics,
        })
    }

    /// Goes on with the same keys under other settings.
    pub(crate) fn reconfigure(&self, settings: &Settings) {
        self.key_bytes_max.store(settings.max_key_bytes, Ordering::Relaxed);
        self.room.resize(settings.max_entry_bytes, settings.max_bytes);
        self.register().bounds = bounds(settings);
    }

    /// The key a request came with.
    ///
    /// # Errors
    /// It is longer than may be, or no plain text.
    pub(crate) fn key<'h>(&self, headers: &'h HeaderMap) -> Result<Option<&'h str>, ApiError> {
        let Some(value) = headers.get(HEADER) else { return Ok(None) };
        let refused = |why: &str| {
            ApiError::new(ErrorKind::InvalidRequest, format!("header `Idempotency-Key` {why}"))
                .with_code("invalid_header")
                .with_param(HEADER)
        };
        let text = value.to_str().map_err(|_| refused("is not plain text"))?.trim();
        if text.is_empty() {
            return Err(refused("is empty"));
        }
        let most = self.key_bytes_max.load(Ordering::Relaxed);
        if text.len() > most {
            return Err(refused(&format!("is longer than {most} bytes")));
        }
        Ok(Some(text))
    }

    fn register(&self) -> MutexGuard<'_, Register<Weak<Flight>>> {
        // Every change is one step: a panic in between leaves nothing half done.
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, result: &str) {
        self.metrics.answers.idempotent_requests_total.with_label_values(&[result]).inc();
    }

    fn show_size(&self, register: &Register<Weak<Flight>>) {
        let (entries, bytes) = register.size();
        let answers = &self.metrics.answers;
        answers.idempotency_keys.set(i64::try_from(entries).unwrap_or(i64::MAX));
        answers.idempotency_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The generation of `turn` under `key` ended.
    fn landed(&self, key: Digest256, turn: u64, landed: &Landed) {
        let now = self.clock.now();
        let mut register = self.register();
        let forgotten = match landed {
            Landed::Kept(answer) => register.keep(key, turn, Some(Arc::clone(answer)), now),
            Landed::TooLarge(_) => register.keep(key, turn, None, now),
            Landed::Broken | Landed::Failed(_) | Landed::Abandoned => {
                register.free(key, turn);
                0
            }
        };
        self.metrics.answers.idempotency_forgotten_total.inc_by(forgotten as u64);
        self.show_size(&register);
    }
}

fn bounds(settings: &Settings) -> Bounds {
    Bounds { ttl: settings.ttl, entries_max: settings.max_entries, bytes_max: settings.max_bytes }
}

impl Relay {
    /// Answers `call` under the idempotency key `key`.
    pub(crate) async fn once(
        self: &Arc<Self>,
        call: Call,
        keys: &Arc<Idempotency>,
        key: &str,
    ) -> Result<Response, Failed> {
        let started = keys.clock.now();
        let mark = fingerprint(&call.inbound());
        let key = named(&call, key);
        let begun = {
            let mut register = keys.register();
            let join = |flight: &Weak<Flight>| {
                let flight = flight.upgrade().ok_or(false)?;
                flight.join().ok_or(flight.is_cut())
            };
            let lead = |turn| {
                let (relay, call, keys) = (Arc::clone(self), call.clone(), Arc::clone(keys));
                let room = Arc::clone(&keys.room);
                let generate = async move { relay.generate(call).await };
                let (flight, reader) = launch(&room, generate, move |landed| keys.landed(key, turn, landed));
                (Arc::downgrade(&flight), reader)
            };
            let begun = register.begin(key, mark, started, join, lead);
            keys.show_size(&register);
            begun
        };
        let told = |kind, code: &str, text: &str, wait: Option<Duration>| {
            keys.count(code);
            let mut error = ApiError::new(kind, text).with_code(format!("idempotency_{code}"));
            if kind == ErrorKind::InvalidRequest {
                error.status = 409;
                error = error.with_param(HEADER);
            }
            if let Some(wait) = wait {
                error = error.with_retry_after(wait);
            }
            let status = error.status.to_string();
            self.metrics().requests_total.with_label_values(&["none", &status]).inc();
            Failed::of(error)
        };
        let wrong = ErrorKind::InvalidRequest;
        match begun {
            Begin::Lead(reader) => {
                keys.count("first");
                self.first(reader).await
            }
            Begin::Join(reader) => {
                keys.count("joined");
                let mut response = self.along(&call, reader, AnsweredFrom::RunningKey, started).await?;
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                Ok(response)
            }
            Begin::Replay(answer, age) => {
                keys.count("replayed");
                let mut response = self
                    .again(&call, &answer, age, AnsweredFrom::IdempotencyKey, started)
                    .map_err(|failed| *failed)?;
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                Ok(response)
            }
            Begin::Conflict => Err(told(
                wrong,
                "conflict",
                "this Idempotency-Key was used for another request: send that one again, or take a new key",
                None,
            )),
            Begin::Busy => Err(told(
                wrong,
                "busy",
                "the request of this Idempotency-Key still runs and its answer is too large to be joined now",
                Some(SOON),
            )),
            Begin::Spent => Err(told(
                wrong,
                "spent",
                "the request of this Idempotency-Key was answered and its answer was too large to be kept: take a new key",
                None,
            )),
            Begin::Full => Err(told(
                ErrorKind::Unavailable,
                "full",
                "too many requests with an Idempotency-Key run at once",
                Some(SOON),
            )),
        }
    }
}

/// A key's name among all: whose it is and what it is called.
fn named(call: &Call, key: &str) -> Digest256 {
    let principal = &call.principal;
    digest_of(&[principal.tenant.as_str(), principal.key.as_ref().map_or("", |id| id.as_str()), key])
}
