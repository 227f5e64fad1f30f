use super::*;
use llm_router_logic::gossip::fact::FACT_BYTES_MAX;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Spent(u64);

impl Fact for Spent {
    const TOPIC: Topic = Topic::Budget;
    const VERSION: u8 = 1;
}

#[derive(Serialize, Deserialize)]
struct Long(String);

impl Fact for Long {
    const TOPIC: Topic = Topic::Price;
    const VERSION: u8 = 1;
}

fn board() -> Facts {
    Facts::new(Metrics::new().unwrap(), Address::vacant())
}

fn refused(facts: &Facts, why: &str) -> u64 {
    facts.inner.metrics.gossip_refused_total.with_label_values(&[why]).get()
}

fn hear(facts: &Facts, node: &str, generation: u64, name: &str, payload: Payload) -> bool {
    facts.hear(
        (&NodeId::new(node), generation),
        (Topic::Budget, name.into()),
        payload,
        Moment::from_secs(generation),
    )
}

fn heard(facts: &Facts) -> Vec<(String, u64, u64)> {
    let all = facts.heard::<Spent>();
    all.into_iter().map(|heard| (heard.node.to_string(), heard.generation, heard.fact.0)).collect()
}

fn told(facts: &Facts, everything: bool) -> Vec<(String, bool)> {
    let taken = facts.take_changed(everything);
    taken.into_iter().map(|(key, value)| (key.to_string(), value.is_some())).collect()
}

#[test]
fn what_changed_is_taken_once_and_everything_by_a_gossip_that_begins_anew() {
    let facts = board();
    facts.publish("a", &Spent(1)).unwrap();
    facts.publish("b", &Spent(1)).unwrap();
    facts.publish("a", &Spent(2)).unwrap();
    assert_eq!(told(&facts, false), [("budget/a".to_owned(), true), ("budget/b".to_owned(), true)]);
    facts.publish("a", &Spent(2)).unwrap();
    assert!(told(&facts, false).is_empty(), "an unchanged value makes no traffic");
    facts.withdraw(Topic::Budget, "a");
    facts.withdraw(Topic::Budget, "never");
    assert_eq!(told(&facts, false), [("budget/a".to_owned(), false)]);
    assert_eq!(told(&facts, true), [("budget/b".to_owned(), true)]);
}

#[test]
fn what_is_too_much_is_refused_counted_and_leaves_the_rest() {
    let facts = board();
    assert!(matches!(facts.publish("a b", &Spent(1)), Err(FactRefused::Name(_))));
    let long = Long("x".repeat(FACT_BYTES_MAX));
    assert!(matches!(facts.publish("a", &long), Err(FactRefused::Value(CodecError::Oversized(_)))));
    let full = Long("x".repeat(FACT_BYTES_MAX - 8));
    let fit = (0..100).take_while(|n| facts.publish(&format!("n{n}"), &full).is_ok()).count();
    assert!((15..40).contains(&fit), "{fit} facts fit");
    assert_eq!(facts.publish("last", &full), Err(FactRefused::Full));
    facts.withdraw(Topic::Price, "n0");
    assert_eq!(facts.publish("last", &full), Ok(()));
    for why in ["own_fact_name", "own_fact_oversized", "own_facts_full"] {
        assert!(refused(&facts, why) > 0, "{why}");
    }
}

#[test]
fn peers_values_come_with_who_when_and_which_incarnation() {
    let facts = board();
    let mut changes = facts.changes(Topic::Budget);
    assert!(hear(&facts, "p", 5, "a", Payload::of(&Spent(1)).unwrap()));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let heard_first = facts.heard::<Spent>();
    assert_eq!((heard_first[0].arrived_at, &*heard_first[0].name), (Moment::from_secs(5), "a"));
    // A new incarnation: nothing the old one said counts any more.
    assert!(hear(&facts, "p", 6, "b", Payload::of(&Spent(2)).unwrap()));
    assert_eq!(heard(&facts), [("p".to_owned(), 6, 2)]);
    assert!(!facts.changes(Topic::Price).has_changed().unwrap());
}

#[test]
fn facts_go_with_their_withdrawal_and_are_marked_while_their_node_is_dead() {
    let facts = board();
    for (node, name) in [("p", "a"), ("p", "b"), ("q", "a"), ("gone", "a")] {
        assert!(hear(&facts, node, 1, name, Payload::of(&Spent(1)).unwrap()));
    }
    facts.saw(&"q".into(), 1, Moment::from_secs(9));
    assert_eq!(facts.last_heard(&"q".into()), Some(Moment::from_secs(9)));
    let mut changes = facts.changes(Topic::Budget);
    let kept = |live, name: &str| Kept { live, facts: BTreeSet::from([(Topic::Budget, Arc::from(name))]) };
    let census = |q_lives| BTreeMap::from([("p".into(), kept(true, "b")), ("q".into(), kept(q_lives, "a"))]);
    let left = || -> Vec<(String, bool)> {
        let all = facts.heard::<Spent>();
        all.iter().map(|heard| (format!("{}/{}", heard.node, heard.name), heard.live)).collect()
    };
    for q_lives in [true, false, true] {
        facts.keep(&census(q_lives));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(left(), [("p/b".to_owned(), true), ("q/a".to_owned(), q_lives)]);
        facts.keep(&census(q_lives));
        assert!(!changes.has_changed().unwrap(), "nothing changed");
    }
}

#[test]
fn a_value_that_cannot_be_read_is_left_out_and_counted_once() {
    let facts = board();
    hear(&facts, "p", 1, "old", Payload::encode(0, &Spent(1)).unwrap());
    hear(&facts, "p", 1, "new", Payload::encode(9, &Spent(1)).unwrap());
    hear(&facts, "p", 1, "cut", Payload::parse("AQ").unwrap());
    hear(&facts, "p", 1, "more", Payload::encode(1, &(7_u64, 8_u64)).unwrap());
    for _ in 0..3 {
        assert_eq!(heard(&facts), [("p".to_owned(), 1, 7)], "a later field is ignored");
    }
    let refused = ["version_old", "version_future", "malformed"].map(|why| refused(&facts, why));
    assert_eq!(refused, [1, 1, 1]);
}

#[test]
fn a_peer_cannot_fill_this_nodes_memory() {
    let facts = board();
    let payload = Payload::of(&Spent(1)).unwrap();
    let kept =
        (0..PER_PEER_MAX * 2).filter(|n| hear(&facts, "p", 1, &format!("n{n}"), payload.clone())).count();
    assert_eq!(kept, PER_PEER_MAX);
    assert!(hear(&facts, "p", 1, "n0", payload), "one that is known may change");
}
