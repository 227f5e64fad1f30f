//! Unit cost of our own machines: what 1,000 tokens cost at the speed the machine really has.

use crate::money::Money;
use crate::time::Moment;

/// Busy seconds that are remembered: what was measured before fades as more is measured.
const REMEMBERED_BUSY_SECS: f64 = 120.0;
/// Fewer output tokens than this say nothing of a machine's speed.
const TOKENS_MIN: u64 = 8;

/// Dollars per 1,000 tokens: `cost_per_hour ÷ (tokens_per_second × 3600) × overhead × 1000`.
///
/// `None` where a factor is unknown or makes no sense (not finite, zero or negative speed): an
/// unknown speed is "not eligible on cost", never a default.
pub fn cost_per_1k(cost_per_hour: Money, tokens_per_second: f64, overhead: f64) -> Option<Money> {
    let sane = tokens_per_second.is_finite()
        && tokens_per_second > 0.0
        && overhead.is_finite()
        && overhead >= 0.0
        && cost_per_hour >= Money::ZERO;
    if !sane {
        return None;
    }
    Money::from_usd(cost_per_hour.as_usd() / (tokens_per_second * 3600.0) * overhead * 1000.0)
}

/// What one request costs at a machine whose price per 1,000 tokens is `per_1k`.
///
/// Charged are output tokens: the measured speed is output tokens over all busy time, reading prompts
/// included, so that over many requests the charges add up to the machine's price for its busy time.
/// A request without output (an embedding) is charged by its input.
#[inline]
pub fn request_cost(per_1k: Money, input_tokens: u64, output_tokens: u64) -> Money {
    let charged = if output_tokens == 0 { input_tokens } else { output_tokens };
    per_1k.share(charged, 1000)
}

/// Measures aggregate output tokens per second of busy time.
///
/// Busy is the union of the intervals in which at least one request runs: four requests at once count
/// their tokens together and their time once. Busy time counts from the moment the tokens made in it
/// are told, so that an answer still being made does not look like slowness. What is measured fades
/// only as more is measured: an idle machine keeps its figure.
#[derive(Clone, Debug, Default)]
pub struct ThroughputMeter {
    running: u32,
    /// Up to when busy time is counted.
    counted_to: Moment,
    /// Busy time since tokens were told last.
    untold_secs: f64,
    busy_secs: f64,
    tokens: f64,
    tokens_ever: u64,
}

impl ThroughputMeter {
    /// A request began to run.
    pub fn started(&mut self, now: Moment) {
        self.advance(now);
        self.running = self.running.saturating_add(1);
    }

    /// `count` output tokens arrived.
    pub fn tokens(&mut self, count: u64, now: Moment) {
        self.advance(now);
        self.tokens += count as f64;
        self.tokens_ever = self.tokens_ever.saturating_add(count);
        self.busy_secs += std::mem::take(&mut self.untold_secs);
        if self.busy_secs > REMEMBERED_BUSY_SECS {
            self.tokens *= REMEMBERED_BUSY_SECS / self.busy_secs;
            self.busy_secs = REMEMBERED_BUSY_SECS;
        }
    }

    /// A request ended, having made `output_tokens` that were not told by [`tokens`](Self::tokens).
    pub fn finished(&mut self, output_tokens: u64, now: Moment) {
        self.tokens(output_tokens, now);
        self.running = self.running.saturating_sub(1);
    }

    /// Tokens per second of busy time; `None` until 8 tokens were measured.
    ///
    /// A machine that has been busy for two minutes without a single token told is no longer between
    /// two answers: what goes beyond counts against it.
    pub fn tokens_per_second(&self, now: Moment) -> Option<f64> {
        let mut current = self.clone();
        current.advance(now);
        let stalled_secs = (current.untold_secs - REMEMBERED_BUSY_SECS).max(0.0);
        let speed = self.tokens / (self.busy_secs + stalled_secs);
        (self.tokens_ever >= TOKENS_MIN && speed.is_finite() && speed > 0.0).then_some(speed)
    }

    fn advance(&mut self, now: Moment) {
        if self.running > 0 {
            self.untold_secs += now.since(self.counted_to).as_secs_f64();
        }
        self.counted_to = self.counted_to.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn usd(amount: f64) -> Money {
        Money::from_usd(amount).unwrap()
    }

    #[test]
    fn the_seeds_example_costs_what_it_says() {
        let cost = cost_per_1k(usd(0.0928), 10.0, 1.1).unwrap();
        assert_eq!(cost, Money::from_pico(2_835_555_556));
        assert_eq!(format!("{:.6}", cost.as_usd()), "0.002836");
    }

    #[test]
    fn an_unknown_or_senseless_speed_has_no_cost() {
        for speed in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(cost_per_1k(usd(0.0928), speed, 1.1), None, "{speed}");
        }
        assert_eq!(cost_per_1k(usd(0.0928), 10.0, f64::NAN), None);
        assert_eq!(cost_per_1k(usd(-1.0), 10.0, 1.1), None);
        assert_eq!(cost_per_1k(usd(1.0), f64::MIN_POSITIVE, 1.1), None, "beyond any amount");
    }

