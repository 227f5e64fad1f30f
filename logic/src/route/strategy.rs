//! The strategies by name, the policy they read, and the reasons a decision is labelled with.

use crate::guard::policy::GuardPolicy;
use crate::money::Money;
use crate::route::network::Network;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How to choose among the backends that may serve a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The cheapest healthy cluster at or under the threshold, else the cheapest of all.
    #[default]
    Hybrid,
    /// The cheapest of all.
    Cost,
    /// The lowest predicted time to first token.
    Latency,
    /// Clusters before providers.
    ClusterFirst,
    /// Providers before clusters.
    ExternalFirst,
    /// The cheapest that is predicted to meet the latency targets, else the fastest.
    Slo,
}

impl Strategy {
    /// Every strategy, in the order the documentation lists them.
    pub const ALL: [Self; 6] =
        [Self::Hybrid, Self::Cost, Self::Latency, Self::ClusterFirst, Self::ExternalFirst, Self::Slo];

    /// The word used in configuration, headers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::Cost => "cost",
            Self::Latency => "latency",
            Self::ClusterFirst => "cluster_first",
            Self::ExternalFirst => "external_first",
            Self::Slo => "slo",
        }
    }

    /// Reads a strategy, the deprecated alias `smart_hybrid` included; `true` where it was the alias
    /// and a warning is due.
    ///
    /// # Errors
    /// [`UnknownStrategy`] for any other word.
    pub fn parse_with_alias(word: &str) -> Result<(Self, bool), UnknownStrategy> {
        if word == "smart_hybrid" {
            return Ok((Self::Hybrid, true));
        }
        word.parse().map(|strategy| (strategy, false))
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;
    fn from_str(word: &str) -> Result<Self, UnknownStrategy> {
        Self::ALL
            .into_iter()
            .find(|strategy| strategy.as_str() == word)
            .ok_or_else(|| UnknownStrategy(word.chars().take(64).collect()))
    }
}

/// A word that names no strategy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown strategy `{0}`: choose one of hybrid, cost, latency, cluster_first, external_first, slo")]
pub struct UnknownStrategy(String);

/// Why a backend was chosen: the label `reason` of `llm_router_routing_decisions_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Strategy `cost`.
    LowestCost,
    /// Strategy `latency`.
    LowestLatency,
    /// Strategy `external_first`, a provider.
    ExternalFirst,
    /// A cluster, since no provider could serve it.
    ClusterFallback,
    /// Strategy `cluster_first`, a cluster.
    ClusterFirst,
    /// A provider, since no cluster could serve it.
    ExternalFallback,
    /// Strategy `hybrid`, a cluster at or under the threshold.
    HybridCluster,
    /// Strategy `hybrid`, the cheapest of all.
    HybridCheapest,
    /// Strategy `slo`, predicted to meet the targets.
    SloCheapest,
    /// Strategy `slo`, the fastest where none is predicted to meet them.
    SloFastest,
    /// The backend that served this session last.
    Sticky,
    /// The cluster that has most likely read the beginning of this prompt before.
    PrefixAffinity,
    /// The backend the client named.
    Pinned,
    /// Its circuit breaker is open, but so are too many others: the least bad of them is tried.
    LeastBad,
}

impl Reason {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowestCost => "lowest_cost",
            Self::LowestLatency => "lowest_latency",
            Self::ExternalFirst => "external_first",
            Self::ClusterFallback => "cluster_fallback",
            Self::ClusterFirst => "cluster_first",
            Self::ExternalFallback => "external_fallback",
            Self::HybridCluster => "hybrid_cluster",
            Self::HybridCheapest => "hybrid_cheapest",
            Self::SloCheapest => "slo_cheapest",
            Self::SloFastest => "slo_fastest",
            Self::Sticky => "sticky",
            Self::PrefixAffinity => "prefix_affinity",
            Self::Pinned => "pinned",
            Self::LeastBad => "least_bad",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which cost of a backend is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CostBasis {
    /// The machine's price spread over all it makes.
    #[default]
    Average,
    /// What this one request adds to the bill: nothing at a machine that is paid for and has room; at
    /// one that has none, what the cheapest backend with room would charge.
    Marginal,
}

/// The latency targets of strategy `slo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slo {
    /// Time to first token.
    pub ttft: Duration,
    /// Time per output token after the first.
    pub tpot: Duration,
}

