//! What a backend or a model can do, as a small set of words.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// A set of capability words, lower case. Words the router itself derives from a request are listed
/// as constants; operators may add their own (for example `code`) and ask for them by header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(BTreeSet<String>);

/// Chat completions.
pub const CHAT: &str = "chat";
/// Legacy text completions.
pub const COMPLETION: &str = "completion";
/// Embeddings.
pub const EMBEDDING: &str = "embedding";
/// Image parts in the prompt.
pub const VISION: &str = "vision";
/// Tool definitions and calls.
pub const TOOLS: &str = "tools";
/// JSON mode or JSON-schema output.
pub const JSON: &str = "json";

impl Capabilities {
    /// Builds a set; words are trimmed and lower-cased.
    pub fn new<I: IntoIterator<Item = S>, S: AsRef<str>>(words: I) -> Self {
        Self(
            words
                .into_iter()
                .map(|w| w.as_ref().trim().to_ascii_lowercase())
                .filter(|w| !w.is_empty())
                .collect(),
        )
    }

    /// Adds one word.
    pub fn insert(&mut self, word: &str) {
        self.0.insert(word.trim().to_ascii_lowercase());
    }

    /// Whether the set holds `word`.
    pub fn contains(&self, word: &str) -> bool {
        self.0.contains(word)
    }

    /// Whether there is no word at all: for a backend this means "not stated".
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The words in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Both sets together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).cloned().collect())
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().collect();
        f.write_str(&words.join(", "))
    }
}
