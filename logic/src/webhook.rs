//! What operators' endpoints are told, and how a receiver knows that it was this router that told it.
//!
//! Owns the kinds of events, their bodies, their ids and the signature. No event holds a prompt, an answer, a
//! key or a secret; a text that a client chose is cut. Queues and tries are the `Webhook` actor's.

use crate::ids::{BackendId, KeyId, NodeId, Region, TenantId};
use crate::money::Money;
use crate::report::Health;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Version of every event's shape. Fields may be added within one.
pub const VERSION: u32 = 1;
/// Header with the Unix time in seconds, decimal, that is signed.
pub const TIMESTAMP_HEADER: &str = "x-llm-router-timestamp";
/// Header with the signature, after `v1=`.
pub const SIGNATURE_HEADER: &str = "x-llm-router-signature";
/// Header that names the secret.
pub const KEY_ID_HEADER: &str = "x-llm-router-key-id";
/// Header with the event's id.
pub const ID_HEADER: &str = "x-llm-router-event-id";
/// Header with the event's kind.
pub const KIND_HEADER: &str = "x-llm-router-event";
/// Characters told of a text that a client or a backend chose.
const TEXT_CHARS_MAX: usize = 128;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A request was answered, or not.
    Decision,
    /// A budget reached a mark.
    BudgetWarning,
    /// A backend stopped serving, as this router sees it.
    BackendDown,
    /// It serves again.
    BackendUp,
    /// A circuit breaker keeps requests away.
    BreakerOpen,
    /// It lets them pass again.
    BreakerClosed,
    /// A machine will be taken away.
    SpotNotice,
    /// A sleeping cluster is being woken.
    WakeStarted,
    /// It serves.
    WakeReady,
    /// An API key was revoked.
    KeyRevoked,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Decision,
        Self::BudgetWarning,
        Self::BackendDown,
        Self::BackendUp,
        Self::BreakerOpen,
        Self::BreakerClosed,
        Self::SpotNotice,
        Self::WakeStarted,
        Self::WakeReady,
        Self::KeyRevoked,
    ];

    /// The word of configuration, header and body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::BudgetWarning => "budget.warning",
            Self::BackendDown => "backend.down",
            Self::BackendUp => "backend.up",
            Self::BreakerOpen => "breaker.open",
            Self::BreakerClosed => "breaker.closed",
            Self::SpotNotice => "spot.notice",
            Self::WakeStarted => "wake.started",
            Self::WakeReady => "wake.ready",
            Self::KeyRevoked => "key.revoked",
        }
    }

    /// Whether `word` means it: its own word, or that before the dot for all that share it.
    pub fn is_meant_by(self, word: &str) -> bool {
        let own = self.as_str();
        own == word || own.split_once('.').is_some_and(|(group, _)| group == word)
    }
}

/// One attempt of a decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttemptTold {
    /// Where.
    pub backend: BackendId,
    /// Which model there.
    pub model: Arc<str>,
    /// Whether it failed.
    pub failed: bool,
}

/// A routing decision and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecisionTold {
    /// As in the header `x-llm-router-decision`.
    pub id: String,
    /// When it was made.
    pub unix_ms: u64,
    /// The model asked for, cut.
    pub model: String,
    /// The strategy applied.
    pub strategy: &'static str,
    /// The backend that was tried last.
    pub backend: Option<BackendId>,
    /// The model asked of it.
    pub backend_model: Option<Arc<str>>,
    /// Why that one.
    pub reason: Option<&'static str>,
    /// `served`, `failed` or `cancelled`.
    pub outcome: &'static str,
    /// HTTP status told, 499 where the client went away.
    pub status: u16,
    /// In order.
    pub attempts: Vec<AttemptTold>,
    /// Time to first token of the last attempt.
    pub ttft_ms: Option<u64>,
    /// From request to last byte.
    pub duration_ms: u64,
    /// All classes together.
    pub input_tokens: u64,
    /// All classes together.
    pub output_tokens: u64,
    /// `null` = unpriced.
    pub cost_usd: Option<Money>,
    /// The same tokens at the cheapest provider that could have served them.
    pub external_cost_usd: Option<Money>,
}

