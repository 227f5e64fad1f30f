//! Metrics of answers that are given again.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

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
        let opts = |name: &str, help: &str| Opts::new(format!("llm_router_{name}"), help);
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
        })
    }
}
