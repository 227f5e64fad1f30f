//! Time to first token (TTFT) of one backend over the last minute.
//!
//! Owns a bounded number of samples. They age out, so that a backend that was slow and therefore gets
//! no more requests becomes eligible again; the newest are remembered longer, as what is best known of it.

use crate::time::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// Samples older than this count for nothing.
const WINDOW: Duration = Duration::from_secs(60);
/// The newest samples are remembered for this long, so that a backend which gets no more requests because it
/// is slow is not taken for a fast one every minute, nor a fast one for slow by one unlucky sample.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many are.
const REMEMBERED_SAMPLES: usize = 8;
/// Samples kept: the newest.
const SAMPLES_MAX: usize = 512;
/// Time constant of the decay. Finagle and linkerd use 10 s for RPCs of milliseconds; an LLM's first
/// token takes up to seconds, so that 10 s would forget within a handful of requests.
const DECAY: Duration = Duration::from_secs(30);

/// TTFT samples and their peak EWMA.
#[derive(Clone, Debug, Default)]
pub struct LatencyWindow {
    samples: VecDeque<(Moment, Duration)>,
    peak: Option<(Moment, Duration)>,
}

impl LatencyWindow {
    /// Takes the TTFT of one request.
    pub fn record(&mut self, ttft: Duration, now: Moment) {
        self.peak = Some((now, self.peak_after(ttft, now)));
        let old = |samples: &VecDeque<(Moment, Duration)>| {
            samples.len() >= REMEMBERED_SAMPLES && samples.front().is_some_and(|s| now.since(s.0) > WINDOW)
        };
        while self.samples.len() >= SAMPLES_MAX || old(&self.samples) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, ttft));
    }

    /// The 95th percentile (nearest rank) of the last minute, or of its newest 512 samples; `None`
    /// without a sample.
    pub fn p95(&self, now: Moment) -> Option<Duration> {
        let mut recent: Vec<Duration> = self.recent(now).collect();
        if recent.is_empty() {
            return None;
        }
        let rank = (recent.len() * 95).div_ceil(100) - 1;
        Some(*recent.select_nth_unstable(rank).1)
    }

    /// The peak-sensitive moving average: a slower sample counts at once and in full, faster ones pull
    /// it down over half a minute. `None` once no sample is younger than ten minutes.
    ///
    /// After Finagle's `PeakEwma` load metric (`twitter/finagle`,
    /// `finagle-core/src/main/scala/com/twitter/finagle/loadbalancer/PeakEwma.scala`), which tower and
    /// linkerd adopted. Theirs decays to zero while no request comes; ours decays to the fastest sample
    /// of the window, since idleness does not make a backend faster than it was lately. Where the last minute has few
    /// samples, the newest eight count.
    pub fn peak_ewma(&self, now: Moment) -> Option<Duration> {
        let (at, peak) = self.peak?;
        let counts = |(nth, sample): &(usize, &(Moment, Duration))| {
            let limit = if *nth < REMEMBERED_SAMPLES { REMEMBERED } else { WINDOW };
            now.since(sample.0) <= limit
        };
        let floor = self.samples.iter().rev().enumerate().take_while(counts).map(|(_, s)| s.1).min()?;
        Some(blend(peak, floor, now.since(at)).max(floor))
    }

    fn recent(&self, now: Moment) -> impl Iterator<Item = Duration> {
        self.samples.iter().filter(move |s| now.since(s.0) <= WINDOW).map(|s| s.1)
    }

    fn peak_after(&self, ttft: Duration, now: Moment) -> Duration {
        match self.peak {
            Some((at, peak)) if now.since(at) <= WINDOW && peak > ttft => blend(peak, ttft, now.since(at)),
            _ => ttft,
        }
    }
}

/// `old` faded by the time that passed, `new` taking its share.
fn blend(old: Duration, new: Duration, passed: Duration) -> Duration {
    let kept = (-passed.as_secs_f64() / DECAY.as_secs_f64()).exp();
    old.mul_f64(kept) + new.mul_f64(1.0 - kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn nothing_is_known_before_the_first_sample() {
        let window = LatencyWindow::default();
        assert_eq!(window.p95(Moment::ZERO), None);
        assert_eq!(window.peak_ewma(Moment::ZERO), None);
    }

    #[test]
    fn p95_is_the_nearest_rank() {
        let mut window = LatencyWindow::default();
        for millis in (1..=100).rev() {
            window.record(ms(millis), Moment::from_secs(1));
        }
        assert_eq!(window.p95(Moment::from_secs(1)), Some(ms(95)));
        let mut one = LatencyWindow::default();
        one.record(ms(7), Moment::ZERO);
        assert_eq!(one.p95(Moment::ZERO), Some(ms(7)));
    }

    #[test]
    fn samples_age_out_so_that_a_slow_backend_becomes_eligible_and_later_unknown_again() {
        let mut window = LatencyWindow::default();
        window.record(ms(9_000), Moment::from_secs(10));
        assert_eq!(window.p95(Moment::from_secs(70)), Some(ms(9_000)));
        assert_eq!(window.p95(Moment::from_micros(70_000_001)), None);
        assert_eq!(
            window.peak_ewma(Moment::from_micros(70_000_001)),
            Some(ms(9_000)),
            "no reason to think it fast"
        );
        assert_eq!(window.peak_ewma(Moment::from_micros(610_000_001)), None);
    }

    #[test]
    fn a_slow_sample_counts_at_once_and_a_fast_one_pulls_slowly() {
        let mut window = LatencyWindow::default();
        window.record(ms(100), Moment::from_secs(1));
        window.record(ms(900), Moment::from_secs(2));
        assert_eq!(window.peak_ewma(Moment::from_secs(2)), Some(ms(900)));
        window.record(ms(100), Moment::from_secs(32));
        let after = window.peak_ewma(Moment::from_secs(32)).unwrap();
        assert!(after > ms(390) && after < ms(400), "100 + 800/e, was {after:?}");
    }

    #[test]
    fn the_average_decays_to_the_fastest_recent_sample_and_not_below() {
        let mut window = LatencyWindow::default();
        window.record(ms(200), Moment::from_secs(1));
        window.record(ms(900), Moment::from_secs(1));
        let later = window.peak_ewma(Moment::from_secs(60)).unwrap();
        assert!(later >= ms(200) && later < ms(320), "was {later:?}");
    }

    proptest! {
        #[test]
        fn figures_lie_between_the_fastest_and_the_slowest_recent_sample(
            samples in proptest::collection::vec((0u64..30_000, 0u64..5_000), 1..700)
        ) {
            let mut window = LatencyWindow::default();
            let mut now = Moment::ZERO;
            for (ttft, wait) in samples {
                now = now + ms(wait);
                window.record(ms(ttft), now);
                prop_assert!(window.samples.len() <= SAMPLES_MAX);
            }
            let fastest = window.recent(now).min().unwrap();
            let slowest = window.recent(now).max().unwrap();
            let p95 = window.p95(now).unwrap();
            prop_assert!(p95 >= fastest && p95 <= slowest);
            prop_assert!(window.peak_ewma(now).unwrap() >= fastest);
            prop_assert!(window.peak_ewma(now).unwrap() <= ms(30_000));
        }
    }
}
