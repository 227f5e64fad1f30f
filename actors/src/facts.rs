//! The board of small facts: what parts of this node tell all peers, and what peers tell.
//!
//! A part publishes a value under a topic and a name ([`Facts::publish`]) and reads what peers say under it
//! ([`Facts::heard`]), each value with its arrival by this node's clock. The board belongs to no actor: it
//! outlives the `Gossip` actor, which carries it. It never gossips on what it heard. What a dead peer said
//! is kept, marked, for as long as gossip remembers that peer (15 minutes): what it spent is spent.

use crate::address::Address;
use crate::gossip;
use crate::metrics::Metrics;
use llm_router_logic::gossip::codec::CodecError;
use llm_router_logic::gossip::fact::{Fact, Payload, Topic};
use llm_router_logic::gossip::key::Key;
use llm_router_logic::ids::NodeId;
use llm_router_logic::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Bytes of this node's own facts as text, keys included.
const OWN_BYTES_MAX: usize = 6 * 1024;
/// Facts kept of one peer.
const PER_PEER_MAX: usize = 256;

/// The facts of one node. Clones share them.
#[derive(Clone)]
pub struct Facts {
    inner: Arc<Inner>,
}

struct Inner {
    metrics: Metrics,
    gossip: Address<gossip::Msg>,
    state: Mutex<State>,
    changes: BTreeMap<Topic, watch::Sender<u64>>,
    /// Whether `Gossip` has been told of changes it has not looked at yet.
    told: AtomicBool,
}

#[derive(Default)]
struct State {
    own: BTreeMap<(Topic, Arc<str>), Payload>,
    own_bytes: usize,
    /// Own facts that `Gossip` has not taken yet.
    changed: BTreeSet<(Topic, Arc<str>)>,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Default)]
struct Peer {
    generation: u64,
    live: bool,
    last_heard: Option<Moment>,
    facts: BTreeMap<(Topic, Arc<str>), Value>,
}

struct Value {
    payload: Payload,
    arrived_at: Moment,
    /// Whether it was found unreadable before: that is counted once.
    unreadable: bool,
}

/// What a peer tells at this moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) live: bool,
    pub(crate) facts: BTreeSet<(Topic, Arc<str>)>,
}

/// What a peer said.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard<F> {
    /// Who.
    pub node: NodeId,
    /// Its incarnation: it grows when that node restarts.
    pub generation: u64,
    /// Under which name.
    pub name: Arc<str>,
    /// What.
    pub fact: F,
    /// When this value arrived here, by this node's clock. An unchanged value arrives once.
    pub arrived_at: Moment,
    /// Whether gossip counts that node alive.
    pub live: bool,
}

/// A value of a peer as it stands on the board, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// Who said it.
    pub node: NodeId,
    /// Its incarnation.
    pub generation: u64,
    /// Under which topic.
    pub topic: Topic,
    /// Under which name.
    pub name: Arc<str>,
    /// When it arrived here.
    pub arrived_at: Moment,
    /// Whether gossip counts that node alive.
    pub live: bool,
    /// Its length.
    pub bytes: usize,
}

/// Why a fact is not told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactRefused {
    /// The name may not stand in a key.
    #[error("the fact's name `{0}` is not 1 to 64 letters, digits or `-_.`")]
    Name(String),
    /// The value is too large.
    #[error("the fact's value cannot be told: {0}")]
    Value(#[from] CodecError),
    /// This node tells as much as it may.
    #[error("this node's facts would exceed {OWN_BYTES_MAX} bytes: withdraw some first")]
    Full,
}

