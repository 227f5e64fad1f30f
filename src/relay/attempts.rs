//! The attempts of one request, in the plan's order, up to the first content byte.
//!
//! Owns which step is tried next and when trying ends. The client has seen nothing yet: a failed attempt
//! leaves no trace but its record.

use super::candidates::{Candidates, Wait};
use super::hedge::Course;
use super::refusals::Refusals;
use super::running::Begun;
use super::tally::Tally;
use super::{Call, Relay, account_limit, fault};
use crate::decisions::Stopped;
use llm_router_actors::gate::NotAdmitted;
use llm_router_actors::lease::Lease;
use llm_router_actors::ledger::Journal;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::fault::{ApiError, Fault};
use llm_router_logic::guard::retry::RetryBudget;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::request::Request;
use llm_router_logic::route::{Loads, Plan, Reason, Step};
use llm_router_logic::time::Moment;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

impl Relay {
    /// Tries the plan's steps in order until one begins to answer.
    pub(super) async fn attempt(
        &self,
        call: &Call,
        request: &Request,
        snapshot: &Snapshot,
        plan: &Plan,
        deadline: Moment,
        tally: &mut Tally,
    ) -> Result<(Step, Begun, Lease), ApiError> {
        let clock = self.handle.clock();
        let retries = &snapshot.policy.guards.retries;
        self.retries().requested(clock.now());
        let tokens = request.input_tokens.saturating_add(request.output_tokens);
        let tenant = call.principal.tenant.as_str();
        let mut failure: Option<ApiError> = None;
        let mut refusals = Refusals::default();
        let mut attempts = 0;
        let mut candidates = Candidates::new(&plan.steps);
        while let Some((candidate, patience)) = candidates.next() {
            let step = &*candidate;
            let left = clock.until(deadline);
            if left.is_zero() {
                let error = failure.unwrap_or_else(|| fault::told(&Fault::Deadline, None));
                return Err(stopped(tally, attempts, Stopped::Deadline, error));
            }
            // Another request may have found that way closed since the plan was made.
            if let Some(peer) = step.via.as_ref().filter(|peer| self.handle.is_relay_shunned(peer)) {
                tally.passed_over(
                    step,
                    format!("the relay of router `{peer}` could not be reached a moment ago"),
                );
                candidates.unconnected(step, |closed| self.around(snapshot, step, tokens, closed));
                continue;
            }
            if let Some(error) = self.unbookable(snapshot, step) {
                tally.passed_over(step, error.message.clone());
                failure.get_or_insert(error);
                continue;
            }
            let max_wait = match patience {
                // It is tried since it may be well again; nobody waits for that.
                _ if step.reason == Reason::LeastBad => Duration::ZERO,
                Wait::Deadline => left,
                Wait::Latency => left.min(snapshot.policy.max_latency),
            };
            let asked = clock.now();
            let lease = match self.handle.lease(snapshot, step, tenant, tokens, max_wait).await {
                Ok(lease) => lease,
                Err(refused) => {
                    tally.passed_over(step, refused.to_string());
                    if refused == NotAdmitted::Dead {
                        candidates.unconnected(step, |closed| self.around(snapshot, step, tokens, closed));
                    }
                    candidates.refused(candidate, patience, refused, left);
                    refusals.note(refused, clock.now());
                    continue;
                }
            };
            // Only now, so that a request that waits holds its body once.
            let outgoing = match self.outgoing(call, snapshot, step) {
                Ok(outgoing) => outgoing,
                // This dialect cannot carry the request; another backend's may.
                Err(error) => {
                    lease.unused();
                    tally.passed_over(step, error.message.clone());
                    failure.get_or_insert(error);
                    continue;
                }
            };
            if let Err(error) = tally.allowance.reserve(call, snapshot, request, step) {
                lease.unused();
                tally.passed_over(step, error.message.clone());
                failure.get_or_insert(error);
                continue;
            }
            if attempts > 0 {
                let nodes = snapshot.view.members.iter().filter(|member| member.live).count();
                if let Err(exhausted) = self.retries().withdraw(retries, nodes, clock.now()) {
                    tracing::warn!(backend = %step.backend, ?exhausted, "not retried: the retry budget is used up");
                    lease.unused();
                    let error = failure.unwrap_or_else(|| fault::told(&Fault::Deadline, None));
                    let error = fault::beyond_retry_budget(error);
                    return Err(stopped(tally, attempts, Stopped::RetryBudget, error));
                }
                self.handle.metrics().retries_total.with_label_values(&[step.backend.as_str()]).inc();
            }
            attempts += 1;
            tally.attempt(step, clock.now().since(asked));
            if step.reason == Reason::LeastBad {
                let counter = &self.handle.metrics().least_bad_attempts_total;
                counter.with_label_values(&[step.backend.as_str()]).inc();
            }
            let strict = self.handle.journal().is_some_and(Journal::is_strict);
            if strict && let Err(why) = tally.durable().await {
                lease.unused();
                failure = Some(fault::not_durable(why, step));
                continue;
            }
            // A strict ledger wants each attempt on disk before it is sent: none is sent in a hurry.
            let mut rival =
                candidates.rival().filter(|_| attempts < retries.attempts_max && !strict).cloned();
            rival = rival.filter(|rival| self.unbookable(snapshot, rival).is_none());
            let hedged_at = rival.as_ref().map(|rival| rival.index);
            let mut lease = lease;
            lease.sent(request.input_tokens);
            let course = Course { call, request, snapshot, tokens, deadline };
            let raced = self.race(&course, step, lease, outgoing, &mut rival, tally).await;
            if let Some(index) = hedged_at.filter(|_| rival.is_none()) {
                candidates.used.push(index);
                attempts += 1;
            }
            match raced {
                // Its intent was on its way to the disk while the backend worked.
                Ok((step, begun, lease)) => match tally.durable().await {
                    Ok(()) => {
                        if let Some(account) = account_limit::of(snapshot, &step) {
                            tally.allowance.draws_on(account);
                        }
                        return Ok((step, begun, lease));
                    }
                    Err(why) => failure = Some(fault::not_durable(why, &step)),
                },
                Err(failed) => {
                    let (step, lease, fault) = *failed;
                    tracing::warn!(backend = %step.backend, model = %step.model, attempt = attempts, %fault, "attempt failed");
                    tally.failed(&step, &fault);
                    lease.fail(&fault);
                    let told = fault::told(&fault, Some(&step));
                    if !fault.may_retry() {
                        return Err(stopped(tally, attempts, Stopped::NotRetriable, told));
                    }
                    // Nothing was sent: to go another way to that backend is no further attempt at it.
                    let unconnected = matches!(fault, Fault::Connect(_));
                    if unconnected
                        && candidates
                            .unconnected(&step, |closed| self.around(snapshot, &step, tokens, closed))
                    {
                        attempts -= 1;
                    }
                    if attempts >= retries.attempts_max {
                        return Err(stopped(tally, attempts, Stopped::AttemptsMax, told));
                    }
                    failure = Some(told);
                }
            }
        }
        if failure.is_none()
            && !refusals.is_busy()
            && let Some((error, account)) = account_limit::used_up(snapshot, plan, tokens, clock.now())
        {
            tally.allowance.draws_on(account);
            failure = Some(error);
        }
        let error = failure.or_else(|| refusals.told()).unwrap_or_else(|| {
            let wait = |backend: &BackendId| self.handle.shortest_wait(snapshot, |id| id == backend);
            fault::nothing_can_serve(call, request, plan, clock.now(), wait)
        });
        Err(stopped(tally, attempts, Stopped::NoCandidateLeft, error))
    }

