//! What load balancers, GeoDNS and Prometheus ask. Truthful, and probing nothing.

use super::App;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use llm_router_actors::Handle;
use llm_router_actors::metrics::openmetrics;
use llm_router_logic::report::Health;
use llm_router_logic::view::BackendView;
use prometheus::TextEncoder;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// A node with seeds waits this long for its first peer before it is ready without one.
const FIRST_PEER: Duration = Duration::from_secs(3);

/// Whether a node should be sent new requests.
#[derive(Debug)]
pub struct Readiness {
    draining: AtomicBool,
    /// Whether peers are expected.
    has_seeds: bool,
}

impl Readiness {
    /// A node that is not draining.
    pub fn new(has_seeds: bool) -> Self {
        Self { draining: AtomicBool::new(false), has_seeds }
    }

    /// From now on the node is not ready: it finishes what it has.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the node finishes what it has and ends then.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// `None` when ready, else why not.
    pub(super) fn why_not(&self, handle: &Handle) -> Option<&'static str> {
        if self.draining.load(Ordering::Acquire) {
            return Some("draining");
        }
        let snapshot = handle.snapshot();
        let now = handle.clock().now();
        let alone = !snapshot.view.members.iter().any(|member| member.live && !member.this_node);
        if self.has_seeds && alone && now.micros() < u64::try_from(FIRST_PEER.as_micros()).unwrap_or(u64::MAX)
        {
            return Some("waiting for the first gossip round");
        }
        let view = &snapshot.view;
        let reachable = view.backends.iter().any(|backend| {
            let from_here = backend.spec.is_reached_from(&view.region)
                && backend.facts(now).is_some_and(|facts| facts.report.health == Health::Healthy);
            // What sleeps is woken by the requests that come here.
            from_here || backend.spec.scale_to_zero.is_some() || view.via(backend, now).is_some()
        });
        (!reachable).then_some("no healthy backend")
    }
}

#[derive(Serialize)]
pub(super) struct Summary {
    /// `healthy`, `degraded` (some backend is not) or `unhealthy` (none is).
    status: &'static str,
    healthy_clusters: usize,
    total_clusters: usize,
    healthy_providers: usize,
    total_providers: usize,
    timestamp: String,
}

pub(super) async fn health(State(app): State<App>) -> Response {
    let snapshot = app.handle.snapshot();
    let now = app.handle.clock().now();
    let count = |cluster: bool| {
        let of_kind = snapshot.view.backends.iter().filter(|backend| backend.spec.is_cluster() == cluster);
        let well = |facts: llm_router_logic::view::Facts<'_>| facts.report.health == Health::Healthy;
        (of_kind.clone().filter(|backend| backend.facts(now).is_some_and(well)).count(), of_kind.count())
    };
    let (healthy_clusters, total_clusters) = count(true);
    let (healthy_providers, total_providers) = count(false);
    let (healthy, total) = (healthy_clusters + healthy_providers, total_clusters + total_providers);
    // A cluster scaled to zero is asleep and not ill; it is what demand wakes.
    let asleep = |backend: &&BackendView| {
        backend.spec.scale_to_zero.is_some()
            && backend.facts(now).is_none_or(|facts| facts.report.health != Health::Healthy)
    };
    let asleep = snapshot.view.backends.iter().filter(asleep).count();
    let status = match healthy + asleep {
        0 => "unhealthy",
        served if served < total => "degraded",
        _ => "healthy",
    };
    let code = if healthy + asleep == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let timestamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let summary =
        Summary { status, healthy_clusters, total_clusters, healthy_providers, total_providers, timestamp };
    (code, Json(summary)).into_response()
}

/// The process runs and answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether GeoDNS should send clients here.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    match app.readiness.why_not(&app.handle) {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// The figures, on the API listener only for who may read them there.
pub(super) async fn guarded_metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    if app.auth.may_read_metrics(&headers) {
        return metrics(State(app), headers).await;
    }
    let text = "the figures need `Authorization: Bearer` with `auth.metricsToken`; the admin listener serves them too\n";
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, super::error::CHALLENGE)], text).into_response()
}

pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let metrics = app.handle.metrics();
    let families = metrics.registry.gather();
    if wants_openmetrics(&headers) {
        let text = openmetrics::encode(&families, &metrics.exemplars);
        return ([(CONTENT_TYPE, openmetrics::CONTENT_TYPE)], text).into_response();
    }
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Whether the reader asks for OpenMetrics no less than for plain text.
fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let weight = |wanted: &str| {
        let kinds = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let weights = kinds.flat_map(|kinds| kinds.split(',')).filter_map(|kind| {
            let mut parts = kind.split(';').map(str::trim);
            parts.next().filter(|name| name.eq_ignore_ascii_case(wanted))?;
            let quality = parts.find_map(|part| part.strip_prefix("q="));
            Some(quality.map_or(1.0, |quality| quality.parse::<f64>().unwrap_or(0.0)))
        });
        weights.fold(0.0, f64::max)
    };
    let open = weight("application/openmetrics-text");
    open > 0.0 && open >= weight("text/plain")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn openmetrics_is_served_to_who_asks_for_it() {
        let wants = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            wants_openmetrics(&headers)
        };
        // As Prometheus 2.42 asks.
        assert!(wants(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ));
        assert!(wants("application/openmetrics-text"));
        assert!(!wants("text/plain;version=0.0.4, application/openmetrics-text;q=0.5"));
        assert!(!wants("*/*"));
        assert!(!wants("application/openmetrics-text;q=0"));
        assert!(!wants_openmetrics(&HeaderMap::new()));
    }
}
