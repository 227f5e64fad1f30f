//! What the actors need of the outside world, as traits the outer ring implements.

use crate::quota::Kept;
use futures_util::future::BoxFuture;
use llm_router_logic::backend::{BackendSpec, ServedModel};
use llm_router_logic::cost::entry::Entry;
use llm_router_logic::cost::savings::Day;
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use llm_router_logic::time::Moment;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use chitchat::transport::{Socket as GossipSocket, Transport as GossipTransport};
pub use chitchat::{ChitchatId as GossipId, ChitchatMessage as GossipMessage, Deserializable, Serializable};

/// Free looks at a backend. An implementation never makes a paid call.
pub trait Probe: Send + Sync + 'static {
    /// Asks the backend how it is: for a cluster `/health`, `/slots`, `/metrics`, `/props` or the
    /// sidecar's `/stats`; for a provider its free list of models.
    ///
    /// # Errors
    /// Why it could not be asked or said it is ill, in words for the log.
    fn probe(&self, backend: Arc<BackendSpec>) -> BoxFuture<'static, Result<Reading, String>>;

    /// Runs one tiny generation on an own, idle cluster to measure its speed.
    ///
    /// # Errors
    /// Why no speed could be measured.
    fn calibrate(
        &self,
        backend: Arc<BackendSpec>,
        model: String,
    ) -> BoxFuture<'static, Result<Speed, String>>;
}

/// Calls clusters that are scaled to zero.
pub trait Wake: Send + Sync + 'static {
    /// Asks for a machine once; `false` where there is nothing to call, since demand alone brings it.
    ///
    /// # Errors
    /// Why the call failed, in words for the log.
    fn wake(&self, order: WakeOrder) -> BoxFuture<'static, Result<bool, String>>;
}

/// What a call says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WakeOrder {
    /// The cluster to be woken.
    pub backend: BackendId,
    /// Requests of the last window, on all nodes, that wanted it.
    pub requests: u32,
    /// How long it is given to come.
    pub cold_start: Duration,
}

/// What a probe read. Figures a backend does not tell are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Reachable, but not ready to serve yet.
    pub loading: bool,
    /// Requests waiting inside the backend.
    pub queue_depth: Option<u32>,
    /// Requests it is working on, from all routers.
    pub busy_slots: Option<u32>,
    /// Requests it can work on at once.
    pub slots: Option<u32>,
    /// Aggregate output tokens per second it measured.
    pub tokens_per_second: Option<f64>,
    /// 95th percentile of time to first token it measured.
    pub latency_p95: Option<Duration>,
    /// Models it serves.
    pub models: Vec<ServedModel>,
    /// Round trip of the probe.
    pub rtt: Duration,
}

/// What a calibration measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Output tokens.
    pub tokens: u64,
    /// From the first to the last of them.
    pub elapsed: Duration,
}

/// Decides which router sends the trial request of a half-open breaker: one in the whole fleet. The gate
/// sees to it that this node sends one at a time. Asked on the request path: it must not wait.
pub trait Trials: Send + Sync + 'static {
    /// Whether this node may send a trial request for `model` of `backend` now.
    fn may_try(&self, backend: &BackendId, model: &str, now: Moment) -> bool;
}

/// Where budgets are noted over a restart.
pub trait QuotaStore: Send + Sync + 'static {
    /// What was noted last; nothing where there is no note. Called once, at the start.
    fn load(&self) -> Vec<Kept>;

    /// Notes `kept` in place of what was noted before. `true` once it is safe from a crash.
    fn save(&self, kept: Vec<Kept>) -> BoxFuture<'static, bool>;
}

/// Carries events to endpoints outside.
pub trait Deliver: Send + Sync + 'static {
    /// Brings `parcel` to `endpoint` once. The caller bounds the time and tries again.
    ///
    /// # Errors
    /// [`Undelivered`]; the endpoint may have seen it all the same.
    fn deliver(&self, endpoint: Arc<str>, parcel: Parcel) -> BoxFuture<'static, Result<(), Undelivered>>;
}

/// One event as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The event's id.
    pub id: String,
    /// The word of its kind.
    pub kind: &'static str,
    /// JSON.
    pub body: String,
}

/// Why an endpoint did not take an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// In words for the log.
    pub why: String,
    /// When it asked to be tried again.
    pub retry_after: Option<Duration>,
}

/// How a seed's name is looked up.
pub trait Resolve: std::fmt::Debug + Send + Sync + 'static {
    /// The addresses that `seed`, a `host:port`, stands for now.
    ///
    /// # Errors
    /// In words; it is asked again.
    fn resolve(&self, seed: String) -> BoxFuture<'static, Result<Vec<SocketAddr>, String>>;
}

/// The one source of randomness: 64 bits a call.
pub type Draw = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where the ledger is kept.
pub trait LedgerStorage: Send + Sync + 'static {
    /// Opens it for writing, makes it where there is none, and, where `recover` says so, settles by
    /// estimate what an earlier run left unsettled: a process asks for that the first time only, since
    /// later on what is unsettled is its own. Blocks.
    ///
    /// # Errors
    /// Why it cannot be written; the ledger tries again.
    fn open(&self, now_unix_ms: u64, recover: bool) -> Result<OpenLedger, LedgerError>;

    /// What was spent since a moment, by whom. Blocks.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn spent_since(&self, unix_ms: u64) -> Result<Spent, LedgerError>;
}

/// A ledger that was opened.
pub struct OpenLedger {
    /// For writing.
    pub store: Box<dyn LedgerStore>,
    /// The highest id of an intent in it.
    pub last_id: i64,
    /// Intents that had been left unsettled.
    pub recovered: u64,
    /// What earlier runs came to on the last days, by number.
    pub days: Vec<(u32, Day)>,
}

/// An open ledger, used by one thread.
pub trait LedgerStore: Send + 'static {
    /// Writes all of `batch` durably, or nothing. What is there already is left as it is, so that a batch
    /// whose fate is unknown can be written again.
    ///
    /// # Errors
    /// Why nothing was written.
    fn commit(&mut self, batch: &[Entry]) -> Result<(), LedgerError>;

    /// Deletes what is older than is to be kept, daily sums excepted.
    ///
    /// # Errors
    /// Why not.
    fn tend(&mut self, now_unix_ms: u64) -> Result<Tended, LedgerError>;
}

/// What tending came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// Size of the ledger on disk.
    pub bytes: u64,
    /// Attempts deleted.
    pub deleted: u64,
}

/// Why a ledger cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// No space left.
    #[error("the disk of ledger `{file}` is full: make room ({why})")]
    Full {
        /// Its file.
        file: String,
        /// In SQLite's words.
        why: String,
    },
    /// Not writable.
    #[error("ledger `{file}` cannot be written: check who owns it and how its disk is mounted ({why})")]
    ReadOnly {
        /// Its file.
        file: String,
        /// In SQLite's words.
        why: String,
    },
    /// Anything else.
    #[error("ledger `{file}`: {why}")]
    Broken {
        /// Its file.
        file: String,
        /// In SQLite's words.
        why: String,
    },
}

impl LedgerError {
    /// One word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::ReadOnly { .. } => "read_only",
            Self::Broken { .. } => "broken",
        }
    }
}

/// Money spent, by who pays for it. Unpriced requests are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// All of this node's.
    pub total: Money,
    /// Of `total`, at external providers: what `monthlyAPIBudget` bounds.
    pub external: Money,
    /// By tenant.
    pub tenants: BTreeMap<String, Money>,
    /// By key.
    pub keys: BTreeMap<String, Money>,
}
