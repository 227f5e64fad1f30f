//! The trace of requests, in the CSV format of Azure's public LLM inference traces:
//! `TIMESTAMP,ContextTokens,GeneratedTokens`, for example `2023-11-16 18:15:46.6805900,374,44`.
//!
//! The header says which column is which: in any order, with others between them, in upper or lower case, by
//! the names other tools use, too. A timestamp may be a number of seconds instead.

use crate::time::Moment;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;
/// What each column is called: as in the format, then in lower case and without blanks, `_` and `-` by others.
const COLUMNS: [(&str, &[&str]); 3] = [
    ("TIMESTAMP", &["timestamp", "time", "arrival", "arrivaltime", "arrivedat"]),
    ("ContextTokens", &["contexttokens", "inputtokens", "prompttokens", "requesttokens"]),
    ("GeneratedTokens", &["generatedtokens", "outputtokens", "completiontokens", "responsetokens"]),
];
/// More tokens than any model takes: a larger number is a mistake.
const TOKENS_MAX: u32 = 100_000_000;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it arrived; the first one arrives at zero.
    pub at: Moment,
    /// Input tokens.
    pub input_tokens: u32,
    /// Output tokens.
    pub output_tokens: u32,
}

/// Why a trace cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TraceError {
    /// Counted from 1, the header included.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// Reads a trace line by line.
#[derive(Clone, Debug, Default)]
pub struct TraceReader {
    lines: usize,
    /// Where the three columns stand, and how many there are, once the header was read.
    columns: Option<([usize; 3], usize)>,
    first_micros: Option<i64>,
    last: Moment,
}

impl TraceReader {
    /// Reads the next line; `None` for the header and for empty lines.
    ///
    /// # Errors
    /// [`TraceError`] with the number of the line.
    pub fn line(&mut self, text: &str) -> Result<Option<Arrival>, TraceError> {
        self.lines += 1;
        let text = text.trim_end_matches(['\r', '\n']);
        let text = if self.lines == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if text.trim().is_empty() {
            return Ok(None);
        }
        let Some(columns) = self.columns else {
            self.columns = Some(header(text).map_err(|problem| self.error(problem))?);
            return Ok(None);
        };
        self.row(text, columns).map(Some).map_err(|problem| self.error(problem))
    }

    /// Lines read.
    pub fn lines(&self) -> usize {
        self.lines
    }

    fn error(&self, problem: String) -> TraceError {
        TraceError { line: self.lines, problem }
    }

    fn row(&mut self, text: &str, (at, count): ([usize; 3], usize)) -> Result<Arrival, String> {
        let fields: Vec<&str> = fields(text).collect();
        let [Some(timestamp), Some(input), Some(output)] = at.map(|at| fields.get(at).copied()) else {
            return Err(format!("expected {count} columns, found {}", fields.len()));
        };
        if fields.len() != count {
            return Err(format!("expected {count} columns, found {}", fields.len()));
        }
        let micros = timestamp_micros(timestamp).ok_or_else(|| {
            format!(
                "`{}` is no timestamp (expected for example `2023-11-16 18:15:46.6805900`)",
                short(timestamp)
            )
        })?;
        let input_tokens = tokens("ContextTokens", input)?;
        let output_tokens = tokens("GeneratedTokens", output)?;
        let first = *self.first_micros.get_or_insert(micros);
        let at = u64::try_from(micros - first).ok().map(Moment::from_micros);
        let at = at
            .filter(|at| *at >= self.last)
            .ok_or("arrived before the request above it (sort the trace by time)")?;
        self.last = at;
        Ok(Arrival { at, input_tokens, output_tokens })
    }
}

/// The fields of a line, without blanks and quotes around them.
fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|field| {
        let field = field.trim();
        field.strip_prefix('"').and_then(|field| field.strip_suffix('"')).unwrap_or(field)
    })
}

/// Where the three columns stand in a header, and how many it has.
fn header(line: &str) -> Result<([usize; 3], usize), String> {
    let plain = |field: &str| -> String {
        field.chars().filter(|c| !matches!(c, ' ' | '_' | '-')).flat_map(char::to_lowercase).collect()
    };
    let found: Vec<String> = fields(line).map(plain).collect();
    let mut at = [0; 3];
    for (place, (name, names)) in at.iter_mut().zip(COLUMNS) {
        let mut matching = found.iter().enumerate().filter(|(_, field)| names.contains(&field.as_str()));
        *place = match (matching.next(), matching.next()) {
            (Some((one, _)), None) => one,
            (None, _) => {
                let expected = COLUMNS.map(|(name, _)| name).join(",");
                return Err(format!(
                    "expected the header `{expected}`, found `{}`: no column is `{name}`",
                    short(line.trim())
                ));
            }
            (Some(_), Some(_)) => return Err(format!("two columns are `{name}`: remove one")),
        };
    }
    Ok((at, found.len()))
}

