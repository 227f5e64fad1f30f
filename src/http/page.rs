//! Fills the live page's data from the view, the books and the decisions.

use super::App;
use super::admin::told;
use crate::decisions::Decision;
use crate::ledger;
use crate::ui::data::{
    DECISIONS_LIMIT, Savings, Totals, UiArm, UiBackend, UiBudget, UiData, UiDecision, UiMember, UiPeerFact,
};
use crate::ui::history::Sample;
use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use llm_router_actors::handle::Book;
use llm_router_actors::metrics::Metrics;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::report::Health;
use llm_router_logic::route::Loads;
use llm_router_logic::route::score::unit_cost;
use llm_router_logic::time::{Moment, millis};
use prometheus::core::Collector;
use prometheus::proto::Metric;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) async fn data(State(app): State<App>) -> Json<UiData> {
    let snapshot = app.handle.snapshot();
    let book = app.handle.book();
    let now = app.handle.clock().now();
    let backends: Vec<UiBackend> =
        (0..snapshot.view.backends.len()).map(|index| backend(&snapshot, &book, index, now)).collect();
    let count = |cluster: bool, all: bool| {
        let healthy = |b: &&UiBackend| b.cluster == cluster && (all || b.health == Health::Healthy);
        u32::try_from(backends.iter().filter(healthy).count()).unwrap_or(u32::MAX)
    };
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let view = &snapshot.view;
    Json(UiData {
        node: view.node.clone(),
        region: view.region.clone(),
        cloud: app.fixed.cloud.clone(),
        simulated: app.fixed.simulated,
        staged: app.staged,
        uptime_s: now.micros() / 1_000_000,
        now_unix_ms: millis(unix),
        savings: Savings { fleet: book.fleet_days.clone(), this_router: book.days.clone() },
        totals: totals(&book, backends.iter().map(|b| b.in_flight).sum()),
        clusters_active: count(true, false),
        clusters_total: count(true, true),
        providers_healthy: count(false, false),
        providers_total: count(false, true),
        strategy: snapshot.policy.strategy,
        members: view
            .members
            .iter()
            .map(|member| UiMember {
                node: member.node.clone(),
                region: member.region.clone(),
                generation: member.generation,
                live: member.live,
                this_node: member.this_node,
            })
            .collect(),
        budgets: budgets(&app),
        split: app.handle.quotas().sharing_state().1,
        arms: arms(app.handle.metrics()),
        decisions: requests(&app.decisions.newest(DECISIONS_LIMIT)).map(shown).collect(),
        backends,
    })
}

/// The decisions about clients' requests: a shadow copy is none.
fn requests(decisions: &[Arc<Decision>]) -> impl Iterator<Item = &Decision> {
    let of_client = |decision: &&Decision| decision.circumstances.shadow.is_none();
    decisions.iter().map(|decision| &**decision).filter(of_client)
}

#[derive(Deserialize)]
pub(super) struct After {
    /// Unix milliseconds of the newest sample the page has.
    #[serde(default)]
    after: u64,
}

/// `GET /ui/history?after=UNIX_MS`: the samples since then.
pub(super) async fn history(
    State(app): State<App>,
    Query(After { after }): Query<After>,
) -> Json<Vec<Sample>> {
    Json(app.history.after(after))
}

/// Tenants listed, the dearest first.
const TENANTS_LISTED: usize = 50;

/// `GET /ui/tenants`: what the ledger says of each tenant; `null` where none is kept.
pub(super) async fn tenants(State(app): State<App>) -> Response {
    let Some(path) = app.fixed.ledger.clone() else { return Json(None::<()>).into_response() };
    let read = move || ledger::by_tenant(&path, TENANTS_LISTED);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(tenants)) => Json(tenants).into_response(),
        Ok(Err(error)) => told(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        Err(_) => told(StatusCode::INTERNAL_SERVER_ERROR, "the ledger could not be read"),
    }
}

fn budgets(app: &App) -> Vec<UiBudget> {
    let shown = app.handle.quotas().budgets().into_iter().map(|budget| UiBudget {
        scope: budget.scope.to_string(),
        limit_usd: budget.limit,
        spent_usd: budget.spent,
        reserved_usd: budget.reserved,
        overshoot_usd: budget.overshoot,
        mode: budget.spec.mode.as_str().to_owned(),
        ends_unix: budget.ends,
    });
    shown.collect()
}

