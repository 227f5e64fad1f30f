//! The sections of `router` that protect backends.

use crate::config::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;

/// When a circuit breaker takes a model of a backend out. 5xx, timeouts and broken streams count, a
/// client's own mistakes and 429 do not.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct BreakerFile {
    /// So many failures in a row open it. Default 5.
    #[schemars(range(min = 1))]
    pub failures_in_a_row: Option<u32>,
    /// Fewer good requests than this within `window` open it, in percent. Default 80.
    #[schemars(range(max = 100))]
    pub min_success_percent: Option<u8>,
    /// `minSuccessPercent` is judged on no fewer requests than this. Default 20.
    #[schemars(range(min = 1))]
    pub min_requests: Option<u32>,
    /// How long a request counts for `minSuccessPercent`. Default `30s`.
    pub window: Option<Span>,
    /// How long it stays open until one trial request is let through; each failed trial doubles it.
    /// Default `5s`.
    pub open: Option<Span>,
    /// The longest it stays open. Default `60s`.
    pub open_max: Option<Span>,
}

/// How often another backend is tried after a failed attempt: never after the first content byte, and
/// within the client's deadline.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct RetriesFile {
    /// Attempts per request, the first included. Default 3.
    #[schemars(range(min = 1))]
    pub attempts_max: Option<u32>,
    /// Second and further attempts over ten seconds are at most this share of a node's requests, in
    /// percent, plus its part of `perSecond`. Default 20.
    #[schemars(range(max = 100))]
    pub percent: Option<u8>,
    /// Second and further attempts per second that all nodes together may make besides. Default 3.
    #[schemars(range(min = 0))]
    pub per_second: Option<f64>,
}

/// When the next backend is asked too while the first is still silent: past the 95th percentile of its time
/// to first token. Whoever begins first answers, the other is cancelled and its cost booked.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct HedgingFile {
    /// Whether at all. Default false.
    pub enabled: Option<bool>,
    /// What hedges may cost, as a share of everything spent over the last ten minutes. Default 0.02.
    #[schemars(range(min = 0, max = 1))]
    pub max_spend_share: Option<f64>,
    /// The first backend is given at least this long. Default `50ms`.
    pub min_delay: Option<Span>,
}
