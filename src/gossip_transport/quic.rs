//! Gossip over QUIC with mutual TLS: one chitchat message is one compressed unidirectional stream.
//!
//! Owns the endpoint, one [`link`] per address sent to, one [`inbound`] reader per connection, and the
//! identity in force. Sending never waits for the network: a frame goes to its link's queue or is counted
//! as dropped. An answer goes back on the connection its question came on, so a peer behind a translated
//! address is reached as well as one whose advertised address can be called.

mod delta;
mod frame;
mod inbound;
mod link;
mod renewal;

use super::TransportError;
use crate::identity::{Identity, IdentityError, IdentityFiles, NodeName};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use frame::Packer;
use link::Links;
use llm_router_actors::metrics::Metrics;
use llm_router_actors::ports::{GossipMessage, GossipSocket, GossipTransport, Serializable};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig, TransportConfig, VarInt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Spoken by both sides, else the handshake fails.
const ALPN: &[u8] = b"llm-router-gossip/1";
/// Messages heard and not yet taken by the gossip task.
const INBOX_MAX: usize = 1024;
/// Messages of one connection on their way at once.
const STREAMS_MAX: u32 = 64;
/// Bytes of one connection on their way at once: some of the largest frames.
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// A connection silent for this long is given up, so that a peer that comes back is called anew.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Keeps a connection (and a translated address on its way) open.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Round trip assumed of an unknown peer: between continents, so that a lost first packet is soon resent.
const INITIAL_RTT: Duration = Duration::from_millis(150);
/// A connection this old is replaced, so that an expired certificate ends.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// How long a replaced connection is still listened to.
const LINGER: Duration = Duration::from_secs(5);
/// Callers whose handshake is under way.
const INCOMING_MAX: usize = 256;
/// Bytes kept of callers whose handshake has not begun.
const INCOMING_BYTES_MAX: u64 = 1024 * 1024;

/// Gossip transport of a node with an identity.
#[derive(Clone)]
pub struct Quic {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    links: Links,
    inbox: Arc<tokio::sync::Mutex<mpsc::Receiver<Heard>>>,
    /// Ends every task when the transport is let go.
    _stop: DropGuard,
}

type Heard = (SocketAddr, GossipMessage);

/// What the tasks of one transport share.
struct Shared {
    endpoint: Endpoint,
    /// For calls to come.
    client: ArcSwap<ClientConfig>,
    /// Counts identities: a connection made under an older one is replaced.
    identity: watch::Sender<u64>,
    /// The identity in force.
    current: watch::Sender<Arc<Identity>>,
    heard: mpsc::Sender<Heard>,
    metrics: Metrics,
    stop: CancellationToken,
}

/// A connection whose peer has proven itself.
#[derive(Clone)]
struct Proven {
    connection: Connection,
    name: NodeName,
    /// Serial number of its certificate.
    serial: String,
    /// The identity of ours it was made under.
    identity: u64,
    since: Instant,
}

impl Quic {
    /// Binds `listen`, where port 0 takes a free one, as node `name`. The files are read again every
    /// `reload_interval`; what is good takes effect on new connections, and those in use are replaced.
    ///
    /// # Errors
    /// [`TransportError`] where the identity cannot be used or the port is taken.
    pub async fn bind(
        listen: SocketAddr,
        files: IdentityFiles,
        name: NodeName,
        reload_interval: Duration,
        metrics: Metrics,
    ) -> Result<Self, TransportError> {
        let (contents, identity) = renewal::load(files.clone(), name.clone()).await?;
        let (server, client) = configs(&identity)?;
        let endpoint =
            Endpoint::server(server, listen).map_err(|error| TransportError::Bind(listen, error))?;
        tracing::info!(%listen, node = %name.node, cluster = name.cluster, serial = identity.serial(), "gossip over QUIC");
        let stop = CancellationToken::new();
        let (heard, inbox) = mpsc::channel(INBOX_MAX);
        let shared = Arc::new(Shared {
            endpoint,
            client: ArcSwap::from_pointee(client),
            identity: watch::Sender::new(0),
            current: watch::Sender::new(Arc::new(identity)),
            heard,
            metrics,
            stop: stop.clone(),
        });
        shared.tell_expiry();
        let links = Links::new(Arc::clone(&shared));
        tokio::spawn(inbound::accept(Arc::clone(&shared), links.clone()));
        tokio::spawn(renewal::watch(Arc::clone(&shared), files, name, contents, reload_interval));
        let inbox = Arc::new(tokio::sync::Mutex::new(inbox));
        Ok(Self { inner: Arc::new(Inner { shared, links, inbox, _stop: stop.drop_guard() }) })
    }

