//! The routes that reach a model: read a bounded body, read what routing must know, hand over.

use super::App;
use super::auth;
use super::error::respond;
use crate::relay::{Call, GeminiPath};
use crate::telemetry::scope;
use crate::trace::Context;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use llm_router_logic::capability::Capabilities;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use llm_router_logic::request::Hints;
use llm_router_logic::route::Strategy;
use llm_router_logic::wire::{self, Dialect, Inspected, Operation};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

const STRATEGY: &str = "x-llm-router-strategy";
const MAX_COST: &str = "x-llm-router-max-cost-usd";
const DEADLINE: &str = "x-llm-router-deadline-ms";
const BACKEND: &str = "x-llm-router-backend";
const CAPABILITIES: &str = "x-llm-router-capabilities";
const SESSION: &str = "x-llm-router-session";
/// Longest session name remembered.
const SESSION_MAX: usize = 256;
/// Capability words taken from one header.
const CAPABILITIES_MAX: usize = 16;

/// What a route says of a request before its body is read.
pub(crate) struct Route {
    pub(crate) dialect: Dialect,
    pub(crate) operation: Operation,
    pub(crate) path: Option<GeminiPath>,
}

impl Route {
    fn new(dialect: Dialect, operation: Operation) -> Self {
        Self { dialect, operation, path: None }
    }

    /// The route as traces name it.
    fn template(&self) -> &'static str {
        match (self.dialect, self.operation) {
            (Dialect::Gemini, _) if self.path.as_ref().is_some_and(|path| path.stream) => {
                "/v1beta/models/{model}:streamGenerateContent"
            }
            (Dialect::Gemini, _) => "/v1beta/models/{model}:generateContent",
            (Dialect::Anthropic, Operation::CountTokens) => "/v1/messages/count_tokens",
            (Dialect::Anthropic, _) => "/v1/messages",
            (_, Operation::Completion) => "/v1/completions",
            (_, Operation::Embedding) => "/v1/embeddings",
            (_, Operation::Responses) => "/v1/responses",
            (_, Operation::Chat | Operation::CountTokens) => "/v1/chat/completions",
        }
    }

    /// The route of `path`, for a request that is only to be explained; `None` where no model is reached
    /// by it.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let plain = |dialect, operation| Some(Self::new(dialect, operation));
        match path {
            "/v1/chat/completions" => plain(Dialect::OpenAi, Operation::Chat),
            "/v1/completions" => plain(Dialect::OpenAi, Operation::Completion),
            "/v1/embeddings" => plain(Dialect::OpenAi, Operation::Embedding),
            "/v1/responses" => plain(Dialect::OpenAi, Operation::Responses),
            "/v1/messages" => plain(Dialect::Anthropic, Operation::Chat),
            "/v1/messages/count_tokens" => plain(Dialect::Anthropic, Operation::CountTokens),
            _ => {
                let rest = path.strip_prefix("/v1beta/models/").or(path.strip_prefix("/v1/models/"))?;
                let path = Some(gemini_path(rest, false)?);
                Some(Self { dialect: Dialect::Gemini, operation: Operation::Chat, path })
            }
        }
    }
}

/// What follows `models/` on Gemini's routes.
fn gemini_path(path: &str, sse: bool) -> Option<GeminiPath> {
    let (model, stream) = match path.rsplit_once(':') {
        Some((model, "generateContent")) => (model, false),
        Some((model, "streamGenerateContent")) => (model, true),
        _ => return None,
    };
    Some(GeminiPath { model: model.to_owned(), stream, sse })
}

pub(super) async fn chat_completions(State(app): State<App>, request: Request<Body>) -> Response {
    handle(&app, Route::new(Dialect::OpenAi, Operation::Chat), request).await
}

pub(super) async fn completions(State(app): State<App>, request: Request<Body>) -> Response {
    handle(&app, Route::new(Dialect::OpenAi, Operation::Completion), request).await
}

