//! One router node: put together from a configuration, changed by a reload, drained at the end.

mod core;
mod mocking;
mod relaying;

pub use core::{Core, World};

use crate::config::{self, Config, Problems};
use crate::gossip_transport::{LoopbackUdp, Quic, SystemResolver, TransportError};
use crate::http::server::{self, Limits};
use crate::http::{App, Sessions, admin_router, router_with};
use crate::identity::{Identity, NodeName};
use crate::outbound::{Outbound, OutboundError};
use crate::tls::{Acceptor, Signals, TlsError, TlsFiles};
use crate::trace::OtlpError;
use axum::Router;
use llm_router_actors::metrics::Metrics;
use llm_router_actors::ports::GossipTransport;
use llm_router_actors::topology::{GossipSettings, Topology};
use llm_router_actors::{Handle, StartError};
use mocking::Mocks;
use relaying::PeerRelay;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the edge waits longer for a body than those of its handlers who tell the client why.
const BODY_GRACE: Duration = Duration::from_millis(500);
/// How often the files of the node's identity are read again.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(2);

/// A running node.
pub struct Node {
    addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    app: App,
    outbound: Arc<Outbound>,
    mocks: Mutex<Mocks>,
    running: Mutex<Config>,
    stop: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
    reloads: Mutex<Option<mpsc::Receiver<()>>>,
}

/// What the demo puts around a node.
pub struct Stage {
    /// Routes besides the node's own.
    pub pages: Router<App>,
    /// Sessions that several nodes share; `None` = the page needs no password.
    pub sessions: Option<Arc<Sessions>>,
    /// What stands between the node and its gossip.
    pub gate: Gate,
}

/// Makes a gossip transport from one.
pub type Gate = Box<dyn Fn(Arc<dyn GossipTransport>) -> Arc<dyn GossipTransport> + Send + Sync>;

