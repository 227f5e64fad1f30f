//! The simulated network: who runs, who reaches whom, and how late.
//!
//! Gossip crosses it message by message, with loss, duplication and reordering; HTTP crosses it as TCP
//! would: late, not at all, or broken off.

use crate::clients::tagged;
use crate::history::{Event, History};
use crate::randomness::Draws;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use llm_router::mock::InProcess;
use llm_router::outbound::{Carrier, CarryError};
use llm_router_actors::Handle;
use llm_router_actors::ports::{Deserializable, GossipMessage, GossipSocket, GossipTransport, Serializable};
use llm_router_logic::report::Health;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a connection to nowhere is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages that wait for one socket; more are lost, as in a full buffer.
const BUFFERED: usize = 1_024;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    Node(usize),
    Backend(usize),
}

/// One direction between two hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) cut: bool,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Of gossip messages; TCP repeats what is lost.
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
}

impl Link {
    pub(crate) const GOOD: Self = Self {
        cut: false,
        delay: Duration::from_millis(15),
        jitter: Duration::from_millis(5),
        loss: 0.0,
        duplication: 0.0,
    };
}

/// A process: its `life` grows with each start and each end, odd while it runs.
struct Process {
    life: watch::Sender<u64>,
    /// Until when it is stopped (SIGSTOP).
    frozen_until: Instant,
}

impl Process {
    fn running() -> Self {
        Self { life: watch::channel(1).0, frozen_until: Instant::now() }
    }
}

struct State {
    draws: Draws,
    links: BTreeMap<(Host, Host), Link>,
    processes: BTreeMap<Host, Process>,
    sockets: BTreeMap<usize, mpsc::Sender<(SocketAddr, Vec<u8>)>>,
    backends: Vec<InProcess>,
    handles: BTreeMap<usize, Handle>,
    /// What each node's relay answers with.
    relays: BTreeMap<usize, Router>,
    /// Since when each node has taken each backend for unhealthy.
    unwell_since: BTreeMap<(usize, usize), Instant>,
    next_attempt: u64,
}

/// The network of one run.
#[derive(Clone)]
pub(crate) struct Network {
    state: Arc<Mutex<State>>,
    history: History,
}

impl Network {
    pub(crate) fn new(seed: u64, backends: Vec<InProcess>, nodes: usize, history: History) -> Self {
        let hosts = (0..nodes).map(Host::Node).chain((0..backends.len()).map(Host::Backend));
        let state = State {
            draws: Draws::new(seed),
            links: BTreeMap::new(),
            processes: hosts.map(|host| (host, Process::running())).collect(),
            sockets: BTreeMap::new(),
            backends,
            handles: BTreeMap::new(),
            relays: BTreeMap::new(),
            unwell_since: BTreeMap::new(),
            next_attempt: 1,
        };
        Self { state: Arc::new(Mutex::new(state)), history }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set_link(&self, from: Host, to: Host, change: impl FnOnce(&mut Link)) {
        change(self.state().links.entry((from, to)).or_insert(Link::GOOD));
    }

    pub(crate) fn is_running(&self, host: Host) -> bool {
        self.life(host) % 2 == 1
    }

    pub(crate) fn life(&self, host: Host) -> u64 {
        *self.state().processes[&host].life.borrow()
    }

    /// Ends a process at once: whatever it had open is broken.
    pub(crate) fn kill(&self, host: Host) {
        self.state().processes[&host].life.send_modify(|life| *life += life.rem_euclid(2));
    }

    /// Starts a process that was ended.
    pub(crate) fn start(&self, host: Host) {
        self.state().processes[&host].life.send_modify(|life| *life += 1 - life.rem_euclid(2));
    }

    /// Stops a process for a while, as SIGSTOP does.
    pub(crate) fn freeze(&self, host: Host, length: Duration) {
        if let Some(process) = self.state().processes.get_mut(&host) {
            process.frozen_until = Instant::now() + length;
        }
    }

    pub(crate) fn replace_backend(&self, backend: usize, mock: InProcess) {
        self.state().backends[backend] = mock;
    }

    pub(crate) fn backend(&self, backend: usize) -> InProcess {
        self.state().backends[backend].clone()
    }

    /// Whose view is asked when `node` attempts something.
    pub(crate) fn set_handle(&self, node: usize, handle: Option<Handle>) {
        let mut state = self.state();
        match handle {
            Some(handle) => drop(state.handles.insert(node, handle)),
            None => drop(state.handles.remove(&node)),
        }
        state.unwell_since.retain(|(of, _), _| *of != node);
    }

    /// Notes which backends each node takes for unhealthy now.
    pub(crate) fn watch_views(&self) {
        let mut state = self.state();
        let mut seen = Vec::new();
        for (node, handle) in &state.handles {
            let snapshot = handle.snapshot();
            let now = handle.clock().now();
            for (backend, view) in snapshot.view.backends.iter().enumerate() {
                let unwell = view.facts(now).is_some_and(|facts| facts.report.health == Health::Unhealthy);
                seen.push(((*node, backend), unwell));
            }
        }
        for (pair, unwell) in seen {
            if unwell {
                state.unwell_since.entry(pair).or_insert_with(Instant::now);
            } else {
                state.unwell_since.remove(&pair);
            }
        }
    }

    /// Waits while `host` is stopped.
    pub(crate) async fn thawed(&self, host: Host) {
        loop {
            let until = self.state().processes[&host].frozen_until;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Resolves once the process that ran at `life` is gone.
    pub(crate) async fn gone(&self, host: Host, life: u64) {
        let mut watched = self.state().processes[&host].life.subscribe();
        // The sender lives as long as the network.
        let _ = watched.wait_for(|now| *now != life).await;
    }

    /// How long a byte takes from `from` to `to`; `None` where none arrives.
    fn way(&self, from: Host, to: Host) -> Option<Duration> {
        let mut state = self.state();
        let link = state.links.get(&(from, to)).copied().unwrap_or(Link::GOOD);
        let jitter = state.draws.below(link.jitter.as_micros() as u64 + 1);
        (!link.cut).then(|| link.delay + Duration::from_micros(jitter))
    }

    /// A gossip socket's transport for `node`.
    pub(crate) fn gossip(&self, node: usize) -> Arc<dyn GossipTransport> {
        Arc::new(Gossip { network: self.clone(), node })
    }

    /// What carries the requests of `node`.
    pub(crate) fn carrier(&self, node: usize) -> Arc<dyn Carrier> {
        Arc::new(Wire { network: self.clone(), node })
    }

    fn post(&self, from: usize, to: usize, bytes: &[u8]) {
        let (sender, receiver) = (Host::Node(from), Host::Node(to));
        let Some(delay) = self.way(sender, receiver) else { return };
        let mut state = self.state();
        let link = state.links.get(&(sender, receiver)).copied().unwrap_or(Link::GOOD);
        let copies = 1 + u8::from(state.draws.chance(link.duplication));
        for copy in 0..copies {
            if state.draws.chance(link.loss) {
                continue;
            }
            let late = delay + Duration::from_micros(state.draws.below(u64::from(copy) * 50_000 + 1));
            let (network, bytes) = (self.clone(), bytes.to_vec());
            tokio::spawn(async move {
                sleep(late).await;
                network.thawed(receiver).await;
                if network.is_running(receiver) {
                    let socket = network.state().sockets.get(&to).cloned();
                    // A full buffer loses it.
                    let _ = socket.map(|socket| socket.try_send((gossip_address(from), bytes)));
                }
            });
        }
    }
}

/// Where a node gossips.
pub(crate) fn gossip_address(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, node as u8 + 1)), 7946)
}

