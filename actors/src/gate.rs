//! The door to one backend: how many requests this node runs there, who waits, and until when it is
//! closed.
//!
//! A gate belongs to no actor: it outlives restarts of the `Backend` actor, so that running requests
//! keep their slots whatever dies. Every operation is a short critical section without I/O. What is
//! computed here is `logic::guard`'s; the gate owns the state and the waking.

use crate::clock::Clock;
use crate::quota::RateStatus;
use llm_router_logic::guard::concurrency::LearntLimit;
use llm_router_logic::guard::latency::LatencyWindow;
use llm_router_logic::guard::limit::{Limiter, RateLimit, Standing, ThrottleScope};
use llm_router_logic::guard::pace::{Pace, Unread};
use llm_router_logic::guard::policy::GuardPolicy;
use llm_router_logic::guard::queue::{Ticket, WaitQueue, average_hold, estimated_wait};
use llm_router_logic::guard::warm_up::{WarmUp, part};
use llm_router_logic::route::LocalLoad;
use llm_router_logic::time::Moment;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Models closed by themselves at once; beyond it the whole backend is closed.
const CLOSED_MODELS_MAX: usize = 64;

/// Admission to one backend.
#[derive(Debug)]
pub struct Gate {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_flight: u32,
    /// This node's part of the backend's places; `None` where nobody knows how many it has.
    places: Option<u32>,
    learnt: LearntLimit,
    warm_up: WarmUp,
    slow_start: Duration,
    queue: WaitQueue<oneshot::Sender<Result<Slot, NotAdmitted>>>,
    limiter: Option<Limiter>,
    throttle: ThrottleScope,
    backoff_until: Option<Moment>,
    closed_models: BTreeMap<String, Moment>,
    /// Closures that peers told of, of the whole account (`None`) or one model.
    told: BTreeMap<Option<String>, Told>,
    trial_taken: bool,
    /// How long a place is held on average; `None` until one was given back.
    hold: Option<Duration>,
    /// Whole answers of a backend that was not asked to stream.
    whole: LatencyWindow,
    /// How soon answers begin, and what is still being read.
    pace: Pace,
    /// Requests and tokens asked for since [`Gate::take_asked`].
    asked: (u64, u64),
}

/// A closure that a peer told of.
#[derive(Clone, Copy, Debug)]
struct Told {
    until: Moment,
    heard_at: Moment,
}

/// Who asks for a place, and how long it would wait.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Places are shared fairly between tenants.
    pub tenant: &'a str,
    /// The model, by the backend's own name.
    pub model: &'a str,
    /// Estimated tokens, taken from the rate limit.
    pub tokens: u32,
    /// Whether it is the one trial of a half-open breaker.
    pub trial: bool,
    /// The longest wait; zero = not at all.
    pub max_wait: Duration,
    /// How many may wait in all.
    pub max_waiting: u32,
}

/// One request's place at a backend; dropping it gives the place to the next in line.
#[derive(Debug)]
pub struct Slot {
    gate: Arc<Gate>,
    trial: bool,
    since: Moment,
}

/// Why no slot was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Closed by a rate limit or `Retry-After` until then.
    Closed(Moment),
    /// As many wait as may wait; the wait would be about so long.
    QueueFull(Duration),
    /// None is expected to become free in time; the wait would be about so long.
    TooLate(Duration),
    /// None became free in time.
    TimedOut(Duration),
    /// The queue was full and another tenant had fewer requests in it.
    Displaced,
    /// The breaker is half-open and its one trial is under way.
    TrialTaken,
    /// Probes found the backend dead since the plan was made.
    Dead,
}

impl NotAdmitted {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::QueueFull(_) => "queue_full",
            Self::TooLate(_) => "too_late",
            Self::TimedOut(_) => "timed_out",
            Self::Displaced => "displaced",
            Self::TrialTaken => "trial_taken",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(_) => f.write_str("takes no more requests for now"),
            Self::QueueFull(wait) => write!(f, "is busy and its queue is full, the wait is about {wait:.1?}"),
            Self::TooLate(wait) => write!(f, "is busy, the wait of about {wait:.1?} is too long"),
            Self::TimedOut(waited) => write!(f, "had no free slot within {waited:.1?}"),
            Self::Displaced => f.write_str("is busy and its queue is full of this tenant's requests"),
            Self::TrialTaken => f.write_str("is being tried after an outage"),
            Self::Dead => f.write_str("was found dead meanwhile"),
        }
    }
}

impl State {
    /// Requests at once.
    fn limit(&self, now: Moment) -> u32 {
        let all = self.places.unwrap_or_else(|| self.learnt.limit());
        part(all, self.warm_up.percent(self.slow_start, now))
    }

