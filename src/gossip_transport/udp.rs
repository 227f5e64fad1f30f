//! Gossip over plain UDP, for loopback only: it is neither encrypted nor authenticated.
//!
//! One chitchat message is one datagram.

use super::TransportError;
use async_trait::async_trait;
use llm_router_actors::metrics::Metrics;
use llm_router_actors::ports::{Deserializable, GossipMessage, GossipSocket, GossipTransport, Serializable};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::UdpSocket;

/// Largest payload of a UDP datagram over IPv4.
const DATAGRAM_MAX: usize = 65_507;

/// Pause after a failed read.
const ERROR_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// A bound socket and where its traffic is counted.
#[derive(Clone)]
pub struct LoopbackUdp {
    socket: Arc<UdpSocket>,
    metrics: Metrics,
}

impl LoopbackUdp {
    /// Binds `listen`, where port 0 takes a free one.
    ///
    /// # Errors
    /// [`TransportError`] off loopback or where the port is taken.
    pub async fn bind(listen: SocketAddr, metrics: Metrics) -> Result<Self, TransportError> {
        if !listen.ip().is_loopback() {
            return Err(TransportError::NotLoopback(listen));
        }
        let socket = UdpSocket::bind(listen).await.map_err(|error| TransportError::Bind(listen, error))?;
        Ok(Self { socket: Arc::new(socket), metrics })
    }

    /// The bound address.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

#[async_trait]
impl GossipTransport for LoopbackUdp {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn GossipSocket>> {
        Ok(Box::new(Channel { transport: self.clone(), buffer: vec![0; DATAGRAM_MAX] }))
    }
}

struct Channel {
    transport: LoopbackUdp,
    buffer: Vec<u8>,
}

#[async_trait]
impl GossipSocket for Channel {
    async fn send(&mut self, to: SocketAddr, message: GossipMessage) -> anyhow::Result<()> {
        let bytes = message.serialize_to_vec();
        let counted = self.transport.metrics.gossip_bytes_total.with_label_values(&["sent"]);
        match self.transport.socket.send_to(&bytes, to).await {
            Ok(sent) => counted.inc_by(sent as u64),
            // One packet lost: the next round makes up for it.
            Err(error) => tracing::debug!(%to, %error, "cannot send a gossip packet"),
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, GossipMessage)> {
        loop {
            let Ok((length, from)) = self.transport.socket.recv_from(&mut self.buffer).await else {
                // The system reports a peer's closed port here. An error that stays must not spin.
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            };
            let metrics = &self.transport.metrics;
            metrics.gossip_bytes_total.with_label_values(&["received"]).inc_by(length as u64);
            let mut bytes = &self.buffer[..length];
            match GossipMessage::deserialize(&mut bytes) {
                Ok(message) => return Ok((from, message)),
                Err(_) => metrics.gossip_refused_total.with_label_values(&["malformed_packet"]).inc(),
            }
        }
    }
}
