//! Tells peers what this node sees and hears what they see, over chitchat.
//!
//! Started by `Root`, receives what is worth telling from the `Dispatcher`, tells it what peers say.
//! Lost on restart: the chitchat state; it begins a new generation, asks the dispatcher to tell
//! everything again, and peers send theirs.

use crate::address::Address;
use crate::clock::Clock;
use crate::dispatcher;
use crate::metrics::Metrics;
use crate::poison::poison;
use crate::ports::GossipTransport;
use crate::topology::GossipSettings;
use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use llm_router_logic::backend::ServedModel;
use llm_router_logic::gossip::codec::{self, NodeFact};
use llm_router_logic::gossip::key::Key;
use llm_router_logic::ids::{BackendId, NodeId, Region};
use llm_router_logic::report::Report;
use llm_router_logic::time::Moment;
use llm_router_logic::view::{Member, PeerFact};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, BTreeSet};
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
}

#[derive(Debug)]
pub(crate) enum Msg {
    /// Tell peers a fact.
    Tell { backend: BackendId, report: Report, beat: u8, models: Arc<[ServedModel]> },
    /// Tell peers that we no longer know this backend.
    Withdraw(BackendId),
    /// A peer's value changed.
    Heard { peer: ChitchatId, key: String, value: String },
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
    members: Vec<Member>,
    /// What is known of each peer, by its newest incarnation.
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Default)]
struct Peer {
    generation: u64,
    region: Region,
    /// Its facts; those whose models came first have no report yet.
    facts: BTreeMap<BackendId, Fact>,
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
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(node.as_str(), generation, settings.advertise),
            cluster_id: settings.cluster_id.clone(),
            gossip_interval: settings.interval,
            listen_addr: settings.listen,
            seed_nodes: settings.seeds.clone(),
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
        let own = vec![(Key::Node.to_string(), introduction(region))];
        let chitchat = spawn_chitchat(config, own, arguments.transport.as_ref()).await?;
        let ears = me.clone();
        let this = node.clone();
        chitchat
            .with_chitchat(|state| {
                let (ears, this) = (ears.clone(), this.clone());
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
        Ok(State { arguments, chitchat, members: Vec::new(), peers: BTreeMap::new() })
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(message, Msg::Tell { .. } | Msg::Withdraw(_)) {
            state.arguments.me.received();
        }
        match message {
            Msg::Tell { backend, report, beat, models } => state.tell(&backend, &report, beat, &models).await,
            Msg::Withdraw(backend) => state.withdraw(&backend).await,
            Msg::Heard { peer, key, value } => state.heard(&peer, &key, &value),
            Msg::Tick => {
                state.look_at_members().await;
                me.send_after(TICK, || Msg::Tick);
            }
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
    async fn tell(&self, backend: &BackendId, report: &Report, beat: u8, models: &[ServedModel]) {
        let (report, models) = (codec::encode_report(report, beat), codec::encode_models(models));
        self.chitchat
            .with_chitchat(|state| {
                let own = state.self_node_state();
                own.set(Key::Report(backend.clone()).to_string(), &report);
                own.set(Key::Models(backend.clone()).to_string(), &models);
            })
            .await;
    }

    async fn withdraw(&self, backend: &BackendId) {
        self.chitchat
            .with_chitchat(|state| {
                let own = state.self_node_state();
                own.delete(&Key::Report(backend.clone()).to_string());
                own.delete(&Key::Models(backend.clone()).to_string());
            })
            .await;
    }

    /// Takes one value of a peer; what cannot be read is counted and dropped.
    fn heard(&mut self, id: &ChitchatId, key: &str, value: &str) {
        let node = NodeId::new(&*id.node_id);
        let peer = self.peers.entry(node.clone()).or_default();
        if id.generation_id < peer.generation {
            return;
        }
        if id.generation_id > peer.generation {
            *peer = Peer { generation: id.generation_id, ..Peer::default() };
        }
        let mut changed = None;
        let refused = match Key::parse(key) {
            Err(_) => Some("unknown_key"),
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
        };
        if let Some(backend) = changed
            && let Some(Fact { report: Some((report, arrived_at)), models }) = peer.facts.get(&backend)
        {
            let fact = PeerFact {
                node: node.clone(),
                region: peer.region.clone(),
                report: *report,
                arrived_at: *arrived_at,
                models: Arc::clone(models),
            };
            self.arguments.dispatcher.send(dispatcher::Msg::Heard(backend, fact));
        }
        if let Some(why) = refused {
            tracing::debug!(%node, key, why, "refused a gossiped value");
            self.arguments.metrics.gossip_refused_total.with_label_values(&[why]).inc();
        }
    }

    async fn look_at_members(&mut self) {
        let (found, kept) = self.chitchat.with_chitchat(|state| census(state)).await;
        let Arguments { node: this, region, dispatcher, .. } = &self.arguments;
        let members: Vec<Member> = found
            .into_iter()
            .map(|(node, (generation, live))| Member {
                region: match self.peers.get(&node) {
                    _ if node == *this => region.clone(),
                    Some(peer) => peer.region.clone(),
                    None => Region::default(),
                },
                this_node: node == *this,
                generation,
                live,
                node,
            })
            .collect();
        // chitchat tells of changes, not of deletions.
        for (node, peer) in &mut self.peers {
            let Some(kept) = kept.get(node) else { continue };
            peer.facts.retain(|backend, _| {
                let keep = kept.contains(backend);
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
            self.members.clone_from(&members);
            self.peers.retain(|node, _| members.iter().any(|member| member.node == *node));
            dispatcher.send(dispatcher::Msg::Members(members));
        }
    }
}

/// What this node says of itself.
fn introduction(region: &Region) -> String {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    codec::encode_node(&NodeFact { region: region.clone(), version, http_address: None })
}

/// The metric label of a value that could not be read.
fn refusal(error: &codec::CodecError) -> &'static str {
    match error {
        codec::CodecError::Oversized(_) => "oversized",
        codec::CodecError::Text => "not_text",
        codec::CodecError::Version(_) => "version",
        codec::CodecError::Body(_) => "malformed",
    }
}

type Found = BTreeMap<NodeId, (u64, bool)>;
type Kept = BTreeMap<NodeId, BTreeSet<BackendId>>;

/// The newest incarnation of every node with whether it is alive, and the backends it reports on.
/// (An old incarnation stays listed as live until its silence is noticed.)
fn census(state: &Chitchat) -> (Found, Kept) {
    let live: BTreeSet<&ChitchatId> = state.live_nodes().collect();
    let (mut found, mut kept) = (Found::new(), Kept::new());
    for (id, node_state) in state.node_states() {
        let node = NodeId::new(&*id.node_id);
        let alive = live.contains(id) || id == state.self_chitchat_id();
        match found.get(&node) {
            Some((generation, _)) if *generation > id.generation_id => continue,
            _ => found.insert(node.clone(), (id.generation_id, alive)),
        };
        let reports = node_state.key_values().filter_map(|(key, _)| match Key::parse(key) {
            Ok(Key::Report(backend)) => Some(backend),
            _ => None,
        });
        kept.insert(node, reports.collect());
    }
    (found, kept)
}
