//! The operator's settings of all guards.

use crate::guard::breaker::BreakerPolicy;
use crate::guard::hedge::HedgePolicy;
use crate::guard::retry::RetryPolicy;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How backends and budgets are protected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardPolicy {
    /// When a circuit breaker opens.
    pub breaker: BreakerPolicy,
    /// At most this share of the backends that serve a model stays ejected, in percent.
    pub ejected_max_percent: u8,
    /// How often another backend is tried.
    pub retries: RetryPolicy,
    /// When a second attempt is made while the first is silent.
    pub hedging: HedgePolicy,
    /// Over how long a backend that comes back is given its places again.
    pub slow_start: Duration,
    /// Requests at once at a backend that states no number; the limit below it is learnt.
    pub concurrency_max: u32,
}

impl Default for GuardPolicy {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self {
            breaker: BreakerPolicy::default(),
            ejected_max_percent: 50,
            retries: RetryPolicy::default(),
            hedging: HedgePolicy::default(),
            slow_start: Duration::from_secs(10),
            concurrency_max: 256,
        }
    }
}
