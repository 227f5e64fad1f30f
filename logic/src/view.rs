//! The cluster as one node sees it: configured backends with own and peer facts, and the members.
//!
//! Own and peer reports are different types and a peer's report is never republished, so gossip
//! cannot echo. A view is immutable once published; a request reads it without a lock.

use crate::backend::{BackendSpec, ServedModel};
use crate::guard::breaker::{BreakerState, Cause};
use crate::ids::{BackendId, NodeId, Region};
use crate::report::{Health, Report};
use crate::standing::Standing;
use crate::time::{Moment, millis};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// A peer's fact counts for nothing once it is older than this.
pub const PEER_FACT_LIMIT: Duration = Duration::from_secs(5);
/// A peer's fact counts in full up to this age, since an unchanged one is told again every two seconds; from
/// here on it fades.
pub const PEER_FACT_FULL: Duration = Duration::from_millis(2_500);

/// What this node itself observed of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OwnFact {
    /// The facts.
    pub report: Report,
    /// Last probe or outcome.
    pub observed_at: Moment,
    /// Models the backend said it serves; replaces an empty configured list.
    pub models: Arc<[ServedModel]>,
    /// What stands against single models; one that is not listed is open to requests.
    pub guards: Arc<[ModelGuard]>,
}

impl OwnFact {
    /// What stands against `model` by itself.
    #[inline]
    pub fn guard(&self, model: &str) -> Option<&ModelGuard> {
        self.guards.iter().find(|guard| guard.model == model)
    }

    /// Whether a request for `model` now would be the trial of a half-open breaker.
    pub fn on_trial(&self, model: &str, now: Moment) -> bool {
        self.guard(model).is_some_and(|guard| guard.breaker_at(now) == BreakerState::HalfOpen)
    }
}

impl ModelGuard {
    /// The state of the breaker at `now`, which may be later than what was published: an open breaker
    /// whose time has come is half open.
    pub fn breaker_at(&self, now: Moment) -> BreakerState {
        match self.breaker {
            BreakerState::Open { until } if until <= now => BreakerState::HalfOpen,
            state => state,
        }
    }

    /// The same in words.
    pub fn told(&self, now: Moment) -> GuardNote {
        let breaker = self.breaker_at(now);
        let open_until = match breaker {
            BreakerState::Open { until } => Some(until),
            _ => None,
        };
        let until = self.closed_until.filter(|until| *until > now).max(open_until);
        GuardNote {
            model: self.model.clone(),
            breaker: breaker.as_str(),
            why: self.cause.map(|cause| cause.to_string()),
            closed_for_ms: until.map(|until| millis(until.since(now))),
        }
    }
}

/// What stands against one model of a backend, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuardNote {
    /// The model.
    pub model: String,
    /// `closed`, `open` or `half_open`.
    pub breaker: &'static str,
    /// Why it is not closed.
    pub why: Option<String>,
    /// How long no request passes, its breaker's trial and the end of `Retry-After` being the later.
    pub closed_for_ms: Option<u64>,
}

/// What stands against one model of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelGuard {
    /// The model, by the backend's own name.
    pub model: String,
    /// The state of its circuit breaker.
    pub breaker: BreakerState,
    /// Why that is not closed.
    pub cause: Option<Cause>,
    /// Until when the backend asked to be left alone with this model (`Retry-After` of a 503).
    pub closed_until: Option<Moment>,
}

/// What a peer said of a backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerFact {
    /// Who said it.
    pub node: NodeId,
    /// Where that node runs.
    pub region: Region,
    /// The facts.
    pub report: Report,
    /// When it arrived here: ages never depend on another machine's clock.
    pub arrived_at: Moment,
    /// Models the peer learnt from the backend.
    pub models: Arc<[ServedModel]>,
}

impl PeerFact {
    /// Whether it is young enough to count.
    pub fn counts(&self, now: Moment) -> bool {
        now.since(self.arrived_at) <= PEER_FACT_LIMIT
    }

    /// How much its figures count now, in thousandths: all up to [`PEER_FACT_FULL`], then less and less,
    /// nothing from [`PEER_FACT_LIMIT`] on.
    pub fn weight(&self, now: Moment) -> u32 {
        let fading = PEER_FACT_LIMIT - PEER_FACT_FULL;
        let left = PEER_FACT_LIMIT.saturating_sub(now.since(self.arrived_at)).min(fading);
        u32::try_from(left.as_micros() * 1_000 / fading.as_micros()).unwrap_or(1_000)
    }
}

/// A configured backend with everything known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendView {
    /// As configured.
    pub spec: Arc<BackendSpec>,
    /// Own observation; `None` until the first probe or outcome.
    pub own: Option<OwnFact>,
    /// Peers' observations, at most one per node.
    pub peers: Vec<PeerFact>,
    /// Whether it has a machine, and until when.
    pub standing: Standing,
}

/// A router of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Its region.
    pub region: Region,
    /// Start of this incarnation, in Unix milliseconds.
    pub generation: u64,
    /// Whether gossip counts it alive.
    pub live: bool,
    /// Whether it is this node.
    pub this_node: bool,
    /// Where it relays peers' requests to backends it reaches; `None` = it does not.
    pub relay: Option<Arc<str>>,
    /// Whether it said that it is about to stop.
    pub leaving: bool,
}

/// The whole view.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterView {
    /// This node.
    pub node: NodeId,
    /// Its region.
    pub region: Region,
    /// Configured backends, in the order of the configuration.
    pub backends: Vec<BackendView>,
    /// Facts of peers about backends that are not configured here.
    pub foreign: Vec<(BackendId, PeerFact)>,
    /// Routers known, this one included.
    pub members: Vec<Member>,
}