    /// The backend of `step` through a peer that is not `closed`, where one reaches it well.
    fn around(
        &self,
        snapshot: &Snapshot,
        step: &Step,
        tokens: u32,
        closed: &dyn Fn(&NodeId) -> bool,
    ) -> Option<Step> {
        let now = self.handle.clock().now();
        let load = snapshot.load(step.index, tokens, now);
        let closed = |peer: &NodeId| closed(peer) || self.handle.is_relay_shunned(peer);
        step.around(&snapshot.view, &load, &snapshot.policy, closed, now)
    }

    fn retries(&self) -> MutexGuard<'_, RetryBudget> {
        // A panic while holding the lock cannot leave it inconsistent: every change is one step.
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing may be begun at `step` for want of a ledger to keep it in.
    fn unbookable(&self, snapshot: &Snapshot, step: &Step) -> Option<ApiError> {
        let external = !snapshot.view.backends[step.index].spec.is_cluster();
        let why = self.handle.journal()?.refuses(external)?;
        self.handle.metrics().ledger_refused_total.with_label_values(&["broken"]).inc();
        Some(fault::not_durable(why, step))
    }
}

/// Notes why trying ended, where an attempt had failed before.
fn stopped(tally: &mut Tally, attempts: u32, why: Stopped, error: ApiError) -> ApiError {
    if attempts > 0 {
        tally.stopped(why);
    }
    error
}
