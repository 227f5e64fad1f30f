//! The supervisor of one node: starts every actor, restarts the dead, carries out reloads.
//!
//! Started by [`crate::start`] and started again by the same task should it die itself. It owns no
//! state that matters: doors, topology, view and book live in [`Shared`] and outlast every actor.

use crate::address::Address;
use crate::backend::{self, Backend};
use crate::clock::Clock;
use crate::cost::{self, Book, Cost, Inbox};
use crate::dispatcher::{self, Dispatcher};
use crate::facts::Facts;
use crate::gate::Gate;
use crate::gossip::{self, Gossip};
use crate::ledger::{self, Journal, Ledger};
use crate::metrics::Metrics;
use crate::poison::poison;
use crate::ports::{Draw, GossipTransport, Probe, Trials, Wake};
use crate::quota::{self, Quota, Quotas};
use crate::roster::{self, Roll, Roster, Word};
use crate::savings::Savings;
use crate::shunned::Shunned;
use crate::snapshot::{Door, Snapshot};
use crate::topology::{GossipSettings, Topology};
use crate::trial::Fleet;
use crate::webhook::{Webhook, Webhooks};
use arc_swap::ArcSwap;
use llm_router_logic::backend::{BackendSpec, Placement};
use llm_router_logic::guard::restart::Restarts;
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a gossip actor may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// What outlasts every actor of a node.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) draw: Draw,
    pub(crate) metrics: Metrics,
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) generation: u64,
    pub(crate) gossip_over: Option<(GossipSettings, Arc<dyn GossipTransport>)>,
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    pub(crate) published: Arc<ArcSwap<Snapshot>>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) trials: ArcSwap<Arc<dyn Trials>>,
    pub(crate) book: Arc<ArcSwap<Book>>,
    pub(crate) savings: Arc<Mutex<Savings>>,
    pub(crate) doors: Mutex<BTreeMap<BackendId, Door>>,
    pub(crate) dispatcher: Address<dispatcher::Msg>,
    pub(crate) gossip: Address<gossip::Msg>,
    pub(crate) facts: Facts,
    pub(crate) shunned: Arc<Shunned>,
    pub(crate) cost: Address<cost::Msg>,
    pub(crate) wake: Arc<dyn Wake>,
    pub(crate) roll: Arc<ArcSwap<Roll>>,
    pub(crate) roster: Address<roster::Msg>,
    pub(crate) journal: Option<Journal>,
    pub(crate) ledger: Address<ledger::Msg>,
    pub(crate) quotas: Quotas,
    pub(crate) quota: Address<quota::Msg>,
    pub(crate) webhooks: Webhooks,
}

impl Shared {
    /// The door to `spec`, made at its first use and kept for as long as the backend is configured.
    fn door(&self, spec: &BackendSpec) -> Door {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || Door {
            gate: Gate::new(
                self.clock,
                spec.is_cluster(),
                spec.slots,
                spec.rate_limit,
                &self.topology.load().policy.guards,
            ),
            actor: Address::vacant(),
            waiting: Arc::default(),
        };
        doors.entry(spec.id.clone()).or_insert_with(open).clone()
    }

    /// Doors of all backends of `topology`, in its order.
    fn doors(&self, topology: &Topology) -> Vec<Door> {
        topology.backends.iter().map(|spec| self.door(spec)).collect()
    }
}

/// An actor by its place in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    Dispatcher,
    Gossip,
    Cost,
    Roster,
    Ledger,
    Quota,
    Webhook,
    Backend(BackendId),
}

impl Child {
    fn label(&self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Gossip => "gossip",
            Self::Cost => "cost",
            Self::Roster => "roster",
            Self::Ledger => "ledger",
            Self::Quota => "quota",
            Self::Webhook => "webhook",
            Self::Backend(_) => "backend",
        }
    }
}

pub(crate) struct Root;

pub(crate) enum Msg {
    /// Start a dead child again.
    Respawn(Child),
    /// Take over a new configuration.
    Reconfigure(Arc<Topology>, RpcReplyPort<()>),
    /// Let the gossip say goodbye, then end.
    Shutdown(RpcReplyPort<()>),
    /// Panic, to prove that the node survives it.
    Poison,
}

pub(crate) struct State {
    shared: Arc<Shared>,
    children: BTreeMap<ActorId, (Child, ActorCell)>,
    restarts: Vec<(Child, Restarts)>,
}

