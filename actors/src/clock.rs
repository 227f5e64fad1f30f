//! The one place that reads a clock: tokio's, so that paused time works in tests and simulation.

use llm_router_logic::time::Moment;
use std::time::Duration;
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

    /// Time until `moment`; zero where it has passed.
    pub fn until(&self, moment: Moment) -> Duration {
        moment.since(self.now())
    }
}