    #[test]
    fn a_machine_that_is_paid_for_elsewhere_costs_nothing() {
        assert_eq!(cost_per_1k(Money::ZERO, 10.0, 1.1), Some(Money::ZERO));
    }

    #[test]
    fn a_request_is_charged_for_the_machine_time_of_its_output() {
        let per_1k = cost_per_1k(usd(0.0928), 10.0, 1.1).unwrap();
        // 200 tokens at 10 a second are 20 s of a machine at $0.0928 an hour, and a tenth on top.
        let expected = usd(0.0928 / 3600.0 * 20.0 * 1.1);
        assert!((request_cost(per_1k, 5_000, 200) - expected).pico().abs() <= 1);
        assert_eq!(request_cost(per_1k, 1_000, 0), per_1k);
    }

    #[test]
    fn requests_at_once_count_their_time_once() {
        let mut meter = ThroughputMeter::default();
        meter.started(Moment::from_secs(0));
        meter.started(Moment::from_secs(0));
        meter.finished(50, Moment::from_secs(10));
        meter.finished(50, Moment::from_secs(10));
        let speed = meter.tokens_per_second(Moment::from_secs(10)).unwrap();
        assert!((speed - 10.0).abs() < 1e-9, "100 tokens in 10 s, was {speed}");
    }

    #[test]
    fn a_long_answer_told_only_at_its_end_neither_slows_nor_speeds_the_figure() {
        let mut meter = ThroughputMeter::default();
        for answer in 0..5 {
            let start = answer * 100;
            meter.started(Moment::from_secs(start));
            if answer > 0 {
                let halfway = meter.tokens_per_second(Moment::from_secs(start + 40)).unwrap();
                assert!((halfway - 10.0).abs() < 1e-9, "was {halfway}");
            }
            meter.finished(800, Moment::from_secs(start + 80));
            let after = meter.tokens_per_second(Moment::from_secs(start + 80)).unwrap();
            assert!((after - 10.0).abs() < 1e-9, "was {after}");
        }
    }

    #[test]
    fn a_machine_that_stalls_for_minutes_becomes_slow() {
        let mut meter = ThroughputMeter::default();
        meter.started(Moment::from_secs(0));
        meter.finished(1_200, Moment::from_secs(120));
        meter.started(Moment::from_secs(1_000));
        assert_eq!(meter.tokens_per_second(Moment::from_secs(1_120)), Some(10.0));
        assert_eq!(meter.tokens_per_second(Moment::from_secs(1_240)), Some(5.0));
    }

    #[test]
    fn idle_time_does_not_change_the_figure() {
        let mut meter = ThroughputMeter::default();
        meter.started(Moment::from_secs(0));
        meter.finished(100, Moment::from_secs(10));
        let then = meter.tokens_per_second(Moment::from_secs(10)).unwrap();
        let later = meter.tokens_per_second(Moment::from_secs(100_000)).unwrap();
        assert!((then - later).abs() < 1e-9);
    }

    #[test]
    fn fewer_than_eight_tokens_say_nothing() {
        let mut meter = ThroughputMeter::default();
        assert_eq!(meter.tokens_per_second(Moment::ZERO), None);
        meter.started(Moment::ZERO);
        meter.tokens(7, Moment::from_secs(1));
        assert_eq!(meter.tokens_per_second(Moment::from_secs(1)), None);
        meter.tokens(1, Moment::from_secs(1));
        assert!(meter.tokens_per_second(Moment::from_secs(1)).is_some());
    }

    #[test]
    fn no_busy_time_says_nothing() {
        let mut meter = ThroughputMeter::default();
        meter.started(Moment::from_secs(5));
        meter.finished(1_000, Moment::from_secs(5));
        assert_eq!(meter.tokens_per_second(Moment::from_secs(5)), None);
    }

    #[test]
    fn the_figure_follows_a_machine_that_became_slower() {
        let mut meter = ThroughputMeter::default();
        let mut now = Moment::ZERO;
        meter.started(now);
        for per_second in [100, 10] {
            for _ in 0..600 {
                now = now + Duration::from_secs(1);
                meter.tokens(per_second, now);
            }
            let speed = meter.tokens_per_second(now).unwrap();
            assert!((speed / per_second as f64 - 1.0).abs() < 0.1, "{per_second} became {speed}");
        }
    }

    proptest! {
        #[test]
        fn a_steady_speed_is_measured_whatever_its_pieces(
            speed in 1u64..500, pieces in proptest::collection::vec(1u64..5, 20..200)
        ) {
            let mut meter = ThroughputMeter::default();
            let mut now = Moment::ZERO;
            meter.started(now);
            for secs in pieces {
                now = now + Duration::from_secs(secs);
                meter.tokens(speed * secs, now);
            }
            let measured = meter.tokens_per_second(now).unwrap_or(0.0);
            prop_assert!((measured / speed as f64 - 1.0).abs() < 1e-6, "{speed} measured as {measured}");
        }

        #[test]
        fn a_faster_machine_is_never_dearer(slow in 0.1f64..1e4, factor in 1.0f64..100.0, price in 0.0f64..100.0) {
            let dear = cost_per_1k(usd(price), slow, 1.1).unwrap();
            let cheap = cost_per_1k(usd(price), slow * factor, 1.1).unwrap();
            prop_assert!(cheap <= dear);
        }
    }
}
