//! Prices of external providers, per token and class.

use crate::cost::usage::Usage;
use crate::money::Money;
use serde::{Deserialize, Serialize};

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

    /// What a request will cost before anything is known of the provider's cache.
    pub fn predict(&self, input_tokens: u32, output_tokens: u32) -> Money {
        self.input.times(u64::from(input_tokens)) + self.output.times(u64::from(output_tokens))
    }
}
