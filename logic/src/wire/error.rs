//! Errors across dialects: reading an upstream's error object, telling what a fault means to a client, and
//! writing it in the client's own shape.

use super::{Dialect, Operation};
use crate::backend::Kind;
use crate::fault::{ApiError, ErrorKind, Fault, UpstreamError};
use serde_json::{Value, json};

/// Text of an upstream's error that is kept: enough for a person, not enough to fill a log.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Reads the error object of an upstream's non-2xx body; never fails, falls back to the text.
pub fn read_error(kind: Kind, body: &[u8]) -> UpstreamError {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    if let Some(error) = parsed.as_ref().and_then(|value| error_object(kind, value)) {
        return error;
    }
    // Some frameworks answer with a bare `message` or `detail`.
    let bare = parsed.as_ref().and_then(|value| {
        ["message", "detail"]
            .iter()
            .find_map(|key| value.get(*key).and_then(Value::as_str).map(str::to_owned))
    });
    let text = bare.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    UpstreamError { message: shorten(text), ..UpstreamError::default() }
}

/// The error a value holds, if it is an error and not an answer.
pub(super) fn error_object(kind: Kind, value: &Value) -> Option<UpstreamError> {
    // Gemini wraps the errors of its array streams in an array.
    let value = match value {
        Value::Array(elements) if kind == Kind::Gemini => elements.first()?,
        other => other,
    };
    let error = value.get("error").filter(|error| !error.is_null())?;
    if let Value::String(text) = error {
        return Some(UpstreamError { message: shorten(text.clone()), ..UpstreamError::default() });
    }
    let word = |key: &str| match error.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    Some(UpstreamError {
        kind: word("type").or_else(|| word("status")),
        code: word("code"),
        message: shorten(word("message").unwrap_or_else(|| error.to_string())),
        param: word("param"),
    })
}

/// The HTTP status an error object stands for, where the dialect tells: needed for errors inside a 200.
pub(super) fn status_of(error: &UpstreamError) -> Option<u16> {
    let by_code =
        error.code.as_deref().and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
    by_code.or_else(|| {
        let words = [error.kind.as_deref(), error.code.as_deref()];
        words.into_iter().flatten().find_map(|word| {
            Some(match word {
                "invalid_request_error"
                | "INVALID_ARGUMENT"
                | "FAILED_PRECONDITION"
                | "OUT_OF_RANGE"
                | "exceed_context_size_error"
                | "context_length_exceeded" => 400,
                "authentication_error" | "UNAUTHENTICATED" | "invalid_api_key" => 401,
                "billing_error" => 402,
                "permission_error" | "PERMISSION_DENIED" => 403,
                "not_found_error" | "NOT_FOUND" | "model_not_found" => 404,
                "request_too_large" => 413,
                "rate_limit_error" | "RESOURCE_EXHAUSTED" | "rate_limit_exceeded" | "insufficient_quota" => {
                    429
                }
                "api_error" | "server_error" | "INTERNAL" | "internal_error" => 500,
                "not_supported_error" | "UNIMPLEMENTED" => 501,
                "unavailable_error" | "UNAVAILABLE" => 503,
                "timeout_error" | "DEADLINE_EXCEEDED" => 504,
                "overloaded_error" => 529,
                _ => return None,
            })
        })
    })
}

