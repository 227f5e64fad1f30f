//! The strategies by name, the policy they read, and the reasons a decision is labelled with.

use crate::money::Money;
use serde::{Deserialize, Serialize};
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
}

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
    /// The backend that served this session last.
    Sticky,
    /// The backend the client named.
    Pinned,
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
}
