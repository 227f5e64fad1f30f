//! The attempts of one request, in the plan's order, up to the first content byte.
//!
//! Owns which step is tried next and when trying ends. The client has seen nothing yet: a failed attempt
//! leaves no trace but its record.

use super::hedge::{Course, Finish, Racer, locked};
use super::running::{Begun, Progress};
use super::tally::Tally;
use super::{Call, Relay, fault};
use crate::config::Timeouts;
use crate::decisions::Stopped;
use crate::outbound::Answer;
use crate::peer_relay::{Ask, Unreached};
use llm_router_actors::gate::NotAdmitted;
use llm_router_actors::lease::Lease;
use llm_router_actors::ledger::Journal;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind, Fault};
use llm_router_logic::guard::retry::RetryBudget;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::request::Request;
use llm_router_logic::route::{Plan, Reason, Step};
use llm_router_logic::time::Moment;
use llm_router_logic::wire::{self, Exchange, Reply, ReplyError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The least a client is told to stay away where all are busy.
const RETRY_LEAST: Duration = Duration::from_secs(1);

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
        while let Some((step, patience)) = candidates.next() {
            let left = clock.until(deadline);
            if left.is_zero() {
                let error = failure.unwrap_or_else(|| fault::told(&Fault::Deadline, None));
                return Err(stopped(tally, attempts, Stopped::Deadline, error));
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
                    candidates.refused(step, patience, refused, left);
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
            // Money is set aside for one attempt at a time: where a budget applies there is no second beside it.
            if tally.allowance.has_budget() {
                rival = None;
            }
            rival = rival.filter(|rival| self.unbookable(snapshot, rival).is_none());
            let hedged_at = rival.as_ref().map(|rival| rival.index);
            let course = Course { call, snapshot, tokens, deadline };
            let raced = self.race(&course, step, lease, outgoing, &mut rival, tally).await;
            if let Some(index) = hedged_at.filter(|_| rival.is_none()) {
                candidates.used.push(index);
                attempts += 1;
            }
            match raced {
                // Its intent was on its way to the disk while the backend worked.
                Ok((step, begun, lease)) => match tally.durable().await {
                    Ok(()) => return Ok((step, begun, lease)),
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
                    if attempts >= retries.attempts_max {
                        return Err(stopped(tally, attempts, Stopped::AttemptsMax, told));
                    }
                    failure = Some(told);
                }
            }
        }
        let error = failure.or_else(|| refusals.told()).unwrap_or_else(|| {
            let wait = |backend: &BackendId| self.handle.shortest_wait(snapshot, |id| id == backend);
            fault::nothing_can_serve(call, request, plan, clock.now(), wait)
        });
        Err(stopped(tally, attempts, Stopped::NoCandidateLeft, error))
    }

    fn retries(&self) -> MutexGuard<'_, RetryBudget> {
        // A panic while holding the lock cannot leave it inconsistent: every change is one step.
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the request and reads up to where falling back ends: the first content byte of a stream,
    /// the end of a plain answer, of which the client has seen nothing before.
    pub(super) async fn begin(
        &self,
        step: &Step,
        lease: &mut Lease,
        outgoing: Outgoing,
        deadline: Moment,
        watched: Watched<'_, '_>,
    ) -> Result<Begun, Fault> {
        let Outgoing { encoded, exchange, dropped } = outgoing;
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
        let patience = clock.until(first_byte_by);
        let sent = match &step.via {
            None => self.outbound.send(&step.backend, encoded, patience).await,
            Some(peer) => {
                let (decision, tokens) = watched.told();
                let (backend, model, decision) = (&step.backend, &*step.model, &*decision);
                let (request, left) = (encoded, clock.until(deadline));
                let ask = Ask { backend, model, tokens, request, patience, left, decision };
                self.send_through(peer, ask).await
            }
        };
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
                watched.began(step, lease.ttft());
            }
            progress.note(&reply, clock.now());
            lease.saw_output(reply.output_events());
            watched.saw(&reply);
        }
        Ok(Begun { answer, reply, head, ended, content_type, dropped, progress })
    }

    /// Why nothing may be begun at `step` for want of a ledger to keep it in.
    fn unbookable(&self, snapshot: &Snapshot, step: &Step) -> Option<ApiError> {
        let external = !snapshot.view.backends[step.index].spec.is_cluster();
        let why = self.handle.journal()?.refuses(external)?;
        self.handle.metrics().ledger_refused_total.with_label_values(&["broken"]).inc();
        Some(fault::not_durable(why, step))
    }

    /// Sends the request through the router of `peer`. One whose relay cannot be reached is left alone for a
    /// while.
    async fn send_through(&self, peer: &NodeId, ask: Ask<'_>) -> Result<Answer, Fault> {
        let counted = |result: &str| {
            let counter = &self.handle.metrics().relayed_requests_total;
            counter.with_label_values(&["sent", result]).inc();
        };
        let snapshot = self.handle.snapshot();
        let sent = match snapshot.view.relay_of(peer) {
            Some(address) => self.outbound.send_through(peer, address, ask).await,
            None => Err((Fault::Connect(format!("router `{peer}` relays no more")), Unreached(false))),
        };
        match sent {
            Ok(answer) => {
                counted("served");
                Ok(answer)
            }
            Err((fault, Unreached(unreached))) => {
                counted(if unreached { "unreached" } else { fault.label() });
                if unreached {
                    self.handle.relay_failed(peer);
                }
                Err(fault)
            }
        }
    }

    /// The request in the dialect of `step`.
    pub(super) fn outgoing(
        &self,
        call: &Call,
        snapshot: &Snapshot,
        step: &Step,
    ) -> Result<Outgoing, ApiError> {
        let kind = snapshot.view.backends[step.index].spec.kind;
        let encoded = wire::encode(&call.inbound(), &call.inspected, kind, &step.model)?;
        let exchange = self.exchange(call, &encoded, kind, &step.model);
        let dropped = encoded.dropped.join(", ");
        Ok(Outgoing { encoded, exchange, dropped })
    }

    fn exchange(&self, call: &Call, encoded: &wire::Encoded, kind: Kind, model: &str) -> Exchange {
        let id = format!("{:016x}", self.handle.draw());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Exchange::new(&call.inbound(), &call.inspected, encoded, kind, model, id, created)
    }
}

