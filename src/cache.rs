//! Answers that several clients get of one generation, and the response cache.
//!
//! Owns a generation that runs for whoever waits for it ([`flight`]), what is left of it ([`answer`]), who gets
//! it in which response ([`share`]), and the cache: the kept answers of this node ([`store`]) and of the region
//! ([`shared`]), and which of the running generations an equal request may go along with. Which requests are equal is said by
//! `logic::cache_key`; repeats under one key are [`crate::idempotency`]'s.

pub(crate) mod answer;
pub(crate) mod flight;
mod respond;
mod share;
mod shared;
mod store;
mod wish;

use crate::config::Cache as Settings;
use answer::Answer;
use flight::{Flight, Landed, Reader, Room};
use llm_router_actors::clock::Clock;
use llm_router_actors::metrics::Metrics;
use llm_router_logic::cache_key::Digest256;
use llm_router_logic::time::Moment;
use shared::Shared;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use store::Store;
use wish::Wish;

/// Running generations that equal requests may join; further ones run for one client each.
const FLIGHTS_MAX: usize = 65_536;

/// The response cache of one node.
pub(crate) struct ResponseCache {
    settings: Settings,
    store: Store,
    /// The answers of the region's routers.
    shared: Option<Shared>,
    flights: Mutex<Flights>,
    room: Arc<Room>,
    clock: Clock,
    metrics: Metrics,
}

/// What runs, by key.
#[derive(Default)]
struct Flights {
    running: HashMap<Digest256, (u64, Weak<Flight>)>,
    turns: u64,
}

/// A request's place at a generation.
enum Seat {
    /// It was started for it.
    First(Reader),
    /// It was started for an equal one.
    Along(Reader),
    /// There is none: it is to generate for itself.
    Alone,
}

impl ResponseCache {
    /// The cache that `settings` ask for: `former` where they are the same.
    pub(crate) fn renewed(
        former: Option<Arc<Self>>,
        settings: Option<&Settings>,
        clock: Clock,
        metrics: &Metrics,
    ) -> Option<Arc<Self>> {
        if let (Some(former), Some(settings)) = (&former, settings)
            && former.settings == *settings
        {
            return Some(Arc::clone(former));
        }
        if let Some(former) = former {
            // Its bounds are no more.
            former.store.clear();
        }
        let settings = settings?.clone();
        Some(Arc::new(Self {
            shared: settings
                .redis
                .as_ref()
                .and_then(|redis| Shared::new(redis, settings.ttl, settings.max_entry_bytes, clock, metrics)),
            store: Store::new(&settings, metrics),
            flights: Mutex::default(),
            room: Room::new(settings.max_entry_bytes, settings.max_bytes),
            settings,
            clock,
            metrics: metrics.clone(),
        }))
    }

    fn count(&self, result: &str) {
        self.metrics.answers.cache_requests_total.with_label_values(&[result]).inc();
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        // Every change is one step: a panic in between leaves nothing half done.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept answer that `wish` takes, and its age: of this node, else of the region.
    async fn find(&self, key: &Digest256, wish: Wish) -> Option<(Arc<Answer>, Duration)> {
        if let Some((answer, age)) = self.store.find(key, self.clock.now()) {
            return wish.takes(age).then_some((answer, age));
        }
        let (answer, age) = self.shared.as_ref()?.find(key).await?;
        if self.store.takes(&answer) {
            let at = Moment::ZERO + self.clock.now().since(Moment::ZERO).saturating_sub(age);
            self.store.put(*key, Arc::clone(&answer), at, &self.metrics);
        }
        wish.takes(age).then_some((answer, age))
    }

    /// A place at the generation of `key`; `launch` starts one, given its turn. `anew` = not at one that runs.
    fn seat(&self, key: Digest256, anew: bool, launch: impl FnOnce(u64) -> (Arc<Flight>, Reader)) -> Seat {
        let mut flights = self.flights();
        let running = flights.running.get(&key).and_then(|(_, flight)| flight.upgrade());
        if let Some(flight) = running.filter(|_| !anew) {
            if let Some(reader) = flight.join() {
                return Seat::Along(reader);
            }
            if flight.is_cut() {
                return Seat::Alone;
            }
        }
        if flights.running.len() >= FLIGHTS_MAX {
            return Seat::Alone;
        }
        flights.turns += 1;
        let turn = flights.turns;
        let (flight, reader) = launch(turn);
        flights.running.insert(key, (turn, Arc::downgrade(&flight)));
        Seat::First(reader)
    }

    /// The generation of `turn` ended.
    fn landed(&self, key: Digest256, turn: u64, landed: &Landed) {
        if let Landed::Kept(answer) = landed
            && answer.whole.has_content
            && self.store.takes(answer)
        {
            self.store.put(key, Arc::clone(answer), self.clock.now(), &self.metrics);
            if let Some(shared) = &self.shared {
                shared.put(key, Arc::clone(answer));
            }
        }
        let mut flights = self.flights();
        if flights.running.get(&key).is_some_and(|(running, _)| *running == turn) {
            flights.running.remove(&key);
        }
    }
}
