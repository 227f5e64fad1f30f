//! Prices of external providers, per token and class, and the table they are looked up in.
//!
//! The table is a data file, read by the caller: prices and model names change monthly.

use crate::backend::Kind;
use crate::capability::Capabilities;
use crate::cost::usage::Usage;
use crate::money::Money;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The table's prices are stated per this many tokens.
const TOKENS_PER_PRICE: f64 = 1e6;

/// Price of one token by class. Classes a provider does not price apart take their plain class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPrice {
    /// One uncached input token.
    pub input: Money,
    /// One input token read from the provider's cache.
    pub cached_read: Money,
    /// One input token written to the provider's cache.
    pub cache_write: Money,
    /// One output token, reasoning included.
    pub output: Money,
}

impl TokenPrice {
    /// What `usage` costs.
    pub fn charge(&self, usage: &Usage) -> Money {
        self.input.times(usage.input)
            + self.cached_read.times(usage.cached_read)
            + self.cache_write.times(usage.cache_write)
            + self.output.times(usage.total_output())
    }

    /// Price of 1,000 tokens, input and output in equal parts: one figure for people.
    pub fn mixed_per_1k(&self) -> Money {
        (self.input + self.output).times(500)
    }

    /// What a request will cost before anything is known of the provider's cache.
    pub fn predict(&self, input_tokens: u32, output_tokens: u32) -> Money {
        self.input.times(u64::from(input_tokens)) + self.output.times(u64::from(output_tokens))
    }
}

/// What the table knows of one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PriceRow {
    /// The provider's dialect.
    pub kind: Kind,
    /// The model's name, without a version date where one price holds for all versions.
    pub model: String,
    /// Its price per token.
    pub price: TokenPrice,
    /// Tokens of input and output together up to which it answers at this price, where known.
    pub context_window: Option<u32>,
    /// What it can do, its operations included.
    pub capabilities: Capabilities,
    /// What it is good for, in words for a person.
    pub good_for: Vec<String>,
    /// Where the figures are from.
    pub source: String,
    /// When they were read, `YYYY-MM-DD`.
    pub date: String,
    /// Anything else worth knowing.
    pub note: Option<String>,
}

/// Models and prices of external providers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PriceTable {
    rows: Vec<PriceRow>,
}

/// Why a table cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not a JSON object with a list `models`.
    #[error("the table of prices is not an object with a list `models`: {0}")]
    Document(String),
    /// One row is wrong.
    #[error("row {row} of the table of prices (`{model}`): {problem}")]
    Row {
        /// Its number, counted from 1.
        row: usize,
        /// The model it names, as far as it does.
        model: String,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "about")]
    _about: Option<String>,
    models: Vec<Value>,
}

/// A row as written: USD per million tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    kind: Kind,
    model: String,
    input: f64,
    cached_read: Option<f64>,
    cache_write: Option<f64>,
    output: f64,
    context_window: Option<u32>,
    capabilities: Vec<String>,
    #[serde(default)]
    good_for: Vec<String>,
    source: String,
    date: String,
    note: Option<String>,
}

impl PriceTable {
    /// Reads a table.
    ///
    /// # Errors
    /// [`PriceError`] for the first thing wrong, naming the row: unknown fields, amounts that are no
    /// amounts, a missing source or date, a model named twice.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let document: Document =
            serde_json::from_str(text).map_err(|error| PriceError::Document(error.to_string()))?;
        let mut table = Self::default();
        for (index, value) in document.models.into_iter().enumerate() {
            let model = value.get("model").and_then(Value::as_str).unwrap_or("no name").to_owned();
            let row = serde_json::from_value(value).map_err(|error| error.to_string()).and_then(row);
            let row = row.and_then(|row| match table.exact(row.kind, &row.model) {
                Some(_) => Err("is there twice".to_owned()),
                None => Ok(row),
            });
            table.rows.push(row.map_err(|problem| PriceError::Row { row: index + 1, model, problem })?);
        }
        Ok(table)
    }

    /// Adds the rows of `other`; where both know a model, `other` is right.
    pub fn override_with(&mut self, other: Self) {
        self.rows.retain(|row| other.exact(row.kind, &row.model).is_none());
        self.rows.extend(other.rows);
    }

    /// The row of `model`: by its exact name or else without what providers append to a name, tried in
    /// this order:
    ///
    /// - a version date, `-20240307` or `-2024-08-06`,
    /// - `-latest`,
    /// - Gemini's version number, `-001` to `-009`.
    pub fn lookup(&self, kind: Kind, model: &str) -> Option<&PriceRow> {
        self.exact(kind, model).or_else(|| self.exact(kind, base_name(kind, model)?))
    }

    /// All rows, in the order of the file.
    pub fn rows(&self) -> &[PriceRow] {
        &self.rows
    }

    fn exact(&self, kind: Kind, model: &str) -> Option<&PriceRow> {
        self.rows.iter().find(|row| row.kind == kind && row.model == model)
    }
}

/// `model` without its version, if it has one.
fn base_name(kind: Kind, model: &str) -> Option<&str> {
    let dated = |digits: &str| {
        let (base, date) = model.split_at_checked(model.len().checked_sub(digits.len())?)?;
        let fits = date.bytes().zip(digits.bytes()).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            form => byte == form,
        });
        (fits && !base.is_empty()).then_some(base)
    };
    dated("-00000000").or_else(|| dated("-0000-00-00")).or_else(|| model.strip_suffix("-latest")).or_else(
        || dated("-000").filter(|base| kind == Kind::Gemini && model[base.len()..].starts_with("-00")),
    )
}

fn row(raw: RawRow) -> Result<PriceRow, String> {
    let price = |field: &str, usd: f64| {
        let per_token = Money::from_usd(usd / TOKENS_PER_PRICE).filter(|_| usd >= 0.0);
        per_token.ok_or_else(|| format!("`{field}` is no amount of dollars"))
    };
    let input = price("input", raw.input)?;
    let class = |field, usd: Option<f64>| usd.map_or(Ok(input), |usd| price(field, usd));
    let capabilities = Capabilities::new(&raw.capabilities);
    if raw.model.is_empty() {
        return Err("`model` is empty".into());
    }
    if raw.kind == Kind::Llama {
        return Err("`kind` is `llama`: the cost of our own machines is measured, not listed".into());
    }
    if capabilities.is_empty() {
        return Err("`capabilities` is empty: say at least `chat`, `completion` or `embedding`".into());
    }
    if raw.source.is_empty() {
        return Err("`source` is empty: say where the figures are from".into());
    }
    let is_date = raw.date.len() == 10
        && raw.date.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if !is_date {
        return Err("`date` is not `YYYY-MM-DD`".into());
    }
    Ok(PriceRow {
        kind: raw.kind,
        model: raw.model,
        price: TokenPrice {
            input,
            cached_read: class("cached_read", raw.cached_read)?,
            cache_write: class("cache_write", raw.cache_write)?,
            output: price("output", raw.output)?,
        },
        context_window: raw.context_window,
        capabilities,
        good_for: raw.good_for,
        source: raw.source,
        date: raw.date,
        note: raw.note,
    })
}

#[cfg(test)]
#[path = "price_tests.rs"]
mod tests;
