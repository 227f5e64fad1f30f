//! The demo's own routes, which no other command serves: what can be broken, the breaking of it, and requests
//! to the other regions' routers on the page's behalf.
//!
//! They stand behind the page's session and answer the router's own page only. A request goes on to the
//! three routers of this process and nowhere else.

use super::breakage::{Breakage, Standing};
use super::fleet::Fleet;
use super::scenario::PLACES;
use crate::http::App;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Extension, Json, Router};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE};
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Weak};

/// Largest request that goes on to another region.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// What may be asked of another region.
const ASKED: [(Method, &str); 3] =
    [(Method::POST, "v1/chat/completions"), (Method::POST, "ui/explain"), (Method::GET, "ui/decisions/")];

static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    client.build().unwrap_or_default()
});

/// The routes; they do not keep the fleet alive.
pub(super) fn routes(fleet: &Arc<Fleet>) -> Router<App> {
    Router::new()
        .route("/ui/demo", get(state))
        .route("/ui/demo/{kind}/{target}", breaking())
        .route("/ui/demo/regions/{region}/{*path}", any(forward))
        .layer(Extension(Arc::downgrade(fleet)))
}

fn breaking() -> MethodRouter<App> {
    post(async |fleet: Extension<Weak<Fleet>>, path: Path<(String, String)>| {
        change(&fleet, &path, |fleet, breakage| fleet.breakages.begin(fleet, breakage))
    })
    .delete(async |fleet: Extension<Weak<Fleet>>, path: Path<(String, String)>| {
        change(&fleet, &path, |fleet, breakage| fleet.breakages.mend(breakage))
    })
}

#[derive(Serialize)]
struct State {
    regions: Vec<Region>,
    breakages: Vec<Standing>,
}

#[derive(Serialize)]
struct Region {
    cloud: &'static str,
    region: &'static str,
    port: u16,
    /// Whether its router runs.
    up: bool,
}

async fn state(Extension(fleet): Extension<Weak<Fleet>>) -> Response {
    let Some(fleet) = fleet.upgrade() else { return ending() };
    let regions = PLACES.iter().enumerate().zip(fleet.addresses()).map(|((index, place), address)| Region {
        cloud: place.cloud,
        region: place.region,
        port: address.port(),
        up: fleet.handle(index).is_some(),
    });
    Json(State { regions: regions.collect(), breakages: fleet.breakages.standings() }).into_response()
}

fn change(
    fleet: &Weak<Fleet>,
    (kind, target): &(String, String),
    apply: impl FnOnce(&Arc<Fleet>, Breakage),
) -> Response {
    let Some(fleet) = fleet.upgrade() else { return ending() };
    let named = Breakage::all().find(|one| one.kind.as_str() == kind && one.target == target);
    let Some(breakage) = named else {
        return told(StatusCode::NOT_FOUND, "there is no such thing to break: GET /ui/demo lists them");
    };
    apply(&fleet, breakage);
    (StatusCode::ACCEPTED, Json(json!({"status": "accepted"}))).into_response()
}

async fn forward(
    Extension(fleet): Extension<Weak<Fleet>>,
    Path((region, path)): Path<(String, String)>,
    request: Request,
) -> Response {
    let Some(fleet) = fleet.upgrade() else { return ending() };
    let place = PLACES.iter().position(|place| place.region == region);
    let Some(address) = place.and_then(|place| fleet.addresses().get(place).copied()) else {
        return told(StatusCode::NOT_FOUND, "there is no such region");
    };
    drop(fleet);
    let allowed = ASKED.iter().any(|(method, begin)| method == request.method() && path.starts_with(begin));
    if !allowed {
        return told(StatusCode::NOT_FOUND, "this cannot be asked of another region");
    }
    match pass_on(address, &path, request).await {
        Ok(response) => response,
        Err(why) => told(StatusCode::BAD_GATEWAY, &format!("the router of {region} does not answer: {why}")),
    }
}

async fn pass_on(address: SocketAddr, path: &str, request: Request) -> Result<Response, String> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| error.to_string())?;
    let mut asked = CLIENT
        .request(parts.method, format!("http://{address}/{path}"))
        .header("x-llm-router-page", "1")
        .body(body);
    let of_router = |name: &http::HeaderName| name.as_str().starts_with("x-llm-router-");
    for (name, value) in &parts.headers {
        if [CONTENT_TYPE, COOKIE].contains(name) || of_router(name) && name != "x-llm-router-page" {
            asked = asked.header(name, value);
        }
    }
    let answer = asked.send().await.map_err(|error| {
        if error.is_connect() { "nobody listens there".to_owned() } else { error.to_string() }
    })?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    for (name, value) in answer.headers() {
        if [CONTENT_TYPE, CACHE_CONTROL].contains(name) || of_router(name) {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    Ok(response)
}

fn ending() -> Response {
    told(StatusCode::SERVICE_UNAVAILABLE, "the demo is ending")
}

fn told(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": {"message": message, "type": "demo"}}))).into_response()
}
