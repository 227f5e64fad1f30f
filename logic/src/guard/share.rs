//! One router's part of a backend's places, by what the routers tell each other.
//!
//! Owns what was lately used, by whom, of one backend. Places are divided so that nobody gets more than he wants
//! and nobody who wants more gets less than another (max-min fairness); routers that see the same compute parts
//! that add up to all places. What they see is some hundred milliseconds old, hence two rules: what a router has
//! used in the last seconds counts as wanted though it is free at this moment, and a part grows by steps, each as
//! late as the one before has been told to all. It shrinks at once.

use crate::ids::{BackendId, NodeId};
use crate::time::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two steps by which a part grows: longer than most facts need to all routers (measured p50 of 0.2 s).
pub const STEP: Duration = Duration::from_millis(300);
/// What was used within this, and at most within twice this, counts as wanted.
const LATELY: Duration = Duration::from_secs(1);

/// A router's use of a backend, and its place among the routers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Want {
    places: u32,
    /// What does not divide evenly goes to the highest.
    rank: u64,
}

/// The most that was used lately: of the current [`LATELY`] and of the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    since: Moment,
    now: u32,
    before: u32,
}

impl Peak {
    fn note(&mut self, used: u32, now: Moment) {
        let passed = now.since(self.since);
        if passed >= LATELY {
            self.before = if passed >= 2 * LATELY { 0 } else { self.now };
            (self.now, self.since) = (0, now);
        }
        self.now = self.now.max(used);
    }

    fn used(self) -> u32 {
        self.now.max(self.before)
    }
}

/// This node's part of one backend's places.
#[derive(Clone, Debug, Default)]
pub struct Share {
    own: Peak,
    peers: BTreeMap<NodeId, Peak>,
    part: u32,
    grown_at: Moment,
}

impl Share {
    /// How many of the `slots` of `backend` the router `me` may use from `now` on, while it uses `own` and its
    /// peers say that they use `peers`; at least one, so that no router is starved: with more routers that want a
    /// place than there are places, as many as there are such routers may be used at once.
    pub fn places(
        &mut self,
        (backend, slots): (&BackendId, u32),
        (me, own): (&NodeId, u32),
        peers: &[(&NodeId, u32)],
        now: Moment,
    ) -> u32 {
        self.own.note(own, now);
        self.peers.retain(|node, _| peers.iter().any(|(peer, _)| *peer == node));
        for (node, used) in peers {
            match self.peers.get_mut(*node) {
                Some(peak) => peak.note(*used, now),
                None => {
                    let peak = Peak { since: now, now: *used, before: 0 };
                    self.peers.insert((*node).clone(), peak);
                }
            }
        }
        let wants: Vec<Want> = self
            .peers
            .iter()
            .map(|(node, peak)| Want { places: peak.used(), rank: rank(node, backend) })
            .collect();
        let rank = rank(me, backend);
        let fair = fair(slots, rank, &wants);
        // What it may take unannounced is what it would have were all the others busy too, as far as that is free.
        let busy: Vec<Want> = wants.iter().map(|want| Want { places: slots, ..*want }).collect();
        let taken = peers.iter().fold(0, |sum: u32, (_, used)| sum.saturating_add(*used));
        let unannounced = self::fair(slots, rank, &busy).min(slots.saturating_sub(taken).max(1));
        let told = self.own.used().max(unannounced);
        if fair <= self.part {
            // What is not used is not kept: it would be taken unannounced.
            self.part = fair.min(told.max(own));
        } else if self.part < unannounced {
            (self.part, self.grown_at) = (unannounced.min(fair), now);
        } else if own >= self.part && now.since(self.grown_at) >= STEP {
            (self.part, self.grown_at) = (fair.min(self.part + (self.part / 2).max(1)), now);
        } else if own < self.part {
            self.part = self.part.min(told.max(own));
        }
        self.part = self.part.clamp(1, slots.max(1));
        self.part
    }

    /// Whether it would have more after a [`STEP`].
    pub fn grows(&self, own: u32) -> bool {
        own >= self.part
    }
}

/// What one gets of `slots` who wants as many as possible and has `rank`, while the others have their `wants`.
fn fair(slots: u32, rank: u64, wants: &[Want]) -> u32 {
    let mut others: Vec<Want> = wants.iter().filter(|want| want.places > 0).copied().collect();
    others.sort_unstable_by_key(|want| (want.places, want.rank));
    let mut left = slots;
    let mut sharing = u32::try_from(others.len()).unwrap_or(u32::MAX).saturating_add(1);
    let mut rest = &others[..];
    // Who wants no more than an equal part gets it; the others have equal parts of what is left then.
    while let [first, tail @ ..] = rest
        && first.places <= left / sharing
    {
        left -= first.places;
        sharing -= 1;
        rest = tail;
    }
    let over = left % sharing;
    let above = rest.iter().filter(|want| want.rank > rank).count();
    left / sharing + u32::from(above < over as usize)
}

/// A router's place among those that share `backend`, the same in every router's eyes and another at each backend
/// (FNV-1a; collisions only cost evenness).
fn rank(node: &NodeId, backend: &BackendId) -> u64 {
    let bytes = node.as_str().bytes().chain([0]).chain(backend.as_str().bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
