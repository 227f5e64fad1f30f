use super::*;
use proptest::prelude::*;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Sends prompts of these lengths one at a time to a machine that needs `base` and a time per token.
fn taught(serial: bool, lengths: &[u32], base_ms: u64, micros_per_token: u64) -> (Pace, Moment) {
    let (mut pace, mut now) = (Pace::new(serial), Moment::from_secs(10));
    for tokens in lengths {
        let prompt = pace.sent(*tokens);
        let ttft = millis(base_ms) + Duration::from_micros(micros_per_token * u64::from(*tokens));
        now = now + ttft;
        pace.answered(prompt, ttft, now);
        pace.read(prompt);
    }
    (pace, now)
}

const LENGTHS: [u32; 8] = [100, 900, 2_000, 350, 4_000, 60, 1_200, 700];

#[test]
fn a_machine_is_known_by_its_base_and_its_reading_speed() {
    let (pace, now) = taught(true, &LENGTHS, 50, 200);
    let known = pace.now(now).unwrap();
    assert!((49_000..51_000).contains(&known.base), "{known:?}");
    assert!((195.0..205.0).contains(&known.per_token), "{known:?}");
    assert!((845_000..855_000).contains(&known.alone(4_000)), "{}", known.alone(4_000));
}

#[test]
fn one_answer_says_of_a_machine_how_fast_it_reads_and_of_a_provider_how_long_it_takes() {
    let (machine, now) = taught(true, &[1_000], 0, 13_000);
    assert_eq!(machine.now(now).unwrap().alone(50), 650_000, "a short prompt is read soon");
    let (provider, now) = taught(false, &[1_000], 500, 0);
    assert_eq!(provider.now(now).unwrap().alone(50), 500_000);
}

#[test]
fn what_is_unread_is_read_first_at_a_machine_and_not_at_a_provider() {
    let (mut machine, now) = taught(true, &LENGTHS, 50, 200);
    let prompts = [machine.sent(3_000), machine.sent(2_000)];
    let ahead = machine.now(now).unwrap().ahead();
    assert!((990_000..1_010_000).contains(&ahead), "{ahead}");
    prompts.into_iter().for_each(|prompt| machine.read(prompt));
    assert_eq!(machine.now(now).unwrap().ahead(), 0);
    let (mut provider, now) = taught(false, &LENGTHS, 500, 0);
    provider.sent(100_000);
    assert_eq!(provider.now(now).unwrap().ahead(), 0);
}

#[test]
fn a_machine_that_was_slow_for_a_moment_is_soon_trusted_again_and_one_that_always_was_is_not() {
    let calm: Vec<u32> = LENGTHS.into_iter().cycle().take(800).collect();
    let (mut pace, mut now) = taught(true, &calm, 50, 200);
    for _ in 0..20 {
        let prompt = pace.sent(1_000);
        now = now + millis(8_000);
        pace.answered(prompt, millis(8_000), now);
        pace.read(prompt);
    }
    let at = |secs| pace.now(now + Duration::from_secs(secs)).unwrap().alone(1_000);
    assert!(at(0) > 2_500_000, "{}", at(0));
    assert!(at(120) < 1_000_000, "{}", at(120));
    let (slow, now) = taught(true, &[1_000; 20], 0, 13_000);
    let at = |secs| slow.now(now + Duration::from_secs(secs)).unwrap().alone(1_000);
    assert!(at(300) > 5_000_000, "{}", at(300));
    assert!(at(3_600) < 2_000_000, "{}", at(3_600));
}

#[test]
fn one_answer_in_twenty_exceeds_the_upper_end() {
    let mut pace = Pace::new(false);
    let (mut now, mut beyond) = (Moment::from_secs(1), 0);
    for n in 0..6_000_u64 {
        // Even from 100 ms to 2 s, in an order without a pattern.
        let ttft = millis(100 + n * 7_919 % 1_900);
        let prompt = pace.sent(500);
        if let Some(known) = pace.now(now).filter(|_| n >= 1_000) {
            beyond += u32::from(ttft.as_micros() > u128::from(known.upper(known.alone(500))));
        }
        now = now + millis(50);
        pace.answered(prompt, ttft, now);
        pace.read(prompt);
    }
    assert!((100..500).contains(&beyond), "{beyond} of 5000");
}

proptest! {
    #[test]
    fn whatever_is_told_the_line_is_sane_and_nothing_stays_unread(
        steps in proptest::collection::vec((any::<u32>(), 0u64..3_600_000, 0u64..100_000, any::<bool>()), 1..200),
        serial in any::<bool>(),
    ) {
        let (mut pace, mut now) = (Pace::new(serial), Moment::ZERO);
        for (tokens, ttft_ms, gap_ms, served) in steps {
            let prompt = pace.sent(tokens);
            now = now + millis(gap_ms);
            if served {
                pace.answered(prompt, millis(ttft_ms), now);
            }
            pace.read(prompt);
            if let Some(known) = pace.now(now) {
                prop_assert!(known.per_token.is_finite() && known.per_token >= 0.0);
                prop_assert!((1.0..=6.0).contains(&known.excess));
                prop_assert_eq!(known.unread_tokens, 0);
                prop_assert!(known.upper(known.alone(10)) >= known.alone(10));
            }
        }
    }
}
