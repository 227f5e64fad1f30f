//! This node's part in news of outages of one backend: what its own requests showed is told to peers, what peers
//! tell is taken once.
//!
//! Owned by the `Backend` actor, which carries out what is believed. Lost with it: what was heard, which is told
//! again within two seconds.

use crate::facts::Facts;
use crate::gate::Gate;
use crate::metrics::Metrics;
use llm_router_logic::gossip::fact::Topic;
use llm_router_logic::gossip::outage::{MODELS_MAX, ModelOutage, Outage, Record, STREAK_COUNTS, STREAK_MIN};
use llm_router_logic::gossip::trial::model_hash;
use llm_router_logic::guard::breaker::Breaker;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::time::{Moment, millis_u32};
use std::collections::BTreeMap;
use std::time::Duration;

/// What still stands is told again after this long, for newcomers.
const REAFFIRM: Duration = Duration::from_secs(2);
/// Peers whose news is remembered.
const PEERS_MAX: usize = 1_024;
/// Models whose outcomes are remembered.
const RECORDS_MAX: usize = 256;

/// A peer's word on a backend.
#[derive(Clone, Debug)]
pub(crate) struct News {
    pub(crate) node: NodeId,
    pub(crate) generation: u64,
    pub(crate) outage: Outage,
}

/// What is told and heard of one backend.
pub(crate) struct Outages {
    backend: BackendId,
    facts: Facts,
    metrics: Metrics,
    told: Option<Told>,
    episode: u64,
    /// Incarnation and episode of each peer's latest news.
    heard: BTreeMap<NodeId, (u64, u64)>,
    records: BTreeMap<String, OwnRecord>,
}

/// What this node's requests for a model came to.
#[derive(Clone, Copy, Debug, Default)]
struct OwnRecord {
    record: Record,
    failed_at: Option<Moment>,
    /// Whether the last failure said as much of our way there as of the backend.
    on_the_way: bool,
}

struct Told {
    trouble: Trouble,
    at: Moment,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Trouble {
    closed: Option<Moment>,
    models: BTreeMap<u32, ModelTrouble>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ModelTrouble {
    closed: Option<Moment>,
    open: Option<Moment>,
    failures: u32,
    failures_until: Option<Moment>,
}

impl Outages {
    /// Nothing is known yet; what an earlier incarnation told is taken back.
    pub(crate) fn new(backend: BackendId, facts: Facts, metrics: Metrics) -> Self {
        facts.withdraw(Topic::Outage, backend.as_str());
        let (heard, records) = (BTreeMap::new(), BTreeMap::new());
        Self { backend, facts, metrics, told: None, episode: 0, heard, records }
    }

    /// Notes the outcome of a request of our own that began at `began`.
    pub(crate) fn note(&mut self, model: &str, served: bool, unreachable: bool, began: Moment, now: Moment) {
        if self.records.len() >= RECORDS_MAX && !self.records.contains_key(model) {
            return;
        }
        let own = self.records.entry(model.to_owned()).or_default();
        own.record.note(served, began);
        (own.failed_at, own.on_the_way) = if served { (None, false) } else { (Some(now), unreachable) };
    }

    /// Whether our own requests for `model` say more than a peer's.
    pub(crate) fn outweighs(&self, model: &str, now: Moment) -> bool {
        self.records.get(model).is_some_and(|own| own.record.outweighs_news(now))
    }

    /// Tells peers what is worth telling; returns after how long there may be less to tell.
    pub(crate) fn tell(
        &mut self,
        gate: &Gate,
        breakers: &BTreeMap<String, Breaker>,
        now: Moment,
    ) -> Option<Duration> {
        let trouble = self.trouble(gate, breakers, now);
        if trouble == Trouble::default() {
            if self.told.take().is_some() {
                self.facts.withdraw(Topic::Outage, self.backend.as_str());
            }
            return None;
        }
        let news = self.told.as_ref().is_none_or(|told| trouble.is_news_after(&told.trouble));
        let due = self.told.as_ref().is_none_or(|told| now.since(told.at) >= REAFFIRM);
        let ends = trouble.ends();
        if news {
            self.episode = self.episode.saturating_add(1).max(now.micros() / 1_000);
            self.count("told");
        }
        if news || due {
            // What is refused is counted there; peers then find out for themselves.
            let _ = self.facts.publish(self.backend.as_str(), &trouble.outage(self.episode, now));
            self.told = Some(Told { trouble, at: now });
        }
        news.then(|| ends.map(|end| end.since(now))).flatten()
    }

    /// Whether `news` is not yet known; it is from now on.
    pub(crate) fn is_new(&mut self, news: &News) -> bool {
        if self.heard.len() >= PEERS_MAX && !self.heard.contains_key(&news.node) {
            return false;
        }
        let latest = self.heard.entry(news.node.clone()).or_default();
        let this = (news.generation, news.outage.episode);
        let new = this > *latest;
        *latest = this.max(*latest);
        new
    }

    pub(crate) fn count(&self, what: &str) {
        self.metrics.gossip.outages_total.with_label_values(&[what]).inc();
    }

    fn trouble(&self, gate: &Gate, breakers: &BTreeMap<String, Breaker>, now: Moment) -> Trouble {
        let mut models: BTreeMap<u32, ModelTrouble> = BTreeMap::new();
        for (model, until) in gate.closed_models() {
            models.entry(model_hash(&model)).or_default().closed = Some(until);
        }
        for (model, breaker) in breakers {
            let own = self.records.get(model).copied().unwrap_or_default();
            // A broken way is ours alone: that breaker is a prior to others and no more.
            let open = breaker.open_by_itself(now).filter(|_| !own.on_the_way);
            let fresh = own.failed_at.map(|at| at + STREAK_COUNTS).filter(|until| *until > now);
            let failures = fresh.map_or(0, |_| breaker.failures_in_a_row());
            if open.is_some() || failures >= STREAK_MIN {
                let trouble = models.entry(model_hash(model)).or_default();
                trouble.open = open;
                (trouble.failures, trouble.failures_until) =
                    if failures >= STREAK_MIN { (failures.min(250), fresh) } else { (0, None) };
            }
        }
        while models.len() > MODELS_MAX {
            models.pop_last();
        }
        Trouble { closed: gate.closed_by_itself(now), models }
    }
}

impl Trouble {
    /// Whether something got worse.
    fn is_news_after(&self, told: &Self) -> bool {
        self.closed > told.closed
            || self.models.iter().any(|(model, now)| {
                let before = told.models.get(model).copied().unwrap_or_default();
                now.closed > before.closed || now.open > before.open || now.failures > before.failures
            })
    }

    /// When the first of it ends.
    fn ends(&self) -> Option<Moment> {
        let of_models = self.models.values().flat_map(|one| [one.closed, one.open, one.failures_until]);
        of_models.chain([self.closed]).flatten().min()
    }

    fn outage(&self, episode: u64, now: Moment) -> Outage {
        let left = |until: Option<Moment>| until.map_or(0, |until| millis_u32(until.since(now)));
        let models = self.models.iter().map(|(model, one)| ModelOutage {
            model: *model,
            closed_ms: left(one.closed),
            open_ms: left(one.open),
            failures: one.failures,
        });
        Outage { episode, closed_ms: left(self.closed), models: models.collect() }
    }
}

impl Drop for Outages {
    fn drop(&mut self) {
        // A backend that a reload removed is in nobody's way.
        self.facts.withdraw(Topic::Outage, self.backend.as_str());
    }
}

#[cfg(test)]
#[path = "outage_tests.rs"]
mod tests;
