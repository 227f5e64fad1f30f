//! How many tokens a request will have, before it runs: an estimate that learns from what backends
//! report, without a tokenizer on the way.
//!
//! Owns a few numbers per model (input) and per tenant and model (output); the caller keeps the tables
//! and bounds them. Never looks at text: only at its shape.

use crate::cost::shape::{PARTS, TextShape};

/// What an older observation is worth against the next newer one: half after 200 observations.
const KEPT: f64 = 0.996_54;
/// No text has more tokens per byte than this (each byte a token, and as many again for a template).
const PER_BYTE_MAX: f64 = 2.0;
/// No chat template adds more tokens than this.
const FIXED_MAX: f64 = 4096.0;
/// Terms of the estimate: a fixed number of tokens and one for each part of a text's shape.
const TERMS: usize = PARTS + 1;
/// Tokens of each term before anything was learnt, in the order of [`TextShape`]'s counts: about what the
/// tokenizers `o200k` and `cl100k` make of fourteen kinds of text.
const PRIOR: [f64; TERMS] = [8.0, 1.0, 0.15, 0.4, 0.4, 1.0, 0.9, 0.5, 0.5, 0.7, 0.8, 2.0, 0.7];
/// What the prior of a part is worth, in observations of a text that has a quarter of it per byte.
const PRIOR_WEIGHT: f64 = 0.02;
/// The same of the fixed number, for which a text of a thousand bytes says little.
const FIXED_PRIOR_WEIGHT: f64 = 1e-6;
/// Rounds of improvement with each observation; the result is kept and improved with the next.
const ROUNDS: usize = 8;

/// Estimates the input tokens of one model's requests from the shape of their text.
///
/// A sum, tokens = fixed + Σ per part × count, each of them at least zero, fitted by least squares on
/// relative errors and fading by half in 200 observations, so that a change of prompts or of the
/// model is followed. Solved by coordinate descent, a few rounds with each observation.
#[derive(Clone, Debug, PartialEq)]
pub struct InputEstimator {
    /// Faded sums of products of terms.
    products: [[f64; TERMS]; TERMS],
    /// Faded sums of terms times tokens.
    targets: [f64; TERMS],
    per: [f64; TERMS],
}

impl Default for InputEstimator {
    fn default() -> Self {
        Self { products: [[0.0; TERMS]; TERMS], targets: [0.0; TERMS], per: PRIOR }
    }
}

impl InputEstimator {
    /// The estimate for a prompt of `shape`; at least one token.
    pub fn estimate(&self, shape: &TextShape) -> u32 {
        let tokens: f64 = self.per.iter().zip(shape.terms()).map(|(per, term)| per * term).sum();
        // `as` saturates.
        tokens.min(most(shape)).round().max(1.0) as u32
    }

    /// Learns that a prompt of `shape` had `tokens`, cached ones included. What cannot be text alone (no bytes,
    /// no tokens, or more than any text has, as with pictures) teaches nothing.
    pub fn learn(&mut self, shape: &TextShape, tokens: u64) {
        let tokens = tokens as f64;
        if shape.bytes() == 0 || tokens < 1.0 || tokens > most(shape) {
            return;
        }
        let weight = 1.0 / (tokens * tokens);
        let terms = shape.terms();
        for (row, (target, term)) in self.products.iter_mut().zip(self.targets.iter_mut().zip(terms)) {
            for (product, other) in row.iter_mut().zip(terms) {
                *product = *product * KEPT + weight * term * other;
            }
            *target = *target * KEPT + weight * term * tokens;
        }
        self.improve();
    }

    fn improve(&mut self) {
        for _ in 0..ROUNDS {
            for at in 0..TERMS {
                let trust = if at == 0 { FIXED_PRIOR_WEIGHT } else { PRIOR_WEIGHT };
                let row = &self.products[at];
                let others: f64 = row.iter().zip(self.per).map(|(product, per)| product * per).sum();
                let others = others - row[at] * self.per[at];
                let best = (self.targets[at] + trust * PRIOR[at] - others) / (row[at] + trust);
                self.per[at] = if best.is_finite() { best.clamp(0.0, FIXED_MAX) } else { PRIOR[at] };
            }
        }
    }
}

/// More tokens than a text of `shape` can have.
fn most(shape: &TextShape) -> f64 {
    FIXED_MAX + PER_BYTE_MAX * shape.bytes() as f64
}

/// Buckets of [`OutputEstimator`]: each an eighth of a power of two wide, up to 2²⁴ tokens.
const BUCKETS: usize = 24 * BUCKETS_PER_DOUBLING;
const BUCKETS_PER_DOUBLING: usize = 8;
/// Answers that must have been seen before the estimate is trusted.
const ANSWERS_MIN: f64 = 8.0;
/// Output tokens expected before that, where the client sets no bound.
const OUTPUT_PRIOR: u32 = 256;

/// Estimates the output tokens of one tenant's requests to one model by a running quantile.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputEstimator {
    /// Faded counts of answers by length.
    answers: [f32; BUCKETS],
    total: f64,
}

impl Default for OutputEstimator {
    fn default() -> Self {
        Self { answers: [0.0; BUCKETS], total: 0.0 }
    }
}

impl OutputEstimator {
    /// The length that a share of `quantile` of the answers does not exceed, to about a tenth, and never
    /// more than the client's bound. Before about eight answers were seen: the client's bound, or 256 tokens
    /// where that is less or there is none.
    pub fn estimate(&self, quantile: f64, max_tokens: Option<u32>) -> u32 {
        let bound = max_tokens.unwrap_or(u32::MAX);
        if self.total < ANSWERS_MIN {
            return OUTPUT_PRIOR.min(bound);
        }
        let wanted = self.total * quantile.clamp(0.0, 1.0);
        let mut seen = 0.0;
        for (bucket, count) in self.answers.iter().enumerate() {
            seen += f64::from(*count);
            if *count > 0.0 && seen >= wanted * (1.0 - f64::from(f32::EPSILON)) {
                return longest_in(bucket).min(bound);
            }
        }
        bound.min(longest_in(BUCKETS - 1))
    }

    /// Whether enough answers were seen to go by them.
    pub fn is_trusted(&self) -> bool {
        self.total >= ANSWERS_MIN
    }

    /// Learns that an answer had `tokens`, reasoning included.
    pub fn learn(&mut self, tokens: u64) {
        for count in &mut self.answers {
            *count *= KEPT as f32;
        }
        if let Some(count) = self.answers.get_mut(bucket_of(tokens)) {
            *count += 1.0;
        }
        self.total = self.answers.iter().map(|count| f64::from(*count)).sum();
    }
}

fn bucket_of(tokens: u64) -> usize {
    let doublings = (tokens.max(1) as f64).log2() * BUCKETS_PER_DOUBLING as f64;
    // Upwards, so that a bucket's longest length covers all its answers.
    (doublings.ceil() as usize).min(BUCKETS - 1)
}

fn longest_in(bucket: usize) -> u32 {
    (bucket as f64 / BUCKETS_PER_DOUBLING as f64).exp2().round() as u32
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
