//! A whole node among strangers made by hand: bare chitchat nodes that tell whatever a test wants, over an
//! in-memory network in virtual time.

use crate::clock::Clock;
use crate::handle::{Handle, Setup};
use crate::metrics::Metrics;
use crate::ports::{
    GossipMessage, GossipSocket, GossipTransport, Probe, Reading, Resolve, Speed, Wake, WakeOrder,
};
use crate::topology::{GossipSettings, Topology};
use async_trait::async_trait;
use chitchat::transport::ChannelTransport;
use chitchat::{ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use llm_router_logic::backend::{BackendSpec, Kind, Placement, ServedModel};
use llm_router_logic::gossip::codec::{self, NodeFact, Reads};
use llm_router_logic::gossip::fact::Payload;
use llm_router_logic::ids::{NodeId, Region};
use llm_router_logic::report::{Health, Report};
use llm_router_logic::route::Policy;
use llm_router_logic::view::PeerFact;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(200);

/// A backend that is always well.
struct Well;

impl Probe for Well {
    fn probe(&self, _: Arc<BackendSpec>) -> BoxFuture<'static, Result<Reading, String>> {
        async { Ok(Reading { slots: Some(4), tokens_per_second: Some(50.0), ..Reading::default() }) }.boxed()
    }

    fn calibrate(&self, _: Arc<BackendSpec>, _: String) -> BoxFuture<'static, Result<Speed, String>> {
        async { Err("never".to_owned()) }.boxed()
    }
}

impl Wake for Well {
    fn wake(&self, _: WakeOrder) -> BoxFuture<'static, Result<bool, String>> {
        async { Ok(false) }.boxed()
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn spec() -> Arc<BackendSpec> {
    Arc::new(BackendSpec {
        id: "own".into(),
        kind: Kind::OpenAi,
        placement: Placement::External,
        models: vec![ServedModel::named("m")],
        default_model: None,
        capabilities: llm_router_logic::capability::Capabilities::default(),
        rate_limit: None,
        slots: None,
        scale_to_zero: None,
        reached_from: Vec::new(),
    })
}

/// A whole node at port 1, whose backend is looked at every `look`.
async fn node(network: &ChannelTransport, look: Duration) -> Handle {
    node_over(Arc::new(network.clone()), &address(2).to_string(), Answers::none(), look).await
}

/// The same over any transport, from any seed.
async fn node_over(
    transport: Arc<dyn GossipTransport>,
    seed: &str,
    resolver: Arc<Answers>,
    look: Duration,
) -> Handle {
    let settings = GossipSettings {
        cluster_id: "test".to_owned(),
        listen: address(1),
        advertise: address(1),
        seeds: vec![seed.to_owned()],
        resolver,
        interval: INTERVAL,
    };
    let draw = AtomicU64::new(1);
    crate::start(Setup {
        topology: Topology {
            node: "real".into(),
            region: "here".into(),
            policy: Policy::default(),
            backends: vec![spec()],
            health_check_interval: look,
            metrics_update_interval: look,
            calibrate_throughput: false,
            heed_words: true,
            heed_outages: true,
        },
        probe: Arc::new(Well),
        wake: Arc::new(Well),
        gossip: Some((settings, transport)),
        ledger: None,
        draw: Arc::new(move || draw.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)),
        metrics: Metrics::new().unwrap(),
        clock: Clock::start(),
        generation: 1,
        quota_store: None,
        deliver: None,
    })
    .await
    .unwrap()
}

/// A resolver that gives the answers it was told, one after another, the last one for ever.
#[derive(Debug, Default)]
struct Answers(Mutex<VecDeque<Result<Vec<SocketAddr>, String>>>);

impl Answers {
    fn none() -> Arc<Self> {
        Arc::default()
    }
}

impl Resolve for Answers {
    fn resolve(&self, seed: String) -> BoxFuture<'static, Result<Vec<SocketAddr>, String>> {
        assert_eq!(seed, "peers.example:7946");
        let mut answers = self.0.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        async { next.unwrap_or_else(|| Err("no such name".to_owned())) }.boxed()
    }
}

/// A transport whose socket breaks when it is told to.
struct Breakable {
    network: ChannelTransport,
    broken: Arc<Notify>,
}

struct BreakableSocket {
    socket: Box<dyn GossipSocket>,
    broken: Arc<Notify>,
}

#[async_trait]
impl GossipTransport for Breakable {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn GossipSocket>> {
        let socket = self.network.open(listen).await?;
        Ok(Box::new(BreakableSocket { socket, broken: Arc::clone(&self.broken) }))
    }
}

#[async_trait]
impl GossipSocket for BreakableSocket {
    async fn send(&mut self, to: SocketAddr, message: GossipMessage) -> anyhow::Result<()> {
        self.socket.send(to, message).await
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, GossipMessage)> {
        tokio::select! {
            () = self.broken.notified() => anyhow::bail!("the socket is broken"),
            heard = self.socket.recv() => heard,
        }
    }
}

