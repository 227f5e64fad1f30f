//! What a node says of itself that changes while it runs: where it relays, and that it is about to stop.

use crate::gossip::fact::{Fact, Topic};
use serde::{Deserialize, Serialize};

/// A node's own word on itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// `host:port` where it takes requests of peers for backends it reaches; empty = nowhere.
    pub relay: String,
    /// It takes no more requests and will be gone once those it has are done.
    pub leaving: bool,
    /// It stops now: nobody need wait for its silence.
    pub gone: bool,
}

impl Presence {
    /// The name it is told under.
    pub const NAME: &'static str = "node";
    /// Bytes of an address.
    pub const ADDRESS_MAX: usize = 128;
}

impl Fact for Presence {
    const TOPIC: Topic = Topic::Presence;
    const VERSION: u8 = 1;
}
