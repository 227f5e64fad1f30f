//! Strategy `slo`: the cheapest that is predicted to meet the targets, else the fastest.

use crate::scene::{Part, chat_by, cluster, planned, provider, steps};
use llm_router_logic::report::Health;
use llm_router_logic::route::Reason::{ClusterFallback, ExternalFallback, SloCheapest, SloFastest};
use llm_router_logic::route::{Policy, Reason, Slo, Strategy};
use std::time::Duration;

/// Healthy, with a measured time to first token. At 100 tokens/s four slots meet 100 ms a token.
fn timed(part: Part, ttft_ms: u32) -> Part {
    part.report(|report| {
        report.health = Health::Healthy;
        report.ttft_ms = Some(ttft_ms);
    })
}

fn by_slo(parts: &[Part]) -> Vec<(String, Reason)> {
    steps(parts, &chat_by(Strategy::Slo))
}

fn named(expected: &[(&str, Reason)]) -> Vec<(String, Reason)> {
    expected.iter().map(|(name, reason)| ((*name).to_owned(), *reason)).collect()
}

#[test]
fn the_cheapest_that_meets_the_targets_goes_first_however_much_faster_others_are() {
    let parts = [
        timed(cluster("fast", 5.0, 100.0), 50),
        timed(cluster("cheap", 0.1, 100.0), 1_999),
        timed(cluster("too-slow", 0.01, 100.0), 2_001),
        timed(provider("api", 5.0, 15.0), 300),
    ];
    assert_eq!(
        by_slo(&parts),
        named(&[
            ("cheap", SloCheapest),
            ("fast", SloCheapest),
            ("api", ExternalFallback),
            ("too-slow", ClusterFallback)
        ])
    );
}

#[test]
fn load_counts_against_the_target() {
    let cheap = timed(cluster("cheap", 0.1, 100.0), 1_000);
    let dear = timed(cluster("dear", 9.0, 100.0), 1_000);
    let busy = |in_flight, waiting| {
        cheap.clone().load(|load| {
            load.in_flight = in_flight;
            load.waiting = waiting;
        })
    };
    // 4 slots and a target of 2 s: eight at 1 s each are just in time.
    assert_eq!(by_slo(&[busy(4, 3), dear.clone()])[0].0, "cheap");
    assert_eq!(by_slo(&[busy(4, 4), dear.clone()])[0].0, "dear");
}

#[test]
fn a_machine_too_slow_per_token_does_not_meet_the_targets() {
    // One request alone: 10 tokens/s are exactly 100 ms a token; shared by two they are not.
    let alone = timed(cluster("alone", 0.01, 10.0), 100);
    let shared = alone.clone().load(|load| load.in_flight = 1);
    let dear = timed(cluster("dear", 9.0, 100.0), 100);
    assert_eq!(by_slo(&[alone, dear.clone()])[0], ("alone".to_owned(), SloCheapest));
    assert_eq!(by_slo(&[shared, dear])[0], ("dear".to_owned(), SloCheapest));
}

#[test]
fn where_none_meets_the_targets_the_fastest_goes_first() {
    let parts = [
        timed(cluster("slow", 0.01, 100.0), 4_000),
        timed(cluster("slower", 0.001, 100.0), 4_500),
        timed(provider("api", 0.001, 0.001), 3_000),
    ];
    assert_eq!(
        by_slo(&parts),
        named(&[("api", SloFastest), ("slow", ClusterFallback), ("slower", ClusterFallback)])
    );
    assert_eq!(by_slo(&parts[..2]), named(&[("slow", SloFastest), ("slower", SloFastest)]));
}

#[test]
fn what_was_never_measured_gets_the_chance_and_what_has_no_price_comes_after_it() {
    let parts = [
        timed(cluster("late", 0.01, 100.0), 3_000),
        provider("unpriced", 1.0, 1.0).unpriced(),
        provider("unmeasured", 1.0, 1.0),
    ];
    assert_eq!(
        by_slo(&parts),
        named(&[("unmeasured", SloCheapest), ("unpriced", ExternalFallback), ("late", ClusterFallback)])
    );
}

#[test]
fn the_operators_targets_hold() {
    let parts = [timed(cluster("cheap", 0.1, 100.0), 400), timed(cluster("dear", 9.0, 100.0), 100)];
    let first = |ttft| {
        let slo = Slo { ttft: Duration::from_millis(ttft), ..Slo::default() };
        let policy = Policy { slo, ..Policy::default() };
        planned(&parts, &chat_by(Strategy::Slo), &policy, 0).steps[0].backend.to_string()
    };
    assert_eq!([first(400), first(399), first(50)], ["cheap", "dear", "dear"]);
}
