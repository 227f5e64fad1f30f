//! Who may send the trial request of a half-open breaker: one router of the fleet, agreed on over the board of
//! facts.
//!
//! Owns this node's claims. The rule is `logic::gossip::trial`'s. Belongs to no actor, so that a claim outlives
//! all of them; asked on the request path, it takes a lock and never waits.

use crate::clock::Clock;
use crate::facts::Facts;
use crate::lease::Verdict;
use crate::ports::Trials;
use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use llm_router_logic::gossip::fact::Topic;
use llm_router_logic::gossip::trial::{CLAIMS_MAX, Claims, Phase, REST, may_try, model_hash};
use llm_router_logic::ids::BackendId;
use llm_router_logic::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A claim nobody asked for again is given up after this long; the word on a trial that was served is told for as
/// long.
const CLAIM_MAX: Duration = Duration::from_secs(10);

/// This node's part in the agreement.
pub(crate) struct Fleet {
    clock: Clock,
    facts: Facts,
    published: Arc<ArcSwap<Snapshot>>,
    claims: Mutex<BTreeMap<(BackendId, u32), Claim>>,
}

#[derive(Clone, Copy)]
struct Claim {
    phase: Phase,
    /// When it came into this phase.
    since: Moment,
    /// When it was last asked for.
    asked: Moment,
}

impl Claim {
    fn stands(&self, now: Moment) -> bool {
        match self.phase {
            Phase::Trying => true,
            Phase::Failed => now.since(self.since) < REST,
            Phase::Served => now.since(self.since) < CLAIM_MAX,
            Phase::Wanting => now.since(self.asked) < CLAIM_MAX,
        }
    }
}

impl Fleet {
    pub(crate) fn new(clock: Clock, facts: Facts, published: Arc<ArcSwap<Snapshot>>) -> Self {
        Self { clock, facts, published, claims: Mutex::default() }
    }

    /// The trial that [`may_try`](Trials::may_try) allowed is begun.
    pub(crate) fn begin(self: &Arc<Self>, backend: &BackendId, model: &str) -> Trial {
        let key = (backend.clone(), model_hash(model));
        self.enter(&key, Some(Phase::Trying));
        Trial { fleet: Arc::clone(self), key }
    }

    /// Takes back what stands no longer: a claim nobody asks for any more must not keep others waiting.
    pub(crate) fn tend(&self) {
        let now = self.clock.now();
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let over: BTreeSet<BackendId> = claims
            .iter()
            .filter(|(_, claim)| !claim.stands(now))
            .map(|((backend, _), _)| backend.clone())
            .collect();
        for backend in over {
            self.tell(&mut claims, &backend, now);
        }
    }

    /// Puts a claim into a phase, or ends it, and tells peers.
    fn enter(&self, key: &(BackendId, u32), phase: Option<Phase>) {
        let now = self.clock.now();
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        match phase {
            Some(phase) => drop(claims.insert(key.clone(), Claim { phase, since: now, asked: now })),
            None => drop(claims.remove(key)),
        }
        self.tell(&mut claims, &key.0, now);
    }

    /// Tells peers what this node does about the models of `backend`.
    fn tell(&self, claims: &mut BTreeMap<(BackendId, u32), Claim>, backend: &BackendId, now: Moment) {
        claims.retain(|_, claim| claim.stands(now));
        let of_it = claims.iter().filter(|((of, _), _)| of == backend);
        let models: Vec<(u32, Phase)> =
            of_it.map(|((_, model), claim)| (*model, claim.phase)).take(CLAIMS_MAX).collect();
        if models.is_empty() {
            self.facts.withdraw(Topic::Trial, backend.as_str());
        } else {
            // What is refused is counted there; peers then know of no claim, and each tries for itself.
            let _ = self.facts.publish(backend.as_str(), &Claims { models });
        }
    }
}

impl Trials for Fleet {
    fn may_try(&self, backend: &BackendId, model: &str, now: Moment) -> bool {
        let snapshot = self.published.load();
        let members = &snapshot.view.members;
        if !members.iter().any(|member| member.live && !member.this_node) {
            return true;
        }
        let model = model_hash(model);
        let peers: Vec<_> = self
            .facts
            .heard::<Claims>()
            .into_iter()
            .filter(|heard| heard.live && *heard.name == *backend.as_str())
            .flat_map(|heard| {
                let rested = now.since(heard.arrived_at) >= REST;
                let told = heard.fact.models.into_iter().filter(move |(of, _)| *of == model);
                // Its teller may have no reason to tell that a failed trial is long past.
                let told = told.filter(move |(_, phase)| !(rested && *phase == Phase::Failed));
                told.map(move |(_, phase)| (heard.node.clone(), phase))
            })
            .collect();
        let key = (backend.clone(), model);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        match claims.get_mut(&key).filter(|claim| claim.stands(now)) {
            Some(claim) if claim.phase == Phase::Wanting => {
                claim.asked = now;
                may_try(&snapshot.view.node, claim.since, backend, model, &peers, now)
            }
            // The gate lets one of this node's through at a time; after a failed one all wait.
            Some(claim) if matches!(claim.phase, Phase::Trying | Phase::Failed) => false,
            _ => {
                claims.insert(key, Claim { phase: Phase::Wanting, since: now, asked: now });
                self.tell(&mut claims, backend, now);
                false
            }
        }
    }
}

/// A trial under way; however it ends, peers are told.
pub(crate) struct Trial {
    fleet: Arc<Fleet>,
    key: (BackendId, u32),
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Trial").field(&self.key).finish()
    }
}

impl Trial {
    pub(crate) fn ended(&self, verdict: Verdict) {
        let phase = match verdict {
            Verdict::Served => Some(Phase::Served),
            Verdict::Failed { .. } => Some(Phase::Failed),
            Verdict::Neutral => None,
        };
        self.fleet.enter(&self.key, phase);
    }
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
