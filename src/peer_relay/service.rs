//! The far end: takes a peer's request for a backend this node reaches, and streams the answer back.
//!
//! Owns a place at the backend for as long as the request runs, so that this node's limits, breaker and
//! figures count it like any other. It decides nothing, translates nothing and books nothing: the peer does.
//! It never asks another peer.

use super::listener::Proven;
use super::message::{
    DEADLINE, DECISION, FAILED, Failure, HOPS, MODEL, PATH, PATIENCE, REGION, TOKENS, UPSTREAM_PATH,
    is_model_path,
};
use crate::identity::NodeName;
use crate::outbound::{Answer, Outbound};
use crate::telemetry::scope;
use crate::trace::{Taken, Tracer};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use llm_router_actors::Handle;
use llm_router_actors::clock::Clock;
use llm_router_actors::gate::NotAdmitted;
use llm_router_actors::lease::Lease;
use llm_router_logic::backend::BackendSpec;
use llm_router_logic::fault::Fault;
use llm_router_logic::ids::NodeId;
use llm_router_logic::time::Moment;
use llm_router_logic::wire;
use std::sync::Arc;
use std::time::Duration;

/// Headers of a backend's dialect that a peer may set.
const DIALECT_HEADERS: [&str; 1] = ["anthropic-version"];
/// Where a peer names no wait.
const PATIENCE_DEFAULT: Duration = Duration::from_secs(60);
/// How much longer than the peer's deadline a request may run here.
const DEADLINE_GRACE: Duration = Duration::from_secs(1);
/// Longest wait granted, whatever a peer names.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// What the relay's routes share.
#[derive(Clone)]
pub struct Service {
    /// The node's actors.
    pub handle: Handle,
    /// The way to its backends.
    pub outbound: Arc<Outbound>,
    /// Traces requests.
    pub tracer: Arc<Tracer>,
    /// Largest request body.
    pub max_body_bytes: usize,
}

/// The routes of the relay's listener. Every request must carry the [`Proven`] extension.
pub fn router(service: Service) -> Router {
    Router::new().route(&format!("{PATH}{{backend}}"), post(relay)).with_state(service)
}

/// A peer's request, read.
struct Asked {
    peer: NodeId,
    index: usize,
    model: String,
    tokens: u32,
    request: wire::Encoded,
    first_byte_by: Moment,
    deadline: Moment,
}

/// Why a request goes no further.
struct Refused {
    status: StatusCode,
    failure: Failure,
    /// The metric label.
    why: &'static str,
}

async fn relay(
    State(service): State<Service>,
    Path(backend): Path<String>,
    request: Request<Body>,
) -> Response {
    let handle = &service.handle;
    let region = handle.topology().region.to_string();
    let decision = word(request.headers(), &DECISION).unwrap_or_default();
    let taken = service.tracer.take(request.headers(), &decision);
    let context = Arc::clone(taken.context());
    let answered = scope::within(context, serve(&service, &backend, request, taken)).await;
    let result = answered.as_ref().map_or_else(|refused| refused.why, |_| "served");
    tracing::debug!(backend, decision, result, "took a request of a peer");
    handle.metrics().relayed_requests_total.with_label_values(&["taken", result]).inc();
    let mut response = match answered {
        Ok(body) => Response::new(body),
        Err(Refused { status, failure, .. }) => {
            let mut response = (status, axum::Json(failure)).into_response();
            response.headers_mut().insert(FAILED, HeaderValue::from_static("1"));
            response
        }
    };
    if let Ok(region) = HeaderValue::from_str(&region) {
        response.headers_mut().insert(REGION, region);
    }
    response
}

async fn serve(
    service: &Service,
    backend: &str,
    request: Request<Body>,
    mut taken: Taken,
) -> Result<Body, Refused> {
    let handle = &service.handle;
    let clock = handle.clock();
    let asked = read(service, backend, request).await.inspect_err(|refused| taken.refused(refused.why))?;
    let snapshot = handle.snapshot();
    let left = clock.until(asked.first_byte_by);
    let leased =
        handle.lease_for_peer(&snapshot, asked.index, &asked.peer, &asked.model, asked.tokens, left).await;
    let mut lease = leased.map_err(|refused| {
        taken.refused("busy");
        not_admitted(refused, clock)
    })?;
    let id = &snapshot.view.backends[asked.index].spec.id;
    let mut encoded = asked.request;
    encoded.headers.extend(taken.asks(id, &asked.model, asked.peer.as_str()));
    let answer = match service.outbound.send(id, encoded, clock.until(asked.first_byte_by)).await {
        Ok(answer) => answer,
        Err(fault) => {
            lease.fail(&fault);
            taken.failed(&fault);
            return Err(Refused {
                status: StatusCode::BAD_GATEWAY,
                failure: Failure::of(&fault),
                why: fault.label(),
            });
        }
    };
    lease.saw_output(0);
    let deadline = asked.deadline;
    let passing = Passing { answer, lease: Some(lease), clock, deadline, events: 0, taken };
    Ok(Body::from_stream(passing.into_stream()))
}