impl Actor for Root {
    type Msg = Msg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(&self, me: ActorRef<Msg>, shared: Arc<Shared>) -> Result<State, ActorProcessingErr> {
        let mut state = State { shared, children: BTreeMap::new(), restarts: Vec::new() };
        let backends = state.shared.topology.load_full().backends.clone();
        let all = [Child::Dispatcher, Child::Gossip, Child::Ledger, Child::Cost, Child::Roster, Child::Quota];
        let all = all.into_iter().chain([Child::Webhook]);
        for child in all.chain(backends.iter().map(|spec| Child::Backend(spec.id.clone()))) {
            state.spawn(&me, child).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Respawn(child) => {
                if let Err(error) = state.spawn(&me, child.clone()).await {
                    tracing::error!(?child, %error, "cannot restart actor, will try again");
                    state.respawn_later(&me, child);
                }
            }
            Msg::Reconfigure(topology, done) => {
                state.reconfigure(&me, topology).await;
                // Nobody may be waiting any more.
                let _ = done.send(());
            }
            Msg::Shutdown(done) => {
                if let Some(quota) = state.shared.quota.actor() {
                    let _ = quota.call(quota::Msg::Finish, Some(GOODBYE)).await;
                }
                let gossip = state.children.values().find(|(child, _)| *child == Child::Gossip);
                if let Some((_, cell)) = gossip.cloned() {
                    state.children.remove(&cell.get_id());
                    let _ = cell.stop_and_wait(Some("shutdown".into()), Some(GOODBYE)).await;
                }
                let _ = done.send(());
                me.stop(Some("shutdown".into()));
            }
            Msg::Poison => poison(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, why) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell, reason.unwrap_or_default()),
            _ => return Ok(()),
        };
        // A child that was stopped on purpose has been taken off the list before.
        if let Some((child, _)) = state.children.remove(&cell.get_id()) {
            tracing::error!(?child, why, "actor died, restarting it");
            state.shared.metrics.actor_restarts_total.with_label_values(&[child.label()]).inc();
            state.respawn_later(&me, child);
        }
        Ok(())
    }
}

impl State {
    async fn spawn(&mut self, me: &ActorRef<Msg>, child: Child) -> Result<(), ActorProcessingErr> {
        let shared = &self.shared;
        let topology = shared.topology.load_full();
        let supervisor = me.get_cell();
        let cell = match &child {
            Child::Dispatcher => {
                let doors = shared.doors(&topology);
                let arguments = dispatcher::Arguments {
                    me: shared.dispatcher.clone(),
                    gossip: shared.gossip.clone(),
                    clock: shared.clock,
                    metrics: shared.metrics.clone(),
                    published: Arc::clone(&shared.published),
                    roll: Arc::clone(&shared.roll),
                };
                let (actor, _) =
                    Actor::spawn_linked(None, Dispatcher, (arguments, topology, doors), supervisor).await?;
                actor.get_cell()
            }
            Child::Gossip => {
                let Some((settings, transport)) = &shared.gossip_over else {
                    return Ok(());
                };
                let arguments = gossip::Arguments {
                    me: shared.gossip.clone(),
                    dispatcher: shared.dispatcher.clone(),
                    transport: Arc::clone(transport),
                    settings: settings.clone(),
                    generation: shared.generation,
                    node: topology.node.clone(),
                    region: topology.region.clone(),
                    clock: shared.clock,
                    metrics: shared.metrics.clone(),
                    facts: shared.facts.clone(),
                    shunned: Arc::clone(&shared.shunned),
                    fleet: Arc::clone(&shared.fleet),
                };
                let (actor, _) = Actor::spawn_linked(None, Gossip, arguments, supervisor).await?;
                shared.dispatcher.send(dispatcher::Msg::TellAll);
                actor.get_cell()
            }
            Child::Cost => {
                let arguments = cost::Arguments {
                    me: shared.cost.clone(),
                    clock: shared.clock,
                    metrics: shared.metrics.clone(),
                    published: Arc::clone(&shared.published),
                    inbox: Arc::clone(&shared.inbox),
                    book: Arc::clone(&shared.book),
                    topology: Arc::clone(&shared.topology),
                    journal: shared.journal.clone(),
                    facts: shared.facts.clone(),
                    savings: Arc::clone(&shared.savings),
                    origin_unix_ms: shared.generation,
                };
                let (actor, _) = Actor::spawn_linked(None, Cost, arguments, supervisor).await?;
                actor.get_cell()
            }
            Child::Roster => {
                let arguments = roster::Arguments {
                    me: shared.roster.clone(),
                    facts: shared.facts.clone(),
                    dispatcher: shared.dispatcher.clone(),
                    wake: Arc::clone(&shared.wake),
                    clock: shared.clock,
                    metrics: shared.metrics.clone(),
                    topology: Arc::clone(&shared.topology),
                    published: Arc::clone(&shared.published),
                    roll: Arc::clone(&shared.roll),
                };
                let (actor, _) = Actor::spawn_linked(None, Roster, arguments, supervisor).await?;
                actor.get_cell()
            }
            Child::Quota => {
                let arguments = quota::Arguments { me: shared.quota.clone(), quotas: shared.quotas.clone() };
                let (actor, _) = Actor::spawn_linked(None, Quota, arguments, supervisor).await?;
                actor.get_cell()
            }
            Child::Webhook => {
                let (actor, _) =
                    Actor::spawn_linked(None, Webhook, shared.webhooks.clone(), supervisor).await?;
                actor.get_cell()
            }
            Child::Ledger => {
                let Some(journal) = shared.journal.clone() else {
                    return Ok(());
                };
                let metrics = shared.metrics.clone();
                let arguments = ledger::Arguments { me: shared.ledger.clone(), journal, metrics };
                let (actor, _) = Actor::spawn_linked(None, Ledger, arguments, supervisor).await?;
                actor.get_cell()
            }
            Child::Backend(id) => {
                // A reload may have removed it since it died.
                let Some(spec) = topology.backends.iter().find(|spec| spec.id == *id) else {
                    return Ok(());
                };
                // What this node has no way to is not looked at: peers say how it is.
                if !spec.is_reached_from(&topology.region) {
                    return Ok(());
                }
                let door = shared.door(spec);
                let arguments = backend::Arguments {
                    spec: Arc::clone(spec),
                    door,
                    dispatcher: shared.dispatcher.clone(),
                    probe: Arc::clone(&shared.probe),
                    clock: shared.clock,
                    draw: Arc::clone(&shared.draw),
                    metrics: shared.metrics.clone(),
                    interval: topology.health_check_interval,
                    calibrate: topology.calibrate_throughput,
                    guards: topology.policy.guards,
                    facts: shared.facts.clone(),
                };
                let (actor, _) = Actor::spawn_linked(None, Backend, arguments, supervisor).await?;
                actor.get_cell()
            }
        };
        self.children.insert(cell.get_id(), (child, cell));
        Ok(())
    }

