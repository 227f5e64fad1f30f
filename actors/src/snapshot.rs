//! What the request path reads: the view, and the door to each backend in it.

use crate::address::Address;
use crate::backend;
use crate::gate::Gate;
use crate::quota::RateStatus;
use llm_router_logic::route::{Loads, LocalLoad, Policy, PreparedView};
use llm_router_logic::time::Moment;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// An immutable picture of the cluster, published by the dispatcher.
#[derive(Debug)]
pub struct Snapshot {
    /// Facts of all backends and members, made ready for decisions.
    pub view: PreparedView,
    /// Routing settings the view was published under.
    pub policy: Arc<Policy>,
    /// The view as it would be were no cluster asleep; `None` where none is.
    pub awake: Option<PreparedView>,
    /// One door per backend of the view, in the same order.
    pub(crate) doors: Vec<Door>,
}

/// How to reach a backend's actor and take a place at it.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) gate: Arc<Gate>,
    pub(crate) actor: Address<backend::Msg>,
    /// Requests that wait for it to wake.
    pub(crate) waiting: Arc<AtomicU32>,
}

impl Snapshot {
    /// How the rate limit of the account of backend `index` stands, and how long until it has room for a request
    /// of `tokens` estimated tokens: zero where it has. `None` where it has no limit.
    pub fn account(&self, index: usize, tokens: u32) -> Option<(RateStatus, Duration)> {
        self.doors.get(index)?.gate.account(tokens)
    }
}

impl Loads for Snapshot {
    fn load(&self, index: usize, tokens: u32, now: Moment) -> LocalLoad {
        self.doors.get(index).map_or_else(LocalLoad::default, |door| door.gate.load(tokens, now))
    }
}