/// What is told of what happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Told {
    /// [`Kind::Decision`]
    Decision(Box<DecisionTold>),
    /// [`Kind::BudgetWarning`]
    BudgetWarning {
        /// Whose: `fleet`, `tenant:NAME` or `key:ID`.
        scope: Arc<str>,
        /// 50, 80 or 100.
        percent: u8,
        /// Spent by all routers, as far as this one knows.
        spent_usd: Money,
        /// What may be.
        limit_usd: Money,
        /// Unix seconds at which the period ends.
        period_ends_unix: u64,
    },
    /// [`Kind::BackendDown`] and [`Kind::BackendUp`]
    Backend {
        /// Which.
        backend: BackendId,
        /// How it is now.
        health: Health,
    },
    /// [`Kind::BreakerOpen`] and [`Kind::BreakerClosed`]
    Breaker {
        /// Where.
        backend: BackendId,
        /// Which model there.
        model: String,
        /// Whether it keeps requests away.
        open: bool,
        /// Why; `null` where it is closed.
        why: Option<String>,
    },
    /// [`Kind::SpotNotice`]
    SpotNotice {
        /// Which.
        backend: BackendId,
        /// When its machine is taken away.
        at_unix_ms: u64,
    },
    /// [`Kind::WakeStarted`] and [`Kind::WakeReady`]
    Wake {
        /// Which.
        backend: BackendId,
        /// Whether it serves.
        ready: bool,
        /// How long it may still take, in milliseconds.
        ready_in_ms: u64,
    },
    /// [`Kind::KeyRevoked`]
    KeyRevoked {
        /// The part of it that is no secret.
        key: KeyId,
        /// Whose it was.
        tenant: TenantId,
    },
}

impl Told {
    /// What happened.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Decision(_) => Kind::Decision,
            Self::BudgetWarning { .. } => Kind::BudgetWarning,
            Self::Backend { health: Health::Healthy, .. } => Kind::BackendUp,
            Self::Backend { .. } => Kind::BackendDown,
            Self::Breaker { open: true, .. } => Kind::BreakerOpen,
            Self::Breaker { .. } => Kind::BreakerClosed,
            Self::SpotNotice { .. } => Kind::SpotNotice,
            Self::Wake { ready: true, .. } => Kind::WakeReady,
            Self::Wake { .. } => Kind::WakeStarted,
            Self::KeyRevoked { .. } => Kind::KeyRevoked,
        }
    }

    /// What names the occurrence, where every router of a fleet tells the same one: receivers drop repeats by
    /// the id that follows from it. `None` where each router tells its own.
    fn occurrence(&self) -> Option<String> {
        match self {
            Self::BudgetWarning { scope, percent, period_ends_unix, .. } => {
                Some(format!("{scope}\n{period_ends_unix}\n{percent}"))
            }
            Self::SpotNotice { backend, at_unix_ms } => Some(format!("{backend}\n{at_unix_ms}")),
            Self::KeyRevoked { key, tenant } => Some(format!("{tenant}\n{key}")),
            _ => None,
        }
    }
}

/// A text that somebody else chose, cut to what may be told.
pub fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// [`VERSION`]
    pub version: u32,
    /// The same for every try, and for every router that tells the same occurrence.
    pub id: String,
    /// The word of its kind.
    pub event: &'static str,
    /// When it was noticed, in Unix milliseconds.
    pub at_unix_ms: u64,
    /// By whom.
    pub node: NodeId,
    /// Where.
    pub region: Region,
    /// What.
    pub data: Told,
}

impl Event {
    /// An event noticed by `node` at `at_unix_ms`; `cluster` names the fleet, `draws` are 128 random bits.
    pub fn new(
        data: Told,
        (node, region): (NodeId, Region),
        cluster: &str,
        at_unix_ms: u64,
        draws: [u64; 2],
    ) -> Self {
        let kind = data.kind();
        let id = match data.occurrence() {
            Some(occurrence) => {
                let digest = Sha256::digest(format!("{cluster}\n{}\n{occurrence}", kind.as_str()));
                format!("evt_{}", hex(&digest[..16]))
            }
            None => format!("evt_{:016x}{:016x}", draws[0], draws[1]),
        };
        Self { version: VERSION, id, event: kind.as_str(), at_unix_ms, node, region, data }
    }

    /// What happened.
    pub fn kind(&self) -> Kind {
        self.data.kind()
    }

    /// The body as it is sent.
    ///
    /// # Errors
    /// Where it cannot be written as JSON, which no event of ours is known to do.
    pub fn body(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|error| error.to_string())
    }
}

/// The signature of `body` sent at `timestamp` (Unix seconds): lower-case hex of HMAC-SHA256 over
/// `timestamp.body`.
pub fn signature(secret: &[u8], timestamp: u64, body: &[u8]) -> String {
    hex(&mac(secret, &[timestamp.to_string().as_bytes(), b".", body]))
}

/// A name for `secret` that tells nothing of it: eight hex digits.
pub fn key_id(secret: &[u8]) -> String {
    hex(&mac(secret, &[b"llm-router webhook key id"])[..4])
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a secret of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return [0; 32] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
