//! Decisions over more backends than are looked at one by one.

use crate::scene::{NOW, Part, chat, chat_by, cluster, planned, provider, view_under};
use llm_router_logic::request::Request;
use llm_router_logic::route::plan::rest;
use llm_router_logic::route::shortlist::WHOLE;
use llm_router_logic::route::{Plan, Policy, Refusal, Strategy};
use std::collections::BTreeSet;

/// `count` clusters of which each costs `step` more than the one before it.
fn clusters(count: usize, step: f64) -> Vec<Part> {
    (0..count).map(|n| cluster(&format!("c{n}"), 0.1 * (1.0 + step * n as f64), 10.0)).collect()
}

fn first(plan: &Plan) -> &str {
    plan.steps[0].backend.as_str()
}

#[test]
fn the_cheapest_of_hundreds_is_found_without_looking_at_all_of_them() {
    let mut parts = clusters(400, 0.1);
    parts.reverse();
    let plan = planned(&parts, &chat_by(Strategy::Cost), &Policy::default(), 3);
    assert_eq!(first(&plan), "c0");
    assert!(plan.not_looked_at > 300, "{} of 400 were left out", plan.not_looked_at);
    assert!(plan.steps.len() >= 8, "there is somewhere to go after a fault");
}

#[test]
fn equals_are_entered_where_the_lot_falls() {
    let parts = clusters(300, 0.0);
    let firsts: BTreeSet<String> = (0..500_u64)
        .map(|draw| {
            let draw = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            first(&planned(&parts, &chat(), &Policy::default(), draw)).to_owned()
        })
        .collect();
    assert!(firsts.len() > 150, "only {} of 300 equals are ever first", firsts.len());
}

#[test]
fn what_is_ill_or_full_or_serves_something_else_does_not_end_the_search() {
    let mut parts = clusters(200, 0.001);
    for part in &mut parts[..120] {
        *part = part.clone().ill();
    }
    for part in &mut parts[120..150] {
        *part = part.clone().model(|model| model.name = "other".into());
    }
    for part in &mut parts[150..160] {
        part.load.in_flight = 4;
        part.load.limit = 4;
    }
    parts.push(provider("api", 0.5, 1.5));
    let plan = planned(&parts, &chat(), &Policy::default(), 9);
    let at: usize = first(&plan)[1..].parse().unwrap();
    assert!((160..200).contains(&at), "c{at}");
    assert!(plan.steps.iter().any(|step| step.backend.as_str() == "api"), "a provider stands by");
    let ill = plan.refused.iter().filter(|(_, why)| *why == Refusal::Unhealthy).count();
    assert_eq!(ill, 120, "who is looked at in vain is told");
}

#[test]
fn a_bound_backend_is_found_among_hundreds_and_listed_once() {
    let parts = clusters(300, 0.01);
    let mut sticky = chat();
    sticky.sticky = Some("c299".into());
    let plan = planned(&parts, &sticky, &Policy::default(), 1);
    assert_eq!(first(&plan), "c299");
    let names: BTreeSet<&str> = plan.steps.iter().map(|step| step.backend.as_str()).collect();
    assert_eq!(names.len(), plan.steps.len());
    let mut cheap = chat();
    cheap.sticky = Some("c0".into());
    let plan = planned(&parts, &cheap, &Policy::default(), 1);
    let names: BTreeSet<&str> = plan.steps.iter().map(|step| step.backend.as_str()).collect();
    assert_eq!(names.len(), plan.steps.len(), "the head of the list is not listed twice");
    let mut pinned: Request = chat();
    pinned.hints.backend = Some("c150".into());
    let plan = planned(&parts, &pinned, &Policy::default(), 1);
    assert_eq!((first(&plan), plan.steps.len()), ("c150", 1));
}

#[test]
fn the_rest_is_judged_for_those_who_ask() {
    let mut parts = clusters(150, 0.1);
    parts[140] = parts[140].clone().ill();
    let policy = Policy::default();
    let plan = planned(&parts, &chat(), &policy, 5);
    let (view, loads) = view_under(&parts, &policy);
    let rest = rest(&plan.steps, &plan.refused, &view, &loads, &chat(), &policy, NOW);
    assert_eq!(rest.len(), plan.not_looked_at);
    assert_eq!(rest.len() + plan.steps.len() + plan.refused.len(), 150);
    let of = |name: &str| rest.iter().find(|(id, _)| id.as_str() == name).map(|(_, why)| why.clone());
    assert_eq!(of("c140"), Some(Some(Refusal::Unhealthy)));
    assert_eq!(of("c141"), Some(None));
}

#[test]
fn up_to_a_bound_everybody_is_looked_at() {
    let plan = planned(&clusters(WHOLE, 0.1), &chat(), &Policy::default(), 5);
    assert_eq!((plan.not_looked_at, plan.steps.len()), (0, WHOLE));
}
