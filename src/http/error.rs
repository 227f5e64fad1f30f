//! Errors as responses, in the client's dialect.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode, Uri};
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::wire::{self, Dialect};

/// What a 401 says of how to prove oneself (RFC 6750, section 3).
pub(super) const CHALLENGE: &str = "Bearer realm=\"llm-router\"";

/// The response that tells `error`.
pub(super) fn respond(dialect: Dialect, error: &ApiError) -> Response {
    let mut response = Response::new(Body::from(wire::encode_error(dialect, error)));
    *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if error.status == StatusCode::UNAUTHORIZED.as_u16() {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
    if let Some(wait) = error.retry_after {
        // Whole seconds, never 0: a client that asks again at once would be refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// The dialect of a route that need not exist.
fn dialect_of(uri: &Uri) -> Dialect {
    match uri.path() {
        path if path.starts_with("/v1/messages") => Dialect::Anthropic,
        path if path.starts_with("/v1beta/") => Dialect::Gemini,
        _ => Dialect::OpenAi,
    }
}

pub(super) async fn no_such_route(method: Method, uri: Uri) -> Response {
    let error = ApiError::new(ErrorKind::NotFound, format!("there is no route `{method} {}`", uri.path()));
    respond(dialect_of(&uri), &error.with_code("route_not_found"))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Response {
    let mut error =
        ApiError::new(ErrorKind::InvalidRequest, format!("`{}` does not take {method}", uri.path()));
    error.status = StatusCode::METHOD_NOT_ALLOWED.as_u16();
    respond(dialect_of(&uri), &error.with_code("method_not_allowed"))
}
