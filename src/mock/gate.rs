//! What every request passes before its route: is the mock loaded, does a fault rule fire, is the
//! caller who it must be. Bodies are read here, bounded, and parsed once.

use super::app::{App, unix_now};
use super::error;
use super::fault::{Action, Asked, Twist, Wait};
use super::server::HangUp;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::sign::verify_v1;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Largest request body.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A request as its route sees it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The parsed body; the error text where it is no JSON.
    pub(crate) body: Arc<Result<Value, String>>,
    pub(crate) twist: Twist,
}

impl Call {
    /// The body as a JSON object.
    pub(crate) fn json(&self) -> Result<&Value, ApiError> {
        match self.body.as_ref() {
            Ok(value) if value.is_object() => Ok(value),
            Ok(_) => Err(ApiError::new(ErrorKind::InvalidRequest, "the body must be a JSON object")),
            Err(why) => Err(ApiError::new(ErrorKind::InvalidRequest, format!("the body is no JSON: {why}"))),
        }
    }
}

/// The middleware.
pub(crate) async fn pass(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let inference = request.method() == Method::POST;
    if inference {
        app.ledger().received += 1;
    }
    let mut waiting = Waiting { app: Arc::clone(&app), counts: inference };
    let response = examine(&app, request, next, &mut waiting).await;
    waiting.counts = false;
    if inference && (response.status().is_client_error() || response.status().is_server_error()) {
        app.ledger().errors += 1;
    }
    response
}

/// Not a route of this kind.
pub(crate) async fn no_such_route(State(app): State<Arc<App>>, request: Request) -> Response {
    let why = format!("no such route: {} {}", request.method(), request.uri().path());
    error::respond(app.config.kind, &ApiError::new(ErrorKind::NotFound, why))
}

/// Counts a client that left before its route was reached: during a hang, or while its body was read.
struct Waiting {
    app: Arc<App>,
    counts: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.counts {
            self.app.ledger().cancelled += 1;
        }
    }
}

async fn examine(app: &Arc<App>, request: Request, next: Next, waiting: &mut Waiting) -> Response {
    let kind = app.config.kind;
    if tokio::time::Instant::now() < app.ready_at {
        let mut loading = ApiError::new(ErrorKind::Unavailable, "Loading model");
        loading.retry_after = None;
        return error::respond(kind, &loading);
    }
    let (mut parts, body) = request.into_parts();
    let bytes = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(_) => {
            let why = format!("the body is over {BODY_BYTES_MAX} bytes, or broke off");
            return error::respond(kind, &ApiError::new(ErrorKind::TooLarge, why));
        }
    };
    let parsed = serde_json::from_slice::<Value>(&bytes).map_err(|why| why.to_string());
    let model = parsed.as_ref().ok().and_then(|body| body.get("model")).and_then(Value::as_str);
    let model = model.or_else(|| super::gemini::model_of(parts.uri.path()));
    let asked = Asked { path: parts.uri.path(), inference: waiting.counts, model, body: &bytes };
    let action = app.faults().choose(&asked);
    let mut twist = Twist::default();
    if let Some(action) = action {
        app.ledger().faults += 1;
        match action.twist() {
            Some(asked_for) => twist = asked_for,
            None => return act(kind, &action, wants_stream(parts.uri.path(), &parsed)).await,
        }
    }
    if let Err(refused) = authenticate(app, &parts.method, parts.uri.path(), &parts.headers, &bytes) {
        return error::respond(kind, &refused);
    }
    parts.extensions.insert(Call { body: Arc::new(parsed), twist });
    // From here on the place in the queue and the slot count for themselves.
    waiting.counts = false;
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

fn wants_stream(path: &str, body: &Result<Value, String>) -> bool {
    let stated = body.as_ref().ok().and_then(|body| body.get("stream")).and_then(Value::as_bool);
    stated.unwrap_or(false) || path.ends_with(":streamGenerateContent")
}

