//! The door to one backend: how many requests this node runs there, who waits, and until when it is
//! closed.
//!
//! A gate belongs to no actor: it outlives restarts of the `Backend` actor, so that running requests
//! keep their slots whatever dies. Every operation is a short critical section without I/O.

use crate::clock::Clock;
use llm_router_logic::guard::limit::{Limiter, RateLimit};
use llm_router_logic::route::LocalLoad;
use llm_router_logic::time::Moment;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Requests at once where neither the configuration nor the backend states a number.
pub const DEFAULT_LIMIT: u32 = 256;

/// Admission to one backend.
#[derive(Debug)]
pub struct Gate {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_flight: u32,
    limit: u32,
    next_ticket: u64,
    waiting: VecDeque<(u64, oneshot::Sender<Slot>)>,
    limiter: Option<Limiter>,
    backoff_until: Option<Moment>,
    trial_taken: bool,
}

/// One request's place at a backend; dropping it gives the place to the next in line.
#[derive(Debug)]
pub struct Slot {
    gate: Arc<Gate>,
    trial: bool,
}

/// Why no slot was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Closed by a rate limit or `Retry-After` until then.
    Closed(Moment),
    /// As many wait as may wait.
    QueueFull,
    /// None became free in time.
    TimedOut(Duration),
    /// The breaker is half-open and its one trial is under way.
    TrialTaken,
}