/// A bare chitchat node.
struct Stranger(ChitchatHandle);

impl Stranger {
    async fn new(network: &ChannelTransport, name: &str, generation: u64, port: u16) -> Self {
        Self::seeded(network, name, generation, port, vec![address(1).to_string()]).await
    }

    /// One that starts from `seeds`.
    async fn seeded(
        network: &ChannelTransport,
        name: &str,
        generation: u64,
        port: u16,
        seeds: Vec<String>,
    ) -> Self {
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(name, generation, address(port)),
            cluster_id: "test".to_owned(),
            gossip_interval: INTERVAL,
            listen_addr: address(port),
            seed_nodes: seeds,
            failure_detector_config: FailureDetectorConfig {
                initial_interval: Duration::from_secs(1),
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: Duration::from_secs(900),
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let introduction = codec::encode_node(&NodeFact {
            region: Region::new("away"),
            version: "9".to_owned(),
            http_address: None,
        });
        let own = vec![("n".to_owned(), introduction)];
        Self(spawn_chitchat(config, own, network).await.unwrap())
    }

    async fn tell(&self, key: &str, value: &str) {
        self.0.with_chitchat(|state| state.self_node_state().set(key, value)).await;
    }

    async fn untell(&self, key: &str) {
        self.0.with_chitchat(|state| state.self_node_state().delete(key)).await;
    }

    /// What the real node tells under `key`.
    async fn reads(&self, key: &str) -> Option<String> {
        self.0
            .with_chitchat(|state| {
                let real = state.node_states().iter().find(|(id, _)| *id.node_id == *"real");
                real.and_then(|(_, node)| node.get(key)).map(str::to_owned)
            })
            .await
    }

    /// Its end, without a goodbye.
    fn kill(self) {
        self.0.abort();
    }
}

fn healthy() -> String {
    codec::encode_report(&Report { health: Health::Healthy, slots: Some(3), ..Report::default() }, 1, 2)
}

/// What the node knows of backend `name` by `peer`.
fn fact(node: &Handle, name: &str, peer: &str) -> Option<PeerFact> {
    let view = &node.snapshot().view;
    let foreign = view.foreign.iter().filter(|(id, _)| id.as_str() == name).map(|(_, fact)| fact);
    let own = view.backends.iter().filter(|backend| backend.spec.id.as_str() == name);
    foreign.chain(own.flat_map(|backend| &backend.peers)).find(|fact| fact.node.as_str() == peer).cloned()
}

fn refused(node: &Handle, why: &str) -> u64 {
    node.metrics().gossip_refused_total.with_label_values(&[why]).get()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn values_of_other_versions_and_garbage_are_counted_and_the_rest_is_heard() {
    let network = ChannelTransport::default();
    let node = node(&network, Duration::from_secs(2)).await;
    let peer = Stranger::new(&network, "peer", 1, 2).await;
    let versioned = |version: u8, more: &[u8]| {
        // Of a report written now: another version byte, and more behind it.
        let text = healthy();
        let payload = Payload::parse(&text).unwrap();
        assert_eq!(payload.version(), codec::VERSION);
        let mut bytes = base64_of(&text);
        bytes[0] = version;
        bytes.extend(more);
        text_of(&bytes)
    };
    peer.tell("b/before", &versioned(1, b"")).await;
    peer.tell("b/now", &versioned(2, b"")).await;
    peer.tell("b/later-fields", &versioned(2, b"fields of a later version")).await;
    peer.tell("b/next", &versioned(3, b"")).await;
    peer.tell("b/ancient", &versioned(0, b"")).await;
    peer.tell("b/garbage", "no base64 at all!").await;
    peer.tell("b/cut", &versioned(2, b"")[..8]).await;
    peer.tell("b/huge", &"A".repeat(60_000)).await;
    peer.tell("budget/huge", &"A".repeat(2_000)).await;
    peer.tell("later-topic/x", "AQ").await;
    peer.tell("b/bad name", "AQ").await;
    for backend in ["before", "now", "later-fields"] {
        eventually(backend, async || fact(&node, backend, "peer").is_some()).await;
        assert_eq!(fact(&node, backend, "peer").unwrap().report.slots, Some(3), "{backend}");
    }
    let counted =
        [("version_future", 1), ("version_old", 1), ("not_text", 1), ("malformed", 1), ("oversized", 2)];
    for (why, times) in counted {
        eventually(why, async || refused(&node, why) == times).await;
    }
    assert_eq!(refused(&node, "unknown_key"), 2);
    // It serves on: what comes next is heard, and what was refused is no backend.
    peer.tell("b/next", &healthy()).await;
    eventually("the next good value", async || fact(&node, "next", "peer").is_some()).await;
    for backend in ["ancient", "garbage", "cut", "huge"] {
        assert!(fact(&node, backend, "peer").is_none(), "{backend}");
    }
    assert!(node.metrics().actor_restarts_total.with_label_values(&["gossip"]).get() == 0);
}

#[tokio::test(start_paused = true)]
async fn reports_are_written_as_the_oldest_live_peer_reads_them() {
    let network = ChannelTransport::default();
    let node = node(&network, Duration::from_secs(2)).await;
    let version = |text: Option<String>| text.map(|text| base64_of(&text)[0]);
    // One that tells of no version is of the first, as every node before this one was.
    let old = Stranger::new(&network, "old", 1, 2).await;
    eventually("version 1", async || version(old.reads("b/own").await) == Some(1)).await;
    let new = Stranger::new(&network, "new", 1, 3).await;
    new.tell("codec/reads", &Payload::of(&Reads::OURS).unwrap().text()).await;
    eventually("version 1 to the new one too", async || version(new.reads("b/own").await) == Some(1)).await;
    old.kill();
    eventually("version 2 once the old one is gone", async || version(new.reads("b/own").await) == Some(2))
        .await;
    let late = Stranger::new(&network, "late", 1, 4).await;
    eventually("version 1 again", async || version(new.reads("b/own").await) == Some(1)).await;
    late.tell("codec/reads", &Payload::of(&Reads { version: 77 }).unwrap().text()).await;
    eventually("a later version reads ours", async || version(new.reads("b/own").await) == Some(2)).await;
    assert!(node.snapshot().view.backends[0].own.is_some());
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_incarnation_of_a_peer_counts() {
    let network = ChannelTransport::default();
    let node = node(&network, Duration::from_secs(2)).await;
    let first = Stranger::new(&network, "peer", 7, 2).await;
    first.tell("b/early", &healthy()).await;
    eventually("the first", async || fact(&node, "early", "peer").is_some()).await;
    // The clock of its machine is centuries ahead after the restart: only its growth counts.
    let second = Stranger::new(&network, "peer", 7 + 40_000_000_000_000, 3).await;
    second.tell("b/late", &healthy()).await;
    eventually("the second", async || fact(&node, "late", "peer").is_some()).await;
    eventually("the first's facts to go", async || fact(&node, "early", "peer").is_none()).await;
    // The old process still runs for a while and speaks.
    first.tell("b/early", &codec::encode_report(&Report::default(), 9, 2)).await;
    eventually("the old process to be heard, and not believed", async || {
        refused(&node, "old_incarnation") > 0
    })
    .await;
    assert!(fact(&node, "early", "peer").is_none());
    let view = node.snapshot();
    let members: Vec<_> = view.view.members.iter().filter(|member| member.node.as_str() == "peer").collect();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].generation, 7 + 40_000_000_000_000);
    let arrived_at = fact(&node, "late", "peer").unwrap().arrived_at;
    assert!(arrived_at <= node.clock().now(), "an age is counted by this node's clock");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_fact_goes_at_once_and_a_dead_nodes_facts_with_it() {
    let network = ChannelTransport::default();
    let node = node(&network, Duration::from_secs(2)).await;
    let peer = Stranger::new(&network, "peer", 1, 2).await;
    peer.tell("b/one", &healthy()).await;
    peer.tell("b/two", &healthy()).await;
    eventually("both", async || fact(&node, "one", "peer").is_some() && fact(&node, "two", "peer").is_some())
        .await;
    peer.untell("b/one").await;
    let asked = Instant::now();
    eventually("the withdrawal", async || fact(&node, "one", "peer").is_none()).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "after {:?}", asked.elapsed());
    assert!(fact(&node, "two", "peer").is_some());
    peer.kill();
    eventually("a dead node's facts to go", async || fact(&node, "two", "peer").is_none()).await;
    let live = node.snapshot().view.members.iter().filter(|member| member.live).count();
    assert_eq!(live, 1);
}

#[tokio::test(start_paused = true)]
async fn peers_do_not_forget_a_backend_that_is_seldom_looked_at() {
    let network = ChannelTransport::default();
    let node = node(&network, Duration::from_secs(30)).await;
    let peer = Stranger::new(&network, "peer", 1, 2).await;
    peer.tell("codec/reads", &Payload::of(&Reads::OURS).unwrap().text()).await;
    eventually("the first report", async || peer.reads("b/own").await.is_some()).await;
    // Between two looks: never longer than three seconds without a value that arrives anew.
    let (mut last, mut since) = (peer.reads("b/own").await, Instant::now());
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = peer.reads("b/own").await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(since.elapsed() <= Duration::from_secs(4), "silent for {:?}", since.elapsed());
    }
    assert_eq!(codec::decode_report(&last.unwrap()).unwrap().health, Health::Healthy);
    drop(node);
}

