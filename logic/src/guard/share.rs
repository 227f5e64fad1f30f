//! One router's part of a backend's places, by what the routers tell each other.

/// How many of `slots` this node may use while it uses `own` and its peers `peers` of them: what it uses,
/// and its part of the free ones, by use. A peer that uses nothing counts a quarter of a request, so that
/// what is free is kept back for nobody; parts are rounded up and at least one place is given, so that no
/// router is starved by another. Routers that decide at the same moment may so be above `slots`; where all use
/// more than there is, each may go on with its part of the places by use and gives up the others as its requests
/// end. Else all of them would take every place anew that falls free, and stay above for as long as they are busy.
pub fn share(slots: u32, own: u32, peers: &[u32]) -> u32 {
    let taken = peers.iter().fold(own, |sum, used| sum.saturating_add(*used));
    if taken > slots {
        let part = (u64::from(slots) * u64::from(own)).div_ceil(u64::from(taken));
        return u32::try_from(part).unwrap_or(u32::MAX).clamp(1, slots.max(1));
    }
    let free = u64::from(slots.saturating_sub(taken));
    let weight = |used: u32| 4 * u64::from(used) + 1;
    let all: u64 = weight(own) + peers.iter().map(|used| weight(*used)).sum::<u64>();
    let part = (free * weight(own)).div_ceil(all);
    own.saturating_add(u32::try_from(part).unwrap_or(u32::MAX)).clamp(1, slots.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_node_alone_has_all_and_nodes_at_rest_have_equal_parts() {
        assert_eq!(share(4, 0, &[]), 4);
        assert_eq!(share(4, 3, &[]), 4);
        assert_eq!(share(8, 0, &[0, 0, 0]), 2);
        assert_eq!(share(4, 0, &[0; 8]), 1);
    }

    #[test]
    fn free_places_go_by_use_and_none_is_kept_back() {
        assert_eq!(share(8, 3, &[1]), 3 + 3, "13 of 18 parts of four, rounded up");
        assert_eq!(share(8, 1, &[3]), 1 + 2);
        assert_eq!(share(4, 3, &[0; 8]), 4, "nobody else wants the last one");
    }

    #[test]
    fn where_nothing_is_free_a_node_keeps_what_it_has_and_a_newcomer_gets_one() {
        assert_eq!(share(4, 2, &[2]), 2);
        assert_eq!(share(4, 0, &[4]), 1);
    }

    #[test]
    fn where_all_use_more_than_there_is_each_goes_back_to_its_part() {
        assert_eq!(share(3, 3, &[3, 3]), 1);
        assert_eq!(share(4, 3, &[4]), 2);
        assert_eq!(share(4, 0, &[5]), 1, "a newcomer still gets one");
    }

    proptest! {
        #[test]
        fn parts_cover_all_places_and_exceed_them_by_at_most_one_each(
            slots in 1u32..64, uses in proptest::collection::vec(0u32..12, 1..10)
        ) {
            let parts: Vec<u32> = (0..uses.len())
                .map(|node| {
                    let peers: Vec<u32> =
                        uses.iter().enumerate().filter(|(at, _)| *at != node).map(|(_, used)| *used).collect();
                    share(slots, uses[node], &peers)
                })
                .collect();
            let sum: u32 = parts.iter().sum();
            prop_assert!(parts.iter().all(|part| (1..=slots).contains(part)));
            prop_assert!(sum <= slots + uses.len() as u32, "{parts:?} of {slots} for {uses:?}");
            if uses.iter().all(|used| *used <= slots) {
                prop_assert!(sum >= slots, "{parts:?} of {slots} for {uses:?}");
            }
        }
    }
}
