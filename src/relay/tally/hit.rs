//! A request that a kept answer served: nothing was asked of a backend and nothing is charged, and it is
//! booked all the same.

use super::record::open_record;
use super::settlement::basis;
use crate::decisions::{Circumstances, Outcome};
use crate::relay::account::unix_ms;
use crate::relay::{Call, Relay};
use llm_router_actors::handle::Settlement;
use llm_router_logic::cost::entry::{Basis, Charge, Flags, Intent, Outcome as Ended};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;
use llm_router_logic::request::Request;
use llm_router_logic::route::plan;
use llm_router_logic::time::{Moment, millis};
use std::sync::Arc;

/// Stands where a backend's name stands: no backend can be called so.
const KEPT_ANSWERS: &str = "(cache)";

/// A kept answer, as the books see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The model that once gave it.
    pub model: Arc<str>,
    /// The tokens it once took. The hit itself takes none: they say what it spared, and stand in the ledger as
    /// the raw usage.
    pub usage: Usage,
}

impl Relay {
    /// Books `call`, which is `request` in these `arms` of experiments, as served by a kept answer at cost 0,
    /// flagged `cached`. What the answer's tokens would cost now at the best external alternative counts as saved.
    /// Returns the id of the decision record, for `x-llm-router-decision`.
    ///
    /// Called once for each client served, when its answer is ready, instead of opening a tally; the caller
    /// settles what the request draws on. Never waits: a hit costs nobody money, so it need not be durable.
    pub fn book_hit(
        &self,
        call: &Call,
        request: &Request,
        arms: &[String],
        hit: &Hit,
        started: Moment,
    ) -> String {
        let handle = &self.handle;
        let (snapshot, now) = (handle.snapshot(), handle.clock().now());
        let plan = plan(&snapshot.view, &*snapshot, request, &snapshot.policy, handle.draw(), now);
        let externals =
            plan.steps.iter().filter(|step| !snapshot.view.backends[step.index].spec.is_cluster());
        let spared = externals.filter_map(|step| basis(&snapshot, step).charge(&hit.usage, false)).min();
        let duration = now.since(started);
        let mut record = open_record(handle, request, &plan);
        record.circumstances =
            Circumstances { cached: true, experiments: arms.to_vec(), ..Circumstances::default() };
        (record.outcome, record.status) = (Outcome::Served, 200);
        (record.cost, record.external_cost) = (Some(Money::ZERO), spared);
        record.duration_ms = millis(duration);
        record.backend_model = Some(Arc::clone(&hit.model));
        if let Some(journal) = handle.journal() {
            let topology = handle.topology();
            let (intent, _) = journal.intend(Intent {
                id: 0,
                request: record.id.clone(),
                attempt: 1,
                at_ms: unix_ms(),
                node: topology.node.to_string(),
                region: topology.region.to_string(),
                tenant: call.principal.tenant.to_string(),
                key: call.principal.key.as_ref().map(ToString::to_string).unwrap_or_default(),
                experiment: arms.join(","),
                asked: record.model.clone(),
                backend: KEPT_ANSWERS.to_owned(),
                model: hit.model.to_string(),
                external: false,
                stream: call.inspected.stream,
                input_tokens: 0,
                output_tokens: 0,
                basis: Basis::Free,
            });
            journal.settle(Charge {
                intent,
                at_ms: unix_ms(),
                outcome: Ended::Served,
                status: 200,
                fault: String::new(),
                is_last: true,
                usage: Usage::default(),
                raw_usage: serde_json::to_string(&hit.usage).ok(),
                cost: Some(Money::ZERO),
                external_cost: spared,
                flags: Flags::CACHED,
                ttft_ms: None,
                duration_ms: millis(duration),
            });
        }
        handle.settle(Settlement {
            backend: None,
            via: None,
            served: true,
            is_last: true,
            fallback: false,
            usage: Usage::default(),
            cost: Some(Money::ZERO),
            external_cost: spared,
            ttft: None,
            duration,
            shadow: false,
        });
        let metrics = handle.metrics();
        metrics.requests_total.with_label_values(&["cache", "200"]).inc();
        metrics.request_duration_seconds.with_label_values(&["cache"]).observe(duration.as_secs_f64());
        let id = record.id.clone();
        self.decisions.keep(record);
        id
    }
}
