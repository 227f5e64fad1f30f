//! What the live page shows: the answer of `GET /ui/data`, polled once a second by each open page.
//!
//! Owns the shape only. The node fills it from its view, its counters and its last decisions; nothing
//! here computes. Everything unknown is `None` and is shown as unknown, never as zero. Bounded: at most
//! [`DECISIONS_LIMIT`] decisions, one entry per configured backend, one per router.

use llm_router_logic::backend::Kind;
use llm_router_logic::cost::savings::DayFigures;
use llm_router_logic::ids::{BackendId, NodeId, Region};
use llm_router_logic::money::Money;
use llm_router_logic::report::Health;
use llm_router_logic::route::{Reason, Strategy};
use serde::{Deserialize, Serialize};

/// Most decisions one answer carries.
pub const DECISIONS_LIMIT: usize = 50;

/// One answer of `GET /ui/data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UiData {
    /// This router.
    pub node: NodeId,
    /// Its region.
    pub region: Region,
    /// Its cloud: `aws`, `gcp`, `azure`, or empty where none is configured.
    pub cloud: String,
    /// Whether the backends are simulated (the demo), which the page then says in plain sight.
    pub simulated: bool,
    /// Whether it stands on the demo's stage, whose page can break things.
    pub staged: bool,
    /// Seconds since this router started.
    pub uptime_s: u64,
    /// This router's clock, Unix milliseconds.
    pub now_unix_ms: u64,
    /// Sums since this router started.
    pub totals: Totals,
    /// What was saved on each of the last days, gross and net.
    #[serde(default)]
    pub savings: Savings,
    /// Clusters that are healthy now, as this router sees them.
    pub clusters_active: u32,
    /// Clusters configured.
    pub clusters_total: u32,
    /// Providers that are healthy now, as this router sees them.
    pub providers_healthy: u32,
    /// Providers configured and enabled.
    pub providers_total: u32,
    /// Strategy where a request names none.
    pub strategy: Strategy,
    /// Routers known, this one included.
    pub members: Vec<UiMember>,
    /// Configured backends, in the order of the configuration.
    pub backends: Vec<UiBackend>,
    /// Budgets, each over all routers.
    pub budgets: Vec<UiBudget>,
    /// Whether a router that shares limits is not heard, so that each keeps to its own part.
    pub split: bool,
    /// Arms of experiments.
    pub arms: Vec<UiArm>,
    /// Last decisions of this router, newest first, at most [`DECISIONS_LIMIT`].
    pub decisions: Vec<UiDecision>,
}

/// Sums and averages over all requests since this router started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Requests finished, good or bad.
    pub requests: u64,
    /// Of these, not answered in full: refused, failed, broken off, or the client was gone first.
    pub errors: u64,
    /// Requests served by another than the first backend of their plan.
    pub fallbacks: u64,
    /// Requests being served now.
    pub in_flight: u32,
    /// Average time to first token in milliseconds; `None` before the first answer.
    pub ttft_avg_ms: Option<u32>,
    /// Average time to the end of the answer in milliseconds; `None` before the first answer.
    pub latency_avg_ms: Option<u32>,
    /// Input tokens, as the backends counted them.
    pub tokens_in: u64,
    /// Output tokens, as the backends counted them.
    pub tokens_out: u64,
    /// What the requests cost: provider prices, and for clusters their $/1K at measured throughput.
    pub cost_usd: Money,
    /// What those requests that had an external alternative would have cost there, at list prices.
    pub external_equivalent_usd: Money,
    /// `external_equivalent_usd` less what those same requests cost. Gross: hours in which a cluster
    /// idles are not in it.
    pub saved_usd: Money,
    /// What clusters cost beyond what requests were charged: their idle time.
    pub idle_usd: Money,
    /// `saved_usd` less `idle_usd`: what is left once every machine is paid for.
    pub net_saved_usd: Money,
    /// Requests without a known cost, which are in no sum of money.
    pub unpriced: u64,
}

/// A budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UiBudget {
    /// Whose: `fleet`, a tenant or a key.
    pub scope: String,
    /// What may be spent in the period.
    pub limit_usd: Money,
    /// Spent by all routers, as far as is known here.
    pub spent_usd: Money,
    /// Reserved by all routers for requests under way.
    pub reserved_usd: Money,
    /// What it may be exceeded by at worst, now.
    pub overshoot_usd: Money,
    /// `soft` or `hard`.
    pub mode: String,
    /// End of the period, Unix seconds.
    pub ends_unix: u64,
}

