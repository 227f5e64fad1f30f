//! Carries a request to llama-server and the answer back, byte by byte as it comes.

use super::App;
use super::auth::Denied;
use super::meter::Passing;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use llm_router_logic::sign::{AUTH_TYPE_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, v2};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A request's body must have arrived within this.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long llama-server may take to say whether it is healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Headers that concern one connection only (RFC 9110, section 7.6.1), or that are known as such.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why a request gets no answer of llama-server's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive: {0}")]
    BodyBroken(String),
    #[error("the request's target is not a path")]
    Target,
    #[error("llama-server cannot be reached: {0}")]
    Unreachable(String),
}

impl Refusal {
    /// Status, error type and code.
    fn words(&self) -> (StatusCode, &'static str, &'static str) {
        let wrong = "invalid_request_error";
        match self {
            Self::Denied(denied) => (StatusCode::UNAUTHORIZED, "authentication_error", denied.label()),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, wrong, "too_large"),
            Self::BodyBroken(_) => (StatusCode::REQUEST_TIMEOUT, wrong, "body_broken"),
            Self::Target => (StatusCode::BAD_REQUEST, wrong, "bad_target"),
            Self::Unreachable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "upstream_unreachable")
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, kind, code) = self.words();
        let error = json!({"message": self.to_string(), "type": kind, "param": null, "code": code});
        let body = json!({ "error": error }).to_string();
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// `GET /health`: llama-server's own answer, without authentication.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    match tokio::time::timeout(HEALTH_TIMEOUT, app.upstream.get("/health")).await {
        Ok(Ok(response)) => pass_back(response, None),
        Ok(Err(error)) => Refusal::Unreachable(reason(&error)).into_response(),
        Err(_) => Refusal::Unreachable(format!("no answer within {HEALTH_TIMEOUT:?}")).into_response(),
    }
}

/// `GET /upstream/metrics`: llama-server's own metrics.
pub(crate) async fn upstream_metrics(State(app): State<Arc<App>>) -> Response {
    match app.upstream.get("/metrics").await {
        Ok(response) => pass_back(response, None),
        Err(error) => Refusal::Unreachable(reason(&error)).into_response(),
    }
}

/// Every other route.
pub(crate) async fn forward(State(app): State<Arc<App>>, request: Request) -> Response {
    let response = match admit(&app, request).await {
        Ok((parts, body)) => carry(&app, &parts, body).await,
        Err(refusal) => Err(refusal),
    };
    let response = response.unwrap_or_else(IntoResponse::into_response);
    app.figures.count_request(response.status());
    response
}

/// Reads the body and verifies the signature; a refusal is counted.
pub(crate) async fn admit(app: &App, request: Request) -> Result<(Parts, Bytes), Refusal> {
    let (parts, body) = request.into_parts();
    let denied = |denied: Denied| {
        app.figures.count_denied(denied.label());
        tracing::debug!(why = denied.label(), path = parts.uri.path(), "refused a request");
        Refusal::from(denied)
    };
    if let Some(gatekeeper) = &app.gatekeeper {
        gatekeeper.glance(&parts).map_err(denied)?;
    }
    let limit = app.config.max_body_bytes;
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    let body = match read {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::TooLarge(limit)),
        Ok(Err(error)) => return Err(Refusal::BodyBroken(error.to_string())),
        Err(_) => {
            return Err(Refusal::BodyBroken(format!("not complete within {BODY_TIMEOUT:?}")));
        }
    };
    if let Some(gatekeeper) = &app.gatekeeper {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        gatekeeper.verify(&parts, &body, now).map_err(denied)?;
    }
    Ok((parts, body))
}

async fn carry(app: &App, parts: &Parts, body: Bytes) -> Result<Response, Refusal> {
    let target = parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    let target = target.filter(|target| target.starts_with('/')).ok_or(Refusal::Target)?;
    let produces = parts.method == Method::POST && produces_tokens(parts.uri.path());
    let mut passing = produces.then(|| app.meter.begin());
    let response = app
        .upstream
        .send(parts.method.clone(), target, outgoing(&parts.headers), body)
        .await
        .map_err(|error| Refusal::Unreachable(reason(&error)))?;
    if let Some(passing) = passing.as_mut().filter(|_| response.status().is_success()) {
        let content_type = response.headers().get(header::CONTENT_TYPE);
        passing.answer(content_type.and_then(|value| value.to_str().ok()).unwrap_or_default());
    }
    Ok(pass_back(response, passing))
}

/// Routes whose answers are output tokens: OpenAI's, Anthropic's and llama-server's own.
fn produces_tokens(path: &str) -> bool {
    ["/completions", "/completion", "/infill", "/messages", "/responses", "/api/chat"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// The client's headers without those of its connection, its identity and its encodings: what passes
/// must stay readable for the meter.
fn outgoing(headers: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(headers);
    for name in
        [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::ACCEPT_ENCODING, header::EXPECT]
    {
        headers.remove(name);
    }
    for name in [TIMESTAMP_HEADER, SIGNATURE_HEADER, AUTH_TYPE_HEADER, v2::NONCE_HEADER, v2::KEY_ID_HEADER] {
        headers.remove(name);
    }
    headers
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|value| value.split(',')).map(str::trim);
    for name in named.chain(HOP_BY_HOP) {
        if let Ok(name) = HeaderName::try_from(name) {
            kept.remove(name);
        }
    }
    kept
}

/// The answer as it comes. Dropping its body, as the server does when the client leaves, drops the
/// connection to llama-server and with it the request there.
fn pass_back(response: reqwest::Response, passing: Option<Passing>) -> Response {
    let status = response.status();
    let headers = end_to_end(response.headers());
    let mut answer = Response::new(Body::from_stream(measured(response.bytes_stream(), passing)));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

fn measured<S, E>(bytes: S, mut passing: Option<Passing>) -> impl Stream<Item = Result<Bytes, E>>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    bytes.inspect(move |chunk| {
        if let (Ok(chunk), Some(passing)) = (chunk, &mut passing) {
            passing.bytes(chunk);
        }
    })
}

/// The innermost cause, without the address that reqwest puts around it.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_end_to_end_headers_leave_and_no_credentials() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-private"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("host", "router"),
            ("authorization", "Bearer client"),
            ("x-signature", "abc"),
            ("x-timestamp", "1"),
            ("x-auth-type", "hmac-sha256-v2"),
            ("x-nonce", "0123456789abcdef"),
            ("x-key-id", "k"),
            ("content-type", "application/json"),
            ("traceparent", "00-1-2-01"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        let mut left: Vec<String> = outgoing(&headers).keys().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(left, ["content-type", "traceparent"]);
    }

    #[test]
    fn routes_that_produce_tokens_are_known() {
        for path in ["/v1/chat/completions", "/completion", "/v1/messages"] {
            assert!(produces_tokens(path), "{path}");
        }
        for path in ["/v1/embeddings", "/tokenize", "/v1/messages/count_tokens"] {
            assert!(!produces_tokens(path), "{path}");
        }
    }
}
