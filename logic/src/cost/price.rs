//! Prices of external providers, per token and class, and the table they are looked up in.
//!
//! The table is a data file, read by the caller: prices and model names change monthly.

use crate::backend::Kind;
use crate::capability::Capabilities;
use crate::cost::usage::Usage;
use crate::money::Money;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The table's prices are stated per this many tokens.
const TOKENS_PER_PRICE: f64 = 1e6;

/// Price of one token by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// One uncached input token.
    pub input: Money,
    /// One input token read from the provider's cache.
    pub cached_read: Money,
    /// One input token written to the provider's cache.
    pub cache_write: Money,
    /// The same for a cache entry kept for an hour.
    pub cache_write_1h: Money,
    /// One output token of text.
    pub output: Money,
    /// One reasoning token.
    pub reasoning: Money,
    /// One output token of an image.
    pub image: Money,
}

impl Rates {
    /// Two prices; every other class takes the plain one of its side.
    pub const fn flat(input: Money, output: Money) -> Self {
        Self {
            input,
            cached_read: input,
            cache_write: input,
            cache_write_1h: input,
            output,
            reasoning: output,
            image: output,
        }
    }

    fn charge(&self, usage: &Usage) -> Money {
        self.input.times(usage.input)
            + self.cached_read.times(usage.cached_read)
            + self.cache_write.times(usage.cache_write)
            + self.cache_write_1h.times(usage.cache_write_1h)
            + self.output.times(usage.output)
            + self.reasoning.times(usage.reasoning)
            + self.image.times(usage.image)
    }
}

/// Prices of a request whose input is long: all of it, not only what goes beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// Holds above this many input tokens of all classes.
    pub above_tokens: u64,
    /// The prices there.
    pub rates: Rates,
}

/// Tiers one price may have beyond its plain one.
pub const TIERS_MAX: usize = 2;
/// The whole of [`TokenPrice::batch_ppm`].
const PPM: u64 = 1_000_000;

/// What a model costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPrice {
    /// Prices up to the first tier.
    pub rates: Rates,
    /// Dearer prices of longer requests, by rising length.
    pub tiers: [Option<Tier>; TIERS_MAX],
    /// Share of the price, in millionths, charged where the provider says that it served a request in
    /// its batch or flex tier; `None` = the full price.
    pub batch_ppm: Option<u32>,
    /// The table of prices it was taken from, see [`table_hash`]; 0 = none.
    pub table: u64,
}

impl TokenPrice {
    /// Two prices that hold for every length.
    pub const fn flat(input: Money, output: Money) -> Self {
        Self { rates: Rates::flat(input, output), tiers: [None; TIERS_MAX], batch_ppm: None, table: 0 }
    }

    /// The prices of a request with `input_tokens` of all classes.
    pub fn rates_at(&self, input_tokens: u64) -> &Rates {
        let tiers = self.tiers.iter().flatten();
        let fits = tiers.filter(|tier| input_tokens > tier.above_tokens);
        fits.max_by_key(|tier| tier.above_tokens).map_or(&self.rates, |tier| &tier.rates)
    }

    /// What `usage` costs. `batch` says that the provider served it in its batch or flex tier; the
    /// result is then rounded down to a pico-dollar.
    pub fn charge(&self, usage: &Usage, batch: bool) -> Money {
        let full = self.rates_at(usage.total_input()).charge(usage);
        match self.batch_ppm.filter(|_| batch) {
            Some(ppm) => full.share(u64::from(ppm), PPM),
            None => full,
        }
    }

    /// Price of 1,000 tokens, input and output in equal parts: one figure for people.
    pub fn mixed_per_1k(&self) -> Money {
        (self.rates.input + self.rates.output).times(500)
    }

    /// What a request will cost before anything is known of the provider's cache.
    pub fn predict(&self, input_tokens: u32, output_tokens: u32) -> Money {
        let rates = self.rates_at(u64::from(input_tokens));
        rates.input.times(u64::from(input_tokens)) + rates.output.times(u64::from(output_tokens))
    }
}

