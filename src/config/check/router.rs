//! The section `router`: how backends are chosen and watched.

use super::{Check, OVERHEAD_FACTOR_DEFAULT};
use crate::config::decode::nearest;
use crate::config::duration::Millis;
use crate::config::file::RouterFile;
use crate::config::path::Path;
use crate::config::settings::SmartMocking;
use llm_router_logic::money::Money;
use llm_router_logic::route::{CostBasis, Policy, Slo, Strategy};
use std::time::Duration;

/// A llama-server stalls its slots while it answers a probe, so it is asked no faster than this.
const POLL_LEAST: Duration = Duration::from_secs(2);
const POLL_DEFAULT: Duration = Duration::from_secs(30);

/// The settings of the section.
pub(super) struct Router {
    pub policy: Policy,
    pub stickiness_window: Duration,
    pub health_check_interval: Duration,
    pub metrics_update_interval: Duration,
    pub calibrate_throughput: bool,
    pub smart_mocking: Option<SmartMocking>,
    pub monthly_budget: Option<Money>,
}

impl Check<'_> {
    /// `cloud` is the one this node runs in.
    pub(super) fn router(&mut self, file: &RouterFile, cloud: &str) -> Router {
        let at = Path::default().key("router");
        self.not_honoured(
            &at,
            &[
                ("demoMode", file.demo_mode.is_some(), "use `llm-router demo`"),
                ("apiRateLimit", file.api_rate_limit.is_some(), "set `rateLimit` at each provider"),
            ],
        );
        let monthly_budget = self.dollars(&at.key("monthlyAPIBudget"), file.monthly_api_budget);
        let max_latency_ms = self.count(&at.key("maxLatencyMs"), file.max_latency_ms).unwrap_or(5_000);
        let threshold =
            self.dollars(&at.key("clusterCostThreshold"), Some(file.cluster_cost_threshold.unwrap_or(0.01)));
        let mock_cost =
            self.dollars(&at.key("mockClusterCost"), Some(file.mock_cluster_cost.unwrap_or(0.001)));
        let Millis(mock_latency) = file.mock_cluster_latency.unwrap_or(Millis(Duration::from_millis(100)));
        let poll = |check: &mut Self, key: &str, value| {
            check.duration(&at.key(key), value, POLL_DEFAULT, POLL_LEAST)
        };
        Router {
            monthly_budget,
            policy: Policy {
                strategy: self.strategy(&at.key("routingStrategy"), file.routing_strategy.as_deref()),
                max_latency: Duration::from_millis(max_latency_ms.into()),
                max_queue_depth: file.max_queue_depth.unwrap_or(10),
                overhead_factor: self.factor(
                    &at.key("overheadFactor"),
                    file.overhead_factor,
                    OVERHEAD_FACTOR_DEFAULT,
                ),
                cluster_cost_threshold: threshold.unwrap_or(Money::ZERO),
                enable_external_fallback: file.enable_external_fallback.unwrap_or(true),
                cost_basis: self.cost_basis(&at.key("costBasis"), file.cost_basis.as_deref()),
                guards: self.guards(&at, file),
                prefix_affinity: file.prefix_affinity.unwrap_or(true),
                network: self.network(file.network.as_ref(), cloud),
                slo: Slo {
                    ttft: self.target(&at.key("sloTtftMs"), file.slo_ttft_ms, Slo::default().ttft),
                    tpot: self.target(&at.key("sloTpotMs"), file.slo_tpot_ms, Slo::default().tpot),
                },
            },
            stickiness_window: file.stickiness_window.map_or(Duration::from_secs(60), |span| span.0),
            health_check_interval: poll(self, "healthCheckInterval", file.health_check_interval),
            metrics_update_interval: poll(self, "metricsUpdateInterval", file.metrics_update_interval),
            calibrate_throughput: file.calibrate_throughput.unwrap_or(true),
            smart_mocking: file.enable_smart_mocking.unwrap_or(false).then_some(SmartMocking {
                cluster_latency: mock_latency,
                cluster_cost: mock_cost.unwrap_or(Money::ZERO),
            }),
        }
    }

    fn strategy(&mut self, at: &Path, word: Option<&str>) -> Strategy {
        let Some(word) = word else {
            return Strategy::default();
        };
        if word == "smart_hybrid" {
            self.findings.warning(at, "`smart_hybrid` means `hybrid` here");
            return Strategy::Hybrid;
        }
        self.one_of(at, "strategy", word, Strategy::ALL.map(|strategy| (strategy.as_str(), strategy)))
    }

    fn cost_basis(&mut self, at: &Path, word: Option<&str>) -> CostBasis {
        let words = [("average", CostBasis::Average), ("marginal", CostBasis::Marginal)];
        word.map_or_else(CostBasis::default, |word| self.one_of(at, "cost basis", word, words))
    }

    /// The meaning of `word`, or a problem that names the words there are.
    pub(super) fn one_of<T: Copy + Default, const N: usize>(
        &mut self,
        at: &Path,
        what: &str,
        word: &str,
        words: [(&'static str, T); N],
    ) -> T {
        if let Some((_, meaning)) = words.iter().find(|(name, _)| *name == word) {
            return *meaning;
        }
        let names = words.map(|(name, _)| name);
        let cure = match nearest(word, names) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("use {}", names.join(", ")),
        };
        self.findings.problem(at, format!("unknown {what} `{word}` ({cure})"));
        T::default()
    }

    fn target(&mut self, at: &Path, millis: Option<u32>, default: Duration) -> Duration {
        self.count(at, millis).map_or(default, |millis| Duration::from_millis(millis.into()))
    }
}
