//! What the ledger keeps of an attempt: the intent, written before anything of the answer goes to the
//! client, and the charge that settles it.
//!
//! Owns what an attempt is charged for, whatever became of it. Never says what a token costs: that is
//! [`price`](super::price)'s and [`unit`](super::unit)'s.

use crate::cost::price::TokenPrice;
use crate::cost::usage::Usage;
use crate::money::Money;
use serde::{Deserialize, Serialize};

/// An attempt that is about to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// Unique among all attempts of a ledger, rising.
    pub id: i64,
    /// Id of the request's decision record; attempts of one request share it.
    pub request: String,
    /// Its number within the request, from 1.
    pub attempt: u32,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// The node that made it.
    pub node: String,
    /// The node's region.
    pub region: String,
    /// Who pays; empty without tenants.
    pub tenant: String,
    /// The key it came with; empty without keys.
    pub key: String,
    /// Arm of the experiment it belongs to; empty outside of one.
    pub experiment: String,
    /// The model the client asked for.
    pub asked: String,
    /// The backend; empty where none was tried.
    pub backend: String,
    /// The model asked of it.
    pub model: String,
    /// Whether the backend is paid by the token.
    pub external: bool,
    /// Whether the client wanted a stream.
    pub stream: bool,
    /// Input tokens predicted.
    pub input_tokens: u32,
    /// Output tokens predicted.
    pub output_tokens: u32,
    /// How it will be charged.
    pub basis: Basis,
}

/// What an attempt is charged by.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Basis {
    /// Neither a price nor a measured speed is known.
    #[default]
    Unpriced,
    /// The price list of a provider.
    Listed(Box<TokenPrice>),
    /// The machine's cost per 1,000 tokens, as measured when the attempt was decided.
    Machine(Money),
    /// Nothing: counting tokens, or nothing was tried.
    Free,
}

impl Basis {
    /// What `usage` costs; `None` = unpriced.
    pub fn charge(&self, usage: &Usage, batch: bool) -> Option<Money> {
        match self {
            Self::Unpriced => None,
            Self::Listed(price) => Some(price.charge(usage, batch)),
            Self::Machine(per_1k) => {
                Some(super::unit::request_cost(*per_1k, usage.total_input(), usage.total_output()))
            }
            Self::Free => Some(Money::ZERO),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered in full.
    Served,
    /// The backend failed, or the client was told an error.
    Failed,
    /// The client went away.
    Cancelled,
    /// The router died before it knew; found at the next start.
    Unknown,
}

impl Outcome {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// What is special about a charge: a set of bits, kept as one number in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

/// Each flag with the word for it, in the order of the bits.
const FLAG_NAMES: [&str; 9] = [
    "estimated",
    "unpriced",
    "disconnected",
    "relayed",
    "cached",
    "hedge_lost",
    "shadow",
    "recovered",
    "batch",
];

impl Flags {
    /// The tokens are estimated, since the backend never told them all.
    pub const ESTIMATED: Self = Self(1);
    /// No price is known.
    pub const UNPRICED: Self = Self(1 << 1);
    /// The client went away before the end.
    pub const DISCONNECTED: Self = Self(1 << 2);
    /// A peer made the attempt for this node.
    pub const RELAYED: Self = Self(1 << 3);
    /// Answered from the response cache.
    pub const CACHED: Self = Self(1 << 4);
    /// A second attempt at the same time was faster.
    pub const HEDGE_LOST: Self = Self(1 << 5);
    /// A copy of a request whose answer nobody reads.
    pub const SHADOW: Self = Self(1 << 6);
    /// The router died before the end; settled at its next start.
    pub const RECOVERED: Self = Self(1 << 7);
    /// Charged at the provider's batch or flex price.
    pub const BATCH: Self = Self(1 << 8);

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Flags of these bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// These and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These and `other`, where `holds`.
    #[must_use]
    pub const fn with_if(self, other: Self, holds: bool) -> Self {
        if holds { self.with(other) } else { self }
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Every flag there is with its word.
    pub fn all() -> impl Iterator<Item = (Self, &'static str)> {
        FLAG_NAMES.iter().enumerate().map(|(bit, name)| (Self(1 << bit), *name))
    }
}

/// What an attempt came to: settles the intent of the same id.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// The intent's id.
    pub intent: i64,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// HTTP status told to the client, 499 where it was gone; of an attempt that was followed by
    /// another one 0.
    pub status: u16,
    /// What went wrong, in one word; empty where nothing did.
    pub fault: String,
    /// Whether this was the request's last attempt.
    pub is_last: bool,
    /// Tokens by class.
    pub usage: Usage,
    /// Usage as the provider's own JSON told it.
    pub raw_usage: Option<String>,
    /// What it cost; `None` = unpriced.
    pub cost: Option<Money>,
    /// What the same tokens would have cost at the best external alternative; `None` = there is none.
    pub external_cost: Option<Money>,
    /// What is special about it.
    pub flags: Flags,
    /// Time to first token in milliseconds.
    pub ttft_ms: Option<u64>,
    /// From the attempt to its end, in milliseconds.
    pub duration_ms: u64,
}

/// A machine of ours that was paid for, used or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineTime {
    /// Until when, in Unix milliseconds.
    pub at_ms: u64,
    /// The cluster.
    pub cluster: String,
    /// For how long, in milliseconds.
    pub millis: u64,
    /// What that cost.
    pub cost: Money,
}

/// One line for the ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// An attempt is about to be made.
    Intent(Box<Intent>),
    /// It is settled.
    Charge(Box<Charge>),
    /// A machine was paid for.
    Machine(MachineTime),
}

/// What was seen of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Usage as far as the backend told it.
    pub reported: Option<Usage>,
    /// Pieces of content read.
    pub content_events: u64,
    /// The backend was at work on it: it accepted the request, or was still silent when the attempt was
    /// given up. Not so where it refused, failed at once or could not be reached.
    pub at_work: bool,
    /// Whether the whole answer was read.
    pub complete: bool,
}

/// The tokens an attempt is charged for, and whether they are estimated. `input_tokens` is the
/// prediction.
///
/// - A complete answer: as reported. A report of no token at all beside content is none.
/// - Cut off, by whomever: input as reported or else predicted, output the larger of what was reported
///   and the pieces read, since what a stream reports before its end is behind it.
/// - Refused or never reached: nothing, exactly.
pub fn tokens(seen: &Seen, input_tokens: u32) -> (Usage, bool) {
    let reported = seen.reported.filter(|usage| {
        usage.total_input() + usage.total_output() > 0 || (seen.content_events == 0 && seen.complete)
    });
    match reported {
        Some(usage) if seen.complete => (usage, false),
        None if !seen.at_work && !seen.complete && seen.content_events == 0 => (Usage::default(), false),
        reported => {
            let mut usage = reported.unwrap_or_default();
            if usage.total_input() == 0 {
                usage.input = input_tokens.into();
            }
            usage.output += seen.content_events.saturating_sub(usage.total_output());
            (usage, true)
        }
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
