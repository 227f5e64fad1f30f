//! What holds of every plan, whatever the cluster.

use crate::scene::{NOW, Part, chat, cluster, planned, provider, seen};
use llm_router_logic::money::Money;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::request::Request;
use llm_router_logic::route::{LocalLoad, Plan, Policy, Reason, Strategy};
use llm_router_logic::time::Moment;
use proptest::prelude::{Strategy as Generator, any, prop, prop_assert, prop_assert_eq, proptest};
use std::collections::BTreeSet;
use std::time::Duration;

fn any_health() -> impl Generator<Value = Health> {
    prop::sample::select(vec![
        Health::Healthy,
        Health::Healthy,
        Health::Unknown,
        Health::Loading,
        Health::Unhealthy,
    ])
}

fn any_report() -> impl Generator<Value = Report> {
    let times = (prop::option::of(0u32..8_000), prop::option::of(0u32..3_000), prop::option::of(0u32..300));
    (
        any_health(),
        0u32..14,
        0u32..6,
        prop::option::of(1.0f32..200.0),
        times,
        prop::sample::select(vec![0u32, 0, 0, 900]),
    )
        .prop_map(|(health, queue_depth, in_flight, tokens_per_second, times, backoff_ms)| Report {
            health,
            queue_depth,
            in_flight,
            slots: None,
            tokens_per_second,
            latency_p95_ms: times.0,
            ttft_ms: times.1,
            rtt_ms: times.2,
            backoff_ms,
            breaker_open: false,
        })
}

fn any_load() -> impl Generator<Value = LocalLoad> {
    (0u32..8, 0u32..14, 0u32..8, prop::option::weighted(0.1, 0u64..2_000)).prop_map(
        |(in_flight, waiting, limit, closed)| LocalLoad {
            in_flight,
            waiting,
            limit,
            closed_until: closed.map(Moment::from_secs),
            trial_taken: false,
            ..LocalLoad::default()
        },
    )
}

fn any_part() -> impl Generator<Value = Part> {
    let price = (any::<bool>(), 0.01f64..5.0, 0.01f64..20.0, prop::bool::weighted(0.2));
    (
        price,
        prop::option::weighted(0.8, any_report()),
        prop::option::of((any_report(), 0u64..8_000)),
        any_load(),
        0u8..4,
    )
        .prop_map(|((is_cluster, low, high, unpriced), own, heard, load, model)| {
            let mut part = if is_cluster { cluster("c", low, 10.0) } else { provider("p", low, high) };
            if unpriced {
                part.spec.models[0].price = None;
            }
            if model == 0 {
                part.spec.models[0].name = "other".into();
            }
            part.own = own.map(seen);
            part.load = load;
            match heard {
                Some((report, age_ms)) => part.peer(report, age_ms),
                None => part,
            }
        })
}

fn any_parts() -> impl Generator<Value = Vec<Part>> {
    prop::collection::vec(any_part(), 0..14).prop_map(|mut parts| {
        for (n, part) in parts.iter_mut().enumerate() {
            part.spec.id = format!("b{n}").as_str().into();
        }
        parts
    })
}

fn any_request() -> impl Generator<Value = Request> {
    let hints = (
        prop::option::of(prop::sample::select(Strategy::ALL.to_vec())),
        prop::option::weighted(0.2, 0i128..1_000_000_000),
        prop::option::weighted(0.1, 0usize..14),
        prop::option::weighted(0.3, 0usize..14),
    );
    (0u32..5_000, 0u32..2_000, prop::bool::weighted(0.2), hints).prop_map(
        |(input_tokens, output_tokens, open, hints)| {
            let mut request = Request { input_tokens, output_tokens, ..chat() };
            if open {
                request.model = None;
            }
            request.hints.strategy = hints.0;
            request.hints.max_cost = hints.1.map(Money::from_pico);
            request.hints.backend = hints.2.map(|n| format!("b{n}").as_str().into());
            request.sticky = hints.3.map(|n| format!("b{n}").as_str().into());
            request
        },
    )
}