/// The status an upstream should have answered with. llama.cpp answers 500 where it lacks a feature or
/// cannot read a request; neither is ill health, and only the former is worth another backend.
pub fn corrected_status(kind: Kind, status: u16, error: &UpstreamError) -> u16 {
    if kind != Kind::Llama || status != 500 {
        return status;
    }
    let message = error.message.as_str();
    if message.contains("input is not supported") {
        501
    } else if message.contains("json.exception.parse_error") || message.contains("Failed to parse") {
        400
    } else {
        status
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let mut end = MESSAGE_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What a client is told when the last attempt ended with `fault`: the one table of faults.
///
/// A client's own mistake keeps its status and field. Statuses about the router's account at a provider
/// (401, 403, 404) are kept as well, since retrying them is of no use, but say whose key it was. Server
/// errors become 502 or 503, timeouts 504.
pub fn client_error(fault: &Fault) -> ApiError {
    let mut told = match fault {
        Fault::Status { status, error, .. } => of_status(*status, error),
        Fault::Connect(_) => ApiError::new(ErrorKind::Upstream, "the backend cannot be reached")
            .with_code("backend_unreachable"),
        Fault::FirstByteTimeout(_) | Fault::IdleTimeout(_) => {
            ApiError::new(ErrorKind::Timeout, format!("the backend was too slow: {fault}"))
                .with_code("backend_timeout")
        }
        Fault::Deadline => {
            ApiError::new(ErrorKind::Timeout, "the request's deadline passed").with_code("deadline_exceeded")
        }
        Fault::Broken(_) => ApiError::new(ErrorKind::Upstream, format!("the backend's {fault}"))
            .with_code("backend_stream_broken"),
        Fault::Malformed(_) => ApiError::new(ErrorKind::Upstream, format!("the backend sent a {fault}"))
            .with_code("backend_malformed"),
    };
    if let Some(wait) = fault.retry_after()
        && matches!(told.status, 429 | 503)
    {
        told = told.with_retry_after(wait);
    }
    told
}

fn of_status(status: u16, error: &UpstreamError) -> ApiError {
    let text = if error.message.is_empty() { format!("status {status}") } else { error.message.clone() };
    let of_ours = |what: &str| format!("the backend refused the router's own {what}: {text}");
    let mut told = match status {
        401 => ApiError::new(ErrorKind::Authentication, of_ours("key")),
        402 | 403 => ApiError::new(ErrorKind::Permission, of_ours("account")),
        404 => ApiError::new(ErrorKind::NotFound, text),
        408 | 504 => ApiError::new(ErrorKind::Timeout, text),
        413 => ApiError::new(ErrorKind::TooLarge, text),
        429 => ApiError::new(ErrorKind::RateLimit, text),
        501 => {
            let mut told = ApiError::new(ErrorKind::InvalidRequest, text);
            told.code = Some("not_supported".to_owned());
            told
        }
        503 | 529 => ApiError::new(ErrorKind::Unavailable, text),
        400..=499 => {
            let mut told = ApiError::new(ErrorKind::InvalidRequest, text);
            told.status = status;
            told
        }
        _ => ApiError::new(ErrorKind::Upstream, text),
    };
    // A bare number repeats the status and says nothing to a program.
    let code = error.code.clone().filter(|code| code.parse::<u16>().is_err());
    told.code = told.code.or(code).or_else(|| (status >= 500).then(|| "backend_error".to_owned()));
    told.param = error.param.clone();
    told
}

/// The answer to a token count that no backend could give: an estimate from the bytes of prompt text, as
/// Anthropic calls its own count. `None` where `failure` means something else than "cannot count".
pub fn estimate_count(operation: Operation, text_bytes: usize, failure: &ApiError) -> Option<Vec<u8>> {
    let cannot = match failure.code.as_deref() {
        Some("operation_not_supported" | "not_supported") => true,
        Some("model_not_found") => false,
        _ => failure.kind == ErrorKind::NotFound,
    };
    // A token is about four bytes of English text.
    let tokens = text_bytes.div_ceil(4).max(1);
    (operation == Operation::CountTokens && cannot)
        .then(|| json!({"input_tokens": tokens}).to_string().into_bytes())
}

/// The body of an error response in the client's dialect.
pub fn encode_error(dialect: Dialect, error: &ApiError) -> Vec<u8> {
    error_body(dialect, error).to_string().into_bytes()
}

/// The error object of each dialect.
pub(super) fn error_body(dialect: Dialect, error: &ApiError) -> Value {
    match dialect {
        Dialect::OpenAi => json!({"error": {
            "message": error.message,
            "type": openai_word(error.kind),
            "param": error.param,
            "code": error.code.as_deref().or(openai_code(error.kind)),
        }}),
        Dialect::Anthropic => json!({
            "type": "error",
            "error": {"type": anthropic_word(error.kind), "message": error.message},
            "request_id": null,
        }),
        Dialect::Gemini => json!({"error": {
            "code": error.status,
            "message": error.message,
            "status": gemini_word(error.kind),
        }}),
    }
}

fn openai_word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest | ErrorKind::NotFound | ErrorKind::TooLarge => "invalid_request_error",
        ErrorKind::Authentication => "authentication_error",
        ErrorKind::Permission => "permission_error",
        ErrorKind::Timeout => "timeout_error",
        ErrorKind::RateLimit => "rate_limit_error",
        ErrorKind::Internal | ErrorKind::Upstream | ErrorKind::Unavailable => "server_error",
    }
}

fn openai_code(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Authentication => Some("invalid_api_key"),
        ErrorKind::RateLimit => Some("rate_limit_exceeded"),
        ErrorKind::Unavailable => Some("service_unavailable"),
        _ => None,
    }
}

fn anthropic_word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest => "invalid_request_error",
        ErrorKind::Authentication => "authentication_error",
        ErrorKind::Permission => "permission_error",
        ErrorKind::NotFound => "not_found_error",
        ErrorKind::Timeout => "timeout_error",
        ErrorKind::TooLarge => "request_too_large",
        ErrorKind::RateLimit => "rate_limit_error",
        ErrorKind::Internal | ErrorKind::Upstream => "api_error",
        ErrorKind::Unavailable => "overloaded_error",
    }
}

fn gemini_word(kind: ErrorKind) -> &'static str {
    match kind {
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