fn node_of(address: SocketAddr) -> Option<usize> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    usize::from(ip.octets()[3]).checked_sub(1)
}

struct Gossip {
    network: Network,
    node: usize,
}

struct Socket {
    network: Network,
    node: usize,
    life: u64,
    inbox: mpsc::Receiver<(SocketAddr, Vec<u8>)>,
}

#[async_trait]
impl GossipTransport for Gossip {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn GossipSocket>> {
        let (sender, inbox) = mpsc::channel(BUFFERED);
        self.network.state().sockets.insert(self.node, sender);
        let life = self.network.life(Host::Node(self.node));
        Ok(Box::new(Socket { network: self.network.clone(), node: self.node, life, inbox }))
    }
}

#[async_trait]
impl GossipSocket for Socket {
    async fn send(&mut self, to: SocketAddr, message: GossipMessage) -> anyhow::Result<()> {
        self.network.thawed(Host::Node(self.node)).await;
        if let Some(to) = node_of(to)
            && self.network.life(Host::Node(self.node)) == self.life
        {
            self.network.post(self.node, to, &message.serialize_to_vec());
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, GossipMessage)> {
        while let Some((from, bytes)) = self.inbox.recv().await {
            if let Ok(message) = GossipMessage::deserialize(&mut &bytes[..]) {
                return Ok((from, message));
            }
        }
        // Replaced by the socket of the node's next life.
        std::future::pending().await
    }
}

/// HTTP from one node to the backends.
struct Wire {
    network: Network,
    node: usize,
}

impl Carrier for Wire {
    fn carry(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, CarryError>> {
        let (network, node) = (self.network.clone(), self.node);
        async move { network.exchange(node, request).await }.boxed()
    }
}

impl Network {
    async fn exchange(&self, node: usize, request: Request<Bytes>) -> Result<Response<Body>, CarryError> {
        let backend = backend_of(&request).ok_or_else(|| CarryError::Connect("no such host".into()))?;
        let (from, to) = (Host::Node(node), Host::Backend(backend));
        let node_life = self.life(from);
        self.thawed(from).await;
        if self.life(from) != node_life || !self.is_running(from) {
            // The process is gone, nothing of it acts any more.
            return std::future::pending().await;
        }
        let attempt = self.note_attempt(node, backend, request.body());
        let crossing = self.cross(from, to).await?;
        let (network, mock) = (self.clone(), self.backend(backend));
        let answered = async move {
            network.thawed(to).await;
            let broken = |_| CarryError::Broken("connection closed".into());
            mock.call(request.map(Body::from)).await.map_err(broken)
        };
        crossing.answer(self, answered, Some(attempt)).await
    }

