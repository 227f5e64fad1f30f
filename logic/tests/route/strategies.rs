//! Each strategy's order, its fallbacks and the label of every place.

use crate::scene::{chat, chat_by, cluster, order, planned, provider, refusal, steps};
use llm_router_logic::money::Money;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::route::Reason::{
    ClusterFallback, ClusterFirst, ExternalFallback, ExternalFirst, HybridCheapest, HybridCluster,
    LowestCost, LowestLatency, Pinned, Sticky,
};
use llm_router_logic::route::{Policy, Reason, Refusal, Strategy};
use std::collections::BTreeSet;
use std::time::Duration;

fn named(expected: &[(&str, Reason)]) -> Vec<(String, Reason)> {
    expected.iter().map(|(name, reason)| ((*name).to_owned(), *reason)).collect()
}

#[test]
fn hybrid_takes_the_cheapest_cluster_under_the_threshold_even_where_a_provider_is_cheaper() {
    let parts =
        [provider("cheap-api", 0.01, 0.01), cluster("slow", 0.0928, 5.0), cluster("fast", 0.0928, 10.0)];
    assert_eq!(
        steps(&parts, &chat()),
        named(&[("fast", HybridCluster), ("slow", HybridCluster), ("cheap-api", ExternalFallback)])
    );
}

#[test]
fn hybrid_takes_the_cheapest_of_all_where_no_cluster_is_under_the_threshold() {
    // 0.378 $/h at 10 tokens/s is 0.01155 $ per 1,000: above the threshold of 0.01.
    let dear = cluster("dear", 0.378, 10.0);
    let parts = [dear.clone(), provider("api", 0.5, 1.5), provider("dear-api", 30.0, 60.0)];
    assert_eq!(
        steps(&parts, &chat()),
        named(&[("api", HybridCheapest), ("dear", ClusterFallback), ("dear-api", ExternalFallback)])
    );
    let parts = [dear, provider("dear-api", 30.0, 60.0)];
    assert_eq!(steps(&parts, &chat()), named(&[("dear", HybridCheapest), ("dear-api", ExternalFallback)]));
}

#[test]
fn hybrid_prefers_at_exactly_the_threshold_and_not_above() {
    let parts = [cluster("a", 0.0928, 10.0), provider("api", 0.01, 0.01)];
    let cost = planned(&parts, &chat(), &Policy::default(), 0).steps[0].cost_per_1k().unwrap();
    for (threshold, reason) in [(cost, HybridCluster), (cost - Money::from_pico(1), HybridCheapest)] {
        let policy = Policy { cluster_cost_threshold: threshold, ..Policy::default() };
        assert_eq!(planned(&parts, &chat(), &policy, 0).steps[0].reason, reason);
    }
}

#[test]
fn hybrid_falls_back_to_providers_when_every_cluster_is_down() {
    let parts = [cluster("a", 0.0928, 10.0).ill(), provider("dear", 3.0, 15.0), provider("cheap", 0.5, 1.5)];
    assert_eq!(steps(&parts, &chat()), named(&[("cheap", ExternalFallback), ("dear", ExternalFallback)]));
}

#[test]
fn hybrid_without_a_cluster_for_the_model_is_the_cheapest_and_no_fallback() {
    let other = cluster("a", 0.0928, 10.0).model(|model| model.name = "other".into());
    let parts = [other, provider("dear", 3.0, 15.0), provider("cheap", 0.5, 1.5)];
    assert_eq!(steps(&parts, &chat()), named(&[("cheap", HybridCheapest), ("dear", HybridCheapest)]));
}

#[test]
fn what_has_no_known_cost_comes_last_and_only_as_a_fallback() {
    let parts = [
        cluster("unmeasured", 0.0928, 1.0).unpriced(),
        provider("unpriced", 1.0, 1.0).unpriced(),
        provider("dear", 500.0, 500.0),
    ];
    for (strategy, reason) in [(Strategy::Hybrid, HybridCheapest), (Strategy::Cost, LowestCost)] {
        let steps = steps(&parts, &chat_by(strategy));
        assert_eq!(steps[0], ("dear".to_owned(), reason));
        assert!(steps[1..].contains(&("unmeasured".to_owned(), ClusterFallback)), "{steps:?}");
        assert!(steps[1..].contains(&("unpriced".to_owned(), ExternalFallback)), "{steps:?}");
    }
    for strategy in [Strategy::Hybrid, Strategy::Cost] {
        assert_eq!(steps(&parts[..1], &chat_by(strategy)), named(&[("unmeasured", ClusterFallback)]));
        assert_eq!(steps(&parts[1..2], &chat_by(strategy)), named(&[("unpriced", ExternalFallback)]));
    }
}

