//! Which keys are revoked: what this router's file says, and what other routers told.
//!
//! Owns the set, which only grows: whatever is said later, by a file or by a peer, opens no key again before
//! the router starts anew. A key is named by a digest of its hash; whoever hears it learns nothing of the key. What
//! was heard is told on, so that the word outlives the router that said it first.

use super::file::Record;
use llm_router_logic::gossip::quota::{REVOKED_MAX, Revoked};
use std::collections::BTreeSet;

/// Revoked keys that a router tells; beyond them only its file speaks of the oldest.
const TOLD_MAX: usize = 128;
/// Revoked keys kept that no key of this router has: its file may yet be given them.
const FOREIGN_MAX: usize = 4_096;

/// The revoked keys that a router knows of, by [`Digest::tag`](llm_router_logic::api_key::Digest::tag).
#[derive(Debug, Default)]
pub struct Revocations {
    tags: BTreeSet<u64>,
    foreign: usize,
}

impl Revocations {
    /// Takes over what a peer tells. `true` where any of it is new. `own` are the tags of this router's keys:
    /// of others only a bounded number is kept.
    pub fn hear(&mut self, told: impl IntoIterator<Item = u64>, own: &BTreeSet<u64>) -> bool {
        let mut news = false;
        for tag in told {
            if self.tags.contains(&tag) {
                continue;
            }
            let is_foreign = !own.contains(&tag);
            if is_foreign && self.foreign >= FOREIGN_MAX {
                continue;
            }
            self.foreign += usize::from(is_foreign);
            self.tags.insert(tag);
            news = true;
        }
        news
    }

    /// Takes over what the file of keys says.
    pub fn read(&mut self, records: &[Record]) {
        let revoked = records.iter().filter(|record| record.revoked.is_some());
        self.tags.extend(revoked.map(|record| record.digest.tag()));
    }

    /// Every one of them.
    pub fn tags(&self) -> &BTreeSet<u64> {
        &self.tags
    }

    /// What peers are told, in parts that fit a fact: the keys of `records`, those revoked last first, as many
    /// as may.
    pub fn told(&self, records: &[Record]) -> Vec<Revoked> {
        let mut known: Vec<(u64, u64)> = records
            .iter()
            .map(|record| (record.revoked.unwrap_or(u64::MAX), record.digest.tag()))
            .filter(|(_, tag)| self.tags.contains(tag))
            .collect();
        known.sort_unstable_by(|one, other| other.cmp(one));
        known.truncate(TOLD_MAX);
        let tags: Vec<u64> = known.into_iter().map(|(_, tag)| tag).collect();
        tags.chunks(REVOKED_MAX).map(|keys| Revoked { keys: keys.to_vec() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Grant, Share};
    use llm_router_logic::api_key::Digest;
    use llm_router_logic::gossip::fact::Payload;
    use llm_router_logic::ids::{KeyId, TenantId};
    use llm_router_logic::tenant::Allowed;
    use proptest::prelude::*;

    fn record(nth: u64, revoked: Option<u64>) -> Record {
        Record {
            id: KeyId::new(nth.to_string()),
            digest: Digest::of(b"secret", &nth.to_le_bytes()),
            grant: Grant { tenant: TenantId::new("t"), allowed: Allowed::default(), share: Share::default() },
            not_before: None,
            expires: None,
            revoked,
        }
    }

    fn tags(told: &[Revoked]) -> BTreeSet<u64> {
        told.iter().flat_map(|part| part.keys.iter().copied()).collect()
    }

    #[test]
    fn the_latest_are_told_in_parts_that_fit() {
        let records: Vec<Record> = (0..1_000).map(|nth| record(nth, Some(nth))).collect();
        let mut revocations = Revocations::default();
        revocations.read(&records);
        let told = revocations.told(&records);
        assert_eq!(tags(&told).len(), TOLD_MAX);
        assert!(tags(&told).contains(&records[999].digest.tag()));
        assert!(told.iter().all(|part| Payload::of(part).is_ok()));
        assert_eq!(revocations.tags().len(), 1_000, "all of them stay closed");
    }

    #[test]
    fn what_nobody_here_has_is_kept_within_bounds_and_never_in_the_way() {
        let own = record(1, None);
        let own_tags = BTreeSet::from([own.digest.tag()]);
        let mut revocations = Revocations::default();
        revocations.hear(0..100_000, &own_tags);
        assert_eq!(revocations.tags().len(), FOREIGN_MAX);
        assert!(!revocations.hear(200_000..300_000, &own_tags));
        assert!(revocations.hear([own.digest.tag()], &own_tags), "its own key is closed all the same");
        assert_eq!(tags(&revocations.told(&[own])).len(), 1, "and told on, the others are not");
    }

    proptest! {
        /// Routers hear each other in any order, again and again, and their files say what they like: whatever
        /// one knew to be revoked it knows for ever, and in the end all know of all.
        #[test]
        fn revocations_only_grow_and_reach_everybody(
            steps in proptest::collection::vec((0_usize..3, 0_usize..3, 0_u64..8, any::<bool>()), 1..60),
        ) {
            let mut files: Vec<Vec<Record>> = (0..3).map(|_| (0..8).map(|nth| record(nth, None)).collect()).collect();
            let own: BTreeSet<u64> = files[0].iter().map(|record| record.digest.tag()).collect();
            let mut routers: Vec<Revocations> = (0..3).map(|_| Revocations::default()).collect();
            let mut ever = BTreeSet::new();
            for (at, from, key, revoke) in steps {
                let before = routers[at].tags().clone();
                // A mark that is taken back opens nothing.
                files[at][usize::try_from(key).unwrap()].revoked = revoke.then_some(key);
                routers[at].read(&files[at].clone());
                let told = routers[from].told(&files[from]);
                routers[at].hear(tags(&told), &own);
                prop_assert!(routers[at].tags().is_superset(&before));
                ever.extend(routers[at].tags().iter().copied());
            }
            for _ in 0..2 {
                for (at, from) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)] {
                    let told = routers[from].told(&files[from]);
                    routers[at].hear(tags(&told), &own);
                }
            }
            prop_assert!(routers.iter().all(|router| *router.tags() == ever));
        }
    }
}
