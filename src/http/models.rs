//! `/v1/models`: what a healthy backend can serve now, and nothing else.

use super::App;
use super::error::respond;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::report::Health;
use llm_router_logic::time::Moment;
use llm_router_logic::wire::Dialect;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    /// The backends that serve it, comma-separated.
    owned_by: String,
}

#[derive(Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

pub(super) async fn list(State(app): State<App>) -> Json<List> {
    let data = served(&app.handle.snapshot(), app.handle.clock().now());
    Json(List { object: "list", data: data.into_iter().map(model).collect() })
}

pub(super) async fn show(State(app): State<App>, Path(id): Path<String>) -> Response {
    let mut served = served(&app.handle.snapshot(), app.handle.clock().now());
    match served.remove_entry(&id) {
        Some(found) => Json(model(found)).into_response(),
        None => {
            let error = ApiError::new(ErrorKind::NotFound, format!("no healthy backend serves model `{id}`"));
            respond(Dialect::OpenAi, &error.with_code("model_not_found").with_param("model"))
        }
    }
}

fn model((id, owners): (String, Vec<String>)) -> Model {
    Model { id, object: "model", created: 0, owned_by: owners.join(",") }
}

/// Every name and alias a client may ask for now, with the backends behind it.
fn served(snapshot: &Snapshot, now: Moment) -> BTreeMap<String, Vec<String>> {
    let mut served: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for backend in &snapshot.view.backends {
        let facts = backend.facts(now);
        let health = facts.as_ref().map_or(Health::Unknown, |facts| facts.report.health);
        // A provider counts as well until proven ill, as it does for routing.
        let well = health == Health::Healthy || (!backend.spec.is_cluster() && health == Health::Unknown);
        if !well {
            continue;
        }
        for model in facts.map_or(&backend.spec.models[..], |facts| facts.models) {
            for name in std::iter::once(&model.name).chain(&model.aliases) {
                let owners = served.entry(name.clone()).or_default();
                if !owners.iter().any(|owner| owner == backend.spec.id.as_str()) {
                    owners.push(backend.spec.id.to_string());
                }
            }
        }
    }
    served
}
