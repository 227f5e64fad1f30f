//! Metrics of what a backend costs now and whether it is there, of experiments and of predictions.

use super::{histogram, opts};
use llm_router_logic::backend::BackendSpec;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, IntCounterVec, IntGaugeVec, Registry,
};

/// Upper bounds of relative error buckets.
const ERROR_BUCKETS: [f64; 8] = [0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0];
/// Upper bounds of latency buckets in seconds.
const LATENCY_BUCKETS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

/// These metrics, registered with the others.
#[derive(Clone, Debug)]
pub struct States {
    /// `llm_router_backend_cost_per_1k_tokens{backend,basis}`
    pub cost_per_1k_tokens: GaugeVec,
    /// `llm_router_backend_price_per_hour_usd{backend}`
    pub price_per_hour_usd: GaugeVec,
    /// `llm_router_backend_preempted_in_seconds{backend}`
    pub preempted_in_seconds: GaugeVec,
    /// `llm_router_cluster_demand{backend}`
    pub cluster_demand: IntGaugeVec,
    /// `llm_router_cluster_warmth{backend,state}`
    pub cluster_warmth: IntGaugeVec,
    /// `llm_router_cluster_ready_in_seconds{backend}`
    pub cluster_ready_in_seconds: GaugeVec,
    /// `llm_router_wake_calls_total{backend,result}`
    pub wake_calls_total: IntCounterVec,
    /// `llm_router_experiment_requests_total{experiment,arm,outcome}`
    pub experiment_requests_total: IntCounterVec,
    /// `llm_router_experiment_spend_usd_total{experiment,arm}`
    pub experiment_spend_usd_total: CounterVec,
    /// `llm_router_experiment_ttft_seconds{experiment,arm}`
    pub experiment_ttft_seconds: HistogramVec,
    /// `llm_router_shadow_requests_total{shadow,outcome}`
    pub shadow_requests_total: IntCounterVec,
    /// `llm_router_shadow_spend_usd_total{shadow}`
    pub shadow_spend_usd_total: CounterVec,
    /// `llm_router_shadow_ttft_seconds{shadow}`
    pub shadow_ttft_seconds: HistogramVec,
    /// `llm_router_fleet_gross_savings_today_usd`
    pub fleet_gross_savings_today_usd: Gauge,
    /// `llm_router_fleet_idle_today_usd`
    pub fleet_idle_today_usd: Gauge,
    /// `llm_router_fleet_net_savings_today_usd`
    pub fleet_net_savings_today_usd: Gauge,
    /// `llm_router_output_estimate_error_ratio`
    pub output_estimate_error_ratio: Histogram,
    /// `llm_router_cost_estimate_error_ratio`
    pub cost_estimate_error_ratio: Histogram,
}

impl States {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($kind:ident, $options:expr $(, $labels:expr)?) => {{
                let metric = $kind::new($options $(, $labels)?)?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        let gauge = |name: &str, help: &str| -> Result<Gauge, prometheus::Error> {
            let gauge = Gauge::with_opts(opts(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let error = |name: &str, help: &str| {
            let metric = Histogram::with_opts(histogram(name, help, &ERROR_BUCKETS))?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        Ok(Self {
            cost_per_1k_tokens: register!(
                GaugeVec,
                opts(
                    "backend_cost_per_1k_tokens",
                    "USD per 1,000 tokens by basis: average, or marginal, what one more request adds to the bill."
                ),
                &["backend", "basis"]
            ),
            price_per_hour_usd: register!(
                GaugeVec,
                opts("backend_price_per_hour_usd", "Price in force of the whole cluster for one hour."),
                &["backend"]
            ),
            preempted_in_seconds: register!(
                GaugeVec,
                opts(
                    "backend_preempted_in_seconds",
                    "Time until its machine is taken away; absent without a notice."
                ),
                &["backend"]
            ),
            cluster_demand: register!(
                IntGaugeVec,
                opts(
                    "cluster_demand",
                    "Requests of the last window that wanted a cluster that scales to zero, and those waiting for it now."
                ),
                &["backend"]
            ),
            cluster_warmth: register!(
                IntGaugeVec,
                opts("cluster_warmth", "1 for the state a cluster that scales to zero is in."),
                &["backend", "state"]
            ),
            cluster_ready_in_seconds: register!(
                GaugeVec,
                opts(
                    "cluster_ready_in_seconds",
                    "Time until a sleeping cluster is expected to serve; 0 when warm."
                ),
                &["backend"]
            ),
            wake_calls_total: register!(
                IntCounterVec,
                opts("wake_calls_total", "Times this node woke a cluster, by result."),
                &["backend", "result"]
            ),
            experiment_requests_total: register!(
                IntCounterVec,
                opts("experiment_requests_total", "Requests by experiment, arm and outcome."),
                &["experiment", "arm", "outcome"]
            ),
            experiment_spend_usd_total: register!(
                CounterVec,
                opts("experiment_spend_usd_total", "Cost of the requests of an arm in USD."),
                &["experiment", "arm"]
            ),
            experiment_ttft_seconds: register!(
                HistogramVec,
                histogram("experiment_ttft_seconds", "Time to first token by arm.", &LATENCY_BUCKETS),
                &["experiment", "arm"]
            ),
            shadow_requests_total: register!(
                IntCounterVec,
                opts("shadow_requests_total", "Shadow copies by outcome, or why one was not sent."),
                &["shadow", "outcome"]
            ),
            shadow_spend_usd_total: register!(
                CounterVec,
                opts("shadow_spend_usd_total", "Cost of shadow copies in USD."),
                &["shadow"]
            ),
            shadow_ttft_seconds: register!(
                HistogramVec,
                histogram("shadow_ttft_seconds", "Time to first token of shadow copies.", &LATENCY_BUCKETS),
                &["shadow"]
            ),
            fleet_gross_savings_today_usd: gauge(
                "fleet_gross_savings_today_usd",
                "USD all routers saved today (UTC) against the best external alternative, idle machine hours not paid for.",
            )?,
            fleet_idle_today_usd: gauge(
                "fleet_idle_today_usd",
                "USD our clusters cost today (UTC) beyond what requests were charged for them; a cluster counts once.",
            )?,
            fleet_net_savings_today_usd: gauge(
                "fleet_net_savings_today_usd",
                "USD all routers saved today (UTC), idle machine hours paid for.",
            )?,
            output_estimate_error_ratio: error(
                "output_estimate_error_ratio",
                "Relative error of the output tokens predicted before a request ran, against the usage reported.",
            )?,
            cost_estimate_error_ratio: error(
                "cost_estimate_error_ratio",
                "Relative error of the cost predicted before a request ran, against what it cost.",
            )?,
        })
    }

    /// Forgets the gauges of a backend that a reload removed.
    pub(super) fn forget(&self, spec: &BackendSpec) {
        let id = spec.id.as_str();
        // An absent series is what we want: removal of one that never was is no error.
        for basis in ["average", "marginal"] {
            let _ = self.cost_per_1k_tokens.remove_label_values(&[id, basis]);
        }
        for state in ["cold", "waking", "warm"] {
            let _ = self.cluster_warmth.remove_label_values(&[id, state]);
        }
        let _ = self.price_per_hour_usd.remove_label_values(&[id]);
        let _ = self.preempted_in_seconds.remove_label_values(&[id]);
        let _ = self.cluster_demand.remove_label_values(&[id]);
        let _ = self.cluster_ready_in_seconds.remove_label_values(&[id]);
    }
}
