//! Average and marginal cost: what a request costs, and what it adds to the bill.

use crate::scene::{NOW, Part, chat_by, cluster, planned, provider, view};
use llm_router_logic::money::Money;
use llm_router_logic::route::unit_costs::{UnitCosts, unit_costs};
use llm_router_logic::route::{CostBasis, Plan, Policy, Strategy};

const FULL: u32 = 4;

fn running(part: Part, in_flight: u32) -> Part {
    part.load(|load| load.in_flight = in_flight)
}

fn plan_on(basis: CostBasis, parts: &[Part], strategy: Strategy) -> Plan {
    let policy = Policy { cost_basis: basis, ..Policy::default() };
    planned(parts, &chat_by(strategy), &policy, 5)
}

fn order(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.backend.as_str()).collect()
}

fn marginal(plan: &Plan, name: &str) -> Option<Money> {
    plan.steps
        .iter()
        .find(|step| step.backend.as_str() == name)
        .and_then(llm_router_logic::route::Step::marginal_cost)
}

#[test]
fn a_paid_machine_with_room_costs_nothing_more_and_beats_a_provider_that_is_cheaper_on_average() {
    // On average 0.00115 $ for 100 tokens out, against 0.0002 $.
    let parts = [provider("api", 0.5, 1.5), running(cluster("gpu", 0.378, 10.0), FULL - 1)];
    let average = plan_on(CostBasis::Average, &parts, Strategy::Cost);
    assert_eq!(order(&average), ["api", "gpu"]);
    let by_marginal = plan_on(CostBasis::Marginal, &parts, Strategy::Cost);
    assert_eq!(order(&by_marginal), ["gpu", "api"]);
    for plan in [&average, &by_marginal] {
        assert_eq!(marginal(plan, "gpu"), Some(Money::ZERO), "both are reported on either basis");
        assert_eq!(marginal(plan, "api"), Money::from_usd(0.0002));
        assert!(plan.steps.iter().all(|step| step.predicted_cost() > Some(Money::ZERO)));
    }
}

#[test]
fn a_full_machine_costs_what_the_next_best_would_charge_and_is_left_alone() {
    let parts =
        [running(cluster("gpu", 0.01, 100.0), FULL), provider("dear", 5.0, 5.0), provider("api", 0.5, 1.5)];
    let plan = plan_on(CostBasis::Marginal, &parts, Strategy::Cost);
    assert_eq!(marginal(&plan, "gpu"), marginal(&plan, "api"));
    assert_eq!(order(&plan), ["api", "gpu", "dear"]);
    let average = plan_on(CostBasis::Average, &parts, Strategy::Cost);
    assert_eq!(order(&average), ["gpu", "api", "dear"]);
}

#[test]
fn where_nothing_has_room_the_average_counts() {
    let parts = [running(cluster("dear", 9.0, 10.0), FULL), running(cluster("low", 0.1, 10.0), 9)];
    let plan = plan_on(CostBasis::Marginal, &parts, Strategy::Cost);
    assert_eq!(order(&plan), ["low", "dear"]);
    assert_eq!(marginal(&plan, "low"), plan.steps[0].predicted_cost());
}

#[test]
fn an_unknown_average_has_no_marginal_cost_either() {
    let parts = [cluster("unmeasured", 0.1, 1.0).unpriced(), provider("api", 500.0, 500.0)];
    let plan = plan_on(CostBasis::Marginal, &parts, Strategy::Cost);
    assert_eq!(order(&plan), ["api", "unmeasured"]);
    assert_eq!(marginal(&plan, "unmeasured"), None);
}

#[test]
fn the_threshold_of_hybrid_stays_on_the_average() {
    // 0.01155 $ per 1,000 on average, above the threshold of 0.01, and nothing on the margin.
    let parts = [cluster("gpu", 0.378, 10.0), running(cluster("cpu", 0.0928, 10.0), FULL)];
    for basis in [CostBasis::Average, CostBasis::Marginal] {
        assert_eq!(order(&plan_on(basis, &parts, Strategy::Hybrid)), ["cpu", "gpu"], "{basis:?}");
    }
}

#[test]
fn among_idle_machines_the_least_loaded_goes_first() {
    let parts = [running(cluster("a", 0.1, 10.0), 3), running(cluster("b", 9.0, 10.0), 1)];
    assert_eq!(order(&plan_on(CostBasis::Marginal, &parts, Strategy::Cost)), ["b", "a"]);
}

#[test]
fn unit_costs_are_reported_on_both_bases() {
    let costs = |parts: &[Part]| {
        let (view, loads) = view(parts);
        unit_costs(&view, &loads, &Policy::default(), NOW)
    };
    let other = cluster("other", 0.1, 10.0).model(|model| model.name = "else".into());
    let parts = [cluster("gpu", 0.36, 10.0), provider("dear", 5.0, 5.0), provider("api", 0.5, 1.5), other];
    let idle = costs(&parts);
    let list_price = Money::from_usd(0.001);
    assert_eq!((idle[0].average, idle[0].marginal), (Money::from_usd(0.011), Some(Money::ZERO)));
    assert_eq!((idle[2].average, idle[2].marginal), (list_price, list_price));
    let mut busy = parts.clone();
    busy[0] = running(busy[0].clone(), FULL);
    let full = costs(&busy);
    assert_eq!(full[0].average, idle[0].average, "what it makes on average does not change");
    assert_eq!(
        full[0].marginal, list_price,
        "the next best that serves the model, not the idle cluster that does not"
    );
    assert_eq!(costs(&busy[..1])[0].marginal, idle[0].average, "without a next best the average counts");
    assert_eq!(costs(&[cluster("ill", 0.36, 10.0).ill()])[0].marginal, None);
    assert_eq!(costs(&[cluster("new", 0.36, 10.0).unpriced()])[0], UnitCosts::default());
}
