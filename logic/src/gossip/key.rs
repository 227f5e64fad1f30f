//! Names of gossiped facts.
//!
//! `b/<backend>` is a node's report of a backend, `m/<backend>` the models that backend said it
//! serves, `n` the node itself, and `<topic>/<name>` a fact of one [`Topic`]. What a peer calls otherwise is
//! refused, not guessed.

use crate::gossip::fact::Topic;
use crate::ids::BackendId;
use std::fmt;
use std::sync::Arc;

/// The longest backend name that is gossiped, in bytes.
pub const BACKEND_NAME_MAX: usize = 64;

/// One fact's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A node's [`Report`](crate::report::Report) of a backend.
    Report(BackendId),
    /// The models a backend said it serves.
    Models(BackendId),
    /// The node itself.
    Node,
    /// A fact of a topic, by its name.
    Fact(Topic, Arc<str>),
}

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No fact is named like that.
    #[error("no fact has this kind of key")]
    Kind,
    /// The name is empty, too long or has other characters than letters, digits and `-_.`.
    #[error("the name is not 1 to 64 letters, digits or `-_.`")]
    Name,
}

impl Key {
    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyError`] for anything but the forms above.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        match text.split_once('/') {
            Some(("b", name)) => backend(name).map(Self::Report),
            Some(("m", name)) => backend(name).map(Self::Models),
            None if text == "n" => Ok(Self::Node),
            Some((word, name)) => match Topic::of(word) {
                Some(topic) if Self::allows(name) => Ok(Self::Fact(topic, name.into())),
                Some(_) => Err(KeyError::Name),
                None => Err(KeyError::Kind),
            },
            None => Err(KeyError::Kind),
        }
    }

    /// One word for its kind, of a fixed few: `report`, `models`, `node`, or the topic.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Report(_) => "report",
            Self::Models(_) => "models",
            Self::Node => "node",
            Self::Fact(topic, _) => topic.word(),
        }
    }

    /// Whether `name` may stand in a key, and thus name a gossiped backend or fact.
    pub fn allows(name: &str) -> bool {
        (1..=BACKEND_NAME_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report(backend) => write!(f, "b/{backend}"),
            Self::Models(backend) => write!(f, "m/{backend}"),
            Self::Node => f.write_str("n"),
            Self::Fact(topic, name) => write!(f, "{}/{name}", topic.word()),
        }
    }
}

fn backend(name: &str) -> Result<BackendId, KeyError> {
    if Key::allows(name) { Ok(BackendId::new(name)) } else { Err(KeyError::Name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_form_is_read_as_it_is_written() {
        let facts = Topic::ALL.map(|topic| Key::Fact(topic, "team-a.1".into()));
        for key in
            [Key::Report("aws-gpu_1.a".into()), Key::Models("X".into()), Key::Node].into_iter().chain(facts)
        {
            assert_eq!(Key::parse(&key.to_string()), Ok(key));
        }
    }

    #[test]
    fn other_keys_are_refused() {
        for text in ["", "b", "m", "x/aws", "n/", "n/x", "B/aws", "bb/aws", "/aws", "budget", "budgets/a"] {
            assert_eq!(Key::parse(text), Err(KeyError::Kind), "{text:?}");
        }
        let long = format!("b/{}", "a".repeat(65));
        for text in ["b/", "m/", "budget/", "budget/a b", "b/a b", "b/a/b", "b/é", "b/a\n", &long] {
            assert_eq!(Key::parse(text), Err(KeyError::Name), "{text:?}");
        }
        assert!(Key::parse(&format!("b/{}", "a".repeat(64))).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_written_the_same(text in ".*") {
            if let Ok(key) = Key::parse(&text) {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
