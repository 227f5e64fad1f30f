//! The sections on answers that are given again.

use crate::config::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;

/// What is remembered of the `Idempotency-Key` of requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct IdempotencyFile {
    /// How long a repeat gets the answer again. Default `1h`.
    pub ttl: Option<Span>,
    /// Keys remembered; the answer that ended first goes first. Default 10000.
    #[schemars(range(min = 1))]
    pub max_entries: Option<u32>,
    /// Bytes of all answers kept for keys, and again of all that run; the answer that ended first goes first.
    /// Default 67108864 (64 MiB).
    #[schemars(range(min = 1))]
    pub max_bytes: Option<usize>,
    /// A larger answer is not kept for a repeat, which is then refused. Default 4194304 (4 MiB).
    #[schemars(range(min = 1))]
    pub max_entry_bytes: Option<usize>,
    /// A longer key is refused. Default 255.
    #[schemars(range(min = 1, max = 4096))]
    pub max_key_bytes: Option<usize>,
}
