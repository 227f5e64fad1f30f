//! Metrics of tracing itself, and of the process.

use super::opts;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// These metrics, registered with the others. The process's own come from the crate's collector:
/// `process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`, `process_resident_memory_bytes`,
/// `process_virtual_memory_bytes`, `process_start_time_seconds`, `process_threads`.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// `llm_router_traces_total{result}`
    pub traces_total: IntCounterVec,
    /// `llm_router_spans_exported_total`
    pub spans_exported_total: IntCounter,
    /// `llm_router_spans_dropped_total{why}`
    pub spans_dropped_total: IntCounterVec,
    /// `llm_router_spans_waiting`
    pub spans_waiting: IntGauge,
}

impl Telemetry {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        // Absent where the system has no /proc.
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let build =
            register!(IntGaugeVec::new(opts("build_info", "1, with the version that runs."), &["version"]));
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            traces_total: register!(IntCounterVec::new(
                opts(
                    "traces_total",
                    "Requests by what became of their trace (sampled, error, slow, not_sampled, over_limit)."
                ),
                &["result"]
            )),
            spans_exported_total: register!(IntCounter::with_opts(opts(
                "spans_exported_total",
                "Spans that the collector took."
            ))),
            spans_dropped_total: register!(IntCounterVec::new(
                opts(
                    "spans_dropped_total",
                    "Spans that never reached the collector, by why (queue_full, not_taken, stopping)."
                ),
                &["why"]
            )),
            spans_waiting: register!(IntGauge::with_opts(opts(
                "spans_waiting",
                "Spans that wait to be sent to the collector."
            ))),
        })
    }
}
