//! Keeps the books of this node: requests, tokens, spend and gross savings.
//!
//! Started by `Root`, takes settlements out of an [`Inbox`], tells nobody: it publishes a [`Book`] and
//! metrics. Lost on restart: nothing, it goes on from the book it published last and from an inbox
//! that outlives it.

use crate::address::Address;
use crate::clock::Clock;
use crate::facts::Facts;
use crate::ledger::Journal;
use crate::metrics::Metrics;
use crate::poison::poison;
use crate::savings::Savings;
use crate::snapshot::Snapshot;
use crate::topology::Topology;
use arc_swap::ArcSwap;
use llm_router_logic::backend::Placement;
use llm_router_logic::cost::day;
use llm_router_logic::cost::entry::MachineTime;
use llm_router_logic::cost::savings::{DayFigures, Paid};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::money::Money;
use llm_router_logic::route::score::unit_cost;
use llm_router_logic::route::unit_costs::unit_costs;
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::warmth::Warmth;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What one attempt came to.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The backend that served it; `None` where none did.
    pub backend: Option<BackendId>,
    /// The peer through whose router it was served. That peer books nothing of it.
    pub via: Option<NodeId>,
    /// Whether it was answered in full.
    pub served: bool,
    /// Whether it is the request's last attempt; those before count for what they cost only.
    pub is_last: bool,
    /// Whether another backend had failed before.
    pub fallback: bool,
    /// Tokens by class.
    pub usage: Usage,
    /// Its cost; `None` = unpriced.
    pub cost: Option<Money>,
    /// What the same tokens would have cost at the cheapest external provider that could serve it.
    pub external_cost: Option<Money>,
    /// Time to first token.
    pub ttft: Option<Duration>,
    /// Time to the last byte.
    pub duration: Duration,
    /// Whether it was a shadow copy and not what a client asked.
    pub shadow: bool,
    /// Who pays for it.
    pub payer: Payer,
}

/// Whose a request is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payer {
    /// Its tenant.
    pub tenant: String,
    /// The id of the API key it came with; empty where none is asked for.
    pub key: String,
}

/// Sums over requests of this node since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    /// Requests finished.
    pub requests: u64,
    /// Of these, not answered in full.
    pub errors: u64,
    /// Of these, served after another backend had failed.
    pub fallbacks: u64,
    /// Requests without a known cost.
    pub unpriced: u64,
    /// Input tokens of all classes.
    pub input_tokens: u64,
    /// Output tokens of all classes.
    pub output_tokens: u64,
    /// Cost of the priced requests.
    #[serde(rename = "cost_usd")]
    pub cost: Money,
    /// What requests with an external alternative would have cost there.
    #[serde(rename = "external_equivalent_usd")]
    pub external_equivalent: Money,
    /// `external_equivalent` less the true cost of those same requests (gross: idle hours not counted).
    #[serde(rename = "gross_savings_usd")]
    pub gross_savings: Money,
    /// Sum of times to first token, in milliseconds, over `ttft_count` requests.
    pub ttft_ms: u64,
    /// Requests with a first token.
    pub ttft_count: u64,
    /// Sum of durations in milliseconds over served requests.
    pub duration_ms: u64,
}

/// The books of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Book {
    /// All requests.
    pub total: Sums,
    /// By backend.
    pub backends: BTreeMap<BackendId, Sums>,
    /// By tenant. Beyond 512 names further ones share the row `(others)`; likewise below.
    pub tenants: BTreeMap<String, Sums>,
    /// By the id of the API key; what came without one is in no row.
    pub keys: BTreeMap<String, Sums>,
    /// Our clusters' time since the start, used or idle.
    pub machines: BTreeMap<BackendId, MachineSums>,
    /// What that time cost beyond what requests were charged for it.
    #[serde(rename = "idle_usd")]
    pub idle: Money,
    /// Gross savings less `idle`: what is left once every machine is paid for.
    #[serde(rename = "net_savings_usd")]
    pub net_savings: Money,
    /// Shadow copies, which are in none of the sums of requests.
    pub shadow: Sums,
    /// The last days of this node, the newest first; with a ledger over its restarts.
    pub days: Vec<DayFigures>,
    /// The last days of all routers together, as far as they told of them.
    pub fleet_days: Vec<DayFigures>,
}

