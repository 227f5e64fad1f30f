//! Providers' usage exports, read into one shape: tokens and cost by day and model.
//!
//! Known are the JSON pages of OpenAI's usage and cost API (`/v1/organization/usage/…`,
//! `/v1/organization/costs`), of Anthropic's (`/v1/organizations/usage_report/messages`,
//! `/v1/organizations/cost_report`), the CSV files their consoles export, and a plain CSV of one's own.

use llm_router_logic::cost::day;
use llm_router_logic::money::Money;
use serde_json::Value;
use std::collections::BTreeMap;

/// Why an export cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExportError {
    /// None of the known formats.
    #[error("not a known export: {0} (docs/LEDGER.md lists the formats)")]
    Unknown(String),
    /// One place is wrong.
    #[error("{at}: {problem}")]
    Entry {
        /// Where.
        at: String,
        /// What.
        problem: String,
    },
}

/// What a provider says of one model on one day; `None` = it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stated {
    pub(super) requests: Option<u64>,
    /// Of all classes.
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    pub(super) cost: Option<Money>,
}

impl Stated {
    fn add(&mut self, other: &Self) {
        fn sum<T: std::ops::Add<Output = T>>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(one + other),
                (one, other) => one.or(other),
            }
        }
        self.requests = sum(self.requests, other.requests);
        self.input = sum(self.input, other.input);
        self.output = sum(self.output, other.output);
        self.cost = sum(self.cost, other.cost);
    }
}

/// By day and model; the model is empty where the export does not tell models apart.
pub(super) type Export = BTreeMap<(String, String), Stated>;

/// Reads an export of any known format.
///
/// # Errors
/// [`ExportError`] for the first thing wrong.
pub(super) fn read(text: &str) -> Result<Export, ExportError> {
    let mut export = Export::new();
    let mut add = |day: String, model: &str, stated: &Stated| {
        export.entry((day, model.to_owned())).or_default().add(stated);
    };
    if text.trim_start().starts_with(['{', '[']) {
        let value: Value =
            serde_json::from_str(text).map_err(|error| ExportError::Unknown(error.to_string()))?;
        // One page, or a list of pages.
        let pages = match value {
            Value::Array(pages) => pages,
            page => vec![page],
        };
        for (number, page) in pages.iter().enumerate() {
            json_page(number, page, &mut add)?;
        }
    } else {
        csv(text, &mut add)?;
    }
    Ok(export)
}

fn json_page(
    number: usize,
    page: &Value,
    add: &mut impl FnMut(String, &str, &Stated),
) -> Result<(), ExportError> {
    let Some(buckets) = page.get("data").and_then(Value::as_array) else {
        return Err(ExportError::Unknown(format!("page {number} has no list `data`")));
    };
    for (at, bucket) in buckets.iter().enumerate() {
        let at = format!("data[{at}]");
        let entry = |problem: &str| ExportError::Entry { at: at.clone(), problem: problem.to_owned() };
        // OpenAI dates buckets in Unix seconds, Anthropic in RFC 3339.
        let day = match (&bucket["start_time"], &bucket["starting_at"]) {
            (Value::Number(secs), _) => secs.as_u64().map(|secs| day::of(secs.saturating_mul(1_000))),
            (_, Value::String(text)) => text.get(..10).filter(|text| day::is_day(text)).map(str::to_owned),
            _ => None,
        };
        let day = day.ok_or_else(|| entry("has neither `start_time` nor `starting_at`"))?;
        let results = bucket.get("results").and_then(Value::as_array);
        for result in results.ok_or_else(|| entry("has no list `results`"))? {
            let model = result.get("model").and_then(Value::as_str).unwrap_or_default();
            let stated =
                json_result(result).ok_or_else(|| entry("has a result without tokens or an amount"))?;
            add(day.clone(), model, &stated);
        }
    }
    Ok(())
}

fn json_result(result: &Value) -> Option<Stated> {
    let count = |pointer: &str| result.pointer(pointer).and_then(Value::as_u64);
    // OpenAI's cost: dollars; Anthropic's: a decimal text in cents.
    match result.get("amount") {
        Some(Value::Object(amount)) => {
            let value = amount.get("value")?;
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            return Some(Stated { cost: Some(dollars(&text)?), ..Stated::default() });
        }
        Some(Value::String(cents)) => {
            return Some(Stated { cost: Some(dollars(cents)?.share(1, 100)), ..Stated::default() });
        }
        _ => {}
    }
    let input = match count("/uncached_input_tokens") {
        // Anthropic tells the classes apart.
        Some(uncached) => {
            let classes = [
                "/cache_read_input_tokens",
                "/cache_creation/ephemeral_5m_input_tokens",
                "/cache_creation/ephemeral_1h_input_tokens",
            ];
            Some(uncached + classes.iter().filter_map(|pointer| count(pointer)).sum::<u64>())
        }
        None => count("/input_tokens"),
    };
    let stated =
        Stated { requests: count("/num_model_requests"), input, output: count("/output_tokens"), cost: None };
    (stated != Stated::default()).then_some(stated)
}

