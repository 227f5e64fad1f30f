//! Tells peers what this node sees and hears what they see, over chitchat.
//!
//! Started by `Root`, receives what is worth telling from the `Dispatcher`, tells it what peers say.
//! Lost on restart: the chitchat state; it begins a new generation, asks the dispatcher to tell
//! everything again, and peers send theirs.

mod counted;
mod own;
mod seeds;

use crate::address::Address;
use crate::clock::Clock;
use crate::dispatcher;
use crate::facts::{self, Facts};
use crate::metrics::Metrics;
use crate::outage::News;
use crate::poison::poison;
use crate::ports::GossipTransport;
use crate::shunned::Shunned;
use crate::topology::GossipSettings;
use crate::trial::Fleet;
use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use counted::Counted;
use llm_router_logic::backend::ServedModel;
use llm_router_logic::gossip::codec::{self, NodeFact, Reads};
use llm_router_logic::gossip::fact::{Fact as _, Payload, Topic};
use llm_router_logic::gossip::key::Key;
use llm_router_logic::gossip::outage::Outage;
use llm_router_logic::gossip::presence::Presence;
use llm_router_logic::gossip::trial::{Claims, Phase};
use llm_router_logic::ids::{BackendId, NodeId, Region};
use llm_router_logic::report::Report;
use llm_router_logic::time::Moment;
use llm_router_logic::view::{Member, PeerFact};
use own::OwnState;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use seeds::Names;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Suspicion at which a node counts as dead. Measured: 3 gave 188 false deaths in 30 minutes without
/// loss, 8 none at 40 % loss.
const PHI_THRESHOLD: f64 = 8.0;
/// Heartbeat interval assumed of a young node; the library's 5 s would hide its death for half a minute.
const INITIAL_INTERVAL: Duration = Duration::from_secs(1);
/// How long dead nodes and deleted keys are remembered.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// How often members are compared with the last time.
const TICK: Duration = Duration::from_millis(200);
/// Backends of which one peer is heard.
const BACKENDS_MAX: usize = 1_024;

pub(crate) struct Gossip;

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) me: Address<Msg>,
    pub(crate) dispatcher: Address<dispatcher::Msg>,
    pub(crate) transport: Arc<dyn GossipTransport>,
    pub(crate) settings: GossipSettings,
    pub(crate) generation: u64,
    pub(crate) node: NodeId,
    pub(crate) region: Region,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) facts: Facts,
    pub(crate) shunned: Arc<Shunned>,
    pub(crate) fleet: Arc<Fleet>,
}

#[derive(Debug)]
pub(crate) enum Msg {
    /// The board of facts has something new of ours.
    FactsChanged,
    /// Tell peers a fact.
    Tell { backend: BackendId, report: Report, beat: u8, models: Arc<[ServedModel]> },
    /// Tell peers that we no longer know this backend.
    Withdraw(BackendId),
    /// A peer's value changed.
    Heard { peer: ChitchatId, key: String, value: String },
    /// What the seeds' names stand for, and why some could not be looked up.
    Resolved(Vec<SocketAddr>, Option<String>),
    /// Look at the members.
    Tick,
    /// chitchat's task ended.
    Terminated,
    /// Panic, to prove that the supervisor answers it.
    Poison,
}

pub(crate) struct State {
    arguments: Arguments,
    chitchat: ChitchatHandle,
    own: OwnState,
    names: Names,
    /// The version reports are written in.
    version: u8,
    members: Vec<Member>,
    /// What is known of each peer, by its newest incarnation.
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Default)]
struct Peer {
    generation: u64,
    region: Region,
    /// Its last heartbeat.
    heartbeat: u64,
    /// Its facts; those whose models came first have no report yet.
    facts: BTreeMap<BackendId, Fact>,
}

impl Peer {
    /// What it says of `backend`, as the view has it.
    fn fact(&self, node: &NodeId, backend: &BackendId) -> Option<PeerFact> {
        let Fact { report, models } = self.facts.get(backend)?;
        let (report, arrived_at) = (*report)?;
        let (node, region, models) = (node.clone(), self.region.clone(), Arc::clone(models));
        Some(PeerFact { node, region, report, arrived_at, models })
    }
}

/// What a peer says of one backend: its report and its models come as two values, in any order.
#[derive(Default)]
struct Fact {
    report: Option<(Report, Moment)>,
    models: Arc<[ServedModel]>,
}