#[tokio::test(start_paused = true)]
async fn facts_of_a_peer_that_was_cut_off_are_known_when_it_is_back() {
    let network = ChannelTransport::default();
    let node = node(&network, Duration::from_secs(2)).await;
    let peer = Stranger::new(&network, "peer", 1, 2).await;
    peer.tell("codec/reads", &Payload::of(&Reads::OURS).unwrap().text()).await;
    let heard = || node.facts().heard::<Reads>().into_iter().map(|heard| heard.live).collect::<Vec<_>>();
    eventually("its fact", async || heard() == [true]).await;
    assert!(node.facts().last_heard(&NodeId::new("peer")).is_some());
    let both = [(address(1), address(2)), (address(2), address(1))];
    for (from, to) in both {
        network.remove_link(from, to).await;
    }
    eventually("its death", async || heard() == [false]).await;
    let silent_since = node.facts().last_heard(&NodeId::new("peer")).unwrap();
    assert!(node.clock().now().since(silent_since) > Duration::from_millis(500));
    for (from, to) in both {
        network.add_link(from, to).await;
    }
    eventually("it to be back, though its value never changed", async || heard() == [true]).await;
}

#[tokio::test(start_paused = true)]
async fn a_seed_whose_name_leads_to_nobody_at_first_is_looked_up_until_it_leads_to_a_peer() {
    let network = ChannelTransport::default();
    let answers =
        [Err("no such name".to_owned()), Ok(vec![address(99)]), Ok(Vec::new()), Ok(vec![address(2)])];
    let resolver = Arc::new(Answers(Mutex::new(answers.into())));
    // The peer knows of nobody: only the name leads them to each other.
    let peer = Stranger::seeded(&network, "peer", 1, 2, Vec::new()).await;
    peer.tell("b/one", &healthy()).await;
    let transport = Arc::new(network.clone());
    let node = node_over(transport, "peers.example:7946", resolver, Duration::from_secs(2)).await;
    let started = Instant::now();
    eventually("the peer behind the name", async || fact(&node, "one", "peer").is_some()).await;
    assert!(started.elapsed() < Duration::from_secs(8), "after {:?}", started.elapsed());
    assert_eq!(node.metrics().gossip.seeds.get(), 1);
    assert!(node.metrics().gossip.rounds_total.get() > 0);
    assert_eq!(node.metrics().gossip.members.with_label_values(&["live"]).get(), 2);
    let age = node.metrics().gossip.fact_age_seconds.with_label_values(&["report"]);
    let before = age.get();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(age.get() >= before + 1.5, "a report that is not told again grows old");
}

