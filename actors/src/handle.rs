//! What the outer ring holds of a node's actors.

use crate::address::Address;
use crate::clock::Clock;
pub use crate::cost::{Book, Payer, Settlement, Sums};
use crate::facts::{FactRefused, Facts};
use crate::gate::{Ask, NotAdmitted};
use crate::lease::Lease;
use crate::ledger::{Journal, JournalSettings};
use crate::metrics::Metrics;
use crate::ports::{Deliver, Draw, GossipTransport, LedgerStorage, Probe, QuotaStore, Trials, Wake};
use crate::quota::Quotas;
use crate::root::{Msg, Root, Shared};
pub use crate::roster::{Roll, Stated, Word};
use crate::shunned::Shunned;
use crate::snapshot::Snapshot;
use crate::topology::{GossipSettings, Topology};
use crate::trial::Fleet;
use crate::webhook::{Setting, Webhooks};
use crate::{backend, cost, dispatcher, gossip, ledger, roster};
use arc_swap::ArcSwap;
use llm_router_logic::gossip::presence::Presence;
use llm_router_logic::guard::restart::Restarts;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::report::Health;
use llm_router_logic::route::{PreparedView, Step};
use llm_router_logic::standing::Standing;
use llm_router_logic::view::{BackendView, ClusterView, Member};
use llm_router_logic::warmth::Want;
use ractor::Actor;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Everything a node's actors are started with.
pub struct Setup {
    /// Place, policy and backends.
    pub topology: Topology,
    /// How backends are looked at.
    pub probe: Arc<dyn Probe>,
    /// How sleeping clusters are called.
    pub wake: Arc<dyn Wake>,
    /// Gossip settings and transport; `None` for a node alone.
    pub gossip: Option<(GossipSettings, Arc<dyn GossipTransport>)>,
    /// Where the ledger is kept and how; `None` = none is.
    pub ledger: Option<(JournalSettings, Arc<dyn LedgerStorage>)>,
    /// The source of randomness.
    pub draw: Draw,
    /// Where figures go.
    pub metrics: Metrics,
    /// The node's clock.
    pub clock: Clock,
    /// Unix milliseconds at start; each restart of the process must use a higher one.
    pub generation: u64,
    /// Where budgets are noted over a restart; `None` = nowhere.
    pub quota_store: Option<Arc<dyn QuotaStore>>,
    /// The way to webhooks' endpoints; `None` = there is none.
    pub deliver: Option<Arc<dyn Deliver>>,
}

/// The actors of a node could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the actors: {0}")]
pub struct StartError(String);

/// An actor, named for fault injection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActorName {
    /// The supervisor itself.
    Root,
    /// The dispatcher.
    Dispatcher,
    /// The gossip.
    Gossip,
    /// The books.
    Cost,
    /// The roster.
    Roster,
    /// What looks after the ledger's thread.
    Ledger,
    /// The shared limits.
    Quota,
    /// The webhooks.
    Webhook,
    /// One backend's actor.
    Backend(BackendId),
    /// One backend's prober.
    Prober(BackendId),
}

/// The running actors of one node. Clones share it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    root: Address<Msg>,
    stopping: Arc<AtomicBool>,
}

