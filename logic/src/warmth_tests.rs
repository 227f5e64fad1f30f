use super::*;
use proptest::prelude::*;

const COLD_START: Duration = Duration::from_secs(90);
const WINDOW: Duration = Duration::from_secs(60);

fn usd(amount: f64) -> Money {
    Money::from_usd(amount).unwrap()
}

fn settings() -> ScaleToZero {
    ScaleToZero {
        cold_start: COLD_START,
        demand_window: WINDOW,
        wake_at_requests: 3,
        wake_at_saving: Money::ZERO,
        tokens_per_second: None,
    }
}

fn s(secs: u64) -> Moment {
    Moment::from_secs(secs)
}

#[test]
fn demand_lasts_a_window_and_falls_to_nothing() {
    let mut demand = Demand::default();
    for secs in [100, 110, 130] {
        demand.note(Want::Elsewhere(Some(usd(0.01))), WINDOW, s(secs));
    }
    demand.note(Want::Served, WINDOW, s(131));
    let wanted = demand.wanted(WINDOW, s(140));
    assert_eq!((wanted.requests, wanted.priced, wanted.unserved, wanted.saving), (4, 3, 0, usd(0.03)));
    assert_eq!(demand.wanted(WINDOW, s(175)).requests, 2, "the first two are older than a minute");
    assert_eq!(demand.wanted(WINDOW, s(200)), Wanted::default());
    assert!(demand.parts.is_empty());
}

#[test]
fn a_penny_wakes_nobody_and_what_nothing_else_serves_does() {
    // Ninety seconds at $4 an hour are ten cents.
    let hour = usd(4.0);
    assert_eq!(settings().cold_start_cost(hour), usd(0.1));
    let wanted = |requests, saving| Wanted { requests, priced: requests, unserved: 0, saving: usd(saving) };
    assert!(!settings().is_worth_waking(&wanted(50, 0.01), hour));
    assert!(!settings().is_worth_waking(&wanted(2, 5.0), hour), "fewer than `wakeAtRequests`");
    assert!(settings().is_worth_waking(&wanted(3, 0.1), hour));
    let strict = ScaleToZero { wake_at_saving: usd(1.0), ..settings() };
    assert!(!strict.is_worth_waking(&wanted(3, 1.0), hour) && strict.is_worth_waking(&wanted(3, 1.1), hour));
    let unserved = Wanted { requests: 1, unserved: 1, ..Wanted::default() };
    assert!(strict.is_worth_waking(&unserved, hour));
    let unpriced = Wanted { requests: 3, ..Wanted::default() };
    assert!(strict.is_worth_waking(&unpriced, hour), "what cannot be priced wakes by number");
    assert!(!ScaleToZero { wake_at_requests: 0, ..settings() }.is_worth_waking(&Wanted::default(), hour));
}

fn sight<'s>(
    presence: Presence,
    worth_waking: bool,
    claims: &'s [(NodeId, Claim)],
    me: &'s NodeId,
) -> Sight<'s> {
    Sight { presence, worth_waking, claims, alone: false, me }
}

#[test]
fn a_cluster_is_claimed_called_awaited_and_given_up() {
    let me = NodeId::new("b");
    let mut waker = Waker::default();
    let gone = sight(Presence::Gone, true, &[], &me);
    assert_eq!(waker.warmth(&gone, COLD_START, s(0)), Warmth::Cold { cold_start: COLD_START });
    assert_eq!(waker.step(&gone, COLD_START, s(0)), Order::Nothing);
    assert_eq!(waker.claim(), Some(Claim::Made));
    assert_eq!(waker.step(&gone, COLD_START, s(1)), Order::Nothing, "others may not have heard of it yet");
    assert_eq!(waker.step(&gone, COLD_START, s(2)), Order::Call);
    assert_eq!(waker.claim(), Some(Claim::Called { until: s(92) }));
    let idle = sight(Presence::Gone, false, &[], &me);
    assert_eq!(waker.step(&idle, COLD_START, s(50)), Order::Nothing);
    assert_eq!(waker.warmth(&idle, COLD_START, s(50)), Warmth::Waking { until: s(92) });
    assert_eq!(Warmth::Waking { until: s(92) }.ready_in(s(50)), Some(Duration::from_secs(42)));
    assert_eq!(waker.step(&gone, COLD_START, s(181)), Order::Nothing);
    assert_eq!(waker.step(&gone, COLD_START, s(182)), Order::GaveUp);
    assert_eq!(waker.warmth(&gone, COLD_START, s(182)), Warmth::Cold { cold_start: COLD_START });
    assert_eq!(waker.step(&gone, COLD_START, s(183)), Order::Nothing, "a pause before the next try");
    assert_eq!(waker.step(&gone, COLD_START, s(272)), Order::Nothing);
    assert_eq!(waker.step(&gone, COLD_START, s(274)), Order::Call);
    let up = sight(Presence::Up, true, &[], &me);
    assert_eq!(waker.step(&up, COLD_START, s(300)), Order::Nothing);
    assert_eq!((waker.warmth(&up, COLD_START, s(300)), waker.claim()), (Warmth::Warm, None));
}