/// A cluster's paid time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MachineSums {
    /// In milliseconds.
    pub millis: u64,
    /// What it cost, overhead included.
    #[serde(rename = "cost_usd")]
    pub cost: Money,
}

impl Book {
    /// Idle cost and net savings follow from the rest.
    fn conclude(&mut self) {
        let machines: Money = self.machines.values().map(|machine| machine.cost).sum();
        let charged = self.machines.keys().filter_map(|id| self.backends.get(id)).map(|sums| sums.cost).sum();
        self.idle = machines - charged;
        self.net_savings = self.total.gross_savings - self.idle;
    }
}

/// The row of `name`, of which there is a bounded number.
fn row_of<'a>(rows: &'a mut BTreeMap<String, Sums>, name: &str) -> &'a mut Sums {
    let known = rows.len() < PAYERS_MAX || rows.contains_key(name);
    rows.entry(if known { name } else { OTHER_PAYERS }.to_owned()).or_default()
}

impl Sums {
    fn add(&mut self, settlement: &Settlement) {
        self.requests += u64::from(settlement.is_last);
        self.errors += u64::from(settlement.is_last && !settlement.served);
        self.fallbacks += u64::from(settlement.fallback && settlement.served);
        self.input_tokens += settlement.usage.total_input();
        self.output_tokens += settlement.usage.total_output();
        match settlement.cost {
            Some(cost) => {
                self.cost += cost;
                if let Some(external) = settlement.external_cost {
                    self.external_equivalent += external;
                    self.gross_savings += external - cost;
                }
            }
            None => self.unpriced += u64::from(settlement.served),
        }
        if let Some(ttft) = settlement.ttft {
            self.ttft_ms += millis(ttft);
            self.ttft_count += 1;
        }
        if settlement.served {
            self.duration_ms += millis(settlement.duration);
        }
    }
}

/// Settlements not yet in the book; requests put them in without waiting.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Vec<Settlement>>,
}

impl Inbox {
    /// Adds one. `true` where the inbox was empty: the books should be woken. Beyond
    /// [`INBOX_MAX`] it is dropped and logged: the books are then known to be short.
    pub(crate) fn put(&self, settlement: Settlement) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= INBOX_MAX {
            tracing::error!(?settlement, "the books do not keep up, a settlement is lost");
            return false;
        }
        waiting.push(settlement);
        waiting.len() == 1
    }

    fn take(&self) -> Vec<Settlement> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) struct Cost;

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) me: Address<Msg>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) published: Arc<ArcSwap<Snapshot>>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) book: Arc<ArcSwap<Book>>,
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    pub(crate) journal: Option<Journal>,
    pub(crate) facts: Facts,
    pub(crate) savings: Arc<Mutex<Savings>>,
    /// Unix milliseconds at the clock's origin.
    pub(crate) origin_unix_ms: u64,
}

#[derive(Debug)]
pub(crate) enum Msg {
    /// The inbox is no longer empty.
    Woken,
    /// Compute unit costs anew.
    Tick,
    /// Book what is in the inbox.
    Book,
    /// Panic, to prove that the supervisor answers it.
    Poison,
}

const MS_PER_HOUR: u64 = 3_600_000;
/// Tenants, and keys, that have rows of their own in the book.
const PAYERS_MAX: usize = 512;
/// The row of all further ones. No tenant or key has brackets in its name.
const OTHER_PAYERS: &str = "(others)";
/// Settlements waiting at once.
const INBOX_MAX: usize = 100_000;
/// Settlements are gathered for this long before they are booked and the book is published.
const GATHER: Duration = Duration::from_millis(100);

pub(crate) struct State {
    arguments: Arguments,
    book: Book,
    book_due: bool,
    /// Up to when machines are paid for.
    paid_to: Moment,
}