    /// A request's way from one process to another that is there.
    pub(crate) async fn cross(&self, from: Host, to: Host) -> Result<Crossing, CarryError> {
        let from_life = self.life(from);
        self.thawed(from).await;
        if self.life(from) != from_life || !self.is_running(from) {
            return std::future::pending().await;
        }
        let Some(delay) = self.way(from, to) else {
            sleep(CONNECT_TIMEOUT).await;
            return Err(CarryError::Connect("timed out".into()));
        };
        sleep(delay).await;
        if !self.is_running(to) {
            return Err(CarryError::Connect("connection refused".into()));
        }
        Ok(Crossing { from, to, life: self.life(to) })
    }

    pub(crate) fn note(&self, event: Event) {
        self.history.note(event);
    }

    pub(crate) fn set_relay(&self, node: usize, routes: Option<Router>) {
        let mut state = self.state();
        match routes {
            Some(routes) => drop(state.relays.insert(node, routes)),
            None => drop(state.relays.remove(&node)),
        }
    }

    pub(crate) fn relay_of(&self, node: usize) -> Option<Router> {
        self.state().relays.get(&node).cloned()
    }

    fn note_attempt(&self, node: usize, backend: usize, body: &Bytes) -> u64 {
        let Some(request) = crate::clients::request_of(body) else { return 0 };
        let mut state = self.state();
        let attempt = state.next_attempt;
        state.next_attempt += 1;
        let known = state.unwell_since.get(&(node, backend)).map(|since| since.elapsed().as_millis() as u64);
        let dead = state.processes[&Host::Backend(backend)].life.borrow().rem_euclid(2) == 0;
        let trial = state.handles.get(&node).is_some_and(|handle| {
            let snapshot = handle.snapshot();
            let own = snapshot.view.backends.get(backend).and_then(|view| view.own.as_ref());
            own.is_some_and(|own| own.on_trial("tiny", handle.clock().now()))
        });
        drop(state);
        let known_dead_ms = known.filter(|_| dead);
        self.history.note(Event::Attempt { attempt, request, node, backend, known_dead_ms, trial });
        attempt
    }
}

/// A request that has come to the process it was sent to.
pub(crate) struct Crossing {
    from: Host,
    to: Host,
    life: u64,
}

impl Crossing {
    /// The answer's way back; the text of a backend's is marked with its `attempt`.
    pub(crate) async fn answer(
        self,
        network: &Network,
        answered: impl Future<Output = Result<Response<Body>, CarryError>>,
        attempt: Option<u64>,
    ) -> Result<Response<Body>, CarryError> {
        let Self { from, to, life } = self;
        let response = tokio::select! {
            biased;
            () = network.gone(to, life) => return Err(CarryError::Broken("connection reset".into())),
            response = answered => response?,
        };
        network.thawed(to).await;
        match network.way(to, from) {
            Some(delay) => sleep(delay).await,
            None => return std::future::pending().await,
        }
        let (head, body) = response.into_parts();
        let incoming = Incoming { network: network.clone(), from, to, life, attempt, nth: 0, body };
        let body = stream::unfold(Some(incoming), |incoming| async move {
            let mut incoming = incoming?;
            match incoming.next().await {
                Some(Ok(bytes)) => Some((Ok(bytes), Some(incoming))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        });
        Ok(Response::from_parts(head, Body::from_stream(body.boxed())))
    }
}

/// The body of an answer on its way to a node.
struct Incoming {
    network: Network,
    from: Host,
    to: Host,
    life: u64,
    attempt: Option<u64>,
    nth: u64,
    body: Body,
}

impl Incoming {
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        let frame = tokio::select! {
            biased;
            () = self.network.gone(self.to, self.life) => {
                return Some(Err(std::io::Error::other("connection reset")));
            }
            frame = self.body.frame() => frame?,
        };
        self.network.thawed(self.to).await;
        self.network.thawed(self.from).await;
        if self.network.way(self.to, self.from).is_none() {
            return std::future::pending().await;
        }
        match frame {
            Ok(frame) => {
                let bytes = frame.into_data().unwrap_or_default();
                Some(Ok(match self.attempt {
                    Some(attempt) => tagged(&bytes, attempt, &mut self.nth),
                    None => bytes,
                }))
            }
            Err(error) => Some(Err(std::io::Error::other(error))),
        }
    }
}

/// Which backend a request goes to, by its host name.
fn backend_of(request: &Request<Bytes>) -> Option<usize> {
    request.uri().host()?.strip_prefix("backend-")?.strip_suffix(".example")?.parse().ok()
}
