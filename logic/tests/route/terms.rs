//! What else than price a candidate's place rests on: traffic, distance, the client's deadline, and what
//! has been read there before.

use crate::scene::{Part, chat, chat_by, cluster, planned, provider};
use llm_router_logic::backend::Placement;
use llm_router_logic::ids::Region;
use llm_router_logic::money::Money;
use llm_router_logic::report::Report;
use llm_router_logic::request::Request;
use llm_router_logic::route::network::{Link, Network};
use llm_router_logic::route::{CostBasis, Plan, Policy, Reason, Strategy};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

fn elsewhere(part: Part, in_cloud: &str, in_region: &str) -> Part {
    part.spec(|spec| {
        if let Placement::Cluster { cloud, region, .. } = &mut spec.placement {
            (*cloud, *region) = (in_cloud.to_owned(), Region::new(in_region));
        }
    })
}

fn in_aws() -> Policy {
    Policy {
        strategy: Strategy::Cost,
        network: Network { cloud: "aws".to_owned(), ..Network::default() },
        ..Policy::default()
    }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.backend.as_str()).collect()
}

#[test]
fn traffic_is_priced_by_where_it_goes() {
    let parts = [
        cluster("here", 0.1, 10.0),
        elsewhere(cluster("other-region", 0.1, 10.0), "aws", "us-east-1"),
        elsewhere(cluster("other-cloud", 0.1, 10.0), "gcp", "us-central1"),
        provider("api", 0.5, 1.5),
    ];
    let request = Request { input_tokens: 1_000, output_tokens: 500, stream: true, ..chat() };
    let plan = planned(&parts, &request, &in_aws(), 1);
    let egress = |name: &str| {
        let step = plan.steps.iter().find(|step| step.backend.as_str() == name).unwrap();
        step.terms().egress.pico()
    };
    assert_eq!(egress("here"), 0);
    // 4,000 bytes out and 100,000 back, at 20 pico-dollars a byte each way.
    assert_eq!(egress("other-region"), 104_000 * 20);
    assert_eq!(egress("other-cloud"), 4_000 * 90 + 100_000 * 120);
    assert_eq!(egress("api"), 4_000 * 90, "what a provider sends is free");
}

#[test]
fn between_equal_machines_the_dearer_way_loses_and_a_link_has_its_own_price() {
    let parts =
        [elsewhere(cluster("far", 0.0001, 100.0), "gcp", "us-central1"), cluster("near", 0.0001, 100.0)];
    let request = Request { output_tokens: 500, stream: true, ..chat() };
    for basis in [CostBasis::Average, CostBasis::Marginal] {
        let policy = Policy { cost_basis: basis, ..in_aws() };
        for draw in 0..20 {
            assert_eq!(names(&planned(&parts, &request, &policy, draw)), ["near", "far"], "{basis:?}");
        }
    }
    let mut free = in_aws();
    free.network.links.push(Link {
        between: [Region::new("us-central1"), Region::new("us-west-2")],
        rtt: Some(Duration::from_millis(40)),
        egress_per_gb: Some(Money::ZERO),
    });
    let plan = planned(&parts, &request, &free, 1);
    let far = plan.steps.iter().find(|step| step.backend.as_str() == "far").unwrap();
    assert_eq!((far.terms().egress, far.terms().rtt), (Money::ZERO, Some(40_000)));
}

#[test]
fn a_measured_round_trip_goes_before_a_configured_one() {
    let mut policy = in_aws();
    policy.network.links.push(Link {
        between: [Region::new("us-west-2"), Region::new("us-west-2")],
        rtt: Some(Duration::from_millis(40)),
        egress_per_gb: None,
    });
    let measured = cluster("a", 0.1, 10.0).report(|report| report.rtt_ms = Some(7));
    assert_eq!(planned(&[measured], &chat(), &policy, 1).steps[0].terms().rtt, Some(7_000));
    assert_eq!(planned(&[cluster("a", 0.1, 10.0)], &chat(), &policy, 1).steps[0].terms().rtt, Some(40_000));
}

#[test]
fn who_would_miss_the_deadline_comes_behind_who_would_not() {
    let timed = |name: &str, usd, speed, ttft| {
        cluster(name, usd, speed).report(|report: &mut Report| report.ttft_ms = Some(ttft))
    };
    // 100 tokens take 10 s there, and one second here.
    let parts = [timed("slow", 0.01, 10.0, 200), timed("quick", 5.0, 100.0, 200)];
    for strategy in Strategy::ALL {
        let mut request = chat_by(strategy);
        request.hints.deadline = Some(Duration::from_secs(3));
        let plan = planned(&parts, &request, &Policy::default(), 5);
        assert_eq!(names(&plan), ["quick", "slow"], "{strategy}");
        let met: Vec<_> = plan.steps.iter().map(|step| step.terms().meets_deadline).collect();
        assert_eq!(met, [Some(true), Some(false)]);
        let patient = planned(&parts, &chat_by(Strategy::Cost), &Policy::default(), 5);
        assert_eq!(names(&patient), ["slow", "quick"]);
        assert_eq!(patient.steps[0].terms().meets_deadline, None);
    }
}

#[test]
fn an_unmeasured_cluster_is_tried_by_one_request_at_a_time() {
    let known = cluster("known", 0.1, 10.0).report(|report| report.ttft_ms = Some(300));
    let request = chat_by(Strategy::Latency);
    let first =
        |other: Part| names(&planned(&[known.clone(), other], &request, &Policy::default(), 1))[0].to_owned();
    assert_eq!(first(cluster("new", 0.1, 10.0)), "new");
    assert_eq!(first(cluster("new", 0.1, 10.0).load(|load| load.in_flight = 1)), "known");
}