impl Default for Slo {
    /// Two seconds to the first token; a tenth of a second for each further one, twice as fast as
    /// people read.
    fn default() -> Self {
        Self { ttft: Duration::from_secs(2), tpot: Duration::from_millis(100) }
    }
}

/// The operator's routing settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Strategy where the request does not name one.
    pub strategy: Strategy,
    /// A cluster whose p95 TTFT is above this is not eligible.
    pub max_latency: Duration,
    /// A cluster with more requests waiting is not eligible.
    pub max_queue_depth: u32,
    /// Factor on the machine price for what the machine does besides.
    pub overhead_factor: f64,
    /// `hybrid` prefers clusters at or under this price per 1,000 tokens.
    pub cluster_cost_threshold: Money,
    /// Whether providers may stand in for clusters.
    pub enable_external_fallback: bool,
    /// Which cost is compared; the threshold of `hybrid` is always on the average.
    pub cost_basis: CostBasis,
    /// The targets of strategy `slo`.
    pub slo: Slo,
    /// Whether requests that begin alike go to the same cluster, so that it reads their beginning once.
    pub prefix_affinity: bool,
    /// Distances and prices of the traffic between regions.
    pub network: Network,
    /// How backends are protected.
    pub guards: GuardPolicy,
}

impl Default for Policy {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self {
            strategy: Strategy::Hybrid,
            max_latency: Duration::from_secs(5),
            max_queue_depth: 10,
            overhead_factor: 1.1,
            cluster_cost_threshold: Money::from_pico(10_000_000_000),
            enable_external_fallback: true,
            cost_basis: CostBasis::Average,
            slo: Slo::default(),
            prefix_affinity: true,
            network: Network::default(),
            guards: GuardPolicy::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_reads_as_it_is_written_in_text_and_in_json() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
            assert_eq!(serde_json::to_string(&strategy).unwrap(), format!("\"{strategy}\""));
        }
    }

    #[test]
    fn the_alias_is_read_and_marked_deprecated() {
        assert_eq!(Strategy::parse_with_alias("smart_hybrid"), Ok((Strategy::Hybrid, true)));
        assert_eq!(Strategy::parse_with_alias("cost"), Ok((Strategy::Cost, false)));
        assert!("smart_hybrid".parse::<Strategy>().is_err());
    }

    #[test]
    fn an_unknown_word_is_refused_with_the_choices() {
        for word in ["", "Hybrid", "cheapest", "cluster-first"] {
            let error = Strategy::parse_with_alias(word).unwrap_err().to_string();
            for strategy in Strategy::ALL {
                assert!(error.contains(strategy.as_str()), "{error}");
            }
        }
    }

    #[test]
    fn reasons_have_the_seeds_labels() {
        use Reason as R;
        for (reason, label) in [
            (R::LowestCost, "lowest_cost"),
            (R::LowestLatency, "lowest_latency"),
            (R::ExternalFirst, "external_first"),
            (R::ClusterFallback, "cluster_fallback"),
            (R::ClusterFirst, "cluster_first"),
            (R::ExternalFallback, "external_fallback"),
            (R::HybridCluster, "hybrid_cluster"),
            (R::HybridCheapest, "hybrid_cheapest"),
            (R::SloCheapest, "slo_cheapest"),
            (R::SloFastest, "slo_fastest"),
            (R::Sticky, "sticky"),
            (R::PrefixAffinity, "prefix_affinity"),
            (R::Pinned, "pinned"),
            (R::LeastBad, "least_bad"),
        ] {
            assert_eq!(reason.as_str(), label);
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{label}\""));
        }
    }
}
