//! Circuit breaker of one backend and model.
//!
//! It is told outcomes and asked whether requests may pass. It counts only what the caller records:
//! 5xx, timeouts and broken streams are failures, a client's 4xx and a 429 are not recorded at all.
//! Who may send the one trial request of the half-open state is the caller's business (a lease).
//! What peers tell opens it as well, apart from what its own outcomes do: only these are told on.

use crate::gossip::outage::STREAK_COUNTS;
use crate::time::Moment;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Slices the success-rate window is kept in: outcomes age out a slice at a time.
const SLICES: usize = 10;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// It opens below this share of successes, in percent, …
    pub min_success_percent: u8,
    /// … once the window holds at least this many outcomes.
    pub min_outcomes: u32,
    /// Length of the window.
    pub window: Duration,
    /// How long it stays open the first time; each failed trial doubles it.
    pub open_first: Duration,
    /// The longest it stays open.
    pub open_max: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            min_success_percent: 80,
            min_outcomes: 20,
            window: Duration::from_secs(30),
            open_first: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
        }
    }
}

/// Whether requests may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum BreakerState {
    /// They pass.
    Closed,
    /// None passes.
    Open {
        /// When one trial may pass.
        until: Moment,
    },
    /// One trial may pass; its outcome decides.
    HalfOpen,
}

impl BreakerState {
    /// The word in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Why a breaker is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum Cause {
    /// So many failures came in a row.
    InARow {
        /// How many.
        failures: u32,
    },
    /// Too few of the window's outcomes were good.
    SuccessRate {
        /// Good ones.
        good: u32,
        /// All.
        of: u32,
    },
    /// The trial request failed.
    FailedTrial {
        /// Trials failed since it opened first.
        trials: u32,
    },
    /// Another router's requests failed, and it told.
    Told,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow { failures } => write!(f, "{failures} failures in a row"),
            Self::SuccessRate { good, of } => write!(f, "only {good} of its last {of} requests were good"),
            Self::Told => f.write_str("another router's requests failed there"),
            Self::FailedTrial { trials: 1 } => f.write_str("its trial request failed"),
            Self::FailedTrial { trials } => write!(f, "{trials} trial requests failed one after another"),
        }
    }
}

/// What can happen to a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A success was recorded.
    Succeeded,
    /// A failure was recorded that leaves the counters within bounds.
    Failed,
    /// A failure was recorded that takes the counters over a bound.
    Tripped,
    /// A free health probe found the backend well.
    Probed,
}

/// One breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    /// `Closed` or `Open`; half-open is an `Open` whose time has come.
    open_until: Option<Moment>,
    cause: Option<Cause>,
    /// Trials failed since it opened first.
    failed_trials: u32,
    failures_in_a_row: u32,
    window: Window,
    told: Told,
}

