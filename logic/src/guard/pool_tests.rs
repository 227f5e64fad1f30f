use super::*;
use proptest::prelude::*;

const LIMIT: i64 = 10_000;

/// Several nodes over a network that delivers late, never, or out of step; a node's own messages arrive in order.
struct World {
    now: Moment,
    nodes: Vec<Node>,
    /// `links[to][from]`: messages under way; `cut` where nothing gets through.
    links: Vec<Vec<VecDeque<Message>>>,
    cut: Vec<Vec<bool>>,
    slack: i64,
}

struct Node {
    id: NodeId,
    beats: Beats,
    pool: Pool,
    beat: u64,
    allowed: i64,
    claim: i64,
    alive: bool,
}

#[derive(Clone, Debug)]
struct Message {
    beat: u64,
    claim: i64,
    acknowledged: Vec<(NodeId, u64)>,
}

fn name(index: usize) -> NodeId {
    NodeId::new(format!("n{index}"))
}

impl World {
    fn new(nodes: usize, kind: Kind, slack: i64) -> Self {
        let all: BTreeSet<NodeId> = (0..nodes).map(name).collect();
        let node = |index| Node {
            id: name(index),
            beats: Beats::new(name(index), all.clone(), Moment::ZERO),
            pool: Pool::new(kind, LIMIT),
            beat: 0,
            allowed: 0,
            claim: 0,
            alive: true,
        };
        Self {
            now: Moment::ZERO,
            nodes: (0..nodes).map(node).collect(),
            links: vec![vec![VecDeque::new(); nodes]; nodes],
            cut: vec![vec![false; nodes]; nodes],
            slack,
        }
    }