impl Actor for Gossip {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { settings, generation, node, region, clock, .. } = &arguments;
        // Time since the clock's start keeps generations growing over restarts of this actor.
        let generation = generation + clock.now().micros() / 1_000;
        let (addresses, names) = seeds::split(&settings.seeds, Arc::clone(&settings.resolver));
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(node.as_str(), generation, settings.advertise),
            cluster_id: settings.cluster_id.clone(),
            gossip_interval: settings.interval,
            listen_addr: settings.listen,
            seed_nodes: addresses,
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI_THRESHOLD,
                initial_interval: INITIAL_INTERVAL,
                dead_node_grace_period: GRACE,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let transport = Arc::clone(&arguments.transport);
        let (metrics, interval) = (arguments.metrics.clone(), settings.interval);
        let transport = Counted { transport, metrics, interval };
        let chitchat = spawn_chitchat(config, Vec::new(), &transport).await?;
        let ears = me.clone();
        let this = node.clone();
        chitchat
            .with_chitchat(|state| {
                let (ears, this) = (ears.clone(), this.clone());
                // What came in before anybody listened.
                for (peer, node_state) in
                    state.node_states().iter().filter(|(id, _)| *id.node_id != *this.as_str())
                {
                    for (key, value) in node_state.key_values() {
                        let (key, value) = (key.to_owned(), value.to_owned());
                        let _ = ears.cast(Msg::Heard { peer: peer.clone(), key, value });
                    }
                }
                state
                    .subscribe_event("", move |event| {
                        if *event.node.node_id != *this.as_str() {
                            let (key, value) = (event.key.to_owned(), event.value.to_owned());
                            // A dead actor hears nothing; its successor is sent everything anew.
                            let _ = ears.cast(Msg::Heard { peer: event.node.clone(), key, value });
                        }
                    })
                    .forever();
            })
            .await;
        let watcher = chitchat.termination_watcher();
        let watched = me.clone();
        tokio::spawn(async move {
            let _ = watcher.await;
            let _ = watched.cast(Msg::Terminated);
        });
        me.cast(Msg::Tick)?;
        arguments.me.occupy(me);
        let introduction = introduction(region);
        let own = OwnState::default();
        let (version, members, peers) = (codec::VERSION, Vec::new(), BTreeMap::new());
        let mut state = State { arguments, chitchat, own, names, version, members, peers };
        state.set(&Key::Node, &introduction).await;
        // Small, and a name that may stand in a key: refused only where the board is full.
        let _ = state.arguments.facts.publish(Reads::NAME, &Reads::OURS);
        state.tell_facts(true).await;
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(message, Msg::Tell { .. } | Msg::Withdraw(_) | Msg::FactsChanged) {
            state.arguments.me.received();
        }
        match message {
            Msg::Tell { backend, report, beat, models } => state.tell(&backend, &report, beat, &models).await,
            Msg::Withdraw(backend) => {
                state.delete(&Key::Report(backend.clone())).await;
                state.delete(&Key::Models(backend)).await;
            }
            Msg::FactsChanged => state.tell_facts(false).await,
            Msg::Heard { peer, key, value } => state.heard(&peer, &key, &value),
            Msg::Tick => {
                state.look_at_members().await;
                state.arguments.fleet.tend();
                state.names.look_up(&me, state.arguments.clock.now());
                state.show();
                me.send_after(TICK, || Msg::Tick);
            }
            Msg::Resolved(addresses, failed) => state.resolved(&addresses, failed.as_deref())?,
            Msg::Terminated => return Err("the gossip task ended".into()),
            Msg::Poison => poison(),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.chitchat.initiate_shutdown()?;
        Ok(())
    }
}

impl State {
    async fn tell(&mut self, backend: &BackendId, report: &Report, beat: u8, models: &[ServedModel]) {
        self.set(&Key::Report(backend.clone()), &codec::encode_report(report, beat, self.version)).await;
        self.set(&Key::Models(backend.clone()), &codec::encode_models(models)).await;
    }

    async fn tell_facts(&mut self, everything: bool) {
        for (key, payload) in self.arguments.facts.take_changed(everything) {
            match payload {
                Some(payload) => self.set(&key, &payload.text()).await,
                None => self.delete(&key).await,
            }
        }
    }

