//! What routing must know of a request, in any dialect.

use crate::capability::Capabilities;
use crate::ids::BackendId;
use crate::money::Money;
use crate::route::Strategy;
use crate::tenant::Rights;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The model name that leaves the choice to the router; the same as naming no model.
pub const ANY_MODEL: &str = "auto";

/// The facts of one request that routing judges on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The model the client asked for; `None` means any backend's default model.
    pub model: Option<String>,
    /// What the request needs: its operation (`chat`, `embedding`, …), modalities, tools, and any
    /// capability the client asked for by header.
    pub needs: Capabilities,
    /// Estimated input tokens.
    pub input_tokens: u32,
    /// Estimated output tokens, bounded by the request's maximum.
    pub output_tokens: u32,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Client's hints.
    pub hints: Hints,
    /// Hash of the beginning of the prompt; `None` where it has none.
    pub prefix: Option<u64>,
    /// The backend that served this client's session last, while the stickiness window lasts.
    pub sticky: Option<BackendId>,
    /// What may still be spent at providers; `None` = no budget applies.
    #[serde(default)]
    pub budget_left: Option<Money>,
    /// What the client may ask for.
    #[serde(default)]
    pub rights: Arc<Rights>,
}

/// Wishes a client sends as `x-llm-router-*` headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hints {
    /// `x-llm-router-strategy`.
    pub strategy: Option<Strategy>,
    /// `x-llm-router-max-cost-usd`: refuse backends predicted to cost more.
    pub max_cost: Option<Money>,
    /// `x-llm-router-deadline-ms`: total time for the answer.
    pub deadline: Option<Duration>,
    /// `x-llm-router-backend`: only this backend.
    pub backend: Option<BackendId>,
}