/// Why a node could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An address could not be bound.
    #[error("cannot listen on {what} `{address}`: {source}")]
    Listen {
        /// Configuration key.
        what: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The gossip could not be started.
    #[error(transparent)]
    Gossip(#[from] TransportError),
    /// A backend cannot be reached as configured.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The actors could not be started.
    #[error(transparent)]
    Actors(#[from] StartError),
    /// Spans cannot be sent as configured.
    #[error(transparent)]
    Traces(#[from] OtlpError),
    /// Peers' requests could not be taken or sent.
    #[error("gossip.relay: {0}")]
    PeerRelay(String),
    /// A simulated backend could not be started.
    #[error("cannot start a simulated backend: {0}")]
    Mock(String),
    /// A listener cannot speak TLS as configured.
    #[error("{listener}.tls: {source}")]
    Tls {
        /// The section of the listener.
        listener: &'static str,
        /// Why.
        source: TlsError,
    },
    /// Metrics could not be registered.
    #[error("cannot register metrics: {0}")]
    Metrics(String),
}

impl Node {
    /// Starts a node and returns once it listens.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        Self::start_as(config, None).await
    }

    /// Starts a node on the demo's stage: its backends are all simulated, which its page then says.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub async fn start_staged(config: Config, stage: Stage) -> Result<Self, NodeError> {
        Self::start_as(config, Some(stage)).await
    }

    async fn start_as(mut config: Config, stage: Option<Stage>) -> Result<Self, NodeError> {
        let mut mocks = Mocks::default();
        mocks.stand_in(&mut config).await?;
        let metrics = Metrics::new().map_err(|error| NodeError::Metrics(error.to_string()))?;
        let listener = bind("server.port", &config.server.host, config.server.port).await?;
        let addr = listener
            .local_addr()
            .map_err(|source| listen_error("server.port", &config.server.host, source))?;
        match (&config.access.keys, addr.ip().is_loopback()) {
            (Some(_), false) if config.server.tls.is_none() => {
                tracing::info!(%addr, "plain HTTP: keys and prompts cross the network in clear text unless TLS ends before this node (see `server.tls`)");
            }
            (Some(_), _) => {}
            (None, true) => tracing::warn!(%addr, "clients need no key: only this machine is served"),
            (None, false) => {
                tracing::warn!(%addr, "`auth: none`: whoever reaches this address can spend your money");
            }
        }
        let (mut gossip, identity) = gossip(&config, &metrics).await?.unzip();
        let identity = identity.flatten();
        if let (Some(stage), Some((_, transport))) = (&stage, &mut gossip) {
            *transport = (stage.gate)(Arc::clone(transport));
        }
        let relay_metrics = metrics.clone();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let world = World {
            metrics,
            carrier: None,
            gossip,
            draw: Arc::new(rand::random::<u64>),
            generation: llm_router_logic::time::millis(since_epoch),
            simulated: stage.is_some() || config.smart_mocking.is_some(),
        };
        let Core { mut app, outbound, reloads } = Core::start(&config, world).await?;
        let stop = CancellationToken::new();
        let pages = stage.map(|stage| {
            app.staged = true;
            app.sessions = stage.sessions;
            stage.pages
        });
        let (followed, ended) = (app.clone(), stop.clone());
        let following = async move { followed.history.follow(&followed.handle, &followed.decisions).await };
        tokio::spawn(async move { ended.run_until_cancelled(following).await });
        let follower = stop.clone();
        let auth = Arc::clone(&app.auth);
        tokio::spawn(async move { auth.follow_file(follower).await });
        let limits = Limits {
            header_timeout: config.server.header_timeout,
            idle_timeout: config.server.idle_timeout,
            // After the word of the handlers that reach a model.
            body_timeout: config.server.read_timeout + BODY_GRACE,
            write_timeout: config.server.write_timeout,
        };
        let serve = |listener: TcpListener, tls: Option<Arc<Acceptor>>, router: Router| {
            let drain = config.server.drain_timeout;
            tokio::spawn(server::serve(listener, tls, router, limits, stop.clone(), drain))
        };
        let tls = |listener, files: &Option<TlsFiles>| acceptor(listener, files, &app.handle, &stop);
        let mut listeners = Vec::new();
        let mut admin_addr = None;
        if let Some(admin) = &config.admin {
            let listener = bind("admin.listen", &admin.listen.ip().to_string(), admin.listen.port()).await?;
            admin_addr = listener.local_addr().ok();
            let tls = tls("admin", &admin.tls)?;
            listeners.push(serve(listener, tls, admin_router(app.clone())));
        }
        let api_tls = tls("server", &config.server.tls)?;
        listeners.push(serve(listener, api_tls, router_with(app.clone(), pages.unwrap_or_default())));
        if let Some(identity) = identity {
            let (tracer, stop) = (Arc::clone(&app.tracer), stop.clone());
            let relay = PeerRelay { config: &config, identity, metrics: relay_metrics, tracer, stop };
            listeners.extend(relay.start(&app.handle, &outbound).await?);
        }
        tracing::info!(node = %config.node.name, region = %config.node.region, %addr, ?admin_addr, "router is listening");
        Ok(Self {
            addr,
            admin_addr,
            app,
            outbound,
            mocks: Mutex::new(mocks),
            running: Mutex::new(config),
            stop,
            listeners,
            reloads: Mutex::new(Some(reloads)),
        })
    }

    /// The API listener's address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The admin listener's address.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// The node's actors.
    pub fn handle(&self) -> &Handle {
        &self.app.handle
    }

    /// Takes over a new configuration without dropping a stream. What needs a restart is left as it
    /// was and said in the log.
    ///
    /// # Errors
    /// [`NodeError`]; the old configuration stays in force then.
    pub async fn reconfigure(&self, mut config: Config) -> Result<(), NodeError> {
        let mut mocks = std::mem::take(&mut *self.mocks.lock().unwrap_or_else(PoisonError::into_inner));
        let stood_in = mocks.stand_in(&mut config).await;
        *self.mocks.lock().unwrap_or_else(PoisonError::into_inner) = mocks;
        stood_in?;
        {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            for key in needs_restart(&running, &config) {
                tracing::warn!(key, "this setting changed and takes effect after a restart only");
            }
        }
        self.outbound.reconfigure(&config.backends)?;
        self.app.tracer.reconfigure(&config.backends);
        self.app.auth.reconfigure(&config);
        self.app.handle.reconfigure(topology(&config)).await?;
        self.app.deliver.reconfigure(&config.webhooks);
        self.app.handle.webhooks().configure(crate::webhook::endpoints(&config.webhooks));
        self.app.notices.rewatch(config.notice_files());
        let relay = self.app.relay.load().reconfigured(config.timeouts, config.stickiness_window);
        let relay = relay.trying(&config.experiments, &config.shadows).keeping(&config);
        self.app.relay.store(Arc::new(relay));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Reads the certificates of backends again; requests under way go on with those they have.
    ///
    /// # Errors
    /// [`NodeError`]; those in use stay then.
    pub fn renew(&self) -> Result<(), NodeError> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.outbound.reconfigure(&running.backends)?)
    }

    /// Drains and ends the node: not ready at once and peers told, new requests still taken for
    /// `server.lameDuck`, then running ones end within the drain limit.
    pub async fn shutdown(self) {
        self.app.readiness.drain();
        self.app.handle.tell_leaving();
        let lame_duck = self.running.lock().unwrap_or_else(PoisonError::into_inner).server.lame_duck;
        if !lame_duck.is_zero() {
            tracing::info!(?lame_duck, "not ready any more, and taking what still comes");
            tokio::time::sleep(lame_duck).await;
        }
        self.stop.cancel();
        self.app.relay.load().stop_shadows();
        for listener in self.listeners {
            // A listener that panicked is as closed as one that ended.
            let _ = listener.await;
        }
        self.app.handle.shutdown().await;
        self.app.tracer.shutdown().await;
    }
}

