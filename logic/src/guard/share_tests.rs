use super::*;
use proptest::prelude::*;

/// Routers that share one backend, each with what it was told last of the others.
struct Fleet {
    backend: BackendId,
    slots: u32,
    nodes: Vec<NodeId>,
    shares: Vec<Share>,
    used: Vec<u32>,
}

impl Fleet {
    fn new(slots: u32, nodes: usize) -> Self {
        Self {
            backend: BackendId::new("gpu"),
            slots,
            nodes: (0..nodes).map(|node| NodeId::new(format!("node-{node}"))).collect(),
            shares: vec![Share::default(); nodes],
            used: vec![0; nodes],
        }
    }

    /// What `node` may use at `at_ms`, told that the others use `told`.
    fn part(&mut self, node: usize, told: &[u32], at_ms: u64) -> u32 {
        let peers: Vec<(&NodeId, u32)> = (0..self.nodes.len())
            .filter(|peer| *peer != node)
            .map(|peer| (&self.nodes[peer], told[peer]))
            .collect();
        let now = Moment::from_millis(at_ms);
        self.shares[node].places(
            (&self.backend, self.slots),
            (&self.nodes[node], self.used[node]),
            &peers,
            now,
        )
    }

    /// Every `20` ms of `millis`, each of `wanting` takes what it may, and the others learn it `delay_ms` later; the
    /// most that was ever used at once.
    fn run(&mut self, wanting: &[usize], from_ms: u64, millis: u64, delay_ms: u64, hold_ms: u64) -> u32 {
        let mut history: Vec<Vec<u32>> = Vec::new();
        let mut running: Vec<Vec<u64>> = vec![Vec::new(); self.nodes.len()];
        let mut most = 0;
        for at in (from_ms..from_ms + millis).step_by(20) {
            history.push(self.used.clone());
            let seen = history.len().saturating_sub(1 + (delay_ms / 20) as usize);
            let told = history[seen].clone();
            for (node, running) in running.iter_mut().enumerate() {
                running.retain(|until| *until > at);
                self.used[node] = running.len() as u32;
                let part = self.part(node, &told, at);
                if wanting.contains(&node) {
                    for extra in 0..part.saturating_sub(self.used[node]) {
                        // Not all end at once.
                        running.push(at + hold_ms + u64::from(extra) * 37 + node as u64 * 13);
                    }
                    self.used[node] = running.len() as u32;
                }
            }
            most = most.max(self.used.iter().sum());
        }
        most
    }
}

#[test]
fn a_node_alone_has_all_and_nodes_at_rest_have_equal_parts() {
    assert_eq!(Fleet::new(4, 1).part(0, &[0], 0), 4);
    let mut four = Fleet::new(8, 4);
    assert!((0..4).all(|node| four.part(node, &[0; 4], 0) == 2));
    let mut nine = Fleet::new(4, 9);
    assert!((0..9).all(|node| nine.part(node, &[0; 9], 0) == 1));
}

#[test]
fn who_alone_is_busy_comes_to_all_places_by_steps() {
    let mut fleet = Fleet::new(8, 3);
    let mut parts = Vec::new();
    for at in [1_000, 1_100, 1_300, 1_400, 1_600, 2_000, 2_300] {
        fleet.used[0] = fleet.part(0, &[0; 3], at);
        parts.push(fleet.used[0]);
    }
    assert!(parts[0] <= 3 && parts[1] == parts[0], "{parts:?}");
    assert_eq!(parts.last(), Some(&8), "{parts:?}");
}

#[test]
fn a_newcomer_gets_one_place_at_once_and_more_as_the_others_give_up_theirs() {
    let mut fleet = Fleet::new(6, 3);
    fleet.run(&[0], 1_000, 4_000, 100, 500);
    assert_eq!(fleet.used[0], 6, "nobody else wanted any");
    assert_eq!(fleet.part(1, &[6, 0, 0], 5_000), 1, "none is free");
    fleet.used[1] = 1;
    assert_eq!(fleet.part(0, &[6, 1, 0], 5_100), 5);
    fleet.used[0] = 5;
    assert_eq!(fleet.part(1, &[5, 1, 0], 5_400), 2, "its fair part is three");
    fleet.used[1] = 2;
    assert_eq!(fleet.part(0, &[5, 2, 0], 5_500), 4);
}

#[test]
fn a_router_at_rest_counts_on_no_more_than_what_is_free() {
    let mut fleet = Fleet::new(4, 2);
    assert_eq!(fleet.part(1, &[3, 0], 1_000), 1);
    assert_eq!(fleet.part(1, &[1, 0], 4_000), 2);
}

#[test]
fn busy_routers_never_use_more_than_there_is_once_all_are_busy() {
    for (slots, nodes) in [(3, 3), (4, 3), (16, 3), (16, 9), (9, 9)] {
        for delay_ms in [0, 200, 600] {
            let mut fleet = Fleet::new(slots, nodes);
            let all: Vec<usize> = (0..nodes).collect();
            fleet.run(&all, 10_000, 3_000, delay_ms, 860);
            let most = fleet.run(&all, 13_000, 20_000, delay_ms, 860);
            assert_eq!(most, slots, "{nodes} routers, {slots} places, told {delay_ms} ms late");
        }
    }
}

#[test]
fn a_busy_router_uses_what_others_leave() {
    let mut fleet = Fleet::new(9, 3);
    fleet.used = vec![0, 1, 0];
    let parts: Vec<u32> = (0..20)
        .map(|step| {
            let part = fleet.part(0, &[0, 1, 0], 1_000 + step * 300);
            fleet.used[0] = part;
            part
        })
        .collect();
    assert_eq!(parts.last(), Some(&8), "{parts:?}");
}

#[test]
fn what_is_not_used_any_more_is_not_kept() {
    let mut fleet = Fleet::new(9, 3);
    fleet.run(&[0], 1_000, 4_000, 100, 500);
    assert_eq!(fleet.used[0], 9);
    fleet.used[0] = 0;
    fleet.part(0, &[0; 3], 8_000);
    fleet.part(0, &[0; 3], 9_100);
    assert_eq!(fleet.part(0, &[0; 3], 10_200), 3);
}

proptest! {
    #[test]
    fn parts_of_routers_that_see_the_same_add_up_to_all_places(
        slots in 1u32..64, nodes in 1usize..10, wanted in proptest::collection::vec(0u32..20, 10)
    ) {
        let backend = BackendId::new("gpu");
        let wants: Vec<Want> = (0..nodes)
            .map(|node| Want { places: wanted[node], rank: rank(&NodeId::new(format!("n{node}")), &backend) })
            .collect();
        let parts: Vec<u32> = (0..nodes)
            .map(|node| {
                let others: Vec<Want> =
                    wants.iter().enumerate().filter(|(at, _)| *at != node).map(|(_, want)| *want).collect();
                fair(slots, wants[node].rank, &others)
            })
            .collect();
        let used: u32 = parts.iter().zip(&wanted).map(|(part, wanted)| part.min(wanted)).sum();
        prop_assert!(used <= slots, "{parts:?} of {slots} for {wanted:?}");
        let all: u32 = wanted[..nodes].iter().sum();
        prop_assert!(used >= slots.min(all), "{parts:?} of {slots} for {wanted:?}: some go unused");
    }
}
