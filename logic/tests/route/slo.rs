//! Strategy `slo`: the cheapest that is predicted to meet the targets, else the fastest.

use crate::scene::{Part, chat_by, cluster, planned, provider, steps};
use llm_router_logic::guard::pace::PaceNow;
use llm_router_logic::report::Health;
use llm_router_logic::request::Request;
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

/// A machine of which it is known how fast it reads.
fn paced(name: &str, cost_per_hour: f64, pace: PaceNow) -> Part {
    timed(cluster(name, cost_per_hour, 100.0), 500).load(|load| load.pace = Some(pace))
}

#[test]
fn a_prompt_goes_only_where_a_prompt_of_its_length_is_read_in_time() {
    // 13 ms a token: 100 tokens in 1.3 s, 1,000 in 13 s.
    let slow = PaceNow { base: 0, per_token: 13_000.0, unread_tokens: 0, excess: 1.2 };
    let fast = PaceNow { base: 20_000, per_token: 200.0, unread_tokens: 0, excess: 1.5 };
    let parts = [paced("cheap-but-slow", 0.01, slow), paced("fast", 1.0, fast)];
    assert_eq!(by_slo(&parts)[0], ("cheap-but-slow".to_owned(), SloCheapest));
    let long = Request { input_tokens: 1_000, ..chat_by(Strategy::Slo) };
    assert_eq!(steps(&parts, &long)[0], ("fast".to_owned(), SloCheapest));
}

#[test]
fn prompts_that_are_still_to_be_read_count_and_so_does_what_seldom_happens() {
    let pace = |unread_tokens, excess| PaceNow { base: 20_000, per_token: 200.0, unread_tokens, excess };
    let first =
        |pace: PaceNow| by_slo(&[paced("own", 0.1, pace), paced("other", 1.0, pace_of_other())])[0].clone().0;
    assert_eq!(first(pace(0, 1.5)), "own");
    assert_eq!(first(pace(9_000, 1.0)), "own", "read in 1.84 s");
    assert_eq!(first(pace(10_000, 1.0)), "other", "read in 2.04 s");
    assert_eq!(first(pace(9_000, 1.5)), "other", "one answer in fifty would come after 2.7 s");
}

fn pace_of_other() -> PaceNow {
    PaceNow { base: 20_000, per_token: 200.0, unread_tokens: 0, excess: 1.0 }
}

#[test]
fn a_wait_for_a_place_counts_by_how_long_places_are_held() {
    let pace = PaceNow { base: 20_000, per_token: 200.0, unread_tokens: 0, excess: 1.0 };
    let full = |hold_secs| {
        paced("full", 0.1, pace).load(|load| {
            load.in_flight = 4;
            load.hold = Some(Duration::from_secs(hold_secs));
        })
    };
    let first = |hold_secs| by_slo(&[full(hold_secs), paced("free", 1.0, pace_of_other())])[0].clone().0;
    // One of four places comes free every quarter of the time each is held.
    assert_eq!(first(1), "full");
    assert_eq!(first(20), "free");
}
