//! The list of models, in each dialect: what a healthy backend can serve now, and nothing else.

use super::error::respond;
use super::{App, auth};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Uri};
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::report::Health;
use llm_router_logic::tenant::Rights;
use llm_router_logic::time::Moment;
use llm_router_logic::wire::Dialect;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) async fn list(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Response {
    let dialect = dialect_of(&uri, &headers);
    let served = match served_to(&app, dialect, &headers) {
        Ok(served) => served,
        Err(error) => return respond(dialect, &error),
    };
    let models: Vec<Value> = served.iter().map(|(id, owners)| model(dialect, id, owners)).collect();
    let list = match dialect {
        Dialect::OpenAi => json!({"object": "list", "data": models}),
        Dialect::Anthropic => json!({
            "data": models,
            "has_more": false,
            "first_id": served.keys().next(),
            "last_id": served.keys().next_back(),
        }),
        Dialect::Gemini => json!({"models": models}),
    };
    Json(list).into_response()
}

pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let dialect = dialect_of(&uri, &headers);
    let served = match served_to(&app, dialect, &headers) {
        Ok(served) => served,
        Err(error) => return respond(dialect, &error),
    };
    match served.get_key_value(&id) {
        Some((id, owners)) => Json(model(dialect, id, owners)).into_response(),
        None => {
            let error = ApiError::new(ErrorKind::NotFound, format!("no healthy backend serves model `{id}`"));
            respond(dialect, &error.with_code("model_not_found").with_param("model"))
        }
    }
}

/// Anthropic's clients send a version header; Google's call `/v1beta`, or `/v1` with a key of theirs.
fn dialect_of(uri: &Uri, headers: &HeaderMap) -> Dialect {
    if uri.path().starts_with("/v1beta/") || headers.contains_key("x-goog-api-key") {
        Dialect::Gemini
    } else if headers.contains_key("anthropic-version") {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    }
}

/// One model in the client's dialect. When it was made is unknown; dialects that must say get the epoch.
fn model(dialect: Dialect, id: &str, owners: &[String]) -> Value {
    match dialect {
        Dialect::OpenAi => json!({"id": id, "object": "model", "created": 0, "owned_by": owners.join(",")}),
        Dialect::Anthropic => {
            json!({"id": id, "type": "model", "display_name": id, "created_at": "1970-01-01T00:00:00Z"})
        }
        Dialect::Gemini => json!({
            "name": format!("models/{id}"),
            "displayName": id,
            "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
        }),
    }
}

/// What the client may ask for now.
fn served_to(
    app: &App,
    dialect: Dialect,
    headers: &HeaderMap,
) -> Result<BTreeMap<String, Vec<String>>, ApiError> {
    let principal = auth::client(app, dialect, headers)?;
    Ok(served(&app.handle.snapshot(), app.handle.clock().now(), &principal.rights))
}

/// Every name and alias that `rights` allow to ask for now, with the backends behind it.
fn served(snapshot: &Snapshot, now: Moment, rights: &Rights) -> BTreeMap<String, Vec<String>> {
    let mut served: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for backend in &snapshot.view.backends {
        let facts = backend.facts(now);
        let health = facts.as_ref().map_or(Health::Unknown, |facts| facts.report.health);
        // A provider counts as well until proven ill, as it does for routing.
        let well = health == Health::Healthy || (!backend.spec.is_cluster() && health == Health::Unknown);
        if !well || !rights.allow_backend(&backend.spec.id) {
            continue;
        }
        let models = facts.map_or(&backend.spec.models[..], |facts| facts.models);
        for model in models.iter().filter(|model| rights.allow_model(model)) {
            for name in std::iter::once(&*model.name).chain(model.aliases.iter().map(String::as_str)) {
                let owners = served.entry(name.to_owned()).or_default();
                if !owners.iter().any(|owner| owner == backend.spec.id.as_str()) {
                    owners.push(backend.spec.id.to_string());
                }
            }
        }
    }
    served
}
