//! The fuzz targets, each a function of bytes, and what those of the wire share: the first bytes of an input choose the exchange, the rest is the body.
//!
//! The choice is one byte per question, so that a mutation changes one thing, and `seeds.py` writes the
//! same layout.

pub mod gossip;
pub mod hmac;
pub mod reply;
pub mod request;
pub mod sse;

use llm_router_logic::backend::Kind;
use llm_router_logic::wire::{Dialect, Operation};

/// What a client can ask for, by dialect; the position is the format of the corpus.
pub const ASKED: [(Dialect, Operation); 7] = [
    (Dialect::OpenAi, Operation::Chat),
    (Dialect::OpenAi, Operation::Completion),
    (Dialect::OpenAi, Operation::Embedding),
    (Dialect::OpenAi, Operation::Responses),
    (Dialect::Anthropic, Operation::Chat),
    (Dialect::Anthropic, Operation::CountTokens),
    (Dialect::Gemini, Operation::Chat),
];

/// Every kind of backend; the position is the format of the corpus.
pub const KINDS: [Kind; 4] = [Kind::OpenAi, Kind::Anthropic, Kind::Gemini, Kind::Llama];

/// One exchange, as the first four bytes of an input choose it.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The client's dialect.
    pub dialect: Dialect,
    /// What it wants done.
    pub operation: Operation,
    /// The backend's dialect.
    pub kind: Kind,
    /// The client wants a stream.
    pub client_streams: bool,
    /// The upstream was asked for a stream.
    pub upstream_streams: bool,
    /// The client asked for the usage chunk, or for a JSON array in Gemini's dialect.
    pub extra: bool,
    /// Bytes of the pieces in which the body arrives; at least 1.
    pub piece: usize,
}

impl Choice {
    /// Reads the choice and returns it with the rest of the input.
    pub fn split(input: &[u8]) -> Option<(Self, &[u8])> {
        let ([asked, kind, flags, piece], body) = input.split_first_chunk()?;
        let (dialect, operation) = ASKED[usize::from(*asked) % ASKED.len()];
        let choice = Self {
            dialect,
            operation,
            kind: KINDS[usize::from(*kind) % KINDS.len()],
            client_streams: flags & 1 != 0,
            upstream_streams: flags & 2 != 0,
            extra: flags & 4 != 0,
            piece: usize::from(*piece).max(1),
        };
        Some((choice, body))
    }
}