/// Reads and judges what a peer asks.
async fn read(service: &Service, backend: &str, request: Request<Body>) -> Result<Asked, Refused> {
    let refuse =
        |status, why, message: &str| Refused { status, failure: Failure::new("refused", message), why };
    let (parts, body) = request.into_parts();
    let Some(Proven(NodeName { node: peer, .. })) = parts.extensions.get() else {
        return Err(refuse(StatusCode::UNAUTHORIZED, "unproven", "no peer has proven itself here"));
    };
    // One hop. What came further is a loop, whoever made it.
    if word(&parts.headers, &HOPS).as_deref() != Some("1") {
        return Err(refuse(StatusCode::LOOP_DETECTED, "loop", "a relayed request is not relayed again"));
    }
    let snapshot = service.handle.snapshot();
    let region = &snapshot.view.region;
    let found = snapshot.view.backends.iter().position(|view| view.spec.id.as_str() == backend);
    let Some(index) = found.filter(|index| snapshot.view.backends[*index].spec.is_reached_from(region))
    else {
        return Err(unreachable(backend));
    };
    if snapshot.view.via(&snapshot.view.backends[index], service.handle.clock().now()).is_some()
        || !snapshot.view.backends[index].reachable_here()
    {
        return Err(unreachable(backend));
    }
    let path = word(&parts.headers, &UPSTREAM_PATH).filter(|path| is_model_path(path));
    let Some(path) = path else {
        return Err(refuse(StatusCode::FORBIDDEN, "path", "only requests to models are relayed"));
    };
    let model =
        word(&parts.headers, &MODEL).filter(|model| is_served(&snapshot.view.backends[index].spec, model));
    let Some(model) = model else {
        return Err(refuse(StatusCode::FORBIDDEN, "model", "the model is not served here"));
    };
    let now = service.handle.clock().now();
    let wait = |name: HeaderName| millis(&parts.headers, &name).unwrap_or(PATIENCE_DEFAULT).min(PATIENCE_MAX);
    // The peer keeps its client's deadline; this one ends what a lost peer leaves behind.
    let deadline = now + wait(DEADLINE) + DEADLINE_GRACE;
    let first_byte_by = (now + wait(PATIENCE)).min(deadline);
    let body = axum::body::to_bytes(body, service.max_body_bytes);
    let body = tokio::time::timeout(service.handle.clock().until(first_byte_by), body).await;
    let Ok(Ok(body)) = body else {
        return Err(refuse(StatusCode::BAD_REQUEST, "body", "the request's body is too large or too slow"));
    };
    let headers = DIALECT_HEADERS
        .into_iter()
        .filter_map(|name| Some((name, word(&parts.headers, &HeaderName::from_static(name))?)))
        .collect();
    let tokens = word(&parts.headers, &TOKENS).and_then(|tokens| tokens.parse().ok()).unwrap_or(0);
    let request =
        wire::Encoded { path, body: body.into(), headers, streams: false, dropped: Vec::new(), echo: None };
    Ok(Asked { peer: peer.clone(), index, model, tokens, request, first_byte_by, deadline })
}

/// Whether the configuration says that `model` is served, or leaves it to the backend.
fn is_served(spec: &BackendSpec, model: &str) -> bool {
    spec.models.is_empty() || spec.models.iter().any(|served| *served.name == *model)
}

fn unreachable(backend: &str) -> Refused {
    Refused {
        status: StatusCode::SERVICE_UNAVAILABLE,
        failure: Failure::new("unreachable", format!("backend `{backend}` is not reached from here either")),
        why: "unreachable",
    }
}

fn not_admitted(refused: NotAdmitted, clock: Clock) -> Refused {
    let failure = match refused {
        NotAdmitted::Closed(until) => Failure {
            status: StatusCode::TOO_MANY_REQUESTS.as_u16(),
            retry_after_ms: Some(llm_router_logic::time::millis(until.since(clock.now()))),
            ..Failure::new("status", "the backend takes no more requests for now")
        },
        _ => Failure::new("busy", "no place became free at the backend"),
    };
    Refused { status: StatusCode::SERVICE_UNAVAILABLE, failure, why: "busy" }
}

fn word(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok().map(str::to_owned)
}

fn millis(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    word(headers, name)?.parse().ok().map(Duration::from_millis)
}

/// An answer on its way through. Dropped before its end (the peer hung up), it cancels the backend and says
/// nothing of its health.
struct Passing {
    answer: Answer,
    lease: Option<Lease>,
    clock: Clock,
    deadline: Moment,
    /// Events seen: what a stream's output is counted by here.
    events: u64,
    taken: Taken,
}

impl Passing {
    fn into_stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        stream::unfold(Some(self), |passing| async move {
            let mut passing = passing?;
            match passing.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(passing))),
                Ok(None) => None,
                // The peer sees the body break off, as it would have seen it itself.
                Err(fault) => Some((Err(std::io::Error::other(fault.to_string())), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let left = self.clock.until(self.deadline);
        match self.answer.chunk(left).await {
            Ok(Some(chunk)) => {
                if let Some(lease) = &mut self.lease {
                    lease.first_token();
                    self.taken.began();
                    self.events += chunk.windows(6).filter(|window| *window == b"\ndata:").count() as u64;
                    lease.saw_output(self.events);
                }
                Ok(Some(chunk))
            }
            Ok(None) => {
                if let Some(lease) = self.lease.take() {
                    lease.succeed(None);
                }
                self.taken.served();
                Ok(None)
            }
            Err(fault) => {
                // Past the deadline nobody knows whether the backend would have gone on.
                let fault = if left.is_zero() { Fault::Deadline } else { fault };
                if let Some(lease) = self.lease.take() {
                    lease.fail(&fault);
                }
                self.taken.failed(&fault);
                Err(fault)
            }
        }
    }
}
