//! Whether a backend that only a peer reaches may be used through that peer's router.
//!
//! The peer judges its own way there and its own places; here counts what it said of them, and what this
//! node's own limits are. Its breaker is looked at before ([`via`](crate::view::ClusterView::via)).

use crate::ids::NodeId;
use crate::route::eligible::Refusal;
use crate::route::plan::LocalLoad;
use crate::route::{Policy, Step};
use crate::time::{Moment, millis};
use crate::view::{BackendView, ClusterView, PeerFact};
use std::time::Duration;

impl Step {
    /// The same backend through another peer's router than [`Step::via`], where the step's own way led nowhere:
    /// the best that `closed` does not speak against and that may take the request now.
    #[must_use]
    pub fn around(
        &self,
        view: &ClusterView,
        load: &LocalLoad,
        policy: &Policy,
        closed: impl Fn(&NodeId) -> bool,
        now: Moment,
    ) -> Option<Self> {
        let backend = view.backends.get(self.index)?;
        let open = |fact: &&PeerFact| self.via.as_ref() != Some(&fact.node) && !closed(&fact.node);
        let fact = view
            .ways(backend, now)
            .filter(open)
            .find(|fact| admit(backend, fact, load, policy, now).is_ok())?;
        Some(self.through(fact, now))
    }
}

/// Whether `backend` may take a request through the peer that said `fact`.
///
/// # Errors
/// The first [`Refusal`] of its momentary state as that peer sees it.
pub(crate) fn admit(
    backend: &BackendView,
    fact: &PeerFact,
    load: &LocalLoad,
    policy: &Policy,
    now: Moment,
) -> Result<(), Refusal> {
    // The limits of a provider's account are this node's share of them, whichever way a request goes.
    if let Some(until) = load.closed_until.filter(|until| *until > now) {
        return Err(Refusal::RateLimited { until });
    }
    let until = fact.arrived_at + Duration::from_millis(u64::from(fact.report.backoff_ms));
    if until > now {
        return Err(Refusal::BackingOff { until });
    }
    if !backend.spec.is_cluster() {
        return Ok(());
    }
    let max_ms = millis(policy.max_latency);
    if let Some(p95_ms) = fact.report.latency_p95_ms.filter(|p95_ms| u64::from(*p95_ms) > max_ms) {
        return Err(Refusal::LatencyTooHigh { p95_ms, max_ms });
    }
    let depth = fact.report.queue_depth;
    if depth > policy.max_queue_depth {
        return Err(Refusal::QueueTooLong { depth, max: policy.max_queue_depth });
    }
    Ok(())
}
