//! What befalls backends during a replay: harder days than the one the trace was recorded on.

use crate::backend::BackendSpec;
use crate::ids::{BackendId, Region};
use crate::time::Moment;
use std::time::Duration;

/// What happens to whom, from when to when.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// Who is hit.
    pub whom: Whom,
    /// What happens.
    pub kind: Kind,
    /// When it begins, from the first arrival on.
    pub from: Moment,
    /// When it is over.
    pub to: Moment,
}

/// Who is hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// One backend.
    Backend(BackendId),
    /// Every cluster of a region.
    Region(Region),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Requests fail, and those that run break off.
    Outage,
    /// Everything takes so many times as long; at least 1.
    Slow(f64),
    /// Requests are refused with 429 and this `Retry-After`; those that run go on.
    Throttled(Duration),
    /// A notice comes at the beginning, and the machine is gone this much later.
    Preempted(Duration),
}

/// What holds of one backend at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct State {
    pub(super) down: bool,
    pub(super) slow: f64,
    pub(super) retry_after: Option<Duration>,
    /// When its machine is taken away, while a notice is in force.
    pub(super) preempted_at: Option<Moment>,
}

impl State {
    /// Nothing is wrong.
    pub(super) const WELL: Self = Self { down: false, slow: 1.0, retry_after: None, preempted_at: None };

    /// What `troubles` come to for `spec` at `now`.
    pub(super) fn of(troubles: &[Trouble], spec: &BackendSpec, now: Moment) -> Self {
        let mut state = Self::WELL;
        let hit = |trouble: &&Trouble| trouble.hits(spec) && trouble.from <= now && now < trouble.to;
        for trouble in troubles.iter().filter(hit) {
            match trouble.kind {
                Kind::Outage => state.down = true,
                Kind::Slow(factor) => state.slow *= factor,
                Kind::Throttled(after) => state.retry_after = state.retry_after.max(Some(after)),
                Kind::Preempted(notice) => {
                    let at = trouble.from + notice;
                    state.down |= now >= at;
                    state.preempted_at = Some(state.preempted_at.map_or(at, |other| other.min(at)));
                }
            }
        }
        state
    }
}

impl Trouble {
    /// Whether it befalls `spec`.
    pub(super) fn hits(&self, spec: &BackendSpec) -> bool {
        match &self.whom {
            Whom::Backend(id) => *id == spec.id,
            Whom::Region(region) => spec.is_cluster() && spec.region() == region.as_str(),
        }
    }

    /// Whether it can happen at all.
    pub(super) fn is_sensible(&self) -> bool {
        let kind = match self.kind {
            Kind::Outage | Kind::Throttled(_) => true,
            Kind::Slow(factor) => factor.is_finite() && factor >= 1.0,
            Kind::Preempted(notice) => self.from + notice <= self.to,
        };
        kind && self.from < self.to
    }

    /// The moments at which it changes something.
    pub(super) fn moments(&self) -> impl Iterator<Item = Moment> {
        let taken = match self.kind {
            Kind::Preempted(notice) => Some(self.from + notice),
            _ => None,
        };
        [Some(self.from), taken, Some(self.to)].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preempted_machine_is_announced_then_gone_then_back() {
        let trouble = Trouble {
            whom: Whom::Region(Region::new("r")),
            kind: Kind::Preempted(Duration::from_secs(120)),
            from: Moment::from_secs(100),
            to: Moment::from_secs(300),
        };
        assert!(trouble.is_sensible());
        assert_eq!(trouble.moments().collect::<Vec<_>>(), [100, 220, 300].map(Moment::from_secs));
        let late = Trouble { to: Moment::from_secs(200), ..trouble };
        assert!(!late.is_sensible(), "it would be over before it began");
    }
}