/// What peers told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// As `Breaker::open_until`, by a peer's requests.
    open_until: Option<Moment>,
    /// When that was heard.
    heard_at: Moment,
    /// Failures in a row at a peer, and until when they count.
    failures: u32,
    failures_until: Moment,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            open_until: None,
            cause: None,
            failed_trials: 0,
            failures_in_a_row: 0,
            window: Window::default(),
            told: Told::default(),
        }
    }

    /// The state now.
    pub fn state(&self, now: Moment) -> BreakerState {
        match self.open_until.max(self.told.open_until) {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open { until },
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Why it is not closed; `None` while it is.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.or(self.told.open_until.map(|_| Cause::Told))
    }

    /// Until when this node's own outcomes keep it open: what may be told to peers. `None` where only peers do.
    pub fn open_by_itself(&self, now: Moment) -> Option<Moment> {
        self.open_until.filter(|until| *until > now)
    }

    /// Failures in a row among this node's own outcomes.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// A peer's breaker opened until `until`: so does this one. Its trial is the fleet's.
    pub fn told_open(&mut self, until: Moment, now: Moment) {
        if until > now {
            self.told.open_until = self.told.open_until.max(Some(until));
            self.told.heard_at = now;
        }
    }

    /// So many requests of a peer failed in a row: with this node's own they may be enough.
    pub fn told_failures(&mut self, failures: u32, now: Moment) {
        self.told.failures = failures;
        self.told.failures_until = now + STREAK_COUNTS;
    }

    /// A request that began at `began` was served. Where that is later than what peers told, they are
    /// believed no longer.
    pub fn served_since_told(&mut self, began: Moment) {
        if began > self.told.heard_at || self.told.open_until.is_none() {
            self.told = Told::default();
        }
    }

    /// Goes on under other bounds; what was counted stays.
    pub fn set_policy(&mut self, policy: BreakerPolicy) {
        self.policy = policy;
    }

    /// Takes the outcome of one request. Outcomes that arrive while it is open belong to requests sent
    /// before it opened and change nothing.
    pub fn record(&mut self, ok: bool, now: Moment) {
        let event = match (ok, self.state(now)) {
            (true, _) => Event::Succeeded,
            (false, BreakerState::Closed) => match self.failure_trips(now) {
                Some(cause) => {
                    self.cause = Some(cause);
                    Event::Tripped
                }
                None => Event::Failed,
            },
            (false, _) => Event::Failed,
        };
        if event == Event::Succeeded && self.open_until.is_none() {
            self.failures_in_a_row = 0;
            self.window.count(true, self.policy.window, now);
        }
        self.apply(event, now);
    }

    /// Brings the half-open state forward to now: a good health probe is reason enough for a trial.
    pub fn trial_now(&mut self, now: Moment) {
        self.told.open_until = self.told.open_until.map(|until| until.min(now));
        self.apply(Event::Probed, now);
    }

    /// The only place a state changes: every legal move is one arm.
    fn apply(&mut self, event: Event, now: Moment) {
        let next = match (self.state(now), event) {
            (BreakerState::Closed, Event::Tripped) => {
                self.failed_trials = 0;
                Some(now + self.open_for())
            }
            (BreakerState::Open { .. }, Event::Probed) => Some(now),
            (BreakerState::HalfOpen, Event::Succeeded) => {
                self.failed_trials = 0;
                self.failures_in_a_row = 0;
                self.window = Window::default();
                self.cause = None;
                self.told = Told::default();
                None
            }
            (BreakerState::HalfOpen, Event::Failed | Event::Tripped) => {
                self.failed_trials = self.failed_trials.saturating_add(1);
                self.cause = Some(Cause::FailedTrial { trials: self.failed_trials });
                Some(now + self.open_for())
            }
            (BreakerState::Closed, Event::Succeeded | Event::Failed | Event::Probed)
            | (BreakerState::Open { .. }, Event::Succeeded | Event::Failed | Event::Tripped)
            | (BreakerState::HalfOpen, Event::Probed) => self.open_until,
        };
        self.open_until = next;
    }

    /// Counts a failure and tells why it is one too many, if it is.
    fn failure_trips(&mut self, now: Moment) -> Option<Cause> {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.window.count(false, self.policy.window, now);
        let (good, all) = self.window.sums(self.policy.window, now);
        let too_few_good = all >= self.policy.min_outcomes
            && u64::from(good) * 100 < u64::from(all) * u64::from(self.policy.min_success_percent);
        let told = if now < self.told.failures_until { self.told.failures } else { 0 };
        let failures = self.failures_in_a_row.saturating_add(told);
        if failures >= self.policy.consecutive_failures {
            return Some(Cause::InARow { failures });
        }
        too_few_good.then_some(Cause::SuccessRate { good, of: all })
    }

    fn open_for(&self) -> Duration {
        let doubled = self.policy.open_first.saturating_mul(1 << self.failed_trials.min(16));
        doubled.min(self.policy.open_max)
    }
}

/// Outcomes of the last `window`, in slices.
#[derive(Clone, Debug, Default)]
struct Window {
    /// `(serial, good, all)` of each slice; a slice whose serial is past counts for nothing.
    slices: [(u64, u32, u32); SLICES],
}

impl Window {
    fn count(&mut self, ok: bool, window: Duration, now: Moment) {
        let serial = serial(window, now);
        let slice = &mut self.slices[(serial % SLICES as u64) as usize];
        if slice.0 != serial {
            *slice = (serial, 0, 0);
        }
        slice.1 = slice.1.saturating_add(u32::from(ok));
        slice.2 = slice.2.saturating_add(1);
    }

    fn sums(&self, window: Duration, now: Moment) -> (u32, u32) {
        let serial = serial(window, now);
        self.slices
            .iter()
            .filter(|slice| slice.0 <= serial && serial - slice.0 < SLICES as u64)
            .fold((0, 0), |(good, all), slice| (good + slice.1, all + slice.2))
    }
}

/// The number of the slice `now` falls into.
fn serial(window: Duration, now: Moment) -> u64 {
    let slice_micros = (window.as_micros() / SLICES as u128).max(1);
    u64::try_from(u128::from(now.micros()) / slice_micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