/// An arm of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UiArm {
    /// The experiment.
    pub experiment: String,
    /// The arm.
    pub arm: String,
    /// Requests finished.
    pub requests: u64,
    /// Of these, answered in full.
    pub served: u64,
    /// What they cost in USD. Not an amount of the books: the metric's sum.
    pub spend_usd: f64,
    /// Mean time to first token in milliseconds.
    pub ttft_avg_ms: Option<f64>,
}

/// The last days, at most eight, the newest first. Each has `gross_savings_usd` and `net_savings_usd`, which
/// is gross less `idle_usd`; the two are never added to each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Savings {
    /// All routers together, a cluster that several of them use counted once.
    pub fleet: Vec<DayFigures>,
    /// This router alone.
    pub this_router: Vec<DayFigures>,
}

/// A router of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UiMember {
    /// Its name.
    pub node: NodeId,
    /// Its region.
    pub region: Region,
    /// Start of this incarnation, Unix milliseconds.
    pub generation: u64,
    /// Whether gossip counts it alive.
    pub live: bool,
    /// Whether it is the router that answers.
    pub this_node: bool,
}

/// A backend as this router sees it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UiBackend {
    /// Its configured name.
    pub name: BackendId,
    /// Wire dialect.
    pub kind: Kind,
    /// The cloud of a cluster, the dialect of a provider.
    pub provider: String,
    /// The cloud's region; empty for providers.
    pub region: String,
    /// Whether it is one of our own clusters.
    pub cluster: bool,
    /// Names of the models it serves, without aliases.
    pub models: Vec<String>,
    /// Health in the facts that count.
    pub health: Health,
    /// Requests of this router running there.
    pub in_flight: u32,
    /// How many this router may run there at once.
    pub limit: u32,
    /// Requests of this router waiting for a slot there.
    pub waiting: u32,
    /// Requests waiting at the backend itself.
    pub queue_depth: u32,
    /// Measured output tokens per second.
    pub tokens_per_second: Option<f32>,
    /// Price per 1,000 tokens: machine price at measured throughput, or the provider's list price.
    pub cost_per_1k_usd: Option<Money>,
    /// 95th percentile of time to first token over the last minute, in milliseconds.
    pub latency_p95_ms: Option<u32>,
    /// Age of the facts above; `None` where nothing is known yet.
    pub fact_age_ms: Option<u64>,
    /// The peer the facts come from; `None` where this router observed them itself.
    pub said_by: Option<NodeId>,
    /// Whether the circuit breaker refuses all of its models.
    pub breaker_open: bool,
    /// Requests this router has sent there and finished.
    pub requests: u64,
    /// What each peer says of it.
    pub peers: Vec<UiPeerFact>,
}

/// What one peer says of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UiPeerFact {
    /// Who says it.
    pub node: NodeId,
    /// Health as that router sees it.
    pub health: Health,
    /// Requests waiting there as that router sees it.
    pub queue_depth: u32,
    /// Milliseconds since it arrived here.
    pub age_ms: u64,
}

/// One finished decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UiDecision {
    /// The id in `x-llm-router-decision`.
    pub id: String,
    /// When the request ended, Unix milliseconds.
    pub unix_ms: u64,
    /// The model the client asked for, `auto` where it named none.
    pub model: String,
    /// The backend that answered; `None` where none did.
    pub backend: Option<BackendId>,
    /// Why that backend; `None` where none answered.
    pub reason: Option<Reason>,
    /// Strategy applied.
    pub strategy: Strategy,
    /// Backends asked.
    pub attempts: u32,
    /// HTTP status the client got.
    pub status: u16,
    /// Time to first token in milliseconds, where a token came.
    pub ttft_ms: Option<u32>,
    /// Time to the end of the answer in milliseconds.
    pub duration_ms: u32,
    /// Cost; `None` where the price or the usage is unknown.
    pub cost_usd: Option<Money>,
    /// Input tokens.
    pub input_tokens: u32,
    /// Output tokens.
    pub output_tokens: u32,
}
