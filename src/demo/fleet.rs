//! The demo's simulated backends and its three routers: started together, stopped together, and broken one
//! by one.

use super::breakage::{Breakage, Breakages, Kind as BreakageKind};
use super::network::{Link, Network};
use super::scenario::{ANSWER_TOKENS, Addresses, CLUSTERS, PLACES, PROVIDERS, Pace, config};
use super::{DemoError, pages};
use crate::config::{Demo, Problems, load_str};
use crate::http::Sessions;
use crate::mock::{self, Faults, Mock, MockConfig};
use crate::node::{Node, NodeError, Stage};
use llm_router_actors::Handle;
use llm_router_actors::handle::{Book, Word};
use llm_router_logic::backend::Kind;
use llm_router_logic::ids::BackendId;
use llm_router_logic::report::Health;
use llm_router_logic::view::OwnFact;
use secrecy::SecretString;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a router may take until it knows a healthy backend.
const READY_WITHIN: Duration = Duration::from_secs(15);
const READY_EVERY: Duration = Duration::from_millis(50);
/// How long a session of the page lasts.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Requests per minute from one address, where the page has a password. The demo's own load has none.
const RATE_LIMIT_PER_IP: u32 = 120;

/// A folder of the demo's own for the routers' ledgers.
struct Ledgers {
    folder: PathBuf,
}

impl Ledgers {
    fn make() -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("llm-router-demo-{:016x}", rand::random::<u64>()));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder)?;
        Ok(Self { folder })
    }

    fn path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{}.sqlite", PLACES[index].cloud))
    }

    fn delete(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "the demo's ledgers could not be deleted");
        }
    }
}

