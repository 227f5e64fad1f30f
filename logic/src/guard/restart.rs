//! How long to wait before a failed part is started again.
//!
//! Owns the count of recent restarts of one part; never restarts anything itself.

use crate::time::Moment;
use std::time::Duration;

/// Bounds of the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The shortest wait.
    pub delay_min: Duration,
    /// The longest wait.
    pub delay_max: Duration,
    /// A part that ran this long since its last restart starts from the shortest wait again.
    pub calm: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            delay_min: Duration::from_millis(50),
            delay_max: Duration::from_secs(5),
            calm: Duration::from_secs(30),
        }
    }
}

/// Restarts of one part: exponential backoff with jitter, so that parts that failed together do not
/// come back together.
#[derive(Clone, Debug, Default)]
pub struct Restarts {
    policy: RestartPolicy,
    in_a_row: u32,
    /// When the last restart was due.
    due_at: Option<Moment>,
}

impl Restarts {
    /// No restart so far.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, in_a_row: 0, due_at: None }
    }

    /// The wait before the restart that is needed now; `draw` is 64 random bits.
    ///
    /// The n-th restart in a row waits between half of `delay_min` × 2ⁿ⁺¹ and all of it, within the
    /// policy's bounds.
    pub fn next_delay(&mut self, now: Moment, draw: u64) -> Duration {
        if self.due_at.is_some_and(|due| now.since(due) >= self.policy.calm) {
            self.in_a_row = 0;
        }
        let longest =
            self.policy.delay_min.saturating_mul(2 << self.in_a_row.min(16)).min(self.policy.delay_max);
        let shortest = (longest / 2).max(self.policy.delay_min).min(longest);
        let spread = u64::try_from((longest - shortest).as_micros()).unwrap_or(u64::MAX);
        let delay = shortest + Duration::from_micros(draw % spread.saturating_add(1).max(1));
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.due_at = Some(now + delay);
        delay
    }

    /// Restarts since the last calm.
    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_from_fifty_milliseconds_to_five_seconds() {
        let mut restarts = Restarts::default();
        let waits: Vec<u128> =
            (0..9).map(|_| restarts.next_delay(Moment::from_secs(1), 0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2500, 2500, 2500]);
    }

    #[test]
    fn thirty_calm_seconds_start_over() {
        let mut restarts = Restarts::default();
        let mut now = Moment::ZERO;
        for _ in 0..6 {
            now = now + restarts.next_delay(now, 0);
        }
        let short_of_calm = now + Duration::from_millis(29_999);
        assert!(restarts.clone().next_delay(short_of_calm, 0) > Duration::from_secs(1));
        assert_eq!(restarts.next_delay(now + Duration::from_secs(30), 0), Duration::from_millis(50));
    }

    proptest! {
        #[test]
        fn every_wait_is_within_the_bounds(draws in proptest::collection::vec(any::<u64>(), 1..100)) {
            let mut restarts = Restarts::default();
            for draw in draws {
                let wait = restarts.next_delay(Moment::ZERO, draw);
                prop_assert!(wait >= Duration::from_millis(50) && wait <= Duration::from_secs(5));
            }
        }

        #[test]
        fn different_draws_spread_the_waits(draw in 0u64..50_000) {
            let wait = Restarts::default().next_delay(Moment::ZERO, draw);
            prop_assert_eq!(wait, Duration::from_micros(50_000 + draw));
        }
    }
}
