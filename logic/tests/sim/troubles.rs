//! Replays of hard days: each guard of production is at work in them.

use super::{cluster, provider, scene, trace};
use llm_router_logic::guard::breaker::BreakerPolicy;
use llm_router_logic::ids::Region;
use llm_router_logic::route::Strategy;
use llm_router_logic::sim::{Backend, Choice, Replayed, Scene, Trouble, TroubleKind, Whom, replay};
use llm_router_logic::time::Moment;
use std::time::Duration;

fn trouble(whom: &str, kind: TroubleKind, from_secs: u64, to_secs: u64) -> Trouble {
    let (from, to) = (Moment::from_secs(from_secs), Moment::from_secs(to_secs));
    Trouble { whom: Whom::Backend(whom.into()), kind, from, to }
}

fn troubled(backends: Vec<Backend>, troubles: Vec<Trouble>) -> Scene {
    let mut scene = scene(backends, 7);
    scene.troubles = troubles;
    assert_eq!(scene.check(), Ok(()));
    scene
}

fn replayed(scene: &Scene, gap_ms: u64, count: usize, strategy: Strategy) -> Replayed {
    let rows = vec![(gap_ms, 100, 50); count];
    let replayed = replay(scene, &trace(&rows), Choice::Ours(strategy));
    assert_eq!(replayed.ttfts.len() + replayed.refused, count);
    replayed
}

fn never_opens() -> BreakerPolicy {
    BreakerPolicy { consecutive_failures: u32::MAX, min_outcomes: u32::MAX, ..BreakerPolicy::default() }
}

#[test]
fn a_breaker_spares_a_provider_that_is_out_and_tries_it_with_one_request_at_a_time() {
    let backends = || vec![provider("cheap", 0.5, None), provider("dear", 2.0, None)];
    let outage = || vec![trouble("cheap", TroubleKind::Outage, 60, 660)];
    let guarded = replayed(&troubled(backends(), outage()), 50, 14_400, Strategy::Cost);
    // Twenty a second for the second that the first five take to fail, then one trial each time.
    assert!((5..=60).contains(&guarded.failed_attempts[0]), "{:?}", guarded.failed_attempts);
    assert!(guarded.refused <= 20, "only streams that had begun break: {}", guarded.refused);
    let mut without = troubled(backends(), outage());
    without.policy.guards.breaker = never_opens();
    let without = replayed(&without, 50, 14_400, Strategy::Cost);
    assert!(without.failed_attempts[0] > 1_000, "{:?}", without.failed_attempts);
}

#[test]
fn retry_after_keeps_requests_away_from_a_provider_for_as_long_as_it_asked() {
    let throttled = TroubleKind::Throttled(Duration::from_secs(30));
    let backends = vec![provider("cheap", 0.5, None), provider("dear", 2.0, None)];
    let scene = troubled(backends, vec![trouble("cheap", throttled, 60, 360)]);
    let replayed = replayed(&scene, 500, 1_000, Strategy::Cost);
    assert!((10..=25).contains(&replayed.failed_attempts[0]), "{:?}", replayed.failed_attempts);
    assert_eq!(replayed.refused, 0);
}

#[test]
fn where_everything_is_out_the_retry_budget_bounds_second_attempts() {
    let backends = vec![provider("cheap", 0.5, None), provider("dear", 2.0, None)];
    let out = |whom| trouble(whom, TroubleKind::Outage, 0, 600);
    let mut scene = troubled(backends, vec![out("cheap"), out("dear")]);
    scene.policy.guards.breaker = never_opens();
    let replayed = replayed(&scene, 20, 1_000, Strategy::Cost);
    // A fifth of the requests, three a second for 20 s, and the ten seconds that a quiet fleet may use at once.
    assert!((100..=290).contains(&replayed.retries), "{}", replayed.retries);
    assert_eq!(replayed.refused, 1_000);
}

#[test]
fn at_most_half_of_a_pool_stays_ejected() {
    let names = ["a", "b", "c", "d"];
    let failed = |ejected_max_percent| {
        let backends = names.map(|name| provider(name, 1.0, None)).to_vec();
        let out = names.map(|name| trouble(name, TroubleKind::Outage, 0, 600)).to_vec();
        let mut scene = troubled(backends, out);
        scene.policy.guards.ejected_max_percent = ejected_max_percent;
        replayed(&scene, 100, 1_000, Strategy::Cost).failed_attempts.iter().sum::<u32>()
    };
    let (half, all) = (failed(50), failed(100));
    assert!(half > 2 * all, "{half} attempts with half of them ejected, {all} with all of them");
}

