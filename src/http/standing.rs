//! Where a backend stands, as the operators' listener tells it and is told.

use super::App;
use super::admin::told;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use llm_router_actors::handle::{Roll, Word};
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::backend::Placement;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::money::Money;
use llm_router_logic::route::unit_costs::{UnitCosts, unit_costs};
use llm_router_logic::time::{Moment, millis};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

/// No notice is for longer ahead than this.
const AHEAD_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A backend's standing in `/admin/view`.
#[derive(Serialize)]
pub(super) struct StandingView {
    /// Price in force of a cluster's hour; absent for providers.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_per_hour_usd: Option<Money>,
    /// Whether that was said since the start and is not the configured one.
    price_said: bool,
    /// USD per 1,000 tokens: the machine's price at measured throughput, or the list price.
    average_cost_per_1k_usd: Option<Money>,
    /// The same for one more request now.
    marginal_cost_per_1k_usd: Option<Money>,
    /// Time until its machine is taken away; `null` without a notice.
    preempted_in_ms: Option<u64>,
    /// Of a cluster that scales to zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    warmth: Option<WarmthView>,
}

#[derive(Serialize)]
struct WarmthView {
    state: &'static str,
    /// Time until it is expected to serve; `null` when warm.
    ready_in_ms: Option<u64>,
    /// The node that called it or wants to.
    waker: Option<NodeId>,
    /// Requests of the last window that wanted it, on this node.
    demand: u32,
    /// The same on all nodes.
    fleet_demand: u32,
    /// Of these, those nothing else could serve.
    fleet_unserved: u32,
    /// What the others would have saved there.
    fleet_saving_usd: Money,
    /// What is compared with that: the price of the time in which it comes.
    cold_start_cost_usd: Money,
    wake_at_requests: u32,
    wake_at_saving_usd: Money,
}

/// The standings of all backends of `snapshot`, in its order.
pub(super) fn standings(snapshot: &Snapshot, roll: &Roll, now: Moment) -> Vec<StandingView> {
    let costs = unit_costs(&snapshot.view, snapshot, &snapshot.policy, now);
    let backends = snapshot.view.backends.iter().zip(costs);
    let standing = backends.map(|(backend, UnitCosts { average, marginal })| {
        let stated = roll.backends.get(&backend.spec.id).cloned().unwrap_or_default();
        let price = match backend.spec.placement {
            Placement::Cluster { cost_per_hour, .. } => Some(cost_per_hour),
            Placement::External => None,
        };
        let warmth = backend.spec.scale_to_zero.as_ref().map(|settings| WarmthView {
            state: backend.standing.warmth.as_str(),
            ready_in_ms: backend.standing.warmth.ready_in(now).map(millis),
            waker: stated.waker.clone(),
            demand: stated.wanted.requests,
            fleet_demand: stated.fleet_wanted.requests,
            fleet_unserved: stated.fleet_wanted.unserved,
            fleet_saving_usd: stated.fleet_wanted.saving,
            cold_start_cost_usd: settings.cold_start_cost(price.unwrap_or_default()),
            wake_at_requests: settings.wake_at_requests,
            wake_at_saving_usd: settings.wake_at_saving,
        });
        StandingView {
            cost_per_hour_usd: price,
            price_said: stated.spoken.price.value.is_some(),
            average_cost_per_1k_usd: average,
            marginal_cost_per_1k_usd: marginal,
            preempted_in_ms: backend.standing.preempted_at.map(|at| millis(at.since(now))),
            warmth,
        }
    });
    standing.collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    /// USD; `null` = the configured one holds again.
    cost_per_hour: Option<f64>,
}

/// `POST /admin/backends/{id}/price`.
pub(super) async fn price(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Result<Json<Price>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let price = match body {
        Ok(Json(price)) => price,
        Err(error) => {
            return refused(&format!("expected {{\"cost_per_hour\": USD or null}}: {}", error.body_text()));
        }
    };
    let usd = price.cost_per_hour;
    let amount = usd.map(|usd| Money::from_usd(usd).filter(|amount| *amount >= Money::ZERO));
    match amount {
        Some(None) => refused("`cost_per_hour` must be an amount of dollars from 0 to 10^12"),
        amount => say(&app, &id, Word::Price(amount.flatten()), true),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Preemption {
    /// From now.
    in_seconds: f64,
}

/// `POST /admin/backends/{id}/preempt`.
pub(super) async fn preempt(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Result<Json<Preemption>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let seconds = match body {
        Ok(Json(Preemption { in_seconds })) => in_seconds,
        Err(error) => return refused(&format!("expected {{\"in_seconds\": N}}: {}", error.body_text())),
    };
    match Duration::try_from_secs_f64(seconds).ok().filter(|ahead| *ahead <= AHEAD_MAX) {
        None => refused("`in_seconds` must be from 0 to 604800 (a week)"),
        Some(ahead) => {
            let at = app.handle.clock().unix_ms().saturating_add(millis(ahead));
            say(&app, &id, Word::Preemption(Some(at)), false)
        }
    }
}

/// `DELETE /admin/backends/{id}/preempt` and `POST …/preempt/cancel`: it stays after all.
pub(super) async fn spare(State(app): State<App>, Path(id): Path<String>) -> Response {
    say(&app, &id, Word::Preemption(None), false)
}

fn say(app: &App, id: &str, word: Word, needs_cluster: bool) -> Response {
    let topology = app.handle.topology();
    let backend = BackendId::new(id);
    let Some(spec) = topology.backends.iter().find(|spec| spec.id == backend) else {
        return told(StatusCode::NOT_FOUND, &format!("there is no backend `{id}`"));
    };
    if needs_cluster && !spec.is_cluster() {
        return refused(&format!("`{id}` is a provider, which is paid by the token and not by the hour"));
    }
    if !app.handle.say(&backend, word) {
        return told(StatusCode::SERVICE_UNAVAILABLE, "this node is too busy to listen: try again");
    }
    (StatusCode::ACCEPTED, Json(json!({"backend": id, "status": "said"}))).into_response()
}

fn refused(why: &str) -> Response {
    told(StatusCode::BAD_REQUEST, why)
}