    /// Until when no request for `model` is let in.
    fn closed_until(&self, model: &str, now: Moment) -> Option<Moment> {
        let own = self.backoff_until.max(self.closed_models.get(model).copied());
        let of_model = self.told.get(&Some(model.to_owned())).map(|told| told.until);
        let until = own.max(self.told_account()).max(of_model);
        until.filter(|until| *until > now)
    }

    fn told_account(&self) -> Option<Moment> {
        self.told.get(&None).map(|told| told.until)
    }

    fn estimated_wait(&self, tenant: &str, deadline: Moment, now: Moment) -> Duration {
        let ahead = self.queue.ahead(tenant, deadline);
        estimated_wait(ahead, self.limit(now), self.hold.unwrap_or_default())
    }
}

impl Gate {
    /// A gate to a backend of `slots`, where that is configured; `serial` tells whether it reads prompts one
    /// after the other.
    pub fn new(
        clock: Clock,
        serial: bool,
        slots: Option<u32>,
        rate_limit: Option<RateLimit>,
        guards: &GuardPolicy,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock,
            state: Mutex::new(State {
                in_flight: 0,
                places: slots,
                learnt: LearntLimit::new(guards.concurrency_max),
                warm_up: WarmUp::default(),
                slow_start: guards.slow_start,
                queue: WaitQueue::default(),
                limiter: rate_limit.map(Limiter::new),
                throttle: rate_limit.map_or_else(ThrottleScope::default, |limit| limit.scope),
                backoff_until: None,
                closed_models: BTreeMap::new(),
                told: BTreeMap::new(),
                trial_taken: false,
                hold: None,
                whole: LatencyWindow::default(),
                pace: Pace::new(serial),
                asked: (0, 0),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock cannot leave it inconsistent: every change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot, or waits for one where it can be expected in time. Takes the tokens from the rate
    /// limit.
    ///
    /// # Errors
    /// [`NotAdmitted`], at once where waiting is no use; nothing is taken then.
    pub async fn admit(self: &Arc<Self>, ask: Ask<'_>) -> Result<Slot, NotAdmitted> {
        let waiter = {
            let mut state = self.state();
            let now = self.clock.now();
            state.asked = (state.asked.0 + 1, state.asked.1 + u64::from(ask.tokens));
            if let Some(until) = state.closed_until(ask.model, now) {
                return Err(NotAdmitted::Closed(until));
            }
            if ask.trial && state.trial_taken {
                return Err(NotAdmitted::TrialTaken);
            }
            if let Some(limiter) = &mut state.limiter {
                limiter.admit(ask.tokens, now).map_err(NotAdmitted::Closed)?;
            }
            if state.in_flight < state.limit(now) && state.queue.is_empty() {
                state.in_flight += 1;
                state.trial_taken |= ask.trial;
                return Ok(Slot { gate: Arc::clone(self), trial: ask.trial, since: now });
            }
            match self.join(&mut state, ask, now) {
                Ok(waiter) => waiter,
                Err(refused) => {
                    if let Some(limiter) = &mut state.limiter {
                        limiter.settle(ask.tokens, 0, now);
                    }
                    return Err(refused);
                }
            }
        };
        let slot = waiter.wait(ask.max_wait).await;
        if slot.is_err()
            && let Some(limiter) = &mut self.state().limiter
        {
            limiter.settle(ask.tokens, 0, self.clock.now());
        }
        slot
    }

    /// Joins the queue.
    fn join(self: &Arc<Self>, state: &mut State, ask: Ask<'_>, now: Moment) -> Result<Waiter, NotAdmitted> {
        let deadline = now + ask.max_wait;
        let wait = state.estimated_wait(ask.tenant, deadline, now);
        if ask.trial || ask.max_wait.is_zero() || wait > ask.max_wait {
            return Err(NotAdmitted::TooLate(wait));
        }
        let (give, given) = oneshot::channel();
        let max = ask.max_waiting as usize;
        let joined = state
            .queue
            .join(ask.tenant, ask.tokens, deadline, give, max)
            .map_err(|_| NotAdmitted::QueueFull(wait))?;
        if let Some(displaced) = joined.displaced {
            // It may have given up by itself.
            let _ = displaced.send(Err(NotAdmitted::Displaced));
        }
        Ok(Waiter { gate: Arc::clone(self), ticket: joined.ticket, given })
    }

    /// Sets this node's part of the backend's places, `None` where nobody knows how many there are;
    /// waiting requests move up at once. To be called again while a slow start goes on.
    pub fn set_places(self: &Arc<Self>, places: Option<u32>) {
        self.state().places = places;
        self.fill();
    }

    /// Takes over the operator's settings.
    pub fn set_guards(&self, guards: &GuardPolicy) {
        let mut state = self.state();
        state.slow_start = guards.slow_start;
        state.learnt.set_max(guards.concurrency_max);
    }

    /// The backend is back: it is given its places one after another.
    pub fn warm_up(&self) {
        self.state().warm_up.begin(self.clock.now());
    }

    /// Replaces the rate limit, with a full allowance: for a reload that changed it.
    pub fn set_rate_limit(&self, rate_limit: Option<RateLimit>) {
        let mut state = self.state();
        state.limiter = rate_limit.map(Limiter::new);
        state.throttle = rate_limit.map_or_else(ThrottleScope::default, |limit| limit.scope);
    }

    /// Requests and tokens asked for since the last call: what this node wants of a shared rate limit.
    pub fn take_asked(&self) -> (u64, u64) {
        std::mem::take(&mut self.state().asked)
    }

    /// This node's share of the rate limit from now on, in millionths of its requests and of its tokens.
    pub fn set_share(&self, requests: u32, tokens: u32) {
        let now = self.clock.now();
        if let Some(limiter) = &mut self.state().limiter {
            limiter.set_share(requests, tokens, now);
        }
    }

    /// How the account's rate limit stands, and how long until it has room for a request of `tokens` estimated
    /// tokens: zero where it has. `None` where there is no limit.
    pub fn account(&self, tokens: u32) -> Option<(RateStatus, Duration)> {
        let now = self.clock.now();
        let state = self.state();
        let limiter = state.limiter.as_ref()?;
        let told = |standing: Option<Standing>| standing.map(|at| (at.limit, at.left, at.whole_in));
        let [requests, tokens_left] = limiter.standings(now).map(told);
        let wait = limiter.check(tokens, now).err().map_or(Duration::ZERO, |until| until.since(now));
        Some((RateStatus { requests, tokens: tokens_left }, wait))
    }

    /// Corrects the rate limit by what a request really used.
    pub fn settle_tokens(&self, estimated: u32, actual: u32) {
        let now = self.clock.now();
        if let Some(limiter) = &mut self.state().limiter {
            limiter.settle(estimated, actual, now);
        }
    }

    /// A prompt of `tokens` is sent: it is read before those that come after it.
    pub(crate) fn sent(&self, tokens: u32) -> Unread {
        self.state().pace.sent(tokens)
    }

    /// A prompt is not waited for any more.
    pub(crate) fn read(&self, prompt: Unread) {
        self.state().pace.read(prompt);
    }

    /// Learns from a first token that came after `ttft`, for `prompt` where its length is known.
    pub(crate) fn answered(&self, prompt: Option<Unread>, ttft: Duration) {
        let now = self.clock.now();
        let mut state = self.state();
        let in_flight = state.in_flight;
        state.learnt.answered(ttft, in_flight);
        if let Some(prompt) = prompt {
            state.pace.answered(prompt, ttft, now);
            state.pace.read(prompt);
        }
    }

    /// Notes how long a whole answer took that was not streamed.
    pub fn answered_whole(&self, took: Duration) {
        let now = self.clock.now();
        self.state().whole.record(took, now);
    }

    /// The 95th percentile of whole answers that were not streamed, over the last minute.
    pub fn whole_p95(&self) -> Option<Duration> {
        let now = self.clock.now();
        self.state().whole.p95(now)
    }

    /// Learns from a request that was refused for load, or timed out.
    pub fn refused(&self) {
        let mut state = self.state();
        let in_flight = state.in_flight;
        state.learnt.refused(in_flight, self.clock.now());
    }

    /// Closes the gate until `until`, never shortening an earlier closure.
    pub fn back_off(&self, until: Moment) {
        let mut state = self.state();
        state.backoff_until = state.backoff_until.max(Some(until));
    }

    /// Closes it for `model` only.
    pub fn back_off_model(&self, model: &str, until: Moment) {
        let now = self.clock.now();
        let mut state = self.state();
        state.closed_models.retain(|_, until| *until > now);
        if state.closed_models.len() >= CLOSED_MODELS_MAX && !state.closed_models.contains_key(model) {
            state.backoff_until = state.backoff_until.max(Some(until));
            return;
        }
        let closed = state.closed_models.entry(model.to_owned()).or_insert(until);
        *closed = until.max(*closed);
    }

    /// Closes it for what a 429 speaks of: the whole account, or the model where the operator said that
    /// limits are the model's.
    pub fn throttled(&self, model: &str, until: Moment) {
        let scope = self.state().throttle;
        match scope {
            ThrottleScope::Account => self.back_off(until),
            ThrottleScope::Model => self.back_off_model(model, until),
        }
    }

    /// Closes it until `until` since a peer was told to stay away, from `model` or the whole account (`None`).
    /// Kept apart from what this node was told itself: it is not told on.
    pub fn told_closed(&self, model: Option<&str>, until: Moment) {
        let heard_at = self.clock.now();
        let mut state = self.state();
        state.told.retain(|_, told| told.until > heard_at);
        let key = model.map(str::to_owned);
        if state.told.len() < CLOSED_MODELS_MAX || state.told.contains_key(&key) {
            let told = state.told.entry(key).or_insert(Told { until, heard_at });
            *told = Told { until: until.max(told.until), heard_at };
        }
    }

    /// A request for `model` that began at `began` was served: what peers told before that holds no longer.
    pub fn served(&self, model: &str, began: Moment) {
        let mut state = self.state();
        if !state.told.is_empty() {
            state.told.retain(|of, told| {
                told.heard_at >= began || of.as_deref().is_some_and(|told_of| told_of != model)
            });
        }
    }

    /// Until when this node itself was told to stay away from the whole account.
    pub fn closed_by_itself(&self, now: Moment) -> Option<Moment> {
        self.state().backoff_until.filter(|until| *until > now)
    }

    /// Models that are closed by what peers told, and until when.
    pub fn told_models(&self) -> Vec<(String, Moment)> {
        let now = self.clock.now();
        let state = self.state();
        let closed = state.told.iter().filter(|(_, told)| told.until > now);
        closed.filter_map(|(model, told)| Some((model.clone()?, told.until))).collect()
    }

    /// What is left of a closure by `Retry-After`.
    pub fn backoff_left(&self) -> Duration {
        self.state().backoff_until.map_or(Duration::ZERO, |until| self.clock.until(until))
    }

    /// Models closed by themselves, and until when.
    pub fn closed_models(&self) -> Vec<(String, Moment)> {
        let now = self.clock.now();
        let state = self.state();
        let closed = state.closed_models.iter().filter(|(_, until)| **until > now);
        closed.map(|(model, until)| (model.clone(), *until)).collect()
    }

    /// The load as the plan reads it, for a request of `tokens` estimated tokens.
    pub fn load(&self, tokens: u32, now: Moment) -> LocalLoad {
        let state = self.state();
        let limited = state.limiter.as_ref().and_then(|limiter| limiter.check(tokens, now).err());
        let percent = state.warm_up.percent(state.slow_start, now);
        LocalLoad {
            in_flight: state.in_flight,
            waiting: u32::try_from(state.queue.len()).unwrap_or(u32::MAX),
            limit: state.limit(now),
            closed_until: state
                .backoff_until
                .max(state.told_account())
                .max(limited)
                .filter(|until| *until > now),
            trial_taken: state.trial_taken,
            warming_percent: (percent < 100).then_some(percent),
            hold: state.hold,
            pace: state.pace.now(now),
        }
    }

    /// How long one more request of no tenant in particular would wait here.
    pub fn wait(&self) -> Duration {
        let now = self.clock.now();
        let state = self.state();
        let hold = state.hold.unwrap_or_default();
        estimated_wait(state.queue.len(), state.limit(now), hold)
    }

    /// Gives free slots to those who wait.
    fn fill(self: &Arc<Self>) {
        loop {
            let (give, now) = {
                let mut state = self.state();
                let now = self.clock.now();
                if state.in_flight >= state.limit(now) {
                    return;
                }
                // Who is late sees his own time run out.
                let mut late = Vec::new();
                let Some(give) = state.queue.next(now, &mut late) else {
                    return;
                };
                state.in_flight += 1;
                (give, now)
            };
            // A waiter that has just given up drops the slot, which fills again.
            let _ = give.send(Ok(Slot { gate: Arc::clone(self), trial: false, since: now }));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let now = self.gate.clock.now();
            let mut state = self.gate.state();
            state.in_flight = state.in_flight.saturating_sub(1);
            if self.trial {
                state.trial_taken = false;
            }
            let held = now.since(self.since);
            state.hold = Some(average_hold(state.hold, held));
        }
        self.gate.fill();
    }
}

/// A place in line; dropping it leaves the line.
struct Waiter {
    gate: Arc<Gate>,
    ticket: Ticket,
    given: oneshot::Receiver<Result<Slot, NotAdmitted>>,
}

impl Waiter {
    async fn wait(mut self, max_wait: Duration) -> Result<Slot, NotAdmitted> {
        match tokio::time::timeout(max_wait, &mut self.given).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(NotAdmitted::TimedOut(max_wait)),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Its sender is dropped after the lock is.
        let left = self.gate.state().queue.leave(&self.ticket);
        drop(left);
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
