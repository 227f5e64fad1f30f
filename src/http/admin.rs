//! The operators' listener: the view, the decisions, the books, a reload. Every request carries the
//! admin token.

use super::{App, chat, events, health, standing};
use crate::explain;
use axum::Json;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION};
use llm_router_actors::facts::Posted;
use llm_router_logic::ids::{BackendId, NodeId, Region};
use llm_router_logic::report::Report;
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::view::{GuardNote, Member, PeerFact};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Decisions listed where the query names no number.
const LISTED: usize = 100;

/// The routes of the admin listener.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/admin/view", get(view))
        .route("/admin/events", get(events::events))
        .route("/admin/decisions", get(decisions))
        .route("/admin/decisions/{id}", get(decision))
        .route("/admin/spend", get(spend))
        .route("/admin/limits", get(limits))
        .route("/admin/explain", post(explain))
        .route("/admin/reload", post(reload))
        .route("/metrics", get(health::metrics))
        .route("/admin/backends/{id}/price", post(standing::price))
        .route("/admin/backends/{id}/preempt", post(standing::preempt).delete(standing::spare))
        .route("/admin/backends/{id}/preempt/cancel", post(standing::spare))
        .layer(from_fn_with_state(app.clone(), authorise))
        .with_state(app)
}

async fn authorise(State(app): State<App>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let wanted = app.fixed.admin_token.as_ref().map(|token| token.expose_secret().as_bytes());
    match (given, wanted) {
        (Some(given), Some(wanted)) if bool::from(given.ct_eq(wanted)) => next.run(request).await,
        _ => told(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer` with the token of `admin.token`"),
    }
}

pub(super) fn told(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": {"message": message}}))).into_response()
}

#[derive(Serialize)]
struct View {
    node: NodeId,
    region: Region,
    members: Vec<Member>,
    backends: Vec<BackendFacts>,
    /// What peers say of backends that are not configured here.
    foreign: Vec<Foreign>,
    /// What else peers tell.
    facts: Vec<PostedFact>,
}

/// A small fact of a peer: its age, whatever it says.
#[derive(Serialize)]
struct PostedFact {
    topic: &'static str,
    name: String,
    /// Who said it.
    node: NodeId,
    /// Its incarnation then.
    generation: u64,
    /// Since it arrived here; an unchanged value arrives once.
    age_ms: u64,
    /// Whether that node is alive.
    live: bool,
    bytes: usize,
}

#[derive(Serialize)]
struct BackendFacts {
    name: BackendId,
    #[serde(flatten)]
    standing: standing::StandingView,
    own: Option<Aged>,
    peers: Vec<Said>,
}

#[derive(Serialize)]
struct Aged {
    #[serde(flatten)]
    report: Report,
    models: Vec<String>,
    /// What stands against single models, as this node sees it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    guards: Vec<GuardNote>,
    age_ms: u64,
}

#[derive(Serialize)]
struct Said {
    node: NodeId,
    region: Region,
    #[serde(flatten)]
    fact: Aged,
    /// Whether it is young enough to count for a decision.
    counts: bool,
}

#[derive(Serialize)]
struct Foreign {
    backend: BackendId,
    #[serde(flatten)]
    said: Said,
}

async fn view(State(app): State<App>) -> Json<View> {
    let snapshot = app.handle.snapshot();
    let now = app.handle.clock().now();
    let view = &snapshot.view;
    Json(View {
        node: view.node.clone(),
        region: view.region.clone(),
        members: view.members.clone(),
        backends: view
            .backends
            .iter()
            .zip(standing::standings(&snapshot, &app.handle.roll(), now))
            .map(|(backend, standing)| BackendFacts {
                name: backend.spec.id.clone(),
                standing,
                own: backend.own.as_ref().map(|own| Aged {
                    report: own.report,
                    models: own.models.iter().map(|model| model.name.to_string()).collect(),
                    guards: own.guards.iter().map(|guard| guard.told(now)).collect(),
                    age_ms: millis(now.since(own.observed_at)),
                }),
                peers: backend.peers.iter().map(|fact| said(fact, now)).collect(),
            })
            .collect(),
        foreign: view
            .foreign
            .iter()
            .map(|(backend, fact)| Foreign { backend: backend.clone(), said: said(fact, now) })
            .collect(),
        facts: app.handle.facts().posted().into_iter().map(|fact| posted(fact, now)).collect(),
    })
}

fn posted(fact: Posted, now: Moment) -> PostedFact {
    PostedFact {
        topic: fact.topic.word(),
        name: fact.name.to_string(),
        node: fact.node,
        generation: fact.generation,
        age_ms: millis(now.since(fact.arrived_at)),
        live: fact.live,
        bytes: fact.bytes,
    }
}

fn said(fact: &PeerFact, now: Moment) -> Said {
    Said {
        node: fact.node.clone(),
        region: fact.region.clone(),
        fact: Aged {
            report: fact.report,
            models: fact.models.iter().map(|model| model.name.to_string()).collect(),
            guards: Vec::new(),
            age_ms: millis(now.since(fact.arrived_at)),
        },
        counts: fact.counts(now),
    }
}

#[derive(Deserialize)]
struct Page {
    limit: Option<usize>,
}

async fn decisions(State(app): State<App>, Query(page): Query<Page>) -> Response {
    Json(json!({"decisions": app.decisions.newest(page.limit.unwrap_or(LISTED))})).into_response()
}

pub(super) async fn decision(State(app): State<App>, Path(id): Path<String>) -> Response {
    match app.decisions.find(&id) {
        Some(decision) => Json(&*decision).into_response(),
        None => told(StatusCode::NOT_FOUND, "no such decision: the oldest are forgotten first"),
    }
}

async fn spend(State(app): State<App>) -> Response {
    Json(&*app.handle.book()).into_response()
}

/// Every budget and rate limit: what is configured, what the fleet has used of it as far as this node knows,
/// and this node's part.
async fn limits(State(app): State<App>) -> Response {
    let quotas = app.handle.quotas();
    let (nodes, split) = quotas.sharing_state();
    let budgets: Vec<Value> = quotas
        .budgets()
        .into_iter()
        .map(|budget| {
            json!({
                "scope": &*budget.scope,
                "mode": budget.spec.mode.as_str(),
                "counts": if budget.spec.counts_clusters { "all" } else { "external" },
                "period": budget.spec.period,
                "ends_unix": budget.ends,
                "limit_usd": budget.limit,
                "spent_usd": budget.spent,
                "reserved_usd": budget.reserved,
                "left_usd": budget.limit - budget.spent - budget.reserved,
                "overshoot_bound_usd": budget.overshoot,
                "here": {"committed_usd": budget.here, "allowed_usd": budget.allowed_here},
            })
        })
        .collect();
    let rates: Vec<Value> = quotas
        .rates()
        .into_iter()
        .map(|(scope, limits, status, in_flight)| {
            let left = |standing: Option<(u64, u64, Duration)>| standing.map(|(_, left, _)| left);
            json!({
                "scope": &*scope,
                "requests_per_minute": limits.requests_per_minute,
                "tokens_per_minute": limits.tokens_per_minute,
                "max_concurrent": limits.concurrent,
                "here": {
                    "requests_left": left(status.requests),
                    "tokens_left": left(status.tokens),
                    "in_flight": in_flight,
                },
            })
        })
        .collect();
    Json(json!({"nodes": nodes, "split": split, "budgets": budgets, "rates": rates})).into_response()
}

#[derive(Deserialize)]
pub(super) struct Asked {
    /// The route the request would be sent to; by its body's shape where not given.
    path: Option<String>,
}

/// What would be decided now for the request in the body, sent with the headers a client would send:
/// JSON, or text for a person where `Accept` asks for `text/plain`. Nothing is sent to a backend.
pub(super) async fn explain(
    State(app): State<App>,
    Query(asked): Query<Asked>,
    request: Request,
) -> Response {
    let wants_text = request.headers().get(ACCEPT).is_some_and(|accept| accept == "text/plain");
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, app.fixed.max_body_bytes).await {
        Ok(body) => body,
        Err(error) => return told(StatusCode::BAD_REQUEST, &format!("cannot read the request: {error}")),
    };
    let route = match explain::route_of(asked.path.as_deref(), &body) {
        Ok(route) => route,
        Err(why) => return told(StatusCode::BAD_REQUEST, &why),
    };
    match chat::read(&app, route, Request::from_parts(parts, Body::from(body))).await {
        Ok(call) => {
            let (explanation, arms) = app.relay.load().explain(&call);
            let answer = explain::Answer::new(explanation).in_arms(arms);
            if wants_text { answer.to_string().into_response() } else { Json(answer).into_response() }
        }
        Err(error) => {
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
            told(status, &error.message)
        }
    }
}

/// Asks the node to read its file again; whether it could is in its log and metrics.
async fn reload(State(app): State<App>) -> Response {
    // A full channel means that a reload is due anyway.
    let _ = app.reload.try_send(());
    (StatusCode::ACCEPTED, Json(json!({"status": "reload requested"}))).into_response()
}
