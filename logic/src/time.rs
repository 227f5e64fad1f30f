//! Time as an argument: a monotonic moment the caller measured.

use serde::{Deserialize, Serialize};
use std::ops::Add;
use std::time::Duration;

/// A monotonic point in time, in microseconds since an origin the caller chose (process start in
/// production, zero in simulations). Two moments compare only within one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// The origin itself.
    pub const ZERO: Self = Self(0);

    /// A moment `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// A moment `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000)
    }

    /// A moment `secs` seconds after the origin.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000_000)
    }

    /// Microseconds since the origin.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero where `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Whole milliseconds of `time`, as reports, records and metrics state it; saturates.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// In milliseconds, to the microsecond.
pub fn millis_f64(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

/// As [`millis`], in the width of reports.
pub fn millis_u32(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// `time` as a person says it: `740 µs`, `85 ms`, `1.25 s`, `2 min 5 s`, `3 h 20 min`.
pub fn told(time: Duration) -> String {
    let secs = time.as_secs();
    match time.as_micros() {
        0 => "0 ms".to_owned(),
        micros @ 1..1_000 => format!("{micros} µs"),
        1_000..995_000 => format!("{} ms", time.as_millis()),
        995_000..60_000_000 => format!("{:.2} s", time.as_secs_f64()),
        60_000_000..3_600_000_000 => format!("{} min {} s", secs / 60, secs % 60),
        _ => format!("{} h {} min", secs / 3_600, secs % 3_600 / 60),
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_as_a_person_says_it() {
        let of = |micros| told(Duration::from_micros(micros));
        let all = [0, 740, 85_200, 1_250_000, 125_400_000, 12_000_000_000].map(of);
        assert_eq!(all, ["0 ms", "740 µs", "85 ms", "1.25 s", "2 min 5 s", "3 h 20 min"]);
    }
}