/// Clusters in three regions, whose prices differ as clouds' do.
fn fleet() -> Vec<Part> {
    ["aws", "gcp", "azure"]
        .iter()
        .enumerate()
        .map(|(n, cloud)| {
            elsewhere(cluster(&format!("{cloud}-llama"), 0.0928 + 0.004 * n as f64, 10.0), cloud, cloud)
        })
        .collect()
}

fn beginning(prefix: u64) -> Request {
    Request { prefix: Some(prefix.wrapping_mul(0x9e37_79b9_7f4a_7c15)), ..chat() }
}

#[test]
fn prompts_that_begin_alike_meet_at_one_cluster_from_wherever_they_come() {
    let mut seen = BTreeSet::new();
    for prefix in 0..60 {
        let request = beginning(prefix);
        let first = |draw, parts: &[Part]| {
            let plan = planned(parts, &request, &Policy::default(), draw);
            assert_eq!(plan.steps[0].reason, Reason::PrefixAffinity);
            assert!(plan.steps[0].terms().prefix);
            plan.steps[0].backend.to_string()
        };
        let here = first(1, &fleet());
        let mut elsewhere = fleet();
        elsewhere.reverse();
        assert!((2..8).all(|draw| first(draw, &elsewhere) == here));
        seen.insert(here);
    }
    assert_eq!(seen.len(), 3, "different beginnings spread");
}

#[test]
fn affinity_gives_up_neither_health_nor_room_nor_price_nor_a_session() {
    let request = beginning(3);
    let plan = |parts: &[Part], request: &Request| planned(parts, request, &Policy::default(), 1);
    let own = plan(&fleet(), &request).steps[0].backend.clone();
    let at = fleet().iter().position(|part| part.spec.id == own).unwrap();
    let bent = |bend: fn(Part) -> Part| {
        let mut parts = fleet();
        parts[at] = bend(parts[at].clone());
        plan(&parts, &request).steps[0].backend.clone()
    };
    assert_ne!(bent(Part::ill), own);
    assert_ne!(bent(|part| part.load(|load| load.in_flight = 4)), own, "it is full");
    assert_ne!(
        bent(|part| part.load(|load| load.in_flight = 3)),
        own,
        "it has more than 1.25 times its share"
    );
    assert_ne!(
        bent(|part| part.report(|report| report.tokens_per_second = Some(4.0))),
        own,
        "it is far dearer"
    );
    let mut session = request.clone();
    session.sticky = fleet().iter().map(|part| part.spec.id.clone()).find(|id| *id != own);
    assert_eq!(Some(&plan(&fleet(), &session).steps[0].backend), session.sticky.as_ref());
    let off = Policy { prefix_affinity: false, ..Policy::default() };
    assert_eq!(planned(&fleet(), &request, &off, 1).steps[0].reason, Reason::HybridCluster);
    let providers = [provider("one", 0.5, 1.5), provider("two", 0.5, 1.5)];
    assert_ne!(
        plan(&providers, &request).steps[0].reason,
        Reason::PrefixAffinity,
        "they cache by themselves"
    );
}

#[test]
fn a_slow_cluster_is_not_chosen_for_its_cache_under_a_target() {
    let request = Request { prefix: beginning(3).prefix, ..chat_by(Strategy::Slo) };
    let timed = |part: Part| part.report(|report| (report.ttft_ms, report.slots) = (Some(300), Some(4)));
    let parts: Vec<Part> =
        fleet().into_iter().map(|part| timed(part.report(|r| r.tokens_per_second = Some(100.0)))).collect();
    let own = planned(&parts, &request, &Policy::default(), 1).steps[0].backend.clone();
    let slowed = parts.iter().map(|part| {
        let own = part.spec.id == own;
        part.clone().report(|report| report.ttft_ms = Some(if own { 4_000 } else { 300 }))
    });
    let slowed: Vec<Part> = slowed.collect();
    assert_ne!(planned(&slowed, &request, &Policy::default(), 1).steps[0].backend, own);
}

#[test]
fn terms_are_told_with_name_value_and_unit() {
    let part = cluster("a", 0.1, 10.0).report(|report| {
        (report.ttft_ms, report.rtt_ms, report.slots) = (Some(200), Some(5), Some(4));
    });
    let part = part.load(|load| load.in_flight = 7);
    let plan = planned(&[part], &chat(), &Policy::default(), 1);
    let json = serde_json::to_value(&plan.steps[0]).unwrap();
    let term =
        |name: &str| json["terms"].as_array().unwrap().iter().find(|term| term["name"] == name).cloned();
    let told = |name: &str| term(name).map(|term| (term["value"].clone(), term["unit"].clone()));
    let value = |value: f64, unit: &str| Some((Value::from(value), Value::from(unit)));
    assert_eq!(told("rtt"), value(5.0, "ms"));
    assert_eq!(told("ttft_unloaded"), value(200.0, "ms"));
    assert_eq!(told("wait"), value(200.0, "ms"), "8 share 4 places");
    assert_eq!(told("tpot"), value(400.0, "ms"), "4 share 10 tokens a second");
    assert_eq!(told("load"), value(7.0, "requests"));
    assert_eq!(told("completion"), value(405.0 + 99.0 * 400.0, "ms"));
    assert_eq!(told("meets_slo"), value(0.0, "yes/no"));
    assert_eq!(told("meets_deadline"), None, "no deadline was set");
}
