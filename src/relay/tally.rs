//! What one request came to: its decision record, metrics and settlement, booked exactly once.

use super::Call;
use super::account::{Account, Charged, End, unix_ms};
use super::allowance::Allowance;
use super::estimate::Estimates;
use super::hedge::Racer;
use crate::decisions::{Attempt, Circumstances, Decision, Decisions, Hedge, Outcome, PassedOver, Stopped};
use llm_router_actors::Handle;
use llm_router_actors::handle::Settlement;
use llm_router_actors::ledger::NotDurable;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::cost::entry::{Basis, Charge, Flags, Intent, Outcome as Ended};
use llm_router_logic::cost::shape::TextShape;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::fault::{ApiError, Fault};
use llm_router_logic::guard::hedge::HedgeBudget;
use llm_router_logic::money::Money;
use llm_router_logic::request::{ANY_MODEL, Request};
use llm_router_logic::route::plan::rest;
use llm_router_logic::route::{Plan, Step};
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::wire::{Operation, Reply};
use prometheus::Histogram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The status booked for a request whose client went away (nginx's convention).
const CLIENT_CLOSED: u16 = 499;

/// What a tally reads from and writes to.
pub(super) struct Sources {
    pub(super) handle: Handle,
    pub(super) decisions: Arc<Decisions>,
    pub(super) estimates: Arc<Estimates>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) hedges: Arc<Mutex<HedgeBudget>>,
}

