//! How many requests a backend is given at once where it does not say how many it can take.
//!
//! Learnt from what this node sees: the time to first token grows where requests queue inside the
//! backend, and a 429, a 503 or a timeout says that it was too much. After Netflix's concurrency-limits
//! (`Gradient2Limit` and `AIMDLimit`): the limit follows the gradient of a long over a short average of
//! latency, keeps a small allowance to find out whether more is possible, and falls by a factor where
//! requests are refused. Two differences, since first tokens vary with the length of prompts: the short
//! average is one of several requests and not the last one alone, and the long one takes slower samples
//! in far more slowly than faster ones, so that a queue that stands does not become the norm.
//!
//! Routers that share a backend share it by this: each adds as much as the others and gives up a share of
//! what it has, which ends in equal parts (Chiu and Jain, 1989).

use crate::time::Moment;
use std::time::Duration;

/// Latency above the norm by this factor is no sign of a queue yet.
const TOLERANCE: f64 = 2.0;
/// Requests above the limit that are tried.
const ALLOWANCE: f64 = 4.0;
/// Share of a new limit in the next one.
const SMOOTHING: f64 = 0.2;
/// Share of a sample in the short average.
const SHORT_SHARE: f64 = 0.1;
/// Share of a faster sample in the long average.
const FASTER_SHARE: f64 = 0.02;
/// Share of a slower one, which counts as no more than twice the average: it takes some 1,400 of them to
/// double what is taken for normal.
const SLOWER_SHARE: f64 = 0.000_5;
/// Samples the averages start from.
const WARM_UP: u32 = 10;
/// What remains after a refusal.
const BACK_OFF: f64 = 0.9;
/// Refusals within this are one: the requests were sent together.
const ONE_REFUSAL: Duration = Duration::from_secs(1);

/// A limit that is being learnt.
#[derive(Clone, Debug)]
pub struct LearntLimit {
    limit: f64,
    max: f64,
    samples: u32,
    long: f64,
    short: f64,
    refused_at: Option<Moment>,
}

impl LearntLimit {
    /// Begins at `max`, and never goes above it.
    pub fn new(max: u32) -> Self {
        let max = f64::from(max.max(1));
        Self { limit: max, max, samples: 0, long: 0.0, short: 0.0, refused_at: None }
    }

    /// Requests at once.
    pub fn limit(&self) -> u32 {
        // Between 1 and `max`, which came from a `u32`.
        self.limit as u32
    }

    /// Never above `max` from now on.
    pub fn set_max(&mut self, max: u32) {
        let untouched = self.limit >= self.max;
        self.max = f64::from(max.max(1));
        self.limit = if untouched { self.max } else { self.limit.min(self.max) };
    }

    /// A first token came after `ttft`, while `in_flight` requests ran.
    pub fn answered(&mut self, ttft: Duration, in_flight: u32) {
        let secs = ttft.as_secs_f64().max(1e-6);
        if self.samples < WARM_UP {
            self.samples += 1;
            let share = 1.0 / f64::from(self.samples);
            self.long += (secs - self.long) * share;
            self.short = self.long;
            return;
        }
        let share = if secs < self.long { FASTER_SHARE } else { SLOWER_SHARE };
        self.long += (secs.min(2.0 * self.long) - self.long) * share;
        self.short += (secs - self.short) * SHORT_SHARE;
        // Where half of the limit is not used, latency says nothing about the limit.
        if f64::from(in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * self.long / self.short).clamp(0.5, 1.0);
        let next = self.limit * gradient + ALLOWANCE;
        self.limit = (self.limit + (next - self.limit) * SMOOTHING).clamp(1.0, self.max);
    }

    /// A request was refused or timed out, while `in_flight` ran.
    pub fn refused(&mut self, in_flight: u32, now: Moment) {
        if self.refused_at.is_some_and(|at| now.since(at) < ONE_REFUSAL) {
            return;
        }
        self.refused_at = Some(now);
        let ran = f64::from(in_flight.max(1));
        self.limit = (self.limit.min(ran) * BACK_OFF).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A backend of `places` under constant demand: what the limit comes to after `answers`.
    fn under_demand(limit: &mut LearntLimit, places: u32, demand: u32, answers: u32) -> u32 {
        for _ in 0..answers {
            let in_flight = demand.min(limit.limit());
            let queue = f64::from(in_flight.max(places)) / f64::from(places);
            limit.answered(Duration::from_millis(200).mul_f64(queue), in_flight);
        }
        limit.limit()
    }

    #[test]
    fn a_backend_that_slows_down_under_load_is_given_less() {
        let mut limit = LearntLimit::new(256);
        under_demand(&mut limit, 8, 4, 50);
        assert_eq!(limit.limit(), 256, "little use teaches nothing");
        let learnt = under_demand(&mut limit, 8, 1_000, 400);
        assert!((8..=32).contains(&learnt), "learnt {learnt} for 8 places");
    }

    #[test]
    fn a_backend_that_does_not_slow_down_keeps_what_it_has() {
        let mut limit = LearntLimit::new(64);
        under_demand(&mut limit, 1_000, 1_000, 500);
        assert_eq!(limit.limit(), 64);
    }

    #[test]
    fn a_refusal_brings_it_below_what_ran_and_a_burst_of_them_counts_once() {
        let mut limit = LearntLimit::new(256);
        for _ in 0..20 {
            limit.refused(10, Moment::from_secs(5));
        }
        assert_eq!(limit.limit(), 9);
        limit.refused(9, Moment::from_secs(6));
        assert_eq!(limit.limit(), 8);
    }

    #[test]
    fn it_grows_again_while_it_is_used_and_answers_stay_fast() {
        let mut limit = LearntLimit::new(256);
        limit.refused(4, Moment::ZERO);
        assert_eq!(limit.limit(), 3);
        let grown = under_demand(&mut limit, 100, 1_000, 80);
        assert!(grown > 40, "{grown}");
    }

    #[test]
    fn a_new_maximum_holds_at_once_and_an_untouched_limit_follows_it() {
        let mut limit = LearntLimit::new(256);
        limit.set_max(512);
        assert_eq!(limit.limit(), 512);
        limit.set_max(16);
        assert_eq!(limit.limit(), 16);
        limit.refused(8, Moment::ZERO);
        limit.set_max(512);
        assert_eq!(limit.limit(), 7, "what was learnt stays");
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_its_maximum(
            steps in proptest::collection::vec((any::<bool>(), 0u64..60_000, 0u32..2_000), 1..500),
            max in 0u32..1_000
        ) {
            let mut limit = LearntLimit::new(max);
            let mut now = Moment::ZERO;
            for (ok, ms, in_flight) in steps {
                now = now + Duration::from_millis(ms / 30);
                if ok {
                    limit.answered(Duration::from_millis(ms), in_flight);
                } else {
                    limit.refused(in_flight, now);
                }
                prop_assert!((1..=max.max(1)).contains(&limit.limit()));
            }
        }
    }
}