pub(super) async fn embeddings(State(app): State<App>, request: Request<Body>) -> Response {
    handle(&app, Route::new(Dialect::OpenAi, Operation::Embedding), request).await
}

pub(super) async fn responses(State(app): State<App>, request: Request<Body>) -> Response {
    handle(&app, Route::new(Dialect::OpenAi, Operation::Responses), request).await
}

pub(super) async fn messages(State(app): State<App>, request: Request<Body>) -> Response {
    handle(&app, Route::new(Dialect::Anthropic, Operation::Chat), request).await
}

pub(super) async fn count_tokens(State(app): State<App>, request: Request<Body>) -> Response {
    handle(&app, Route::new(Dialect::Anthropic, Operation::CountTokens), request).await
}

/// Gemini's routes: `models/{model}:generateContent` and `:streamGenerateContent`.
pub(super) async fn generate_content(
    State(app): State<App>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Response {
    let sse = query.is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"));
    let Some(gemini) = gemini_path(&path, sse) else {
        let error = ApiError::new(
            ErrorKind::NotFound,
            format!("there is no method `{path}`: use `:generateContent` or `:streamGenerateContent`"),
        );
        return respond(Dialect::Gemini, &error);
    };
    let path = Some(gemini);
    let route = Route { dialect: Dialect::Gemini, operation: Operation::Chat, path };
    handle(&app, route, request).await
}

async fn handle(app: &App, route: Route, request: Request<Body>) -> Response {
    let context = app.tracer.begin(request.headers(), route.template());
    scope::within(Arc::clone(&context), answer(app, route, request, context)).await
}

async fn answer(app: &App, route: Route, request: Request<Body>, context: Arc<Context>) -> Response {
    let dialect = route.dialect;
    let call = match authenticated(app, route, request).await {
        Ok(call) => Call { trace: Some(Arc::clone(&context)), ..call },
        Err(error) => {
            app.tracer.refused(&context, &error);
            let metrics = app.handle.metrics();
            metrics.requests_total.with_label_values(&["none", &error.status.to_string()]).inc();
            return respond(dialect, &error);
        }
    };
    let relay = app.relay.load_full();
    let (operation, text_bytes) = (call.operation, call.inspected.text_bytes);
    match relay.answer(call).await {
        Ok(response) => response,
        Err(failed) => {
            if failed.decision.is_empty() {
                app.tracer.refused(&context, &failed.error);
            }
            let mut response = match wire::estimate_count(operation, text_bytes, &failed.error) {
                Some(estimate) => estimated(estimate),
                None => respond(dialect, &failed.error),
            };
            for (name, value) in failed.headers {
                response.headers_mut().insert(name, value);
            }
            if !failed.decision.is_empty()
                && let Ok(decision) = HeaderValue::from_str(&failed.decision)
            {
                response.headers_mut().insert("x-llm-router-decision", decision);
            }
            response
        }
    }
}

/// A token count that is an estimate, and says so.
fn estimated(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-llm-router-estimated", HeaderValue::from_static("input_tokens"));
    response
}

/// Who asks is asked before anything of the body is read.
async fn authenticated(app: &App, route: Route, request: Request<Body>) -> Result<Call, ApiError> {
    let principal = auth::client(app, route.dialect, request.headers())?;
    let mut call = read(app, route, request).await?;
    let rights = &principal.rights;
    call.hints.strategy = match call.hints.strategy {
        Some(asked) if !rights.allow_strategy(asked) => return Err(strategy_not_allowed(asked)),
        Some(asked) => Some(asked),
        None => {
            let configured = app.handle.snapshot().policy.strategy;
            let allowed = rights.strategy_instead_of(configured);
            Some(allowed.ok_or_else(|| strategy_not_allowed(configured))?)
        }
    };
    call.principal = principal;
    Ok(call)
}

fn strategy_not_allowed(strategy: Strategy) -> ApiError {
    ApiError::new(ErrorKind::Permission, format!("your API key may not use strategy `{strategy}`"))
        .with_code("strategy_not_allowed")
        .with_param(STRATEGY)
}

/// Reads a request as its route would.
pub(super) async fn read(app: &App, route: Route, request: Request<Body>) -> Result<Call, ApiError> {
    let (parts, body) = request.into_parts();
    let hints = hints(&parts.headers)?;
    let needs = capabilities(&parts.headers)?;
    let session = text(&parts.headers, SESSION)?.map(str::to_owned);
    if session.as_ref().is_some_and(|session| session.len() > SESSION_MAX) {
        return Err(invalid(SESSION, &format!("is longer than {SESSION_MAX} bytes")));
    }
    let body = bounded(body, app.fixed.max_body_bytes, app.fixed.read_timeout).await?;
    let call = inspected(route, body)?;
    Ok(Call { hints, needs, session, headers: parts.headers, ..call })
}

/// The call that `body` is on `route`, without what headers say.
pub(crate) fn inspected(route: Route, body: Bytes) -> Result<Call, ApiError> {
    let Route { dialect, operation, path } = route;
    let mut call = Call {
        principal: Arc::default(),
        dialect,
        operation,
        path,
        body,
        inspected: Inspected::default(),
        hints: Hints::default(),
        needs: Capabilities::default(),
        session: None,
        headers: HeaderMap::new(),
        completion: None,
        trace: None,
    };
    call.inspected = wire::inspect(&call.inbound())?;
    Ok(call)
}

/// The whole body, at most `limit` bytes, within `patience`.
async fn bounded(body: Body, limit: usize, patience: Duration) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(patience, Limited::new(body, limit).collect()).await {
        Err(_) => {
            let mut error = ApiError::new(
                ErrorKind::Timeout,
                format!("the request's body did not arrive within {patience:?}"),
            );
            error.status = 408;
            Err(error.with_code("request_timeout"))
        }
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            ErrorKind::TooLarge,
            format!("the request's body is larger than {limit} bytes"),
        )
        .with_code("request_too_large")),
        Ok(Err(error)) => {
            Err(ApiError::new(ErrorKind::InvalidRequest, format!("cannot read the request's body: {error}")))
        }
    }
}

