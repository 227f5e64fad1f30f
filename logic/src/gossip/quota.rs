//! What routers tell each other of shared limits: each one's claims, and what it has read of the others'.
//!
//! The order matters: a node tells its [`Claims`] before the [`Beat`] that stands for them, and a reader reads the
//! beat first. What a beat acknowledges has then been read.

use crate::gossip::fact::{Fact, Topic};
use crate::ids::NodeId;
use serde::{Deserialize, Serialize};

/// Acknowledgements that fit one fact; more go into further ones.
pub const SEEN_MAX: usize = 11;

/// What one node claims of the limits of one scope, in the units of its pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Which period the budget's claim is of.
    pub period: u32,
    /// Spent and reserved of the budget, in pico-dollars.
    pub budget: i64,
    /// Of that, spent.
    pub spent: i64,
    /// Share of the requests per minute, and how much is wanted.
    pub requests: (i64, i64),
    /// Share of the tokens per minute, and how much is wanted.
    pub tokens: (i64, i64),
    /// Share of the requests at once, and how much is wanted.
    pub concurrent: (i64, i64),
}

impl Fact for Claims {
    const TOPIC: Topic = Topic::Budget;
    const VERSION: u8 = 1;
}

/// A node's count of its tellings, with the count of each other node it has read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Grows with every telling, over restarts too.
    pub beat: u64,
    /// Other nodes by [`name_hash`], with their newest beat that was read.
    pub seen: Vec<(u32, u64)>,
}

impl Fact for Beat {
    const TOPIC: Topic = Topic::Quota;
    const VERSION: u8 = 1;
}

/// Revoked keys that fit one fact; more go into further ones.
pub const REVOKED_MAX: usize = 20;

/// Keys that were revoked, so that every router refuses them before its file of keys says so. A key once told is
/// never open again: there is no way to say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The keys, each as [`Digest::tag`](crate::api_key::Digest::tag).
    pub keys: Vec<u64>,
}

impl Fact for Revoked {
    const TOPIC: Topic = Topic::Revoked;
    const VERSION: u8 = 1;
}

/// A node's name in 32 bits (FNV-1a).
pub fn name_hash(node: &NodeId) -> u32 {
    node.as_str().bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A scope's name as a fact's name: 16 hex digits, whatever it holds (FNV-1a).
pub fn scope_name(scope: &str) -> String {
    let hash = scope.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::fact::Payload;

    #[test]
    fn the_largest_facts_fit_their_bound() {
        let claims = Claims {
            period: u32::MAX,
            budget: i64::MAX,
            spent: i64::MAX,
            requests: (i64::MAX, i64::MAX),
            tokens: (i64::MAX, i64::MAX),
            concurrent: (i64::MAX, i64::MAX),
        };
        assert_eq!(Claims::read(&Payload::of(&claims).unwrap()), Ok(claims));
        let beat = Beat { beat: u64::MAX, seen: vec![(u32::MAX, u64::MAX); SEEN_MAX] };
        assert_eq!(Beat::read(&Payload::of(&beat).unwrap()), Ok(beat));
        let revoked = Revoked { keys: vec![u64::MAX; REVOKED_MAX] };
        assert_eq!(Revoked::read(&Payload::of(&revoked).unwrap()), Ok(revoked));
    }
}