/// Everything that runs.
pub(super) struct Fleet {
    mocks: HashMap<&'static str, Mock>,
    /// Ways of each router to the clusters of other regions.
    links: HashMap<(usize, &'static str), Link>,
    gossip: Vec<SocketAddr>,
    admin_token: String,
    sessions: Option<Arc<Sessions>>,
    nodes: Mutex<[Option<Node>; PLACES.len()]>,
    /// Where the routers listen, also while they are down.
    addresses: OnceLock<Vec<SocketAddr>>,
    /// Books of routers that were killed.
    closed_books: Mutex<Vec<Arc<Book>>>,
    pub(super) network: Network,
    pub(super) breakages: Breakages,
    /// Whether the load is many times the usual.
    pub(super) burst: watch::Sender<bool>,
    ledgers: Option<Ledgers>,
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
    /// returns once every router knows healthy backends of its own. With a password, pages ask for it.
    pub(super) async fn start(port: u16, password: Option<SecretString>) -> Result<Arc<Self>, DemoError> {
        let sessions = password.map(|password| {
            Arc::new(Sessions::new(Demo {
                password,
                session_timeout: SESSION_TIMEOUT,
                rate_limit_per_ip: RATE_LIMIT_PER_IP,
            }))
        });
        let gossip = free_udp(PLACES.len()).map_err(DemoError::Gossip)?;
        let mut fleet = Self {
            mocks: HashMap::new(),
            links: HashMap::new(),
            network: Network::new(&gossip),
            gossip,
            admin_token: format!("{:032x}", rand::random::<u128>()),
            sessions,
            nodes: Mutex::default(),
            addresses: OnceLock::new(),
            closed_books: Mutex::default(),
            breakages: Breakages::default(),
            burst: watch::Sender::new(false),
            ledgers: Ledgers::make()
                .inspect_err(|error| tracing::warn!(%error, "the demo keeps no ledger: no temporary folder"))
                .ok(),
        };
        for cluster in &CLUSTERS {
            fleet.start_mock(cluster.name, Kind::Llama, cluster.model, cluster.pace).await?;
        }
        for provider in &PROVIDERS {
            fleet.start_mock(provider.name, provider.kind, provider.model, provider.pace).await?;
        }
        fleet.lay_links().await.map_err(DemoError::Link)?;
        let fleet = Arc::new(fleet);
        match fleet.start_nodes(port).await {
            Ok(()) => Ok(fleet),
            Err(error) => {
                fleet.shutdown().await;
                Err(error)
            }
        }
    }

    async fn start_nodes(self: &Arc<Self>, port: u16) -> Result<(), DemoError> {
        let mut addresses = Vec::new();
        for (index, place) in (0..).zip(PLACES) {
            let port = if port == 0 { 0 } else { port.saturating_add(index) };
            let node = self.start_node(usize::from(index), port).await;
            let node = node.map_err(|error| not_started(error, place.region, port))?;
            addresses.push(node.addr());
            self.nodes()[usize::from(index)] = Some(node);
        }
        // Set once, here.
        let _ = self.addresses.set(addresses);
        for (place, at) in PLACES.iter().enumerate() {
            if let Some(handle) = self.handle(place) {
                ready(&handle, at.region).await?;
            }
        }
        Ok(())
    }

    async fn start_node(self: &Arc<Self>, index: usize, port: u16) -> Result<Node, StartError> {
        let ledger = self.ledgers.as_ref().map(|ledgers| ledgers.path(index));
        let text = config(
            index,
            &Addresses {
                port,
                gossip: &self.gossip,
                url: &|name| match self.links.get(&(index, name)) {
                    Some(link) => format!("http://{}", link.addr),
                    None => self.mocks.get(name).map(Mock::url).unwrap_or_default(),
                },
                admin_token: &self.admin_token,
                ledger: ledger.as_deref(),
            },
        );
        // The environment is left out: nothing there, a real key least of all, can reach the demo.
        let loaded = load_str(&text, Path::new("."), &|_| None).map_err(StartError::Config)?;
        let stage = Stage {
            pages: pages::routes(self),
            sessions: self.sessions.clone(),
            gate: self.network.gate(index),
        };
        Node::start_staged(loaded.config, stage).await.map_err(StartError::Node)
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

    /// Between a router and the clusters of other regions lies the network, which can be cut.
    async fn lay_links(&mut self) -> std::io::Result<()> {
        for from in 0..PLACES.len() {
            for cluster in &CLUSTERS {
                let to = PLACES.iter().position(|place| place.region == cluster.place.region);
                let Some((to, mock)) = to.filter(|to| *to != from).zip(self.mocks.get(cluster.name)) else {
                    continue;
                };
                let link = self.network.link(from, to, mock.addr()).await?;
                self.links.insert((from, cluster.name), link);
            }
        }
        Ok(())
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, [Option<Node>; PLACES.len()]> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The routers' addresses, in the order of [`PLACES`], whether they run or not.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        self.addresses.get().map_or(&[], Vec::as_slice)
    }

    /// The first router's admin listener.
    pub(super) fn admin(&self) -> Option<Admin> {
        let addr = self.nodes().first()?.as_ref()?.admin_addr()?;
        Some(Admin { addr, token: self.admin_token.clone() })
    }

    /// The routers' ledgers, in the order of [`PLACES`]; none where there was no place for them.
    pub(super) fn ledgers(&self) -> Vec<PathBuf> {
        let all = |ledgers: &Ledgers| (0..PLACES.len()).map(|index| ledgers.path(index)).collect();
        self.ledgers.as_ref().map(all).unwrap_or_default()
    }

    /// The token that operators carry, and the demo's own load.
    pub(super) fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// One router's actors, where it runs.
    pub(super) fn handle(&self, place: usize) -> Option<Handle> {
        self.nodes().get(place)?.as_ref().map(|node| node.handle().clone())
    }

    /// The routers' books, in the order of [`PLACES`], then those of routers that were killed.
    pub(super) fn books(&self) -> Vec<Arc<Book>> {
        let mut books: Vec<_> = self.nodes().iter().flatten().map(|node| node.handle().book()).collect();
        books.extend(self.closed_books.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        books
    }

    /// A simulated backend.
    pub(super) fn mock(&self, name: &str) -> Option<&Mock> {
        self.mocks.get(name)
    }

    /// Its usual pace.
    pub(super) fn pace(&self, name: &str) -> Option<Pace> {
        let clusters = CLUSTERS.iter().map(|cluster| (cluster.name, cluster.pace));
        let all = clusters.chain(PROVIDERS.iter().map(|provider| (provider.name, provider.pace)));
        all.into_iter().find_map(|(of, pace)| (of == name).then_some(pace))
    }

    /// Tells every running router something of a backend, as a cloud's notice would.
    pub(super) fn say(&self, backend: &BackendId, word: Word) {
        for place in 0..PLACES.len() {
            let heard = self.handle(place).is_none_or(|handle| handle.say(backend, word));
            if !heard {
                tracing::warn!(%backend, "a router of the demo was too busy to hear of its backend");
            }
        }
    }

    /// Whether the region is cut off by a partition.
    pub(super) fn is_partitioned(&self, place: usize) -> bool {
        let region = PLACES.get(place).map(|place| place.region);
        region.is_some_and(|target| self.breakages.has(Breakage { kind: BreakageKind::Partition, target }))
    }

    /// Crashes the region's router.
    pub(super) async fn kill(&self, place: usize) {
        let Some(node) = self.nodes().get_mut(place).and_then(Option::take) else { return };
        let book = node.handle().book();
        self.closed_books.lock().unwrap_or_else(PoisonError::into_inner).push(book);
        node.kill().await;
    }

    /// Starts the region's router again where it was.
    pub(super) async fn revive(self: &Arc<Self>, place: usize) -> Result<(), DemoError> {
        let Some(region) = PLACES.get(place).map(|place| place.region) else { return Ok(()) };
        let port = self.addresses().get(place).map_or(0, SocketAddr::port);
        let node = self.start_node(place, port).await.map_err(|error| not_started(error, region, port))?;
        if let Some(stand) = self.nodes().get_mut(place) {
            *stand = Some(node);
        }
        Ok(())
    }

    /// Mends what is broken and stops the routers, all at once; their ledgers go. The backends end with the fleet.
    pub(super) async fn shutdown(&self) {
        self.breakages.end().await;
        let nodes = std::mem::take(&mut *self.nodes());
        futures_util::future::join_all(nodes.into_iter().flatten().map(Node::shutdown)).await;
        if let Some(ledgers) = &self.ledgers {
            ledgers.delete();
        }
    }
}

fn not_started(error: StartError, region: &'static str, port: u16) -> DemoError {
    match error {
        StartError::Config(problems) => DemoError::Config { region, problems },
        StartError::Node(NodeError::Listen { what: "server.port", source, .. }) => {
            DemoError::Port { port, region, source }
        }
        StartError::Node(source) => DemoError::Region { region, source },
    }
}

/// Waits until a router has found every cluster well, so that its first request can go to any of them.
async fn ready(handle: &Handle, region: &'static str) -> Result<(), DemoError> {
    let asked = Instant::now();
    loop {
        let snapshot = handle.snapshot();
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
