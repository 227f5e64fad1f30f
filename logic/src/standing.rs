//! Where a backend stands besides its health: warm or not, and until when it is there.
//!
//! Owns the shapes only: what a decision reads ([`Standing`]) and what a node tells its peers ([`Told`]).

use crate::spot::Spoken;
use crate::time::Moment;
use crate::warmth::{Claim, Wanted, Warmth};
use std::time::Duration;

/// What a decision reads of a backend's standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// Whether it has a machine.
    pub warmth: Warmth,
    /// When its machine is taken away, while a notice of that is in force.
    pub preempted_at: Option<Moment>,
}

/// What a node tells its peers of a backend's standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What was said of it, by anyone: told on by every node, since the last word is the same for all.
    pub spoken: Spoken,
    /// What this node does about waking it.
    pub claim: Option<ToldClaim>,
    /// What wanted it here in the last window.
    pub wanted: Wanted,
}

/// A [`Claim`] as it travels: machines share no monotonic clock, so times are told as what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldClaim {
    /// [`Claim::Made`].
    Made,
    /// [`Claim::Called`].
    Called {
        /// Time until it should be up.
        left: Duration,
    },
}

impl ToldClaim {
    /// `claim` as told at `now`.
    pub fn new(claim: Claim, now: Moment) -> Self {
        match claim {
            Claim::Made => Self::Made,
            Claim::Called { until } => Self::Called { left: until.since(now) },
        }
    }

    /// The claim as heard at `arrived_at`.
    pub fn heard(self, arrived_at: Moment) -> Claim {
        match self {
            Self::Made => Claim::Made,
            Self::Called { left } => Claim::Called { until: arrived_at + left },
        }
    }
}
