//! Merges own and peer facts into one view and publishes it.
//!
//! Started by `Root`, receives from every `Backend` and from `Gossip`, tells `Gossip` what is worth
//! telling. Lost on restart: nothing, it goes on from the view it published last. The request path
//! reads its publication and never asks it.

use crate::address::Address;
use crate::backend;
use crate::clock::Clock;
use crate::gossip;
use crate::metrics::Metrics;
use crate::outage::News;
use crate::poison::poison;
use crate::roster::{Prices, Roll};
use crate::snapshot::{Door, Snapshot};
use crate::topology::Topology;
use arc_swap::ArcSwap;
use llm_router_logic::backend::ServedModel;
use llm_router_logic::gossip::pace::{self, Pace};
use llm_router_logic::guard::share::{STEP, Share};
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::report::Report;
use llm_router_logic::route::PreparedView;
use llm_router_logic::route::wanted::awake;
use llm_router_logic::view::{BackendView, ClusterView, Member, OwnFact, PeerFact};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Peer facts age even when nothing happens: shares and limits are computed anew this often.
const TICK: Duration = Duration::from_secs(1);
/// Changes are gathered for this long before one publication.
const GATHER: Duration = Duration::from_millis(2);
/// Facts that a peer may keep here about backends this node does not know.
const FOREIGN_MAX: usize = 1_024;

pub(crate) struct Dispatcher;

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) me: Address<Msg>,
    pub(crate) gossip: Address<gossip::Msg>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) published: Arc<ArcSwap<Snapshot>>,
    pub(crate) roll: Arc<ArcSwap<Roll>>,
}

#[derive(Debug)]
pub(crate) enum Msg {
    /// A backend actor observed something.
    Observed(BackendId, OwnFact),
    /// A peer said something of a backend.
    Heard(BackendId, PeerFact),
    /// A peer says nothing of a backend any more.
    Withdrawn(BackendId, NodeId),
    /// A peer's trial of these models at a backend was served.
    TriedElsewhere(BackendId, Vec<u32>),
    /// A peer's requests showed trouble at a backend.
    Troubled(BackendId, News),
    /// Who is there.
    Members(Vec<Member>),
    /// A reload: new backends, doors in the same order.
    Reconfigured(Arc<Topology>, Vec<Door>),
    /// A backend stands otherwise than before.
    Restated,
    /// Gossip began anew and knows nothing of ours.
    TellAll,
    /// Gathering is over.
    Publish,
    /// A change that came too soon after the one before may be told now.
    TellDue,
    /// A part of a backend's places may grow.
    GrowthDue,
    /// A second has passed: peer facts have aged.
    Tick,
    /// Panic, to prove that the supervisor answers it.
    Poison,
}

pub(crate) struct State {
    arguments: Arguments,
    topology: Arc<Topology>,
    doors: Vec<Door>,
    own: BTreeMap<BackendId, OwnFact>,
    peers: BTreeMap<BackendId, BTreeMap<NodeId, PeerFact>>,
    members: Vec<Member>,
    paces: BTreeMap<BackendId, Pace>,
    prices: Prices,
    /// This node's parts of the backends' places.
    shares: BTreeMap<BackendId, Share>,
    publish_due: bool,
    tell_due: bool,
    growth_due: bool,
    /// When the first change that was held back may be told.
    tell_in: Option<Duration>,
}

impl Actor for Dispatcher {
    type Msg = Msg;
    type State = State;
    type Arguments = (Arguments, Arc<Topology>, Vec<Door>);

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (arguments, topology, doors): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let last = arguments.published.load_full();
        let mut state = State {
            own: last
                .view
                .backends
                .iter()
                .filter_map(|backend| Some((backend.spec.id.clone(), backend.own.clone()?)))
                .collect(),
            peers: BTreeMap::new(),
            members: last.view.members.clone(),
            paces: BTreeMap::new(),
            prices: Prices::default(),
            shares: BTreeMap::new(),
            publish_due: false,
            tell_due: false,
            growth_due: false,
            tell_in: None,
            arguments,
            topology,
            doors,
        };
        let known = last
            .view
            .backends
            .iter()
            .flat_map(|backend| backend.peers.iter().map(|fact| (backend.spec.id.clone(), fact.clone())));
        for (id, fact) in known.chain(last.view.foreign.iter().cloned()) {
            state.peers.entry(id).or_default().insert(fact.node.clone(), fact);
        }
        me.cast(Msg::Tick)?;
        state.arguments.me.occupy(me);
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(message, Msg::Publish | Msg::Tick | Msg::TellDue | Msg::GrowthDue) {
            state.arguments.me.received();
        }
        match message {
            Msg::Observed(id, fact) => state.observed(id, fact),
            Msg::Heard(id, fact) => state.heard(id, fact),
            Msg::Withdrawn(id, node) => {
                if let Some(facts) = state.peers.get_mut(&id) {
                    facts.remove(&node);
                }
            }
            Msg::TriedElsewhere(id, models) => {
                state.pass_on(&id, backend::Msg::TriedElsewhere(models));
            }
            Msg::Troubled(id, news) if state.topology.heed_outages => {
                state.pass_on(&id, backend::Msg::Troubled(news));
            }
            Msg::Troubled(..) => {}
            Msg::Members(members) => state.meet(members),
            Msg::Reconfigured(topology, doors) => state.reconfigure(topology, doors),
            Msg::TellAll => state.tell_all(),
            Msg::Restated => {}
            Msg::Tick => {
                state.affirm();
                me.send_after(TICK, || Msg::Tick);
            }
            Msg::TellDue => {
                state.tell_due = false;
                state.affirm();
                state.tell_soon(&me);
                return Ok(());
            }
            Msg::GrowthDue => state.growth_due = false,
            Msg::Publish => {
                state.publish_due = false;
                state.publish();
                state.grow_soon(&me);
                return Ok(());
            }
            Msg::Poison => poison(),
        }
        state.tell_soon(&me);
        state.publish_soon(&me);
        Ok(())
    }
}