fn any_policy() -> impl Generator<Value = Policy> {
    (prop::sample::select(Strategy::ALL.to_vec()), any::<bool>(), 0i128..30_000_000_000).prop_map(
        |(strategy, enable_external_fallback, threshold)| Policy {
            strategy,
            enable_external_fallback,
            cluster_cost_threshold: Money::from_pico(threshold),
            ..Policy::default()
        },
    )
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.backend.as_str()).collect()
}

fn is_cluster(parts: &[Part], name: &str) -> bool {
    parts.iter().any(|part| part.spec.id.as_str() == name && part.spec.is_cluster())
}

proptest! {
    #[test]
    fn each_backend_is_exactly_once_a_step_or_refused(
        parts in any_parts(), request in any_request(), policy in any_policy(), draw: u64
    ) {
        let plan = planned(&parts, &request, &policy, draw);
        let steps: BTreeSet<&str> = names(&plan).into_iter().collect();
        let refused: BTreeSet<&str> = plan.refused.iter().map(|(id, _)| id.as_str()).collect();
        prop_assert_eq!(steps.len(), plan.steps.len());
        prop_assert_eq!(refused.len(), plan.refused.len());
        prop_assert!(steps.is_disjoint(&refused));
        prop_assert_eq!(steps.len() + refused.len(), parts.len());
        for step in &plan.steps {
            prop_assert_eq!(&parts[step.index].spec.id, &step.backend);
        }
    }

    #[test]
    fn the_same_arguments_give_the_same_plan(
        parts in any_parts(), request in any_request(), policy in any_policy(), draw: u64
    ) {
        prop_assert_eq!(planned(&parts, &request, &policy, draw), planned(&parts, &request, &policy, draw));
    }

    #[test]
    fn a_draw_changes_the_order_and_nothing_else(
        parts in any_parts(), request in any_request(), policy in any_policy(), one: u64, other: u64
    ) {
        let sorted = |draw| {
            let plan = planned(&parts, &request, &policy, draw);
            let mut names: Vec<String> = names(&plan).into_iter().map(str::to_owned).collect();
            names.sort();
            (names, plan.refused)
        };
        prop_assert_eq!(sorted(one), sorted(other));
    }

    #[test]
    fn no_step_is_ill_slow_queued_closed_or_over_the_clients_bounds(
        parts in any_parts(), request in any_request(), policy in any_policy(), draw: u64
    ) {
        let plan = planned(&parts, &request, &policy, draw);
        for step in &plan.steps {
            let part = &parts[step.index];
            prop_assert!(part.load.closed_until.is_none_or(|until| until <= NOW));
            if let Some(own) = part.own.as_ref().filter(|own| own.report.health != Health::Unknown) {
                prop_assert!(own.report.health != Health::Unhealthy);
                prop_assert_eq!(own.report.backoff_ms, 0);
                if part.spec.is_cluster() {
                    prop_assert_eq!(own.report.health, Health::Healthy);
                    prop_assert!(own.report.latency_p95_ms.is_none_or(|p95| p95 <= 5_000));
                    prop_assert!(own.report.queue_depth.max(part.load.waiting) <= 10);
                }
            }
            if let Some(max) = request.hints.max_cost {
                prop_assert!(step.predicted_cost().is_some_and(|cost| cost <= max));
            }
            if let Some(pinned) = &request.hints.backend {
                prop_assert_eq!(&step.backend, pinned);
                prop_assert_eq!(step.reason, Reason::Pinned);
            }
        }
    }

    #[test]
    fn cost_puts_the_cheapest_first_within_five_percent_and_unknown_last(parts in any_parts(), draw: u64) {
        let mut request = chat();
        request.hints.strategy = Some(Strategy::Cost);
        let plan = planned(&parts, &request, &Policy::default(), draw);
        let costs: Vec<Option<Money>> = plan.steps.iter().map(llm_router_logic::route::Step::predicted_cost).collect();
        let priced = costs.iter().take_while(|cost| cost.is_some()).count();
        prop_assert!(costs[priced..].iter().all(Option::is_none));
        for (place, cost) in costs[..priced].iter().flatten().enumerate() {
            let cheapest_later = costs[place..priced].iter().flatten().min().unwrap();
            prop_assert!(cost.pico() * 100 <= cheapest_later.pico() * 105);
        }
    }

    #[test]
    fn first_of_a_class_means_all_of_it_comes_first(parts in any_parts(), draw: u64) {
        for (strategy, clusters_first) in [(Strategy::ClusterFirst, true), (Strategy::ExternalFirst, false)] {
            let mut request = chat();
            request.hints.strategy = Some(strategy);
            let plan = planned(&parts, &request, &Policy::default(), draw);
            let in_turn: Vec<bool> =
                names(&plan).into_iter().map(|name| is_cluster(&parts, name) == clusters_first).collect();
            prop_assert!(in_turn.is_sorted_by(|earlier, later| earlier >= later), "{:?}", in_turn);
        }
    }

    #[test]
    fn a_reason_names_the_class_it_stands_for(
        parts in any_parts(), request in any_request(), policy in any_policy(), draw: u64
    ) {
        let plan = planned(&parts, &request, &policy, draw);
        for (place, step) in plan.steps.iter().enumerate() {
            let cluster = parts[step.index].spec.is_cluster();
            match step.reason {
                Reason::ClusterFirst | Reason::ClusterFallback | Reason::HybridCluster => prop_assert!(cluster),
                Reason::ExternalFirst | Reason::ExternalFallback => prop_assert!(!cluster),
                Reason::Sticky => prop_assert!(place == 0 && request.sticky.as_ref() == Some(&step.backend)),
                Reason::LowestCost | Reason::HybridCheapest | Reason::SloCheapest => {
                    prop_assert!(step.predicted_cost().is_some());
                }
                Reason::PrefixAffinity => prop_assert!(place == 0 && cluster),
                Reason::SloFastest | Reason::LowestLatency | Reason::Pinned | Reason::LeastBad => {}
            }
        }
    }

    #[test]
    fn with_external_fallback_off_no_provider_follows_a_cluster(parts in any_parts(), draw: u64) {
        let policy = Policy { enable_external_fallback: false, ..Policy::default() };
        for strategy in [Strategy::Hybrid, Strategy::ClusterFirst] {
            let mut request = chat();
            request.hints.strategy = Some(strategy);
            let plan = planned(&parts, &request, &policy, draw);
            let serving = |part: &Part| part.spec.is_cluster() && *part.spec.models[0].name == *"tiny";
            if parts.iter().any(serving) {
                prop_assert!(names(&plan).into_iter().all(|name| is_cluster(&parts, name)));
            }
        }
    }

    #[test]
    fn facts_that_never_were_are_never_made_up(parts in any_parts(), request in any_request(), draw: u64) {
        let plan = planned(&parts, &request, &Policy::default(), draw);
        for step in &plan.steps {
            let part = &parts[step.index];
            prop_assert!(step.fact_age() <= Duration::from_secs(5));
            if !part.spec.is_cluster() {
                prop_assert_eq!(step.predicted_cost().is_some(), part.spec.models[0].price.is_some());
            }
            let measured = |report: &Report| report.tokens_per_second.is_some();
            let known = part.own.as_ref().is_some_and(|own| measured(&own.report))
                || part.peers.iter().any(|peer| measured(&peer.report));
            if part.spec.is_cluster() && !known {
                prop_assert_eq!(step.predicted_cost(), None);
                prop_assert_eq!(step.cost_per_1k(), None);
            }
        }
    }
}
