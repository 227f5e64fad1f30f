//! Which requests are kept: a share by chance, decided before they run, and those that fail or are slow.

use crate::config::{Sampler, Traces};
use llm_router_actors::clock::Clock;
use llm_router_logic::time::Moment;
use opentelemetry::trace::TraceId;
use std::sync::atomic::{AtomicU64, Ordering};

/// What decides.
#[derive(Debug)]
pub(super) struct Kept {
    sampler: Sampler,
    /// Below this a trace id's last 63 bits are kept.
    bound: u64,
    per_second: u64,
    /// Requests kept only since they were bad: the second in the upper half, their number in the lower.
    bad: AtomicU64,
}

impl Kept {
    pub(super) fn new(settings: &Traces, clock: Clock) -> Self {
        let sampler = settings.sampler;
        // As OpenTelemetry's SDKs do it, so that all services of a trace agree.
        let bound = (sampler.ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
        let second = second(clock.now());
        let per_second = u64::from(settings.keep_per_second);
        Self { sampler, bound, per_second, bad: AtomicU64::new(second << 32) }
    }

    /// Whether a request of `trace` is kept whatever comes of it; `theirs` is what its client decided.
    pub(super) fn sample(&self, theirs: Option<bool>, trace: TraceId) -> bool {
        match theirs.filter(|_| self.sampler.parent_based) {
            Some(theirs) => theirs,
            None => {
                let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
                u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.bound
            }
        }
    }

    /// The metric's word for a request that ended, and whether it is kept.
    pub(super) fn judge(&self, sampled: bool, failed: bool, slow: bool, now: Moment) -> (&'static str, bool) {
        let bad = failed || slow;
        match (sampled, bad && self.sampler.keeps_bad) {
            (true, _) => ("sampled", true),
            (false, false) => ("not_sampled", false),
            (false, true) if !self.has_room(now) => ("over_limit", false),
            (false, true) => (if failed { "error" } else { "slow" }, true),
        }
    }

    /// Takes one of this second's places for bad requests.
    fn has_room(&self, now: Moment) -> bool {
        let second = second(now) << 32;
        let taken = self.bad.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |known| {
            let count = if known & !0xFFFF_FFFF == second { known & 0xFFFF_FFFF } else { 0 };
            (count < self.per_second).then_some(second | (count + 1))
        });
        taken.is_ok()
    }
}

fn second(now: Moment) -> u64 {
    (now.micros() / 1_000_000) & 0xFFFF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(parent_based: bool, ratio: f64, keep_per_second: u32) -> Kept {
        let sampler = Sampler { parent_based, ratio, keeps_bad: true };
        let settings = Traces { sampler, keep_per_second, ..Traces::default() };
        Kept::new(&settings, Clock::start())
    }

    #[tokio::test]
    async fn bad_requests_are_kept_up_to_a_bound_per_second_and_sampled_ones_beyond_it() {
        let kept = kept(true, 0.0, 2);
        let now = Moment::from_secs(7);
        assert_eq!(kept.judge(false, true, true, now), ("error", true));
        assert_eq!(kept.judge(false, false, true, now), ("slow", true));
        assert_eq!(kept.judge(false, true, false, now), ("over_limit", false));
        assert_eq!(kept.judge(true, true, false, now), ("sampled", true));
        assert_eq!(kept.judge(false, false, false, now), ("not_sampled", false));
        assert_eq!(kept.judge(false, true, false, Moment::from_secs(8)), ("error", true));
    }

    #[tokio::test]
    async fn a_clients_decision_counts_only_where_the_sampler_heeds_it() {
        let trace = TraceId::from(u128::MAX);
        assert!(kept(true, 0.0, 1).sample(Some(true), trace));
        assert!(!kept(true, 1.0, 1).sample(Some(false), trace));
        assert!(!kept(false, 0.0, 1).sample(Some(true), trace));
        assert!(kept(false, 1.0, 1).sample(Some(false), trace));
    }

    proptest! {
        #[test]
        fn a_share_of_all_traces_is_kept_and_a_larger_share_keeps_the_same_ones_too(
            ids in proptest::collection::vec(any::<u128>(), 400),
            ratio in 0.0..1.0_f64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _entered = runtime.enter();
            let (some, more) = (kept(false, ratio, 1), kept(false, (ratio + 0.2).min(1.0), 1));
            let kept = |of: &Kept| ids.iter().filter(|id| of.sample(None, TraceId::from(**id))).count();
            prop_assert!((kept(&some) as f64 / 400.0 - ratio).abs() < 0.15);
            for id in &ids {
                let trace = TraceId::from(*id);
                prop_assert!(!some.sample(None, trace) || more.sample(None, trace));
            }
        }
    }
}
