//! llama-server's own routes. Behaviour measured on builds b10434 and b11549, see `docs/MOCK.md`.

use super::app::App;
use super::{anthropic, embedding, error, openai};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{StatusCode, header};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn routes() -> Router<Arc<App>> {
    let mut routes = Router::new()
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/props", get(props))
        .route("/slots", get(slots))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/models", get(models));
    // The same handlers with and without the version, as llama-server has them.
    for prefix in ["", "/v1"] {
        routes = routes
            .route(&format!("{prefix}/chat/completions"), post(openai::chat))
            .route(&format!("{prefix}/embeddings"), post(embedding::openai));
    }
    routes
        .route("/v1/completions", post(openai::complete))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
}

async fn health() -> Response {
    error::json_response(StatusCode::OK, &json!({"status": "ok"}))
}

async fn props(State(app): State<Arc<App>>) -> Response {
    let model = app.models().swap_remove(0);
    let props = json!({
        "default_generation_settings": {
            "id": 0,
            "n_ctx": app.config.context_window,
            "is_processing": false,
            "speculative": false,
        },
        "total_slots": app.config.slots,
        "model_alias": model,
        "model_path": format!("/models/{model}.gguf"),
        "modalities": {"vision": false, "audio": false},
        "chat_template": "",
        "bos_token": "",
        "eos_token": "",
        "build_info": "b0-mock",
    });
    error::json_response(StatusCode::OK, &props)
}

async fn slots(State(app): State<Arc<App>>) -> Response {
    let busy = app.books().in_flight;
    let slots: Vec<Value> = (0..app.config.slots as u64)
        .map(|id| {
            json!({
                "id": id,
                "n_ctx": app.config.context_window,
                "speculative": false,
                "is_processing": id < busy,
            })
        })
        .collect();
    error::json_response(StatusCode::OK, &json!(slots))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let books = app.books();
    let (total, since) = app.scrape();
    let rate = |tokens: u64, time: Duration| {
        if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
    };
    let mut text = String::new();
    for (name, kind, value) in [
        ("prompt_tokens_total", "counter", total.prompt_tokens as f64),
        ("prompt_seconds_total", "counter", total.prompt_time.as_secs_f64()),
        ("tokens_predicted_total", "counter", total.predicted_tokens as f64),
        ("tokens_predicted_seconds_total", "counter", total.predicted_time.as_secs_f64()),
        ("n_decode_total", "counter", total.predicted_tokens as f64),
        ("prompt_tokens_seconds", "gauge", rate(since.prompt_tokens, since.prompt_time)),
        ("predicted_tokens_seconds", "gauge", rate(since.predicted_tokens, since.predicted_time)),
        ("requests_processing", "gauge", books.in_flight as f64),
        ("requests_deferred", "gauge", books.queued as f64),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let id = app.models().swap_remove(0);
    let meta = json!({
        "vocab_type": 2, "n_vocab": 32_000, "n_ctx_train": app.config.context_window,
        "n_embd": app.config.embedding_dimensions, "n_params": 1_100_048_384_u64, "size": 636_725_248_u64,
    });
    let model = json!({"id": id, "object": "model", "created": super::app::unix_now(), "owned_by": "llamacpp", "meta": meta});
    error::json_response(StatusCode::OK, &json!({"object": "list", "data": [model]}))
}
