//! Scale-to-zero as a state: a cluster is cold, waking or warm, and demand decides when it is woken.
//!
//! Owns the account of what wanted a sleeping cluster ([`Demand`]), the judgement whether that is worth a
//! cold start, and the agreement of several nodes on one waker ([`Waker`]). Calls nobody: it says what to
//! do, and its actor does it.

use crate::ids::NodeId;
use crate::money::Money;
use crate::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// A claim is made good after this long without a better one. A node may claim until it has heard of ours, and
/// then we must hear of its claim: twice the time in which gossip reaches everyone (half a second at the worst
/// measured), and some more.
pub const CLAIM_WAIT: Duration = Duration::from_millis(1_500);
/// A cluster that did not come is not woken again for at least this long.
const PAUSE_MIN: Duration = Duration::from_secs(30);
/// The window of demand is counted in this many parts.
const PARTS: u32 = 12;

/// What is configured of a cluster that may have no machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleToZero {
    /// From the call to the first request it can take.
    pub cold_start: Duration,
    /// Demand is what wanted it in this time.
    pub demand_window: Duration,
    /// It is not woken for fewer requests in the window than this.
    pub wake_at_requests: u32,
    /// Nor while what they would have saved there is less than the cold start costs and this on top.
    pub wake_at_saving: Money,
    /// Aggregate output tokens per second to price it with before it was ever measured.
    pub tokens_per_second: Option<f64>,
}

impl ScaleToZero {
    /// What the hour's price makes of the time in which the machine starts and serves nobody.
    pub fn cold_start_cost(&self, cost_per_hour: Money) -> Money {
        cost_per_hour.share(crate::time::millis(self.cold_start), 3_600_000)
    }

    /// Whether `demand` is worth a cold start: something that nothing else could serve, or enough requests
    /// of which the priced ones would have saved its cost. Requests whose saving is unknown count as requests
    /// only, so that what nobody can price is woken by number.
    pub fn is_worth_waking(&self, demand: &Wanted, cost_per_hour: Money) -> bool {
        let enough = demand.requests >= self.wake_at_requests;
        let pays =
            demand.priced == 0 || demand.saving >= self.cold_start_cost(cost_per_hour) + self.wake_at_saving;
        demand.unserved > 0 || enough && demand.requests > 0 && pays
    }
}

/// Where a cluster stands. One that does not scale to zero is always warm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Warmth {
    /// It has a machine, well or not.
    #[default]
    Warm,
    /// It has none.
    Cold {
        /// How long it would take to get one.
        #[serde(rename = "cold_start_ms", with = "as_millis")]
        cold_start: Duration,
    },
    /// It is getting one.
    Waking {
        /// When it is expected to serve.
        #[serde(skip)]
        until: Moment,
    },
}

mod as_millis {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        crate::time::millis(*time).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

impl Warmth {
    /// The word in metrics and texts.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold { .. } => "cold",
            Self::Waking { .. } => "waking",
        }
    }

    /// How long until it can serve; `None` where it can now.
    pub fn ready_in(&self, now: Moment) -> Option<Duration> {
        match self {
            Self::Warm => None,
            Self::Cold { cold_start } => Some(*cold_start),
            Self::Waking { until } => Some(until.since(now)),
        }
    }
}

/// Requests of one window that would have gone to a cluster, had it been warm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// All of them, those it served included.
    pub requests: u32,
    /// Of these, the ones whose saving is known.
    pub priced: u32,
    /// Of these, the ones nothing else could serve.
    pub unserved: u32,
    /// What the priced ones would have saved there, the cold start left out.
    pub saving: Money,
}

impl Wanted {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            priced: self.priced.saturating_add(other.priced),
            unserved: self.unserved.saturating_add(other.unserved),
            saving: self.saving + other.saving,
        }
    }
}

/// What a request that wanted a cluster says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// It went elsewhere, which cost this much more; `None` = unknown.
    Elsewhere(Option<Money>),
    /// Nothing could serve it.
    Unserved,
    /// It went to the cluster.
    Served,
}

/// The demand for one cluster as one node sees it: a sliding window in twelve parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    parts: VecDeque<(u64, Wanted)>,
}

impl Demand {
    /// A request wanted the cluster.
    pub fn note(&mut self, want: Want, window: Duration, now: Moment) {
        let part = part_of(window, now);
        self.forget(part);
        if self.parts.back().is_none_or(|(at, _)| *at != part) {
            self.parts.push_back((part, Wanted::default()));
        }
        let Some((_, wanted)) = self.parts.back_mut() else { return };
        let (saving, priced, unserved) = match want {
            Want::Elsewhere(Some(saving)) => (saving, 1, 0),
            Want::Elsewhere(None) | Want::Served => (Money::ZERO, 0, 0),
            Want::Unserved => (Money::ZERO, 0, 1),
        };
        *wanted = wanted.and(Wanted { requests: 1, priced, unserved, saving });
    }

    /// All of the last window.
    pub fn wanted(&mut self, window: Duration, now: Moment) -> Wanted {
        self.forget(part_of(window, now));
        self.parts.iter().fold(Wanted::default(), |sum, (_, wanted)| sum.and(*wanted))
    }

