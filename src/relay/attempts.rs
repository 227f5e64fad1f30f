//! The attempts of one request, in the plan's order, up to the first content byte.
//!
//! Owns which step is tried next and when trying ends. The client has seen nothing yet: a failed attempt
//! leaves no trace but its record.

use super::running::{Begun, Progress};
use super::tally::Tally;
use super::{Call, Relay, fault};
use crate::config::Timeouts;
use crate::decisions::Stopped;
use llm_router_actors::gate::NotAdmitted;
use llm_router_actors::lease::Lease;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind, Fault};
use llm_router_logic::guard::retry::RetryBudget;
use llm_router_logic::request::Request;
use llm_router_logic::route::{Plan, Reason, Step};
use llm_router_logic::time::Moment;
use llm_router_logic::wire::{self, Exchange, Reply, ReplyError};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
        let mut failure: Option<ApiError> = None;
        let mut attempts = 0;
        for (nth, step) in plan.steps.iter().enumerate() {
            let left = clock.until(deadline);
            if left.is_zero() {
                let error = failure.unwrap_or_else(|| fault::told(&Fault::Deadline, None));
                return Err(stopped(tally, attempts, Stopped::Deadline, error));
            }
            if let Some(error) = self.unbookable(snapshot, step) {
                failure.get_or_insert(error);
                continue;
            }
            // The last candidate is waited for as long as the client waits; the others for as long
            // as a cluster may take to be eligible at all.
            let is_last = nth + 1 == plan.steps.len();
            let max_wait = match (step.reason, is_last) {
                // It is tried since it may be well again; nobody waits for that.
                (Reason::LeastBad, _) => Duration::ZERO,
                (_, true) => left,
                (_, false) => left.min(snapshot.policy.max_latency),
            };
            let asked = clock.now();
            let admitted =
                self.handle.lease(snapshot, step, tokens, max_wait, snapshot.policy.max_queue_depth).await;
            let mut lease = match admitted {
                Ok(lease) => lease,
                Err(refused) => {
                    let error = not_admitted(refused, step, clock.now());
                    tally.passed_over(step, error.message.clone());
                    failure.get_or_insert(error);
                    continue;
                }
            };
            // Only now, so that a request that waits holds its body once.
            let kind = snapshot.view.backends[step.index].spec.kind;
            let encoded = match wire::encode(&call.inbound(), &call.inspected, kind, &step.model) {
                Ok(encoded) => encoded,
                // This dialect cannot carry the request; another backend's may.
                Err(error) => {
                    lease.unused();
                    tally.passed_over(step, error.message.clone());
                    failure.get_or_insert(error);
                    continue;
                }
            };
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
            let exchange = self.exchange(call, &encoded, kind, &step.model);
            let dropped = encoded.dropped.join(", ");
            match self.begin(step, &mut lease, encoded, exchange, deadline, tally).await {
                // Its intent was on its way to the disk while the backend worked.
                Ok(begun) => match tally.durable().await {
                    Ok(()) => return Ok((step.clone(), Begun { dropped, ..begun }, lease)),
                    Err(why) => failure = Some(fault::not_durable(why, step)),
                },
                Err(fault) => {
                    tracing::warn!(backend = %step.backend, model = %step.model, attempt = attempts, %fault, "attempt failed");
                    tally.failed(step, &fault);
                    lease.fail(&fault);
                    let told = fault::told(&fault, Some(step));
                    if !fault.may_retry() {
                        return Err(stopped(tally, attempts, Stopped::NotRetriable, told));
                    }
                    if attempts >= retries.attempts_max {
                        return Err(stopped(tally, attempts, Stopped::AttemptsMax, told));
                    }
                    failure = Some(told);
                }
            }
        }
        let error = failure.unwrap_or_else(|| fault::nothing_can_serve(call, request, plan, clock.now()));
        Err(stopped(tally, attempts, Stopped::NoCandidateLeft, error))
    }

    fn retries(&self) -> MutexGuard<'_, RetryBudget> {
        // A panic while holding the lock cannot leave it inconsistent: every change is one step.
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the request and reads up to where falling back ends: the first content byte of a stream,
    /// the end of a plain answer, of which the client has seen nothing before.
    async fn begin(
        &self,
        step: &Step,
        lease: &mut Lease,
        encoded: wire::Encoded,
        exchange: Exchange,
        deadline: Moment,
        tally: &mut Tally,
    ) -> Result<Begun, Fault> {
        let clock = self.handle.clock();
        let Timeouts { first_byte, whole_answer, idle, .. } = self.timeouts;
        let first_byte = if exchange.upstream_streams { first_byte } else { whole_answer };
        let first_byte_by = (clock.now() + first_byte).min(deadline);
        let timed_out = |fault: Fault| match fault {
            Fault::FirstByteTimeout(_) | Fault::IdleTimeout(_) if clock.until(deadline).is_zero() => {
                Fault::Deadline
            }
            Fault::FirstByteTimeout(_) => Fault::FirstByteTimeout(first_byte),
            other => other,
        };
        let Exchange { client_streams, upstream_streams, .. } = exchange;
        let content_type = exchange.content_type();
        let mut reply = Reply::new(exchange);
        let sent = self.outbound.send(&step.backend, encoded, clock.until(first_byte_by)).await;
        let mut answer = sent.map_err(timed_out)?;
        let mut head = Vec::new();
        let mut ended = false;
        let mut progress = Progress::new(clock.now(), upstream_streams);
        while !(ended || client_streams && reply.has_content()) {
            let chunk = if reply.has_read_content() {
                answer.chunk(progress.left(idle, clock.now()).min(clock.until(deadline))).await
            } else {
                let chunk = answer.chunk(clock.until(first_byte_by)).await;
                chunk.map_err(|fault| match fault {
                    Fault::IdleTimeout(_) => Fault::FirstByteTimeout(first_byte),
                    other => other,
                })
            };
            match chunk.map_err(timed_out)? {
                Some(chunk) => reply.push(&chunk, &mut head).map_err(reply_fault)?,
                None => {
                    reply.finish(&mut head).map_err(reply_fault)?;
                    ended = true;
                }
            }
            if reply.has_read_content() || ended {
                // An upstream that does not stream shows its first token with its last: that is no
                // time to first token.
                if upstream_streams {
                    lease.first_token();
                }
                tally.began(step, lease.ttft());
            }
            progress.note(&reply, clock.now());
            lease.saw_output(reply.output_events());
            tally.saw(&reply);
        }
        Ok(Begun { answer, reply, head, ended, content_type, dropped: String::new(), progress })
    }

    /// Why nothing may be begun at `step` for want of a ledger to keep it in.
    fn unbookable(&self, snapshot: &Snapshot, step: &Step) -> Option<ApiError> {
        let external = !snapshot.view.backends[step.index].spec.is_cluster();
        let why = self.handle.journal()?.refuses(external)?;
        self.handle.metrics().ledger_refused_total.with_label_values(&["broken"]).inc();
        Some(fault::not_durable(why, step))
    }

    fn exchange(&self, call: &Call, encoded: &wire::Encoded, kind: Kind, model: &str) -> Exchange {
        let id = format!("{:016x}", self.handle.draw());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Exchange::new(&call.inbound(), &call.inspected, encoded, kind, model, id, created)
    }
}