impl Actor for Cost {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        me.cast(Msg::Tick)?;
        me.cast(Msg::Book)?;
        arguments.me.occupy(me);
        let book = Book::clone(&arguments.book.load());
        // The time since a predecessor died, milliseconds, is nobody's.
        let paid_to = arguments.clock.now();
        Ok(State { arguments, book, book_due: false, paid_to })
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(message, Msg::Woken) {
            state.arguments.me.received();
        }
        match message {
            Msg::Woken => {
                if !std::mem::replace(&mut state.book_due, true) {
                    me.send_after(GATHER, || Msg::Book);
                }
            }
            Msg::Book => {
                state.book_due = false;
                for settlement in state.arguments.inbox.take() {
                    state.settle(&settlement);
                }
                state.book.conclude();
                let days = state.savings().days();
                state.book.days = days;
                state.arguments.metrics.net_savings_usd.set(state.book.net_savings.as_usd());
                state.arguments.book.store(Arc::new(state.book.clone()));
            }
            Msg::Tick => {
                state.recover_days();
                state.pay_machines();
                state.show_unit_costs();
                state.share_days();
                if !std::mem::replace(&mut state.book_due, true) {
                    me.cast(Msg::Book)?;
                }
                let interval = state.arguments.topology.load().metrics_update_interval;
                me.send_after(interval.max(Duration::from_secs(1)), || Msg::Tick);
            }
            Msg::Poison => poison(),
        }
        Ok(())
    }
}

impl State {
    fn today(&self) -> u32 {
        day::number(self.arguments.origin_unix_ms + self.arguments.clock.now().micros() / 1_000)
    }

    fn savings(&self) -> MutexGuard<'_, Savings> {
        // A panic while holding the lock leaves at worst one settlement half added.
        self.arguments.savings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what earlier runs kept, once the ledger is open.
    fn recover_days(&self) {
        let Some(journal) = &self.arguments.journal else { return };
        let mut savings = self.savings();
        if !savings.is_kept()
            && let Some(days) = journal.take_days()
        {
            savings.recover(&days);
        }
    }

    /// Tells peers of the last days, takes in theirs, and shows the sum.
    fn share_days(&mut self) {
        let today = self.today();
        let fleet = {
            let mut savings = self.savings();
            savings.exchange(&self.arguments.facts, today);
            savings.fleet_days(today)
        };
        let gauges = &self.arguments.metrics.states;
        if let Some(today) = fleet.first() {
            gauges.fleet_gross_savings_today_usd.set(today.gross_savings_usd.as_usd());
            gauges.fleet_idle_today_usd.set(today.idle_usd.as_usd());
            gauges.fleet_net_savings_today_usd.set(today.net_savings_usd.as_usd());
        }
        self.book.fleet_days = fleet;
    }

    fn settle(&mut self, settlement: &Settlement) {
        let on_machine = settlement.backend.as_ref().is_some_and(|id| self.book.machines.contains_key(id));
        self.savings().settle(self.today(), settlement, on_machine);
        if settlement.shadow {
            return self.book.shadow.add(settlement);
        }
        self.book.total.add(settlement);
        row_of(&mut self.book.tenants, &settlement.payer.tenant).add(settlement);
        if !settlement.payer.key.is_empty() {
            row_of(&mut self.book.keys, &settlement.payer.key).add(settlement);
        }
        let metrics = &self.arguments.metrics;
        if let Some(id) = &settlement.backend {
            self.book.backends.entry(id.clone()).or_default().add(settlement);
            let usage = &settlement.usage;
            let classes = [
                ("input", usage.input),
                ("cached_read", usage.cached_read),
                ("cache_write", usage.cache_write + usage.cache_write_1h),
                ("output", usage.output),
                ("reasoning", usage.reasoning),
                ("image", usage.image),
            ];
            for (class, tokens) in classes.into_iter().filter(|(_, tokens)| *tokens > 0) {
                metrics.tokens_total.with_label_values(&[id.as_str(), class]).inc_by(tokens);
            }
            match settlement.cost {
                Some(cost) => {
                    metrics.spend_usd_total.with_label_values(&[id.as_str()]).inc_by(cost.as_usd().max(0.0));
                }
                None if settlement.served => {
                    metrics.unpriced_requests_total.with_label_values(&[id.as_str()]).inc();
                }
                None => {}
            }
            if settlement.fallback && settlement.served {
                metrics.fallbacks_total.with_label_values(&[id.as_str()]).inc();
            }
        }
        if let (Some(cost), Some(external)) = (settlement.cost, settlement.external_cost) {
            metrics.gross_savings_usd_total.inc_by((external - cost).as_usd().max(0.0));
        }
    }

