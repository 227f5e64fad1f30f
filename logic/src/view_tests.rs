use super::*;
use crate::backend::{Kind, Placement};
use crate::money::Money;

fn backend(own: Option<Health>, peers: Vec<PeerFact>) -> BackendView {
    let placement =
        Placement::Cluster { cloud: "gcp".into(), region: Region::new("home"), cost_per_hour: Money::ZERO };
    let spec = BackendSpec {
        id: "c".into(),
        kind: Kind::Llama,
        placement,
        models: Vec::new(),
        default_model: None,
        capabilities: crate::capability::Capabilities::default(),
        slots: None,
        rate_limit: None,
        scale_to_zero: None,
        reached_from: Vec::new(),
    };
    let own = own.map(|health| OwnFact {
        report: Report { health, ..Report::default() },
        observed_at: Moment::from_secs(10),
        models: Vec::new().into(),
        guards: Vec::new().into(),
    });
    BackendView { spec: Arc::new(spec), own, peers, standing: Standing::default() }
}

fn said(node: &str, region: &str, at_ms: u64, report: Report) -> PeerFact {
    PeerFact {
        node: node.into(),
        region: Region::new(region),
        report,
        arrived_at: Moment::from_millis(at_ms),
        models: Vec::new().into(),
    }
}

fn healthy() -> Report {
    Report { health: Health::Healthy, ..Report::default() }
}

const NOW: Moment = Moment::from_secs(10);

#[test]
fn a_peers_fact_counts_for_five_seconds_from_its_arrival_and_then_for_nothing() {
    let view = backend(None, vec![said("p", "away", 10_000, healthy())]);
    let at = |ms| view.facts(Moment::from_millis(ms)).map(|facts| facts.age);
    assert_eq!(at(10_000), Some(Duration::ZERO));
    assert_eq!(at(15_000), Some(Duration::from_secs(5)));
    assert_eq!(at(15_001), None);
    assert!(view.alive_anywhere(Moment::from_millis(15_000)));
    assert!(!view.alive_anywhere(Moment::from_millis(15_001)));
}

#[test]
fn what_a_peer_runs_fades_before_it_counts_for_nothing() {
    let view = backend(None, vec![said("p", "away", 0, Report { in_flight: 8, ..healthy() })]);
    let at = |ms| view.peers_in_flight(Moment::from_millis(ms));
    assert_eq!([at(0), at(2_500), at(3_750), at(4_900), at(5_000)], [8, 8, 4, 1, 0]);
}

#[test]
fn a_node_of_the_backends_own_region_is_believed_before_a_fresher_one() {
    let at_home = said("h", "home", 8_000, Report { queue_depth: 3, ..healthy() });
    let away = said("a", "away", 9_900, Report { queue_depth: 7, ..healthy() });
    let view = backend(None, vec![away.clone(), at_home.clone()]);
    let facts = view.facts(NOW).unwrap();
    assert_eq!((facts.said_by.map(NodeId::as_str), facts.report.queue_depth), (Some("h"), 3));
    let nodes: Vec<&str> = view.reached_by(NOW).iter().map(|fact| fact.node.as_str()).collect();
    assert_eq!(nodes, ["h", "a"]);
    // Too old, it is not preferred any more.
    let old = PeerFact { arrived_at: Moment::from_millis(4_000), ..at_home };
    let view = backend(None, vec![old, away]);
    assert_eq!(view.facts(NOW).unwrap().said_by.map(NodeId::as_str), Some("a"));
}

#[test]
fn that_a_peer_reaches_a_backend_does_not_make_it_reachable_from_here() {
    let peers = || vec![said("p", "away", 9_900, healthy())];
    for own in [None, Some(Health::Unhealthy), Some(Health::Unknown)] {
        let view = backend(own, peers());
        assert!(!view.reachable_here() && view.alive_anywhere(NOW), "{own:?}");
    }
    let view = backend(Some(Health::Unhealthy), peers());
    assert_eq!(view.facts(NOW).unwrap().report.health, Health::Unhealthy, "own observation comes first");
    assert!(backend(Some(Health::Healthy), Vec::new()).reachable_here());
    let ill = said("p", "away", 9_900, Report { health: Health::Unhealthy, ..Report::default() });
    assert!(!backend(None, vec![ill]).alive_anywhere(NOW));
}