/// Notes why trying ended, where an attempt had failed before.
fn stopped(tally: &mut Tally, attempts: u32, why: Stopped, error: ApiError) -> ApiError {
    if attempts > 0 {
        tally.stopped(why);
    }
    error
}

pub(super) fn reply_fault(error: ReplyError) -> Fault {
    match error {
        ReplyError::Upstream { status, error } => {
            Fault::Status { status: status.unwrap_or(502), retry_after: None, error }
        }
        ReplyError::Incomplete(why) => Fault::Broken(why),
        ReplyError::Malformed(why) => Fault::Malformed(why),
    }
}

fn not_admitted(refused: NotAdmitted, step: &Step, now: Moment) -> ApiError {
    let busy = |why: String| ApiError::new(ErrorKind::Unavailable, why).with_code("overloaded");
    match refused {
        NotAdmitted::Closed(until) => ApiError::new(
            ErrorKind::RateLimit,
            format!("backend `{}` takes no more requests for now", step.backend),
        )
        .with_code("rate_limited")
        .with_retry_after(until.since(now)),
        NotAdmitted::QueueFull => busy(format!("backend `{}` is busy and its queue is full", step.backend)),
        NotAdmitted::TimedOut(waited) => {
            busy(format!("no slot became free at backend `{}` within {waited:?}", step.backend))
        }
        NotAdmitted::TrialTaken => busy(format!("backend `{}` is being tried after an outage", step.backend)),
    }
}
