//! Backends that only a peer reaches, used through that peer's router.
//!
//! The node a client came to decides, translates, answers and books, as always; only the attempt itself is
//! made by the peer: [`call`] sends the request as it is meant for the backend, [`service`] at the peer proves
//! it to the backend with that peer's own credentials and streams the raw answer back. Between them stands
//! HTTP/2 over mutual TLS with the identity certificates of the cluster ([`listener`]).
//!
//! One hop: the service knows no way to a backend but its own, so a relayed request cannot be relayed again,
//! and it refuses what says it came further. Who books what is in docs/GOSSIP.md.

mod call;
pub mod listener;
mod message;
pub mod service;

pub use call::{Ask, Caller, Unreached};
pub use listener::Proven;