impl State {
    fn observed(&mut self, id: BackendId, fact: OwnFact) {
        if !is_looked_at(&self.topology, &id) {
            return; // A last word of a backend that a reload removed.
        }
        self.tell(&id, fact.report, &fact.models);
        self.own.insert(id, fact);
    }

    /// Lets a backend's actor know what a peer found out of it.
    fn pass_on(&self, id: &BackendId, message: backend::Msg) {
        let at = self.topology.backends.iter().position(|spec| spec.id == *id);
        if let Some(door) = at.and_then(|at| self.doors.get(at)) {
            // What a full mailbox loses is told again while it stands.
            door.actor.send(message);
        }
    }

    /// Tells peers what is worth telling.
    fn tell(&mut self, id: &BackendId, report: Report, models: &Arc<[ServedModel]>) {
        let pace = self.paces.entry(id.clone()).or_default();
        if pace.worth_telling(&report, self.arguments.clock.now()) {
            let (backend, beat, models) = (id.clone(), pace.beat(), Arc::clone(models));
            self.arguments.gossip.send(gossip::Msg::Tell { backend, report, beat, models });
        } else if let Some(wait) = pace.held_back(&report, self.arguments.clock.now()) {
            self.tell_in = Some(self.tell_in.map_or(wait, |sooner| sooner.min(wait)));
        }
    }

    /// Sees to it that what was held back is told as soon as it may be.
    fn tell_soon(&mut self, me: &ActorRef<Msg>) {
        let Some(wait) = self.tell_in.take() else { return };
        if !std::mem::replace(&mut self.tell_due, true) {
            me.send_after(wait, || Msg::TellDue);
        }
    }

    /// Sees to it that a part of places that is used up grows although nothing else happens.
    fn grow_soon(&mut self, me: &ActorRef<Msg>) {
        let alone = !self.members.iter().any(|member| member.live && !member.this_node);
        let mut doors = self.topology.backends.iter().zip(&self.doors);
        let grows = |id: &BackendId, door: &Door| {
            let waits = || door.gate.load(0, self.arguments.clock.now());
            self.shares.get(id).is_some_and(|share| share.grows(waits().in_flight))
        };
        if !alone
            && doors.any(|(spec, door)| grows(&spec.id, door))
            && !std::mem::replace(&mut self.growth_due, true)
        {
            me.send_after(STEP, || Msg::GrowthDue);
        }
    }

    /// Tells peers again what still stands: a backend without traffic is looked at less often than peers
    /// forget.
    fn affirm(&mut self) {
        let now = self.arguments.clock.now();
        let interval = self.topology.health_check_interval;
        let holding: Vec<_> = self
            .own
            .iter()
            .filter_map(|(id, fact)| {
                let report = pace::holding(&fact.report, fact.observed_at, interval, now)?;
                Some((id.clone(), report, Arc::clone(&fact.models)))
            })
            .collect();
        for (id, report, models) in holding {
            self.tell(&id, report, &models);
        }
    }

    fn tell_all(&mut self) {
        self.paces.clear();
        for (id, fact) in std::mem::take(&mut self.own) {
            self.observed(id, fact);
        }
    }

    fn heard(&mut self, id: BackendId, fact: PeerFact) {
        let configured = self.topology.backends.iter().any(|spec| spec.id == id);
        if !configured && !self.peers.contains_key(&id) && self.peers.len() >= FOREIGN_MAX {
            self.arguments.metrics.gossip_refused_total.with_label_values(&["too_many_backends"]).inc();
            return;
        }
        self.peers.entry(id).or_default().insert(fact.node.clone(), fact);
    }

