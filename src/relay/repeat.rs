//! A request that gets an answer made for another one: admitted, recorded and booked like any other, at no cost.
//!
//! Owns what such a request comes to. No backend worked: it has no tokens, and what a kept answer spared stands in
//! the ledger as the raw usage and the price at the best external alternative. A repeat under an idempotency key
//! spares nothing: nobody would have paid twice. It counts as a request against the rate limits, since they protect the
//! router too, and has no tokens; no budget is asked, since it costs nothing. Where the answer comes from is
//! known by [`crate::cache`] and [`crate::idempotency`].

use super::account::unix_ms;
use super::allowance::Allowance;
use super::tally::record::blank_record;
use super::tally::settlement::basis;
use super::{Call, Failed, Relay};
use crate::cache::answer::Whole;
use crate::decisions::{AnsweredFrom, Circumstances, Decision, Decisions, Outcome};
use crate::trace::Trail;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use llm_router_actors::Handle;
use llm_router_actors::handle::{Payer, Settlement};
use llm_router_logic::cost::entry::{Basis, Charge, Flags, Intent, Outcome as Ended};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;
use llm_router_logic::request::Request;
use llm_router_logic::route::plan;
use llm_router_logic::time::{Moment, millis};
use std::sync::Arc;

/// The label of such requests in place of a backend's.
const LABEL: &str = "cache";
/// Stands where a backend's name stands in the ledger: no backend can be called so.
const KEPT_ANSWERS: &str = "(cache)";

/// An open account of such a request. Dropped while open, it books a client that went away.
pub(crate) struct Repeat {
    handle: Handle,
    decisions: Arc<Decisions>,
    allowance: Allowance,
    record: Decision,
    request: Request,
    /// The answer's own tokens, where it spared them.
    spared: Option<Usage>,
    tenant: String,
    key: String,
    stream: bool,
    started: Moment,
    booked: bool,
    limits: Vec<(HeaderName, HeaderValue)>,
    /// What its trace will tell.
    trail: Trail,
}

impl Relay {
    /// Admits a request that gets the answer of decision `of`.
    ///
    /// # Errors
    /// The client's rate limits are used up.
    pub(crate) fn repeat(
        &self,
        call: &Call,
        from: AnsweredFrom,
        of: String,
        started: Moment,
    ) -> Result<Repeat, Box<Failed>> {
        let handle = self.handle.clone();
        let in_arms = self.in_arms(call, self.request(call, None));
        let mut request = in_arms.request;
        let tokens = (request.input_tokens, request.output_tokens);
        (request.input_tokens, request.output_tokens) = (0, 0);
        let allowance = Allowance::admit(&handle, call, &request).map_err(|(error, headers)| {
            let refused = &handle.metrics().requests_total;
            refused.with_label_values(&["none", &error.status.to_string()]).inc();
            Box::new(Failed { error, decision: String::new(), headers })
        })?;
        (request.input_tokens, request.output_tokens) = tokens;
        let limits = allowance.headers(call.dialect);
        let strategy = request.hints.strategy.unwrap_or(handle.snapshot().policy.strategy);
        let record = Decision {
            predicted_cost: Some(Money::ZERO),
            cost: Some(Money::ZERO),
            circumstances: Circumstances {
                cached: true,
                experiments: in_arms.arms,
                answered_from: Some(from),
                answer_of: Some(of),
                ..Circumstances::default()
            },
            ..blank_record(&handle, &request, strategy)
        };
        let trail = self.trail_of(call, &record.id);
        let principal = &call.principal;
        Ok(Repeat {
            handle,
            decisions: Arc::clone(&self.decisions),
            allowance,
            record,
            request,
            spared: None,
            tenant: principal.tenant.to_string(),
            key: principal.key.as_ref().map(ToString::to_string).unwrap_or_default(),
            stream: call.inspected.stream,
            started,
            booked: false,
            limits,
            trail,
        })
    }
}

