//! What one request came to: its decision record, metrics and settlement, booked exactly once.
//!
//! How its attempts are settled stands in [`settlement`], what becomes of two at the same time in [`race`],
//! what metrics compare in [`figures`], the decision record in [`record`].

mod figures;
mod race;
pub(super) mod record;
pub(super) mod settlement;
mod telling;

use super::Call;
use super::account::{Account, End};
use super::allowance::Allowance;
use super::estimate::Estimates;
use crate::decisions::{Attempt, Circumstances, Decision, Decisions, Outcome, PassedOver, Stopped};
use crate::trace::{Trail, error_word, operation_word};
use llm_router_actors::Handle;
use llm_router_actors::ledger::NotDurable;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::cost::entry::Outcome as Ended;
use llm_router_logic::cost::shape::TextShape;
use llm_router_logic::fault::{ApiError, Fault};
use llm_router_logic::guard::hedge::HedgeBudget;
use llm_router_logic::money::Money;
use llm_router_logic::request::Request;
use llm_router_logic::route::{Plan, Step};
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::wire::{Operation, Reply};
use record::open_record;
use settlement::Who;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The status booked for a request whose client went away (nginx's convention).
pub(super) const CLIENT_CLOSED: u16 = 499;

/// What a tally reads from and writes to.
pub(super) struct Sources {
    pub(super) handle: Handle,
    pub(super) decisions: Arc<Decisions>,
    pub(super) estimates: Arc<Estimates>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) hedges: Arc<Mutex<HedgeBudget>>,
}

/// An open account of one request. Dropped while open, it books a client that went away.
pub(super) struct Tally {
    sources: Sources,
    record: Decision,
    started: Moment,
    text: TextShape,
    who: Who,
    /// The latest attempt.
    account: Option<Account>,
    /// The one at the same time, while neither has begun to answer.
    hedge: Option<Account>,
    /// Whether it has begun to answer.
    began: bool,
    /// What earlier attempts have cost; `None` = one of them is unpriced.
    spent: Option<Money>,
    /// The request, where the plan left backends out that the record shall tell of.
    rest_of: Option<Request>,
    booked: bool,
    /// What is asked of the model, in OpenTelemetry's word.
    operation: &'static str,
    /// What its trace will tell.
    trail: Trail,
    /// The word of the error its client was told.
    error: Option<&'static str>,
    /// What the request draws on.
    pub(super) allowance: Allowance,
}

impl Tally {
    pub(super) fn open(
        sources: Sources,
        call: &Call,
        request: &Request,
        plan: &Plan,
        started: Moment,
    ) -> Self {
        let Sources { handle, snapshot, .. } = &sources;
        let record = open_record(handle, request, plan);
        if let Some(first) = plan.steps.first() {
            let kind =
                if snapshot.view.backends[first.index].spec.is_cluster() { "cluster" } else { "external" };
            let labels = [first.backend.as_str(), kind, first.reason.as_str()];
            handle.metrics().routing_decisions_total.with_label_values(&labels).inc();
        }
        Self {
            sources,
            record,
            started,
            text: call.inspected.text,
            who: Who {
                tenant: call.principal.tenant.to_string(),
                key: call.principal.key.as_ref().map(ToString::to_string).unwrap_or_default(),
                experiment: String::new(),
                stream: call.inspected.stream,
                free: call.operation == Operation::CountTokens,
            },
            account: None,
            hedge: None,
            began: false,
            spent: Some(Money::ZERO),
            rest_of: (plan.not_looked_at > 0).then(|| request.clone()),
            booked: false,
            operation: operation_word(call.operation, call.dialect),
            trail: Trail::default(),
            error: None,
            allowance: Allowance::default(),
        }
    }

    /// Its trace is told from `trail`.
    pub(super) fn traced(&mut self, trail: Trail) {
        self.trail = trail;
    }

    /// What of it is noted for its trace.
    pub(super) fn trail(&self) -> &Trail {
        &self.trail
    }

    /// What the request draws on: settled with it.
    pub(super) fn allow(&mut self, allowance: Allowance) {
        self.allowance = allowance;
    }

    /// Notes what else bore on the decision.
    pub(super) fn note(&mut self, circumstances: Circumstances) {
        self.who.experiment = circumstances.experiments.join(",");
        self.record.circumstances = circumstances;
    }

    /// Id of the decision record.
    pub(super) fn id(&self) -> &str {
        &self.record.id
    }

    /// Estimated tokens, input and output together.
    pub(super) fn tokens(&self) -> u32 {
        self.record.predicted_input_tokens.saturating_add(self.record.predicted_output_tokens)
    }

    /// Attempts so far.
    pub(super) fn attempts(&self) -> usize {
        self.record.attempts.len()
    }

    /// A candidate had no place for it.
    pub(super) fn passed_over(&mut self, step: &Step, why: String) {
        self.record.passed_over.push(PassedOver { backend: step.backend.clone(), why });
    }

    /// No further backend is tried.
    pub(super) fn stopped(&mut self, why: Stopped) {
        self.record.stopped = Some(why);
        let metrics = self.sources.handle.metrics();
        metrics.retries_stopped_total.with_label_values(&[why.as_str()]).inc();
    }

