//! Budgets and rate limits that the routers of a fleet share, and the actor that shares them.
//!
//! Started by `Root`; looks at the board of facts a few times a second and tells peers through it. A request
//! takes from a [`Scope`] with an atomic or a short lock and never waits for the actor. Lost on restart of the
//! actor: nothing, the [`Engine`] and the scopes outlive it. Over a restart of the process budgets are recovered
//! from what a [`QuotaStore`] kept, else from the ledger; rates begin anew.

mod engine;
mod scope;
mod spec;

pub use scope::{BudgetStatus, Denied, RateStatus, Scope};
pub use spec::{BudgetSpec, Calendar, Kept, LimitSpec, Mode, Period, QuotaSpec, ScopeSpec};

use crate::clock::Clock;
use crate::facts::Facts;
use crate::ledger::Journal;
use crate::metrics::Metrics;
use crate::poison::poison;
use crate::ports::QuotaStore;
use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use engine::{Engine, pico};
use llm_router_logic::ids::NodeId;
use llm_router_logic::money::Money;
use llm_router_logic::tenant::Principal;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// Scopes whose limits are shared over gossip; further ones keep to equal shares.
pub const SHARED_MAX: usize = 64;
/// What the name of a provider account's scope starts with.
pub const ACCOUNT: &str = "account:";
/// Time between two beats.
const BEAT: Duration = Duration::from_millis(200);
/// Time between two notes of budgets on disk, where nothing presses.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Notices kept for a slow listener; the oldest are dropped.
const NOTICES_MAX: usize = 1_024;

/// A budget reached 50, 80 or 100 %.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Whose.
    pub scope: Arc<str>,
    /// 50, 80 or 100.
    pub percent: u8,
    /// Spent by all nodes in this period.
    pub spent: Money,
    /// What may be.
    pub limit: Money,
    /// Unix seconds at which the period ends.
    pub ends: u64,
}

/// All scopes of a node. Clones share them.
#[derive(Clone)]
pub struct Quotas {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    /// Unix milliseconds at the clock's origin.
    origin_unix_ms: u64,
    facts: Facts,
    metrics: Metrics,
    published: Arc<ArcSwap<Snapshot>>,
    store: Option<Arc<dyn QuotaStore>>,
    scopes: ArcSwap<HashMap<Arc<str>, Arc<Scope>>>,
    nodes: ArcSwap<Vec<NodeId>>,
    engine: Mutex<Engine>,
    notices: broadcast::Sender<Notice>,
}

impl Quotas {
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own, given once")]
    pub(crate) fn new(
        this: NodeId,
        clock: Clock,
        origin_unix_ms: u64,
        facts: Facts,
        metrics: Metrics,
        published: Arc<ArcSwap<Snapshot>>,
        store: Option<Arc<dyn QuotaStore>>,
        journal: Option<Journal>,
    ) -> Self {
        let mut engine = Engine::new(this, origin_unix_ms, clock.now(), journal);
        if let Some(store) = &store {
            engine.noted = true;
            engine.recover(store.load());
        }
        Self {
            inner: Arc::new(Inner {
                clock,
                origin_unix_ms,
                facts,
                metrics,
                published,
                store,
                scopes: ArcSwap::default(),
                nodes: ArcSwap::default(),
                engine: Mutex::new(engine),
                notices: broadcast::Sender::new(NOTICES_MAX),
            }),
        }
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        // Every step of a beat leaves the pools usable: the next beat computes everything anew.
        self.inner.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what is to be kept from now on. Running requests keep what they hold.
    pub fn configure(&self, spec: QuotaSpec) {
        let before = self.inner.scopes.load_full();
        let scopes: Vec<Arc<Scope>> = spec
            .scopes
            .into_iter()
            .map(|spec| match before.get(&spec.name) {
                Some(scope) => {
                    scope.set_spec(spec);
                    Arc::clone(scope)
                }
                None => Arc::new(Scope::new(spec)),
            })
            .collect();
        self.inner.nodes.store(Arc::new(spec.nodes));
        let by_name = scopes.iter().map(|scope| (Arc::clone(&scope.name), Arc::clone(scope))).collect();
        self.engine().configure(&scopes, &self.inner.facts);
        self.inner.scopes.store(Arc::new(by_name));
        self.beat();
    }

    /// One beat, as the actor makes several times a second.
    fn beat(&self) {
        let Inner { clock, facts, metrics, .. } = &*self.inner;
        let now = clock.now();
        let nodes = self.sharing();
        let notices = {
            let mut engine = self.engine();
            engine.expect(nodes);
            let snapshot = self.inner.published.load();
            engine.find_gates(|name| {
                let mut doors = snapshot.view.backends.iter().zip(&snapshot.doors);
                doors
                    .find(|(backend, _)| backend.spec.id.as_str() == name)
                    .map(|(_, door)| Arc::clone(&door.gate))
            });
            let notices = engine.beat(facts, metrics, self.unix(), now);
            metrics.quota_split.set(i64::from(engine.is_split(now)));
            notices
        };
        for notice in notices {
            let Notice { scope, percent, spent, limit, .. } = &notice;
            tracing::warn!(%scope, percent, spent_usd = %spent, limit_usd = %limit, "a budget is used up to this part");
            metrics.budget_warnings_total.with_label_values(&[&**scope, &percent.to_string()]).inc();
            // Nobody need listen.
            let _ = self.inner.notices.send(notice);
        }
    }

    /// The nodes that share: those configured, else all that gossip knows, dead ones too while it remembers
    /// them.
    fn sharing(&self) -> BTreeSet<NodeId> {
        let configured = self.inner.nodes.load();
        if !configured.is_empty() {
            return configured.iter().cloned().collect();
        }
        let snapshot = self.inner.published.load();
        snapshot.view.members.iter().map(|member| member.node.clone()).collect()
    }

    fn unix(&self) -> u64 {
        (self.inner.origin_unix_ms + self.inner.clock.now().micros() / 1_000) / 1_000
    }

    /// Budgets that reached a mark, from now on.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.inner.notices.subscribe()
    }

