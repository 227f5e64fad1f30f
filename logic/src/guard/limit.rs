//! Rate limits of a provider account: one token bucket for requests and one for tokens.
//!
//! Owns this node's share of the account only; what several nodes may spend together is the quota's
//! business. Arithmetic is in integers, so that nothing drifts.

use crate::time::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Microseconds of the minute that limits are stated per.
const MINUTE_MICROS: i128 = 60_000_000;
/// The whole of a share in millionths.
const WHOLE: i128 = 1_000_000;

/// The least a bucket holds, as parts of a minute's allowance: six seconds' share. A smaller bucket
/// would refuse ordinary small bursts of an account that is mostly idle.
const SMALLEST_BUCKET: f64 = 0.1;

/// What a provider's limits, and its 429, are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThrottleScope {
    /// The whole account.
    #[default]
    Account,
    /// Each model by itself.
    Model,
}

/// Limits of a provider account, as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, input and output together.
    pub tokens_per_minute: Option<u32>,
    /// How much may be spent within any one minute, as a factor ≥ 1 on the minute's allowance. The
    /// bucket holds `(burst_multiplier − 1)` minutes' allowance, at least a tenth of one and at least
    /// one request, and refills at exactly the configured rate: the sustained rate is never above it.
    pub burst_multiplier: f64,
    /// What a 429 closes.
    pub scope: ThrottleScope,
}

/// Admits requests within a [`RateLimit`].
///
/// - Any 60 s see at most `limit × max(burst_multiplier, 1.1)` (or one request more than the limit,
///   where that is more). A request larger than the token bucket passes when the bucket is full and
///   leaves a debt: it is late, never blocked for ever, and only it can exceed the bound.
/// - Estimates are admitted and [`settle`](Self::settle)d later. A debt from an underestimate is
///   forgotten beyond one minute's allowance, as the provider's own window forgets.
#[derive(Clone, Debug)]
pub struct Limiter {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

impl Limiter {
    /// Full buckets.
    pub fn new(limit: RateLimit) -> Self {
        let burst = if limit.burst_multiplier.is_finite() { limit.burst_multiplier } else { 1.0 };
        let bucket = |per_minute| Bucket::full(per_minute, (burst - 1.0).clamp(SMALLEST_BUCKET, 1000.0));
        Self { requests: limit.requests_per_minute.map(bucket), tokens: limit.tokens_per_minute.map(bucket) }
    }

    /// Whether a request of `tokens` estimated tokens has room now.
    ///
    /// # Errors
    /// The moment when there will be room, if nothing else is admitted until then.
    pub fn check(&self, tokens: u32, now: Moment) -> Result<(), Moment> {
        let wait = self.wait(tokens, now);
        if wait.is_zero() { Ok(()) } else { Err(now + wait) }
    }

    /// Takes a request of `tokens` estimated tokens.
    ///
    /// # Errors
    /// As [`check`](Self::check); nothing is taken then.
    pub fn admit(&mut self, tokens: u32, now: Moment) -> Result<(), Moment> {
        self.check(tokens, now)?;
        if let Some(bucket) = &mut self.requests {
            bucket.take(1, now);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(i128::from(tokens), now);
        }
        Ok(())
    }

    /// Replaces an admitted estimate by what was spent in truth.
    pub fn settle(&mut self, estimated: u32, actual: u32, now: Moment) {
        if let Some(bucket) = &mut self.tokens {
            bucket.take(i128::from(actual) - i128::from(estimated), now);
        }
    }

    /// From `now` on this node has `requests` and `tokens` millionths of the account's limits. What the buckets
    /// hold is cut to what they may hold and never added to.
    pub fn set_share(&mut self, requests: u32, tokens: u32, now: Moment) {
        let shares = [(&mut self.requests, requests), (&mut self.tokens, tokens)];
        for (bucket, share) in
            shares.into_iter().filter_map(|(bucket, share)| Some((bucket.as_mut()?, share)))
        {
            bucket.set_share(share, now);
        }
    }

    /// How requests and tokens stand: the account's limit per minute, what is left here now, and how long until
    /// that is as much as it can be. `None` where there is no such limit.
    pub fn standings(&self, now: Moment) -> [Option<Standing>; 2] {
        [&self.requests, &self.tokens].map(|bucket| bucket.as_ref().map(|bucket| bucket.standing(now)))
    }

    fn wait(&self, tokens: u32, now: Moment) -> Duration {
        let requests = self.requests.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(1, now));
        let tokens = self.tokens.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(tokens, now));
        requests.max(tokens)
    }
}

/// How one limit of a [`Limiter`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Of the whole account, per minute.
    pub limit: u64,
    /// Left to this node now, debts counting as nothing.
    pub left: u64,
    /// Until nothing is missing of what may be left at most.
    pub whole_in: Duration,
}

/// A token bucket; its levels are in units × microseconds of a minute.
#[derive(Clone, Debug)]
struct Bucket {
    /// Of the whole account.
    configured: i128,
    /// What the bucket of the whole account holds.
    whole_capacity: i128,
    /// This node's share of it, times a million to lose nothing.
    per_minute_millionths: i128,
    per_minute: i128,
    capacity: i128,
    level: i128,
    filled_at: Moment,
}

impl Bucket {
    fn full(per_minute: u32, minutes: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 2^32 × 1000 units, far below i64's bound"
        )]
        let units = (f64::from(per_minute) * minutes).round() as i64;
        let capacity = i128::from(units.max(1)) * MINUTE_MICROS;
        let per_minute = i128::from(per_minute);
        Self {
            configured: per_minute,
            whole_capacity: capacity,
            per_minute_millionths: per_minute * WHOLE,
            per_minute,
            capacity,
            level: capacity,
            filled_at: Moment::ZERO,
        }
    }

    fn level(&self, now: Moment) -> i128 {
        let passed = i128::from(now.micros().saturating_sub(self.filled_at.micros()));
        let filled = passed.saturating_mul(self.per_minute_millionths) / WHOLE;
        self.level.saturating_add(filled).min(self.capacity)
    }

    fn set_share(&mut self, millionths: u32, now: Moment) {
        let level = self.level(now);
        self.filled_at = self.filled_at.max(now);
        self.per_minute_millionths = self.configured * i128::from(millionths);
        self.per_minute = (self.per_minute_millionths / WHOLE).max(1);
        self.capacity = (self.whole_capacity * i128::from(millionths) / WHOLE).max(MINUTE_MICROS);
        self.level = level.min(self.capacity);
    }

    fn wait(&self, units: u32, now: Moment) -> Duration {
        if self.per_minute == 0 {
            return Duration::from_secs(60);
        }
        let needed = (i128::from(units) * MINUTE_MICROS).min(self.capacity);
        let lacking = (needed - self.level(now)).max(0);
        let micros = (lacking + self.per_minute - 1) / self.per_minute;
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn standing(&self, now: Moment) -> Standing {
        let level = self.level(now);
        let refill = self.per_minute_millionths.max(1);
        let micros = ((self.capacity - level).max(0) * WHOLE + refill - 1) / refill;
        let units = |amount: i128| u64::try_from(amount.max(0)).unwrap_or(u64::MAX);
        Standing {
            limit: units(self.configured),
            left: units(level / MINUTE_MICROS),
            whole_in: Duration::from_micros(units(micros)),
        }
    }

    fn take(&mut self, units: i128, now: Moment) {
        let floor = -self.per_minute.max(1) * MINUTE_MICROS;
        self.level = (self.level(now) - units * MINUTE_MICROS).clamp(floor, self.capacity);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod tests;