/// What the ledger keeps of a request beside its attempts.
struct Who {
    tenant: String,
    key: String,
    experiment: String,
    stream: bool,
    /// Counting tokens costs nothing anywhere.
    free: bool,
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
            allowance: Allowance::default(),
        }
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
        self.began = false;
        self.record.ttft_ms = None;
        self.account = Some(self.open_account(step));
    }

    fn open_account(&self, step: &Step) -> Account {
        let handle = &self.sources.handle;
        let external = self.is_external(step);
        let basis = self.basis(step);
        let number = u32::try_from(self.record.attempts.len()).unwrap_or(u32::MAX);
        let intent = |basis| self.intent(number, Some(step), external, basis);
        let (journal, now) = (handle.journal(), handle.clock().now());
        let input_tokens = self.record.predicted_input_tokens;
        Account::open(step, external, basis, intent, journal, input_tokens, now)
    }

    /// Waits until the latest attempt would survive a crash of this router.
    ///
    /// # Errors
    /// Why its answer must not be passed on.
    pub(super) async fn durable(&mut self) -> Result<(), NotDurable> {
        let (Some(account), Some(journal)) = (&mut self.account, self.sources.handle.journal()) else {
            return Ok(());
        };
        account.durable(journal).await.inspect_err(|why| {
            let label = match why {
                NotDurable::Broken => "broken",
                NotDurable::Slow => "slow",
            };
            self.sources.handle.metrics().ledger_refused_total.with_label_values(&[label]).inc();
        })
    }

    fn intent(&self, attempt: u32, step: Option<&Step>, external: bool, basis: Basis) -> Intent {
        let (record, who) = (&self.record, &self.who);
        let topology = self.sources.handle.topology();
        Intent {
            id: 0,
            request: record.id.clone(),
            attempt,
            at_ms: unix_ms(),
            node: topology.node.to_string(),
            region: topology.region.to_string(),
            tenant: who.tenant.clone(),
            key: who.key.clone(),
            experiment: who.experiment.clone(),
            asked: record.model.clone(),
            backend: step.map(|step| step.backend.to_string()).unwrap_or_default(),
            model: step.map(|step| step.model.to_string()).unwrap_or_default(),
            external,
            stream: who.stream,
            input_tokens: record.predicted_input_tokens,
            output_tokens: record.predicted_output_tokens,
            basis,
        }
    }

    fn basis(&self, step: &Step) -> Basis {
        if self.who.free { Basis::Free } else { basis(&self.sources.snapshot, step) }
    }

    /// Settles an attempt that another one follows.
    fn settle_failed(&mut self) {
        let end = End { outcome: Ended::Failed, status: 0, is_last: false, now: self.now() };
        if let Some(charged) = self.settle(end) {
            self.spent = self.spent.zip(charged.cost).map(|(spent, cost)| spent + cost);
        }
    }

    /// A second attempt is made while the latest is silent.
    pub(super) fn hedged(&mut self, step: &Step) {
        self.record.attempts.push(Attempt {
            backend: step.backend.clone(),
            waited_ms: 0,
            model: Arc::clone(&step.model),
            via: step.via.clone(),
            hedge: Some(Hedge::Running),
            fault: None,
        });
        self.hedge = Some(self.open_account(step));
    }

    /// The other one of two attempts has begun to answer. Returns what the loser cost.
    pub(super) fn hedge_lost(&mut self, loser: Racer) -> Option<Money> {
        let (first, hedge) = match loser {
            Racer::First => (Hedge::Lost, Hedge::Won),
            Racer::Hedge => (Hedge::Won, Hedge::Lost),
        };
        self.mark_hedge(first, hedge, loser == Racer::First);
        let mut lost = self.hedge.take()?;
        self.count_hedge(&lost.step, Hedge::Lost);
        let won = self.account.as_ref().map(|won| (won.step.clone(), won.ttft()));
        if let Some((step, ttft)) = won {
            self.count_hedge(&step, Hedge::Won);
            self.began(&step, ttft);
        }
        lost.lose_hedge();
        self.settle_hedge(lost, Ended::Cancelled)
    }

    /// The first of two attempts failed; the hedge goes on alone. Returns what the hedge has cost beyond
    /// the fallback it has become.
    pub(super) fn first_failed(&mut self, step: &Step, fault: &Fault) -> Option<Money> {
        self.mark_hedge(Hedge::Failed, Hedge::Alone, true);
        let failed = self.hedge.take()?;
        self.count_failed(failed, step, fault);
        Some(Money::ZERO)
    }

    /// The hedge failed; the first goes on alone. Returns what the hedge cost.
    pub(super) fn hedge_failed(&mut self, step: &Step, fault: &Fault) -> Option<Money> {
        self.mark_hedge(Hedge::Alone, Hedge::Failed, false);
        let failed = self.hedge.take()?;
        self.count_failed(failed, step, fault)
    }

    fn count_failed(&mut self, mut failed: Account, step: &Step, fault: &Fault) -> Option<Money> {
        let before = self.record.attempts.len().checked_sub(2)?;
        if let Some(attempt) = self.record.attempts.get_mut(before) {
            attempt.fault = Some(fault.to_string());
        }
        failed.failed(fault);
        self.count_hedge(step, Hedge::Failed);
        let metrics = self.sources.handle.metrics();
        metrics.attempt_failures_total.with_label_values(&[step.backend.as_str(), fault.label()]).inc();
        self.count_external(step, fault.label());
        self.settle_hedge(failed, Ended::Failed)
    }

    /// Says how the two latest attempts fared against each other. Whoever goes on comes last; `swap` says
    /// that this is the hedge, whose account then is the one of the latest attempt.
    fn mark_hedge(&mut self, first: Hedge, hedge: Hedge, swap: bool) {
        let count = self.record.attempts.len();
        if let [.., one, other] = &mut self.record.attempts[..] {
            (one.hedge, other.hedge) = (Some(first), Some(hedge));
        }
        if swap {
            std::mem::swap(&mut self.account, &mut self.hedge);
        } else if count >= 2 {
            self.record.attempts.swap(count - 2, count - 1);
        }
    }

    fn count_hedge(&self, step: &Step, how: Hedge) {
        let labels = [step.backend.as_str(), how.as_str()];
        self.sources.handle.metrics().hedges_total.with_label_values(&labels).inc();
    }

    /// Settles an attempt beside which another one goes on.
    fn settle_hedge(&mut self, account: Account, outcome: Ended) -> Option<Money> {
        let end = End { outcome, status: 0, is_last: false, now: self.now() };
        let charged = self.settle_account(account, end);
        self.spent = self.spent.zip(charged.cost).map(|(spent, cost)| spent + cost);
        let cost = charged.cost?;
        self.sources.handle.metrics().hedge_cost_usd_total.inc_by(cost.as_usd());
        Some(cost)
    }

    fn settle(&mut self, end: End) -> Option<Charged> {
        let account = self.account.take()?;
        Some(self.settle_account(account, end))
    }

    fn settle_account(&mut self, account: Account, end: End) -> Charged {
        let externals = self.record.candidates.iter().filter(|step| self.is_external(step));
        let alternative = |usage: &Usage, batch: bool| {
            externals.filter_map(|step| self.basis(step).charge(usage, batch)).min()
        };
        let fallback = self.record.attempts.iter().any(|attempt| attempt.fault.is_some());
        let handle = &self.sources.handle;
        let (charged, settlement) = account.settle(end, handle.journal(), fallback, alternative);
        self.allowance.settle(charged.cost);
        if end.is_last {
            self.record.external_cost = settlement.external_cost;
        }
        handle.settle(settlement);
        charged
    }

    fn now(&self) -> Moment {
        self.sources.handle.clock().now()
    }

    /// The latest attempt failed.
    pub(super) fn failed(&mut self, step: &Step, fault: &Fault) {
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.fault = Some(fault.to_string());
        }
        if let Some(account) = &mut self.account {
            account.failed(fault);
        }
        let metrics = self.sources.handle.metrics();
        metrics.attempt_failures_total.with_label_values(&[step.backend.as_str(), fault.label()]).inc();
        self.count_external(step, fault.label());
    }

    /// One of two attempts has begun to answer; said again, it changes nothing.
    pub(super) fn began_as(&mut self, racer: Racer, step: &Step, ttft: Option<Duration>) {
        match (racer, self.hedge.as_mut()) {
            (Racer::Hedge, Some(hedge)) => {
                if let Some(ttft) = ttft {
                    hedge.first_token(ttft);
                }
            }
            // Whoever is left is the latest attempt.
            _ => self.began(step, ttft),
        }
    }

    /// Notes usage seen so far of one of two attempts.
    pub(super) fn saw_as(&mut self, racer: Racer, reply: &Reply) {
        match (racer, self.hedge.as_mut()) {
            (Racer::Hedge, Some(hedge)) => hedge.saw(reply),
            _ => self.saw(reply),
        }
    }

    /// The latest attempt has begun to answer; said again, it changes nothing.
    pub(super) fn began(&mut self, step: &Step, ttft: Option<Duration>) {
        if std::mem::replace(&mut self.began, true) {
            return;
        }
        self.record.predicted_cost = step.predicted_cost;
        let Some(ttft) = ttft else { return };
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

    /// How far the prediction was from the truth.
    fn compare(&self, reported: Option<Usage>) {
        let Some(usage) = reported else { return };
        let metrics = self.sources.handle.metrics();
        let record = &self.record;
        let error = |predicted: f64, truth: f64| (truth > 0.0).then(|| (predicted / truth - 1.0).abs());
        let observe = |histogram: &Histogram, error: Option<f64>| {
            if let Some(error) = error {
                histogram.observe(error);
            }
        };
        let input = error(record.predicted_input_tokens.into(), usage.total_input() as f64);
        let output = error(record.predicted_output_tokens.into(), usage.total_output() as f64);
        let cost = record.predicted_cost.zip(record.cost);
        let cost = cost.and_then(|(predicted, truth)| error(predicted.as_usd(), truth.as_usd()));
        observe(&metrics.input_estimate_error_ratio, input);
        observe(&metrics.states.output_estimate_error_ratio, output);
        observe(&metrics.states.cost_estimate_error_ratio, cost);
    }

    /// The client was told an error, before or within the answer.
    pub(super) fn refused(mut self, error: &ApiError) {
        self.record.error = Some(error.message.clone());
        self.book(Outcome::Failed, error.status);
    }

    fn count_external(&self, step: &Step, status: &str) {
        if !self.sources.snapshot.view.backends[step.index].spec.is_cluster() {
            let labels = [step.backend.as_str(), &step.model, status];
            self.sources.handle.metrics().external_requests_total.with_label_values(&labels).inc();
        }
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
        self.sources.decisions.keep(self.record.clone());
    }

    /// What came of it, for each arm it is in.
    fn count_arms(&self) {
        let states = &self.sources.handle.metrics().states;
        let arms = self.record.circumstances.experiments.iter();
        for (experiment, arm) in arms.filter_map(|one| one.split_once('=')) {
            let word = match self.record.outcome {
                Outcome::Served => "served",
                Outcome::Cancelled => "cancelled",
                Outcome::Failed | Outcome::Running => "failed",
            };
            states.experiment_requests_total.with_label_values(&[experiment, arm, word]).inc();
            if let Some(cost) = self.record.cost {
                let spent = states.experiment_spend_usd_total.with_label_values(&[experiment, arm]);
                spent.inc_by(cost.as_usd().max(0.0));
            }
            if let Some(ms) = self.record.ttft_ms {
                let ttft = states.experiment_ttft_seconds.with_label_values(&[experiment, arm]);
                ttft.observe(Duration::from_millis(ms).as_secs_f64());
            }
        }
    }

    /// What the plan did not look at, now that nobody waits for the answer.
    fn judge_rest(&mut self) {
        let Some(request) = self.rest_of.take() else { return };
        let (record, snapshot) = (&mut self.record, &*self.sources.snapshot);
        let view = &snapshot.view;
        let (steps, refused) = (&record.candidates, &record.refused);
        for (id, why) in rest(steps, refused, view, snapshot, &request, &snapshot.policy, self.started) {
            match why {
                Some(refusal) => record.refused.push((id, refusal)),
                None => record.not_looked_at.push(id),
            }
        }
    }

    fn is_external(&self, step: &Step) -> bool {
        !self.sources.snapshot.view.backends[step.index].spec.is_cluster()
    }

    /// Books a request that nothing was tried for: it has a row of its own, and costs nothing.
    fn settle_untried(&self, end: End) -> Charged {
        let handle = &self.sources.handle;
        if let Some(journal) = handle.journal() {
            let (intent, _) = journal.intend(self.intent(1, None, false, Basis::Free));
            journal.settle(Charge {
                intent,
                at_ms: unix_ms(),
                outcome: end.outcome,
                status: end.status,
                fault: String::new(),
                is_last: true,
                usage: Usage::default(),
                raw_usage: None,
                cost: Some(Money::ZERO),
                external_cost: None,
                flags: Flags::default().with_if(Flags::DISCONNECTED, end.outcome == Ended::Cancelled),
                ttft_ms: None,
                duration_ms: millis(end.now.since(self.started)),
            });
        }
        handle.settle(Settlement {
            backend: None,
            via: None,
            served: end.outcome == Ended::Served,
            is_last: true,
            fallback: false,
            usage: Usage::default(),
            cost: Some(Money::ZERO),
            external_cost: None,
            ttft: None,
            duration: end.now.since(self.started),
            shadow: false,
        });
        Charged { usage: Usage::default(), estimated: false, cost: Some(Money::ZERO) }
    }
}

