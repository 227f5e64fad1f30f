//! The last minutes of a node in figures, so that a page just opened has curves to show.
//!
//! Owns a bounded ring of samples, one each two seconds for ten minutes. Reads the books and the last
//! decisions; nothing asks it on a request's way.

use crate::decisions::{Decision, Decisions};
use llm_router_actors::Handle;
use llm_router_actors::handle::Book;
use llm_router_logic::money::Money;
use llm_router_logic::time::millis;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time from one sample to the next.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Samples kept: ten minutes.
pub const SAMPLES_MAX: usize = 300;
/// What the percentiles of a sample look back on. Longer than a sample, or a quiet router's would jump.
pub const PERCENTILES_OVER: Duration = Duration::from_secs(10);
/// Decisions looked at for them; where more were made, the newest stand for all.
const DECISIONS_READ: usize = 1_000;

/// What happened since the sample before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was taken, Unix milliseconds.
    pub unix_ms: u64,
    /// The time it is about, in milliseconds.
    pub over_ms: u64,
    /// Requests finished.
    pub requests: u64,
    /// Of these, not answered in full.
    pub errors: u64,
    /// Of these, served after another backend had failed.
    pub fallbacks: u64,
    /// Median time to first token over the last ten seconds; `None` where nothing began to answer.
    pub ttft_p50_ms: Option<u64>,
    /// Its 95th percentile.
    pub ttft_p95_ms: Option<u64>,
    /// What the requests cost.
    pub cost_usd: Money,
    /// Gross savings since the start.
    pub gross_usd: Money,
    /// Net savings since the start: gross less what idle machines cost.
    pub net_usd: Money,
}

/// The samples of one node.
#[derive(Debug, Default)]
pub struct History {
    ring: Mutex<VecDeque<Sample>>,
}

impl History {
    /// Takes samples for as long as it is polled.
    pub async fn follow(&self, handle: &Handle, decisions: &Decisions) {
        let mut tick = tokio::time::interval(SAMPLE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        let (mut before, mut taken) = (handle.book(), unix_ms());
        loop {
            tick.tick().await;
            let (book, now) = (handle.book(), unix_ms());
            let mut sample = since(&before, &book);
            (sample.unix_ms, sample.over_ms) = (now, now.saturating_sub(taken));
            let from = now.saturating_sub(millis(PERCENTILES_OVER));
            (sample.ttft_p50_ms, sample.ttft_p95_ms) = ttfts(&decisions.newest(DECISIONS_READ), from);
            self.keep(sample);
            (before, taken) = (book, now);
        }
    }

    /// Those taken after `unix_ms`, the oldest first.
    pub fn after(&self, unix_ms: u64) -> Vec<Sample> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().filter(|sample| sample.unix_ms > unix_ms).cloned().collect()
    }

    fn keep(&self, sample: Sample) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= SAMPLES_MAX {
            ring.pop_front();
        }
        ring.push_back(sample);
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// What `now` has beyond `before`.
fn since(before: &Book, now: &Book) -> Sample {
    Sample {
        unix_ms: 0,
        over_ms: 0,
        requests: now.total.requests.saturating_sub(before.total.requests),
        errors: now.total.errors.saturating_sub(before.total.errors),
        fallbacks: now.total.fallbacks.saturating_sub(before.total.fallbacks),
        ttft_p50_ms: None,
        ttft_p95_ms: None,
        cost_usd: now.total.cost - before.total.cost,
        gross_usd: now.total.gross_savings,
        net_usd: now.net_savings,
    }
}

/// Median and 95th percentile of the times to first token of what ended after `from`.
fn ttfts(newest: &[Arc<Decision>], from: u64) -> (Option<u64>, Option<u64>) {
    let recent = newest.iter().filter(|decision| decision.unix_ms + decision.duration_ms > from);
    let mut times: Vec<u64> = recent.filter_map(|decision| decision.ttft_ms).collect();
    times.sort_unstable();
    (percentile(&times, 50), percentile(&times, 95))
}

/// The smallest of the `sorted` that at least `percent` of them do not exceed (nearest rank).
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values_seen() {
        let times: Vec<u64> = (1..=20).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 95)), (Some(10), Some(19)));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 95)), (Some(7), Some(7)));
        assert_eq!(percentile(&[], 95), None, "nothing answered is unknown, not 0 ms");
    }

    #[test]
    fn a_sample_counts_what_came_since_the_one_before_and_the_oldest_goes_first() {
        let book = |requests, errors| {
            let mut book = Book::default();
            (book.total.requests, book.total.errors) = (requests, errors);
            book
        };
        let sample = since(&book(10, 1), &book(25, 3));
        assert_eq!((sample.requests, sample.errors), (15, 2));
        let history = History::default();
        for at in 0..SAMPLES_MAX as u64 + 5 {
            history.keep(Sample { unix_ms: at + 1, ..sample.clone() });
        }
        assert_eq!(history.after(0).len(), SAMPLES_MAX);
        assert_eq!(history.after(0)[0].unix_ms, 6);
        assert_eq!(history.after(SAMPLES_MAX as u64 + 3).len(), 2);
    }
}
