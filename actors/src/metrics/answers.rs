//! Metrics of answers that are given again.

use super::opts;
use prometheus::{Counter, IntCounter, IntCounterVec, IntGauge, Registry};

/// These metrics, registered with the others.
#[derive(Clone, Debug)]
pub struct Answers {
    /// `llm_router_idempotent_requests_total{result}`
    pub idempotent_requests_total: IntCounterVec,
    /// `llm_router_idempotency_keys`
    pub idempotency_keys: IntGauge,
    /// `llm_router_idempotency_bytes`
    pub idempotency_bytes: IntGauge,
    /// `llm_router_idempotency_forgotten_total`
    pub idempotency_forgotten_total: IntCounter,
    /// `llm_router_cache_requests_total{result}`
    pub cache_requests_total: IntCounterVec,
    /// `llm_router_cache_entries`
    pub cache_entries: IntGauge,
    /// `llm_router_cache_bytes`
    pub cache_bytes: IntGauge,
    /// `llm_router_cache_evicted_total`
    pub cache_evicted_total: IntCounter,
    /// `llm_router_cache_saved_usd_total`
    pub cache_saved_usd_total: Counter,
    /// `llm_router_cache_redis_total{result}`
    pub cache_redis_total: IntCounterVec,
    /// `llm_router_cache_redis_up`
    pub cache_redis_up: IntGauge,
}

impl Answers {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        Ok(Self {
            idempotent_requests_total: register!(IntCounterVec::new(
                opts("idempotent_requests_total", "Requests with an Idempotency-Key by what became of them."),
                &["result"]
            )),
            idempotency_keys: register!(IntGauge::with_opts(opts(
                "idempotency_keys",
                "Idempotency keys this node knows."
            ))),
            idempotency_bytes: register!(IntGauge::with_opts(opts(
                "idempotency_bytes",
                "Bytes of answers kept for idempotency keys."
            ))),
            idempotency_forgotten_total: register!(IntCounter::with_opts(opts(
                "idempotency_forgotten_total",
                "Answers of idempotency keys forgotten before their time, for want of room."
            ))),
            cache_requests_total: register!(IntCounterVec::new(
                opts("cache_requests_total", "Requests by what the response cache did for them."),
                &["result"]
            )),
            cache_entries: register!(IntGauge::with_opts(opts(
                "cache_entries",
                "Answers the response cache keeps on this node."
            ))),
            cache_bytes: register!(IntGauge::with_opts(opts(
                "cache_bytes",
                "Bytes of answers the response cache keeps on this node."
            ))),
            cache_evicted_total: register!(IntCounter::with_opts(opts(
                "cache_evicted_total",
                "Answers that went before their time to make room in the response cache."
            ))),
            cache_redis_total: register!(IntCounterVec::new(
                opts("cache_redis_total", "Looks into the shared Redis and writes to it, by result."),
                &["result"]
            )),
            cache_redis_up: register!(IntGauge::with_opts(opts(
                "cache_redis_up",
                "1 while this node shares answers through Redis."
            ))),
            cache_saved_usd_total: register!(Counter::with_opts(opts(
                "cache_saved_usd_total",
                "USD that the answers given again by the response cache had cost when they were generated."
            ))),
        })
    }
}
