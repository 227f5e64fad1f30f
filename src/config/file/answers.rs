//! The sections on answers that are given again.

use crate::config::duration::Span;
use schemars::JsonSchema;
use secrecy::SecretString;
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

/// Answers given again to requests that ask for the same.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct CacheFile {
    /// Whether it is on. Default true where this section is.
    pub enabled: Option<bool>,
    /// How long an answer is given again. Default `5m`.
    pub ttl: Option<Span>,
    /// Bytes of all answers kept, and again of all that run; what was used longest ago goes first. Default
    /// 268435456 (256 MiB).
    #[schemars(range(min = 1))]
    pub max_bytes: Option<usize>,
    /// A larger answer is not kept, and one to a larger request is not looked for. Default 1048576 (1 MiB).
    #[schemars(range(min = 1))]
    pub max_entry_bytes: Option<usize>,
    /// Whether answers drawn at random (without `temperature` 0) are given again too. Default false: only where
    /// the client sends `x-llm-router-cache: on`.
    pub include_sampled: Option<bool>,
    /// Among whom an answer is shared: the keys of a `tenant`, one `key` alone, or `all` tenants; always only
    /// among those with the same rights. Default `tenant`.
    #[schemars(extend("enum" = ["tenant", "key", "all", null]))]
    pub scope: Option<String>,
    /// A Redis in which the routers of a region share answers. Default: each keeps its own.
    pub redis: Option<RedisFile>,
}

/// A Redis in which the routers of a region share answers. A slow or dead one delays no request by more than
/// `lookupTimeout`, and after a few none at all.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct RedisFile {
    /// `redis://[[user]:password@]host[:port][/database]`, best with `${NAME}` for the password; special characters
    /// in it percent-encoded. Required.
    #[schemars(with = "Option<String>")]
    pub url: Option<SecretString>,
    /// What answers are sealed with, at least 16 characters and the same on every router, best as `${NAME}`.
    /// Required.
    #[schemars(with = "Option<String>")]
    pub secret: Option<SecretString>,
    /// What the names of the router's values begin with. Default `llm-router`.
    pub key_prefix: Option<String>,
    /// The longest a request waits for it, from `1ms` to `4ms`. Default `3ms`.
    pub lookup_timeout: Option<Span>,
}
