//! News of an outage: what a router's own requests showed of a backend, told so that the others need not find out.
//!
//! A provider that throttles one region or fails its requests does so in the others a moment later. The news
//! says until when the account or a model asked to be left alone, which breakers opened, and how many failures
//! came in a row. Only what requests of the teller's own showed is told, never what it heard: gossip cannot echo.

use crate::gossip::fact::{Fact, Topic};
use crate::time::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Models told of one backend at once.
pub const MODELS_MAX: usize = 9;
/// Fewer failures in a row than this are no news.
pub const STREAK_MIN: u32 = 2;
/// Longest closure believed of a peer.
pub const BELIEVED_MAX: Duration = Duration::from_secs(300);
/// How long failures in a row at a peer count here.
pub const STREAK_COUNTS: Duration = Duration::from_secs(5);
/// This many requests served in a row, the latest begun within [`FRESH`], weigh more than a peer's breaker.
pub const SERVED_ENOUGH: u32 = 5;
/// See [`SERVED_ENOUGH`].
pub const FRESH: Duration = Duration::from_secs(1);

/// What a router tells of one backend that is in trouble.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Grows with every event of the teller's incarnation: what is merely told again is no event.
    pub episode: u64,
    /// How long the account asked to be left alone (429), in milliseconds from the telling; 0 = it did not.
    pub closed_ms: u32,
    /// Its models in trouble, at most [`MODELS_MAX`].
    pub models: Vec<ModelOutage>,
}

/// What is told of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOutage {
    /// The model, as [`model_hash`](super::trial::model_hash).
    pub model: u32,
    /// How long it asked to be left alone (`Retry-After`), in milliseconds; 0 = it did not.
    pub closed_ms: u32,
    /// How long its breaker stays open, in milliseconds; 0 = it is not open.
    pub open_ms: u32,
    /// Failures in a row.
    pub failures: u32,
}

impl Fact for Outage {
    const TOPIC: Topic = Topic::Outage;
    const VERSION: u8 = 1;
}

impl Outage {
    /// Whether there is nothing to tell.
    pub fn is_over(&self) -> bool {
        self.closed_ms == 0 && self.models.is_empty()
    }
}

/// What this node's own requests for a model say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Served since the last failure.
    pub served_in_a_row: u32,
    /// When the latest of them began; what began before the news may end well in spite of it.
    pub latest_began: Moment,
}

impl Record {
    /// Takes the outcome of one request.
    pub fn note(&mut self, served: bool, began: Moment) {
        if served {
            self.served_in_a_row = self.served_in_a_row.saturating_add(1);
            self.latest_began = self.latest_began.max(began);
        } else {
            self.served_in_a_row = 0;
        }
    }

    /// Whether it outweighs a peer's word that the model fails: an observation that is newer and at least as
    /// thick. An older or a thinner one does not.
    pub fn outweighs_news(&self, now: Moment) -> bool {
        self.served_in_a_row >= SERVED_ENOUGH && now.since(self.latest_began) <= FRESH
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::fact::Payload;

    #[test]
    fn the_worst_news_fits_a_fact_and_comes_back() {
        let worst = ModelOutage { model: u32::MAX, closed_ms: u32::MAX, open_ms: u32::MAX, failures: 250 };
        let outage = Outage { episode: u64::MAX, closed_ms: u32::MAX, models: vec![worst; MODELS_MAX] };
        let payload = Payload::of(&outage).unwrap();
        assert_eq!(Outage::read(&payload).unwrap(), outage);
        assert!(!outage.is_over() && Outage { episode: 7, ..Outage::default() }.is_over());
    }

    #[test]
    fn only_a_newer_and_thicker_record_outweighs_the_news() {
        let mut record = Record::default();
        for _ in 0..4 {
            record.note(true, Moment::from_secs(10));
        }
        assert!(!record.outweighs_news(Moment::from_secs(10)), "too thin");
        record.note(true, Moment::from_secs(10));
        assert!(record.outweighs_news(Moment::from_secs(11)));
        assert!(!record.outweighs_news(Moment::from_millis(11_001)), "too old");
        record.note(false, Moment::from_secs(11));
        assert!(!record.outweighs_news(Moment::from_secs(11)), "it fails here as well");
    }
}
