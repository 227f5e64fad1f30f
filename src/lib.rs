//! The outer ring: everything that talks to the world.
//!
//! [`http`] takes requests in, [`relay`] carries them through a plan to a backend over [`outbound`] and
//! the answer back; [`node`] puts one router together from a [`config`].

#![forbid(unsafe_code)]

mod cache;
pub mod certs;
pub mod cli;
pub mod config;
pub mod decisions;
pub mod demo;
pub mod explain;
pub mod gossip_transport;
pub mod hardening;
pub mod http;
mod idempotency;
pub mod identity;
pub mod keys;
pub mod ledger;
pub mod mock;
pub mod node;
pub mod outbound;
pub mod peer_relay;
pub mod quota;
pub mod relay;
pub mod replay;
pub mod sidecar;
pub mod spot;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod ui;
pub mod webhook;