/// The hash that names a whole table of prices in force: backend, model and price, in any order.
/// Never 0, and independent of what [`TokenPrice::table`] says.
pub fn table_hash<'a>(prices: impl Iterator<Item = (&'a str, &'a str, TokenPrice)>) -> u64 {
    let mut rows: Vec<String> = prices
        .map(|(backend, model, price)| {
            let classes = |rates: &Rates| {
                let Rates { input, cached_read, cache_write, cache_write_1h, output, reasoning, image } =
                    rates;
                [input, cached_read, cache_write, cache_write_1h, output, reasoning, image]
                    .map(|money| money.pico().to_string())
                    .join(",")
            };
            let mut row = format!("{backend}\u{0}{model}\u{0}{}", classes(&price.rates));
            for tier in price.tiers.iter().flatten() {
                row += &format!(";{}:{}", tier.above_tokens, classes(&tier.rates));
            }
            row + &format!(";batch:{:?}\n", price.batch_ppm)
        })
        .collect();
    rows.sort_unstable();
    let digest = Sha256::digest(rows.concat().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first).max(1)
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
    cache_write_1h: Option<f64>,
    output: f64,
    reasoning: Option<f64>,
    image: Option<f64>,
    #[serde(default)]
    tiers: Vec<RawTier>,
    batch: Option<f64>,
    context_window: Option<u32>,
    capabilities: Vec<String>,
    #[serde(default)]
    good_for: Vec<String>,
    source: String,
    date: String,
    note: Option<String>,
}

/// Prices above a length, by the rules of a row.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTier {
    above_tokens: u64,
    input: f64,
    cached_read: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
    output: f64,
    reasoning: Option<f64>,
    image: Option<f64>,
}

/// Prices of one set of classes as written, in USD per million tokens: what a table's rows, its tiers and
/// a configuration's own prices have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listed {
    /// Input.
    pub input: f64,
    /// Read from the cache; default: input.
    pub cached_read: Option<f64>,
    /// Written to the cache; default: input.
    pub cache_write: Option<f64>,
    /// Written to the cache for an hour; default: as for the usual time.
    pub cache_write_1h: Option<f64>,
    /// Output.
    pub output: f64,
    /// Reasoning; default: output.
    pub reasoning: Option<f64>,
    /// Output tokens of images; default: output.
    pub image: Option<f64>,
}

impl Listed {
    /// Per token.
    ///
    /// # Errors
    /// The name of the first class that is no amount of dollars.
    pub fn rates(&self) -> Result<Rates, &'static str> {
        let price = |field: &'static str, usd: f64| {
            Money::from_usd(usd / TOKENS_PER_PRICE).filter(|_| usd >= 0.0).ok_or(field)
        };
        let or = |field, usd: Option<f64>, default: Money| usd.map_or(Ok(default), |usd| price(field, usd));
        let (input, output) = (price("input", self.input)?, price("output", self.output)?);
        let cache_write = or("cache_write", self.cache_write, input)?;
        Ok(Rates {
            input,
            cached_read: or("cached_read", self.cached_read, input)?,
            cache_write,
            cache_write_1h: or("cache_write_1h", self.cache_write_1h, cache_write)?,
            output,
            reasoning: or("reasoning", self.reasoning, output)?,
            image: or("image", self.image, output)?,
        })
    }
}

/// A batch share as written, in millionths.
///
/// # Errors
/// `batch` is no share.
pub fn batch_ppm(share: f64) -> Result<u32, String> {
    if (0.0..=1.0).contains(&share) {
        Ok((share * PPM as f64).round() as u32)
    } else {
        Err("`batch` is no share from 0 to 1".to_owned())
    }
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

fn tiers(raw: &[RawTier]) -> Result<[Option<Tier>; TIERS_MAX], String> {
    let mut tiers = [None; TIERS_MAX];
    if raw.len() > TIERS_MAX {
        return Err(format!("`tiers` has more than {TIERS_MAX} entries"));
    }
    if raw.windows(2).any(|pair| pair[0].above_tokens >= pair[1].above_tokens) {
        return Err("`tiers` is not ordered by rising `above_tokens`".to_owned());
    }
    for (place, tier) in tiers.iter_mut().zip(raw) {
        let listed = Listed {
            input: tier.input,
            cached_read: tier.cached_read,
            cache_write: tier.cache_write,
            cache_write_1h: tier.cache_write_1h,
            output: tier.output,
            reasoning: tier.reasoning,
            image: tier.image,
        };
        let rates =
            listed.rates().map_err(|field| format!("`{field}` of `tiers` is no amount of dollars"))?;
        *place = Some(Tier { above_tokens: tier.above_tokens, rates });
    }
    Ok(tiers)
}

fn row(raw: RawRow) -> Result<PriceRow, String> {
    let no_amount = |field: &str| format!("`{field}` is no amount of dollars");
    let rates = Listed {
        input: raw.input,
        cached_read: raw.cached_read,
        cache_write: raw.cache_write,
        cache_write_1h: raw.cache_write_1h,
        output: raw.output,
        reasoning: raw.reasoning,
        image: raw.image,
    };
    let price = TokenPrice {
        rates: rates.rates().map_err(no_amount)?,
        tiers: tiers(&raw.tiers)?,
        batch_ppm: raw.batch.map(batch_ppm).transpose()?,
        table: 0,
    };
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
        price,
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
