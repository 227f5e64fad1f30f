//! Prometheus metrics of one node. The first nine keep the names and labels of the original program,
//! so existing dashboards go on; docs/METRICS.md explains each.

mod answers;
mod exemplars;
mod gen_ai;
mod gossip;
pub mod openmetrics;
mod states;
mod telemetry;
mod webhook;

use llm_router_logic::backend::BackendSpec;
use llm_router_logic::report::Health;
use prometheus::core::Collector as _;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

pub use answers::Answers;
pub use exemplars::{Exemplar, Exemplars};
pub use gen_ai::{Attempted, GenAi};
pub use gossip::Gossiping;
pub use states::States;
pub use telemetry::Telemetry;
pub use webhook::WebhookMetrics;

/// All metrics of a node, in a registry of their own (several nodes may live in one process).
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Those of standing, experiments and predictions.
    pub states: States,
    /// Those of answers given again.
    pub answers: Answers,
    /// Of the gossip itself.
    pub gossip: Gossiping,
    /// Those of webhooks.
    pub webhook: WebhookMetrics,
    /// OpenTelemetry's, of attempts at models.
    pub gen_ai: GenAi,
    /// Those of tracing itself.
    pub telemetry: Telemetry,
    /// Traced requests that histograms may point to.
    pub exemplars: Exemplars,
    /// Where they are registered.
    pub registry: Registry,
    /// `llm_router_requests_total{cluster,status}`
    pub requests_total: IntCounterVec,
    /// `llm_router_request_duration_seconds{cluster}`
    pub request_duration_seconds: HistogramVec,
    /// `llm_router_cluster_health{cluster,provider,region}`
    pub cluster_health: IntGaugeVec,
    /// `llm_router_cluster_cost_per_1k_tokens{cluster,provider,region}`
    pub cluster_cost_per_1k_tokens: GaugeVec,
    /// `llm_router_routing_decisions_total{target,type,reason}`
    pub routing_decisions_total: IntCounterVec,
    /// `llm_router_provider_health{provider,type}`
    pub provider_health: IntGaugeVec,
    /// `llm_router_provider_cost_per_1k_tokens{provider,model}`
    pub provider_cost_per_1k_tokens: GaugeVec,
    /// `llm_router_external_requests_total{provider,model,status}`
    pub external_requests_total: IntCounterVec,
    /// `llm_router_tokens_total{provider,type}`
    pub tokens_total: IntCounterVec,
    /// `llm_router_backend_in_flight{backend}`
    pub backend_in_flight: IntGaugeVec,
    /// `llm_router_backend_queue_depth{backend}`
    pub backend_queue_depth: IntGaugeVec,
    /// `llm_router_queue_waiting`
    pub queue_waiting: IntGauge,
    /// `llm_router_queue_wait_seconds{backend}`
    pub queue_wait_seconds: HistogramVec,
    /// `llm_router_queue_refused_total{backend,why}`
    pub queue_refused_total: IntCounterVec,
    /// `llm_router_backend_limit{backend}`
    pub backend_limit: IntGaugeVec,
    /// `llm_router_backend_tokens_per_second{backend}`
    pub backend_tokens_per_second: GaugeVec,
    /// `llm_router_backend_breaker_open{backend}`
    pub backend_breaker_open: IntGaugeVec,
    /// `llm_router_least_bad_attempts_total{backend}`
    pub least_bad_attempts_total: IntCounterVec,
    /// `llm_router_time_to_first_token_seconds{backend}`
    pub ttft_seconds: HistogramVec,
    /// `llm_router_attempt_failures_total{backend,fault}`
    pub attempt_failures_total: IntCounterVec,
    /// `llm_router_fallbacks_total{backend}`: requests served here after another backend failed.
    pub fallbacks_total: IntCounterVec,
    /// `llm_router_retries_total{backend}`
    pub retries_total: IntCounterVec,
    /// `llm_router_retries_stopped_total{why}`
    pub retries_stopped_total: IntCounterVec,
    /// `llm_router_hedges_total{backend,result}`
    pub hedges_total: IntCounterVec,
    /// `llm_router_hedges_refused_total{why}`
    pub hedges_refused_total: IntCounterVec,
    /// `llm_router_hedge_cost_usd_total`
    pub hedge_cost_usd_total: prometheus::Counter,
    /// `llm_router_spend_usd_total{backend}`
    pub spend_usd_total: prometheus::CounterVec,
    /// `llm_router_gross_savings_usd_total`
    pub gross_savings_usd_total: prometheus::Counter,
    /// `llm_router_unpriced_requests_total{backend}`
    pub unpriced_requests_total: IntCounterVec,
    /// `llm_router_actor_restarts_total{actor}`
    pub actor_restarts_total: IntCounterVec,
    /// `llm_router_gossip_peers`
    pub gossip_peers: IntGauge,
    /// `llm_router_gossip_refused_total{why}`
    pub gossip_refused_total: IntCounterVec,
    /// `llm_router_relayed_requests_total{direction,result}`
    pub relayed_requests_total: IntCounterVec,
    /// `llm_router_relay_refused_total{why}`
    pub relay_refused_total: IntCounterVec,
    /// `llm_router_gossip_bytes_total{direction}`
    pub gossip_bytes_total: IntCounterVec,
    /// `llm_router_tls_refused_total{listener,why}`
    pub tls_refused_total: IntCounterVec,
    /// `llm_router_certificate_expires_timestamp_seconds{certificate}`
    pub certificate_expires_timestamp_seconds: IntGaugeVec,
    /// `llm_router_config_reloads_total{result}`
    pub config_reloads_total: IntCounterVec,
    /// `llm_router_budget_limit_usd{scope}`
    pub budget_limit_usd: GaugeVec,
    /// `llm_router_budget_spent_usd{scope}`
    pub budget_spent_usd: GaugeVec,
    /// `llm_router_budget_reserved_usd{scope}`
    pub budget_reserved_usd: GaugeVec,
    /// `llm_router_budget_overshoot_bound_usd{scope}`
    pub budget_overshoot_bound_usd: GaugeVec,
    /// `llm_router_budget_refused_total{scope}`, by kind of scope
    pub budget_refused_total: IntCounterVec,
    /// `llm_router_budget_warnings_total{scope,percent}`
    pub budget_warnings_total: IntCounterVec,
    /// `llm_router_rate_limited_total{scope,what}`, by kind of scope
    pub rate_limited_total: IntCounterVec,
    /// `llm_router_quota_share{scope,what}`
    pub quota_share: GaugeVec,
    /// `llm_router_quota_nodes`
    pub quota_nodes: IntGauge,
    /// `llm_router_quota_split`
    pub quota_split: IntGauge,
    /// `llm_router_auth_refused_total{why}`
    pub auth_refused_total: IntCounterVec,
    /// `llm_router_key_file_reads_total{result}`
    pub key_file_reads_total: IntCounterVec,
    /// `llm_router_cancelled_requests_total`
    pub cancelled_requests_total: IntCounter,
    /// `llm_router_input_estimate_error_ratio`
    pub input_estimate_error_ratio: Histogram,
    /// `llm_router_ledger_sound`
    pub ledger_sound: IntGauge,
    /// `llm_router_ledger_entries_total`
    pub ledger_entries_total: IntCounter,
    /// `llm_router_ledger_commit_seconds`
    pub ledger_commit_seconds: Histogram,
    /// `llm_router_ledger_waiting`
    pub ledger_waiting: IntGauge,
    /// `llm_router_ledger_lost_total`
    pub ledger_lost_total: IntCounter,
    /// `llm_router_ledger_failures_total{why}`
    pub ledger_failures_total: IntCounterVec,
    /// `llm_router_ledger_refused_total{why}`
    pub ledger_refused_total: IntCounterVec,
    /// `llm_router_ledger_recovered_total`
    pub ledger_recovered_total: IntCounter,
    /// `llm_router_ledger_bytes`
    pub ledger_bytes: IntGauge,
    /// `llm_router_ledger_deleted_total`
    pub ledger_deleted_total: IntCounter,
    /// `llm_router_machine_usd_total{cluster}`
    pub machine_usd_total: prometheus::CounterVec,
    /// `llm_router_net_savings_usd`
    pub net_savings_usd: prometheus::Gauge,
    /// `llm_router_decision_duration_seconds`
    pub decision_duration_seconds: Histogram,
}