/// Added to what a peer measured on its way to a backend where a request goes through that peer: a round trip
/// between two continents.
pub const RELAY_HOP_MS: u32 = 150;

impl ClusterView {
    /// The peer through whose router `backend` is used, where this node has no way of its own to it: one that
    /// lives, relays, and said lately that it reaches the backend well.
    #[inline]
    pub fn via<'v>(&self, backend: &'v BackendView, now: Moment) -> Option<&'v PeerFact> {
        let lost = backend.own.as_ref().is_some_and(|own| own.report.health == Health::Unhealthy);
        if backend.spec.is_reached_from(&self.region) && !lost {
            return None;
        }
        self.ways(backend, now).next()
    }

    /// The peers through whose routers `backend` can be used, whether or not this node has a way of its own:
    /// who lives, relays, and said lately that it reaches the backend well. Best first.
    pub fn ways<'v>(&self, backend: &'v BackendView, now: Moment) -> impl Iterator<Item = &'v PeerFact> {
        let relays = |fact: &PeerFact| self.relay_of(&fact.node).is_some();
        backend.reached_by(now).into_iter().filter(move |fact| relays(fact) && !fact.report.breaker_open)
    }

    /// Where the router `node` takes requests of peers.
    pub fn relay_of(&self, node: &NodeId) -> Option<&Arc<str>> {
        let member = self.members.iter().find(|member| member.node == *node)?;
        member.relay.as_ref().filter(|_| member.live && !member.leaving && !member.this_node)
    }
}

/// The facts that count for a decision now, own before peers', with where they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts<'a> {
    /// The report that counts.
    pub report: Report,
    /// Its age.
    pub age: Duration,
    /// `None` for an own observation, else the peer that said it.
    pub said_by: Option<&'a NodeId>,
    /// Models served.
    pub models: &'a [ServedModel],
}

impl BackendView {
    /// The facts that count now: this node's own observation once there is one, else a peer fact younger than
    /// [`PEER_FACT_LIMIT`] (of a node in the backend's own region before others, then the freshest), else
    /// nothing (`None`).
    ///
    /// Another region's latency is never taken for ours: a peer fact loses its latency and RTT.
    /// Throughput missing from an own observation is filled from a fresh peer fact, since it is a
    /// property of the machine and not of the path to it.
    pub fn facts(&self, now: Moment) -> Option<Facts<'_>> {
        let fresh = self.peers.iter().filter(|fact| fact.counts(now));
        let peer = fresh.max_by_key(|fact| (self.is_home(fact), fact.arrived_at));
        match (&self.own, peer) {
            (Some(own), peer) if own.report.health != Health::Unknown => {
                let mut report = own.report;
                if report.tokens_per_second.is_none() {
                    report.tokens_per_second = peer.and_then(|fact| fact.report.tokens_per_second);
                }
                let models = match (&self.spec.models[..], &own.models[..], peer) {
                    ([], [], Some(fact)) => &fact.models,
                    ([], own, _) => own,
                    (configured, _, _) => configured,
                };
                Some(Facts { report, age: now.since(own.observed_at), said_by: None, models })
            }
            (_, Some(fact)) => {
                let report = Report {
                    latency_p95_ms: None,
                    ttft_ms: None,
                    rtt_ms: None,
                    // What that peer has running there is in the backend's queue, not in ours.
                    in_flight: 0,
                    ..fact.report
                };
                let models = if self.spec.models.is_empty() { &fact.models[..] } else { &self.spec.models };
                Some(Facts { report, age: now.since(fact.arrived_at), said_by: Some(&fact.node), models })
            }
            _ => None,
        }
    }

    /// The facts that count for a request that goes through the peer that said `fact`: what it measured, and a
    /// hop.
    pub fn facts_through<'a>(&'a self, fact: &'a PeerFact, now: Moment) -> Facts<'a> {
        let rtt_ms = Some(fact.report.rtt_ms.unwrap_or(0).saturating_add(RELAY_HOP_MS));
        // What that peer has running there is counted with the peers'.
        let report = Report { rtt_ms, in_flight: 0, ..fact.report };
        let models = if self.spec.models.is_empty() { &fact.models[..] } else { &self.spec.models };
        Facts { report, age: now.since(fact.arrived_at), said_by: Some(&fact.node), models }
    }

    /// Whether this node itself reaches it well. Gossip never makes this true: a peer that reaches a backend
    /// says nothing of our way there.
    pub fn reachable_here(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.report.health == Health::Healthy)
    }

    /// Live peers that reach it well, by what they said lately; those in its own region first, then the
    /// freshest.
    pub fn reached_by(&self, now: Moment) -> Vec<&PeerFact> {
        let well = |fact: &&PeerFact| fact.counts(now) && fact.report.health == Health::Healthy;
        let mut found: Vec<&PeerFact> = self.peers.iter().filter(well).collect();
        found.sort_by_key(|fact| (!self.is_home(fact), std::cmp::Reverse(fact.arrived_at)));
        found
    }

    /// Whether who said `fact` runs in this backend's own region.
    fn is_home(&self, fact: &PeerFact) -> bool {
        !fact.region.as_str().is_empty() && fact.region.as_str() == self.spec.region()
    }

    /// Whether anybody reaches it well: this node or a peer.
    pub fn alive_anywhere(&self, now: Moment) -> bool {
        self.reachable_here() || !self.reached_by(now).is_empty()
    }

    /// Requests that peers say they have running at this backend. What is not told again fades, so that our
    /// share of a backend grows back step by step when a peer goes silent.
    pub fn peers_in_flight(&self, now: Moment) -> u32 {
        let thousandths: u64 = self
            .peers
            .iter()
            .map(|fact| u64::from(fact.report.in_flight) * u64::from(fact.weight(now)))
            .sum();
        u32::try_from(thousandths.div_ceil(1_000)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