#[test]
fn cost_compares_this_requests_price_at_a_provider_with_the_machine_time_it_takes() {
    // 100 tokens out at 10 tokens/s of a machine at 0.0928 $/h: 0.00028 $.
    let machine = cluster("machine", 0.0928, 10.0);
    let input_heavy = provider("input-heavy", 5.0, 0.1);
    let output_heavy = provider("output-heavy", 0.1, 5.0);
    let parts = [output_heavy, machine, input_heavy];
    let mut request = chat_by(Strategy::Cost);
    request.input_tokens = 10;
    assert_eq!(
        steps(&parts, &request),
        named(&[
            ("input-heavy", LowestCost),
            ("machine", ClusterFallback),
            ("output-heavy", ExternalFallback)
        ])
    );
    request.input_tokens = 10_000;
    request.output_tokens = 10;
    assert_eq!(order(&parts, &request), ["machine", "output-heavy", "input-heavy"]);
}

#[test]
fn latency_takes_the_lowest_predicted_ttft() {
    let timed = |name: &str, ttft: u32, rtt: u32| {
        cluster(name, 1.0, 10.0).report(|report| {
            report.ttft_ms = Some(ttft);
            report.rtt_ms = Some(rtt);
        })
    };
    // 4 slots: 400 + 50, 300 + 90, 200 × 8/4 + 100 with seven running.
    let parts = [
        timed("near", 400, 50),
        timed("quick", 300, 90),
        timed("busy", 200, 100).load(|load| load.in_flight = 7),
    ];
    let plan = planned(&parts, &chat_by(Strategy::Latency), &Policy::default(), 0);
    let ttfts: Vec<u128> = plan.steps.iter().map(|step| step.predicted_ttft().unwrap().as_millis()).collect();
    assert_eq!(ttfts, [390, 450, 500]);
    assert_eq!(
        steps(&parts, &chat_by(Strategy::Latency)),
        named(&[("quick", LowestLatency), ("near", LowestLatency), ("busy", LowestLatency)])
    );
}

#[test]
fn latency_tries_what_was_never_measured_so_that_it_gets_measured() {
    let parts = [
        provider("known", 1.0, 1.0).report(|report| {
            report.health = Health::Healthy;
            report.ttft_ms = Some(300);
        }),
        cluster("unknown", 1.0, 10.0).report(|report| report.rtt_ms = Some(80)),
    ];
    let plan = planned(&parts, &chat_by(Strategy::Latency), &Policy::default(), 0);
    assert_eq!(plan.steps[0].backend.as_str(), "unknown");
    assert_eq!(plan.steps[0].predicted_ttft(), None, "unknown stays unknown in the record");
    assert_eq!(plan.steps[1].reason, ExternalFallback);
}

#[test]
fn cluster_first_takes_clusters_by_cost_then_unmeasured_ones_then_providers() {
    let parts = [
        provider("free", 0.0, 0.0),
        cluster("unmeasured", 0.01, 1.0).unpriced(),
        cluster("dear", 9.0, 10.0),
        cluster("cheap", 0.1, 10.0),
        provider("unpriced", 1.0, 1.0).unpriced(),
    ];
    assert_eq!(
        steps(&parts, &chat_by(Strategy::ClusterFirst)),
        named(&[
            ("cheap", ClusterFirst),
            ("dear", ClusterFirst),
            ("unmeasured", ClusterFirst),
            ("free", ExternalFallback),
            ("unpriced", ExternalFallback)
        ])
    );
    assert_eq!(steps(&parts[..1], &chat_by(Strategy::ClusterFirst)), named(&[("free", ExternalFallback)]));
}

#[test]
fn external_first_takes_providers_by_cost_then_clusters() {
    let parts = [
        cluster("cheap", 0.0, 10.0),
        provider("dear", 9.0, 9.0),
        provider("unpriced", 1.0, 1.0).unpriced(),
        provider("low", 1.0, 1.0),
    ];
    assert_eq!(
        steps(&parts, &chat_by(Strategy::ExternalFirst)),
        named(&[
            ("low", ExternalFirst),
            ("dear", ExternalFirst),
            ("unpriced", ExternalFirst),
            ("cheap", ClusterFallback)
        ])
    );
    assert_eq!(steps(&parts[..1], &chat_by(Strategy::ExternalFirst)), named(&[("cheap", ClusterFallback)]));
}

