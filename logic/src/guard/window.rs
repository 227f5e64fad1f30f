//! At most so many units in any minute: a sliding count whose limit may change while it is used.
//!
//! Counted in steps of a second, the oldest of them whole, so the count is never too low. Unlike a bucket it
//! lets a whole minute's allowance through at once and still never more than that in any 60 seconds, which is
//! what lets several nodes split one limit exactly.

use crate::time::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// The window limits are stated for.
pub const WINDOW: Duration = Duration::from_secs(60);
const STEP_MICROS: u64 = 1_000_000;
/// Steps in the window, the one that is only partly in it included.
const STEPS: u64 = 61;

/// Units taken in the last minute.
#[derive(Clone, Debug)]
pub struct Window {
    limit: i64,
    /// Units by step, oldest first, without empty steps.
    steps: VecDeque<(u64, i64)>,
    used: i64,
}

impl Window {
    /// Nothing taken, `limit` units a minute.
    pub fn new(limit: i64) -> Self {
        Self { limit: limit.max(0), steps: VecDeque::new(), used: 0 }
    }

    /// From now on `limit` units a minute; what was taken stays taken.
    pub fn set_limit(&mut self, limit: i64) {
        self.limit = limit.max(0);
    }

    /// Units taken in the last minute.
    pub fn used(&mut self, now: Moment) -> i64 {
        let step = now.micros() / STEP_MICROS;
        while let Some((oldest, units)) = self.steps.front().copied()
            && oldest + STEPS <= step
        {
            self.used -= units;
            self.steps.pop_front();
        }
        self.used.max(0)
    }

    /// Time until `units` may be taken; zero where they may be now. What is more than the limit may never be.
    pub fn wait(&mut self, units: i64, now: Moment) -> Duration {
        let lacking = self.used(now) + units - self.limit;
        if lacking <= 0 {
            return Duration::ZERO;
        }
        let mut freed = 0;
        let enough = self.steps.iter().find(|(_, units)| {
            freed += units;
            freed >= lacking
        });
        match enough {
            Some((step, _)) => Moment::from_micros((step + STEPS) * STEP_MICROS).since(now),
            None => WINDOW,
        }
    }

    /// Takes `units`, or corrects an estimate by a negative number of them.
    pub fn take(&mut self, units: i64, now: Moment) {
        self.used(now);
        let step = now.micros() / STEP_MICROS;
        match self.steps.back_mut() {
            Some((last, taken)) if *last >= step => *taken += units,
            _ => self.steps.push_back((step, units)),
        }
        self.used += units;
    }

    /// Units that may be taken at `now`.
    pub fn left(&mut self, now: Moment) -> i64 {
        (self.limit - self.used(now)).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_sixty_seconds_see_more_than_the_limit(
            pauses in prop::collection::vec(0_u64..3_000, 1..400),
            limit in 1_i64..60,
        ) {
            let mut window = Window::new(limit);
            let mut taken: Vec<Moment> = Vec::new();
            let mut now = Moment::ZERO;
            for pause in pauses {
                now = now + Duration::from_millis(pause);
                if window.wait(1, now).is_zero() {
                    window.take(1, now);
                    taken.push(now);
                    let last_minute = taken.iter().filter(|at| now.since(**at) < WINDOW).count();
                    prop_assert!(i64::try_from(last_minute).unwrap() <= limit);
                }
            }
        }

        #[test]
        fn after_the_wait_there_is_room(used in 0_i64..50, units in 1_i64..50, at in 0_u64..10_000) {
            let mut window = Window::new(50);
            let now = Moment::from_millis(at);
            window.take(used, now);
            let wait = window.wait(units, now);
            prop_assert!(window.wait(units, now + wait).is_zero());
            prop_assert_eq!(wait.is_zero(), used + units <= 50);
        }
    }

    #[test]
    fn a_steady_flow_uses_nearly_the_whole_limit() {
        let mut window = Window::new(600);
        let mut count = 0;
        for tick in 0..30_000 {
            let now = Moment::from_millis(tick * 10);
            if window.wait(1, now).is_zero() {
                window.take(1, now);
                count += 1;
            }
        }
        assert!((2_900..=3_000).contains(&count), "{count} in five minutes");
    }
}