    /// Every cluster that has a machine is paid for by the hour, whether or not it serves.
    fn pay_machines(&mut self) {
        let now = self.arguments.clock.now();
        let millis = millis(now.since(self.paid_to));
        self.paid_to = now;
        let topology = self.arguments.topology.load_full();
        let snapshot = self.arguments.published.load_full();
        let is_cold = |id: &BackendId| {
            let view = snapshot.view.backends.iter().find(|backend| backend.spec.id == *id);
            view.is_some_and(|backend| matches!(backend.standing.warmth, Warmth::Cold { .. }))
        };
        for spec in topology.backends.iter().filter(|spec| !is_cold(&spec.id)) {
            let Placement::Cluster { cost_per_hour, .. } = &spec.placement else { continue };
            let hour = Money::from_usd(cost_per_hour.as_usd() * topology.policy.overhead_factor);
            let cost = hour.unwrap_or(*cost_per_hour).share(millis, MS_PER_HOUR);
            let machine = self.book.machines.entry(spec.id.clone()).or_default();
            machine.millis += millis;
            machine.cost += cost;
            let today = day::number(self.arguments.origin_unix_ms + now.micros() / 1_000);
            let savings = &self.arguments.savings;
            let mut savings = savings.lock().unwrap_or_else(PoisonError::into_inner);
            savings.pay(today, &spec.id, Paid { millis, cost });
            drop(savings);
            let counter = &self.arguments.metrics.machine_usd_total;
            counter.with_label_values(&[spec.id.as_str()]).inc_by(cost.as_usd().max(0.0));
            if let Some(journal) = &self.arguments.journal
                && millis > 0
            {
                let at_ms = crate::ledger::unix_ms();
                journal.machine(MachineTime { at_ms, cluster: spec.id.to_string(), millis, cost });
            }
        }
    }

    fn show_unit_costs(&self) {
        let Arguments { metrics, published, clock, topology, .. } = &self.arguments;
        let snapshot = published.load();
        let overhead = topology.load().policy.overhead_factor;
        let now = clock.now();
        let bases = unit_costs(&snapshot.view, &**snapshot, &snapshot.policy, now);
        for (backend, costs) in snapshot.view.backends.iter().zip(bases) {
            let id = backend.spec.id.as_str();
            for (basis, cost) in [("average", costs.average), ("marginal", costs.marginal)] {
                let gauge = &metrics.states.cost_per_1k_tokens;
                match cost {
                    Some(cost) => gauge.with_label_values(&[id, basis]).set(cost.as_usd()),
                    None => drop(gauge.remove_label_values(&[id, basis])),
                }
            }
        }
        for backend in &snapshot.view.backends {
            let spec = &backend.spec;
            if spec.is_cluster() {
                let gauge = &metrics.cluster_cost_per_1k_tokens;
                let labels = [spec.id.as_str(), spec.provider(), spec.region()];
                match unit_cost(backend, overhead, now) {
                    Some(cost) => gauge.with_label_values(&labels).set(cost.as_usd()),
                    // Unknown is shown as absent, never as a number.
                    None => drop(gauge.remove_label_values(&labels)),
                }
                continue;
            }
            for (model, price) in spec.models.iter().filter_map(|model| Some((model, model.price.as_ref()?)))
            {
                let gauge =
                    metrics.provider_cost_per_1k_tokens.with_label_values(&[spec.id.as_str(), &model.name]);
                gauge.set(price.mixed_per_1k().as_usd());
            }
        }
    }
}
