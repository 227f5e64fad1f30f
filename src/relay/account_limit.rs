//! Rate limits of provider accounts, as a client is told of them.
//!
//! Owns when they count as the client's: the account of the backend that answered is one of the limits a request
//! drew on; and where nothing but accounts that are used up could serve it, it is refused as one over a limit.
//! What keeps the limits is the gate of each backend.

use llm_router_actors::quota::RateStatus;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::route::eligible::Refusal;
use llm_router_logic::route::{Plan, Step};
use llm_router_logic::time::Moment;
use std::time::Duration;

/// How the account stands that `step` drew on; `None` where it has no limit, or a peer's router keeps it.
pub(super) fn of(snapshot: &Snapshot, step: &Step) -> Option<RateStatus> {
    if step.via.is_some() {
        return None;
    }
    snapshot.account(step.index, 0).map(|(status, _)| status)
}

/// 429, with how the account stands that has room first, where accounts without room for `tokens` are all that
/// could serve `plan`; `None` where something else stands against it.
pub(super) fn used_up(
    snapshot: &Snapshot,
    plan: &Plan,
    tokens: u32,
    now: Moment,
) -> Option<(ApiError, RateStatus)> {
    let refused = plan.refused.iter().filter_map(|(backend, refusal)| match refusal {
        Refusal::RateLimited { until } => {
            let index = snapshot.view.backends.iter().position(|view| view.spec.id == *backend)?;
            Some((index, until.since(now)))
        }
        _ => None,
    });
    let planned = plan.steps.iter().map(|step| (step.index, Duration::ZERO));
    let mut soonest: Option<(Duration, usize, RateStatus)> = None;
    for (index, closed) in refused.chain(planned) {
        let Some((status, wait)) = snapshot.account(index, tokens) else {
            continue;
        };
        // A provider that asked to be left alone besides may be closed for longer.
        let until = wait.max(closed);
        if !wait.is_zero() && soonest.is_none_or(|(known, ..)| until < known) {
            soonest = Some((until, index, status));
        }
    }
    let (wait, index, status) = soonest?;
    let text = format!(
        "the rate limit of the account of `{}` is used up, and no other backend can serve this now",
        snapshot.view.backends[index].spec.id
    );
    let error =
        ApiError::new(ErrorKind::RateLimit, text).with_code("rate_limit_exceeded").with_retry_after(wait);
    Some((error, status))
}
