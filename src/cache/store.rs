//! The kept answers of this node.
//!
//! Owns their bounds: a time to live, bytes in all and bytes of one. What was used longest ago goes first.

use super::answer::Answer;
use crate::config::Cache as Settings;
use llm_router_actors::metrics::Metrics;
use llm_router_logic::cache_key::Digest256;
use llm_router_logic::time::Moment;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::sync::Arc;
use std::time::Duration;

/// A kept answer and when it was complete.
#[derive(Clone, Debug)]
struct Stored {
    answer: Arc<Answer>,
    at: Moment,
}

/// The kept answers of this node.
#[derive(Clone)]
pub(crate) struct Store {
    answers: Cache<Digest256, Stored>,
    ttl: Duration,
    entry_bytes_max: usize,
}

impl Store {
    pub(crate) fn new(settings: &Settings, metrics: &Metrics) -> Self {
        let counted = metrics.answers.clone();
        let answers = Cache::builder()
            .max_capacity(settings.max_bytes as u64)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, stored: &Stored| u32::try_from(stored.answer.weight()).unwrap_or(u32::MAX))
            .time_to_live(settings.ttl)
            .eviction_listener(move |_, stored: Stored, cause| {
                counted.cache_bytes.sub(i64::try_from(stored.answer.weight()).unwrap_or(0));
                counted.cache_entries.dec();
                if cause == RemovalCause::Size {
                    counted.cache_evicted_total.inc();
                }
            })
            .build();
        Self { answers, ttl: settings.ttl, entry_bytes_max: settings.max_entry_bytes }
    }

    /// Whether an answer may be kept here.
    pub(crate) fn takes(&self, answer: &Answer) -> bool {
        answer.body.len() <= self.entry_bytes_max
    }

    /// Keeps an answer that was complete at `at`.
    pub(crate) fn put(&self, key: Digest256, answer: Arc<Answer>, at: Moment, metrics: &Metrics) {
        let answers = &metrics.answers;
        answers.cache_bytes.add(i64::try_from(answer.weight()).unwrap_or(0));
        answers.cache_entries.inc();
        self.answers.insert(key, Stored { answer, at });
    }

    /// A kept answer and its age.
    pub(crate) fn find(&self, key: &Digest256, now: Moment) -> Option<(Arc<Answer>, Duration)> {
        let stored = self.answers.get(key)?;
        let age = now.since(stored.at);
        (age < self.ttl).then_some((stored.answer, age))
    }

    /// Forgets everything, and what the metrics say of it.
    pub(crate) fn clear(&self) {
        self.answers.invalidate_all();
        self.answers.run_pending_tasks();
    }
}
