//! What a node is told to run: replaced as a whole by a reload.

use crate::ports::Resolve;
use llm_router_logic::backend::BackendSpec;
use llm_router_logic::ids::{NodeId, Region};
use llm_router_logic::route::Policy;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A node's place, policy and backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// This node.
    pub node: NodeId,
    /// Its region.
    pub region: Region,
    /// Routing settings.
    pub policy: Policy,
    /// Clusters and providers, in the order of the configuration.
    pub backends: Vec<Arc<BackendSpec>>,
    /// How often each backend is probed.
    pub health_check_interval: Duration,
    /// How often cost figures are computed anew.
    pub metrics_update_interval: Duration,
    /// Whether a cluster of unknown throughput is measured with one tiny generation.
    pub calibrate_throughput: bool,
    /// Whether prices and notices that peers tell count here.
    pub heed_words: bool,
    /// Whether outages that peers tell of count here.
    pub heed_outages: bool,
}

/// How a node gossips.
#[derive(Clone, Debug)]
pub struct GossipSettings {
    /// Messages of other clusters are ignored.
    pub cluster_id: String,
    /// Bound address.
    pub listen: SocketAddr,
    /// Address peers send to.
    pub advertise: SocketAddr,
    /// `host:port` of nodes to start from; names are looked up again and again.
    pub seeds: Vec<String>,
    /// How names are looked up.
    pub resolver: Arc<dyn Resolve>,
    /// Time between rounds.
    pub interval: Duration,
}