/// Columns known, by what they mean; several columns of a kind are added up.
const DAY: &[&str] = &["day", "date", "usage_date_utc", "start_time_iso", "start_time"];
const MODEL: &[&str] = &["model", "model_version"];
const REQUESTS: &[&str] = &["requests", "num_model_requests"];
const INPUT: &[&str] = &[
    "input_tokens",
    "usage_input_tokens_no_cache",
    "usage_input_tokens_cache_write_5m",
    "usage_input_tokens_cache_write_1h",
    "usage_input_tokens_cache_read",
];
const OUTPUT: &[&str] = &["output_tokens", "usage_output_tokens"];
const COST: &[&str] = &["cost_usd", "amount_value"];

fn csv(text: &str, add: &mut impl FnMut(String, &str, &Stated)) -> Result<(), ExportError> {
    let mut lines = text.trim_start_matches('\u{FEFF}').lines().enumerate();
    let header = lines.next().map(|(_, line)| cells(line)).unwrap_or_default();
    let columns = |names: &[&str]| -> Vec<usize> {
        let named = header.iter().enumerate().filter(|(_, column)| names.contains(&column.trim()));
        named.map(|(at, _)| at).collect()
    };
    let first_of = |names: &[&str]| names.iter().find_map(|name| columns(&[name]).first().copied());
    let (Some(day_at), Some(model_at)) = (first_of(DAY), first_of(MODEL)) else {
        return Err(ExportError::Unknown(format!(
            "the header `{}` names no day and model",
            header.join(",")
        )));
    };
    let (requests, input, output, cost) = (columns(REQUESTS), columns(INPUT), columns(OUTPUT), columns(COST));
    if input.is_empty() && output.is_empty() && cost.is_empty() {
        return Err(ExportError::Unknown(format!(
            "the header `{}` names no tokens and no cost",
            header.join(",")
        )));
    }
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let row = cells(line);
        let entry = |problem: String| ExportError::Entry { at: format!("line {}", number + 1), problem };
        let cell = |at: usize| row.get(at).map_or("", |cell| cell.trim());
        let day = match cell(day_at) {
            text if text.get(..10).is_some_and(day::is_day) => text[..10].to_owned(),
            text => match text.parse::<u64>() {
                Ok(secs) => day::of(secs.saturating_mul(1_000)),
                Err(_) => return Err(entry(format!("`{text}` is no day"))),
            },
        };
        let count = |columns: &[usize]| -> Result<Option<u64>, ExportError> {
            let mut sum = None;
            for text in columns.iter().map(|at| cell(*at)).filter(|text| !text.is_empty()) {
                let value: u64 = text.parse().map_err(|_| entry(format!("`{text}` is no count")))?;
                sum = Some(sum.unwrap_or(0) + value);
            }
            Ok(sum)
        };
        let mut spent = None;
        for text in cost.iter().map(|at| cell(*at)).filter(|text| !text.is_empty()) {
            let money = dollars(text).ok_or_else(|| entry(format!("`{text}` is no amount of dollars")))?;
            spent = Some(spent.unwrap_or(Money::ZERO) + money);
        }
        let stated = Stated {
            requests: count(&requests)?,
            input: count(&input)?,
            output: count(&output)?,
            cost: spent,
        };
        add(day, cell(model_at), &stated);
    }
    Ok(())
}

/// The cells of a CSV line, quotes undone. No cell goes over lines in these files.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.trim_end_matches('\r').chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            other => cell.push(other),
        }
    }
    cells.push(cell);
    cells
}