    /// Facts of nodes that are dead or gone are dropped with them.
    fn meet(&mut self, members: Vec<Member>) {
        let live: BTreeSet<&NodeId> =
            members.iter().filter(|member| member.live).map(|member| &member.node).collect();
        for facts in self.peers.values_mut() {
            facts.retain(|node, _| live.contains(node));
        }
        self.peers.retain(|_, facts| !facts.is_empty());
        self.members = members;
    }

    fn reconfigure(&mut self, topology: Arc<Topology>, doors: Vec<Door>) {
        let removed: Vec<BackendId> =
            self.own.keys().filter(|id| !is_looked_at(&topology, id)).cloned().collect();
        for id in removed {
            self.own.remove(&id);
            self.paces.remove(&id);
            self.arguments.gossip.send(gossip::Msg::Withdraw(id));
        }
        self.shares.retain(|id, _| topology.backends.iter().any(|spec| spec.id == *id));
        self.topology = topology;
        self.doors = doors;
    }

    fn publish_soon(&mut self, me: &ActorRef<Msg>) {
        if !std::mem::replace(&mut self.publish_due, true) {
            me.send_after(GATHER, || Msg::Publish);
        }
    }

    fn publish(&mut self) {
        let now = self.arguments.clock.now();
        let facts_of = |id: &BackendId| {
            self.peers.get(id).map(|facts| facts.values().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        let roll = self.arguments.roll.load_full();
        let mut backends: Vec<BackendView> = Vec::with_capacity(self.topology.backends.len());
        for spec in &self.topology.backends {
            let stated = roll.backends.get(&spec.id);
            backends.push(BackendView {
                spec: self.prices.in_force(spec, stated.and_then(|stated| stated.spoken.price.value)),
                own: self.own.get(&spec.id).cloned(),
                peers: facts_of(&spec.id),
                standing: stated.map(|stated| stated.standing).unwrap_or_default(),
            });
        }
        let mut waiting = 0;
        for (backend, door) in backends.iter().zip(&self.doors) {
            let load = door.gate.load(0, now);
            waiting += i64::from(load.waiting);
            let share = self.shares.entry(backend.spec.id.clone()).or_default();
            door.gate.set_places(places(share, backend, &self.topology.node, load.in_flight, now));
        }
        self.arguments.metrics.queue_waiting.set(waiting);
        let foreign = self
            .peers
            .iter()
            .filter(|(id, _)| !backends.iter().any(|backend| backend.spec.id == **id))
            .flat_map(|(id, facts)| facts.values().map(|fact| (id.clone(), fact.clone())))
            .collect();
        let peers = self.members.iter().filter(|member| member.live && !member.this_node).count();
        self.arguments.metrics.gossip_peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
        let view = ClusterView {
            node: self.topology.node.clone(),
            region: self.topology.region.clone(),
            backends,
            foreign,
            members: self.members.clone(),
        };
        let last = self.arguments.published.load();
        self.arguments.published.store(Arc::new(Snapshot {
            awake: awake(&view, &self.topology.policy, now),
            view: PreparedView::new(view, &self.topology.policy, now, Some(&last.view)),
            policy: Arc::new(self.topology.policy.clone()),
            doors: self.doors.clone(),
        }));
    }
}

/// Whether this node looks at `id` itself.
fn is_looked_at(topology: &Topology, id: &BackendId) -> bool {
    topology.backends.iter().any(|spec| spec.id == *id && spec.is_reached_from(&topology.region))
}

/// How many requests this node may run at a backend at once: its part of the places the backend tells of
/// or is configured with; `None` where nobody knows.
fn places(
    share: &mut Share,
    backend: &BackendView,
    me: &NodeId,
    own: u32,
    now: llm_router_logic::time::Moment,
) -> Option<u32> {
    let fresh = || backend.peers.iter().filter(|fact| fact.counts(now));
    let told = backend.own.as_ref().and_then(|own| own.report.slots);
    let told = told.or_else(|| fresh().filter_map(|fact| fact.report.slots).next_back());
    // What a peer has not told again for a while fades, and our part grows back step by step.
    let faded = |fact: &PeerFact| {
        let thousandths = u64::from(fact.report.in_flight) * u64::from(fact.weight(now));
        u32::try_from(thousandths.div_ceil(1_000)).unwrap_or(u32::MAX)
    };
    let peers: Vec<(&NodeId, u32)> = fresh().map(|fact| (&fact.node, faded(fact))).collect();
    let slots = backend.spec.slots.or(told)?;
    Some(share.places((&backend.spec.id, slots), (me, own), &peers, now))
}
