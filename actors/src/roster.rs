//! Where each backend stands besides its health: what was said of its price and its end, and whether it
//! sleeps, wakes or is warm.
//!
//! Started by `Root`, receives words from the outer ring and the wants of requests; reads and writes the
//! board of facts that `Gossip` carries, publishes a [`Roll`] and asks the `Dispatcher` to publish anew. The
//! request path reads that publication. Lost on restart: the demand of the last window and claims, which
//! come again with the next requests; what was said is taken from the roll published last.

use crate::address::Address;
use crate::backend;
use crate::clock::Clock;
use crate::dispatcher;
use crate::facts::{Facts, Heard};
use crate::metrics::Metrics;
use crate::poison::poison;
use crate::ports::{Wake, WakeOrder};
use crate::snapshot::Snapshot;
use crate::topology::Topology;
use arc_swap::ArcSwap;
use llm_router_logic::backend::{BackendSpec, Placement};
use llm_router_logic::gossip::fact::Topic;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::money::Money;
use llm_router_logic::report::Health;
use llm_router_logic::spot::{Notice, OVERDUE, Spoken};
use llm_router_logic::standing::{SpokenFact, Standing, WakingFact};
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::view::{BackendView, PEER_FACT_LIMIT};
use llm_router_logic::warmth::{
    Claim, Demand, Order, Presence, ScaleToZero, Sight, Waker, Want, Wanted, Warmth,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Demand, claims and notices are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// What did not change is told again after this long, so that peers take it for fresh, and what merely
/// drifts is told no more often.
const REAFFIRM: Duration = Duration::from_secs(1);
/// A cluster that is awaited is looked at this often.
const LOOK_GAP: Duration = Duration::from_secs(2);
/// Tries of one call.
const CALLS_MAX: u32 = 3;
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Backends that are not configured here and of which something was said.
const FOREIGN_MAX: usize = 256;

/// Something said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Price of the whole cluster for one hour; `None` = the configured one holds again.
    Price(Option<Money>),
    /// It will be taken away at this Unix time in milliseconds; `None` = it stays.
    Preemption(Option<u64>),
}

/// Where one backend stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stated {
    /// What was said of it.
    pub spoken: Spoken,
    /// What a decision reads.
    pub standing: Standing,
    /// What wanted it here in the last window, those waiting now included.
    pub wanted: Wanted,
    /// The same on all nodes.
    pub fleet_wanted: Wanted,
    /// The node that called it or wants to.
    pub waker: Option<NodeId>,
}

/// Where all backends stand, those configured here and those of which something was said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roll {
    /// By backend.
    pub backends: BTreeMap<BackendId, Stated>,
}

pub(crate) struct Roster;

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) me: Address<Msg>,
    pub(crate) facts: Facts,
    pub(crate) dispatcher: Address<dispatcher::Msg>,
    pub(crate) wake: Arc<dyn Wake>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    pub(crate) published: Arc<ArcSwap<Snapshot>>,
    pub(crate) roll: Arc<ArcSwap<Roll>>,
}

#[derive(Debug)]
pub(crate) enum Msg {
    /// Something was said of a backend.
    Say(BackendId, Word),
    /// Peers told something.
    Heard,
    /// A request wanted a cluster.
    Wanted(BackendId, Want),
    /// A call ended.
    Called(BackendId, Result<bool, String>),
    /// Time has passed.
    Tick,
    /// Panic, to prove that the supervisor answers it.
    Poison,
}

pub(crate) struct State {
    arguments: Arguments,
    entries: BTreeMap<BackendId, Entry>,
}

#[derive(Default)]
struct Entry {
    spoken: Spoken,
    /// The notice in force, by the Unix time it names.
    notice: Option<(u64, Notice)>,
    /// The end that is behind us, so that the same word is no notice again.
    past: Option<u64>,
    demand: Demand,
    waker: Waker,
    /// Whether a claim, a call or neither was told last, and when.
    told: Option<(Option<bool>, Moment)>,
    beat: u8,
    looked_at: Option<Moment>,
    stated: Stated,
}

