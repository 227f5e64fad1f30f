//! `plan`: the ordered attempts for one request.

use crate::backend::ServedModel;
use crate::ids::BackendId;
use crate::money::Money;
use crate::request::Request;
use crate::route::eligible::Refusal;
use crate::route::{Policy, Reason, Strategy};
use crate::time::Moment;
use crate::view::ClusterView;
use serde::Serialize;
use std::time::Duration;

/// This node's own load on one backend, read at the moment of the decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LocalLoad {
    /// Requests of this node running there.
    pub in_flight: u32,
    /// Requests of this node waiting for a slot there.
    pub waiting: u32,
    /// How many this node may run there at once.
    pub limit: u32,
    /// Until when the provider's rate limit or `Retry-After` keeps it closed.
    pub closed_until: Option<Moment>,
    /// Whether a half-open breaker's trial request is already under way.
    pub trial_taken: bool,
}

/// Access to [`LocalLoad`] by index into [`ClusterView::backends`].
pub trait Loads {
    /// The load of backend `index` for a request of `tokens` estimated tokens.
    fn load(&self, index: usize, tokens: u32, now: Moment) -> LocalLoad;
}

/// One attempt of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Index into [`ClusterView::backends`].
    #[serde(skip)]
    pub index: usize,
    /// The backend.
    pub backend: BackendId,
    /// The model it will be asked for, by the backend's own name.
    pub model: String,
    /// Why it stands here.
    pub reason: Reason,
    /// Predicted cost of this request there; `None` = unknown throughput or price.
    pub predicted_cost: Option<Money>,
    /// Price per 1,000 tokens there, for this request's mix of input and output.
    pub cost_per_1k: Option<Money>,
    /// Predicted time to first token.
    pub predicted_ttft: Option<Duration>,
    /// Age of the fact it was judged on.
    pub fact_age: Duration,
}

/// Attempts in order, and why the others were refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The strategy applied.
    pub strategy: Strategy,
    /// Best first; empty when nothing can serve the request.
    pub steps: Vec<Step>,
    /// Every other backend with the first reason against it.
    pub refused: Vec<(BackendId, Refusal)>,
}

/// Orders the backends of `view` for `request`.
///
/// `draw` is 64 random bits that break ties and sample candidates; the same arguments give the same
/// plan.
pub fn plan(
    view: &ClusterView,
    loads: &impl Loads,
    request: &Request,
    policy: &Policy,
    draw: u64,
    now: Moment,
) -> Plan {
    let _ = (view, loads, policy, draw, now);
    Plan {
        strategy: request.hints.strategy.unwrap_or_default(),
        steps: Vec::new(),
        refused: Vec::new(),
    }
}

/// The model of `models` that serves `asked`, by name or alias.
pub fn serves<'a>(models: &'a [ServedModel], asked: &str) -> Option<&'a ServedModel> {
    models
        .iter()
        .find(|m| m.name == asked || m.aliases.iter().any(|a| a == asked))
}
