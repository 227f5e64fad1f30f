//! Days as the books write them: `2026-11-23`, in UTC.

const MS_PER_DAY: u64 = 86_400_000;

/// The number of a moment's day since 1970-01-01.
pub fn number(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / MS_PER_DAY).unwrap_or(u32::MAX)
}

/// The day of a moment in Unix milliseconds.
pub fn of(unix_ms: u64) -> String {
    text(number(unix_ms))
}

/// A numbered day in words. Civil-from-days after Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms".
pub fn text(number: u32) -> String {
    let days = u64::from(number) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The first millisecond of the day after that of `unix_ms`.
pub fn next(unix_ms: u64) -> u64 {
    (unix_ms / MS_PER_DAY + 1) * MS_PER_DAY
}

/// Whether `text` is written as a day.
pub fn is_day(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (ms, day) in [
            (0, "1970-01-01"),
            (MS_PER_DAY - 1, "1970-01-01"),
            (951_782_400_000, "2000-02-29"),
            (1_709_164_800_000, "2024-02-29"),
            (1_795_392_000_000, "2026-11-23"),
            (4_102_444_799_999, "2099-12-31"),
        ] {
            assert_eq!(of(ms), day);
        }
        assert_eq!(of(next(1_795_392_000_001)), "2026-11-24");
        assert!(is_day("2026-11-23") && !is_day("2026-11-3") && !is_day("2026/11/23"));
    }
}