impl Repeat {
    /// Writes this request's own decision, cost and limits into the headers of `response`.
    pub(crate) fn mark(&mut self, response: &mut Response) {
        let headers = response.headers_mut();
        let own = [
            ("x-llm-router-decision", self.record.id.as_str()),
            ("x-llm-router-reason", "cached"),
            ("x-llm-router-cost-usd", "0"),
            ("x-llm-router-attempts", "0"),
        ];
        for (name, value) in own {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        for (name, value) in std::mem::take(&mut self.limits) {
            headers.insert(name, value);
        }
        self.record.status = response.status().as_u16();
    }

    /// The whole answer was given.
    pub(crate) fn served(mut self, whole: &Whole) {
        self.record.backend_model = Some(Arc::clone(&whole.model));
        let from_cache = matches!(
            self.record.circumstances.answered_from,
            Some(AnsweredFrom::Cache | AnsweredFrom::RunningAnswer)
        );
        if from_cache {
            self.spared = Some(whole.usage);
            if let Some(cost) = whole.cost {
                self.handle.metrics().answers.cache_saved_usd_total.inc_by(cost.as_usd().max(0.0));
            }
        }
        self.book(Outcome::Served, self.record.status);
    }

    /// The answer it shared ended; `None` = it broke off.
    pub(crate) fn ended(mut self, whole: Option<&Whole>) {
        if let Some(whole) = whole {
            return self.served(whole);
        }
        self.record.error = Some("the answer it shared broke off".to_owned());
        self.book(Outcome::Failed, 502);
    }

    /// What the answer's tokens would cost now at the best external alternative.
    fn external_cost(&self) -> Option<Money> {
        let usage = self.spared.as_ref()?;
        let (snapshot, now) = (self.handle.snapshot(), self.handle.clock().now());
        let draw = self.handle.draw();
        let plan = plan(&snapshot.view, &*snapshot, &self.request, &snapshot.policy, draw, now);
        let externals =
            plan.steps.iter().filter(|step| !snapshot.view.backends[step.index].spec.is_cluster());
        externals.filter_map(|step| basis(&snapshot, step).charge(usage, false)).min()
    }

    fn book(&mut self, outcome: Outcome, status: u16) {
        if std::mem::replace(&mut self.booked, true) {
            return;
        }
        let ended = match outcome {
            Outcome::Served => Ended::Served,
            Outcome::Cancelled => Ended::Cancelled,
            Outcome::Failed | Outcome::Running => Ended::Failed,
        };
        let duration = self.handle.clock().now().since(self.started);
        self.record.outcome = outcome;
        self.record.status = status;
        self.record.duration_ms = millis(duration);
        self.record.external_cost = self.external_cost();
        self.journal(ended, status);
        self.allowance.end(0);
        let metrics = self.handle.metrics();
        metrics.requests_total.with_label_values(&[LABEL, &status.to_string()]).inc();
        metrics.request_duration_seconds.with_label_values(&[LABEL]).observe(duration.as_secs_f64());
        if outcome == Outcome::Cancelled {
            metrics.cancelled_requests_total.inc();
        }
        self.handle.settle(Settlement {
            backend: None,
            via: None,
            served: outcome == Outcome::Served,
            is_last: true,
            fallback: false,
            usage: Usage::default(),
            cost: Some(Money::ZERO),
            external_cost: self.record.external_cost,
            ttft: None,
            duration,
            shadow: false,
            payer: Payer { tenant: self.tenant.clone(), key: self.key.clone() },
        });
        let error = (outcome == Outcome::Failed).then_some("upstream");
        self.trail.end(&self.record, error);
        self.decisions.keep(self.record.clone());
    }

    /// A row of its own in the ledger, which nothing has to wait for: it costs nothing.
    fn journal(&self, outcome: Ended, status: u16) {
        let Some(journal) = self.handle.journal() else { return };
        let (record, topology) = (&self.record, self.handle.topology());
        let (intent, _) = journal.intend(Intent {
            id: 0,
            request: record.id.clone(),
            attempt: 1,
            at_ms: unix_ms(),
            node: topology.node.to_string(),
            region: topology.region.to_string(),
            tenant: self.tenant.clone(),
            key: self.key.clone(),
            experiment: record.circumstances.experiments.join(","),
            asked: record.model.clone(),
            backend: KEPT_ANSWERS.to_owned(),
            model: record.backend_model.as_deref().unwrap_or_default().to_owned(),
            external: false,
            stream: self.stream,
            input_tokens: 0,
            output_tokens: 0,
            basis: Basis::Free,
        });
        journal.settle(Charge {
            intent,
            at_ms: unix_ms(),
            outcome,
            status,
            fault: String::new(),
            is_last: true,
            usage: Usage::default(),
            raw_usage: self.spared.as_ref().and_then(|usage| serde_json::to_string(usage).ok()),
            cost: Some(Money::ZERO),
            external_cost: record.external_cost,
            flags: Flags::CACHED.with_if(Flags::DISCONNECTED, outcome == Ended::Cancelled),
            ttft_ms: None,
            duration_ms: record.duration_ms,
        });
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        self.book(Outcome::Cancelled, super::tally::CLIENT_CLOSED);
    }
}