/// Actions that replace the answer.
async fn act(kind: Kind, action: &Action, stream: bool) -> Response {
    match action {
        Action::Status { code, retry_after, body } => status(kind, *code, *retry_after, body.as_ref()),
        Action::Burst429 { retry_after, .. } => {
            status(kind, 429, Some(retry_after.unwrap_or(Wait(Duration::from_secs(1)))), None)
        }
        Action::Unhealthy => status(kind, 503, None, None),
        Action::Malformed if stream => sse_or(kind, "{\"id\":\"mock\",\"choices\":[{\"ind"),
        Action::Malformed => {
            ([(header::CONTENT_TYPE, "application/json")], "{\"id\":\"mock\",\"choices\":[{\"ind")
                .into_response()
        }
        Action::ErrorBody200 => {
            let body = error::body(kind, &ApiError::new(ErrorKind::Internal, "an error behind status 200"));
            if stream { sse_or(kind, &body.to_string()) } else { error::json_response(StatusCode::OK, &body) }
        }
        Action::Disconnect => {
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(HangUp);
            response
        }
        // The other actions change an answer and do not replace one: `Action::twist` took them.
        Action::Hang
        | Action::Slow { .. }
        | Action::Cut { .. }
        | Action::CleanEnd { .. }
        | Action::Stall { .. }
        | Action::UsageClasses { .. }
        | Action::WrongUsage { .. } => std::future::pending().await,
    }
}

/// One event of a stream that then ends.
fn sse_or(kind: Kind, payload: &str) -> Response {
    let event = if kind == Kind::Anthropic { "event: error\n" } else { "" };
    let bytes = Bytes::from(format!("{event}data: {payload}\n\n"));
    ([(header::CONTENT_TYPE, "text/event-stream")], bytes).into_response()
}

fn status(kind: Kind, code: u16, retry_after: Option<Wait>, body: Option<&Value>) -> Response {
    let mut fault = ApiError::new(error::kind_of(code), format!("fault rule: status {code}"));
    fault.status = code;
    fault.retry_after = retry_after.map(|wait| wait.0);
    let mut response = error::respond(kind, &fault);
    match body {
        None => {}
        Some(Value::String(text)) => {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = Body::from(text.clone());
        }
        Some(json) => {
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = Body::from(json.to_string());
        }
    }
    response
}

fn authenticate(
    app: &App,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), ApiError> {
    let kind = app.config.kind;
    let public = kind == Kind::Llama && matches!(path, "/health" | "/v1/health" | "/v1/models" | "/models");
    if public {
        return Ok(());
    }
    if let Some(secret) = &app.config.hmac_secret {
        verify(secret.as_bytes(), method, path, headers, body)?;
    }
    let Some(key) = &app.config.api_key else {
        return Ok(());
    };
    if presented_key(kind, headers).is_none_or(|got| !bool::from(got.as_bytes().ct_eq(key.as_bytes()))) {
        let why = if kind == Kind::Llama { "Invalid API Key" } else { "the API key is missing or wrong" };
        let refused = ApiError::new(ErrorKind::Authentication, why);
        return Err(if kind == Kind::OpenAi { refused.with_code("invalid_api_key") } else { refused });
    }
    if kind == Kind::Anthropic && !headers.contains_key("anthropic-version") {
        return Err(ApiError::new(ErrorKind::InvalidRequest, "anthropic-version: header is required"));
    }
    Ok(())
}

fn presented_key(kind: Kind, headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match kind {
        Kind::OpenAi | Kind::Llama => text("authorization")?.strip_prefix("Bearer "),
        Kind::Anthropic => text("x-api-key"),
        Kind::Gemini => text("x-goog-api-key"),
    }
}

fn verify(
    secret: &[u8],
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(stamp), Some(signature)) = (text("x-timestamp"), text("x-signature")) else {
        return Err(ApiError::new(ErrorKind::Authentication, "the request is not signed"));
    };
    verify_v1(secret, unix_now(), stamp, signature, text("x-auth-type"), method.as_str(), path, body)
        .map_err(|why| ApiError::new(ErrorKind::Authentication, why.to_string()))
}
