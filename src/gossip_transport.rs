//! How gossip crosses the network: [`Quic`] with mutual TLS, or [`LoopbackUdp`] on one machine.
//!
//! Both implement the transport trait of the gossip actor. Both are bound once and shared by every
//! incarnation of that actor, so that a restart keeps its port. Nothing a peer sends can end the gossip:
//! what cannot be read is counted in `llm_router_gossip_refused_total` and dropped.

mod quic;
mod seeds;
mod udp;

use crate::identity::IdentityError;
pub use quic::Quic;
pub use seeds::SystemResolver;
use std::net::SocketAddr;
pub use udp::LoopbackUdp;

/// Why gossip cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Plain gossip would cross a network.
    #[error(
        "gossip.listen `{0}` is not a loopback address, and gossip over plain UDP can be forged by anyone who \
         reaches it: set `gossip.identity`, or listen on 127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// The socket cannot be had.
    #[error("cannot bind gossip.listen `{0}`: {1}")]
    Bind(SocketAddr, std::io::Error),
    /// This node cannot prove who it is.
    #[error("gossip.identity: {0}")]
    Identity(#[from] IdentityError),
}