impl Node {
    /// Ends the node as a crash would: every connection is cut at once. Peers are told only if its gossip
    /// still gets out.
    pub async fn kill(self) {
        for listener in &self.listeners {
            listener.abort();
        }
        self.stop.cancel();
        self.app.relay.load().stop_shadows();
        self.app.handle.shutdown().await;
    }
}

/// Runs a node from a file until SIGTERM or Ctrl-C, reloading the file when it changes, on SIGHUP and
/// on request of the admin listener.
///
/// # Errors
/// [`NodeError`] where it cannot start; a bad file later on changes nothing.
pub async fn serve(
    path: &Path,
    config: Config,
    mut watcher: config::watch::Watcher,
) -> Result<(), NodeError> {
    let stopped = stop_signal();
    tokio::pin!(stopped);
    let node = Node::start(config).await?;
    let reloads = node.reloads.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut reloads) = reloads else { return Ok(()) };
    let mut told = None;
    loop {
        tokio::select! {
            signal = &mut stopped => {
                tracing::info!(signal, "draining");
                break;
            }
            () = outdated(&node) => {
                told = node.renew().err().map(|error| error.to_string()).inspect(|error| {
                    if told.as_ref() != Some(error) {
                        tracing::warn!(error, "the new certificates of a backend cannot be used, those in use stay");
                    }
                });
                continue;
            }
            trigger = watcher.changed() => tracing::info!(?trigger, "reading the configuration again"),
            Some(()) = reloads.recv() => tracing::info!("reading the configuration again, as an operator asked"),
        }
        reload(&node, path).await;
    }
    node.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// Returns once the certificates of a backend are other files than those in use, which is looked at every two
/// seconds.
async fn outdated(node: &Node) {
    loop {
        tokio::time::sleep(IDENTITY_INTERVAL).await;
        let outbound = Arc::clone(&node.outbound);
        if tokio::task::spawn_blocking(move || outbound.is_outdated()).await.unwrap_or(false) {
            return;
        }
    }
}

