//! What one request came to: its decision record, metrics and settlement, booked exactly once.

use super::estimate::Estimates;
use crate::decisions::{Attempt, Circumstances, Decision, Decisions, Outcome, PassedOver, Stopped};
use llm_router_actors::Handle;
use llm_router_actors::handle::Settlement;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::cost::unit::request_cost;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::fault::{ApiError, Fault};
use llm_router_logic::money::Money;
use llm_router_logic::request::{ANY_MODEL, Request};
use llm_router_logic::route::plan::rest;
use llm_router_logic::route::{Plan, Step};
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::wire::Reply;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The status booked for a request whose client went away (nginx's convention).
const CLIENT_CLOSED: u16 = 499;

/// What a tally reads from and writes to.
pub(super) struct Sources {
    pub(super) handle: Handle,
    pub(super) decisions: Arc<Decisions>,
    pub(super) estimates: Arc<Estimates>,
    pub(super) snapshot: Arc<Snapshot>,
}

/// An open account of one request. Dropped while open, it books a client that went away.
pub(super) struct Tally {
    sources: Sources,
    record: Decision,
    started: Moment,
    text_bytes: usize,
    chosen: Option<Step>,
    /// Whether the latest attempt has begun to answer.
    began: bool,
    usage: Option<Usage>,
    output_events: u64,
    /// The request, where the plan left backends out that the record shall tell of.
    rest_of: Option<Request>,
    booked: bool,
}

impl Tally {
    pub(super) fn open(
        sources: Sources,
        request: &Request,
        text_bytes: usize,
        plan: &Plan,
        started: Moment,
    ) -> Self {
        let Sources { handle, snapshot, .. } = &sources;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Decision {
            id: format!("d-{:016x}", handle.draw()),
            unix_ms: millis(now),
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
        };
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
            text_bytes,
            chosen: None,
            began: false,
            usage: None,
            output_events: 0,
            rest_of: (plan.not_looked_at > 0).then(|| request.clone()),
            booked: false,
        }
    }

    /// Notes what else bore on the decision.
    pub(super) fn note(&mut self, circumstances: Circumstances) {
        self.record.circumstances = circumstances;
    }

    /// Id of the decision record.
    pub(super) fn id(&self) -> &str {
        &self.record.id
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

    /// An attempt begins, after it `waited` for a place.
    pub(super) fn attempt(&mut self, step: &Step, waited: Duration) {
        self.record.attempts.push(Attempt {
            backend: step.backend.clone(),
            waited_ms: millis(waited),
            model: Arc::clone(&step.model),
            fault: None,
        });
        self.chosen = Some(step.clone());
        self.began = false;
        self.record.ttft_ms = None;
        self.usage = None;
        self.output_events = 0;
    }

    /// The latest attempt failed.
    pub(super) fn failed(&mut self, step: &Step, fault: &Fault) {
        if let Some(attempt) = self.record.attempts.last_mut() {
            attempt.fault = Some(fault.to_string());
        }
        let metrics = self.sources.handle.metrics();
        metrics.attempt_failures_total.with_label_values(&[step.backend.as_str(), fault.label()]).inc();
        self.count_external(step, fault.label());
    }

    /// The latest attempt has begun to answer; said again, it changes nothing.
    pub(super) fn began(&mut self, step: &Step, ttft: Option<Duration>) {
        if std::mem::replace(&mut self.began, true) {
            return;
        }
        self.record.predicted_cost = step.predicted_cost;
        let Some(ttft) = ttft else { return };
        self.record.ttft_ms = Some(millis(ttft));
        let histogram =
            self.sources.handle.metrics().ttft_seconds.with_label_values(&[step.backend.as_str()]);
        histogram.observe(ttft.as_secs_f64());
    }

    /// Notes usage seen so far.
    pub(super) fn saw(&mut self, reply: &Reply) {
        self.usage = reply.usage();
        self.output_events = reply.output_events();
    }

    /// Answered in full. Returns the cost, `None` where unpriced.
    pub(super) fn served(mut self) -> Option<Money> {
        if let Some(step) = self.chosen.clone() {
            self.count_external(&step, "200");
        }
        if let Some(usage) = &self.usage {
            self.sources.estimates.learn(&self.record.model, self.text_bytes, usage);
            if usage.total_input() > 0 {
                let predicted = f64::from(self.record.predicted_input_tokens);
                let error = (predicted / usage.total_input() as f64 - 1.0).abs();
                self.sources.handle.metrics().input_estimate_error_ratio.observe(error);
            }
        }
        self.book(Outcome::Served, 200);
        self.record.cost
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
        let duration = self.sources.handle.clock().now().since(self.started);
        let began = self.began;
        let usage = match self.usage {
            Some(usage) => usage,
            // Seen but never told: the prompt by its bytes, the answer by its events.
            None if began => {
                self.record.usage_estimated = true;
                Usage {
                    input: self.record.predicted_input_tokens.into(),
                    output: self.output_events,
                    ..Usage::default()
                }
            }
            None => Usage::default(),
        };
        let chosen = self.chosen.take();
        let cost = match &chosen {
            Some(step) if began => self.charge(step, &usage),
            _ => Some(Money::ZERO),
        };
        let externals = self.record.candidates.iter().filter(|step| self.is_external(step));
        let external_cost =
            if began { externals.filter_map(|step| self.charge(step, &usage)).min() } else { None };
        let metrics = self.sources.handle.metrics();
        let label = chosen.as_ref().map_or("none", |step| step.backend.as_str());
        metrics.requests_total.with_label_values(&[label, &status.to_string()]).inc();
        metrics.request_duration_seconds.with_label_values(&[label]).observe(duration.as_secs_f64());
        if outcome == Outcome::Cancelled {
            metrics.cancelled_requests_total.inc();
        }
        self.sources.handle.settle(Settlement {
            backend: chosen.as_ref().map(|step| step.backend.clone()),
            served: outcome == Outcome::Served,
            fallback: self.record.attempts.len() > 1,
            usage,
            cost,
            external_cost,
            ttft: self.record.ttft_ms.map(Duration::from_millis),
            duration,
        });
        let record = &mut self.record;
        record.outcome = outcome;
        record.status = status;
        record.duration_ms = millis(duration);
        record.cost = cost;
        record.external_cost = external_cost;
        record.usage = usage;
        if let Some(step) = chosen {
            record.reason = Some(step.reason);
            record.backend_model = Some(Arc::clone(&step.model));
            record.backend = Some(step.backend);
        }
        self.judge_rest();
        self.sources.decisions.keep(self.record.clone());
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

    /// What `usage` costs at `step`: by the price list of a provider, by the machine cost per 1,000
    /// tokens of a cluster at the throughput the decision saw.
    fn charge(&self, step: &Step, usage: &Usage) -> Option<Money> {
        let spec = &self.sources.snapshot.view.backends[step.index].spec;
        if spec.is_cluster() {
            return Some(request_cost(step.cost_per_1k?, usage.total_input(), usage.total_output()));
        }
        let model = spec.models.iter().find(|model| model.name == step.model)?;
        Some(model.price.as_ref()?.charge(usage, false))
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.book(Outcome::Cancelled, CLIENT_CLOSED);
    }
}
