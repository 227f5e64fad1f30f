//! The mock's own routes, outside the dialect: books, faults and speed.

use super::app::App;
use super::fault::Faults;
use super::{Speed, error};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/mock/books", get(books))
        .route("/mock/faults", get(show_faults).post(replace_faults))
        .route("/mock/speed", get(show_speed).post(change_speed))
}

async fn books(State(app): State<Arc<App>>) -> Response {
    match serde_json::to_value(app.books()) {
        Ok(books) => error::json_response(StatusCode::OK, &books),
        Err(why) => refuse(&why.to_string()),
    }
}

async fn show_faults(State(app): State<Arc<App>>) -> Response {
    error::json_response(StatusCode::OK, &app.faults().show())
}

async fn replace_faults(State(app): State<Arc<App>>, body: Bytes) -> Response {
    match Faults::parse(&String::from_utf8_lossy(&body)) {
        Ok(faults) => {
            app.set_faults(faults);
            show_faults(State(app)).await
        }
        Err(why) => refuse(&why.to_string()),
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpeedChange {
    ttft_ms: Option<u64>,
    tokens_per_second: Option<f64>,
}

async fn show_speed(State(app): State<Arc<App>>) -> Response {
    let speed = app.speed();
    let ttft_ms = llm_router_logic::time::millis(speed.ttft);
    let body = json!({"ttftMs": ttft_ms, "tokensPerSecond": speed.tokens_per_second});
    error::json_response(StatusCode::OK, &body)
}

async fn change_speed(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let change: SpeedChange = match serde_json::from_slice(&body) {
        Ok(change) => change,
        Err(why) => return refuse(&why.to_string()),
    };
    let now = app.speed();
    app.set_speed(Speed {
        ttft: change.ttft_ms.map_or(now.ttft, Duration::from_millis),
        tokens_per_second: change.tokens_per_second.unwrap_or(now.tokens_per_second),
    });
    show_speed(State(app)).await
}

fn refuse(why: &str) -> Response {
    let body: Value = json!({ "error": why });
    error::json_response(StatusCode::BAD_REQUEST, &body)
}
