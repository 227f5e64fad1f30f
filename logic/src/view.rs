//! The cluster as one node sees it: configured backends with own and peer facts, and the members.
//!
//! Own and peer reports are different types and a peer's report is never republished, so gossip
//! cannot echo. A view is immutable once published; a request reads it without a lock.

use crate::backend::{BackendSpec, ServedModel};
use crate::ids::{BackendId, NodeId, Region};
use crate::report::{Health, Report};
use crate::standing::Standing;
use crate::time::Moment;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// A peer's fact counts for nothing once it is older than this.
pub const PEER_FACT_LIMIT: Duration = Duration::from_secs(5);

/// What this node itself observed of a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OwnFact {
    /// The facts.
    pub report: Report,
    /// Last probe or outcome.
    pub observed_at: Moment,
    /// Models the backend said it serves; replaces an empty configured list.
    pub models: Arc<[ServedModel]>,
    /// Models whose breaker refuses requests now.
    pub broken_models: Arc<[String]>,
    /// Models whose breaker would let one trial request through.
    pub trial_models: Arc<[String]>,
}

/// What a peer said of a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerFact {
    /// Who said it.
    pub node: NodeId,
    /// Where that node runs.
    pub region: Region,
    /// The facts.
    pub report: Report,
    /// When it arrived here: ages never depend on another machine's clock.
    pub arrived_at: Moment,
    /// Models the peer learnt from the backend.
    pub models: Arc<[ServedModel]>,
}

/// A configured backend with everything known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendView {
    /// As configured.
    pub spec: Arc<BackendSpec>,
    /// Own observation; `None` until the first probe or outcome.
    pub own: Option<OwnFact>,
    /// Peers' observations, at most one per node.
    pub peers: Vec<PeerFact>,
    /// Whether it has a machine, and until when.
    pub standing: Standing,
}

/// A router of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Its region.
    pub region: Region,
    /// Start of this incarnation, in Unix milliseconds.
    pub generation: u64,
    /// Whether gossip counts it alive.
    pub live: bool,
    /// Whether it is this node.
    pub this_node: bool,
}

/// The whole view.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterView {
    /// This node.
    pub node: NodeId,
    /// Its region.
    pub region: Region,
    /// Configured backends, in the order of the configuration.
    pub backends: Vec<BackendView>,
    /// Facts of peers about backends that are not configured here.
    pub foreign: Vec<(BackendId, PeerFact)>,
    /// Routers known, this one included.
    pub members: Vec<Member>,
}

/// The facts that count for a decision now, own before peers', with where they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts<'a> {
    /// The report that counts.
    pub report: Report,
    /// Its age.
    pub age: Duration,
    /// `None` for an own observation, else the peer that said it.
    pub said_by: Option<&'a NodeId>,
    /// Models served.
    pub models: &'a [ServedModel],
}

impl BackendView {
    /// The facts that count now: this node's own observation once there is one, else the freshest
    /// peer fact younger than [`PEER_FACT_LIMIT`], else nothing (`None`).
    ///
    /// Another region's latency is never taken for ours: a peer fact loses its latency and RTT.
    /// Throughput missing from an own observation is filled from a fresh peer fact, since it is a
    /// property of the machine and not of the path to it.
    pub fn facts(&self, now: Moment) -> Option<Facts<'_>> {
        let peer = self
            .peers
            .iter()
            .filter(|fact| now.since(fact.arrived_at) <= PEER_FACT_LIMIT)
            .max_by_key(|fact| fact.arrived_at);
        match (&self.own, peer) {
            (Some(own), peer) if own.report.health != Health::Unknown => {
                let mut report = own.report;
                if report.tokens_per_second.is_none() {
                    report.tokens_per_second = peer.and_then(|fact| fact.report.tokens_per_second);
                }
                let models = match (&self.spec.models[..], &own.models[..], peer) {
                    ([], [], Some(fact)) => &fact.models,
                    ([], own, _) => own,
                    (configured, _, _) => configured,
                };
                Some(Facts { report, age: now.since(own.observed_at), said_by: None, models })
            }
            (_, Some(fact)) => {
                let report = Report {
                    latency_p95_ms: None,
                    ttft_ms: None,
                    rtt_ms: None,
                    // What that peer has running there is in the backend's queue, not in ours.
                    in_flight: 0,
                    ..fact.report
                };
                let models = if self.spec.models.is_empty() { &fact.models[..] } else { &self.spec.models };
                Some(Facts { report, age: now.since(fact.arrived_at), said_by: Some(&fact.node), models })
            }
            _ => None,
        }
    }

    /// Requests that fresh peers say they have running at this backend.
    pub fn peers_in_flight(&self, now: Moment) -> u32 {
        self.peers
            .iter()
            .filter(|fact| now.since(fact.arrived_at) <= PEER_FACT_LIMIT)
            .map(|fact| fact.report.in_flight)
            .sum()
    }
}