impl Actor for Roster {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let roll = arguments.roll.load_full();
        let restored = roll.backends.iter().map(|(id, stated)| {
            (id.clone(), Entry { spoken: stated.spoken, stated: stated.clone(), ..Entry::default() })
        });
        let state = State { entries: restored.collect(), arguments };
        me.cast(Msg::Tick)?;
        for topic in [Topic::Price, Topic::Waking] {
            let (mut changes, ears) = (state.arguments.facts.changes(topic), me.clone());
            // Ends with this actor, which then takes no message, or with the board.
            tokio::spawn(
                async move { while changes.changed().await.is_ok() && ears.cast(Msg::Heard).is_ok() {} },
            );
        }
        state.arguments.me.occupy(me);
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(message, Msg::Say(..) | Msg::Wanted(..) | Msg::Poison) {
            state.arguments.me.received();
        }
        match message {
            Msg::Say(backend, word) => {
                state.say(&backend, word);
                state.look_at_all(&me);
            }
            Msg::Heard => state.look_at_all(&me),
            Msg::Wanted(backend, want) => state.want(&backend, want),
            Msg::Called(backend, result) => state.called(&backend, result),
            Msg::Tick => {
                state.look_at_all(&me);
                me.send_after(TICK, || Msg::Tick);
            }
            Msg::Poison => poison(),
        }
        Ok(())
    }
}

impl State {
    fn say(&mut self, backend: &BackendId, word: Word) {
        let entry = self.entries.entry(backend.clone()).or_default();
        let news = match word {
            Word::Price(price) => entry.spoken.price.say(price),
            Word::Preemption(at) => entry.spoken.preemption.say(at),
        };
        if news {
            tracing::info!(%backend, ?word, "said of a backend");
        }
    }

    /// Takes over later words of peers, dead ones included: the last word holds.
    fn hear(&mut self, topology: &Topology) {
        if !topology.heed_words {
            return;
        }
        for said in self.arguments.facts.heard::<SpokenFact>() {
            let known = |id: &BackendId| topology.backends.iter().any(|spec| spec.id == *id);
            let backend = BackendId::new(&said.name);
            if !self.entries.contains_key(&backend)
                && !known(&backend)
                && self.entries.len() >= FOREIGN_MAX + topology.backends.len()
            {
                continue;
            }
            let entry = self.entries.entry(backend.clone()).or_default();
            if entry.spoken.merge(&said.fact.into()) {
                let from = &said.node;
                tracing::info!(%backend, %from, spoken = ?entry.spoken, "a peer told what was said of a backend");
            }
        }
    }

    fn want(&mut self, backend: &BackendId, want: Want) {
        let topology = self.arguments.topology.load();
        let settings = topology.backends.iter().find(|spec| spec.id == *backend);
        if let Some(settings) = settings.and_then(|spec| spec.scale_to_zero.as_ref()) {
            let entry = self.entries.entry(backend.clone()).or_default();
            entry.demand.note(want, settings.demand_window, self.arguments.clock.now());
        }
    }

    fn called(&mut self, backend: &BackendId, result: Result<bool, String>) {
        let Arguments { clock, metrics, topology, .. } = &self.arguments;
        let count = |result: &str| {
            metrics.states.wake_calls_total.with_label_values(&[backend.as_str(), result]).inc();
        };
        match result {
            Ok(true) => {
                tracing::info!(%backend, "woke a cluster");
                count("called");
            }
            // Demand alone wakes it: nothing was called.
            Ok(false) => count("by_demand"),
            Err(why) => {
                tracing::error!(%backend, %why, "cannot wake a cluster, will try again later: check its `wakeUrl`");
                count("failed");
                let topology = topology.load();
                let spec = topology.backends.iter().find(|spec| spec.id == *backend);
                let cold_start =
                    spec.and_then(|spec| spec.scale_to_zero.as_ref()).map(|settings| settings.cold_start);
                if let (Some(entry), Some(cold_start)) = (self.entries.get_mut(backend), cold_start) {
                    entry.waker.call_failed(cold_start, clock.now());
                }
            }
        }
    }