    /// The identity in force, and those that follow.
    pub fn identity(&self) -> watch::Receiver<Arc<Identity>> {
        self.inner.shared.current.subscribe()
    }

    /// The bound address.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.shared.endpoint.local_addr()
    }
}

#[async_trait]
impl GossipTransport for Quic {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn GossipSocket>> {
        Ok(Box::new(Channel { inner: Arc::clone(&self.inner), packer: Packer::new()? }))
    }
}

struct Channel {
    inner: Arc<Inner>,
    packer: Packer,
}

#[async_trait]
impl GossipSocket for Channel {
    async fn send(&mut self, to: SocketAddr, message: GossipMessage) -> anyhow::Result<()> {
        match self.packer.pack(&message.serialize_to_vec()) {
            Some(frame) => self.inner.links.send(to, frame),
            None => self.inner.shared.count("oversized_frame"),
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, GossipMessage)> {
        match self.inner.inbox.lock().await.recv().await {
            Some(heard) => Ok(heard),
            // The sender is held by `inner` itself.
            None => std::future::pending().await,
        }
    }
}

impl Shared {
    /// Publishes until when the identity in force holds.
    fn tell_expiry(&self) {
        let seconds = i64::try_from(self.current.borrow().expires().as_secs()).unwrap_or(i64::MAX);
        self.metrics.certificate_expires_timestamp_seconds.with_label_values(&["gossip"]).set(seconds);
    }

    fn count(&self, why: &str) {
        self.metrics.gossip_refused_total.with_label_values(&[why]).inc();
    }

    /// Whether a connection should be replaced.
    fn is_stale(&self, proven: &Proven) -> bool {
        proven.identity != *self.identity.borrow() || proven.since.elapsed() >= CONNECTION_AGE_MAX
    }

    /// Takes note of who is at the other end.
    fn prove(&self, connection: Connection, identity: u64) -> Option<Proven> {
        let certificates = connection.peer_identity()?;
        let chain = certificates.downcast_ref::<Vec<rustls::pki_types::CertificateDer<'static>>>()?;
        let name = NodeName::of_certificate(chain.first()?)?;
        let serial = crate::identity::serial(chain.first()?);
        tracing::debug!(node = %name.node, address = %connection.remote_address(), serial, "gossip connection");
        Some(Proven { connection, name, serial, identity, since: Instant::now() })
    }

    /// Counts a peer this node would not talk to. A peer that would not talk to us counts it itself.
    fn refused(&self, address: SocketAddr, error: &ConnectionError) {
        let ConnectionError::TransportError(error) = error else {
            return;
        };
        let why = refusal(u64::from(error.code));
        tracing::debug!(%address, %error, why, "refused a gossip peer");
        self.count(why);
    }
}

/// The metric label of a handshake this node ended, by the TLS alert it ended it with (RFC 9001, 4.8:
/// 0x100 and the alert; alerts as in RFC 8446, 6).
fn refusal(code: u64) -> &'static str {
    match code.checked_sub(0x100) {
        Some(116) => "certificate_missing",
        // An authority of the same name but another key shows as a bad signature (51).
        Some(48 | 51) => "certificate_foreign",
        Some(45) => "certificate_expired",
        Some(49) => "certificate_cluster",
        Some(42..=46) => "certificate_invalid",
        _ => "handshake",
    }
}

/// Settings of the endpoint's two sides, for calls from now on.
fn configs(identity: &Identity) -> Result<(ServerConfig, ClientConfig), IdentityError> {
    let unusable = |_| IdentityError::Key(rustls::Error::General("no QUIC cipher suite".to_owned()));
    let server = QuicServerConfig::try_from(identity.server_config(ALPN)?).map_err(unusable)?;
    let client = QuicClientConfig::try_from(identity.client_config(ALPN)?).map_err(unusable)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(frame::FRAME_MAX as u32 + 1))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_idle_timeout(SILENCE_MAX.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT);
    let transport = Arc::new(transport);
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server
        .transport_config(Arc::clone(&transport))
        .migration(false)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX);
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(transport);
    Ok((server, client))
}

#[cfg(test)]
#[path = "quic/quic_test.rs"]
mod tests;