#[test]
fn without_external_fallback_a_provider_never_stands_in_for_a_cluster() {
    let policy = Policy { enable_external_fallback: false, ..Policy::default() };
    let ill = cluster("ill", 0.0928, 10.0).ill();
    let parts = [ill.clone(), provider("api", 0.5, 1.5)];
    for strategy in [Strategy::Hybrid, Strategy::ClusterFirst] {
        let plan = planned(&parts, &chat_by(strategy), &policy, 0);
        assert!(plan.steps.is_empty());
        assert!(plan.refused.contains(&("api".into(), Refusal::ExternalFallbackDisabled)));
    }
    for strategy in [Strategy::Cost, Strategy::Latency, Strategy::ExternalFirst] {
        assert_eq!(planned(&parts, &chat_by(strategy), &policy, 0).steps.len(), 1, "{strategy}");
    }
    let other_model = [ill.clone().model(|model| model.name = "other".into()), parts[1].clone()];
    assert_eq!(planned(&other_model, &chat(), &policy, 0).steps.len(), 1, "no cluster serves the model");
    let mut pinned = chat();
    pinned.hints.backend = Some("api".into());
    assert_eq!(planned(&parts, &pinned, &policy, 0).steps.len(), 1, "the client asked for the provider");
    let mut images = chat();
    images.needs.insert("vision");
    assert_eq!(planned(&parts, &images, &policy, 0).steps.len(), 1, "no cluster can see");
}

#[test]
fn without_external_fallback_a_cluster_nobody_saw_yet_still_keeps_providers_out() {
    let policy = Policy { enable_external_fallback: false, ..Policy::default() };
    let mut unseen = cluster("unseen", 0.0928, 10.0).spec(|spec| spec.models.clear());
    unseen.own = None;
    let mut any = chat();
    any.model = None;
    let plan = planned(&[unseen, provider("api", 0.5, 1.5)], &any, &policy, 0);
    assert!(plan.steps.is_empty());
    assert!(plan.refused.contains(&("unseen".into(), Refusal::NeverSeen)));
}

#[test]
fn the_policys_strategy_holds_unless_the_request_names_one() {
    let parts = [cluster("a", 0.0928, 10.0), provider("api", 0.5, 1.5)];
    let policy = Policy { strategy: Strategy::ExternalFirst, ..Policy::default() };
    assert_eq!(planned(&parts, &chat(), &policy, 0).strategy, Strategy::ExternalFirst);
    assert_eq!(planned(&parts, &chat_by(Strategy::Cost), &policy, 0).strategy, Strategy::Cost);
}

#[test]
fn a_sticky_backend_goes_first_while_it_may_serve() {
    let parts = [cluster("cheap", 0.01, 10.0), cluster("dear", 0.05, 10.0), provider("api", 0.5, 1.5)];
    let mut request = chat();
    request.sticky = Some("dear".into());
    assert_eq!(
        steps(&parts, &request),
        named(&[("dear", Sticky), ("cheap", HybridCluster), ("api", ExternalFallback)])
    );
    request.sticky = Some("api".into());
    assert_eq!(
        steps(&parts, &request),
        named(&[("api", Sticky), ("cheap", ClusterFallback), ("dear", ClusterFallback)])
    );
    let ill = [parts[0].clone(), parts[1].clone().ill()];
    request.sticky = Some("dear".into());
    assert_eq!(steps(&ill, &request), named(&[("cheap", HybridCluster)]));
    request.sticky = Some("gone".into());
    assert_eq!(steps(&ill, &request), named(&[("cheap", HybridCluster)]));
}

#[test]
fn a_pinned_backend_is_the_only_one() {
    let parts = [cluster("a", 0.0928, 10.0), provider("api", 0.5, 1.5)];
    let mut request = chat();
    request.hints.backend = Some("api".into());
    request.sticky = Some("a".into());
    assert_eq!(steps(&parts, &request), named(&[("api", Pinned)]));
    assert_eq!(refusal(&parts, &request, "a"), Some(Refusal::NotPinned { pinned: "api".into() }));
    request.hints.backend = Some("nobody".into());
    assert!(steps(&parts, &request).is_empty());
}

#[test]
fn among_equals_the_one_with_room_goes_first() {
    let busy = cluster("busy", 0.0928, 10.0).load(|load| load.in_flight = 4);
    let parts = [busy, cluster("free", 0.0928, 10.0)];
    for draw in 0..50 {
        assert_eq!(planned(&parts, &chat(), &Policy::default(), draw).steps[0].backend.as_str(), "free");
    }
}

#[test]
fn what_peers_have_running_counts_as_load() {
    let running = Report { health: Health::Healthy, in_flight: 4, ..Report::default() };
    let parts = [
        cluster("busy", 0.0928, 10.0).peer(running, 400),
        cluster("was-busy", 0.0928, 10.0).peer(running, 6_000),
    ];
    for draw in 0..50 {
        assert_eq!(planned(&parts, &chat(), &Policy::default(), draw).steps[0].backend.as_str(), "was-busy");
    }
}

