//! What a node says of a backend: the fact that is merged into its own view and gossiped to peers.

use serde::{Deserialize, Serialize};

/// Health of a backend as one node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Never probed, nothing heard.
    #[default]
    Unknown,
    /// The last probe or outcome was good.
    Healthy,
    /// Reachable, but still loading its model.
    Loading,
    /// Three failures in a row.
    Unhealthy,
}

/// One node's measured facts about one backend. Everything here was observed, nothing assumed:
/// what is unknown is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Health.
    pub health: Health,
    /// Requests waiting at the backend or in this node's queue for it.
    pub queue_depth: u32,
    /// Requests this node has running there.
    pub in_flight: u32,
    /// Requests the backend runs at once, where known.
    pub slots: Option<u32>,
    /// Aggregate output tokens per second while busy, measured.
    pub tokens_per_second: Option<f32>,
    /// 95th percentile of time to first token over the last minute, in milliseconds.
    pub latency_p95_ms: Option<u32>,
    /// Peak EWMA of time to first token, in milliseconds.
    pub ttft_ms: Option<u32>,
    /// Round trip of the last probe, in milliseconds.
    pub rtt_ms: Option<u32>,
    /// How long the backend asked to be left alone (`Retry-After`), in milliseconds from now.
    pub backoff_ms: u32,
    /// Whether the circuit breaker refuses all of its models.
    pub breaker_open: bool,
}
