//! Whether a backend that only a peer reaches may be used through that peer's router.
//!
//! The peer judges its own way there and its own places; here counts what it said of them, and what this
//! node's own limits are. Its breaker is looked at before ([`via`](crate::view::ClusterView::via)).

use crate::route::Policy;
use crate::route::eligible::Refusal;
use crate::route::plan::LocalLoad;
use crate::time::{Moment, millis};
use crate::view::{BackendView, PeerFact};
use std::time::Duration;

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