#[test]
fn a_machine_that_comes_back_is_given_its_places_one_after_another() {
    let at_clusters = |slow_start| {
        let backends = vec![cluster("own", 0.1, 20, 5_000.0, 50.0), provider("api", 1.0, None)];
        let mut scene = troubled(backends, vec![trouble("own", TroubleKind::Outage, 20, 60)]);
        scene.policy.guards.slow_start = slow_start;
        replayed(&scene, 200, 900, Strategy::Slo).at_clusters
    };
    let (slowly, at_once) = (at_clusters(Duration::from_secs(100)), at_clusters(Duration::ZERO));
    assert!(slowly + 20 < at_once, "{slowly} with a slow start, {at_once} without");
}

#[test]
fn a_machine_with_a_notice_gets_nothing_that_it_could_not_end() {
    let backends = || vec![cluster("spot", 0.1, 8, 5_000.0, 10.0), provider("api", 1.0, None)];
    let taken = TroubleKind::Preempted(Duration::from_secs(30));
    let scene = troubled(backends(), vec![trouble("spot", taken, 60, 300)]);
    let noticed = replayed(&scene, 500, 1_000, Strategy::Slo);
    assert_eq!((noticed.refused, noticed.failed_attempts[0]), (0, 0), "all ended before it went");
    let until = |seconds: usize| replayed(&scene, 500, 2 * seconds, Strategy::Slo).at_clusters;
    let (before, back, whole) = (until(60), until(300), noticed.at_clusters);
    // No request is let in that the notice leaves no time for; those of before may end within it.
    assert!(before > 0 && back <= before + 8, "{before} before the notice, {back} when it came back");
    // Used again at no less than the pace of before: 200 s against 60 s.
    assert!(3 * (whole - back) >= 10 * before, "{before} in the minute before, {whole} in all after {back}");
    let scene = troubled(backends(), vec![trouble("spot", TroubleKind::Outage, 90, 300)]);
    let unnoticed = replayed(&scene, 500, 1_000, Strategy::Slo);
    assert!(unnoticed.refused > 0, "whoever had seen a first token was told an error");
}

#[test]
fn a_lost_region_takes_its_clusters_and_the_others_take_over() {
    let backends = vec![
        cluster("one", 0.1, 8, 5_000.0, 50.0),
        cluster("two", 0.1, 8, 5_000.0, 50.0),
        provider("api", 1.0, None),
    ];
    let mut scene = troubled(backends, Vec::new());
    let (from, to) = (Moment::from_secs(60), Moment::from_secs(240));
    scene.troubles =
        vec![Trouble { whom: Whom::Region(Region::new("r")), kind: TroubleKind::Outage, from, to }];
    let replayed = replayed(&scene, 500, 1_000, Strategy::Slo);
    assert!(replayed.failed_attempts[0] > 0 && replayed.failed_attempts[1] > 0);
    assert!(replayed.failed_attempts.iter().sum::<u32>() < 40, "{:?}", replayed.failed_attempts);
    assert!(replayed.refused <= 4, "only streams that had begun break: {}", replayed.refused);
    assert!(replayed.at_clusters > 500, "they are used again afterwards: {}", replayed.at_clusters);
}

#[test]
fn a_latency_spike_is_seen_and_gone_around() {
    let backends = || vec![provider("cheap", 0.5, None), provider("dear", 2.0, None)];
    let slow = trouble("cheap", TroubleKind::Slow(20.0), 60, 360);
    let within = |strategy| {
        let replayed = replayed(&troubled(backends(), vec![slow.clone()]), 200, 2_000, strategy);
        replayed.ttfts.iter().filter(|ttft| **ttft <= Duration::from_secs(2)).count()
    };
    let (slo, cost) = (within(Strategy::Slo), within(Strategy::Cost));
    assert!(slo > 1_700 && cost < 700, "{slo} in time with `slo`, {cost} with `cost`");
}

#[test]
fn a_trouble_that_cannot_happen_is_refused() {
    let scene = |trouble| {
        let mut scene = scene(vec![provider("api", 1.0, None)], 1);
        scene.troubles = vec![trouble];
        scene.check().is_ok()
    };
    assert!(scene(trouble("api", TroubleKind::Outage, 1, 2)));
    assert!(!scene(trouble("nobody", TroubleKind::Outage, 1, 2)));
    assert!(!scene(trouble("api", TroubleKind::Outage, 2, 2)));
    assert!(!scene(trouble("api", TroubleKind::Slow(0.5), 1, 2)));
}