#[test]
fn exact_equals_are_drawn_by_lot() {
    let parts = [cluster("a", 0.0928, 10.0), cluster("b", 0.0928, 10.0)];
    let first = |draw| planned(&parts, &chat(), &Policy::default(), draw).steps[0].backend.to_string();
    let times_a = (0..1_000).filter(|draw| first(*draw) == "a").count();
    assert!((400..600).contains(&times_a), "{times_a} of 1,000");
}

#[test]
fn clearly_cheaper_goes_first_while_it_has_room() {
    let busy = cluster("cheap", 0.0928, 10.0)
        .report(|report| report.slots = Some(4))
        .load(|load| load.in_flight = 3);
    let parts = [busy, cluster("six-percent-dearer", 0.0984, 10.0)];
    assert_eq!(order(&parts, &chat()), ["cheap", "six-percent-dearer"]);
    let near = [parts[0].clone(), cluster("four-percent-dearer", 0.0965, 10.0)];
    assert_eq!(order(&near, &chat()), ["four-percent-dearer", "cheap"]);
}

#[test]
fn free_places_at_any_cluster_come_before_a_queue_at_the_cheapest() {
    let full = cluster("cheap", 0.0928, 10.0).report(|report| report.slots = Some(4)).load(|load| {
        load.in_flight = 4;
        load.waiting = 10;
    });
    let parts = [full, cluster("twice-as-dear", 0.1856, 10.0), provider("api", 0.01, 0.01)];
    for strategy in [Strategy::Hybrid, Strategy::ClusterFirst] {
        assert_eq!(order(&parts, &chat_by(strategy)), ["twice-as-dear", "cheap", "api"], "{strategy}");
    }
    assert_eq!(order(&parts, &chat_by(Strategy::Cost)), ["api", "cheap", "twice-as-dear"]);
}

/// A view is seconds old on other nodes: if all of them took its least loaded backend, they would all
/// take the same one.
#[test]
fn many_near_equals_are_sampled_and_never_the_busiest_taken() {
    let parts: Vec<_> =
        (0..9).map(|n| cluster(&format!("c{n}"), 0.0928, 10.0).load(|load| load.in_flight = n)).collect();
    let parts: Vec<_> = parts.into_iter().map(|p| p.report(|report| report.slots = Some(100))).collect();
    for strategy in [Strategy::Hybrid, Strategy::Latency] {
        let request = chat_by(strategy);
        let timed: Vec<_> = parts.iter().map(|p| p.clone().report(|r| r.ttft_ms = Some(100))).collect();
        let first = |draw| planned(&timed, &request, &Policy::default(), draw).steps[0].backend.to_string();
        let firsts: Vec<String> = (0..900).map(first).collect();
        let seen: BTreeSet<&String> = firsts.iter().collect();
        assert!(seen.len() >= 6, "{strategy} always takes {seen:?}");
        let least = firsts.iter().filter(|name| *name == "c0").count();
        // The least loaded is in 3 of 9 drawn.
        assert!((230..370).contains(&least), "{strategy}: {least} of 900");
        assert!(!seen.contains(&"c7".to_owned()) && !seen.contains(&"c8".to_owned()), "{strategy}: {seen:?}");
    }
}

#[test]
fn latency_never_samples_what_is_clearly_slower_while_a_fast_one_has_room() {
    let timed = |name: String, ttft| cluster(&name, 1.0, 10.0).report(|report| report.ttft_ms = Some(ttft));
    let mut parts: Vec<_> = (0..8).map(|n| timed(format!("slow{n}"), 900)).collect();
    parts.push(timed("fast0".into(), 100));
    parts.push(timed("fast1".into(), 120));
    for draw in 0..200 {
        let plan = planned(&parts, &chat_by(Strategy::Latency), &Policy::default(), draw);
        assert!(plan.steps[0].backend.as_str().starts_with("fast"));
        assert!(plan.steps[1].backend.as_str().starts_with("fast"));
    }
    for part in &mut parts[8..] {
        part.load.in_flight = 50;
    }
    let plan = planned(&parts, &chat_by(Strategy::Latency), &Policy::default(), 1);
    assert!(plan.steps[0].backend.as_str().starts_with("slow"), "the fast ones are overloaded");
}

#[test]
fn a_step_says_on_how_old_a_fact_it_rests() {
    let healthy = Report { health: Health::Healthy, tokens_per_second: Some(10.0), ..Report::default() };
    let mut heard = cluster("heard", 0.0928, 1.0).peer(healthy, 700);
    heard.own = None;
    let plan = planned(&[heard], &chat(), &Policy::default(), 0);
    assert_eq!(plan.steps[0].fact_age(), Duration::from_millis(700));
    assert_eq!(plan.steps[0].cost_per_1k().map(Money::pico), Some(2_835_555_556));
}