    /// Goes on with every backend and publishes what changed.
    fn look_at_all(&mut self, me: &ActorRef<Msg>) {
        let arguments = self.arguments.clone();
        let topology = arguments.topology.load_full();
        let snapshot = arguments.published.load_full();
        let now = arguments.clock.now();
        let unix_ms = arguments.clock.unix_ms();
        self.hear(&topology);
        let waking: Vec<Heard<WakingFact>> = arguments.facts.heard();
        let alone = !snapshot.view.members.iter().any(|member| member.live && !member.this_node);
        for spec in &topology.backends {
            let entry = self.entries.entry(spec.id.clone()).or_default();
            let index = snapshot.view.backends.iter().position(|backend| backend.spec.id == spec.id);
            let backend = index.map(|index| &snapshot.view.backends[index]);
            entry.take_notice(backend, now, unix_ms);
            if let Some(settings) = &spec.scale_to_zero {
                let door = index.and_then(|index| snapshot.doors.get(index));
                let waiting = door.map_or(0, |door| door.waiting.load(std::sync::atomic::Ordering::Relaxed));
                let fresh = waking.iter().filter(|heard| {
                    *heard.name == *spec.id.as_str()
                        && heard.live
                        && now.since(heard.arrived_at) <= PEER_FACT_LIMIT
                });
                let peers = fresh.collect();
                let seen =
                    Seen { presence: presence(backend, now), alone, me: &topology.node, waiting, peers };
                match entry.go_on(spec, settings, &seen, now) {
                    Order::Nothing => {}
                    Order::Call => call(me, &arguments, spec, settings, &entry.stated),
                    Order::GaveUp => {
                        tracing::warn!(backend = %spec.id, "a cluster that was woken did not come within twice its `coldStart`");
                        let labels = [spec.id.as_str(), "gave_up"];
                        arguments.metrics.states.wake_calls_total.with_label_values(&labels).inc();
                    }
                }
                let awaited = seen.presence != Presence::Up
                    && (entry.stated.wanted.requests > 0
                        || matches!(entry.stated.standing.warmth, Warmth::Waking { .. }));
                let due = entry.looked_at.is_none_or(|at| now.since(at) >= LOOK_GAP);
                if let Some(door) = door.filter(|_| awaited && due) {
                    entry.looked_at = Some(now);
                    door.actor.send(backend::Msg::LookSoon);
                }
            } else {
                entry.stated.standing.warmth = Warmth::Warm;
            }
            entry.show(spec, &arguments.metrics, now);
        }
        for (id, entry) in &mut self.entries {
            entry.stated.spoken = entry.spoken;
            entry.tell(id, &arguments.facts, now);
        }
        let backends = self.entries.iter().map(|(id, entry)| (id.clone(), entry.stated.clone())).collect();
        let roll = Roll { backends };
        if *arguments.roll.load_full() != roll {
            arguments.roll.store(Arc::new(roll));
            arguments.dispatcher.send(dispatcher::Msg::Restated);
        }
    }
}

/// What is seen of a cluster that scales to zero.
struct Seen<'s> {
    presence: Presence,
    alone: bool,
    me: &'s NodeId,
    /// Requests that wait for it here.
    waiting: u32,
    /// What other live nodes told of it lately.
    peers: Vec<&'s Heard<WakingFact>>,
}

/// A cluster nobody has looked at yet is taken to be there, so that a start wakes nothing.
fn presence(backend: Option<&BackendView>, now: Moment) -> Presence {
    match backend.and_then(|backend| backend.facts(now)).map(|facts| facts.report.health) {
        None | Some(Health::Healthy) => Presence::Up,
        Some(Health::Loading) => Presence::Coming,
        Some(Health::Unknown | Health::Unhealthy) => Presence::Gone,
    }
}

