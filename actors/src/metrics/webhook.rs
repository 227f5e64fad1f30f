//! Metrics of what endpoints outside are told.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use std::time::Duration;

/// Upper bounds of the time to delivery in seconds.
const BUCKETS: [f64; 9] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// These metrics, registered with the others.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    /// `llm_router_webhook_deliveries_total{endpoint,result}`
    pub deliveries_total: IntCounterVec,
    /// `llm_router_webhook_retries_total{endpoint}`
    pub retries_total: IntCounterVec,
    /// `llm_router_webhook_dropped_total{endpoint}`
    pub dropped_total: IntCounterVec,
    /// `llm_router_webhook_queue_depth{endpoint}`
    pub queue_depth: IntGaugeVec,
    /// `llm_router_webhook_delivery_seconds{endpoint}`
    pub delivery_seconds: HistogramVec,
}

impl WebhookMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(format!("llm_router_webhook_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let queue_depth = IntGaugeVec::new(
            Opts::new("llm_router_webhook_queue_depth", "Events an endpoint has not been told yet."),
            &["endpoint"],
        )?;
        registry.register(Box::new(queue_depth.clone()))?;
        let delivery_seconds = HistogramVec::new(
            HistogramOpts::new(
                "llm_router_webhook_delivery_seconds",
                "Time from an event to an endpoint's taking it, tries and pauses included.",
            )
            .buckets(BUCKETS.to_vec()),
            &["endpoint"],
        )?;
        registry.register(Box::new(delivery_seconds.clone()))?;
        Ok(Self {
            deliveries_total: counter(
                "deliveries_total",
                "Events by what became of them: delivered, or failed after the last try.",
                &["endpoint", "result"],
            )?,
            retries_total: counter("retries_total", "Tries that failed and are made again.", &["endpoint"])?,
            dropped_total: counter(
                "dropped_total",
                "Events dropped untold since too many waited, the oldest first.",
                &["endpoint"],
            )?,
            queue_depth,
            delivery_seconds,
        })
    }

    /// Shows an endpoint before anything has happened there.
    pub(crate) fn open(&self, endpoint: &str) {
        for result in ["delivered", "failed"] {
            self.deliveries_total.with_label_values(&[endpoint, result]);
        }
        self.dropped_total.with_label_values(&[endpoint]);
        self.show_depth(endpoint, 0);
    }

    pub(crate) fn show_depth(&self, endpoint: &str, depth: usize) {
        self.queue_depth.with_label_values(&[endpoint]).set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    pub(crate) fn delivered(&self, endpoint: &str, after: Duration) {
        self.deliveries_total.with_label_values(&[endpoint, "delivered"]).inc();
        self.delivery_seconds.with_label_values(&[endpoint]).observe(after.as_secs_f64());
    }

    pub(crate) fn refused(&self, endpoint: &str, is_last: bool) {
        if is_last {
            self.deliveries_total.with_label_values(&[endpoint, "failed"]).inc();
        } else {
            self.retries_total.with_label_values(&[endpoint]).inc();
        }
    }

    /// Forgets an endpoint that a reload removed.
    pub(crate) fn forget(&self, endpoint: &str) {
        // An absent series is what we want: removal of one that never was is no error.
        for result in ["delivered", "failed"] {
            let _ = self.deliveries_total.remove_label_values(&[endpoint, result]);
        }
        let _ = self.retries_total.remove_label_values(&[endpoint]);
        let _ = self.dropped_total.remove_label_values(&[endpoint]);
        let _ = self.queue_depth.remove_label_values(&[endpoint]);
        let _ = self.delivery_seconds.remove_label_values(&[endpoint]);
    }
}
