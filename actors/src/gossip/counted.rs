//! A transport that counts the rounds which pass through it.
//!
//! chitchat tells nobody of its rounds; each begins with a burst of digests to some peers.

use crate::metrics::Metrics;
use crate::ports::{GossipMessage, GossipSocket, GossipTransport};
use async_trait::async_trait;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The transport given, counted.
pub(super) struct Counted {
    pub(super) transport: Arc<dyn GossipTransport>,
    pub(super) metrics: Metrics,
    pub(super) interval: Duration,
}

struct Socket {
    socket: Box<dyn GossipSocket>,
    metrics: Metrics,
    interval: Duration,
    round_began: Option<Instant>,
}

#[async_trait]
impl GossipTransport for Counted {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn GossipSocket>> {
        let socket = self.transport.open(listen).await?;
        let (metrics, interval) = (self.metrics.clone(), self.interval);
        Ok(Box::new(Socket { socket, metrics, interval, round_began: None }))
    }
}

#[async_trait]
impl GossipSocket for Socket {
    async fn send(&mut self, to: SocketAddr, message: GossipMessage) -> anyhow::Result<()> {
        if matches!(message, GossipMessage::Syn { .. })
            && self.round_began.is_none_or(|began| began.elapsed() >= self.interval / 2)
        {
            self.round_began = Some(Instant::now());
            self.metrics.gossip.rounds_total.inc();
        }
        self.socket.send(to, message).await
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, GossipMessage)> {
        self.socket.recv().await
    }
}
