//! Small facts of any kind: how another part of the router tells its peers a value of its own.
//!
//! A kind of fact has a [`Topic`], which is the first word of its keys, and a type that implements
//! [`Fact`]. Its value is a version byte and a bincode body of at most [`FACT_BYTES_MAX`] bytes. Within one
//! version fields are only ever appended: a reader ignores what follows the fields it knows. A change that
//! is no appending takes a new version, and [`Fact::read`] reads the one before too while an upgrade rolls.

use crate::gossip::base64;
use crate::gossip::codec::{CodecError, bytes_of, read_body};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Bytes of a fact before text encoding, version included.
pub const FACT_BYTES_MAX: usize = 192;

/// Whose facts they are. A topic of a peer that is not in this list is refused and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What a node reads, and thereby what may be written.
    Codec,
    /// Where a node relays and whether it is about to stop.
    Presence,
    /// Who sends the trial request of a half-open breaker.
    Trial,
    /// What tenants spent and hold reserved, for budgets.
    Budget,
    /// Clusters being woken or put to sleep.
    Waking,
    /// Prices that change while a node runs.
    Price,
    /// How far each node has read the others' claims on shared limits; told after the claims themselves, so it
    /// stands behind [`Topic::Budget`].
    Quota,
    /// API keys revoked lately.
    Revoked,
    /// What a node's own requests showed of a backend in trouble.
    Outage,
    /// What a node's requests of a day cost and saved.
    Savings,
    /// What our clusters cost by the hour, as a node saw it.
    Machine,
}

impl Topic {
    /// Every topic; one added above is added here.
    pub const ALL: [Self; 11] = [
        Self::Codec,
        Self::Presence,
        Self::Trial,
        Self::Budget,
        Self::Waking,
        Self::Price,
        Self::Quota,
        Self::Revoked,
        Self::Outage,
        Self::Savings,
        Self::Machine,
    ];

    /// The first word of its keys. Two letters at least: single ones are the node's own.
    pub fn word(self) -> &'static str {
        match self {
            Self::Codec => "codec",
            Self::Presence => "presence",
            Self::Trial => "trial",
            Self::Budget => "budget",
            Self::Waking => "waking",
            Self::Price => "price",
            Self::Quota => "quota",
            Self::Revoked => "revoked",
            Self::Outage => "outage",
            Self::Savings => "savings",
            Self::Machine => "machine",
        }
    }

    /// The topic of a key's first word.
    pub(super) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.word() == word)
    }
}

/// A type that can be told to peers.
pub trait Fact: Serialize + DeserializeOwned {
    /// Where it is told.
    const TOPIC: Topic;
    /// The version written. Raise it for any change but appended fields.
    const VERSION: u8;

    /// Reads a peer's value. A type whose version was raised reads the version before here as well.
    ///
    /// # Errors
    /// [`CodecError`] for what this node cannot read.
    fn read(payload: &Payload) -> Result<Self, CodecError> {
        if payload.version() == Self::VERSION {
            payload.body()
        } else {
            Err(CodecError::Version { found: payload.version(), reads: Self::VERSION })
        }
    }
}

/// A fact's value: its version and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(Arc<[u8]>);

impl Payload {
    /// The value of `fact`.
    ///
    /// # Errors
    /// [`CodecError::Oversized`] above [`FACT_BYTES_MAX`]; then it is not told at all.
    pub fn of<F: Fact>(fact: &F) -> Result<Self, CodecError> {
        Self::encode(F::VERSION, fact)
    }

    /// `body` as a value of `version`.
    ///
    /// # Errors
    /// [`CodecError::Oversized`] above [`FACT_BYTES_MAX`].
    pub fn encode<T: Serialize>(version: u8, body: &T) -> Result<Self, CodecError> {
        let bytes = bytes_of(version, body).ok_or_else(|| CodecError::Body("cannot be written".into()))?;
        if bytes.len() > FACT_BYTES_MAX {
            return Err(CodecError::Oversized(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// Reads a peer's text.
    ///
    /// # Errors
    /// [`CodecError`] where it is too long or no base64url text.
    pub fn parse(text: &str) -> Result<Self, CodecError> {
        if text.len() > (FACT_BYTES_MAX * 4).div_ceil(3) {
            return Err(CodecError::Oversized(text.len()));
        }
        let bytes = base64::decode(text).filter(|bytes| !bytes.is_empty()).ok_or(CodecError::Text)?;
        Ok(Self(bytes.into()))
    }

    /// As it travels.
    pub fn text(&self) -> String {
        base64::encode(&self.0)
    }

    /// Its bytes before text encoding.
    #[expect(clippy::len_without_is_empty, reason = "it always has a version byte")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The version it was written in.
    pub fn version(&self) -> u8 {
        self.0.first().copied().unwrap_or_default()
    }

    /// Its body as a `T`; bytes after `T`'s last field are a later writer's and are ignored.
    ///
    /// # Errors
    /// [`CodecError::Body`] where it is none.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        read_body(self.0.get(1..).unwrap_or_default()).map(|(body, _)| body)
    }
}

#[cfg(test)]
#[path = "fact_tests.rs"]
mod tests;