/// A request ready to be sent to one backend.
pub(super) struct Outgoing {
    encoded: wire::Encoded,
    pub(super) exchange: Exchange,
    /// Fields of the client's request that the dialect cannot carry.
    dropped: String,
}

/// Where what is seen of an attempt is noted, which may be one of two at once.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a, 't> {
    pub(super) tally: &'a Mutex<&'t mut Tally>,
    pub(super) finish: &'a Finish,
    pub(super) racer: Racer,
}

impl Watched<'_, '_> {
    fn began(&self, step: &Step, ttft: Option<Duration>) {
        locked(self.tally).began_as(self.racer, step, ttft);
        self.finish.cross(self.racer);
    }

    /// Id of the decision, and the tokens predicted.
    fn told(&self) -> (String, u32) {
        let tally = locked(self.tally);
        (tally.id().to_owned(), tally.tokens())
    }

    fn saw(&self, reply: &Reply) {
        locked(self.tally).saw_as(self.racer, reply);
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

/// How long a place is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// As long as a cluster may take to be eligible at all: there are others to go to.
    Latency,
    /// As long as the client waits: there is nothing better.
    Deadline,
}

/// The steps of a plan in the order they are tried: once around for a place soon, then, of those that
/// are full, the one with the shortest queue that can be waited for.
struct Candidates<'p> {
    steps: std::slice::Iter<'p, Step>,
    full: Vec<(Duration, &'p Step)>,
    /// Indexes of backends that a hedge has tried already.
    used: Vec<usize>,
}

impl<'p> Candidates<'p> {
    fn new(steps: &'p [Step]) -> Self {
        Self { steps: steps.iter(), full: Vec::new(), used: Vec::new() }
    }

    fn next(&mut self) -> Option<(&'p Step, Wait)> {
        let used = &self.used;
        if let Some(step) = self.steps.by_ref().find(|step| !used.contains(&step.index)) {
            let only = self.steps.len() == 0 && self.full.is_empty();
            return Some((step, if only { Wait::Deadline } else { Wait::Latency }));
        }
        let shortest = self.full.iter().enumerate().min_by_key(|(_, (wait, _))| *wait)?.0;
        Some((self.full.swap_remove(shortest).1, Wait::Deadline))
    }

    /// Who would be tried next, if it is well.
    fn rival(&self) -> Option<&'p Step> {
        let mut rest = self.steps.as_slice().iter();
        rest.find(|step| step.reason != Reason::LeastBad && !self.used.contains(&step.index))
    }

    /// `step` had no place within `wait`.
    fn refused(&mut self, step: &'p Step, wait: Wait, refused: NotAdmitted, left: Duration) {
        let estimated = match refused {
            NotAdmitted::TooLate(estimated) => estimated,
            NotAdmitted::TimedOut(_) => Duration::ZERO,
            _ => return,
        };
        if wait == Wait::Latency && step.reason != Reason::LeastBad && estimated <= left {
            self.full.push((estimated, step));
        }
    }
}

/// Why candidates had no place, for the client where none had.
#[derive(Default)]
struct Refusals {
    busy: Option<Duration>,
    closed: Option<Duration>,
}

impl Refusals {
    fn note(&mut self, refused: NotAdmitted, now: Moment) {
        let soonest =
            |known: Option<Duration>, wait: Duration| Some(known.map_or(wait, |known| known.min(wait)));
        match refused {
            NotAdmitted::Closed(until) => self.closed = soonest(self.closed, until.since(now)),
            NotAdmitted::QueueFull(wait) | NotAdmitted::TooLate(wait) => self.busy = soonest(self.busy, wait),
            NotAdmitted::TimedOut(_) | NotAdmitted::Displaced | NotAdmitted::TrialTaken => {
                self.busy = soonest(self.busy, Duration::ZERO);
            }
        }
    }

    /// 503 with the shortest wait expected; it is not the client that is over a limit. `None` where no
    /// candidate was without a place.
    fn told(&self) -> Option<ApiError> {
        let (code, why) = match (self.busy, self.closed) {
            (None, None) => return None,
            (None, Some(_)) => ("rate_limited", "takes no more requests for now"),
            (Some(_), _) => ("overloaded", "is busy and cannot take it in time"),
        };
        let wait = self.busy.into_iter().chain(self.closed).min().unwrap_or_default().max(RETRY_LEAST);
        let why = format!("every backend that could serve this {why}");
        Some(ApiError::new(ErrorKind::Unavailable, why).with_code(code).with_retry_after(wait))
    }
}