/// The record of a request that was just planned.
pub(super) fn open_record(handle: &Handle, request: &Request, plan: &Plan) -> Decision {
    Decision {
        id: format!("d-{:016x}", handle.draw()),
        unix_ms: unix_ms(),
        model: request.model.clone().unwrap_or_else(|| ANY_MODEL.to_owned()),
        strategy: plan.strategy,
        backend: None,
        backend_model: None,
        reason: None,
        outcome: Outcome::Running,
        status: 0,
        error: None,
        attempts: Vec::new(),
        passed_over: Vec::new(),
        stopped: None,
        ttft_ms: None,
        duration_ms: 0,
        predicted_input_tokens: request.input_tokens,
        predicted_output_tokens: request.output_tokens,
        predicted_cost: None,
        cost: None,
        external_cost: None,
        usage: Usage::default(),
        usage_estimated: false,
        candidates: plan.steps.clone(),
        refused: plan.refused.clone(),
        ejection: plan.ejection,
        not_looked_at: Vec::new(),
        circumstances: Circumstances::default(),
    }
}

/// What an attempt at `step` is charged by: the price list of a provider, or the machine cost per 1,000
/// tokens of a cluster at the throughput the decision saw.
pub(super) fn basis(snapshot: &Snapshot, step: &Step) -> Basis {
    let spec = &snapshot.view.backends[step.index].spec;
    if spec.is_cluster() {
        return step.cost_per_1k.map_or(Basis::Unpriced, Basis::Machine);
    }
    let price = spec.models.iter().find(|model| model.name == step.model).and_then(|model| model.price);
    price.map_or(Basis::Unpriced, |price| Basis::Listed(Box::new(price)))
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.book(Outcome::Cancelled, CLIENT_CLOSED);
    }
}