/// How long a start waits for the ledger to open, and a shutdown for its last entries.
const LEDGER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a shutdown waits for events to be delivered.
const WEBHOOK_PATIENCE: Duration = Duration::from_secs(1);
/// Rounds of gossip a goodbye is given.
const GOODBYE_ROUNDS: u32 = 3;
/// The longest a goodbye takes.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How long a reload or shutdown may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the actors of one node.
///
/// # Errors
/// [`StartError`] where the gossip cannot open its transport.
pub async fn start(setup: Setup) -> Result<Handle, StartError> {
    let Setup {
        topology,
        probe,
        wake,
        gossip,
        ledger,
        draw,
        metrics,
        clock,
        generation,
        quota_store,
        deliver,
    } = setup;
    let journal = ledger.map(|(settings, storage)| Journal::new(storage, settings, metrics.clone()));
    let view = ClusterView {
        node: topology.node.clone(),
        region: topology.region.clone(),
        backends: topology
            .backends
            .iter()
            .map(|spec| BackendView {
                spec: Arc::clone(spec),
                own: None,
                peers: Vec::new(),
                standing: Standing::default(),
            })
            .collect(),
        foreign: Vec::new(),
        members: vec![Member {
            node: topology.node.clone(),
            region: topology.region.clone(),
            generation,
            live: true,
            this_node: true,
            relay: None,
            leaving: false,
        }],
    };
    let policy = Arc::new(topology.policy.clone());
    let view = PreparedView::new(view, &policy, clock.now(), None);
    let gossip_address = Address::vacant();
    let facts = Facts::new(metrics.clone(), gossip_address.clone());
    let published =
        Arc::new(ArcSwap::from_pointee(Snapshot { view, policy, awake: None, doors: Vec::new() }));
    let fleet = Arc::new(Fleet::new(clock, facts.clone(), Arc::clone(&published)));
    let quotas = Quotas::new(
        topology.node.clone(),
        clock,
        generation,
        facts.clone(),
        metrics.clone(),
        Arc::clone(&published),
        quota_store,
        journal.clone(),
    );
    let roll: Arc<ArcSwap<Roll>> = Arc::default();
    let setting = Setting {
        node: topology.node.clone(),
        region: topology.region.clone(),
        cluster: gossip.as_ref().map(|(settings, _)| settings.cluster_id.clone()).unwrap_or_default(),
        clock,
        draw: Arc::clone(&draw),
        metrics: metrics.clone(),
        published: Arc::clone(&published),
        roll: Arc::clone(&roll),
        deliver,
    };
    let webhooks = Webhooks::new(setting, quotas.notices());
    let shared = Arc::new(Shared {
        clock,
        webhooks,
        draw,
        facts,
        quotas,
        quota: Address::vacant(),
        shunned: Arc::new(Shunned::new(clock)),
        metrics,
        probe,
        generation,
        gossip_over: gossip,
        topology: Arc::new(ArcSwap::from_pointee(topology)),
        published,
        inbox: Arc::default(),
        trials: ArcSwap::from_pointee(Arc::clone(&fleet) as Arc<dyn Trials>),
        fleet,
        book: Arc::new(ArcSwap::from_pointee(Book::default())),
        savings: Arc::default(),
        doors: Mutex::new(BTreeMap::new()),
        dispatcher: Address::vacant(),
        gossip: gossip_address,
        cost: Address::vacant(),
        wake,
        roll,
        roster: Address::vacant(),
        journal,
        ledger: Address::vacant(),
    });
    if let Some(journal) = &shared.journal {
        journal.start().map_err(|error| StartError(format!("cannot start the ledger's thread: {error}")))?;
        // What an earlier run left open is settled before anything new is asked; a ledger that cannot be
        // opened does not keep the node from serving what costs nothing.
        let _ = journal.opened(LEDGER_PATIENCE).await;
    }
    let (actor, ended) =
        Actor::spawn(None, Root, Arc::clone(&shared)).await.map_err(|error| StartError(error.to_string()))?;
    let handle = Handle { shared, root: Address::vacant(), stopping: Arc::new(AtomicBool::new(false)) };
    handle.root.occupy(actor);
    tokio::spawn(keep_root_alive(handle.clone(), ended));
    Ok(handle)
}

/// `Root` has no supervisor above it but this task: should it die, its children die with it, and the
/// whole tree is started again from what [`Shared`] kept.
async fn keep_root_alive(handle: Handle, mut ended: tokio::task::JoinHandle<()>) {
    let mut restarts = Restarts::default();
    loop {
        // However it ended, the answer is the same.
        let _ = ended.await;
        loop {
            if handle.stopping.load(Ordering::Acquire) {
                return;
            }
            tokio::time::sleep(restarts.next_delay(handle.shared.clock.now(), (handle.shared.draw)())).await;
            tracing::error!("the supervisor died, starting the actors again");
            handle.shared.metrics.actor_restarts_total.with_label_values(&["root"]).inc();
            match Actor::spawn(None, Root, Arc::clone(&handle.shared)).await {
                Ok((actor, next)) => {
                    handle.root.occupy(actor);
                    ended = next;
                    break;
                }
                Err(error) => tracing::error!(%error, "cannot start the actors, will try again"),
            }
        }
    }
}

