//! What is configured about a backend: who it is, what it serves and what it costs. No address and no
//! secret: those stay with the outbound side.

use crate::capability::Capabilities;
use crate::cost::price::TokenPrice;
use crate::guard::limit::RateLimit;
use crate::ids::{BackendId, Region};
use crate::money::Money;
use crate::warmth::ScaleToZero;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which wire dialect a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A self-hosted llama.cpp server (OpenAI's dialect with its own habits).
    Llama,
    /// OpenAI, or anything that speaks its dialect.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Google Gemini.
    Gemini,
}

impl Kind {
    /// The word used in configuration, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }
}

/// Where a backend runs and how it is paid for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Placement {
    /// Our own machines, paid by the hour whether used or not.
    Cluster {
        /// `aws`, `gcp` or `azure`.
        cloud: String,
        /// The cloud's region.
        region: Region,
        /// Price of the whole cluster for one hour.
        cost_per_hour: Money,
    },
    /// An external provider, paid by the token.
    External,
}

/// A model a backend serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServedModel {
    /// The name the backend itself knows; shared, so that a plan may hold it without a copy.
    pub name: Arc<str>,
    /// Other names clients may ask for.
    pub aliases: Vec<String>,
    /// Context window in tokens, where known.
    pub context_window: Option<u32>,
    /// Price per token; `None` for clusters and for models without a known price (`unpriced`).
    pub price: Option<TokenPrice>,
    /// What this model can do, added to the backend's own capabilities.
    pub capabilities: Capabilities,
}

impl ServedModel {
    /// A model known by its name only.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            context_window: None,
            price: None,
            capabilities: Capabilities::default(),
        }
    }
}

/// A cluster or a provider as configured. Immutable: a reload makes new specs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendSpec {
    /// Unique name.
    pub id: BackendId,
    /// Wire dialect.
    pub kind: Kind,
    /// Own machines or external.
    pub placement: Placement,
    /// Configured models. Empty for a cluster means "ask it": its probe reports what it serves.
    pub models: Vec<ServedModel>,
    /// The model used when a request leaves the choice to the router.
    pub default_model: Option<String>,
    /// Capabilities of every model here. Empty means "not stated": the kind's own defaults hold.
    pub capabilities: Capabilities,
    /// Provider account limits.
    pub rate_limit: Option<RateLimit>,
    /// Requests at once, where configured; otherwise learnt from the backend.
    pub slots: Option<u32>,
    /// For a cluster that may have no machine: that it cannot be reached then is no illness.
    pub scale_to_zero: Option<ScaleToZero>,
    /// Regions whose routers have a way of their own to it; empty = all. Others use it through a router
    /// there.
    pub reached_from: Vec<Region>,
}

impl BackendSpec {
    /// Whether routers of `region` have a way of their own to it.
    #[inline]
    pub fn is_reached_from(&self, region: &Region) -> bool {
        self.reached_from.is_empty() || self.reached_from.contains(region)
    }

    /// Whether this is one of our own clusters.
    #[inline]
    pub fn is_cluster(&self) -> bool {
        matches!(self.placement, Placement::Cluster { .. })
    }

    /// The metric label `provider`: the cloud of a cluster, the dialect of an external provider.
    pub fn provider(&self) -> &str {
        match &self.placement {
            Placement::Cluster { cloud, .. } => cloud,
            Placement::External => self.kind.as_str(),
        }
    }

    /// The metric label `region`: empty for external providers.
    pub fn region(&self) -> &str {
        match &self.placement {
            Placement::Cluster { region, .. } => region.as_str(),
            Placement::External => "",
        }
    }
}
