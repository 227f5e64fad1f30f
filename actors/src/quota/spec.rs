//! What scopes are told to keep, as plain values.

use llm_router_logic::ids::NodeId;
use llm_router_logic::money::Money;
use std::fmt;
use std::sync::Arc;

/// How strictly a budget is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To the end while all nodes hear each other, within the stated overshoot.
    Soft,
    /// Never exceeded.
    Hard,
}

impl Mode {
    /// The word of configuration and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
        }
    }
}

/// The period a moment lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Differs from that of any other period of the same kind, and grows.
    pub id: u32,
    /// Unix seconds at which it began.
    pub starts: u64,
    /// Unix seconds at which it ends.
    pub ends: u64,
}

/// From Unix seconds to the period they lie in.
#[derive(Clone)]
pub struct Calendar(pub Arc<dyn Fn(u64) -> Period + Send + Sync>);

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calendar")
    }
}

/// Two calendars are never known to be equal.
impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A budget.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetSpec {
    /// What may be spent in one period.
    pub limit: Money,
    /// How strictly.
    pub mode: Mode,
    /// Whether the machine cost of own clusters counts too, not only what providers charge.
    pub counts_clusters: bool,
    /// The period's word: `day`, `week` or `month`.
    pub period: &'static str,
    /// When it begins anew.
    pub calendar: Calendar,
}

/// Rates; `None` = not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSpec {
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, input and output together.
    pub tokens_per_minute: Option<u32>,
    /// Requests at once.
    pub concurrent: Option<u32>,
}

impl LimitSpec {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One scope.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeSpec {
    /// `fleet`, `tenant:NAME`, `key:ID` or `account:BACKEND`.
    pub name: Arc<str>,
    /// Its budget.
    pub budget: Option<BudgetSpec>,
    /// Its rates.
    pub limits: LimitSpec,
}

/// Everything the quota is told to keep.
#[derive(Clone, Debug, Default)]
pub struct QuotaSpec {
    /// The routers that share; empty = whoever gossip knows.
    pub nodes: Vec<NodeId>,
    /// Scopes, the more important ones first: those beyond [`SHARED_MAX`](super::SHARED_MAX) are kept to equal shares.
    pub scopes: Vec<ScopeSpec>,
}

/// What is kept of a budget over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose.
    pub scope: String,
    /// Of which period.
    pub period: u32,
    /// Spent and reserved, in pico-dollars; of a hard budget what it may have reached since it was noted.
    pub committed: i64,
}