impl Handle {
    /// The newest view, with the doors to its backends.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.published.load_full()
    }

    /// The node's clock.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// 64 random bits.
    pub fn draw(&self) -> u64 {
        (self.shared.draw)()
    }

    /// The node's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The books, at most a tenth of a second old.
    pub fn book(&self) -> Arc<Book> {
        self.shared.book.load_full()
    }

    /// What parts of this node tell all peers, and what peers tell.
    pub fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    /// The way into the ledger; `None` where none is kept.
    pub fn journal(&self) -> Option<&Journal> {
        self.shared.journal.as_ref()
    }

    /// Budgets and rate limits.
    pub fn quotas(&self) -> &Quotas {
        &self.shared.quotas
    }

    /// What endpoints outside are told.
    pub fn webhooks(&self) -> &Webhooks {
        &self.shared.webhooks
    }

    /// What the node was told to run.
    pub fn topology(&self) -> Arc<Topology> {
        self.shared.topology.load_full()
    }

    /// Takes a place at the backend of `step` for a request of `tenant`, waiting in line at most
    /// `max_wait`.
    ///
    /// # Errors
    /// [`NotAdmitted`], at once where no place can be expected in time; the caller goes on to the plan's
    /// next step.
    pub async fn lease(
        &self,
        snapshot: &Snapshot,
        step: &Step,
        tenant: &str,
        tokens: u32,
        max_wait: Duration,
    ) -> Result<Lease, NotAdmitted> {
        if step.via.is_some() {
            return Ok(Lease::through_peer(self.shared.clock));
        }
        // What is tried although it was ejected is no trial: those are one at a time.
        let (trial, max_waiting) = (step.ejected_for.is_none(), snapshot.policy.max_queue_depth);
        let ask = Ask { tenant, model: &step.model, tokens, trial, max_wait, max_waiting };
        self.place(snapshot, step.index, ask).await
    }

    /// Takes a place at backend `index` of `snapshot` for a request that `peer` passes on, as
    /// [`Self::lease`] does for this node's own. Places are shared fairly between peers and tenants.
    ///
    /// # Errors
    /// [`NotAdmitted`].
    pub async fn lease_for_peer(
        &self,
        snapshot: &Snapshot,
        index: usize,
        peer: &NodeId,
        model: &str,
        tokens: u32,
        max_wait: Duration,
    ) -> Result<Lease, NotAdmitted> {
        let (tenant, max_waiting) = (peer.as_str(), snapshot.policy.max_queue_depth);
        let ask = Ask { tenant, model, tokens, trial: true, max_wait, max_waiting };
        self.place(snapshot, index, ask).await
    }

    /// Takes a place at backend `index`; `ask.trial` says whether it may be the trial of a half-open breaker.
    async fn place(&self, snapshot: &Snapshot, index: usize, mut ask: Ask<'_>) -> Result<Lease, NotAdmitted> {
        let (Some(door), Some(backend)) = (snapshot.doors.get(index), snapshot.view.backends.get(index))
        else {
            return Err(NotAdmitted::TooLate(Duration::ZERO));
        };
        door.actor.send(backend::Msg::Asked);
        let (now, id) = (self.shared.clock.now(), &backend.spec.id);
        // An attempt may come long after its plan: after another one's silence, or a wait.
        let newest = self.shared.published.load();
        let newest = newest.view.backends.get(index).filter(|newest| newest.spec.id == *id);
        let own = newest.and_then(|newest| newest.own.as_ref());
        if own.is_some_and(|own| own.report.health == Health::Unhealthy) {
            return Err(NotAdmitted::Dead);
        }
        let (model, tokens) = (ask.model.to_owned(), ask.tokens);
        ask.trial &= backend.own.as_ref().is_some_and(|own| own.on_trial(&model, now));
        if backend.spec.scale_to_zero.is_some() {
            self.want(id.clone(), Want::Served);
        }
        if ask.trial && !self.shared.trials.load().may_try(id, &model, now) {
            return Err(NotAdmitted::TrialTaken);
        }
        let is_trial = ask.trial;
        let metrics = &self.shared.metrics;
        let slot = door.gate.admit(ask).await.inspect_err(|why| {
            metrics.queue_refused_total.with_label_values(&[id.as_str(), why.as_str()]).inc();
        })?;
        let waited = self.shared.clock.now().since(now);
        metrics.queue_wait_seconds.with_label_values(&[id.as_str()]).observe(waited.as_secs_f64());
        let trial = is_trial.then(|| self.shared.fleet.begin(id, &model));
        Ok(Lease::new(door.clone(), slot, self.shared.clock, model, tokens).on_trial(trial))
    }

    /// The relay of `node` could not be reached: it is left out of the view for some seconds.
    pub fn relay_failed(&self, node: &NodeId) {
        self.shared.shunned.failed(node);
    }

    /// Whether it could not be reached some seconds ago. Known at once, before it is out of the view.
    pub fn is_relay_shunned(&self, node: &NodeId) -> bool {
        self.shared.shunned.is_shunned(node)
    }

    /// Says something of a backend, to this node and through it to all. `false` where nobody of that name is
    /// configured here, or the node is too busy to listen.
    pub fn say(&self, backend: &BackendId, word: Word) -> bool {
        let known = self.topology().backends.iter().any(|spec| spec.id == *backend);
        known && self.shared.roster.send(roster::Msg::Say(backend.clone(), word))
    }

    /// Where each backend stands, at most a quarter of a second old.
    pub fn roll(&self) -> Arc<Roll> {
        self.shared.roll.load_full()
    }

    /// Notes that a request wanted a sleeping cluster.
    pub fn want(&self, backend: BackendId, want: Want) {
        // Demand is a figure, not a promise: what a full mailbox loses comes again with the next request.
        self.shared.roster.send(roster::Msg::Wanted(backend, want));
    }

    /// Counts a request as waiting for `backend` to wake, for as long as the guard is kept.
    pub fn await_warmth(&self, snapshot: &Snapshot, backend: &BackendId) -> Option<Awaiting> {
        let index = snapshot.view.backends.iter().position(|one| one.spec.id == *backend)?;
        let waiting = Arc::clone(&snapshot.doors.get(index)?.waiting);
        waiting.fetch_add(1, Ordering::Relaxed);
        Some(Awaiting(waiting))
    }

    /// What 95 of 100 answers of the backend of `step` keep to: their first token where it `streams`, else
    /// the whole answer. `None` where this node has not seen any of late.
    pub fn usual_latency(&self, snapshot: &Snapshot, step: &Step, streams: bool) -> Option<Duration> {
        if !streams {
            return snapshot.doors.get(step.index)?.gate.whole_p95();
        }
        let own = snapshot.view.backends.get(step.index)?.own.as_ref()?;
        own.report.latency_p95_ms.map(|ms| Duration::from_millis(u64::from(ms)))
    }

    /// How long one more request would wait at each backend of `snapshot`, the shortest of those for
    /// which `counts`.
    pub fn shortest_wait(
        &self,
        snapshot: &Snapshot,
        counts: impl Fn(&BackendId) -> bool,
    ) -> Option<Duration> {
        let doors = snapshot.view.backends.iter().zip(&snapshot.doors);
        doors.filter(|(backend, _)| counts(&backend.spec.id)).map(|(_, door)| door.gate.wait()).min()
    }

    /// Lets somebody else decide who sends the trial request of a half-open breaker.
    pub fn set_trials(&self, trials: Arc<dyn Trials>) {
        self.shared.trials.store(Arc::new(trials));
    }

    /// Books a finished request.
    pub fn settle(&self, settlement: Settlement) {
        if self.shared.inbox.put(settlement) {
            // A dead actor is not woken; its successor looks into the inbox first.
            self.shared.cost.send(cost::Msg::Woken);
        }
    }

    /// Takes over a new configuration without touching running requests.
    ///
    /// # Errors
    /// [`StartError`] where the supervisor did not carry it out in time.
    pub async fn reconfigure(&self, topology: Topology) -> Result<(), StartError> {
        let Some(root) = self.root.actor() else {
            return Err(StartError("no supervisor".into()));
        };
        let topology = Arc::new(topology);
        match root.call(|done| Msg::Reconfigure(topology, done), Some(PATIENCE)).await {
            Ok(ractor::rpc::CallResult::Success(())) => Ok(()),
            _ => Err(StartError("the supervisor did not answer".into())),
        }
    }

    /// Tells peers where this node takes requests of theirs; empty = nowhere.
    ///
    /// # Errors
    /// [`FactRefused`] where it cannot be told.
    pub fn tell_relay(&self, address: &str) -> Result<(), FactRefused> {
        self.tell(&Presence { relay: address.to_owned(), ..Presence::default() })
    }

    /// Tells peers that this node takes no more requests.
    pub fn tell_leaving(&self) {
        // Nothing larger than what was told before: it fits.
        let _ = self.tell(&Presence { leaving: true, ..Presence::default() });
    }

    fn tell(&self, presence: &Presence) -> Result<(), FactRefused> {
        self.shared.facts.publish(Presence::NAME, presence)
    }

    /// Says goodbye to peers and stops all actors.
    pub async fn shutdown(&self) {
        self.stopping.store(true, Ordering::Release);
        let has_peers = self.snapshot().view.members.iter().any(|member| member.live && !member.this_node);
        if let Some((settings, _)) = self.shared.gossip_over.as_ref().filter(|_| has_peers) {
            let _ = self.tell(&Presence { leaving: true, gone: true, ..Presence::default() });
            // A round or two for the word to get around; whoever misses it notices the silence.
            tokio::time::sleep((settings.interval * GOODBYE_ROUNDS).min(GOODBYE_MAX)).await;
        }
        self.shared.webhooks.drain(WEBHOOK_PATIENCE).await;
        if let Some(root) = self.root.actor() {
            // Whether or not it answers in time, the process goes on to end.
            let _ = root.call(Msg::Shutdown, Some(PATIENCE)).await;
        }
        if let Some(journal) = &self.shared.journal {
            journal.stop(LEDGER_PATIENCE).await;
        }
    }

    /// Makes an actor panic: chaos tests prove with it that nothing a user sees depends on one.
    pub fn poison(&self, name: &ActorName) {
        let to_backend = |id: &BackendId, message| {
            let snapshot = self.snapshot();
            let index = snapshot.view.backends.iter().position(|backend| backend.spec.id == *id);
            index.and_then(|index| snapshot.doors.get(index)).is_some_and(|door| door.actor.send(message))
        };
        let reached = match name {
            ActorName::Root => self.root.send(Msg::Poison),
            ActorName::Dispatcher => self.shared.dispatcher.send(dispatcher::Msg::Poison),
            ActorName::Gossip => self.shared.gossip.send(gossip::Msg::Poison),
            ActorName::Quota => self.shared.quota.send(crate::quota::Msg::Poison),
            ActorName::Webhook => self.shared.webhooks.actor().send(crate::webhook::Msg::Poison),
            ActorName::Cost => self.shared.cost.send(cost::Msg::Poison),
            ActorName::Roster => self.shared.roster.send(roster::Msg::Poison),
            ActorName::Ledger => self.shared.ledger.send(ledger::Msg::Poison),
            ActorName::Backend(id) => to_backend(id, backend::Msg::Poison),
            ActorName::Prober(id) => to_backend(id, backend::Msg::PoisonProber),
        };
        tracing::warn!(?name, reached, "poisoned an actor");
    }
}

/// A request that waits for a cluster to wake.
#[derive(Debug)]
pub struct Awaiting(Arc<AtomicU32>);

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
