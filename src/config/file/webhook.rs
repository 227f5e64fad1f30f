//! The shape of `webhooks`.

use crate::config::duration::Span;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

/// An endpoint that is told of what happens, by signed HTTP calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct WebhookFile {
    /// Unique among the webhooks: letters, digits, `-`, `_` and `.`, at most 64. Default: the host of `url`.
    pub name: Option<String>,
    /// Address that events are posted to. No redirect is followed. Required.
    pub url: Option<String>,
    /// Secret of the signature, at least 16 characters, best as `${NAME}`. Required.
    #[schemars(with = "Option<String>")]
    pub secret: Option<SecretString>,
    /// Name of the secret, sent along so that receivers can change it with overlap. Default: eight hex digits that follow from it.
    pub key_id: Option<String>,
    /// What is told: `decision`, `budget.warning`, `backend.down`, `backend.up`, `breaker.open`, `breaker.closed`, `spot.notice`, `wake.started`, `wake.ready`, `key.revoked`, or the word before a dot for all that share it. Default: all but `decision`.
    pub events: Option<Vec<Option<String>>>,
    /// Share of the decisions that are told, from 0 to 1. Default 1.
    #[schemars(range(min = 0, max = 1))]
    pub sample: Option<f64>,
    /// How long one try may take, at most `60s`. Default `5s`.
    pub timeout: Option<Span>,
    /// Tries of one event; between them pauses of half a second to a minute. Default 10.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<u32>,
    /// Events kept while the endpoint does not take them; beyond them the oldest are dropped, decisions first. Default 1000.
    #[schemars(range(min = 1, max = 100000))]
    pub max_queued: Option<u32>,
}
