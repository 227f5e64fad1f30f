//! Routers that agree over boards of facts, carried by hand.

use super::*;
use crate::address::Address;
use crate::facts::Kept;
use crate::metrics::Metrics;
use llm_router_logic::gossip::key::Key;
use llm_router_logic::ids::NodeId;
use llm_router_logic::route::{Policy, PreparedView};
use llm_router_logic::view::{ClusterView, Member};

struct Router {
    name: NodeId,
    facts: Facts,
    fleet: Arc<Fleet>,
}

/// Routers that see each other alive.
fn routers(names: &[&str], clock: Clock) -> Vec<Router> {
    let router = |me: &&str| {
        let members = names.iter().map(|name| Member {
            node: NodeId::new(name),
            region: "r".into(),
            generation: 1,
            live: true,
            this_node: name == me,
            relay: None,
            leaving: false,
        });
        let view = ClusterView {
            node: NodeId::new(me),
            region: "r".into(),
            backends: Vec::new(),
            foreign: Vec::new(),
            members: members.collect(),
        };
        let policy = Policy::default();
        let view = PreparedView::new(view, &policy, clock.now(), None);
        let snapshot = Snapshot { view, policy: Arc::new(policy), awake: None, doors: Vec::new() };
        let facts = Facts::new(Metrics::new().unwrap(), Address::vacant());
        let published = Arc::new(ArcSwap::from_pointee(snapshot));
        let fleet = Arc::new(Fleet::new(clock, facts.clone(), published));
        Router { name: NodeId::new(me), facts, fleet }
    };
    names.iter().map(router).collect()
}

/// A round of gossip among those who reach each other.
fn gossip(routers: &[&Router], now: Moment) {
    for from in routers {
        let told = from.facts.take_changed(true);
        let mut kept = Kept { live: true, ..Kept::default() };
        let mut values = Vec::new();
        for (key, payload) in told {
            if let (Key::Fact(topic, name), Some(payload)) = (key, payload) {
                kept.facts.insert((topic, Arc::clone(&name)));
                values.push((topic, name, payload));
            }
        }
        for to in routers.iter().filter(|to| to.name != from.name) {
            for (topic, name, payload) in &values {
                to.facts.hear((&from.name, 1), (*topic, Arc::clone(name)), payload.clone(), now);
            }
        }
    }
    for to in routers {
        let of = |from: &&&Router| {
            let facts: BTreeSet<_> = from
                .facts
                .take_changed(true)
                .into_iter()
                .filter_map(|(key, value)| match (key, value) {
                    (Key::Fact(topic, name), Some(_)) => Some((topic, name)),
                    _ => None,
                })
                .collect();
            (from.name.clone(), Kept { live: true, facts })
        };
        to.facts.keep(&routers.iter().filter(|from| from.name != to.name).map(|from| of(&from)).collect());
    }
}

/// Who may try in a second and a half of every router asking all the while.
async fn who_tries(routers: &[&Router], clock: Clock) -> Vec<Trial> {
    let mut trials = Vec::new();
    for _ in 0..40 {
        for router in routers {
            if router.fleet.may_try(&"b".into(), "m", clock.now()) {
                trials.push(router.fleet.begin(&"b".into(), "m"));
            }
        }
        gossip(routers, clock.now());
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    trials
}

#[tokio::test(start_paused = true)]
async fn nine_routers_send_one_trial_and_none_for_a_while_after_it_failed() {
    let clock = Clock::start();
    let all = routers(&["a", "b", "c", "d", "e", "f", "g", "h", "i"], clock);
    let all: Vec<&Router> = all.iter().collect();
    let trials = who_tries(&all, clock).await;
    assert_eq!(trials.len(), 1);
    trials[0].ended(Verdict::Failed { unreachable: false });
    gossip(&all, clock.now());
    assert!(who_tries(&all, clock).await.is_empty(), "within the rest after a failed trial");
    // Then one again, and one only.
    let mut later = who_tries(&all, clock).await;
    later.extend(who_tries(&all, clock).await);
    assert_eq!(later.len(), 1);
    later[0].ended(Verdict::Neutral);
    gossip(&all, clock.now());
    assert_eq!(who_tries(&all, clock).await.len(), 1, "a trial that says nothing is followed by another");
}

#[tokio::test(start_paused = true)]
async fn a_claimant_that_dies_is_followed_by_the_next_and_each_side_of_a_partition_has_one() {
    let clock = Clock::start();
    let all = routers(&["a", "b", "c", "d"], clock);
    let trials = who_tries(&all.iter().collect::<Vec<_>>(), clock).await;
    assert_eq!(trials.len(), 1);
    // Its owner dies with the trial under way: the others forget it.
    let owner = all.iter().position(|router| Arc::ptr_eq(&router.fleet, &trials[0].fleet)).unwrap();
    let left: Vec<&Router> =
        all.iter().enumerate().filter(|(at, _)| *at != owner).map(|(_, one)| one).collect();
    gossip(&left, clock.now());
    assert_eq!(who_tries(&left, clock).await.len(), 1);

    let split = routers(&["a", "b", "c", "d"], clock);
    let (one, other) = split.split_at(2);
    let sides = [one, other].map(|side| side.iter().collect::<Vec<_>>());
    for side in &sides {
        assert_eq!(who_tries(side, clock).await.len(), 1, "one trial on each side, never more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_alone_waits_for_nobody() {
    let clock = Clock::start();
    let alone = routers(&["a"], clock);
    assert!(alone[0].fleet.may_try(&"b".into(), "m", clock.now()));
}

#[tokio::test(start_paused = true)]
async fn a_router_that_nobody_asks_any_more_keeps_no_other_from_trying() {
    let clock = Clock::start();
    let all = routers(&["a", "b"], clock);
    let both: Vec<&Router> = all.iter().collect();
    let trials = who_tries(&both, clock).await;
    let owner = all.iter().position(|router| Arc::ptr_eq(&router.fleet, &trials[0].fleet)).unwrap();
    trials[0].ended(Verdict::Failed { unreachable: false });
    gossip(&both, clock.now());
    // From here on only the other one has requests. A value that does not change arrives once.
    let other = &all[1 - owner];
    let mut tried_after = None;
    for tenth in 0..100_u32 {
        tokio::time::advance(Duration::from_millis(100)).await;
        if tried_after.is_none() && other.fleet.may_try(&"b".into(), "m", clock.now()) {
            tried_after = Some(Duration::from_millis(100) * (tenth + 1));
        }
    }
    let tried_after = tried_after.expect("it may never try");
    assert!((REST..=REST + Duration::from_secs(3)).contains(&tried_after), "{tried_after:?}");
    // The one that was silent takes its word back without being asked.
    assert!(!all[owner].facts.take_changed(true).is_empty());
    all[owner].fleet.tend();
    assert!(all[owner].facts.take_changed(true).is_empty());
}
