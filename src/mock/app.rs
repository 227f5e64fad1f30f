//! The state one mock shares between its connections: configuration, speed, fault rules, slots, books.

use super::fault::Faults;
use super::generation::{Timings, Usage};
use super::{Books, MockConfig, Speed, anthropic, control, gate, gemini, llama, openai, responses};
use axum::Router;
use axum::middleware::from_fn_with_state;
use llm_router_logic::backend::Kind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: MockConfig,
    pub(crate) ready_at: Instant,
    speed: Mutex<Speed>,
    faults: Mutex<Arc<Faults>>,
    books: Mutex<Books>,
    slots: Arc<Semaphore>,
    next_id: AtomicU64,
    production: Mutex<(Production, Production)>,
}

/// What llama-server's metrics add up when a request ends: in all, and since the last scrape.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Production {
    pub(crate) prompt_tokens: u64,
    pub(crate) prompt_time: Duration,
    pub(crate) predicted_tokens: u64,
    pub(crate) predicted_time: Duration,
}

impl Production {
    fn add(&mut self, timings: &Timings) {
        self.prompt_tokens += timings.input;
        self.prompt_time += timings.prompt;
        self.predicted_tokens += timings.output;
        self.predicted_time += timings.predicted;
    }
}

/// The queue is as long as it may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueFull;

impl App {
    pub(crate) fn new(config: MockConfig, faults: Faults) -> Self {
        let speed = Speed { ttft: config.ttft, tokens_per_second: config.tokens_per_second };
        Self {
            ready_at: Instant::now() + config.loading,
            speed: Mutex::new(speed),
            faults: Mutex::new(Arc::new(faults)),
            books: Mutex::default(),
            slots: Arc::new(Semaphore::new(config.slots.clamp(1, Semaphore::MAX_PERMITS))),
            next_id: AtomicU64::new(1),
            production: Mutex::default(),
            config,
        }
    }

    /// The routes of its kind behind the gate, and the mock's own controls.
    pub(crate) fn routes(self: &Arc<Self>) -> Router {
        let routes = match self.config.kind {
            Kind::OpenAi => openai::routes().merge(responses::routes()),
            Kind::Anthropic => anthropic::routes(),
            Kind::Gemini => gemini::routes(),
            Kind::Llama => llama::routes(),
        };
        routes
            .fallback(gate::no_such_route)
            .method_not_allowed_fallback(gate::no_such_route)
            .layer(from_fn_with_state(Arc::clone(self), gate::pass))
            .merge(control::routes())
            .with_state(Arc::clone(self))
    }

    pub(crate) fn speed(&self) -> Speed {
        *lock(&self.speed)
    }

    pub(crate) fn set_speed(&self, speed: Speed) {
        *lock(&self.speed) = speed;
    }

    pub(crate) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&lock(&self.faults))
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = Arc::new(faults);
    }

    pub(crate) fn books(&self) -> Books {
        self.ledger().clone()
    }

    /// The books for writing; never held over an await.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    /// Production in all and since the last call.
    pub(crate) fn scrape(&self) -> (Production, Production) {
        let mut production = lock(&self.production);
        (production.0, std::mem::take(&mut production.1))
    }

    /// A number no other answer of this mock has.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The names listed by the models route.
    pub(crate) fn models(&self) -> Vec<String> {
        if self.config.models.is_empty() {
            usual_models(self.config.kind).iter().map(ToString::to_string).collect()
        } else {
            self.config.models.clone()
        }
    }

    /// Whether this mock answers for `model`.
    pub(crate) fn serves(&self, model: &str) -> bool {
        self.config.models.is_empty() || self.config.models.iter().any(|served| served == model)
    }

    /// Waits for a slot, first come first served. Dropping the future leaves the queue and counts a
    /// cancelled request.
    pub(crate) async fn enter(self: &Arc<Self>, model: &str, input_tokens: u64) -> Result<Ticket, QueueFull> {
        let permit = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let mut place = {
                    let mut books = self.ledger();
                    if self.config.queue_limit.is_some_and(|limit| books.queued >= limit as u64) {
                        return Err(QueueFull);
                    }
                    books.wait_in_line();
                    PlaceInLine { app: Arc::clone(self), served: false }
                };
                // The semaphore is never closed; if it were, the queue would be as good as full.
                let permit = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| QueueFull)?;
                place.served = true;
                permit
            }
        };
        self.ledger().take_slot();
        Ok(Ticket {
            app: Arc::clone(self),
            model: model.to_owned(),
            input_tokens,
            output_tokens: 0,
            end: End::ClientLeft,
            stated: None,
            _permit: permit,
        })
    }
}

/// Unix seconds.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves plain figures behind, still worth reading.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn usual_models(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::OpenAi => &["gpt-4o-mini", "gpt-4o", "gpt-4-turbo", "gpt-3.5-turbo", "text-embedding-3-small"],
        Kind::Anthropic => &["claude-haiku-4-5", "claude-3-haiku", "claude-3-5-sonnet"],
        Kind::Gemini => &["gemini-2.5-flash", "gemini-1.5-flash", "gemini-embedding-001"],
        Kind::Llama => &["tiny"],
    }
}

struct PlaceInLine {
    app: Arc<App>,
    served: bool,
}

impl Drop for PlaceInLine {
    fn drop(&mut self) {
        let mut books = self.app.ledger();
        books.queued -= 1;
        if !self.served {
            books.cancelled += 1;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    ClientLeft,
    Broken,
    Complete,
}

/// A slot held by one answer. Dropping it frees the slot and writes the books.
#[derive(Debug)]
pub(crate) struct Ticket {
    app: Arc<App>,
    model: String,
    input_tokens: u64,
    output_tokens: u64,
    end: End,
    stated: Option<Usage>,
    _permit: OwnedSemaphorePermit,
}

impl Ticket {
    /// One more token was produced.
    pub(crate) fn token(&mut self) {
        self.output_tokens += 1;
    }

    /// The answer is complete: its figures count, and the slot is free.
    pub(crate) fn complete(mut self, timings: &Timings, stated: Option<Usage>) {
        self.end = End::Complete;
        self.stated = stated;
        let mut production = lock(&self.app.production);
        production.0.add(timings);
        production.1.add(timings);
    }

    /// A fault rule ended the answer.
    pub(crate) fn break_off(mut self) {
        self.end = End::Broken;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut books = self.app.ledger();
        books.in_flight -= 1;
        match self.end {
            End::Complete => {
                books.state(self.stated);
                return books.complete(&self.model, self.input_tokens, self.output_tokens);
            }
            End::ClientLeft => books.cancelled += 1,
            End::Broken => books.broken += 1,
        }
        books.unfinished_input_tokens += self.input_tokens;
        books.unfinished_output_tokens += self.output_tokens;
    }
}
