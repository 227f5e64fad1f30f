use super::*;
use proptest::prelude::*;

const TODAY: u32 = 20_780;

fn usd(usd: f64) -> Money {
    Money::from_usd(usd).unwrap()
}

fn saved(requests: u64, external: f64, compared: f64, charged: f64) -> Saved {
    Saved {
        requests,
        cost: usd(compared),
        external: usd(external),
        compared: usd(compared),
        charged: usd(charged),
    }
}

fn told(saved: &Saved, kept: bool) -> ToldDay {
    ToldDay::new(TODAY, saved, kept, 0)
}

fn machine(cost: f64) -> ToldMachine {
    ToldMachine { days: vec![(TODAY, 3_600_000, pico(usd(cost)))], kept: false }
}

#[test]
fn net_is_gross_less_what_machines_cost_beyond_their_requests() {
    let mut days = Days::default();
    let day = days.day(TODAY);
    day.saved = saved(3, 10.0, 4.0, 3.0);
    day.machines.insert("c1".into(), Paid { millis: 3_600_000, cost: usd(5.0) });
    let figures = &days.figures()[0];
    assert_eq!(
        (figures.gross_savings_usd, figures.idle_usd, figures.net_savings_usd),
        (usd(6.0), usd(2.0), usd(4.0))
    );
    assert_eq!((figures.day.as_str(), figures.machine_usd, figures.routers), ("2026-11-23", usd(5.0), 1));
}

#[test]
fn a_fleet_adds_requests_and_pays_for_a_shared_machine_once() {
    let (mut own, mut fleet) = (Days::default(), Fleet::default());
    own.day(TODAY).saved = saved(1, 10.0, 4.0, 3.0);
    own.day(TODAY).machines.insert("c1".into(), Paid { millis: 1, cost: usd(5.0) });
    fleet.hear_day(&"b".into(), 1, &told(&saved(2, 20.0, 5.0, 4.0), false), TODAY);
    fleet.hear_machine(&"b".into(), 1, &"c1".into(), &machine(8.0), TODAY);
    fleet.hear_machine(&"b".into(), 1, &"c2".into(), &machine(1.0), TODAY);
    let figures = &fleet.figures(&own, TODAY)[0];
    assert_eq!((figures.requests, figures.routers), (3, 2));
    assert_eq!((figures.gross_savings_usd, figures.machine_usd), (usd(21.0), usd(9.0)));
    assert_eq!((figures.idle_usd, figures.net_savings_usd), (usd(2.0), usd(19.0)));
}

#[test]
fn a_router_that_starts_again_counts_once_whether_or_not_it_kept_a_ledger() {
    let (own, before, after) = (Days::default(), saved(5, 5.0, 1.0, 0.0), saved(1, 1.0, 0.5, 0.0));
    let mut fleet = Fleet::default();
    fleet.hear_day(&"b".into(), 1, &told(&before, false), TODAY);
    fleet.hear_day(&"b".into(), 2, &told(&after, false), TODAY);
    // An old value that arrives late changes nothing.
    fleet.hear_day(&"b".into(), 1, &told(&before, false), TODAY);
    assert_eq!(fleet.figures(&own, TODAY)[0].requests, 6, "nothing was kept: both runs count");
    let mut whole = before;
    whole.add(&after);
    fleet.hear_day(&"b".into(), 3, &told(&whole, true), TODAY);
    assert_eq!(fleet.figures(&own, TODAY)[0].requests, 6, "its ledger holds both");
}

#[test]
fn days_pass_and_impossible_ones_are_not_heard() {
    let (mut days, mut fleet) = (Days::default(), Fleet::default());
    for number in 0..20 {
        days.day(TODAY - 20 + number).saved.requests = 1;
    }
    assert_eq!(days.figures().len(), DAYS_KEPT);
    let day = |number| ToldDay { day: number, requests: 1, ..ToldDay::default() };
    for number in [0, TODAY - 8, TODAY, TODAY + 2, u32::MAX] {
        fleet.hear_day(&"b".into(), 1, &day(number), TODAY);
    }
    let none = Days::default();
    assert_eq!(fleet.figures(&none, TODAY).len(), 1);
    assert!(fleet.figures(&none, TODAY + 20).is_empty(), "what is old is forgotten");
}

#[test]
fn what_is_told_fits_a_fact() {
    let most = Saved {
        requests: u64::MAX,
        cost: Money::from_pico(i128::MAX),
        external: Money::from_pico(i128::MAX),
        compared: Money::from_pico(i128::MAX),
        charged: Money::from_pico(i128::MAX),
    };
    let day = ToldDay::new(u32::MAX, &most, true, u32::MAX);
    assert_eq!(ToldDay::read(&crate::gossip::fact::Payload::of(&day).unwrap()).unwrap(), day);
    let machine = ToldMachine { days: vec![(u32::MAX, u64::MAX, i64::MAX); 2], kept: true };
    assert!(crate::gossip::fact::Payload::of(&machine).is_ok());
}

proptest! {
    /// However facts arrive, repeated and in any order of routers, a fleet's sums are those of the last each
    /// router told in its run.
    #[test]
    fn repetition_and_order_change_nothing(
        values in proptest::collection::vec((0_u8..4, 0_u64..1_000), 1..40), again in any::<bool>(),
    ) {
        let (mut fleet, mut last) = (Fleet::default(), BTreeMap::new());
        for (node, requests) in values {
            // Within a run sums only grow.
            let grown: &mut u64 = last.entry(node).or_default();
            *grown += requests;
            let fact = told(&Saved { requests: *grown, ..Saved::default() }, false);
            for _ in 0..1 + u8::from(again) {
                fleet.hear_day(&NodeId::new(format!("n{node}")), 7, &fact, TODAY);
            }
        }
        let figures = fleet.figures(&Days::default(), TODAY);
        prop_assert_eq!(figures[0].requests, last.values().sum::<u64>());
        prop_assert_eq!(figures[0].routers as usize, last.len());
    }
}