/// The arms that had a request, from the metrics that count them.
fn arms(metrics: &Metrics) -> Vec<UiArm> {
    let mut arms: BTreeMap<(String, String), UiArm> = BTreeMap::new();
    let mut each = |family: &dyn Collector, add: &dyn Fn(&mut UiArm, &Metric)| {
        for metric in family.collect().iter().flat_map(|family| family.get_metric().to_vec()) {
            let (experiment, arm) = (label(&metric, "experiment"), label(&metric, "arm"));
            let empty = || UiArm { experiment: experiment.clone(), arm: arm.clone(), ..UiArm::default() };
            add(arms.entry((experiment.clone(), arm.clone())).or_insert_with(empty), &metric);
        }
    };
    let states = &metrics.states;
    each(&states.experiment_requests_total, &|arm, metric| {
        let count = metric.get_counter().get_value() as u64;
        arm.requests += count;
        if label(metric, "outcome") == "served" {
            arm.served += count;
        }
    });
    each(&states.experiment_spend_usd_total, &|arm, metric| arm.spend_usd = metric.get_counter().get_value());
    each(&states.experiment_ttft_seconds, &|arm, metric| {
        let (sum, count) =
            (metric.get_histogram().get_sample_sum(), metric.get_histogram().get_sample_count());
        arm.ttft_avg_ms = (count > 0).then(|| sum * 1_000.0 / count as f64);
    });
    arms.into_values().collect()
}

fn label(metric: &Metric, name: &str) -> String {
    let pair = metric.get_label().iter().find(|pair| pair.name() == name);
    pair.map(|pair| pair.value().to_owned()).unwrap_or_default()
}

fn totals(book: &Book, in_flight: u32) -> Totals {
    let sums = &book.total;
    let average = |sum: u64, count: u64| {
        sum.checked_div(count).map(|average| u32::try_from(average).unwrap_or(u32::MAX))
    };
    Totals {
        requests: sums.requests,
        errors: sums.errors,
        fallbacks: sums.fallbacks,
        in_flight,
        ttft_avg_ms: average(sums.ttft_ms, sums.ttft_count),
        latency_avg_ms: average(sums.duration_ms, sums.requests - sums.errors),
        tokens_in: sums.input_tokens,
        tokens_out: sums.output_tokens,
        cost_usd: sums.cost,
        external_equivalent_usd: sums.external_equivalent,
        saved_usd: sums.gross_savings,
        idle_usd: book.idle,
        net_saved_usd: book.net_savings,
        unpriced: sums.unpriced,
    }
}

fn backend(snapshot: &Snapshot, book: &Book, index: usize, now: Moment) -> UiBackend {
    let backend = &snapshot.view.backends[index];
    let spec = &backend.spec;
    let facts = backend.facts(now);
    let report = facts.as_ref().map(|facts| facts.report).unwrap_or_default();
    let load = snapshot.load(index, 0, now);
    let models = facts.as_ref().map_or(&spec.models[..], |facts| facts.models);
    UiBackend {
        name: spec.id.clone(),
        kind: spec.kind,
        provider: spec.provider().to_owned(),
        region: spec.region().to_owned(),
        cluster: spec.is_cluster(),
        models: models.iter().map(|model| model.name.to_string()).collect(),
        health: report.health,
        in_flight: load.in_flight,
        limit: load.limit,
        waiting: load.waiting,
        queue_depth: report.queue_depth,
        tokens_per_second: report.tokens_per_second,
        cost_per_1k_usd: unit_cost(backend, snapshot.policy.overhead_factor, now),
        latency_p95_ms: report.latency_p95_ms,
        fact_age_ms: facts.as_ref().map(|facts| millis(facts.age)),
        said_by: facts.as_ref().and_then(|facts| facts.said_by.cloned()),
        breaker_open: report.breaker_open,
        requests: book.backends.get(&spec.id).map_or(0, |sums| sums.requests),
        peers: backend
            .peers
            .iter()
            .map(|fact| UiPeerFact {
                node: fact.node.clone(),
                health: fact.report.health,
                queue_depth: fact.report.queue_depth,
                age_ms: millis(now.since(fact.arrived_at)),
            })
            .collect(),
    }
}

fn shown(decision: &Decision) -> UiDecision {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    UiDecision {
        id: decision.id.clone(),
        unix_ms: decision.unix_ms + decision.duration_ms,
        model: decision.model.clone(),
        backend: decision.backend.clone(),
        reason: decision.reason,
        strategy: decision.strategy,
        attempts: narrow(decision.attempts.len() as u64),
        status: decision.status,
        ttft_ms: decision.ttft_ms.map(narrow),
        duration_ms: narrow(decision.duration_ms),
        cost_usd: decision.cost,
        input_tokens: narrow(decision.usage.total_input()),
        output_tokens: narrow(decision.usage.total_output()),
    }
}