async fn reload(node: &Node, path: &Path) {
    let counted =
        |result: &str| node.app.handle.metrics().config_reloads_total.with_label_values(&[result]).inc();
    let loaded = match config::load(path, &config::process_env) {
        Ok(loaded) => loaded,
        Err(problems) => {
            log_problems(&problems);
            tracing::error!(file = %path.display(), "the configuration is bad, the one in force stays");
            return counted("refused");
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match node.reconfigure(loaded.config).await {
        Ok(()) => {
            tracing::info!(file = %path.display(), "the new configuration is in force");
            counted("applied");
        }
        Err(error) => {
            tracing::error!(%error, "the new configuration cannot be applied, the one in force stays");
            counted("refused");
        }
    }
}

fn log_problems(problems: &Problems) {
    for problem in problems {
        tracing::error!("{problem}");
    }
}

/// Waits for SIGTERM or Ctrl-C. Both are listened for from this call on, before the first poll, so that a
/// signal during a start is not lost.
pub fn stop_signal() -> impl Future<Output = &'static str> + Send {
    let mut terminate = listen_for(SignalKind::terminate());
    let mut interrupt = listen_for(SignalKind::interrupt());
    async move {
        tokio::select! {
            () = received(&mut terminate) => "SIGTERM",
            () = received(&mut interrupt) => "SIGINT",
        }
    }
}

fn listen_for(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::error!(?kind, %error, "cannot listen for a signal")).ok()
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn topology(config: &Config) -> Topology {
    Topology {
        node: config.node.name.clone(),
        region: config.node.region.clone(),
        policy: config.policy.clone(),
        backends: config.backends.iter().map(|backend| Arc::clone(&backend.spec)).collect(),
        health_check_interval: config.health_check_interval,
        metrics_update_interval: config.metrics_update_interval,
        calibrate_throughput: config.calibrate_throughput,
        heed_words: config.heed_prices,
        heed_outages: config.heed_outages,
    }
}

async fn gossip(
    config: &Config,
    metrics: &Metrics,
) -> Result<Option<(Gossip, Option<watch::Receiver<Arc<Identity>>>)>, NodeError> {
    let Some(gossip) = &config.gossip else {
        return Ok(None);
    };
    let (transport, bound, identity): (Arc<dyn GossipTransport>, _, _) = match &gossip.identity {
        Some(files) => {
            let name = NodeName { cluster: gossip.cluster_id.clone(), node: config.node.name.clone() };
            let files = files.clone();
            let quic = Quic::bind(gossip.listen, files, name, IDENTITY_INTERVAL, metrics.clone()).await?;
            let (bound, identity) = (quic.local_addr(), quic.identity());
            (Arc::new(quic), bound, Some(identity))
        }
        None => {
            let udp = LoopbackUdp::bind(gossip.listen, metrics.clone()).await?;
            let bound = udp.local_addr();
            (Arc::new(udp), bound, None)
        }
    };
    let bound = bound.map_err(|error| TransportError::Bind(gossip.listen, error))?;
    let settings = GossipSettings {
        cluster_id: gossip.cluster_id.clone(),
        listen: bound,
        advertise: gossip.advertise.unwrap_or(bound),
        seeds: gossip.seeds.clone(),
        resolver: Arc::new(SystemResolver),
        interval: gossip.interval,
    };
    Ok(Some(((settings, transport), identity)))
}

/// The TLS of a listener, where it has one.
fn acceptor(
    listener: &'static str,
    files: &Option<TlsFiles>,
    handle: &Handle,
    stop: &CancellationToken,
) -> Result<Option<Arc<Acceptor>>, NodeError> {
    let Some(files) = files else { return Ok(None) };
    let metrics = handle.metrics();
    let refused = metrics.tls_refused_total.clone();
    let signals = Signals {
        expires: metrics.certificate_expires_timestamp_seconds.with_label_values(&[listener]),
        refused: Box::new(move |why| refused.with_label_values(&[listener, why]).inc()),
    };
    Acceptor::start(listener, files.clone(), signals, stop.clone())
        .map(Some)
        .map_err(|source| NodeError::Tls { listener, source })
}

/// How a node gossips, and over what.
type Gossip = (GossipSettings, Arc<dyn GossipTransport>);

async fn bind(what: &'static str, host: &str, port: u16) -> Result<TcpListener, NodeError> {
    TcpListener::bind((host, port))
        .await
        .map_err(|source| listen_error(what, &format!("{host}:{port}"), source))
}

fn listen_error(what: &'static str, address: &str, source: std::io::Error) -> NodeError {
    NodeError::Listen { what, address: address.to_owned(), source }
}

/// Keys whose change a running node cannot take over.
fn needs_restart(running: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("server", running.server != new.server),
        ("node", running.node != new.node),
        ("gossip", running.gossip != new.gossip),
        (
            "admin.listen",
            running.admin.as_ref().map(|admin| admin.listen) != new.admin.as_ref().map(|admin| admin.listen),
        ),
        (
            "admin.tls",
            running.admin.as_ref().map(|admin| &admin.tls) != new.admin.as_ref().map(|admin| &admin.tls),
        ),
        ("ledger", running.ledger != new.ledger),
        ("telemetry", running.telemetry != new.telemetry),
        ("timeouts.connect", running.timeouts.connect != new.timeouts.connect),
    ];
    changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}