#[test]
fn a_failed_call_pauses_and_a_machine_that_comes_by_itself_is_not_called() {
    let me = NodeId::new("b");
    let mut waker = Waker::default();
    let alone = Sight { alone: true, ..sight(Presence::Gone, true, &[], &me) };
    assert_eq!(waker.step(&alone, COLD_START, s(0)), Order::Call, "nobody to wait for");
    waker.call_failed(COLD_START, s(5));
    assert_eq!(waker.step(&alone, COLD_START, s(94)), Order::Nothing);
    assert_eq!(waker.step(&alone, COLD_START, s(95)), Order::Call);
    let coming = sight(Presence::Coming, true, &[], &me);
    let mut other = Waker::default();
    assert_eq!(other.step(&coming, COLD_START, s(0)), Order::Nothing);
    assert_eq!(other.warmth(&coming, COLD_START, s(0)), Warmth::Waking { until: s(90) });
    assert_eq!(other.claim(), None);
}

#[test]
fn nodes_agree_on_the_lowest_name_and_a_call_beats_any_claim() {
    let (a, b, c) = (NodeId::new("a"), NodeId::new("b"), NodeId::new("c"));
    let mut waker = Waker::default();
    waker.step(&sight(Presence::Gone, true, &[], &b), COLD_START, s(0));
    waker.step(&sight(Presence::Gone, true, &[(c, Claim::Made)], &b), COLD_START, s(0));
    assert_eq!(waker.claim(), Some(Claim::Made), "a higher name yields to us");
    let lower = [(a.clone(), Claim::Made)];
    let seen = sight(Presence::Gone, true, &lower, &b);
    waker.step(&seen, COLD_START, s(1));
    assert_eq!(waker.claim(), None);
    assert_eq!(waker.warmth(&seen, COLD_START, s(1)), Warmth::Waking { until: s(91) });
    let mut first = Waker::default();
    let called = [(b, Claim::Called { until: s(70) })];
    let seen = sight(Presence::Gone, true, &called, &a);
    assert_eq!(first.step(&seen, COLD_START, s(1)), Order::Nothing);
    assert_eq!(
        (first.claim(), first.warmth(&seen, COLD_START, s(1))),
        (None, Warmth::Waking { until: s(70) })
    );
}

proptest! {
    /// Nodes that step every 250 ms and hear each other within half a second.
    #[test]
    fn however_demand_comes_a_cluster_is_called_once(
        starts in proptest::collection::vec(0usize..40, 1..6), delays in proptest::collection::vec(0usize..2, 36)
    ) {
        let names: Vec<NodeId> = (0..starts.len()).map(|n| NodeId::new(format!("n{n}"))).collect();
        let mut wakers = vec![Waker::default(); names.len()];
        let mut told: Vec<Vec<Option<Claim>>> = vec![Vec::new(); names.len()];
        let mut calls = 0;
        for tick in 0..300_usize {
            let now = Moment::from_millis(tick as u64 * 250);
            for me in 0..names.len() {
                let heard: Vec<(NodeId, Claim)> = (0..names.len()).filter(|peer| *peer != me).filter_map(|peer| {
                    let delay = 1 + delays[(me * 6 + peer) % delays.len()];
                    let at = tick.checked_sub(delay)?;
                    told[peer].get(at).copied().flatten().map(|claim| (names[peer].clone(), claim))
                }).collect();
                let worth = tick >= starts[me];
                let seen = sight(Presence::Gone, worth, &heard, &names[me]);
                calls += u32::from(wakers[me].step(&seen, COLD_START, now) == Order::Call);
            }
            for (told, waker) in told.iter_mut().zip(&wakers) {
                told.push(waker.claim());
            }
        }
        prop_assert_eq!(calls, 1);
    }
}