fn hints(headers: &HeaderMap) -> Result<Hints, ApiError> {
    let strategy = text(headers, STRATEGY)?
        .map(|word| Strategy::from_str(word).map_err(|error| invalid(STRATEGY, &error.to_string())))
        .transpose()?;
    let max_cost = text(headers, MAX_COST)?
        .map(|number| {
            let usd = number.parse().ok().filter(|usd: &f64| *usd >= 0.0);
            usd.and_then(Money::from_usd).ok_or_else(|| invalid(MAX_COST, "is not a number of dollars"))
        })
        .transpose()?;
    let deadline = text(headers, DEADLINE)?
        .map(|number| {
            let millis = number.parse().ok().filter(|millis: &u64| *millis > 0);
            millis
                .map(Duration::from_millis)
                .ok_or_else(|| invalid(DEADLINE, "is not a number of milliseconds above 0"))
        })
        .transpose()?;
    let backend = text(headers, BACKEND)?.map(BackendId::new);
    Ok(Hints { strategy, max_cost, deadline, backend })
}

fn capabilities(headers: &HeaderMap) -> Result<Capabilities, ApiError> {
    let words = text(headers, CAPABILITIES)?.unwrap_or_default();
    if words.split(',').count() > CAPABILITIES_MAX {
        return Err(invalid(CAPABILITIES, &format!("names more than {CAPABILITIES_MAX} capabilities")));
    }
    Ok(Capabilities::new(words.split(',')))
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, ApiError> {
    let value = headers.get(name).map(HeaderValue::to_str).transpose();
    Ok(value.map_err(|_| invalid(name, "is not plain text"))?.map(str::trim).filter(|text| !text.is_empty()))
}

fn invalid(header: &str, why: &str) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, format!("header `{header}` {why}"))
        .with_code("invalid_header")
        .with_param(header)
}