fn tokens(column: &str, text: &str) -> Result<u32, String> {
    // Some tools write whole numbers as `374.0`.
    let whole = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|digit| digit == b'0'));
    let text = whole.map_or(text, |(whole, _)| whole);
    let number = text.parse().ok().filter(|number: &u32| *number <= TOKENS_MAX);
    number.ok_or_else(|| {
        format!("`{column}` is `{}`: expected a whole number from 0 to {TOKENS_MAX}", short(text))
    })
}

fn short(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_default).collect()
}

/// Microseconds since 1970-01-01 of `YYYY-MM-DD HH:MM:SS[.fraction]`, with `T` for the blank and a final
/// `Z` or `+00:00` allowed; or of a number of seconds since whenever.
fn timestamp_micros(text: &str) -> Option<i64> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (secs, parts) = text.split_once('.').unwrap_or((text, "0"));
    if is_number(secs) && is_number(parts) && secs.len() <= 12 {
        let digits: String = parts.chars().chain("000000".chars()).take(6).collect();
        return Some(secs.parse::<i64>().ok()? * 1_000_000 + digits.parse::<i64>().ok()?);
    }
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).unwrap_or(text);
    let (date, time) = text.split_once([' ', 'T'])?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let in_range = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let seconds = (hour * 60 + minute) * 60 + second;
    Some(days_since_1970(year, month, day) * DAY_MICROS + seconds * 1_000_000 + digits.parse::<i64>().ok()?)
}

fn numbers(text: &str, separator: char, widths: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (place, width) in widths.into_iter().enumerate() {
        let part =
            parts.next().filter(|part| part.len() == width && part.bytes().all(|b| b.is_ascii_digit()))?;
        found[place] = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar; years are counted from March, so that a leap day is
/// the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Arrival>, TraceError> {
        let mut reader = TraceReader::default();
        text.lines().filter_map(|line| reader.line(line).transpose()).collect()
    }

    #[test]
    fn arrivals_are_counted_from_the_first() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-12-31 23:59:59.5000000,374,44\r\n\r\n2024-01-01 00:00:00.7500001,10,0\n";
        let arrivals = read(text).unwrap();
        assert_eq!(arrivals[0], Arrival { at: Moment::ZERO, input_tokens: 374, output_tokens: 44 });
        assert_eq!(arrivals[1].at, Moment::from_millis(1_250));
        assert_eq!(arrivals.len(), 2);
    }

    #[test]
    fn days_are_counted_over_leap_years() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        assert_eq!(timestamp_micros("2024-02-29T00:00:00Z"), Some(19_782 * DAY_MICROS));
        assert_eq!(timestamp_micros("2023-02-29 00:00:00"), None);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        let good = "2023-11-16 18:15:46.6805900,374,44\n";
        for (rows, line, part) in [
            ("2023-11-16 18:15:46.6805900,374\n".to_owned(), 2, "3 columns, found 2"),
            ("2023-11-16 18:15:46.6805900,374,44,5\n".to_owned(), 2, "3 columns, found 4"),
            ("yesterday,374,44\n".to_owned(), 2, "`yesterday` is no timestamp"),
            (format!("{good}2023-11-16 18:15:47,-1,44\n"), 3, "`ContextTokens` is `-1`"),
            (format!("{good}2023-11-16 18:15:47,1,4.5\n"), 3, "`GeneratedTokens` is `4.5`"),
            (format!("{good}2023-11-16 18:15:45,1,4\n"), 3, "sort the trace"),
            ("2023-13-16 18:15:46,1,4\n".to_owned(), 2, "no timestamp"),
        ] {
            let error = read(&format!("{header}{rows}")).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
        let error = read("time,in,out\n").unwrap_err();
        assert!(error.to_string().starts_with("line 1: expected the header"), "{error}");
        assert!(error.to_string().contains("no column is `ContextTokens`"), "{error}");
        let error = read("TIMESTAMP,ContextTokens,GeneratedTokens,output_tokens\n").unwrap_err();
        assert!(error.to_string().contains("two columns are `GeneratedTokens`"), "{error}");
    }

    #[test]
    fn columns_are_found_by_their_names_in_any_order_and_others_are_passed_over() {
        let usual = read(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,374,44\n2023-11-16 18:15:47.75,5,6\n",
        );
        for text in [
            "GeneratedTokens,model,TIMESTAMP,ContextTokens\r\n44,m,2023-11-16 18:15:46.5,374\r\n6,m,2023-11-16T18:15:47.75Z,5\r\n",
            "\u{feff}timestamp, prompt_tokens, completion_tokens\n\n46.5, 374, 44\n47.75, 5, 6\n",
            "\"Timestamp\",\"Request tokens\",\"Response tokens\"\n\"46.500\",\"374.0\",\"44\"\n47.75,5,6.00\n",
        ] {
            assert_eq!(read(text), usual, "{text}");
        }
    }
}
