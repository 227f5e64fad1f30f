//! Durations as the file writes them: Go's syntax, for example `1m30s`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Longest duration accepted: a year. Longer ones are typing errors, and deadlines must not overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

const NANOS_PER_HOUR: u128 = 3_600_000_000_000;
const EXPECTED: &str = "a duration such as `500ms`, `30s`, `1m30s` or `1.5h`";

/// A duration in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// Milliseconds as a bare number, or a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Millis(pub(super) Duration);

/// Reads a duration in Go's syntax, for example `1m30s`, `1.5h` or `500ms`: one or more decimal
/// numbers, each with a unit `ns`, `us`, `µs`, `ms`, `s`, `m` or `h`; `0` needs no unit. No sign.
///
/// # Errors
/// What was expected instead, for a person.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || format!("expected {EXPECTED}, found `{text}`");
    let (mut rest, mut total) = (text, 0_u128);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let nanos = unit_nanos(unit).and_then(|unit| scaled(number, unit)).ok_or_else(wrong)?;
        total = total.saturating_add(nanos);
        rest = tail;
    }
    match u64::try_from(total).map(Duration::from_nanos) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err(format!("`{text}` is too long (at most 8760h)")),
    }
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        // Go accepts the micro sign U+00B5 and the Greek letter U+03BC.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => NANOS_PER_HOUR,
        _ => return None,
    })
}

/// `number` × `unit` in whole nanoseconds, the rest cut off as Go does.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Eighteen places are finer than a nanosecond in every unit; further ones cannot count.
    let fraction = &fraction[..fraction.len().min(18)];
    let places = u32::try_from(fraction.len()).ok()?;
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    whole.checked_mul(unit)?.checked_add(fraction * unit / 10_u128.pow(places))
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor { bare_millis: false }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor { bare_millis: true }).map(Self)
    }
}

struct DurationVisitor {
    bare_millis: bool,
}

impl de::Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bare_millis {
            write!(f, "milliseconds as a number, or {EXPECTED}")
        } else {
            f.write_str(EXPECTED)
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        match number {
            0 => Ok(Duration::ZERO),
            millis if self.bare_millis && Duration::from_millis(millis) <= LONGEST => {
                Ok(Duration::from_millis(millis))
            }
            _ => Err(E::invalid_type(de::Unexpected::Unsigned(number), &self)),
        }
    }
}

const PATTERN: &str = "^0$|^([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|µs|ms|s|m|h)(([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|µs|ms|s|m|h))*$|\\$\\{";

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "One or more numbers with a unit `ns`, `us`, `ms`, `s`, `m` or `h`; 0 needs no unit.",
            "anyOf": [{ "type": "string", "pattern": PATTERN }, { "const": 0 }],
        })
    }
}

impl JsonSchema for Millis {
    fn schema_name() -> Cow<'static, str> {
        "Milliseconds".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Milliseconds as a number, or a duration.",
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": PATTERN }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_go_reads() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("500ms", 500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("7\u{b5}s", 7_000),
            ("7\u{3bc}s", 7_000),
            ("1.0000000019s", 1_000_000_001),
            ("0.3h", 1_080_000_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in
            ["", "30", "s", "-1s", "+1s", "1 s", "30sec", "1d", "1..5s", ".s", "1m 30s", "1e3s", "8761h"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration(&format!("{}h", "9".repeat(60))).is_err());
        assert!(parse_duration(&"9".repeat(60)).is_err());
    }

    proptest! {
        #[test]
        fn the_sum_of_the_parts_is_the_whole(h in 0_u64..8000, m in 0_u64..60, s in 0_u64..60, ms in 0_u64..1000) {
            let expected = Duration::from_millis(((h * 60 + m) * 60 + s) * 1000 + ms);
            prop_assert_eq!(parse_duration(&format!("{h}h{m}m{s}s{ms}ms")), Ok(expected));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.hmsnuµ -]{0,40}") {
            let _ = parse_duration(&text);
        }
    }
}
