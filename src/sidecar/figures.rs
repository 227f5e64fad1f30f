//! What the sidecar tells of itself: `/stats` for routers, `/metrics` for Prometheus.

use super::App;
use super::forward::admit;
use super::meter::Measured;
use crate::config::SidecarConfig;
use crate::tls::Signals;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use llm_router_logic::cost::unit::cost_per_1k;
use llm_router_logic::money::Money;
use prometheus::core::Collector;
use prometheus::{Encoder, Gauge, GaugeVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The answer of `GET /stats`; `null` means unknown, never a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Requests waiting for a slot.
    pub queue_depth: Option<u32>,
    /// Output tokens per second of busy time, all slots together.
    pub tokens_per_second: Option<f64>,
    /// 95th percentile of the time to first token over the last minute.
    pub latency_p95_ms: Option<f64>,
    /// Requests llama-server works on at once.
    pub slots: Option<u32>,
    /// Slots at work.
    pub busy_slots: Option<u32>,
    /// Requests for output that passed here and have not ended.
    pub in_flight: u32,
    /// Output tokens that passed since the start.
    pub tokens_total: u64,
}

/// The metrics of one sidecar, all with the labels `cluster`, `provider` and `region`.
#[derive(Debug)]
pub(crate) struct Figures {
    registry: Registry,
    requests: IntCounterVec,
    tls_refused: IntCounterVec,
    denied: IntCounterVec,
    tokens: IntCounterVec,
    in_flight: Gauge,
    upstream_up: Gauge,
    // Vectors without labels, because an unknown figure has no series.
    tokens_per_second: GaugeVec,
    cost_per_1k: GaugeVec,
    queue_depth: GaugeVec,
    latency_p95: GaugeVec,
    slots: GaugeVec,
    busy_slots: GaugeVec,
    /// Held while figures are set and collected, so that no scrape sees half of another's.
    scrape: Mutex<()>,
}

impl Figures {
    pub(crate) fn new(config: &SidecarConfig) -> prometheus::Result<Self> {
        let labels = [("cluster", &config.name), ("provider", &config.provider), ("region", &config.region)];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.clone()));
        let registry = Registry::new_custom(None, Some(HashMap::from(labels)))?;
        let counters = |name: &str, help: &str, label: &str| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
        };
        let maybe = |name: &str, help: &str| register(&registry, GaugeVec::new(Opts::new(name, help), &[])?);
        let gauge = |name: &str, help: &str| register(&registry, Gauge::new(name, help)?);
        let cost_per_hour = gauge("llm_sidecar_cost_per_hour", "Price of the machine for one hour, USD")?;
        cost_per_hour.set(config.cost_per_hour.as_usd());
        Ok(Self {
            requests: counters(
                "llm_sidecar_requests_total",
                "Requests by the status of their answer",
                "status",
            )?,
            tls_refused: counters(
                "llm_sidecar_tls_refused_total",
                "TLS handshakes refused or broken off, by reason",
                "why",
            )?,
            denied: counters("llm_sidecar_auth_refused_total", "Requests turned away, by reason", "why")?,
            tokens: counters("llm_sidecar_tokens_total", "Tokens that passed since the start", "type")?,
            in_flight: gauge("llm_sidecar_in_flight", "Requests for output that have not ended")?,
            upstream_up: gauge("llm_sidecar_upstream_up", "Whether llama-server answers, 1 or 0")?,
            tokens_per_second: maybe(
                "llm_sidecar_tokens_per_second",
                "Output tokens per second of busy time, all slots together",
            )?,
            cost_per_1k: maybe(
                "llm_sidecar_cost_per_1k_tokens",
                "USD per 1,000 output tokens at the measured speed",
            )?,
            queue_depth: maybe("llm_sidecar_queue_depth", "Requests waiting for a slot")?,
            latency_p95: maybe(
                "llm_sidecar_latency_p95_seconds",
                "95th percentile of the time to first token over the last minute",
            )?,
            slots: maybe("llm_sidecar_slots", "Requests llama-server works on at once")?,
            busy_slots: maybe("llm_sidecar_busy_slots", "Slots at work")?,
            scrape: Mutex::default(),
            registry,
        })
    }

    pub(crate) fn count_request(&self, status: StatusCode) {
        self.requests.with_label_values(&[status.as_str()]).inc();
    }

    pub(crate) fn count_denied(&self, why: &str) {
        self.denied.with_label_values(&[why]).inc();
    }

    /// Where its listener's TLS is told of; the certificate's end has a series from here on.
    pub(crate) fn tls_signals(&self) -> prometheus::Result<Signals> {
        let expires = IntGauge::new(
            "llm_sidecar_certificate_expires_timestamp_seconds",
            "Unix time at which the listener's certificate ends",
        )?;
        self.registry.register(Box::new(expires.clone()))?;
        let refused = self.tls_refused.clone();
        Ok(Signals { expires, refused: Box::new(move |why| refused.with_label_values(&[why]).inc()) })
    }

    /// The metrics as Prometheus text.
    fn encode(
        &self,
        stats: &Stats,
        measured: &Measured,
        up: bool,
        cost: Option<f64>,
    ) -> prometheus::Result<Vec<u8>> {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        show(&self.tokens_per_second, stats.tokens_per_second);
        show(&self.cost_per_1k, cost);
        show(&self.queue_depth, stats.queue_depth.map(f64::from));
        show(&self.latency_p95, stats.latency_p95_ms.map(|millis| millis / 1e3));
        show(&self.slots, stats.slots.map(f64::from));
        show(&self.busy_slots, stats.busy_slots.map(f64::from));
        self.in_flight.set(f64::from(measured.in_flight));
        self.upstream_up.set(f64::from(u8::from(up)));
        for (kind, total) in [("input", measured.input_tokens), ("output", measured.output_tokens)] {
            let counter = self.tokens.with_label_values(&[kind]);
            // The total was read before the lock and may be older than the last scrape's.
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn show(gauge: &GaugeVec, value: Option<f64>) {
    let no_labels: [&str; 0] = [];
    match value {
        Some(value) => gauge.with_label_values(&no_labels).set(value),
        None => gauge.reset(),
    }
}

impl App {
    /// The figures now.
    pub(crate) async fn stats(&self) -> Stats {
        let load = self.upstream.load().await;
        let measured = self.meter.read();
        // Without `--metrics` the queue is what passed here and found no slot.
        let waiting = load.slots.map(|slots| measured.in_flight.saturating_sub(slots));
        Stats {
            queue_depth: load.queued.or(waiting),
            tokens_per_second: measured.tokens_per_second,
            latency_p95_ms: measured.latency_p95.map(|p95| p95.as_secs_f64() * 1e3),
            slots: load.slots,
            busy_slots: load.busy_slots,
            in_flight: measured.in_flight,
            tokens_total: measured.output_tokens,
        }
    }
}

/// `GET /stats`: signed like any other request where a secret is configured.
pub(crate) async fn stats(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Err(refusal) = admit(&app, request).await {
        return refusal.into_response();
    }
    axum::Json(app.stats().await).into_response()
}

/// `GET /metrics`: open, as Prometheus cannot sign.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let stats = app.stats().await;
    let up = app.upstream.load().await.reachable;
    let cost = stats
        .tokens_per_second
        .and_then(|speed| cost_per_1k(app.config.cost_per_hour, speed, app.config.overhead_factor))
        .map(Money::as_usd);
    match app.figures.encode(&stats, &app.meter.read(), up, cost) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