#[tokio::test(start_paused = true)]
async fn a_gossip_task_that_ends_is_started_again_and_everything_told_anew() {
    let network = ChannelTransport::default();
    let broken = Arc::new(Notify::new());
    let transport = Arc::new(Breakable { network: network.clone(), broken: Arc::clone(&broken) });
    let seed = address(2).to_string();
    let node = node_over(transport, &seed, Answers::none(), Duration::from_secs(2)).await;
    let peer = Stranger::new(&network, "peer", 1, 2).await;
    peer.tell("b/one", &healthy()).await;
    eventually("the first report", async || peer.reads("b/own").await.is_some()).await;
    broken.notify_one();
    let restarts = || node.metrics().actor_restarts_total.with_label_values(&["gossip"]).get();
    eventually("a restart", async || restarts() == 1).await;
    peer.tell("b/later", &healthy()).await;
    eventually("the peer to be heard again", async || {
        fact(&node, "later", "peer").is_some() && fact(&node, "one", "peer").is_some()
    })
    .await;
    let incarnations = async || {
        peer.0
            .with_chitchat(|state| {
                let reals = state.node_states().iter().filter(|(id, _)| *id.node_id == *"real");
                reals.filter(|(_, told)| told.get("b/own").is_some()).count()
            })
            .await
    };
    eventually("everything to be told under a new incarnation", async || incarnations().await == 2).await;
}

/// The bytes of a value's text.
fn base64_of(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'-' => 62,
        _ => 63,
    };
    let mut bits = text.bytes().flat_map(|byte| (0..6).rev().map(move |bit| value(byte) >> bit & 1));
    let mut bytes = Vec::new();
    loop {
        let byte: Vec<u8> = bits.by_ref().take(8).collect();
        if byte.len() < 8 {
            return bytes;
        }
        bytes.push(byte.iter().fold(0, |byte, bit| byte << 1 | bit));
    }
}

/// The text of a value's bytes.
fn text_of(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    bits.chunks(6)
        .map(|chunk| (0..6).fold(0, |six, at| six << 1 | chunk.get(at).copied().unwrap_or(0)))
        .map(|six: u8| char::from(ALPHABET[usize::from(six)]))
        .collect()
}