    /// Tells peers `value`, within this node's bounds.
    async fn set(&mut self, key: &Key, value: &str) {
        let text = key.to_string();
        if !self.own.admit(key, &text, value, self.arguments.clock.now()) {
            let refused = self.arguments.metrics.gossip_refused_total.with_label_values(&["own_state_full"]);
            if refused.get() == 0 {
                tracing::warn!(
                    key = text,
                    told = self.own.total(),
                    "this node tells peers as much as it may"
                );
            }
            return refused.inc();
        }
        self.chitchat.with_chitchat(|state| state.self_node_state().set(&text, value)).await;
    }

    async fn delete(&mut self, key: &Key) {
        let text = key.to_string();
        self.own.withdraw(&text, self.arguments.clock.now(), GRACE);
        self.chitchat.with_chitchat(|state| state.self_node_state().delete(&text)).await;
    }

    /// Takes one value of a peer; what cannot be read is counted and dropped.
    fn heard(&mut self, id: &ChitchatId, key: &str, value: &str) {
        let node = NodeId::new(&*id.node_id);
        let peer = self.peers.entry(node.clone()).or_default();
        if id.generation_id < peer.generation {
            let refused = &self.arguments.metrics.gossip_refused_total;
            return refused.with_label_values(&["old_incarnation"]).inc();
        }
        if id.generation_id > peer.generation {
            *peer = Peer { generation: id.generation_id, ..Peer::default() };
        }
        let mut changed = None;
        let key_read = Key::parse(key);
        let kind = key_read.as_ref().map_or("unknown", Key::kind);
        let refused = match key_read {
            Err(_) => Some("unknown_key"),
            Ok(Key::Models(backend) | Key::Report(backend))
                if peer.facts.len() >= BACKENDS_MAX && !peer.facts.contains_key(&backend) =>
            {
                Some("too_many_backends")
            }
            Ok(Key::Node) => match codec::decode_node(value) {
                Ok(fact) => {
                    peer.region = fact.region;
                    None
                }
                Err(error) => Some(refusal(&error)),
            },
            Ok(Key::Models(backend)) => match codec::decode_models(value) {
                Ok(models) => {
                    peer.facts.entry(backend.clone()).or_default().models = models.into();
                    changed = Some(backend);
                    None
                }
                Err(error) => Some(refusal(&error)),
            },
            Ok(Key::Report(backend)) => match codec::decode_report(value) {
                Ok(report) => {
                    let arrived_at = self.arguments.clock.now();
                    peer.facts.entry(backend.clone()).or_default().report = Some((report, arrived_at));
                    changed = Some(backend);
                    None
                }
                Err(error) => Some(refusal(&error)),
            },
            Ok(Key::Fact(topic, name)) => match Payload::parse(value) {
                Ok(payload) => {
                    if topic == Topic::Trial {
                        let served = served_models(&payload);
                        if !served.is_empty() {
                            let told = dispatcher::Msg::TriedElsewhere(BackendId::new(&name), served);
                            self.arguments.dispatcher.send(told);
                        }
                    }
                    if topic == Topic::Outage
                        && is_live(&self.members, &node, id.generation_id)
                        && let Ok(outage) = Outage::read(&payload)
                    {
                        let news = News { node: node.clone(), generation: id.generation_id, outage };
                        let told = dispatcher::Msg::Troubled(BackendId::new(&name), news);
                        self.arguments.dispatcher.send(told);
                    }
                    let (facts, now) = (&self.arguments.facts, self.arguments.clock.now());
                    let kept = facts.hear((&node, id.generation_id), (topic, name), payload, now);
                    (!kept).then_some("too_many_facts")
                }
                Err(error) => Some(refusal(&error)),
            },
        };
        // Of a node that is not alive nothing counts: a newcomer is told what the dead said, too.
        if let Some(backend) = changed
            && is_live(&self.members, &node, id.generation_id)
            && let Some(fact) = peer.fact(&node, &backend)
        {
            self.arguments.dispatcher.send(dispatcher::Msg::Heard(backend, fact));
        }
        if let Some(why) = refused {
            tracing::debug!(%node, key, why, "refused a gossiped value");
            self.arguments.metrics.gossip_refused_total.with_label_values(&[why]).inc();
        } else {
            self.arguments.metrics.gossip.values_total.with_label_values(&[kind]).inc();
        }
    }

    /// The newest version that every live peer reads. A peer that has not told its own yet reads the first,
    /// as far as anybody knows.
    fn newest_read_by_all(&self, members: &[Member]) -> u8 {
        let told: BTreeMap<NodeId, u8> = self
            .arguments
            .facts
            .heard::<Reads>()
            .into_iter()
            .map(|heard| (heard.node, heard.fact.version))
            .collect();
        let peers = members.iter().filter(|member| member.live && !member.this_node);
        codec::version_for(peers.map(|peer| told.get(&peer.node).copied().unwrap_or(codec::VERSION_MIN)))
    }