/// Upper bounds of latency buckets in seconds: 5 ms to 2 minutes.
const LATENCY_BUCKETS: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Upper bounds of relative error buckets.
const ERROR_BUCKETS: [f64; 7] = [0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0];
/// Upper bounds of commit time buckets in seconds: 0.1 ms to 5 s.
const COMMIT_BUCKETS: [f64; 9] = [1e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 2.5e-2, 0.1, 1.0, 5.0];
/// Upper bounds of decision time buckets in seconds: 1 µs to 10 ms.
const DECISION_BUCKETS: [f64; 9] = [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 5e-4, 1e-3, 1e-2];

/// Name and help of a metric of this program.
fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("llm_router_{name}"), help)
}

/// The same of a histogram, and its buckets.
fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(format!("llm_router_{name}"), help).buckets(buckets.to_vec())
}

impl Metrics {
    /// Registers all metrics in a new registry.
    ///
    /// # Errors
    /// Only on a name defined twice: a programming error that any start shows.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        Ok(Self {
            states: States::new(&registry)?,
            answers: Answers::new(&registry)?,
            gossip: Gossiping::new(&registry)?,
            webhook: WebhookMetrics::new(&registry)?,
            gen_ai: GenAi::new(&registry)?,
            telemetry: Telemetry::new(&registry)?,
            exemplars: Exemplars::default(),
            requests_total: register!(IntCounterVec::new(
                opts("requests_total", "Requests answered, by the backend that served them and HTTP status."),
                &["cluster", "status"]
            )),
            request_duration_seconds: register!(HistogramVec::new(
                histogram(
                    "request_duration_seconds",
                    "Time from request to the last byte of its answer.",
                    &LATENCY_BUCKETS
                ),
                &["cluster"]
            )),
            cluster_health: register!(IntGaugeVec::new(
                opts("cluster_health", "1 where this node sees the cluster healthy."),
                &["cluster", "provider", "region"]
            )),
            cluster_cost_per_1k_tokens: register!(GaugeVec::new(
                opts(
                    "cluster_cost_per_1k_tokens",
                    "Machine cost in USD per 1,000 tokens at measured throughput; absent while unknown."
                ),
                &["cluster", "provider", "region"]
            )),
            routing_decisions_total: register!(IntCounterVec::new(
                opts(
                    "routing_decisions_total",
                    "Decisions by chosen target, its type (cluster or external) and reason."
                ),
                &["target", "type", "reason"]
            )),
            provider_health: register!(IntGaugeVec::new(
                opts("provider_health", "1 where this node sees the provider healthy."),
                &["provider", "type"]
            )),
            provider_cost_per_1k_tokens: register!(GaugeVec::new(
                opts(
                    "provider_cost_per_1k_tokens",
                    "Listed price in USD per 1,000 tokens, input and output in equal parts."
                ),
                &["provider", "model"]
            )),
            external_requests_total: register!(IntCounterVec::new(
                opts("external_requests_total", "Attempts at external providers by HTTP status or fault."),
                &["provider", "model", "status"]
            )),
            tokens_total: register!(IntCounterVec::new(
                opts(
                    "tokens_total",
                    "Tokens by backend and class (input, cached_read, cache_write, output, reasoning)."
                ),
                &["provider", "type"]
            )),
            backend_in_flight: register!(IntGaugeVec::new(
                opts("backend_in_flight", "Requests this node has running at the backend."),
                &["backend"]
            )),
            backend_queue_depth: register!(IntGaugeVec::new(
                opts("backend_queue_depth", "Requests waiting at the backend or here for it."),
                &["backend"]
            )),
            queue_waiting: register!(IntGauge::with_opts(opts(
                "queue_waiting",
                "Requests waiting on this node for a place at any backend."
            ))),
            queue_wait_seconds: register!(HistogramVec::new(
                histogram(
                    "queue_wait_seconds",
                    "How long requests waited for the place they got at the backend.",
                    &LATENCY_BUCKETS
                ),
                &["backend"]
            )),
            queue_refused_total: register!(IntCounterVec::new(
                opts(
                    "queue_refused_total",
                    "Requests that got no place at the backend, by why (closed, queue_full, too_late, timed_out, displaced, trial_taken)."
                ),
                &["backend", "why"]
            )),
            backend_limit: register!(IntGaugeVec::new(
                opts(
                    "backend_limit",
                    "Requests this node may have running at the backend: its part of the places, or learnt."
                ),
                &["backend"]
            )),
            backend_tokens_per_second: register!(GaugeVec::new(
                opts(
                    "backend_tokens_per_second",
                    "Measured aggregate output tokens per second; absent while unknown."
                ),
                &["backend"]
            )),
            backend_breaker_open: register!(IntGaugeVec::new(
                opts("backend_breaker_open", "1 while a circuit breaker refuses a model of the backend."),
                &["backend"]
            )),
            least_bad_attempts_total: register!(IntCounterVec::new(
                opts(
                    "least_bad_attempts_total",
                    "Attempts at a backend in spite of its open circuit breaker, since too many of its pool were out."
                ),
                &["backend"]
            )),
            ttft_seconds: register!(HistogramVec::new(
                histogram(
                    "time_to_first_token_seconds",
                    "Time from attempt to first content byte.",
                    &LATENCY_BUCKETS
                ),
                &["backend"]
            )),
            attempt_failures_total: register!(IntCounterVec::new(
                opts("attempt_failures_total", "Failed attempts by backend and fault."),
                &["backend", "fault"]
            )),
            fallbacks_total: register!(IntCounterVec::new(
                opts("fallbacks_total", "Requests served by the backend after another one failed."),
                &["backend"]
            )),
            retries_total: register!(IntCounterVec::new(
                opts("retries_total", "Second and further attempts of requests, by the backend tried."),
                &["backend"]
            )),
            retries_stopped_total: register!(IntCounterVec::new(
                opts(
                    "retries_stopped_total",
                    "Failed requests by why no further backend was tried (retry_budget, attempts_max, deadline, not_retriable, no_candidate_left)."
                ),
                &["why"]
            )),
            hedges_total: register!(IntCounterVec::new(
                opts(
                    "hedges_total",
                    "Attempts that ran against another one, by how they fared (won, lost, failed)."
                ),
                &["backend", "result"]
            )),
            hedges_refused_total: register!(IntCounterVec::new(
                opts(
                    "hedges_refused_total",
                    "Requests not hedged although their backend was silent, by why (spend_share, no_place, unpriced)."
                ),
                &["why"]
            )),
            hedge_cost_usd_total: register!(prometheus::Counter::with_opts(opts(
                "hedge_cost_usd_total",
                "Cost in USD of attempts that lost against another one at the same time."
            ))),
            spend_usd_total: register!(prometheus::CounterVec::new(
                opts(
                    "spend_usd_total",
                    "Cost of served requests in USD: price list for providers, machine cost for clusters."
                ),
                &["backend"]
            )),
            gross_savings_usd_total: register!(prometheus::Counter::with_opts(opts(
                "gross_savings_usd_total",
                "USD the same tokens would have cost at the cheapest eligible provider, less what they cost; idle machine hours not counted."
            ))),
            unpriced_requests_total: register!(IntCounterVec::new(
                opts("unpriced_requests_total", "Requests served without a known price or throughput."),
                &["backend"]
            )),
            actor_restarts_total: register!(IntCounterVec::new(
                opts("actor_restarts_total", "Actors restarted by their supervisor."),
                &["actor"]
            )),
            gossip_peers: register!(IntGauge::with_opts(opts("gossip_peers", "Other routers seen alive."))),
            gossip_refused_total: register!(IntCounterVec::new(
                opts("gossip_refused_total", "Gossiped values or packets dropped, by reason."),
                &["why"]
            )),
            relayed_requests_total: register!(IntCounterVec::new(
                opts(
                    "relayed_requests_total",
                    "Attempts through another router: `sent` by this node, `taken` for a peer, by result."
                ),
                &["direction", "result"]
            )),
            relay_refused_total: register!(IntCounterVec::new(
                opts("relay_refused_total", "Callers of the relay refused at its door, by reason."),
                &["why"]
            )),
            tls_refused_total: register!(IntCounterVec::new(
                opts("tls_refused_total", "TLS handshakes refused or broken off, by listener and reason."),
                &["listener", "why"]
            )),
            gossip_bytes_total: register!(IntCounterVec::new(
                opts("gossip_bytes_total", "Gossip payload bytes by direction (sent, received)."),
                &["direction"]
            )),
            certificate_expires_timestamp_seconds: register!(IntGaugeVec::new(
                opts(
                    "certificate_expires_timestamp_seconds",
                    "Unix time at which a certificate in force ends."
                ),
                &["certificate"]
            )),
            config_reloads_total: register!(IntCounterVec::new(
                opts("config_reloads_total", "Configuration reloads by result (applied, refused)."),
                &["result"]
            )),
            budget_limit_usd: register!(GaugeVec::new(
                opts("budget_limit_usd", "What may be spent in the budget's period."),
                &["scope"]
            )),
            budget_spent_usd: register!(GaugeVec::new(
                opts(
                    "budget_spent_usd",
                    "Spent by all routers in the budget's period, as far as this one knows."
                ),
                &["scope"]
            )),
            budget_reserved_usd: register!(GaugeVec::new(
                opts(
                    "budget_reserved_usd",
                    "Reserved by all routers for requests under way, as far as this one knows."
                ),
                &["scope"]
            )),
            budget_overshoot_bound_usd: register!(GaugeVec::new(
                opts(
                    "budget_overshoot_bound_usd",
                    "The most by which the budget may be exceeded now, whatever fails."
                ),
                &["scope"]
            )),
            budget_refused_total: register!(IntCounterVec::new(
                opts("budget_refused_total", "Attempts refused for lack of budget, by kind of scope."),
                &["scope"]
            )),
            budget_warnings_total: register!(IntCounterVec::new(
                opts("budget_warnings_total", "Marks of 50, 80 and 100 % that budgets reached."),
                &["scope", "percent"]
            )),
            rate_limited_total: register!(IntCounterVec::new(
                opts(
                    "rate_limited_total",
                    "Requests refused by a rate limit of a key, tenant or the fleet, by what ran out."
                ),
                &["scope", "what"]
            )),
            quota_share: register!(GaugeVec::new(
                opts("quota_share", "This router's share of a rate limit, in units per minute or at once."),
                &["scope", "what"]
            )),
            quota_nodes: register!(IntGauge::with_opts(opts("quota_nodes", "Routers that share limits."))),
            quota_split: register!(IntGauge::with_opts(opts(
                "quota_split",
                "1 while a router that shares limits is not heard: each then keeps to its own share."
            ))),
            auth_refused_total: register!(IntCounterVec::new(
                opts(
                    "auth_refused_total",
                    "Requests without a good API key, by why: missing, unknown, not_yet, expired or revoked."
                ),
                &["why"]
            )),
            key_file_reads_total: register!(IntCounterVec::new(
                opts("key_file_reads_total", "Readings of the file of keys, by result: read or refused."),
                &["result"]
            )),
            cancelled_requests_total: register!(IntCounter::with_opts(opts(
                "cancelled_requests_total",
                "Requests whose client went away before the end."
            ))),
            input_estimate_error_ratio: register!(Histogram::with_opts(histogram(
                "input_estimate_error_ratio",
                "Relative error of the input tokens predicted before a request ran, against the usage reported.",
                &ERROR_BUCKETS
            ))),
            ledger_sound: register!(IntGauge::with_opts(opts(
                "ledger_sound",
                "1 while the ledger can be written; 0 = paid backends are refused."
            ))),
            ledger_entries_total: register!(IntCounter::with_opts(opts(
                "ledger_entries_total",
                "Entries written to the ledger."
            ))),
            ledger_commit_seconds: register!(Histogram::with_opts(histogram(
                "ledger_commit_seconds",
                "Time one commit of the ledger took, its fsync included.",
                &COMMIT_BUCKETS
            ))),
            ledger_waiting: register!(IntGauge::with_opts(opts(
                "ledger_waiting",
                "Entries that wait to be written to the ledger."
            ))),
            ledger_lost_total: register!(IntCounter::with_opts(opts(
                "ledger_lost_total",
                "Entries dropped since the ledger could not be written for too long: the books are short."
            ))),
            ledger_failures_total: register!(IntCounterVec::new(
                opts("ledger_failures_total", "Writes of the ledger that failed (full, read_only, broken)."),
                &["why"]
            )),
            ledger_refused_total: register!(IntCounterVec::new(
                opts(
                    "ledger_refused_total",
                    "Attempts at paid backends refused since their intent was not durable (broken, slow)."
                ),
                &["why"]
            )),
            ledger_recovered_total: register!(IntCounter::with_opts(opts(
                "ledger_recovered_total",
                "Attempts an earlier run left unsettled, settled by estimate at the start."
            ))),
            ledger_bytes: register!(IntGauge::with_opts(opts("ledger_bytes", "Size of the ledger on disk."))),
            ledger_deleted_total: register!(IntCounter::with_opts(opts(
                "ledger_deleted_total",
                "Attempts deleted from the ledger by age or size; their daily sums stay."
            ))),
            machine_usd_total: register!(prometheus::CounterVec::new(
                opts("machine_usd_total", "USD our clusters have cost since the start, used or idle."),
                &["cluster"]
            )),
            net_savings_usd: register!(prometheus::Gauge::with_opts(opts(
                "net_savings_usd",
                "USD saved since the start against the best external alternative, idle machine hours paid for."
            ))),
            decision_duration_seconds: register!(Histogram::with_opts(histogram(
                "decision_duration_seconds",
                "Time one routing decision took.",
                &DECISION_BUCKETS
            ))),
            registry,
        })
    }

    /// Dropped values and packets so far, by reason.
    pub fn gossip_refusals(&self) -> Vec<(String, u64)> {
        let families = self.gossip_refused_total.collect();
        let counted = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
        let read = counted.filter_map(|metric| {
            let why = metric.get_label().first()?.value().to_owned();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it counts")]
            Some((why, metric.get_counter().get_value() as u64))
        });
        read.collect()
    }

    /// Shows `health` in the gauge that fits the backend.
    pub(crate) fn show_health(&self, spec: &BackendSpec, health: Health) {
        let healthy = i64::from(health == Health::Healthy);
        if spec.is_cluster() {
            self.cluster_health
                .with_label_values(&[spec.id.as_str(), spec.provider(), spec.region()])
                .set(healthy);
        } else {
            self.provider_health.with_label_values(&[spec.id.as_str(), spec.provider()]).set(healthy);
        }
    }

    /// Forgets the gauges of a backend that a reload removed.
    pub(crate) fn forget(&self, spec: &BackendSpec) {
        self.states.forget(spec);
        // An absent series is what we want: removal of one that never was is no error.
        let cluster = [spec.id.as_str(), spec.provider(), spec.region()];
        let _ = self.cluster_health.remove_label_values(&cluster);
        let _ = self.cluster_cost_per_1k_tokens.remove_label_values(&cluster);
        let _ = self.provider_health.remove_label_values(&[spec.id.as_str(), spec.provider()]);
        let _ = self.backend_in_flight.remove_label_values(&[spec.id.as_str()]);
        let _ = self.backend_queue_depth.remove_label_values(&[spec.id.as_str()]);
        let _ = self.backend_limit.remove_label_values(&[spec.id.as_str()]);
        let _ = self.backend_tokens_per_second.remove_label_values(&[spec.id.as_str()]);
        let _ = self.backend_breaker_open.remove_label_values(&[spec.id.as_str()]);
        for model in &spec.models {
            let _ = self.provider_cost_per_1k_tokens.remove_label_values(&[spec.id.as_str(), &model.name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn metrics_register_once_each() {
        Metrics::new().unwrap();
    }

    /// Names in the text of these files and in the documentation, so that neither is forgotten.
    #[test]
    fn every_metric_is_documented_and_nothing_else_is() {
        let names = |text: &str, before: &str| -> BTreeSet<String> {
            let starts = text.split(before).skip(1);
            let word = |rest: &str| {
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>()
            };
            starts.map(word).filter(|name| name.contains('_')).collect()
        };
        let own = include_str!("metrics.rs").split("#[cfg(test)]").next().unwrap();
        let files = [
            own,
            include_str!("metrics/states.rs"),
            include_str!("metrics/gossip.rs"),
            include_str!("metrics/answers.rs"),
            include_str!("metrics/webhook.rs"),
            include_str!("metrics/gen_ai.rs"),
            include_str!("metrics/telemetry.rs"),
        ];
        let mut fields = names(&files.concat(), "/// `");
        // The crate's collector makes these.
        let process = "cpu_seconds_total open_fds max_fds resident_memory_bytes virtual_memory_bytes start_time_seconds threads";
        fields.extend(process.split(' ').map(|name| format!("process_{name}")));
        fields.insert("llm_router_build_info".to_owned());
        let documented = names(include_str!("../../docs/METRICS.md"), "| `");
        assert_eq!(fields, documented);
        assert!(fields.len() > 20);
    }

    /// What is registered has the names that are documented, and the process's figures are there.
    #[test]
    fn what_is_gathered_is_documented() {
        let manual = include_str!("../../docs/METRICS.md");
        let families = Metrics::new().unwrap().registry.gather();
        for family in &families {
            assert!(manual.contains(&format!("| `{}` |", family.name())), "{}", family.name());
        }
        let there = |name: &str| families.iter().any(|family| family.name() == name);
        assert!(there("process_resident_memory_bytes") && there("process_threads"));
    }

    #[test]
    fn openmetrics_names_counters_without_their_ending_and_points_to_traces() {
        let metrics = Metrics::new().unwrap();
        metrics.requests_total.with_label_values(&["a \"quoted\"\\one", "200"]).inc();
        metrics.request_duration_seconds.with_label_values(&["a"]).observe(0.3);
        let exemplar = Exemplar { trace_id: "ab".repeat(16), value: 0.3, at_ms: 1_700_000_000_123 };
        metrics.exemplars.note("llm_router_request_duration_seconds", "a", exemplar);
        let text = openmetrics::encode(&metrics.registry.gather(), &metrics.exemplars);
        for line in [
            "# TYPE llm_router_requests counter",
            "llm_router_requests_total{cluster=\"a \\\"quoted\\\"\\\\one\",status=\"200\"} 1.0",
            "llm_router_request_duration_seconds_bucket{cluster=\"a\",le=\"0.25\"} 0",
            "llm_router_request_duration_seconds_bucket{cluster=\"a\",le=\"0.5\"} 1 # {trace_id=\"abababababababababababababababab\"} 0.3 1700000000.123",
            "llm_router_request_duration_seconds_count{cluster=\"a\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
