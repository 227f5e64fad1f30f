//! Errors in each vendor's own shape and words.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind};
use serde_json::{Value, json};

/// The error as a response of a mock of `kind`.
pub(crate) fn respond(kind: Kind, error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, &body(kind, error));
    if let Some(wait) = error.retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The kind of error a status stands for.
pub(crate) fn kind_of(status: u16) -> ErrorKind {
    match status {
        401 => ErrorKind::Authentication,
        403 => ErrorKind::Permission,
        404 => ErrorKind::NotFound,
        408 | 504 => ErrorKind::Timeout,
        413 => ErrorKind::TooLarge,
        429 => ErrorKind::RateLimit,
        502 => ErrorKind::Upstream,
        503 | 529 => ErrorKind::Unavailable,
        500.. => ErrorKind::Internal,
        _ => ErrorKind::InvalidRequest,
    }
}

/// The body of an error.
pub(crate) fn body(kind: Kind, error: &ApiError) -> Value {
    match kind {
        Kind::OpenAi => json!({"error": {
            "message": error.message,
            "type": openai_type(error.kind),
            "param": error.param,
            "code": error.code,
        }}),
        Kind::Anthropic => json!({
            "type": "error",
            "error": {"type": anthropic_type(error), "message": error.message},
            "request_id": "req_mock",
        }),
        Kind::Gemini => json!({"error": {
            "code": error.status,
            "message": error.message,
            "status": gemini_status(error),
        }}),
        Kind::Llama => json!({"error": {
            "code": error.status,
            "message": error.message,
            "type": error.code.as_deref().unwrap_or_else(|| llama_type(error)),
        }}),
    }
}

fn openai_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest | ErrorKind::Authentication | ErrorKind::NotFound | ErrorKind::TooLarge => {
            "invalid_request_error"
        }
        ErrorKind::Permission => "permission_error",
        ErrorKind::RateLimit => "rate_limit_error",
        ErrorKind::Timeout | ErrorKind::Internal | ErrorKind::Upstream | ErrorKind::Unavailable => {
            "server_error"
        }
    }
}

fn anthropic_type(error: &ApiError) -> &'static str {
    match error.kind {
        ErrorKind::InvalidRequest => "invalid_request_error",
        ErrorKind::Authentication => "authentication_error",
        ErrorKind::Permission => "permission_error",
        ErrorKind::NotFound => "not_found_error",
        ErrorKind::Timeout => "timeout_error",
        ErrorKind::TooLarge => "request_too_large",
        ErrorKind::RateLimit => "rate_limit_error",
        ErrorKind::Unavailable if error.status == 529 => "overloaded_error",
        ErrorKind::Internal | ErrorKind::Upstream | ErrorKind::Unavailable => "api_error",
    }
}

/// The canonical words of google.rpc.Code.
fn gemini_status(error: &ApiError) -> &'static str {
    match error.kind {
        ErrorKind::InvalidRequest | ErrorKind::TooLarge => "INVALID_ARGUMENT",
        ErrorKind::Authentication => "UNAUTHENTICATED",
        ErrorKind::Permission => "PERMISSION_DENIED",
        ErrorKind::NotFound => "NOT_FOUND",
        ErrorKind::Timeout => "DEADLINE_EXCEEDED",
        ErrorKind::RateLimit => "RESOURCE_EXHAUSTED",
        ErrorKind::Internal | ErrorKind::Upstream => "INTERNAL",
        ErrorKind::Unavailable => "UNAVAILABLE",
    }
}

fn llama_type(error: &ApiError) -> &'static str {
    match error.kind {
        ErrorKind::Authentication => "authentication_error",
        ErrorKind::Permission => "permission_error",
        ErrorKind::NotFound => "not_found_error",
        ErrorKind::Unavailable => "unavailable_error",
        ErrorKind::Internal if error.status == 501 => "not_supported_error",
        ErrorKind::Internal | ErrorKind::Upstream | ErrorKind::Timeout => "server_error",
        ErrorKind::InvalidRequest | ErrorKind::TooLarge | ErrorKind::RateLimit => "invalid_request_error",
    }
}