    /// Greets whom the seeds' names stand for.
    fn resolved(&mut self, addresses: &[SocketAddr], failed: Option<&str>) -> Result<(), ActorProcessingErr> {
        let alone = !self.members.iter().any(|member| member.live && !member.this_node);
        self.names.resolved(failed, alone, self.arguments.clock.now());
        let Arguments { settings, metrics, .. } = &self.arguments;
        metrics.gossip.seeds.set(i64::try_from(addresses.len()).unwrap_or(i64::MAX));
        for address in addresses.iter().filter(|address| **address != settings.advertise) {
            self.chitchat.gossip(*address)?;
        }
        Ok(())
    }

    /// Shows who is there, and how old what they say is.
    fn show(&self) {
        let Arguments { clock, metrics, facts, .. } = &self.arguments;
        let (metrics, now) = (&metrics.gossip, clock.now());
        let mut of_state = BTreeMap::from([("live", 0), ("leaving", 0), ("silent", 0)]);
        for member in &self.members {
            let state = match (member.leaving, member.live) {
                (true, _) => "leaving",
                (false, true) => "live",
                (false, false) => "silent",
            };
            *of_state.entry(state).or_default() += 1;
        }
        for (state, count) in of_state {
            metrics.members.with_label_values(&[state]).set(count);
        }
        let kinds = Topic::ALL.map(Topic::word).into_iter().chain(["report"]);
        let mut seen: BTreeMap<&str, (i64, Duration)> =
            kinds.map(|kind| (kind, Default::default())).collect();
        let mut note = |kind: &'static str, arrived_at: Moment| {
            let (count, oldest) = seen.entry(kind).or_default();
            *count += 1;
            *oldest = now.since(arrived_at).max(*oldest);
        };
        for (node, peer) in &self.peers {
            if is_live(&self.members, node, peer.generation) {
                let reports = peer.facts.values().filter_map(|fact| fact.report);
                reports.for_each(|(_, arrived_at)| note("report", arrived_at));
            }
        }
        for posted in facts.posted().into_iter().filter(|posted| posted.live) {
            note(posted.topic.word(), posted.arrived_at);
        }
        for (kind, (count, oldest)) in seen {
            metrics.facts.with_label_values(&[kind]).set(count);
            metrics.fact_age_seconds.with_label_values(&[kind]).set(oldest.as_secs_f64());
        }
        metrics.state_bytes.set(i64::try_from(self.own.total()).unwrap_or(i64::MAX));
    }

    async fn look_at_members(&mut self) {
        let (found, kept) = self.chitchat.with_chitchat(|state| census(state)).await;
        let Arguments { node: this, region, dispatcher, facts, clock, .. } = &self.arguments;
        let now = clock.now();
        for (node, seen) in found.iter().filter(|(node, _)| *node != this) {
            if let Some(peer) = self.peers.get_mut(node)
                && peer.generation == seen.generation
                && seen.heartbeat > std::mem::replace(&mut peer.heartbeat, seen.heartbeat)
            {
                facts.saw(node, seen.generation, now);
            }
        }
        facts.keep(&kept.iter().map(|(node, kept)| (node.clone(), kept.facts.clone())).collect());
        let said: BTreeMap<NodeId, Presence> =
            facts.heard::<Presence>().into_iter().map(|heard| (heard.node, heard.fact)).collect();
        let relay_of = |node: &NodeId| {
            let told = said.get(node).map(|presence| presence.relay.as_str());
            told.filter(|relay| !relay.is_empty() && !self.arguments.shunned.is_shunned(node)).map(Arc::from)
        };
        let members: Vec<Member> = found
            .into_iter()
            .map(|(node, Seen { generation, live, .. })| Member {
                region: match self.peers.get(&node) {
                    _ if node == *this => region.clone(),
                    Some(peer) => peer.region.clone(),
                    None => Region::default(),
                },
                this_node: node == *this,
                generation,
                live: live && !said.get(&node).is_some_and(|presence| presence.gone),
                relay: relay_of(&node),
                leaving: said.get(&node).is_some_and(|presence| presence.leaving),
                node,
            })
            .collect();
        let newest = self.newest_read_by_all(&members);
        if newest != std::mem::replace(&mut self.version, newest) {
            tracing::info!(
                version = newest,
                "reports are written in another version, the newest all peers read"
            );
            dispatcher.send(dispatcher::Msg::TellAll);
        }
        // chitchat tells of changes, not of deletions.
        for (node, peer) in &mut self.peers {
            let Some(kept) = kept.get(node) else { continue };
            peer.facts.retain(|backend, _| {
                let keep = kept.reports.contains(backend);
                if !keep {
                    dispatcher.send(dispatcher::Msg::Withdrawn(backend.clone(), node.clone()));
                }
                keep
            });
        }
        if members != self.members {
            for member in members.iter().filter(|member| !self.members.contains(member)) {
                tracing::info!(node = %member.node, region = %member.region, live = member.live, "member changed");
            }
            let was_live = |member: &&Member| is_live(&self.members, &member.node, member.generation);
            let risen = members.iter().filter(|member| member.live && !was_live(member));
            let risen: Vec<NodeId> = risen.map(|member| member.node.clone()).collect();
            self.members.clone_from(&members);
            self.peers.retain(|node, _| members.iter().any(|member| member.node == *node));
            dispatcher.send(dispatcher::Msg::Members(members));
            // What came before its node counted as alive, with the age it has.
            for (node, peer) in risen.iter().filter_map(|node| Some((node, self.peers.get(node)?))) {
                for (backend, fact) in peer.facts.keys().filter_map(|id| Some((id, peer.fact(node, id)?))) {
                    dispatcher.send(dispatcher::Msg::Heard(backend.clone(), fact));
                }
            }
        }
    }
}

