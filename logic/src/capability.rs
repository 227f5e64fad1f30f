//! What a backend or a model can do, as a small set of words.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;

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

/// The words the router itself derives from a request, in alphabetical order: bit *n* stands for the
/// *n*th.
const KNOWN: [&str; 6] = [CHAT, COMPLETION, EMBEDDING, JSON, TOOLS, VISION];

/// A set of capability words, lower case. Words the router itself derives from a request are listed
/// as constants; operators may add their own (for example `code`) and ask for them by header.
///
/// The router's own words are bits, so that comparing two sets on the request path costs an
/// instruction; only an operator's words are compared as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    known: u8,
    own: BTreeSet<String>,
}

impl Capabilities {
    /// Builds a set; words are trimmed and lower-cased.
    pub fn new<I: IntoIterator<Item = S>, S: AsRef<str>>(words: I) -> Self {
        let mut set = Self::default();
        for word in words {
            set.insert(word.as_ref());
        }
        set
    }

    /// A set of the router's own words; others are left out.
    pub(crate) const fn of_known(words: &[&str]) -> Self {
        let (mut known, mut at) = (0, 0);
        while at < words.len() {
            known |= bit(words[at]);
            at += 1;
        }
        Self { known, own: BTreeSet::new() }
    }

    /// Adds one word; an empty one adds nothing.
    pub fn insert(&mut self, word: &str) {
        let word = word.trim().to_ascii_lowercase();
        match bit(&word) {
            0 if word.is_empty() => {}
            0 => {
                self.own.insert(word);
            }
            bit => self.known |= bit,
        }
    }

    /// Whether the set holds `word`.
    pub fn contains(&self, word: &str) -> bool {
        match bit(word) {
            0 => self.own.contains(word),
            bit => self.known & bit != 0,
        }
    }

    /// Whether there is no word at all: for a backend this means "not stated".
    pub fn is_empty(&self) -> bool {
        self.known == 0 && self.own.is_empty()
    }

    /// The words in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut known = KNOWN.into_iter().filter(|word| self.known & bit(word) != 0).peekable();
        let mut own = self.own.iter().map(String::as_str).peekable();
        std::iter::from_fn(move || match (known.peek(), own.peek()) {
            (Some(one), Some(other)) if *one < *other => known.next(),
            (Some(_), None) => known.next(),
            _ => own.next(),
        })
    }

    /// Both sets together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self { known: self.known | other.known, own: self.own.union(&other.own).cloned().collect() }
    }

    /// Whether any word is in both sets.
    #[inline]
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let own = || !self.own.is_empty() && self.own.iter().any(|word| other.own.contains(word));
        self.known & other.known != 0 || own()
    }

    /// The first word, in alphabetical order, that none of `sets` holds.
    #[inline]
    pub(crate) fn first_outside(&self, sets: [&Self; 3]) -> Option<&str> {
        let held = sets.iter().fold(0, |held, set| held | set.known);
        let known = self.known & !held;
        if known == 0 && self.own.is_empty() {
            return None;
        }
        let known = KNOWN.get(known.trailing_zeros() as usize).copied();
        if self.own.is_empty() {
            return known;
        }
        let own = self.own.iter().find(|word| sets.iter().all(|set| !set.own.contains(*word)));
        known.into_iter().chain(own.map(String::as_str)).min()
    }
}

/// The bit of one of the router's own words; 0 for every other.
const fn bit(word: &str) -> u8 {
    match word.as_bytes() {
        b"chat" => 1,
        b"completion" => 1 << 1,
        b"embedding" => 1 << 2,
        b"json" => 1 << 3,
        b"tools" => 1 << 4,
        b"vision" => 1 << 5,
        _ => 0,
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().collect();
        f.write_str(&words.join(", "))
    }
}

/// A list of words.
impl Serialize for Capabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<String>::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_words_and_the_routers_come_in_one_alphabetical_order() {
        let set = Capabilities::new(["vision", " Code ", "chat", "", "zoo", "audio"]);
        assert_eq!(set.to_string(), "audio, chat, code, vision, zoo");
        assert!(set.contains("code") && set.contains("chat") && !set.contains("json"));
        assert_eq!(set.union(&Capabilities::new(["json"])).iter().count(), 6);
        assert!(KNOWN.is_sorted() && KNOWN.iter().enumerate().all(|(at, word)| bit(word) == 1 << at));
    }

    #[test]
    fn the_first_word_lacking_is_found_in_alphabetical_order() {
        let none = Capabilities::default();
        let needs = Capabilities::new(["chat", "code", "vision"]);
        let lacking = |one: &[&str], other: &[&str]| {
            let (one, other) = (Capabilities::new(one), Capabilities::new(other));
            needs.first_outside([&one, &other, &none]).map(str::to_owned)
        };
        assert_eq!(lacking(&["chat"], &["code", "vision"]), None);
        assert_eq!(lacking(&["vision"], &["code"]).as_deref(), Some("chat"));
        assert_eq!(lacking(&["chat"], &["json"]).as_deref(), Some("code"));
        assert_eq!(lacking(&["chat", "code"], &[]).as_deref(), Some("vision"));
        assert_eq!(none.first_outside([&none, &none, &none]), None);
    }

    #[test]
    fn a_set_is_written_and_read_as_a_list_of_words() {
        let set = Capabilities::new(["tools", "code"]);
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"["code","tools"]"#);
        assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), set);
    }
}