impl Entry {
    fn take_notice(&mut self, backend: Option<&BackendView>, now: Moment, unix_ms: u64) {
        let said = self.spoken.preemption.value.filter(|end| self.past != Some(*end));
        self.notice = match (said, self.notice) {
            (None, _) => None,
            (Some(end), Some((known, notice))) if end == known => Some((known, notice)),
            // News of long ago: what goes by now is the backend's health alone.
            (Some(end), _) if unix_ms.saturating_sub(end) >= millis(OVERDUE) => None,
            (Some(end), _) => {
                let at = match end.checked_sub(unix_ms) {
                    Some(left) => now + Duration::from_millis(left),
                    None => Moment::from_micros(
                        now.micros().saturating_sub((unix_ms - end).saturating_mul(1_000)),
                    ),
                };
                Some((end, Notice::new(at)))
            }
        };
        let health =
            backend.and_then(|backend| backend.own.as_ref()).map_or(Health::Unknown, |own| own.report.health);
        if let Some((end, notice)) = &mut self.notice
            && notice.is_over(health, now)
        {
            self.past = Some(*end);
            self.notice = None;
        }
        self.stated.standing.preempted_at = self.notice.map(|(_, notice)| notice.at);
    }

    fn go_on(&mut self, spec: &BackendSpec, settings: &ScaleToZero, seen: &Seen<'_>, now: Moment) -> Order {
        let waiting = Wanted { requests: seen.waiting, unserved: seen.waiting, ..Wanted::default() };
        let wanted = self.demand.wanted(settings.demand_window, now).and(waiting);
        let fleet = seen.peers.iter().fold(wanted, |sum, heard| sum.and(heard.fact.wanted()));
        let claims = seen.peers.iter();
        let claims =
            claims.filter_map(|heard| Some((heard.node.clone(), heard.fact.claim(heard.arrived_at)?)));
        let claims: Vec<(NodeId, Claim)> = claims.collect();
        let Placement::Cluster { cost_per_hour, .. } = spec.placement else { return Order::Nothing };
        let price = self.spoken.price.value.unwrap_or(cost_per_hour);
        let sight = Sight {
            presence: seen.presence,
            worth_waking: settings.is_worth_waking(&fleet, price),
            claims: &claims,
            alone: seen.alone,
            me: seen.me,
        };
        let order = self.waker.step(&sight, settings.cold_start, now);
        let ours = self.waker.claim().map(|_| seen.me);
        let called =
            |(node, claim): &'_ (NodeId, Claim)| matches!(claim, Claim::Called { .. }).then(|| node.clone());
        let warmth = self.waker.warmth(&sight, settings.cold_start, now);
        let waking = matches!(warmth, Warmth::Waking { .. });
        self.stated.standing.warmth = warmth;
        self.stated.wanted = wanted;
        self.stated.fleet_wanted = fleet;
        self.stated.waker = claims
            .iter()
            .find_map(called)
            .or_else(|| ours.cloned())
            .or_else(|| claims.first().map(|(node, _)| node.clone()))
            .filter(|_| waking);
        order
    }

    /// Tells peers what changed, and again what they would take for old.
    fn tell(&mut self, backend: &BackendId, facts: &Facts, now: Moment) {
        // What is refused is counted there; this node goes by its own word all the same.
        if self.spoken != Spoken::default() {
            let _ = facts.publish(backend.as_str(), &SpokenFact::from(&self.spoken));
        }
        let (claim, wanted) = (self.waker.claim(), self.stated.wanted);
        let kind = claim.map(|claim| matches!(claim, Claim::Called { .. }));
        let asleep = claim.is_some() || wanted != Wanted::default();
        let worth = match self.told {
            None => asleep,
            Some(_) if !asleep => {
                facts.withdraw(Topic::Waking, backend.as_str());
                self.told = None;
                false
            }
            Some((told, at)) => told != kind || now.since(at) >= REAFFIRM,
        };
        if worth {
            self.told = Some((kind, now));
            self.beat = self.beat.wrapping_add(1);
            let _ = facts.publish(backend.as_str(), &WakingFact::new(claim, &wanted, self.beat, now));
        }
    }