    fn respawn_later(&mut self, me: &ActorRef<Msg>, child: Child) {
        let index = self.restarts.iter().position(|(known, _)| *known == child).unwrap_or_else(|| {
            self.restarts.push((child.clone(), Restarts::default()));
            self.restarts.len() - 1
        });
        let delay = self.restarts[index].1.next_delay(self.shared.clock.now(), (self.shared.draw)());
        me.send_after(delay, move || Msg::Respawn(child));
    }

    /// Unchanged backends keep their actor; changed ones get a new actor at the same door, so that
    /// running requests and their slots are untouched.
    async fn reconfigure(&mut self, me: &ActorRef<Msg>, topology: Arc<Topology>) {
        let before = self.shared.topology.swap(Arc::clone(&topology));
        let pace_changed = before.health_check_interval != topology.health_check_interval
            || before.calibrate_throughput != topology.calibrate_throughput
            || before.policy.guards != topology.policy.guards;
        for old in &before.backends {
            let new = topology.backends.iter().find(|spec| spec.id == old.id);
            if let Some(price) = new.and_then(|new| price_change(old, new)) {
                self.shared.roster.send(roster::Msg::Say(old.id.clone(), Word::Price(Some(price))));
            }
            if new.is_some_and(|new| new == old) && !pace_changed {
                continue;
            }
            let running = self.children.values().find(|(child, _)| *child == Child::Backend(old.id.clone()));
            if let Some((_, cell)) = running.cloned() {
                self.children.remove(&cell.get_id());
                cell.stop(Some("reconfigured".into()));
            }
            match new {
                Some(new) if new.rate_limit != old.rate_limit => {
                    self.shared.door(new).gate.set_rate_limit(new.rate_limit);
                }
                Some(_) => {}
                None => {
                    self.shared.doors.lock().unwrap_or_else(PoisonError::into_inner).remove(&old.id);
                    self.shared.metrics.forget(old);
                }
            }
        }
        let doors = self.shared.doors(&topology);
        self.shared.dispatcher.send(dispatcher::Msg::Reconfigured(Arc::clone(&topology), doors));
        for spec in &topology.backends {
            let child = Child::Backend(spec.id.clone());
            if !self.children.values().any(|(known, _)| *known == child)
                && let Err(error) = self.spawn(me, child.clone()).await
            {
                tracing::error!(?child, %error, "cannot start actor, will try again");
                self.respawn_later(me, child);
            }
        }
    }
}

/// A price that a reload changed is the last word on it, here and at peers that have not reloaded yet.
fn price_change(old: &BackendSpec, new: &BackendSpec) -> Option<Money> {
    match (&old.placement, &new.placement) {
        (Placement::Cluster { cost_per_hour: before, .. }, Placement::Cluster { cost_per_hour: now, .. }) => {
            (before != now).then_some(*now)
        }
        _ => None,
    }
}
