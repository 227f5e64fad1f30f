//! The guards of one backend, as its actor keeps them in production: health from probes and outcomes, and a
//! circuit breaker per model. The same code is run here, in virtual time.

use crate::guard::breaker::{Breaker, BreakerPolicy, BreakerState};
use crate::guard::health::{HealthTracker, Sighting};
use crate::report::Health;
use crate::time::Moment;
use crate::view::ModelGuard;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Guarded {
    policy: BreakerPolicy,
    breakers: BTreeMap<Arc<str>, Breaker>,
    health: HealthTracker,
    /// When it is looked at next.
    look_at: Moment,
}

impl Guarded {
    pub(super) fn new(policy: BreakerPolicy) -> Self {
        let (breakers, health) = (BTreeMap::new(), HealthTracker::default());
        Self { policy, breakers, health, look_at: Moment::ZERO }
    }

    pub(super) fn health(&self) -> Health {
        self.health.health()
    }

    /// Looks at it where it is time to; `true` where it has come back from the dead.
    pub(super) fn look(&mut self, answers: bool, interval: Duration, now: Moment) -> bool {
        if now < self.look_at {
            return false;
        }
        self.look_at = now + interval;
        let before = self.health.health();
        let after = self.health.observe(if answers { Sighting::Ok } else { Sighting::Failed });
        if answers && before != Health::Healthy {
            self.breakers.values_mut().for_each(|breaker| breaker.trial_now(now));
        }
        after == Health::Healthy && before == Health::Unhealthy
    }

    /// A request for `model` was served; `true` where that closed its breaker.
    pub(super) fn served(&mut self, model: &Arc<str>, now: Moment) -> bool {
        self.health.observe(Sighting::Ok);
        let Some(breaker) = self.breakers.get_mut(model) else {
            self.record(model, true, now);
            return false;
        };
        let before = breaker.state(now);
        breaker.record(true, now);
        before != BreakerState::Closed && breaker.state(now) == BreakerState::Closed
    }

    /// A request for `model` failed, `unreachable` where nobody answered at all.
    pub(super) fn failed(&mut self, model: &Arc<str>, unreachable: bool, now: Moment) {
        if unreachable {
            self.health.observe(Sighting::Failed);
        }
        self.look_at = now;
        self.record(model, false, now);
    }

    fn record(&mut self, model: &Arc<str>, ok: bool, now: Moment) {
        let policy = self.policy;
        self.breakers.entry(Arc::clone(model)).or_insert_with(|| Breaker::new(policy)).record(ok, now);
    }

    /// What decisions are told of its breakers.
    pub(super) fn told(&self, now: Moment) -> Arc<[ModelGuard]> {
        let open = |(model, breaker): (&Arc<str>, &Breaker)| {
            let state = breaker.state(now);
            (state != BreakerState::Closed).then(|| ModelGuard {
                model: model.to_string(),
                breaker: state,
                cause: breaker.cause(),
                closed_until: None,
            })
        };
        self.breakers.iter().filter_map(open).collect()
    }
}