    fn show(&self, spec: &BackendSpec, metrics: &Metrics, now: Moment) {
        let id = [spec.id.as_str()];
        let states = &metrics.states;
        if let Placement::Cluster { cost_per_hour, .. } = spec.placement {
            let price = self.spoken.price.value.unwrap_or(cost_per_hour);
            states.price_per_hour_usd.with_label_values(&id).set(price.as_usd());
        }
        match self.stated.standing.preempted_at {
            Some(at) => states.preempted_in_seconds.with_label_values(&id).set(at.since(now).as_secs_f64()),
            None => drop(states.preempted_in_seconds.remove_label_values(&id)),
        }
        if spec.scale_to_zero.is_none() {
            return;
        }
        states.cluster_demand.with_label_values(&id).set(self.stated.wanted.requests.into());
        let warmth = self.stated.standing.warmth;
        for state in ["cold", "waking", "warm"] {
            let labels = [spec.id.as_str(), state];
            states.cluster_warmth.with_label_values(&labels).set(i64::from(warmth.as_str() == state));
        }
        let ready_in = warmth.ready_in(now).unwrap_or_default();
        states.cluster_ready_in_seconds.with_label_values(&id).set(ready_in.as_secs_f64());
    }
}

/// Calls a cluster in a task of its own: a few tries, each bounded, and the result comes back as a message.
fn call(
    me: &ActorRef<Msg>,
    arguments: &Arguments,
    spec: &BackendSpec,
    settings: &ScaleToZero,
    stated: &Stated,
) {
    let (me, wake, backend) = (me.clone(), Arc::clone(&arguments.wake), spec.id.clone());
    let order = WakeOrder {
        backend: backend.clone(),
        requests: stated.fleet_wanted.requests,
        cold_start: settings.cold_start,
    };
    tokio::spawn(async move {
        let mut result = Err(String::new());
        for attempt in 0..CALLS_MAX {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_secs(1 << (attempt - 1))).await;
            }
            let called = tokio::time::timeout(CALL_TIMEOUT, wake.wake(order.clone())).await;
            result = called.unwrap_or_else(|_| Err(format!("no answer within {CALL_TIMEOUT:?}")));
            if result.is_ok() {
                break;
            }
        }
        // A dead actor hears nothing; its successor judges anew.
        let _ = me.cast(Msg::Called(backend, result));
    });
}

/// Specs at the price in force, so that every reader of a view sees that price and no other. Made anew only
/// when one of the two changes.
#[derive(Debug, Default)]
pub(crate) struct Prices {
    made: BTreeMap<BackendId, (Arc<BackendSpec>, Money, Arc<BackendSpec>)>,
}

impl Prices {
    /// `spec` at `said`, else as configured.
    pub(crate) fn in_force(&mut self, spec: &Arc<BackendSpec>, said: Option<Money>) -> Arc<BackendSpec> {
        let Some(price) = said else {
            self.made.remove(&spec.id);
            return Arc::clone(spec);
        };
        if let Some((from, at, made)) = self.made.get(&spec.id)
            && Arc::ptr_eq(from, spec)
            && *at == price
        {
            return Arc::clone(made);
        }
        let mut priced = BackendSpec::clone(spec);
        if let Placement::Cluster { cost_per_hour, .. } = &mut priced.placement {
            *cost_per_hour = price;
        }
        let priced = Arc::new(priced);
        self.made.insert(spec.id.clone(), (Arc::clone(spec), price, Arc::clone(&priced)));
        priced
    }
}