    /// How every budget stands, by name.
    pub fn budgets(&self) -> Vec<BudgetStatus> {
        let mut all: Vec<BudgetStatus> =
            self.inner.scopes.load().values().filter_map(|scope| scope.budget_status()).collect();
        all.sort_by(|a, b| a.scope.cmp(&b.scope));
        all
    }

    /// How every rate limit stands, by name: what is configured, and this node's part.
    pub fn rates(&self) -> Vec<(Arc<str>, LimitSpec, RateStatus, u32)> {
        let now = self.inner.clock.now();
        let scopes = self.inner.scopes.load();
        let limited = scopes.values().filter(|scope| !scope.spec().limits.is_none());
        let mut all: Vec<_> = limited
            .map(|scope| {
                (Arc::clone(&scope.name), scope.spec().limits, scope.rate_status(now), scope.in_flight())
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// How many routers share, and whether one of them is not heard.
    pub fn sharing_state(&self) -> (u64, bool) {
        let engine = self.engine();
        (engine.nodes(), engine.is_split(self.inner.clock.now()))
    }

    /// What requests of `principal` draw on.
    pub fn of(&self, principal: &Principal) -> Drawn {
        let scopes = self.inner.scopes.load();
        if scopes.is_empty() {
            return Drawn { quotas: None, scopes: Vec::new() };
        }
        let names = [
            principal.key.as_ref().map(|key| format!("key:{key}")),
            Some(format!("tenant:{}", principal.tenant)),
            Some("fleet".to_owned()),
        ];
        let scopes =
            names.into_iter().flatten().filter_map(|name| scopes.get(name.as_str()).cloned()).collect();
        Drawn { quotas: Some(self.clone()), scopes }
    }
}

/// The scopes one request draws on.
#[derive(Clone)]
pub struct Drawn {
    quotas: Option<Quotas>,
    scopes: Vec<Arc<Scope>>,
}

impl Drawn {
    /// What is left to this node of the budgets that count what providers charge; `None` where there is none.
    pub fn left(&self) -> Option<Money> {
        self.scopes.iter().filter(|scope| scope.budget().is_some()).map(|scope| scope.left()).min()
    }

    /// Whether any of the budgets must never be exceeded.
    pub fn is_hard(&self) -> bool {
        self.scopes.iter().any(|scope| scope.budget().is_some_and(|budget| budget.mode == Mode::Hard))
    }

    /// Whether a request to own machines, or to a provider, counts towards a budget.
    pub fn counts(&self, cluster: bool) -> bool {
        self.scopes.iter().any(|scope| counts(scope, cluster))
    }

    /// Takes a request of `tokens` estimated tokens from every rate.
    ///
    /// # Errors
    /// The first scope that denies it; nothing is taken then.
    pub fn admit(&self, tokens: u32) -> Result<Admission, Denied> {
        let Some(quotas) = &self.quotas else {
            return Ok(Admission { drawn: self.clone(), tokens, ended: true });
        };
        let now = quotas.inner.clock.now();
        for (nth, scope) in self.scopes.iter().enumerate() {
            if let Err(denied) = scope.admit(tokens, now) {
                self.scopes[..nth].iter().for_each(|scope| scope.take_back(tokens, now));
                if let Denied::Rate { what, .. } = &denied {
                    quotas
                        .inner
                        .metrics
                        .rate_limited_total
                        .with_label_values(&[kind_of(&scope.name), what])
                        .inc();
                }
                return Err(denied);
            }
        }
        Ok(Admission { drawn: self.clone(), tokens, ended: false })
    }

    /// Takes `amount` from every budget that counts a request to own machines, or to a provider.
    ///
    /// # Errors
    /// The first scope that denies it; nothing is taken then.
    pub fn reserve(&self, amount: Money, cluster: bool) -> Result<Reservation, Denied> {
        let amount = pico(amount).max(0);
        let mut reservation = Reservation { scopes: Vec::new(), amount };
        for scope in self.scopes.iter().filter(|scope| counts(scope, cluster)) {
            if !scope.reserve(amount) {
                if let Some(quotas) = &self.quotas {
                    quotas
                        .inner
                        .metrics
                        .budget_refused_total
                        .with_label_values(&[kind_of(&scope.name)])
                        .inc();
                }
                return Err(scope.denied_budget());
            }
            reservation.scopes.push(Arc::clone(scope));
        }
        Ok(reservation)
    }

    /// How the tightest of the rates stand.
    pub fn rate_status(&self) -> RateStatus {
        let Some(quotas) = &self.quotas else { return RateStatus::default() };
        let now = quotas.inner.clock.now();
        let standings = self.scopes.iter().map(|scope| scope.rate_status(now));
        standings.fold(RateStatus::default(), RateStatus::tightest)
    }
}

fn counts(scope: &Scope, cluster: bool) -> bool {
    scope.budget().is_some_and(|budget| !cluster || budget.counts_clusters)
}

/// The kind of a scope, as a metric label that stays few.
fn kind_of(name: &str) -> &str {
    name.split_once(':').map_or(name, |(kind, _)| kind)
}

/// A request's place in the rates; dropping it ends it with what was estimated.
pub struct Admission {
    drawn: Drawn,
    tokens: u32,
    ended: bool,
}

impl Admission {
    /// The request ended, having used `tokens` if that is known.
    pub fn end(mut self, tokens: Option<u64>) {
        self.leave(tokens);
    }

    fn leave(&mut self, tokens: Option<u64>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let Some(quotas) = &self.drawn.quotas else { return };
        let now = quotas.inner.clock.now();
        self.drawn.scopes.iter().for_each(|scope| scope.leave(self.tokens, tokens, now));
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.leave(None);
    }
}

/// An amount reserved; dropping it gives it back.
#[derive(Debug)]
pub struct Reservation {
    scopes: Vec<Arc<Scope>>,
    amount: i64,
}

impl Reservation {
    /// `spent` of it was spent; `None` = that is not known, so all of it counts as spent.
    pub fn settle(mut self, spent: Option<Money>) {
        let spent = spent.map_or(self.amount, pico);
        std::mem::take(&mut self.scopes).iter().for_each(|scope| scope.settle(self.amount, spent));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.scopes.iter().for_each(|scope| scope.settle(self.amount, 0));
    }
}

/// The actor.
pub(crate) struct Quota;

#[derive(Debug)]
pub(crate) enum Msg {
    /// A beat is due.
    Beat,
    /// Note what must outlive the process, for the last time.
    Finish(ractor::RpcReplyPort<()>),
    /// Panic, to prove that the supervisor answers it.
    Poison,
}

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) me: crate::address::Address<Msg>,
    pub(crate) quotas: Quotas,
}

pub(crate) struct State {
    arguments: Arguments,
    /// A note being written.
    writing: Option<(tokio::task::JoinHandle<bool>, Vec<Kept>)>,
    last: Vec<Kept>,
    noted_at: llm_router_logic::time::Moment,
}

impl Actor for Quota {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        me.cast(Msg::Beat)?;
        arguments.me.occupy(me);
        let noted_at = arguments.quotas.inner.clock.now();
        Ok(State { arguments, writing: None, last: Vec::new(), noted_at })
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Beat => {
                state.arguments.quotas.beat();
                state.note().await;
                me.send_after(BEAT, || Msg::Beat);
            }
            Msg::Finish(done) => {
                let quotas = &state.arguments.quotas;
                if let Some(store) = &quotas.inner.store {
                    let notes = quotas.engine().notes(true);
                    if !store.save(notes).await {
                        tracing::error!(
                            "cannot note what was spent: after the restart a hard budget counts what it might have spent"
                        );
                    }
                }
                // Nobody may be waiting any more.
                let _ = done.send(());
            }
            Msg::Poison => poison(),
        }
        Ok(())
    }
}

impl State {
    /// Notes budgets on disk, without waiting for it.
    async fn note(&mut self) {
        let quotas = &self.arguments.quotas;
        let Some(store) = &quotas.inner.store else { return };
        if let Some((task, notes)) = self.writing.take() {
            if !task.is_finished() {
                self.writing = Some((task, notes));
                return;
            }
            if task.await.unwrap_or(false) {
                quotas.engine().kept(&notes);
                self.last = notes;
            }
        }
        let now = quotas.inner.clock.now();
        let (notes, pressing) = {
            let engine = quotas.engine();
            (engine.notes(false), engine.needs_note())
        };
        if notes != self.last && (pressing || now.since(self.noted_at) >= NOTE_EVERY) {
            self.noted_at = now;
            self.writing = Some((tokio::spawn(store.save(notes.clone())), notes));
        }
    }
}

#[cfg(test)]
#[path = "quota/quota_tests.rs"]
mod tests;
