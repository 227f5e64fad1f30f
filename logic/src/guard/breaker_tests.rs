use super::*;
use proptest::prelude::*;

fn at(secs: u64) -> Moment {
    Moment::from_secs(secs)
}

fn tripped(now: Moment) -> Breaker {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    for _ in 0..5 {
        breaker.record(false, now);
    }
    breaker
}

#[test]
fn five_failures_in_a_row_open_it_for_five_seconds() {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    for _ in 0..4 {
        breaker.record(false, at(1));
    }
    assert_eq!(breaker.state(at(1)), BreakerState::Closed);
    breaker.record(false, at(1));
    assert_eq!(breaker.state(at(1)), BreakerState::Open { until: at(6) });
    assert_eq!(breaker.cause(), Some(Cause::InARow { failures: 5 }));
    assert_eq!(breaker.state(Moment::from_micros(5_999_999)), BreakerState::Open { until: at(6) });
    assert_eq!(breaker.state(at(6)), BreakerState::HalfOpen);
}

#[test]
fn a_success_breaks_the_row() {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    for _ in 0..4 {
        breaker.record(false, at(1));
    }
    breaker.record(true, at(1));
    for _ in 0..4 {
        breaker.record(false, at(1));
    }
    assert_eq!(breaker.state(at(1)), BreakerState::Closed);
}

#[test]
fn exactly_eighty_percent_passes_and_less_opens_it() {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    for _ in 0..4 {
        for ok in [true, true, true, true, false] {
            breaker.record(ok, at(10));
        }
    }
    assert_eq!(breaker.state(at(10)), BreakerState::Closed, "16 of 20 are 80 %");
    breaker.record(false, at(10));
    assert!(matches!(breaker.state(at(10)), BreakerState::Open { .. }), "16 of 21 are less");
    assert_eq!(breaker.cause(), Some(Cause::SuccessRate { good: 16, of: 21 }));
}

#[test]
fn a_bad_share_of_fewer_than_twenty_outcomes_does_not_open_it() {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    for ok in [true, false, false, false, true, false, false, false, true, false, false, false, true, false] {
        breaker.record(ok, at(10));
    }
    assert_eq!(breaker.state(at(10)), BreakerState::Closed);
}

#[test]
fn failures_older_than_the_window_are_forgotten() {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    for ok in [true, false, false, false, false].repeat(3) {
        breaker.record(ok, at(1));
    }
    for _ in 0..10 {
        breaker.record(true, at(40));
    }
    breaker.record(false, at(40));
    assert_eq!(breaker.state(at(40)), BreakerState::Closed);
}

#[test]
fn a_good_trial_closes_it_and_the_past_is_forgotten() {
    let mut breaker = tripped(at(0));
    breaker.record(true, at(5));
    assert_eq!((breaker.state(at(5)), breaker.cause()), (BreakerState::Closed, None));
    for _ in 0..4 {
        breaker.record(false, at(5));
    }
    assert_eq!(breaker.state(at(5)), BreakerState::Closed);
}

