use super::*;
use crate::route::Strategy;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

fn arm(name: &str, weight: u64) -> Arm {
    Arm { name: name.to_owned(), weight, change: Change::default() }
}

fn experiment(arms: Vec<Arm>) -> Experiment {
    Experiment { name: "trial".to_owned(), key: Key::Session, arms, scope: Scope::default() }
}

fn subject<'r>(session: Option<&'r str>, header: &'r dyn Fn(&str) -> Option<&'r str>) -> Subject<'r> {
    Subject { model: "auto", tenant: Some("acme"), session, user: None, header }
}

fn none(_: &str) -> Option<&'static str> {
    None
}

fn named(assigned: &[Assignment<'_>]) -> Vec<String> {
    assigned.iter().map(|one| format!("{}={}", one.experiment.name, one.arm.name)).collect()
}

#[test]
fn the_same_key_has_the_same_arm_in_every_release() {
    let trial = experiment(vec![arm("a", 1), arm("b", 1), arm("c", 2)]);
    let arms: String = (0..24).map(|n| trial.arm_of(&format!("user-{n}")).unwrap().name.clone()).collect();
    assert_eq!(arms, "accaccccacaabaccaccabbcc");
    assert_eq!(hash(&["trial", "a", "user-0"]), 0xef06_3fd2_9f0b_d5c1);
}

#[test]
fn weights_are_met() {
    let trial = experiment(vec![arm("a", 500), arm("b", 9_000), arm("none", 0), arm("c", 500)]);
    let mut counts = [0_u32; 4];
    for n in 0..40_000 {
        let drawn = trial.arm_of(&format!("k{n}")).unwrap();
        counts[trial.arms.iter().position(|arm| arm.name == drawn.name).unwrap()] += 1;
    }
    // The standard deviation of the small arms is 44, of the large one 60.
    for (count, expected) in counts.into_iter().zip([2_000, 36_000, 0, 2_000_u32]) {
        assert!(count.abs_diff(expected) <= 240, "{counts:?}");
    }
}

#[test]
fn a_request_without_the_key_or_outside_the_scope_takes_no_part() {
    let mut trial = experiment(vec![arm("a", 1)]);
    let of = |trial: &Experiment, session| {
        named(&assign(std::slice::from_ref(trial), &subject(session, &none), &Request::default()))
    };
    assert_eq!(of(&trial, Some("s")), ["trial=a"]);
    assert_eq!(of(&trial, None), [""; 0]);
    assert_eq!(of(&trial, Some("")), [""; 0]);
    trial.scope.models = vec!["gpt".into()];
    assert_eq!(of(&trial, Some("s")), [""; 0]);
    trial.scope.models = vec!["gpt".into(), "auto".into()];
    trial.scope.tenants = vec!["other".into()];
    assert_eq!(of(&trial, Some("s")), [""; 0]);
    trial.scope.tenants = vec!["acme".into()];
    assert_eq!(of(&trial, Some("s")), ["trial=a"]);
    trial.key = Key::Header("x-group".into());
    assert_eq!(of(&trial, Some("s")), [""; 0]);
    let group = |name: &str| (name == "x-group").then_some("7");
    let found = assign(std::slice::from_ref(&trial), &subject(None, &group), &Request::default());
    assert_eq!(named(&found), ["trial=a"]);
}

#[test]
fn what_the_client_or_an_earlier_experiment_settled_is_not_changed() {
    let by = |strategy| Change { strategy: Some(strategy), ..Change::default() };
    let mut first = experiment(vec![arm("only", 1)]);
    first.arms[0].change = by(Strategy::Cost);
    let second = Experiment { name: "later".into(), ..first.clone() };
    let mut third = Experiment { name: "model".into(), ..first.clone() };
    third.arms[0].change = Change { model: Some("m2".into()), ..Change::default() };
    let all = [first, second, third];
    let mut request = Request::default();
    let assigned = assign(&all, &subject(Some("s"), &none), &request);
    assert_eq!(named(&assigned), ["trial=only", "model=only"]);
    for one in &assigned {
        one.arm.change.apply(&mut request);
    }
    assert_eq!((request.model.as_deref(), request.hints.strategy), (Some("m2"), Some(Strategy::Cost)));
    let own = Request {
        hints: crate::request::Hints { strategy: Some(Strategy::Slo), ..Default::default() },
        ..Request::default()
    };
    assert_eq!(named(&assign(&all, &subject(Some("s"), &none), &own)), ["model=only"]);
}

proptest! {
    #[test]
    fn a_key_moves_only_to_an_arm_that_gained_weight(
        weights in proptest::collection::vec(0u64..1_000_000_000, 1..6), at in 0usize..6, more in 1u64..1_000_000_000
    ) {
        let arms = |weights: &[u64]| weights.iter().enumerate().map(|(n, weight)| arm(&n.to_string(), *weight)).collect();
        let at = at % weights.len();
        let before = experiment(arms(&weights));
        let mut raised = weights.clone();
        raised[at] += more;
        let after = experiment(arms(&raised));
        for n in 0..50 {
            let key = format!("key {n}");
            let (old, new) = (before.arm_of(&key), after.arm_of(&key));
            if old.map(|arm| &arm.name) != new.map(|arm| &arm.name) {
                prop_assert_eq!(&new.unwrap().name, &at.to_string());
            }
        }
        prop_assert_eq!(before.arm_of("x").is_none(), weights.iter().all(|weight| *weight == 0));
    }

    #[test]
    fn the_exponential_is_the_logarithm(hash in 1u64..) {
        let exact = -(hash as f64 / 2f64.powi(64)).log2();
        let ours = exponential(hash) as f64 / 2f64.powi(32);
        prop_assert!((ours - exact).abs() < 1e-8, "{ours} {exact}");
    }
}