/// What this node says of itself.
fn introduction(region: &Region) -> String {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    codec::encode_node(&NodeFact { region: region.clone(), version, http_address: None })
}

fn is_live(members: &[Member], node: &NodeId, generation: u64) -> bool {
    let mut live = members.iter().filter(|member| member.live && member.generation == generation);
    live.any(|member| member.node == *node)
}

/// Models whose trial at a peer was served. What cannot be read is counted where it is kept.
fn served_models(payload: &Payload) -> Vec<u32> {
    let claims = Claims::read(payload).unwrap_or_default();
    claims.models.into_iter().filter(|(_, phase)| *phase == Phase::Served).map(|(model, _)| model).collect()
}

/// The metric label of a value that could not be read.
pub(crate) fn refusal(error: &codec::CodecError) -> &'static str {
    match error {
        codec::CodecError::Oversized(_) => "oversized",
        codec::CodecError::Text => "not_text",
        codec::CodecError::Version { found, reads } if found < reads => "version_old",
        codec::CodecError::Version { .. } => "version_future",
        codec::CodecError::Body(_) => "malformed",
    }
}

/// The newest incarnation of a node.
struct Seen {
    generation: u64,
    live: bool,
    heartbeat: u64,
}

/// What a node still tells.
#[derive(Default)]
struct Kept {
    reports: BTreeSet<BackendId>,
    facts: facts::Kept,
}

/// The newest incarnation of every node, and what it tells. (An old incarnation stays listed as live until
/// its silence is noticed.)
fn census(state: &Chitchat) -> (BTreeMap<NodeId, Seen>, BTreeMap<NodeId, Kept>) {
    let live: BTreeSet<&ChitchatId> = state.live_nodes().collect();
    let (mut found, mut all) = (BTreeMap::<NodeId, Seen>::new(), BTreeMap::new());
    for (id, node_state) in state.node_states() {
        let node = NodeId::new(&*id.node_id);
        if found.get(&node).is_some_and(|seen| seen.generation > id.generation_id) {
            continue;
        }
        let live = live.contains(id) || id == state.self_chitchat_id();
        let heartbeat = node_state.heartbeat().into();
        found.insert(node.clone(), Seen { generation: id.generation_id, live, heartbeat });
        let mut kept = Kept { facts: facts::Kept { live, ..facts::Kept::default() }, ..Kept::default() };
        for (key, _) in node_state.key_values() {
            match Key::parse(key) {
                Ok(Key::Report(backend)) => drop(kept.reports.insert(backend)),
                Ok(Key::Fact(topic, name)) => drop(kept.facts.facts.insert((topic, name))),
                _ => {}
            }
        }
        all.insert(node, kept);
    }
    (found, all)
}

#[cfg(test)]
#[path = "gossip/gossip_tests.rs"]
mod tests;