#[test]
fn each_failed_trial_doubles_the_wait_up_to_a_minute() {
    let mut breaker = tripped(at(0));
    let mut waits = Vec::new();
    let mut now = at(0);
    for _ in 0..6 {
        let BreakerState::Open { until } = breaker.state(now) else { panic!("must be open") };
        waits.push(until.since(now).as_secs());
        now = until;
        breaker.record(false, now);
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    assert_eq!(breaker.cause().unwrap().to_string(), "6 trial requests failed one after another");
    let BreakerState::Open { until } = breaker.state(now) else { panic!("must be open") };
    breaker.record(true, until);
    for _ in 0..5 {
        breaker.record(false, until);
    }
    assert_eq!(breaker.state(until), BreakerState::Open { until: until + Duration::from_secs(5) });
}

#[test]
fn late_outcomes_of_requests_sent_before_it_opened_change_nothing() {
    let mut breaker = tripped(at(0));
    breaker.record(true, at(1));
    breaker.record(false, at(2));
    assert_eq!(breaker.state(at(2)), BreakerState::Open { until: at(5) });
}

#[test]
fn a_good_probe_brings_the_trial_forward_but_does_not_close_it() {
    let mut breaker = tripped(at(0));
    breaker.trial_now(at(1));
    assert_eq!(breaker.state(at(1)), BreakerState::HalfOpen);
    breaker.record(false, at(1));
    assert_eq!(breaker.state(at(1)), BreakerState::Open { until: at(11) });
    let mut closed = Breaker::new(BreakerPolicy::default());
    closed.trial_now(at(1));
    assert_eq!(closed.state(at(1)), BreakerState::Closed);
}

proptest! {
    #[test]
    fn it_never_stays_open_longer_than_the_longest_wait(
        steps in proptest::collection::vec((any::<bool>(), 0u64..20_000), 1..300)
    ) {
        let mut breaker = Breaker::new(BreakerPolicy::default());
        let mut now = Moment::ZERO;
        for (ok, wait_ms) in steps {
            now = now + Duration::from_millis(wait_ms);
            breaker.record(ok, now);
            if let BreakerState::Open { until } = breaker.state(now) {
                prop_assert!(until.since(now) <= Duration::from_secs(60));
                prop_assert!(until > now);
            }
        }
    }

    #[test]
    fn successes_alone_never_open_it(waits in proptest::collection::vec(0u64..10_000, 1..200)) {
        let mut breaker = Breaker::new(BreakerPolicy::default());
        let mut now = Moment::ZERO;
        for wait_ms in waits {
            now = now + Duration::from_millis(wait_ms);
            breaker.record(true, now);
            prop_assert_eq!(breaker.state(now), BreakerState::Closed);
        }
    }
}

#[test]
fn what_a_peer_tells_opens_it_and_is_not_told_on() {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    breaker.told_open(at(15), at(10));
    assert_eq!(breaker.state(at(11)), BreakerState::Open { until: at(15) });
    assert_eq!((breaker.cause(), breaker.open_by_itself(at(11))), (Some(Cause::Told), None));
    assert_eq!(breaker.state(at(15)), BreakerState::HalfOpen, "it takes a trial");
    breaker.record(false, at(15));
    assert_eq!(breaker.open_by_itself(at(16)), Some(at(25)), "its own trial failed: that is news");
    let mut other = Breaker::new(BreakerPolicy::default());
    other.told_open(at(15), at(10));
    other.record(true, at(16));
    assert_eq!((other.state(at(16)), other.cause()), (BreakerState::Closed, None));
}

#[test]
fn a_request_begun_after_the_news_and_served_ends_it_and_an_older_one_does_not() {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    breaker.told_open(at(15), at(10));
    breaker.served_since_told(at(9));
    assert_eq!(breaker.state(at(11)), BreakerState::Open { until: at(15) });
    breaker.served_since_told(at(11));
    assert_eq!(breaker.state(at(11)), BreakerState::Closed);
}

#[test]
fn failures_at_a_peer_count_with_ones_own_for_five_seconds() {
    let mut breaker = Breaker::new(BreakerPolicy::default());
    breaker.told_failures(4, at(10));
    assert_eq!(breaker.state(at(10)), BreakerState::Closed, "a prior opens nothing by itself");
    breaker.record(false, at(14));
    assert!(matches!(breaker.state(at(14)), BreakerState::Open { .. }));
    let mut late = Breaker::new(BreakerPolicy::default());
    late.told_failures(4, at(10));
    late.record(false, at(15));
    assert_eq!(late.state(at(15)), BreakerState::Closed);
    let mut served = Breaker::new(BreakerPolicy::default());
    served.told_failures(4, at(10));
    served.served_since_told(at(10));
    served.record(false, at(11));
    assert_eq!(served.state(at(11)), BreakerState::Closed, "own successes are newer");
}

#[test]
fn an_own_breaker_and_a_told_one_do_not_lengthen_each_other() {
    let mut breaker = tripped(at(10));
    breaker.told_open(at(30), at(11));
    assert_eq!(breaker.state(at(12)), BreakerState::Open { until: at(30) });
    assert_eq!(breaker.open_by_itself(at(12)), Some(at(15)));
    breaker.trial_now(at(13));
    assert_eq!(breaker.state(at(13)), BreakerState::HalfOpen, "a good probe is worth a trial");
}
