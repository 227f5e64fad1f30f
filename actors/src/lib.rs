//! The actors of one router node: they remember and wait, and leave every computation to `logic`.
//!
//! `Root` supervises `Dispatcher`, `Gossip`, `Cost`, `Ledger` and one `Backend` (with its `Prober`) per cluster
//! or provider. Facts go up as messages, decisions go down as a published [`snapshot::Snapshot`]: the
//! request path reads that and never waits for a mailbox. What the actors need of the outside world
//! they ask for through the traits in [`ports`].

#![forbid(unsafe_code)]

mod address;
mod backend;
pub mod clock;
mod cost;
mod dispatcher;
pub mod facts;
pub mod gate;
mod gossip;
pub mod handle;
pub mod lease;
pub mod ledger;
pub mod metrics;
mod outage;
mod poison;
pub mod ports;
mod prober;
pub mod quota;
mod root;
pub mod roster;
mod savings;
mod shunned;
pub mod snapshot;
pub mod topology;
mod trial;
pub mod webhook;

pub use handle::{Handle, StartError, start};
