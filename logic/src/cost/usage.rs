//! Token counts of one response, by the classes they are priced in.

use serde::{Deserialize, Serialize};

/// Tokens by class; the classes do not overlap, whatever the dialect reported.
///
/// OpenAI's and Gemini's input counts include cached tokens, Anthropic's exclude them: the wire
/// readers subtract, so that here `input` is always the uncached rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Uncached input tokens.
    pub input: u64,
    /// Input tokens read from a cache.
    pub cached_read: u64,
    /// Input tokens written to a cache.
    pub cache_write: u64,
    /// Input tokens written to a cache that keeps them for an hour (Anthropic prices these apart).
    #[serde(default)]
    pub cache_write_1h: u64,
    /// Output tokens of text.
    pub output: u64,
    /// Reasoning ("thinking") tokens.
    pub reasoning: u64,
    /// Output tokens of images.
    #[serde(default)]
    pub image: u64,
}

impl Usage {
    /// All input classes together.
    pub fn total_input(&self) -> u64 {
        self.input + self.cached_read + self.cache_write + self.cache_write_1h
    }

    /// All output classes together.
    pub fn total_output(&self) -> u64 {
        self.output + self.reasoning + self.image
    }
}