    /// An attempt begins, after it `waited` for a place; the one before it, if any, is settled.
    pub(super) fn attempt(&mut self, step: &Step, waited: Duration) {
        self.settle_failed();
        self.allowance.attempt();
        self.record.attempts.push(Attempt {
            backend: step.backend.clone(),
            waited_ms: millis(waited),
            model: Arc::clone(&step.model),
            via: step.via.clone(),
            hedge: None,
            fault: None,
        });
        self.trail.attempt(step, waited, false, &self.sources.snapshot);
        self.began = false;
        self.record.ttft_ms = None;
        self.account = Some(self.open_account(step));
    }

    /// Waits until the latest attempt would survive a crash of this router.
    ///
    /// # Errors
    /// Why its answer must not be passed on.
    pub(super) async fn durable(&mut self) -> Result<(), NotDurable> {
        let began = self.now();
        let (Some(account), Some(journal)) = (&mut self.account, self.sources.handle.journal()) else {
            return Ok(());
        };
        let written = account.durable(journal).await.inspect_err(|why| {
            let label = match why {
                NotDurable::Broken => "broken",
                NotDurable::Slow => "slow",
            };
            self.sources.handle.metrics().ledger_refused_total.with_label_values(&[label]).inc();
        });
        self.tell_ledger(began, written);
        written
    }

    /// The latest attempt failed.
    pub(super) fn failed(&mut self, step: &Step, fault: &Fault) {
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.fault = Some(fault.to_string());
        }
        if let Some(account) = &mut self.account {
            account.failed(fault);
        }
        self.trail.failed(&step.backend, fault);
        let metrics = self.sources.handle.metrics();
        metrics.attempt_failures_total.with_label_values(&[step.backend.as_str(), fault.label()]).inc();
        self.count_external(step, fault.label());
    }

    /// The latest attempt has begun to answer; said again, it changes nothing.
    pub(super) fn began(&mut self, step: &Step, ttft: Option<Duration>) {
        if std::mem::replace(&mut self.began, true) {
            return;
        }
        self.record.predicted_cost = step.predicted_cost();
        let Some(ttft) = ttft else { return };
        self.trail.first_token(&step.backend, ttft);
        self.record.ttft_ms = Some(millis(ttft));
        if let Some(account) = &mut self.account {
            account.first_token(ttft);
        }
        let histogram =
            self.sources.handle.metrics().ttft_seconds.with_label_values(&[step.backend.as_str()]);
        histogram.observe(ttft.as_secs_f64());
    }

    /// Notes usage seen so far.
    pub(super) fn saw(&mut self, reply: &Reply) {
        if let Some(account) = &mut self.account {
            account.saw(reply);
        }
    }

    /// Answered in full. Returns the cost, `None` where unpriced.
    pub(super) fn served(mut self) -> Option<Money> {
        if let Some(account) = &self.account {
            self.count_external(&account.step, "200");
        }
        let reported = self.account.as_ref().and_then(Account::reported);
        if let Some(usage) = &reported {
            self.sources.estimates.learn(&self.who.tenant, &self.record.model, &self.text, usage);
        }
        self.book(Outcome::Served, 200);
        self.compare(reported);
        self.record.cost
    }

    /// The client was told an error, before or within the answer.
    pub(super) fn refused(mut self, error: &ApiError) {
        self.record.error = Some(error.message.clone());
        self.error = Some(error_word(error.kind));
        self.book(Outcome::Failed, error.status);
    }

    fn book(&mut self, outcome: Outcome, status: u16) {
        if std::mem::replace(&mut self.booked, true) {
            return;
        }
        let now = self.now();
        let duration = now.since(self.started);
        let chosen = self.account.as_ref().map(|account| account.step.clone());
        let outcome_told = match outcome {
            Outcome::Served => Ended::Served,
            Outcome::Cancelled => Ended::Cancelled,
            Outcome::Failed | Outcome::Running => Ended::Failed,
        };
        let end = End { outcome: outcome_told, status, is_last: true, now };
        if let Some(mut lost) = self.hedge.take() {
            // The client went away while both were silent.
            lost.lose_hedge();
            self.settle_hedge(lost, Ended::Cancelled);
        }
        let charged = self.settle(end).unwrap_or_else(|| self.settle_untried(end));
        if let Some(cost) = charged.cost {
            self.sources.hedges.lock().unwrap_or_else(PoisonError::into_inner).spent(cost, now);
        }
        self.allowance.end(charged.usage.total_input() + charged.usage.total_output());
        let metrics = self.sources.handle.metrics();
        let label = chosen.as_ref().map_or("none", |step| step.backend.as_str());
        metrics.requests_total.with_label_values(&[label, &status.to_string()]).inc();
        metrics.request_duration_seconds.with_label_values(&[label]).observe(duration.as_secs_f64());
        if outcome == Outcome::Cancelled {
            metrics.cancelled_requests_total.inc();
        }
        let record = &mut self.record;
        record.outcome = outcome;
        record.status = status;
        record.duration_ms = millis(duration);
        record.cost = self.spent.zip(charged.cost).map(|(spent, cost)| spent + cost);
        record.usage = charged.usage;
        record.usage_estimated = charged.estimated;
        if let Some(step) = chosen {
            record.reason = Some(step.reason);
            record.backend_model = Some(Arc::clone(&step.model));
            record.backend = Some(step.backend);
        }
        self.count_arms();
        self.judge_rest();
        self.tell(duration);
        self.sources.decisions.keep(self.record.clone());
    }

    fn now(&self) -> Moment {
        self.sources.handle.clock().now()
    }

    fn is_external(&self, step: &Step) -> bool {
        !self.sources.snapshot.view.backends[step.index].spec.is_cluster()
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.book(Outcome::Cancelled, CLIENT_CLOSED);
    }
}
