//! What is ejected for its failures, and what is tried after all.

use crate::scene::{NOW, Part, chat, chat_by, cluster, ejected, planned, provider};
use llm_router_logic::guard::breaker::BreakerState;
use llm_router_logic::money::Money;
use llm_router_logic::route::{Plan, Policy, Reason, Strategy};
use std::time::Duration;

fn well(name: &str) -> Part {
    cluster(name, 1.0, 100.0)
}

/// Its breaker lets the next trial through in `secs`.
fn broken(name: &str, secs: u64) -> Part {
    ejected(well(name), "tiny", BreakerState::Open { until: NOW + Duration::from_secs(secs) })
}

fn plan(parts: &[Part]) -> Plan {
    planned(parts, &chat(), &Policy::default(), 7)
}

/// Backends of the steps in order, a `!` before those that are tried although they were ejected.
fn tried(plan: &Plan) -> Vec<String> {
    let mark = |reason| if reason == Reason::LeastBad { "!" } else { "" };
    plan.steps.iter().map(|step| format!("{}{}", mark(step.reason), step.backend)).collect()
}

#[test]
fn half_of_a_pool_may_stay_ejected_and_beyond_that_the_least_bad_comes_last() {
    let few = plan(&[well("a"), well("b"), broken("c", 9), broken("d", 3)]);
    assert_eq!(tried(&few).len(), 2, "two of four may be ejected: {:?}", tried(&few));
    assert_eq!(few.refused.len(), 2);

    let many = plan(&[well("a"), broken("b", 9), broken("c", 3), broken("d", 6)]);
    assert_eq!(tried(&many), ["a", "!c"], "the one whose trial is nearest is the least bad");
    assert_eq!((many.ejection.serving, many.ejection.ejected, many.ejection.readmitted), (4, 3, 1));

    let all = plan(&[broken("a", 9), broken("b", 3), broken("c", 6), broken("d", 60)]);
    assert_eq!(tried(&all), ["!b", "!c"]);
}

#[test]
fn the_record_says_why_it_was_ejected() {
    let both = plan(&[broken("a", 4), broken("b", 9)]);
    assert_eq!(tried(&both), ["!a"]);
    let refusal = both.steps[0].ejected_for.as_ref().unwrap();
    assert_eq!(refusal.to_string(), "its circuit breaker is open: 5 failures in a row");
    assert_eq!(refusal.retry_after(NOW), Some(Duration::from_secs(4)));
    let json = serde_json::to_value(&both).unwrap();
    assert_eq!(json["ejection"]["readmitted"], 1);
    assert_eq!(json["steps"][0]["reason"], "least_bad");
    assert_eq!(json["steps"][0]["ejected_for"]["cause"]["failures"], 5);
    let calm = serde_json::to_value(plan(&[well("a")])).unwrap();
    assert!(calm.get("ejection").is_none() && calm["steps"][0].get("ejected_for").is_none(), "{calm}");
}

#[test]
fn a_backend_alone_with_its_model_is_spared_in_its_outage() {
    let alone = plan(&[broken("a", 4)]);
    assert!(alone.steps.is_empty(), "{:?}", tried(&alone));
    assert_eq!(alone.refused[0].1.retry_after(NOW), Some(Duration::from_secs(4)));
}

#[test]
fn a_half_open_backend_whose_trial_is_under_way_is_the_least_bad() {
    let trial = ejected(well("b"), "tiny", BreakerState::HalfOpen).load(|load| load.trial_taken = true);
    assert_eq!(tried(&plan(&[broken("a", 1), trial])), ["!b"]);
}

#[test]
fn what_probes_found_dead_counts_as_ejected_but_is_never_tried() {
    let dead = plan(&[well("a").ill(), well("b").ill(), broken("c", 5), well("d")]);
    assert_eq!(tried(&dead), ["d", "!c"]);
    assert_eq!(tried(&plan(&[well("a").ill(), well("b").ill()])), [""; 0]);
}

#[test]
fn only_backends_that_could_serve_the_model_are_the_pool() {
    let other = |name: &str| well(name).model(|model| model.name = "other".into());
    let parts = [other("x"), other("y"), other("z"), broken("a", 5), broken("b", 2)];
    assert_eq!(tried(&plan(&parts)), ["!b"], "three that serve another model do not count");
}

#[test]
fn an_ejected_backend_is_not_tried_against_any_other_bound() {
    let mut policy = Policy { enable_external_fallback: false, ..Policy::default() };
    let api = ejected(
        provider("api", 1.0, 1.0),
        "tiny",
        BreakerState::Open { until: NOW + Duration::from_secs(1) },
    );
    let planned_for = |policy: &Policy, request: &_| {
        tried(&planned(&[broken("a", 5), api.clone(), api.clone()], request, policy, 7))
    };
    assert_eq!(planned_for(&policy, &chat_by(Strategy::ClusterFirst)), ["!a"]);
    policy.enable_external_fallback = true;
    assert_eq!(planned_for(&policy, &chat_by(Strategy::ClusterFirst)).len(), 2);
    let mut frugal = chat();
    frugal.hints.max_cost = Some(Money::ZERO);
    assert!(planned_for(&policy, &frugal).is_empty(), "a client's maximum cost holds for it too");
    let busy = broken("a", 5).report(|report| report.backoff_ms = 2_000);
    assert!(plan(&[busy]).steps.is_empty(), "it asked to be left alone");
}

#[test]
fn the_operator_sets_the_cap() {
    let parts = [broken("a", 5), broken("b", 2), broken("c", 9)];
    let counted = |percent| {
        let mut policy = Policy::default();
        policy.guards.ejected_max_percent = percent;
        planned(&parts, &chat(), &policy, 7).steps.len()
    };
    assert_eq!([0, 34, 50, 67, 100].map(counted), [3, 2, 2, 1, 0]);
}