impl Gate {
    /// A gate for `limit` requests at once.
    pub fn new(clock: Clock, limit: u32, rate_limit: Option<RateLimit>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            state: Mutex::new(State {
                in_flight: 0,
                limit: limit.max(1),
                next_ticket: 0,
                waiting: VecDeque::new(),
                limiter: rate_limit.map(Limiter::new),
                backoff_until: None,
                trial_taken: false,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock cannot leave it inconsistent: every change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot, in order of arrival, at most `max_wait` and behind at most `max_waiting`
    /// others. Takes `tokens` from the rate limit.
    ///
    /// # Errors
    /// [`NotAdmitted`]; nothing is taken then.
    pub async fn admit(
        self: &Arc<Self>,
        tokens: u32,
        trial: bool,
        max_wait: Duration,
        max_waiting: u32,
    ) -> Result<Slot, NotAdmitted> {
        let waiter = {
            let mut state = self.state();
            let now = self.clock.now();
            if let Some(until) = state.backoff_until.filter(|until| *until > now) {
                return Err(NotAdmitted::Closed(until));
            }
            if trial && state.trial_taken {
                return Err(NotAdmitted::TrialTaken);
            }
            if let Some(limiter) = &mut state.limiter {
                limiter.admit(tokens, now).map_err(NotAdmitted::Closed)?;
            }
            if state.in_flight < state.limit && state.waiting.is_empty() {
                state.in_flight += 1;
                state.trial_taken |= trial;
                return Ok(Slot { gate: Arc::clone(self), trial });
            }
            if trial || max_wait.is_zero() || state.waiting.len() >= max_waiting as usize {
                if let Some(limiter) = &mut state.limiter {
                    limiter.settle(tokens, 0, now);
                }
                return Err(NotAdmitted::QueueFull);
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            let (give, given) = oneshot::channel();
            state.waiting.push_back((ticket, give));
            Waiter { gate: Arc::clone(self), ticket, given }
        };
        let slot = waiter.wait(max_wait).await;
        if slot.is_err()
            && let Some(limiter) = &mut self.state().limiter
        {
            limiter.settle(tokens, 0, self.clock.now());
        }
        slot
    }

    /// Sets how many requests may run at once; waiting ones move up at once.
    pub fn set_limit(self: &Arc<Self>, limit: u32) {
        self.state().limit = limit.max(1);
        self.fill();
    }

    /// Replaces the rate limit, with a full allowance: for a reload that changed it.
    pub fn set_rate_limit(&self, rate_limit: Option<RateLimit>) {
        self.state().limiter = rate_limit.map(Limiter::new);
    }

    /// Corrects the rate limit by what a request really used.
    pub fn settle_tokens(&self, estimated: u32, actual: u32) {
        let now = self.clock.now();
        if let Some(limiter) = &mut self.state().limiter {
            limiter.settle(estimated, actual, now);
        }
    }

    /// Closes the gate until `until`, never shortening an earlier closure.
    pub fn back_off(&self, until: Moment) {
        let mut state = self.state();
        state.backoff_until = state.backoff_until.max(Some(until));
    }

    /// What is left of a closure by `Retry-After`.
    pub fn backoff_left(&self) -> Duration {
        self.state().backoff_until.map_or(Duration::ZERO, |until| self.clock.until(until))
    }

    /// The load as the plan reads it, for a request of `tokens` estimated tokens.
    pub fn load(&self, tokens: u32, now: Moment) -> LocalLoad {
        let state = self.state();
        let limited = state.limiter.as_ref().and_then(|limiter| limiter.check(tokens, now).err());
        LocalLoad {
            in_flight: state.in_flight,
            waiting: u32::try_from(state.waiting.len()).unwrap_or(u32::MAX),
            limit: state.limit,
            closed_until: state.backoff_until.max(limited).filter(|until| *until > now),
            trial_taken: state.trial_taken,
        }
    }

    /// Gives free slots to those who wait.
    fn fill(self: &Arc<Self>) {
        loop {
            let give = {
                let mut state = self.state();
                if state.in_flight >= state.limit {
                    return;
                }
                let Some((_, give)) = state.waiting.pop_front() else {
                    return;
                };
                state.in_flight += 1;
                give
            };
            // A waiter that has just given up drops the slot, which fills again.
            let _ = give.send(Slot { gate: Arc::clone(self), trial: false });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.gate.state();
            state.in_flight = state.in_flight.saturating_sub(1);
            if self.trial {
                state.trial_taken = false;
            }
        }
        self.gate.fill();
    }
}

/// A place in line; dropping it leaves the line.
struct Waiter {
    gate: Arc<Gate>,
    ticket: u64,
    given: oneshot::Receiver<Slot>,
}

impl Waiter {
    async fn wait(mut self, max_wait: Duration) -> Result<Slot, NotAdmitted> {
        match tokio::time::timeout(max_wait, &mut self.given).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(NotAdmitted::TimedOut(max_wait)),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.gate.state().waiting.retain(|(ticket, _)| *ticket != self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    fn gate(limit: u32) -> Arc<Gate> {
        Gate::new(Clock::start(), limit, None)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn never_more_run_than_the_limit_allows_and_all_get_their_turn() {
        let gate = gate(2);
        let peak = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let runs = (0..20).map(|_| {
            let (gate, peak) = (Arc::clone(&gate), Arc::clone(&peak));
            async move {
                let _slot = gate.admit(1, false, LONG, 100).await.unwrap();
                peak.fetch_max(gate.load(0, Moment::ZERO).in_flight, std::sync::atomic::Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        join_all(runs).await;
        assert_eq!(peak.load(std::sync::atomic::Ordering::SeqCst), 2);
        assert_eq!(gate.load(0, Moment::ZERO).in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_loses_no_slot() {
        let gate = gate(1);
        let held = gate.admit(1, false, LONG, 10).await.unwrap();
        let refused = gate.admit(1, false, Duration::from_secs(1), 10).await;
        assert_eq!(refused.err(), Some(NotAdmitted::TimedOut(Duration::from_secs(1))));
        let abandoned = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.admit(1, false, LONG, 10).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.load(0, Moment::ZERO).waiting, 1);
        abandoned.abort();
        let _ = abandoned.await;
        assert_eq!(gate.load(0, Moment::ZERO).waiting, 0);
        drop(held);
        assert!(gate.admit(1, false, Duration::ZERO, 0).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_a_larger_limit_lets_the_next_in() {
        let gate = gate(1);
        let _held = gate.admit(1, false, LONG, 1).await.unwrap();
        let next = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.admit(1, false, LONG, 1).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.admit(1, false, LONG, 1).await.err(), Some(NotAdmitted::QueueFull));
        gate.set_limit(2);
        assert!(next.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_asked_for_quiet_is_left_alone_until_then() {
        let gate = gate(4);
        let until = gate.clock.now() + Duration::from_secs(2);
        gate.back_off(until);
        gate.back_off(gate.clock.now() + Duration::from_secs(1));
        assert_eq!(gate.admit(1, false, LONG, 1).await.err(), Some(NotAdmitted::Closed(until)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(gate.admit(1, false, LONG, 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_open_breaker_lets_one_trial_through() {
        let gate = gate(4);
        let trial = gate.admit(1, true, LONG, 1).await.unwrap();
        assert_eq!(gate.admit(1, true, LONG, 1).await.err(), Some(NotAdmitted::TrialTaken));
        drop(trial);
        assert!(gate.admit(1, true, LONG, 1).await.is_ok());
    }
}
