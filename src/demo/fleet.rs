//! The demo's simulated backends and its three routers: started together, stopped together.

use super::DemoError;
use super::scenario::{ANSWER_TOKENS, Addresses, CLUSTERS, PLACES, PROVIDERS, Pace, config};
use crate::config::{Problems, load_str};
use crate::mock::{self, Faults, Mock, MockConfig};
use crate::node::{Node, NodeError};
use llm_router_actors::handle::Book;
use llm_router_logic::backend::Kind;
use llm_router_logic::report::Health;
use llm_router_logic::view::OwnFact;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a router may take until it knows a healthy backend.
const READY_WITHIN: Duration = Duration::from_secs(15);
const READY_EVERY: Duration = Duration::from_millis(50);

/// Everything that runs.
pub(super) struct Fleet {
    mocks: HashMap<&'static str, Mock>,
    nodes: Vec<Node>,
    admin_token: String,
}

/// Why one router did not start.
enum StartError {
    Config(Problems),
    Node(NodeError),
}

/// Where the first region's operators look, and their token.
pub(super) struct Admin {
    pub(super) addr: SocketAddr,
    pub(super) token: String,
}

impl Fleet {
    /// Starts the backends, then a router on each of three ports in a row (any ports for 0), and
    /// returns once every router knows healthy backends of its own.
    pub(super) async fn start(port: u16) -> Result<Self, DemoError> {
        let admin_token = format!("{:032x}", rand::random::<u128>());
        let mut fleet = Self { mocks: HashMap::new(), nodes: Vec::new(), admin_token };
        match fleet.start_all(port).await {
            Ok(()) => Ok(fleet),
            Err(error) => {
                fleet.shutdown().await;
                Err(error)
            }
        }
    }

    async fn start_all(&mut self, port: u16) -> Result<(), DemoError> {
        for cluster in &CLUSTERS {
            self.start_mock(cluster.name, Kind::Llama, cluster.model, cluster.pace).await?;
        }
        for provider in &PROVIDERS {
            self.start_mock(provider.name, provider.kind, provider.model, provider.pace).await?;
        }
        let gossip = free_udp(PLACES.len()).map_err(DemoError::Gossip)?;
        for (index, place) in (0..).zip(PLACES) {
            let port = if port == 0 { 0 } else { port.saturating_add(index) };
            let node = self.start_node(usize::from(index), port, &gossip).await;
            self.nodes.push(node.map_err(|error| match error {
                StartError::Config(problems) => DemoError::Config { region: place.region, problems },
                StartError::Node(NodeError::Listen { what: "server.port", source, .. }) => {
                    DemoError::Port { port, region: place.region, source }
                }
                StartError::Node(source) => DemoError::Region { region: place.region, source },
            })?);
        }
        for (node, place) in self.nodes.iter().zip(PLACES) {
            ready(node, place.region).await?;
        }
        Ok(())
    }

    async fn start_node(&self, index: usize, port: u16, gossip: &[SocketAddr]) -> Result<Node, StartError> {
        let text = config(
            index,
            &Addresses {
                port,
                gossip,
                url: &|name| self.mocks.get(name).map(Mock::url).unwrap_or_default(),
                admin_token: &self.admin_token,
            },
        );
        // The environment is left out: nothing there, a real key least of all, can reach the demo.
        let loaded = load_str(&text, Path::new("."), &|_| None).map_err(StartError::Config)?;
        Node::start_simulated(loaded.config).await.map_err(StartError::Node)
    }

    async fn start_mock(
        &mut self,
        name: &'static str,
        kind: Kind,
        model: &str,
        pace: Pace,
    ) -> Result<(), DemoError> {
        let mut config = MockConfig::new(kind);
        config.models = vec![model.to_owned()];
        config.ttft = pace.ttft;
        config.tokens_per_second = pace.tokens_per_second;
        config.slots = pace.slots;
        config.output_tokens = ANSWER_TOKENS;
        let mock = mock::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), config, Faults::none()).await;
        self.mocks.insert(name, mock.map_err(|source| DemoError::Backend { name, source: source.into() })?);
        Ok(())
    }

    /// The routers' addresses, in the order of [`PLACES`].
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::addr).collect()
    }

    /// The first router's admin listener.
    pub(super) fn admin(&self) -> Option<Admin> {
        let addr = self.nodes.first()?.admin_addr()?;
        Some(Admin { addr, token: self.admin_token.clone() })
    }

    /// One router.
    #[cfg(test)]
    pub(super) fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The routers' books, in the order of [`PLACES`].
    pub(super) fn books(&self) -> Vec<Arc<Book>> {
        self.nodes.iter().map(|node| node.handle().book()).collect()
    }

    /// Stops the routers, all at once, then the backends.
    pub(super) async fn shutdown(self) {
        futures_util::future::join_all(self.nodes.into_iter().map(Node::shutdown)).await;
        futures_util::future::join_all(self.mocks.into_values().map(Mock::shutdown)).await;
    }
}

/// Waits until `node` has found every cluster well, so that its first request can go to any of them.
async fn ready(node: &Node, region: &'static str) -> Result<(), DemoError> {
    let asked = Instant::now();
    loop {
        let snapshot = node.handle().snapshot();
        let well = |own: &OwnFact| own.report.health == Health::Healthy;
        let mut clusters = snapshot.view.backends.iter().filter(|backend| backend.spec.is_cluster());
        if clusters.all(|backend| backend.own.as_ref().is_some_and(well)) {
            return Ok(());
        }
        if asked.elapsed() > READY_WITHIN {
            return Err(DemoError::NotReady { region, within: READY_WITHIN });
        }
        tokio::time::sleep(READY_EVERY).await;
    }
}

/// Free loopback UDP addresses: each router must know the others' before any of them has started.
fn free_udp(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let sockets: Result<Vec<UdpSocket>, _> =
        (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    sockets?.iter().map(UdpSocket::local_addr).collect()
}
