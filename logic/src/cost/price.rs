//! Prices of external providers, per token and class.

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
    /// One output token, reasoning included unless priced apart.
    pub output: Money,
}