    fn forget(&mut self, part: u64) {
        self.parts.retain(|(at, _)| at + u64::from(PARTS) > part);
    }
}

fn part_of(window: Duration, now: Moment) -> u64 {
    let length = u64::try_from(window.as_micros()).unwrap_or(u64::MAX) / u64::from(PARTS);
    now.micros() / length.max(1)
}

/// What a node says it does about a sleeping cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It wants to wake it.
    Made,
    /// It has called it; it should be up by then.
    Called {
        /// When.
        until: Moment,
    },
}

/// Whether the cluster answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It serves.
    Up,
    /// A machine is there and not ready.
    Coming,
    /// Nothing is there.
    Gone,
}

/// What a [`Waker`] judges on.
#[derive(Clone, Debug)]
pub struct Sight<'s> {
    /// The cluster as this node sees it.
    pub presence: Presence,
    /// Whether demand is worth a cold start.
    pub worth_waking: bool,
    /// Fresh claims of other live nodes.
    pub claims: &'s [(NodeId, Claim)],
    /// Whether other nodes are there that might claim.
    pub alone: bool,
    /// This node.
    pub me: &'s NodeId,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Nothing,
    /// Call the cluster.
    Call,
    /// It did not come: tell an operator.
    GaveUp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Rest,
    /// Ours, not yet made good.
    Claiming { since: Moment },
    /// Ours: the cluster was called.
    Called { until: Moment },
    /// A machine came without our call.
    Coming { until: Moment },
    /// It did not come when called.
    Paused { until: Moment },
}

/// One node's part in waking one cluster: at most one node calls, as long as they hear each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waker {
    state: State,
}

impl Waker {
    /// Goes on with what is seen now.
    pub fn step(&mut self, sight: &Sight<'_>, cold_start: Duration, now: Moment) -> Order {
        let called_elsewhere = sight.claims.iter().any(|(_, claim)| matches!(claim, Claim::Called { .. }));
        let better_claim = sight.claims.iter().any(|(node, _)| node < sight.me);
        let claiming = matches!(self.state, State::Claiming { .. });
        let (next, order) = match (self.state, sight.presence) {
            (_, Presence::Up) => (State::Rest, Order::Nothing),
            (State::Called { until }, _) if now.since(until) >= cold_start => {
                (State::Paused { until: now + cold_start.max(PAUSE_MIN) }, Order::GaveUp)
            }
            (state @ State::Called { .. }, _) => (state, Order::Nothing),
            (state @ State::Coming { until }, Presence::Coming) if now.since(until) < cold_start => {
                (state, Order::Nothing)
            }
            (State::Coming { .. }, Presence::Coming) => (State::Coming { until: now }, Order::Nothing),
            (_, Presence::Coming) => (State::Coming { until: now + cold_start }, Order::Nothing),
            (State::Paused { until }, Presence::Gone) if now < until => (self.state, Order::Nothing),
            (_, Presence::Gone) if called_elsewhere || !sight.worth_waking => (State::Rest, Order::Nothing),
            (State::Claiming { .. }, Presence::Gone) if better_claim => (State::Rest, Order::Nothing),
            (State::Claiming { since }, Presence::Gone) if now.since(since) < CLAIM_WAIT && !sight.alone => {
                (self.state, Order::Nothing)
            }
            (State::Claiming { .. }, Presence::Gone) => {
                (State::Called { until: now + cold_start }, Order::Call)
            }
            // Who claims first goes on, whatever its name: only claims made unheard of each other compete.
            (_, Presence::Gone) if !sight.claims.is_empty() && !claiming => (State::Rest, Order::Nothing),
            (_, Presence::Gone) if sight.alone => (State::Called { until: now + cold_start }, Order::Call),
            (_, Presence::Gone) => (State::Claiming { since: now }, Order::Nothing),
        };
        self.state = next;
        order
    }

    /// The call failed for good.
    pub fn call_failed(&mut self, cold_start: Duration, now: Moment) {
        if let State::Called { .. } = self.state {
            self.state = State::Paused { until: now + cold_start.max(PAUSE_MIN) };
        }
    }

    /// What peers are told.
    pub fn claim(&self) -> Option<Claim> {
        match self.state {
            State::Claiming { .. } => Some(Claim::Made),
            State::Called { until } => Some(Claim::Called { until }),
            State::Rest | State::Coming { .. } | State::Paused { .. } => None,
        }
    }

    /// Where the cluster stands, claims of others taken in.
    pub fn warmth(&self, sight: &Sight<'_>, cold_start: Duration, now: Moment) -> Warmth {
        let own = match self.state {
            State::Called { until } | State::Coming { until } => Some(until),
            State::Claiming { .. } => Some(now + cold_start),
            State::Rest | State::Paused { .. } => None,
        };
        let elsewhere = sight.claims.iter().map(|(_, claim)| match claim {
            Claim::Made => now + cold_start,
            Claim::Called { until } => *until,
        });
        match (sight.presence, own.into_iter().chain(elsewhere).min()) {
            (Presence::Up, _) => Warmth::Warm,
            (_, Some(until)) => Warmth::Waking { until },
            (_, None) => Warmth::Cold { cold_start },
        }
    }
}

#[cfg(test)]
#[path = "warmth_tests.rs"]
mod tests;
