use super::*;
use proptest::prelude::*;

fn limiter(rpm: Option<u32>, tpm: Option<u32>, burst_multiplier: f64) -> Limiter {
    Limiter::new(RateLimit {
        requests_per_minute: rpm,
        tokens_per_minute: tpm,
        burst_multiplier,
        ..RateLimit::default()
    })
}

#[test]
fn no_limit_never_waits() {
    let mut free = limiter(None, None, 1.0);
    for _ in 0..10_000 {
        assert_eq!(free.admit(u32::MAX, Moment::ZERO), Ok(()));
    }
}

#[test]
fn a_burst_is_the_bucket_and_then_the_rate_holds() {
    let mut sixty = limiter(Some(60), None, 1.5);
    for _ in 0..30 {
        assert_eq!(sixty.admit(0, Moment::ZERO), Ok(()));
    }
    assert_eq!(sixty.admit(0, Moment::ZERO), Err(Moment::from_secs(1)));
    assert_eq!(sixty.check(0, Moment::from_micros(999_999)), Err(Moment::from_secs(1)));
    assert_eq!(sixty.admit(0, Moment::from_secs(1)), Ok(()));
    assert_eq!(sixty.admit(0, Moment::from_secs(1)), Err(Moment::from_secs(2)));
}

#[test]
fn the_smallest_account_still_sends_one_request_at_a_time() {
    let mut three = limiter(Some(3), None, 1.0);
    assert_eq!(three.admit(0, Moment::ZERO), Ok(()));
    assert_eq!(three.admit(0, Moment::ZERO), Err(Moment::from_secs(20)));
}

#[test]
fn an_account_without_any_allowance_stays_closed() {
    let none = limiter(Some(0), None, 2.0);
    assert!(none.check(0, Moment::from_secs(1_000_000)).is_err());
}

#[test]
fn a_request_larger_than_the_bucket_passes_when_the_bucket_is_full() {
    let mut tokens = limiter(None, Some(6_000), 1.0);
    assert_eq!(tokens.admit(5_000, Moment::ZERO), Ok(()), "the bucket of 600 is full");
    let again = tokens.admit(5_000, Moment::ZERO).unwrap_err();
    assert_eq!(again, Moment::from_secs(50), "5,000 tokens of debt and bucket at 100 a second");
    assert_eq!(tokens.admit(5_000, again), Ok(()));
}

#[test]
fn settling_gives_back_what_was_estimated_too_high() {
    let mut tokens = limiter(None, Some(6_000), 1.5);
    tokens.admit(3_000, Moment::ZERO).unwrap();
    assert!(tokens.check(1_000, Moment::ZERO).is_err());
    tokens.settle(3_000, 500, Moment::ZERO);
    assert_eq!(tokens.check(2_500, Moment::ZERO), Ok(()));
    assert!(tokens.check(2_501, Moment::ZERO).is_err());
}

#[test]
fn settling_charges_what_was_estimated_too_low_but_forgets_more_than_a_minute() {
    let mut tokens = limiter(None, Some(6_000), 1.5);
    tokens.admit(10, Moment::ZERO).unwrap();
    tokens.settle(10, u32::MAX, Moment::ZERO);
    let room = tokens.check(100, Moment::ZERO).unwrap_err();
    assert_eq!(room, Moment::from_secs(61));
}

#[test]
fn a_clock_that_stands_still_or_goes_back_gives_nothing() {
    let mut one = limiter(Some(60), None, 1.0);
    let now = Moment::from_secs(100);
    while one.admit(0, now).is_ok() {}
    assert!(one.check(0, Moment::from_secs(50)).is_err());
    assert!(one.admit(0, Moment::from_secs(50)).is_err());
    assert!(one.check(0, now).is_err());
}

#[test]
fn time_that_was_counted_is_not_counted_again_after_a_clock_went_back() {
    let mut sixty = limiter(Some(60), None, 1.5);
    for _ in 0..29 {
        sixty.admit(0, Moment::from_secs(100)).unwrap();
    }
    sixty.admit(0, Moment::from_secs(50)).unwrap();
    assert_eq!(sixty.admit(0, Moment::from_secs(100)), Err(Moment::from_secs(101)));
}

proptest! {
    #[test]
    fn any_minute_stays_within_the_documented_bound(
        rpm in 1u32..600,
        burst in 0.5f64..3.0,
        waits_ms in proptest::collection::vec(0u64..3_000, 1..400),
    ) {
        let mut limiter = limiter(Some(rpm), None, burst);
        let mut now = Moment::ZERO;
        let mut admitted: Vec<Moment> = Vec::new();
        for wait in waits_ms {
            now = now + Duration::from_millis(wait);
            // As much as it allows at this moment.
            while limiter.admit(0, now).is_ok() {
                admitted.push(now);
            }
        }
        let bound = (f64::from(rpm) * burst.max(1.1)).max(f64::from(rpm) + 1.0) + 0.5;
        let mut first = 0;
        for (last, at) in admitted.iter().enumerate() {
            while at.since(admitted[first]) >= Duration::from_secs(60) {
                first += 1;
            }
            let within = last + 1 - first;
            prop_assert!(within as f64 <= bound, "{within} in a minute, bound {bound}");
        }
    }

    #[test]
    fn the_moment_told_is_the_first_with_room(
        tpm in 1u32..100_000, burst in 1.0f64..3.0, spent in proptest::collection::vec(0u32..50_000, 1..20), next in 0u32..100_000,
    ) {
        let mut limiter = limiter(None, Some(tpm), burst);
        for tokens in spent {
            let _ = limiter.admit(tokens, Moment::ZERO);
        }
        if let Err(room) = limiter.check(next, Moment::ZERO) {
            prop_assert_eq!(limiter.check(next, room), Ok(()));
            prop_assert!(limiter.check(next, Moment::from_micros(room.micros() - 1)).is_err());
        }
    }
}
