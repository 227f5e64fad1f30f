//! The one place that reads a clock: tokio's wherever time is measured, so that paused time works in tests and simulation.

use llm_router_logic::time::Moment;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Measures [`Moment`]s from its own creation.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment::ZERO + self.origin.elapsed()
    }

    /// The calendar's time, in Unix milliseconds: for what the world dates so, never for measuring.
    pub fn unix_ms(&self) -> u64 {
        llm_router_logic::time::millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Time until `moment`; zero where it has passed.
    pub fn until(&self, moment: Moment) -> Duration {
        moment.since(self.now())
    }
}
