//! Requests and clusters that are asleep: what a request wanted is counted, and where nothing else can serve
//! it, it waits for as long as its deadline allows.

use super::Relay;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::ids::BackendId;
use llm_router_logic::request::Request;
use llm_router_logic::route::wanted::wanted;
use llm_router_logic::route::{Plan, Refusal, plan};
use llm_router_logic::time::Moment;
use llm_router_logic::warmth::Want;
use std::sync::Arc;
use std::time::Duration;

/// How often a waiting request looks whether it can be served now.
const LOOK: Duration = Duration::from_millis(100);
/// Requests that may wait for sleeping clusters at once; one more is refused with `Retry-After`.
pub(super) const WAITING_MAX: usize = 512;

/// A plan and the picture it was made on.
pub(super) struct Decided {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) plan: Plan,
    /// The sleeping cluster the request would have gone to.
    pub(super) wanted: Option<BackendId>,
    /// How long it waited for one.
    pub(super) waited: Duration,
}

impl Relay {
    /// Counts what `request` wanted beside `made` and, where nothing else can serve it, waits for that.
    pub(super) async fn with_sleepers(
        &self,
        snapshot: Arc<Snapshot>,
        made: Plan,
        request: &Request,
        draw: u64,
        deadline: Moment,
    ) -> Decided {
        let clock = self.handle.clock();
        let started = clock.now();
        let mut decided = Decided { snapshot, plan: made, wanted: None, waited: Duration::ZERO };
        let Decided { snapshot, plan: made, .. } = &decided;
        let Some(awake) = &snapshot.awake else { return decided };
        let Some((backend, want)) =
            wanted(made, (&snapshot.view, awake), &**snapshot, request, &snapshot.policy, draw, started)
        else {
            return decided;
        };
        self.handle.want(backend.clone(), want);
        decided.wanted = Some(backend.clone());
        if want != Want::Unserved {
            return decided;
        }
        let Ok(_place) = self.sleepers.try_acquire() else { return decided };
        let Some(_waiting) = self.handle.await_warmth(&decided.snapshot, &backend) else { return decided };
        while comes_in_time(&decided.plan, &backend, clock.now(), deadline) {
            tokio::time::sleep(LOOK).await;
            let (snapshot, now) = (self.handle.snapshot(), clock.now());
            decided.plan = plan(&snapshot.view, &*snapshot, request, &snapshot.policy, draw, now);
            decided.snapshot = snapshot;
            decided.waited = now.since(started);
            if !decided.plan.steps.is_empty() {
                break;
            }
        }
        decided
    }
}

/// Whether `backend` is expected to serve before `deadline`. One that is past its time is still awaited, for
/// as long as it is said to be on its way.
fn comes_in_time(plan: &Plan, backend: &BackendId, now: Moment, deadline: Moment) -> bool {
    let refusal = plan.refused.iter().find(|(id, _)| id == backend).map(|(_, refusal)| refusal);
    let asleep = matches!(refusal, Some(Refusal::Cold { .. } | Refusal::Waking { .. }));
    let ready_in = refusal.and_then(|refusal| refusal.retry_after(now)).unwrap_or_default();
    asleep && now < deadline && now + ready_in <= deadline
}