impl Facts {
    pub(crate) fn new(metrics: Metrics, gossip: Address<gossip::Msg>) -> Self {
        let changes = Topic::ALL.into_iter().map(|topic| (topic, watch::Sender::new(0))).collect();
        let (state, told) = (Mutex::default(), AtomicBool::new(false));
        Self { inner: Arc::new(Inner { metrics, gossip, state, changes, told }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock cannot leave it inconsistent: every change is one step.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every peer `fact` under `name`, in place of what was told under it before. Cheap; told more often
    /// than peers are gossiped with, the last value goes out.
    ///
    /// # Errors
    /// [`FactRefused`], counted in `llm_router_gossip_refused_total`; what was told before stays told.
    pub fn publish<F: Fact>(&self, name: &str, fact: &F) -> Result<(), FactRefused> {
        let put = self.put::<F>(name, fact);
        if let Err(refused) = &put {
            let why = match refused {
                FactRefused::Name(_) => "own_fact_name",
                FactRefused::Value(_) => "own_fact_oversized",
                FactRefused::Full => "own_facts_full",
            };
            let count = self.inner.metrics.gossip_refused_total.with_label_values(&[why]);
            // The first of its kind is said; whoever publishes may do so with every request.
            if count.get() == 0 {
                tracing::warn!(topic = F::TOPIC.word(), name, error = %refused, "a fact is not told to peers");
            }
            count.inc();
        }
        put
    }

    fn put<F: Fact>(&self, name: &str, fact: &F) -> Result<(), FactRefused> {
        if !Key::allows(name) {
            return Err(FactRefused::Name(name.chars().take(80).collect()));
        }
        let payload = Payload::of(fact)?;
        let key = (F::TOPIC, Arc::from(name));
        let mut state = self.state();
        let before = state.own.get(&key);
        if before == Some(&payload) {
            return Ok(());
        }
        let freed = before.map_or(0, |payload| bytes(&key, payload));
        let total = state.own_bytes - freed + bytes(&key, &payload);
        if total > OWN_BYTES_MAX {
            return Err(FactRefused::Full);
        }
        state.own_bytes = total;
        state.own.insert(key.clone(), payload);
        state.changed.insert(key);
        drop(state);
        self.wake();
        Ok(())
    }

    /// Tells peers that there is no fact of that name any more.
    pub fn withdraw(&self, topic: Topic, name: &str) {
        let key = (topic, Arc::from(name));
        let mut state = self.state();
        if let Some(payload) = state.own.remove(&key) {
            state.own_bytes -= bytes(&key, &payload);
            state.changed.insert(key);
            drop(state);
            self.wake();
        }
    }

    /// What peers say under `F`'s topic, dead ones included. A value that this node cannot read is left out,
    /// and counted once.
    pub fn heard<F: Fact>(&self) -> Vec<Heard<F>> {
        let mut found = Vec::new();
        for (node, peer) in &mut self.state().peers {
            for ((topic, name), value) in peer.facts.iter_mut().filter(|((topic, _), _)| *topic == F::TOPIC) {
                match F::read(&value.payload) {
                    Ok(fact) => found.push(Heard {
                        node: node.clone(),
                        generation: peer.generation,
                        name: Arc::clone(name),
                        fact,
                        arrived_at: value.arrived_at,
                        live: peer.live,
                    }),
                    Err(error) if !std::mem::replace(&mut value.unreadable, true) => {
                        tracing::debug!(%node, topic = topic.word(), %name, %error, "refused a fact");
                        let why = gossip::refusal(&error);
                        self.inner.metrics.gossip_refused_total.with_label_values(&[why]).inc();
                    }
                    Err(_) => {}
                }
            }
        }
        found
    }

    /// Every value of every peer.
    pub fn posted(&self) -> Vec<Posted> {
        let state = self.state();
        let of_peers = state.peers.iter().flat_map(|(node, peer)| {
            peer.facts.iter().map(|((topic, name), value)| Posted {
                node: node.clone(),
                generation: peer.generation,
                topic: *topic,
                name: Arc::clone(name),
                arrived_at: value.arrived_at,
                live: peer.live,
                bytes: value.payload.len(),
            })
        });
        of_peers.collect()
    }

    /// A number that changes whenever [`heard`](Self::heard) may return something else under `topic`.
    pub fn changes(&self, topic: Topic) -> watch::Receiver<u64> {
        match self.inner.changes.get(&topic) {
            Some(sender) => sender.subscribe(),
            // Every topic has one; a closed channel is what a reader of none would see.
            None => watch::channel(0).1,
        }
    }

    /// When gossip last had a sign of life of `node`, whichever way it came; `None` where never.
    pub fn last_heard(&self, node: &NodeId) -> Option<Moment> {
        self.state().peers.get(node)?.last_heard
    }

    fn wake(&self) {
        if !self.inner.told.swap(true, Ordering::AcqRel) {
            // A dead actor is not woken; its successor takes everything.
            self.inner.gossip.send(gossip::Msg::FactsChanged);
        }
    }

    /// What changed of our own since the last call: key, and value or `None` where it was withdrawn.
    /// `everything` for a `Gossip` that begins anew.
    pub(crate) fn take_changed(&self, everything: bool) -> Vec<(Key, Option<Payload>)> {
        self.inner.told.store(false, Ordering::Release);
        let mut state = self.state();
        let changed = std::mem::take(&mut state.changed);
        let keys = if everything { state.own.keys().cloned().collect() } else { changed };
        keys.into_iter()
            .map(|key| (Key::Fact(key.0, Arc::clone(&key.1)), state.own.get(&key).cloned()))
            .collect()
    }

    /// A peer's value arrived. `false` where it has too many.
    pub(crate) fn hear(
        &self,
        (node, generation): (&NodeId, u64),
        (topic, name): (Topic, Arc<str>),
        payload: Payload,
        arrived_at: Moment,
    ) -> bool {
        {
            let mut state = self.state();
            let peer = peer(&mut state, node, generation);
            peer.last_heard.get_or_insert(arrived_at);
            let key = (topic, name);
            if peer.facts.len() >= PER_PEER_MAX && !peer.facts.contains_key(&key) {
                return false;
            }
            peer.facts.insert(key, Value { payload, arrived_at, unreadable: false });
        }
        self.notify([topic]);
        true
    }

    /// A peer showed a sign of life.
    pub(crate) fn saw(&self, node: &NodeId, generation: u64, now: Moment) {
        peer(&mut self.state(), node, generation).last_heard = Some(now);
    }

    /// Keeps, of each peer, the facts it still tells; peers that are not in `kept` are forgotten.
    pub(crate) fn keep(&self, kept: &BTreeMap<NodeId, Kept>) {
        let mut changed = BTreeSet::new();
        self.state().peers.retain(|node, peer| {
            let told = kept.get(node);
            let live = told.is_some_and(|told| told.live);
            let flipped = std::mem::replace(&mut peer.live, live) != live;
            peer.facts.retain(|key, _| {
                let keep = told.is_some_and(|told| told.facts.contains(key));
                if flipped || !keep {
                    changed.insert(key.0);
                }
                keep
            });
            told.is_some()
        });
        self.notify(changed);
    }

    fn notify(&self, topics: impl IntoIterator<Item = Topic>) {
        for sender in topics.into_iter().filter_map(|topic| self.inner.changes.get(&topic)) {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

/// A peer's place on the board; facts of an earlier incarnation are gone with it.
fn peer<'s>(state: &'s mut State, node: &NodeId, generation: u64) -> &'s mut Peer {
    let peer = state.peers.entry(node.clone()).or_default();
    if peer.generation != generation {
        *peer = Peer { generation, ..Peer::default() };
    }
    peer
}

/// Bytes of a fact as text.
fn bytes(key: &(Topic, Arc<str>), payload: &Payload) -> usize {
    key.0.word().len() + 1 + key.1.len() + payload.text().len()
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
