//! Rate limits of a provider account.

use serde::{Deserialize, Serialize};

/// Limits of a provider account, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, input and output together.
    pub tokens_per_minute: Option<u32>,
    /// How much of a minute's allowance may be spent at once, as a factor ≥ 1 on one second's share.
    pub burst_multiplier: f64,
}