/// Decimal dollars, exactly: digits beyond a pico-dollar are cut off.
fn dollars(text: &str) -> Option<Money> {
    let text = text.trim().trim_start_matches('$');
    if text.contains(['e', 'E']) {
        return Money::from_usd(text.parse().ok()?);
    }
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || whole.len() > 12 || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = format!("{fraction:0<12}").get(..12)?.parse().ok()?;
    Some(Money::from_pico(sign * (whole * 1_000_000_000_000 + fraction)))
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn of<'a>(export: &'a Export, day: &str, model: &str) -> &'a Stated {
        &export[&(day.to_owned(), model.to_owned())]
    }

    #[test]
    fn openai_pages_are_read() {
        let export = read(
            r#"{"object":"page","data":[{"object":"bucket","start_time":1795392000,"end_time":1795478400,"results":[
            {"object":"organization.usage.completions.result","input_tokens":1000,"output_tokens":500,
             "input_cached_tokens":800,"num_model_requests":5,"model":"gpt-4o-mini-2024-07-18"},
            {"input_tokens":1,"output_tokens":2,"num_model_requests":1,"model":"gpt-4o-mini-2024-07-18"}]}]}"#,
        );
        let export = export.unwrap();
        let stated = of(&export, "2026-11-23", "gpt-4o-mini-2024-07-18");
        assert_eq!((stated.requests, stated.input, stated.output), (Some(6), Some(1001), Some(502)));
        let costs =
            r#"{"data":[{"start_time":1795392000,"results":[{"amount":{"value":0.06,"currency":"usd"}}]}]}"#;
        assert_eq!(of(&read(costs).unwrap(), "2026-11-23", "").cost, Some(Money::from_pico(60_000_000_000)));
    }

    #[test]
    fn anthropic_pages_are_read() {
        let export = read(
            r#"{"data":[{"starting_at":"2026-11-23T00:00:00Z","ending_at":"2026-11-24T00:00:00Z","results":[
            {"uncached_input_tokens":10,"cache_creation":{"ephemeral_1h_input_tokens":20,"ephemeral_5m_input_tokens":30},
             "cache_read_input_tokens":40,"output_tokens":5,"model":"claude-haiku-4-5"}]}],"has_more":false}"#,
        );
        let stated = *of(&export.unwrap(), "2026-11-23", "claude-haiku-4-5");
        assert_eq!((stated.input, stated.output, stated.requests), (Some(100), Some(5), None));
        let costs = r#"{"data":[{"starting_at":"2026-11-23T00:00:00Z","results":[{"amount":"123.45","currency":"USD","model":"m"}]}]}"#;
        assert_eq!(
            of(&read(costs).unwrap(), "2026-11-23", "m").cost,
            Some(Money::from_pico(1_234_500_000_000))
        );
    }

    #[test]
    fn csv_files_are_read() {
        let own = read(
            "day,model,requests,input_tokens,output_tokens,cost_usd\n2026-11-23,\"a,b\",2,3,4,0.000001\n",
        );
        let stated = *of(&own.unwrap(), "2026-11-23", "a,b");
        assert_eq!(stated.cost, Some(Money::from_pico(1_000_000)));
        let anthropic = read(
            "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_read,usage_output_tokens\r\n2026-11-23,m,7,8,9\r\n",
        );
        let anthropic = anthropic.unwrap();
        assert_eq!(
            (of(&anthropic, "2026-11-23", "m").input, of(&anthropic, "2026-11-23", "m").output),
            (Some(15), Some(9))
        );
        let openai = read(
            "start_time,start_time_iso,model,num_model_requests,input_tokens,output_tokens\n1795392000,2026-11-23T00:00:00+00:00,m,1,2,3\n",
        );
        assert_eq!(of(&openai.unwrap(), "2026-11-23", "m").requests, Some(1));
    }

    #[test]
    fn what_is_no_export_is_refused_with_its_place() {
        for (text, told) in [
            ("a,b\n1,2", "names no day"),
            ("day,model\n", "no tokens"),
            ("{}", "`data`"),
            (r#"{"data":[{"results":[]}]}"#, "`start_time`"),
            ("day,model,input_tokens\n2026-11-23,m,x", "line 2"),
            ("day,model,input_tokens\nsoon,m,1", "no day"),
            ("{", "not a known export"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(told), "{error} does not say {told}");
        }
    }

    #[test]
    fn dollars_are_read_exactly() {
        assert_eq!(dollars("0.000000000001"), Some(Money::from_pico(1)));
        assert_eq!(dollars("-12.5"), Some(Money::from_pico(-12_500_000_000_000)));
        assert_eq!(dollars("1e-6"), Some(Money::from_pico(1_000_000)));
        assert_eq!((dollars("x"), dollars(""), dollars("1.2.3")), (None, None, None));
    }
}
