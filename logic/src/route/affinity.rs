//! Which cluster has most likely read the beginning of a prompt before.
//!
//! llama-server keeps the tokens it has read and reads a prompt that begins alike from there on. So
//! prompts with the same beginning go to the same cluster, in whatever region they arrive: each cluster's
//! claim is a hash of the beginning and its name (rendezvous hashing; Thaler, Ravishankar: "Using
//! name-based mappings to increase hit rates", 1998), and no node need tell another. No cluster takes more
//! than 1.25 times its share of the load (Mirrokni, Thorup, Zadimoghaddam: "Consistent hashing with
//! bounded loads", 2018): a beginning that everybody sends spills over to the second best claim.

/// Times a cluster's fair share that it may take, as a fraction.
const BOUND: (u64, u64) = (5, 4);

/// A cluster that would do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimant {
    /// Hash of its name.
    pub(crate) hash: u64,
    /// Requests running and waiting there.
    pub(crate) load: u32,
    /// How many it runs at once.
    pub(crate) places: u32,
}

/// The place of the claimant with the best claim to `prefix` among those within their bound; `None`
/// without any.
pub(crate) fn choose(prefix: u64, claimants: impl Iterator<Item = Claimant> + Clone) -> Option<usize> {
    let sum = |of: fn(&Claimant) -> u32| claimants.clone().map(|one| u64::from(of(&one))).sum::<u64>();
    let (load, places) = (sum(|one| one.load) + 1, sum(|one| one.places).max(1));
    let within = |one: &Claimant| {
        let bound = (load * u64::from(one.places) * BOUND.0).div_ceil(places * BOUND.1);
        one.load < one.places && u64::from(one.load) < bound
    };
    let fitting = claimants.enumerate().filter(|(_, one)| within(one));
    fitting.max_by_key(|(_, one)| mixed(prefix ^ one.hash)).map(|(place, _)| place)
}

/// A hash of bytes that is the same everywhere and forever: FNV-1a over words of eight, mixed at the end.
/// Not for keys that an adversary chooses to collide; the worst of that is a full cluster, which spills.
pub fn hash(bytes: &[u8]) -> u64 {
    extend(bytes.len() as u64, bytes)
}

/// Goes on hashing where `state` ended.
pub fn extend(state: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    mixed(words.fold(state ^ 0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    }))
}

/// SplitMix64's output function.
fn mixed(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(loads: &[u32], places: u32) -> Vec<Claimant> {
        let claimant = |(n, load): (usize, &u32)| Claimant {
            hash: hash(format!("cluster-{n}").as_bytes()),
            load: *load,
            places,
        };
        loads.iter().enumerate().map(claimant).collect()
    }

    fn chosen(prefix: u64, fleet: &[Claimant]) -> Option<usize> {
        choose(prefix, fleet.iter().copied())
    }

    #[test]
    fn a_beginning_keeps_its_cluster_and_beginnings_spread_evenly() {
        let idle = fleet(&[0; 6], 4);
        let mut of_each = [0; 6];
        for prefix in 0..6_000_u64 {
            let prefix = hash(&prefix.to_le_bytes());
            let place = chosen(prefix, &idle).unwrap();
            of_each[place] += 1;
            assert_eq!(chosen(prefix, &idle), Some(place));
        }
        assert!(of_each.iter().all(|count| (850..1_150).contains(count)), "{of_each:?}");
    }

    #[test]
    fn a_cluster_that_goes_moves_only_what_was_its_own() {
        let (all, fewer) = (fleet(&[0; 6], 4), fleet(&[0; 5], 4));
        for prefix in 0..1_000_u64 {
            let prefix = hash(&prefix.to_le_bytes());
            let before = chosen(prefix, &all).unwrap();
            if before < 5 {
                assert_eq!(chosen(prefix, &fewer), Some(before));
            }
        }
    }

    #[test]
    fn one_hot_beginning_takes_no_more_than_its_bound_anywhere() {
        let mut fleet = fleet(&[0; 4], 8);
        let prefix = hash(b"everybody's system prompt");
        let first = chosen(prefix, &fleet).unwrap();
        for sent in 1..=28_u32 {
            let place = chosen(prefix, &fleet).unwrap();
            fleet[place].load += 1;
            let bound = (f64::from(sent) / 4.0 * 1.25).ceil() as u32;
            assert!(fleet.iter().all(|one| one.load <= bound.max(1)), "{sent} sent: {fleet:?}");
        }
        let most = fleet.iter().map(|one| one.load).max();
        assert_eq!(Some(fleet[first].load), most, "its own cluster has the most of it");
        for one in &mut fleet {
            one.load = 8;
        }
        assert_eq!(chosen(prefix, &fleet), None, "all full: affinity has no say");
    }
}
