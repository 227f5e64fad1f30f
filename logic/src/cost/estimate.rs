//! How many tokens a request will have, before it runs: an estimate that learns from what backends
//! report, without a tokenizer on the way.
//!
//! Owns a few numbers per model (input) and per tenant and model (output); the caller keeps the tables
//! and bounds them. Never looks at text: only its length in bytes.

/// Tokens per byte before anything was learnt: about four bytes of English to a token.
const PER_BYTE_PRIOR: f64 = 0.25;
/// Tokens a chat template adds, before anything was learnt.
const FIXED_PRIOR: f64 = 8.0;
/// How many observations the prior is worth.
const PRIOR_WEIGHT: f64 = 2.0;
/// Length of the prior's one imagined prompt, in bytes.
const PRIOR_BYTES: f64 = 400.0;
/// What an older observation is worth against the next newer one: half after 200 observations.
const KEPT: f64 = 0.996_54;
/// No text has more tokens per byte than this (each byte a token, and as many again for a template).
const PER_BYTE_MAX: f64 = 2.0;
/// No chat template adds more tokens than this.
const FIXED_MAX: f64 = 4096.0;

/// Estimates the input tokens of one model's requests from the bytes of their text.
///
/// A straight line, tokens = fixed + per byte × bytes, fitted by least squares on *relative* errors and
/// fading by half in 200 observations, so that a change of prompts or of the model is followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputEstimator {
    // Sums over observations (bytes x, tokens y), each weighted by 1/x²: of 1, x, x², y, xy.
    ones: f64,
    x: f64,
    xx: f64,
    y: f64,
    xy: f64,
}

impl Default for InputEstimator {
    fn default() -> Self {
        let none = Self { ones: 0.0, x: 0.0, xx: 0.0, y: 0.0, xy: 0.0 };
        // Two imagined prompts on the prior's line.
        let [short, long] = [PRIOR_BYTES / 4.0, PRIOR_BYTES * 4.0];
        let on_line = |bytes: f64| FIXED_PRIOR + PER_BYTE_PRIOR * bytes;
        none.with(short, on_line(short), PRIOR_WEIGHT / 2.0).with(long, on_line(long), PRIOR_WEIGHT / 2.0)
    }
}

impl InputEstimator {
    /// The estimate for a prompt of `bytes`; at least one token.
    pub fn estimate(&self, bytes: usize) -> u32 {
        let (fixed, per_byte) = self.line();
        let tokens = fixed + per_byte * bytes as f64;
        // `as` saturates.
        tokens.round().max(1.0) as u32
    }

    /// Learns that a prompt of `bytes` had `tokens`, cached ones included. What cannot be (no bytes, no
    /// tokens) teaches nothing.
    pub fn learn(&mut self, bytes: usize, tokens: u64) {
        if bytes == 0 || tokens == 0 {
            return;
        }
        let faded = Self {
            ones: self.ones * KEPT,
            x: self.x * KEPT,
            xx: self.xx * KEPT,
            y: self.y * KEPT,
            xy: self.xy * KEPT,
        };
        *self = faded.with(bytes as f64, tokens as f64, 1.0);
    }

    fn with(self, x: f64, y: f64, weight: f64) -> Self {
        let weight = weight / (x * x);
        Self {
            ones: self.ones + weight,
            x: self.x + weight * x,
            xx: self.xx + weight * x * x,
            y: self.y + weight * y,
            xy: self.xy + weight * x * y,
        }
    }

    /// Fixed tokens and tokens per byte.
    fn line(&self) -> (f64, f64) {
        let spread = self.ones * self.xx - self.x * self.x;
        let per_byte = (self.ones * self.xy - self.x * self.y) / spread;
        let fixed = (self.y - per_byte * self.x) / self.ones;
        if per_byte.is_finite()
            && (0.0..=FIXED_MAX).contains(&fixed)
            && (0.0..=PER_BYTE_MAX).contains(&per_byte)
        {
            return (fixed, per_byte);
        }
        // Prompts all of one length tell nothing of the fixed part: then everything is per byte.
        let per_byte = (self.xy / self.xx).clamp(0.0, PER_BYTE_MAX);
        (0.0, if per_byte.is_finite() { per_byte } else { PER_BYTE_PRIOR })
    }
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
