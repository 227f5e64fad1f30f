//! Slow start: a backend that comes back is not given all its places at once.
//!
//! Its caches are cold and what made it fail may not be over; the queue that has gathered would fall on
//! it in one moment. Its share grows evenly over a configured time, as Envoy's slow start does.

use crate::time::Moment;
use std::time::Duration;

/// The share at the beginning, in percent (Envoy's `min_weight_percent` has the same default).
const FIRST_PERCENT: u64 = 10;

/// How far a backend has come back.
#[derive(Clone, Copy, Debug, Default)]
pub struct WarmUp {
    since: Option<Moment>,
}

impl WarmUp {
    /// It came back at `now`.
    pub fn begin(&mut self, now: Moment) {
        self.since = Some(now);
    }

    /// The share of its places it is given, in percent: 100 after `over`, and where it never left.
    pub fn percent(&self, over: Duration, now: Moment) -> u8 {
        let Some(since) = self.since else { return 100 };
        let (passed, over) = (now.since(since).as_micros(), over.as_micros());
        if passed >= over {
            return 100;
        }
        let grown = u64::try_from(passed * u128::from(100 - FIRST_PERCENT) / over).unwrap_or(100);
        u8::try_from(FIRST_PERCENT + grown).unwrap_or(100)
    }
}

/// `percent` of `places`, rounded up: never none.
pub fn part(places: u32, percent: u8) -> u32 {
    let part = (u64::from(places) * u64::from(percent)).div_ceil(100);
    u32::try_from(part).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_all_over_the_time_set() {
        let mut warm_up = WarmUp::default();
        let over = Duration::from_secs(10);
        assert_eq!(warm_up.percent(over, Moment::from_secs(5)), 100, "it never left");
        warm_up.begin(Moment::from_secs(100));
        let at = |secs| warm_up.percent(over, Moment::from_secs(secs));
        assert_eq!([at(100), at(105), at(109), at(110), at(999)], [10, 55, 91, 100, 100]);
        assert_eq!(warm_up.percent(Duration::ZERO, Moment::from_secs(100)), 100, "switched off");
    }

    #[test]
    fn a_part_is_rounded_up_and_never_none() {
        assert_eq!([part(4, 10), part(4, 55), part(256, 10), part(1, 10), part(0, 50)], [1, 3, 26, 1, 1]);
    }
}