    fn advance(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    /// Node `at` computes what it may claim, takes up to `want` of it, and tells the others.
    fn beat(&mut self, at: usize, want: i64) {
        let (now, slack) = (self.now, self.slack);
        let node = &mut self.nodes[at];
        if !node.alive {
            return;
        }
        node.allowed = node.pool.bound_with_slack(&node.beats, slack, now);
        if node.pool.kind == Kind::Lapsing(Duration::ZERO) {
            node.claim = want.min(node.allowed).max(0);
        }
        node.beat += 1;
        node.pool.tell(node.beat, node.claim);
        node.beats.tell(node.beat, now);
        let acknowledged = node.beats.acknowledgements().map(|(peer, beat)| (peer.clone(), beat)).collect();
        let message = Message { beat: node.beat, claim: node.claim, acknowledged };
        for to in 0..self.nodes.len() {
            if to != at && !self.cut[to][at] {
                self.links[to][at].push_back(message.clone());
            }
        }
    }

    /// A request at `at` takes `amount` where it is allowed; a negative one gives back.
    fn draw(&mut self, at: usize, amount: i64) {
        let node = &mut self.nodes[at];
        if node.alive && (amount < 0 || node.claim + amount <= node.allowed) {
            node.claim = (node.claim + amount).max(0);
        }
    }

    /// The oldest message from `from` arrives at `to`; `newest` = all of them, as gossip merges.
    fn deliver(&mut self, to: usize, from: usize, newest: bool) {
        let Some(mut message) = self.links[to][from].pop_front() else { return };
        if newest {
            while let Some(later) = self.links[to][from].pop_front() {
                message = later;
            }
        }
        let (now, from) = (self.now, self.nodes[from].id.clone());
        let node = &mut self.nodes[to];
        if !node.alive {
            return;
        }
        let ours =
            message.acknowledged.iter().find(|(peer, _)| *peer == node.id).map_or(0, |(_, beat)| *beat);
        node.beats.hear(&from, message.beat, ours, now);
        node.pool.hear(&from, message.claim);
    }

    fn total(&self) -> i64 {
        self.nodes.iter().map(|node| node.claim).sum()
    }

    /// One round in which everybody hears everybody.
    fn round(&mut self, wants: &[i64]) {
        for at in 0..self.nodes.len() {
            self.beat(at, wants.get(at).copied().unwrap_or(0));
        }
        for to in 0..self.nodes.len() {
            for from in 0..self.nodes.len() {
                self.deliver(to, from, true);
            }
        }
        self.advance(200);
    }

    /// Cuts every link between `island` and the rest.
    fn split(&mut self, island: &[usize], cut: bool) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if island.contains(&a) != island.contains(&b) {
                    self.cut[a][b] = cut;
                    if cut {
                        self.links[a][b].clear();
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Beat(usize),
    Draw(usize, i64),
    Deliver(usize, usize, bool),
    Drop(usize, usize),
    Cut(usize, usize, bool),
    Kill(usize),
    Wait(u64),
}

fn act(nodes: usize) -> impl Strategy<Value = Act> {
    let node = move || 0..nodes;
    prop_oneof![
        6 => node().prop_map(Act::Beat),
        8 => (node(), -800_i64..4_000).prop_map(|(at, amount)| Act::Draw(at, amount)),
        10 => (node(), node(), any::<bool>()).prop_map(|(to, from, newest)| Act::Deliver(to, from, newest)),
        2 => (node(), node()).prop_map(|(to, from)| Act::Drop(to, from)),
        1 => (node(), node(), any::<bool>()).prop_map(|(a, b, cut)| Act::Cut(a, b, cut)),
        1 => node().prop_map(Act::Kill),
        2 => (0_u64..3_000).prop_map(Act::Wait),
    ]
}

fn run(world: &mut World, acts: &[Act], check: impl Fn(&World)) {
    for act in acts {
        match *act {
            Act::Beat(at) => world.beat(at, LIMIT),
            Act::Draw(at, amount) => world.draw(at, amount),
            Act::Deliver(to, from, newest) if to != from => world.deliver(to, from, newest),
            Act::Drop(to, from) => drop(world.links[to][from].pop_front()),
            Act::Cut(a, b, cut) => world.cut[a][b] = cut,
            Act::Kill(at) => world.nodes[at].alive = false,
            Act::Wait(millis) => world.advance(millis),
            Act::Deliver(..) => {}
        }
        check(world);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn claims_never_exceed_the_limit_whatever_the_network_does(
        (nodes, acts) in (1_usize..6).prop_flat_map(|nodes| (Just(nodes), prop::collection::vec(act(nodes), 0..160)))
    ) {
        let mut world = World::new(nodes, Kind::Lasting, 0);
        run(&mut world, &acts, |world| {
            assert!(world.total() <= LIMIT, "{} of {LIMIT}", world.total());
        });
    }

    #[test]
    fn with_slack_claims_stay_within_the_stated_overshoot(
        (nodes, acts) in (1_usize..6).prop_flat_map(|nodes| (Just(nodes), prop::collection::vec(act(nodes), 0..160))),
        slack in 0_i64..600,
    ) {
        let mut world = World::new(nodes, Kind::Lasting, slack);
        run(&mut world, &acts, |world| {
            let bound = world.nodes[0].pool.overshoot(&world.nodes[0].beats, world.slack);
            assert!(world.total() <= LIMIT + bound, "{} of {LIMIT} + {bound}", world.total());
        });
    }
}

fn spend(world: &mut World, at: &[usize], rounds: usize, piece: i64) {
    for _ in 0..rounds {
        for &node in at {
            for _ in 0..40 {
                world.draw(node, piece);
            }
        }
        world.round(&[]);
    }
}

#[test]
fn one_node_alone_can_spend_nearly_everything_while_all_hear_each_other() {
    // What is left shrinks by one n-th each time a claim has been acknowledged, which takes three rounds.
    for (nodes, rounds) in [(1, 15), (3, 30), (9, 120)] {
        let mut world = World::new(nodes, Kind::Lasting, 0);
        spend(&mut world, &[0], rounds, 20);
        assert!(world.total() >= LIMIT * 97 / 100, "{nodes} nodes: {}", world.total());
    }
}

#[test]
fn a_three_way_partition_leaves_each_part_its_share_of_what_was_left() {
    for nodes in [3_usize, 9] {
        let mut world = World::new(nodes, Kind::Lasting, 0);
        let everybody: Vec<usize> = (0..nodes).collect();
        spend(&mut world, &everybody, 4, 1_000 / i64::try_from(nodes).unwrap());
        let before = world.total();
        let third = nodes / 3;
        world.split(&everybody[..third], true);
        world.split(&everybody[third..2 * third], true);
        spend(&mut world, &everybody, 60, 5);
        let during = world.total();
        assert!(during <= LIMIT && during >= before, "{nodes}: {before} {during}");
        world.split(&everybody[..third], false);
        world.split(&everybody[third..2 * third], false);
        spend(&mut world, &everybody, 120, 5);
        assert!(world.total() <= LIMIT && world.total() >= LIMIT * 95 / 100, "{nodes}: {}", world.total());
    }
}

#[test]
fn slack_is_used_only_while_everybody_is_heard() {
    let mut world = World::new(3, Kind::Lasting, 100);
    spend(&mut world, &[0], 60, 20);
    let mut alone = World::new(3, Kind::Lasting, 100);
    alone.split(&[0], true);
    alone.advance(5_000);
    spend(&mut alone, &[0], 60, 20);
    assert!(world.total() >= LIMIT - 20, "{}", world.total());
    assert!(alone.total() <= LIMIT / 3, "{}", alone.total());
}

#[test]
fn a_rate_goes_to_the_node_that_wants_it_and_lapses_to_equal_shares() {
    for nodes in [3_usize, 9] {
        let fixed = LIMIT / i64::try_from(nodes).unwrap();
        let mut world = World::new(nodes, Kind::Lapsing(Duration::ZERO), 0);
        let mut wants = vec![0; nodes];
        wants[0] = LIMIT;
        for _ in 0..80 {
            world.round(&wants);
            assert!(world.total() <= LIMIT);
        }
        assert!(world.nodes[0].claim >= LIMIT * 95 / 100, "{nodes}: {}", world.nodes[0].claim);
        // All load on another one.
        wants.swap(0, 1);
        for _ in 0..80 {
            world.round(&wants);
            assert!(world.total() <= LIMIT);
        }
        assert!(world.nodes[1].claim >= LIMIT * 95 / 100, "{nodes}: {}", world.nodes[1].claim);
        // Cut off, the holder falls back before the others rise.
        wants.fill(LIMIT);
        world.split(&[1], true);
        for _ in 0..60 {
            world.round(&wants);
            assert!(world.total() <= LIMIT, "{nodes}: {}", world.total());
        }
        assert!(world.nodes.iter().all(|node| node.claim == fixed), "{nodes}");
        world.split(&[1], false);
        for _ in 0..60 {
            world.round(&vec![fixed; nodes]);
            assert!(world.total() <= LIMIT, "{nodes} after: {}", world.total());
        }
    }
}

#[test]
fn fair_parts_give_everybody_what_it_wants_or_an_equal_part_of_the_rest() {
    let parts = |wants: &[i64]| (0..wants.len()).map(|at| fair_part(90, wants, at)).collect::<Vec<_>>();
    assert_eq!(parts(&[10, 20, 30]), [20, 30, 40]);
    assert_eq!(parts(&[0, 0, 0]), [30, 30, 30]);
    assert_eq!(parts(&[10, 200, 200]), [10, 40, 40]);
    assert_eq!(parts(&[0, 0, 500]), [0, 0, 90]);
    assert_eq!(parts(&[500, 500, 500]), [30, 30, 30]);
}

/// This node and the peers `n1` and `n2`, which it has just heard, each with the own beat it has read.
fn heard(acknowledged: [u64; 2], now: Moment) -> Beats {
    let mut beats = Beats::new(name(0), (0..3).map(name).collect(), Moment::ZERO);
    beats.tell(1, now);
    for (peer, seen) in [(1, acknowledged[0]), (2, acknowledged[1])] {
        beats.hear(&name(peer), 1, seen, now);
    }
    beats
}

#[test]
fn a_claim_that_one_peer_has_not_read_is_no_ground_to_claim_more() {
    let mut pool = Pool::new(Kind::Lasting, 100);
    pool.tell(1, 10);
    pool.tell(5, 70);
    let beats = heard([5, 1], Moment::ZERO);
    // `n2` still goes by 10, so that is what all know: a third of the 90 beyond it.
    assert_eq!(pool.bound(&beats, Moment::ZERO), 10 + 90 / 3);
    let beats = heard([5, 5], Moment::ZERO);
    assert_eq!(pool.bound(&beats, Moment::ZERO), 70 + 30 / 3);
}

#[test]
fn claims_too_old_to_be_remembered_are_summed_up_by_their_lowest() {
    let mut pool = Pool::new(Kind::Lasting, 1_000);
    pool.tell(1, 300);
    pool.tell(2, 200);
    // As many that the first goes; all of these are higher.
    let further = (3..).zip(400..).take(HISTORY_MAX - 1);
    further.for_each(|(beat, claim)| pool.tell(beat, claim));
    let beats = heard([2, 2], Moment::ZERO);
    assert_eq!(pool.bound(&beats, Moment::ZERO), 200 + 800 / 3);
}

#[test]
fn a_rate_is_held_to_its_equal_part_from_the_moment_a_peer_is_silent_until_that_peers_claim_lapses() {
    let after = |seconds| Moment::ZERO + Duration::from_secs_f64(seconds);
    let counts = Duration::from_secs(1);
    let bound = |own: i64, others: i64, now: Moment| {
        let mut pool = Pool::new(Kind::Lapsing(counts), 90);
        pool.tell(1, own);
        pool.hear(&name(1), others);
        pool.bound(&heard([1, 1], Moment::ZERO), now)
    };
    // Everybody hears everybody: what is known and a third of what is left.
    assert_eq!(bound(60, 0, after(1.0)), 60 + 30 / 3);
    // Cut off, no more than a third, whatever it had.
    assert_eq!(bound(60, 0, after(2.5)), 30);
    // The claim of a peer that fell silent counts in full until it must have stopped and its use has faded.
    assert_eq!(bound(6, 84, after(3.0)), 6);
    assert_eq!(bound(6, 84, after(4.9)), 6);
    assert_eq!(bound(6, 84, after(5.1)), 30);
}

#[test]
fn the_stated_overshoot_is_what_nodes_that_take_the_last_units_together_come_to() {
    let (limit, slack) = (100, 10);
    let mut pool = Pool::new(Kind::Lasting, limit);
    pool.tell(1, 30);
    pool.hear(&name(1), 30);
    pool.hear(&name(2), 30);
    let beats = heard([1, 1], Moment::ZERO);
    // Each of the three sees the same.
    let together = 3 * pool.bound_with_slack(&beats, slack, Moment::ZERO);
    assert_eq!(together - limit, pool.overshoot(&beats, slack));
}
