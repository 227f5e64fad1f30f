//! Which router of the fleet sends the trial request of a half-open breaker: one, by claims told to all.
//!
//! A router that has a request for a trial claims it, waits until every peer must have heard, and tries where no
//! peer tries or has just tried and it is the first of the claimants (highest random weight, so that everybody
//! names the same one). A claimant that dies is no claimant any more, and the next takes over. In a partition
//! each side has one: at most as many trials at once as there are sides.

use crate::gossip::fact::{Fact, Topic};
use crate::ids::{BackendId, NodeId};
use crate::time::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a claim stands before its owner may try: longer than a value takes to all nodes (measured p99 of
/// 1.2 s at 150 ms round trip and 5 % loss).
pub const SETTLE: Duration = Duration::from_millis(1_500);
/// How long after a failed trial nobody tries again: the shortest time a breaker stays open.
pub const REST: Duration = Duration::from_secs(5);
/// Models claimed of one backend at once.
pub const CLAIMS_MAX: usize = 24;

/// What a router does about one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It has a request that would be the trial.
    Wanting,
    /// Its trial is under way.
    Trying,
    /// Its trial failed a moment ago.
    Failed,
    /// Its trial was served: the breakers of all may close.
    Served,
}

/// What a router does about the models of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Model, as [`model_hash`], and phase.
    pub models: Vec<(u32, Phase)>,
}

impl Fact for Claims {
    const TOPIC: Topic = Topic::Trial;
    const VERSION: u8 = 1;
}

/// A model's name as claims tell it.
pub fn model_hash(model: &str) -> u32 {
    let hash = fnv(model.as_bytes().iter().copied());
    u32::try_from(hash >> 32).unwrap_or_default() ^ u32::try_from(hash & 0xFFFF_FFFF).unwrap_or_default()
}

/// Whether `me`, who has claimed since `since`, may send the trial of `model` at `backend` now, given what live
/// peers do about that model.
pub fn may_try(
    me: &NodeId,
    since: Moment,
    backend: &BackendId,
    model: u32,
    peers: &[(NodeId, Phase)],
    now: Moment,
) -> bool {
    if peers.iter().any(|(_, phase)| matches!(phase, Phase::Trying | Phase::Failed)) {
        return false;
    }
    let weight = |node: &NodeId| {
        let model = model.to_le_bytes();
        let text = node.as_str().bytes().chain([0]).chain(backend.as_str().bytes()).chain([0]).chain(model);
        (fnv(text), node.clone())
    };
    let mine = weight(me);
    let first =
        peers.iter().filter(|(_, phase)| *phase == Phase::Wanting).all(|(peer, _)| weight(peer) < mine);
    now.since(since) >= SETTLE && first
}

/// FNV-1a, 64 bits, with a final mix so that near names are far apart.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let hash = bytes.into_iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn try_at(me: &str, peers: &[(&str, Phase)], now: Moment) -> bool {
        let peers: Vec<_> = peers.iter().map(|(node, phase)| (NodeId::new(node), *phase)).collect();
        may_try(&me.into(), Moment::ZERO, &"b".into(), model_hash("m"), &peers, now)
    }

    const SETTLED: Moment = Moment::from_millis(1_500);

    #[test]
    fn a_claim_stands_before_it_is_used() {
        assert!(!try_at("a", &[], Moment::from_millis(1_499)));
        assert!(try_at("a", &[], SETTLED));
    }

    #[test]
    fn nobody_tries_while_a_peer_does_or_has_just_failed() {
        for phase in [Phase::Trying, Phase::Failed] {
            assert!(!try_at("a", &[("p", phase)], SETTLED));
        }
        assert!(try_at("a", &[("p", Phase::Served)], SETTLED));
    }

    #[test]
    fn the_fullest_set_of_claims_fits_a_fact() {
        let models = (0..CLAIMS_MAX as u32).map(|n| (u32::MAX - n, Phase::Served)).collect();
        assert!(crate::gossip::fact::Payload::of(&Claims { models }).is_ok());
    }

    proptest! {
        #[test]
        fn of_any_claimants_who_see_each_other_one_may_try(names in proptest::collection::btree_set("[a-z]{1,6}", 1..8)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let winners = names.iter().filter(|me| {
                let peers: Vec<_> = names.iter().filter(|name| name != me).map(|name| (*name, Phase::Wanting)).collect();
                try_at(me, &peers, SETTLED)
            });
            prop_assert_eq!(winners.count(), 1);
        }
    }
}
