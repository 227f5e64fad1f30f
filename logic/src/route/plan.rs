//! `plan`: the ordered attempts for one request.
//!
//! Eligibility first ([`eligible`](crate::route::eligible)), then one score per candidate
//! ([`score`]), then the strategy's order. Nothing is recorded here: others
//! act on the plan and report what came of it.

use crate::backend::ServedModel;
use crate::guard::ejection::Ejection;
use crate::guard::pace::PaceNow;
use crate::ids::BackendId;
use crate::money::Money;
use crate::request::{ANY_MODEL, Request};
use crate::route::eligible::{self, Refusal};
use crate::route::few::Few;
use crate::route::order::{self, Candidate, Key, Order};
use crate::route::prepared::PreparedView;
use crate::route::relayed;
use crate::route::score;
use crate::route::shortlist::{WHOLE, Walk};
use crate::route::step::{Place, Step};
use crate::route::total::Compared;
use crate::route::{Policy, Reason, Strategy};
use crate::spot::ends_in_time;
use crate::time::Moment;
use crate::view::{BackendView, Facts, PeerFact};
use serde::Serialize;
use std::collections::HashSet;
use std::time::Duration;

/// This node's own load on one backend, read at the moment of the decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LocalLoad {
    /// Requests of this node running there.
    pub in_flight: u32,
    /// Requests of this node waiting for a slot there.
    pub waiting: u32,
    /// How many this node may run there at once.
    pub limit: u32,
    /// Until when the provider's rate limit or `Retry-After` keeps it closed.
    pub closed_until: Option<Moment>,
    /// Whether a half-open breaker's trial request is already under way.
    pub trial_taken: bool,
    /// The share of its places a backend that has come back is given; `None` = all of them.
    pub warming_percent: Option<u8>,
    /// How long a place there is held on average; `None` until one was given back.
    pub hold: Option<Duration>,
    /// How soon it begins to answer; `None` until it has answered this node.
    pub pace: Option<PaceNow>,
}

/// Access to [`LocalLoad`] by index into [`ClusterView::backends`].
pub trait Loads {
    /// The load of backend `index` for a request of `tokens` estimated tokens.
    fn load(&self, index: usize, tokens: u32, now: Moment) -> LocalLoad;
}

/// Attempts in order, and why the others were refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The strategy applied.
    pub strategy: Strategy,
    /// Best first; empty when nothing can serve the request.
    pub steps: Vec<Step>,
    /// Every other backend that was looked at, with the first reason against it.
    pub refused: Vec<(BackendId, Refusal)>,
    /// How many were ejected for their failures, and how many of these are tried after all.
    #[serde(skip_serializing_if = "Ejection::is_none")]
    pub ejection: Ejection,
    /// Backends that were not looked at, since enough good ones were found before; always 0 up to
    /// [`WHOLE`](crate::route::shortlist::WHOLE) backends. [`rest`] judges them.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_looked_at: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Orders the backends of `view` for `request`.
///
/// `draw` is 64 random bits that break ties and sample candidates; the same arguments give the same
/// plan. Every backend looked at is either a step or refused.
pub fn plan(
    view: &PreparedView,
    loads: &impl Loads,
    request: &Request,
    policy: &Policy,
    draw: u64,
    now: Moment,
) -> Plan {
    let context = Context { view, request, policy, now };
    // Small fleets, which most are, do with a small piece of stack.
    if view.backends.len() <= 16 {
        context.decide::<16>(loads, draw)
    } else {
        context.decide::<WHOLE>(loads, draw)
    }
}

/// What a decision is made on.
#[derive(Clone, Copy)]
struct Context<'v> {
    view: &'v PreparedView,
    request: &'v Request,
    policy: &'v Policy,
    now: Moment,
}

impl<'v> Context<'v> {
    /// Decides among at most `N` candidates.
    fn decide<const N: usize>(self, loads: &impl Loads, draw: u64) -> Plan {
        let Self { view, request, policy, .. } = self;
        let strategy = request.hints.strategy.unwrap_or(policy.strategy);
        let mut candidates: Few<Candidate<'v>, N> = Few::new();
        let mut refused = Vec::new();
        let mut pool = Pool::default();
        let mut a_cluster_serves = false;
        let mut looked_at = 0;
        let mut walk = Walk::new(view, request, strategy, draw);
        while let Some(index) = walk.next() {
            looked_at += 1;
            let spec = &view.backends[index].spec;
            let judged = self.judge(index, loads, candidates.next());
            a_cluster_serves |= spec.is_cluster() && judged.serves;
            pool.serving += usize::from(judged.serves);
            let Some(refusal) = judged.refusal else {
                if let Some(Candidate { score, .. }) = candidates.next() {
                    walk.found(score.has_room() && (strategy != Strategy::Slo || score.meets(&policy.slo)));
                    candidates.added();
                }
                continue;
            };
            pool.ejected += usize::from(refusal.ejects());
            match candidates.next().take() {
                Some(candidate) => pool.broken.push((candidate, refusal)),
                None => refused.push((spec.id.clone(), refusal)),
            }
        }

        // Where the client pinned a backend no other was asked whether it serves: a pinned provider stays.
        let stands_in = matches!(strategy, Strategy::Hybrid | Strategy::ClusterFirst);
        let pinned = request.hints.backend.is_some();
        if stands_in && a_cluster_serves && !policy.enable_external_fallback {
            candidates.retain(|candidate| {
                if !candidate.cluster {
                    let id = view.backends[candidate.index].spec.id.clone();
                    refused.push((id, Refusal::ExternalFallbackDisabled));
                }
                candidate.cluster
            });
            pool.only_clusters(&mut refused, view);
        }
        let (ejection, readmitted) = pool.readmit(policy.guards.ejected_max_percent, &mut refused, view);

        order::add_marginal_costs(&mut candidates);
        let mut order = Order::of(&candidates, strategy, policy, draw);
        let chosen = if pinned { None } else { self.bound(&order, &candidates, strategy) };
        if let Some((place, _)) = chosen {
            order.promote(place);
        }
        let reasons = Reasons {
            strategy,
            policy,
            clusters_refused: a_cluster_serves && candidates.iter().all(|candidate| !candidate.cluster),
            pinned,
            bound: chosen.map(|(_, reason)| reason),
            fallbacks_from: fallbacks_from(&order, &candidates),
        };
        let mut steps = Vec::with_capacity(order.len() + readmitted.len());
        // A mapped slice, whose length is known, so that each step is made where it stays.
        steps.extend(order.keys().iter().enumerate().map(|(place, key)| {
            let candidate = candidates.at(key.place());
            self.step(candidate, reasons.of(place, candidate), key.compared())
        }));
        for (candidate, refusal) in readmitted {
            let mut step = self.step(&candidate, Reason::LeastBad, Key::LAST);
            step.ejected_for = Some(Box::new(refusal));
            steps.push(step);
        }
        Plan { strategy, steps, refused, not_looked_at: view.backends.len() - looked_at, ejection }
    }

    /// The candidate that goes first whatever the order of the others, by its place in it: the one the
    /// session is bound to or else the one that has read such a prompt before.
    fn bound<const N: usize>(
        &self,
        order: &Order<N>,
        candidates: &Few<Candidate<'_>, N>,
        strategy: Strategy,
    ) -> Option<(usize, Reason)> {
        let session = self.request.sticky.as_ref().and_then(|id| {
            let is_it =
                |at| candidates.get(at).is_some_and(|one| self.view.backends[one.index].spec.id == *id);
            order.places().position(is_it)
        });
        if let Some(place) = session {
            return Some((place, Reason::Sticky));
        }
        let prefix = self.request.prefix.filter(|_| self.policy.prefix_affinity)?;
        order.affine(prefix, candidates, self.view, strategy).map(|place| (place, Reason::PrefixAffinity))
    }

    /// `candidate` as a step.
    #[expect(clippy::inline_always, reason = "a step is made where it stays instead of being copied there")]
    #[inline(always)]
    fn step(&self, candidate: &Candidate<'_>, reason: Reason, compared: Compared) -> Step {
        let Candidate { index, model, score, .. } = candidate;
        let request = self.request;
        let place = Place {
            reason,
            compared,
            cost_per_1k: score::cost_per_1k(self.view.ready(*index), model, score.cost, request),
            meets_slo: score.meets(&self.policy.slo),
            meets_deadline: request.hints.deadline.map(|_| !candidate.late),
            output_tokens: request.output_tokens,
        };
        Step::new(candidate, &self.view.backends[*index].spec.id, place)
    }

    /// Judges backend `index`; where it is a candidate it is written to `place`, otherwise that is left as
    /// it is.
    fn judge(&self, index: usize, loads: &impl Loads, place: &mut Option<Candidate<'v>>) -> Judged {
        let Self { view, request, policy, now } = *self;
        let backend = &view.backends[index];
        let refuse = |serves, refusal| Judged { serves, refusal: Some(refusal) };
        if let Some(pinned) = request.hints.backend.as_ref().filter(|id| **id != backend.spec.id) {
            return refuse(false, Refusal::NotPinned { pinned: pinned.clone() });
        }
        if !request.rights.allow_backend(&backend.spec.id) {
            return refuse(false, Refusal::BackendNotAllowed);
        }
        let via = view.via(backend, now);
        let facts = via.map_or_else(|| view.facts(index, now), |fact| Some(backend.facts_through(fact, now)));
        let models = match &facts {
            Some(facts) if !facts.models.is_empty() => facts.models,
            _ => eligible::known_models(backend),
        };
        let mut load = loads.load(index, request.input_tokens.saturating_add(request.output_tokens), now);
        if via.is_some() {
            // Its slots are that peer's to give.
            load = LocalLoad { closed_until: load.closed_until, ..LocalLoad::default() };
        }
        let model = match eligible::resolve(&backend.spec, models, request) {
            Ok(model) => model,
            Err(Refusal::ModelsUnknown) => {
                // That nothing was heard of a cluster says more than that its models are unknown. It may
                // serve whatever is left to the router, but nobody can say so of a model that is named.
                let any_model = request.model.as_deref().is_none_or(|name| name == ANY_MODEL);
                let admitted = self.admit(backend, facts.as_ref(), via, "", &load);
                return refuse(any_model, admitted.err().unwrap_or(Refusal::ModelsUnknown));
            }
            Err(refusal) => return refuse(false, refusal),
        };
        let admitted = self.admit(backend, facts.as_ref(), via, &model.name, &load);
        if let Err(refusal) = &admitted {
            let rest = || {
                eligible::admit_whatever_its_breaker(backend, facts.as_ref(), &model.name, &load, policy, now)
            };
            if refusal.badness().is_none() || rest().is_err() {
                return refuse(true, refusal.clone());
            }
        }
        let ready = view.ready(index);
        let report = facts.as_ref().map(|facts| &facts.report);
        let candidate = place.insert(Candidate {
            index,
            cluster: backend.spec.is_cluster(),
            model,
            score: score::score(backend, ready, model, report, &load, request),
            under_threshold: ready.cost_per_1k.is_some_and(|cost| cost <= policy.cluster_cost_threshold),
            late: false,
            marginal_cost: None,
            fact_age: facts.as_ref().map_or(Duration::ZERO, |facts| facts.age),
            via: via.map(|fact| &fact.node),
        });
        let score = &candidate.score;
        let in_time = |deadline| score.in_time(request.output_tokens, deadline);
        let late = !request.hints.deadline.is_none_or(in_time);
        if let Err(refusal) = self.affordable(backend, score) {
            *place = None;
            return refuse(true, refusal);
        }
        candidate.late = late;
        Judged { serves: true, refusal: admitted.err() }
    }

    /// Whether `backend` may take a request for `model` now, by the way it is reached.
    #[inline]
    fn admit(
        &self,
        backend: &BackendView,
        facts: Option<&Facts<'_>>,
        via: Option<&PeerFact>,
        model: &str,
        load: &LocalLoad,
    ) -> Result<(), Refusal> {
        match via {
            Some(fact) => relayed::admit(backend, fact, load, self.policy, self.now),
            None if !backend.spec.is_reached_from(&self.view.region) => {
                Err(Refusal::NotReached { from: backend.spec.reached_from.clone() })
            }
            None => eligible::admit(backend, facts, model, load, self.policy, self.now),
        }
    }

    /// Whether a candidate with `score` is within the client's maximum, the budget and what is left of its
    /// machine's time.
    #[inline]
    fn affordable(&self, backend: &BackendView, score: &score::Score) -> Result<(), Refusal> {
        let Self { request, now, .. } = *self;
        if let Some(max) = request.hints.max_cost {
            let predicted = score.cost.map(Money::from).ok_or(Refusal::CostUnknown)?;
            if predicted > max {
                return Err(Refusal::TooDear { predicted, max });
            }
        }
        if let Some(left) = request.budget_left.filter(|_| !backend.spec.is_cluster()) {
            let predicted = score.cost.map(Money::from).ok_or(Refusal::Unpriced)?;
            if predicted > left {
                return Err(Refusal::BudgetExhausted { predicted, left });
            }
        }
        if let Some(at) = backend.standing.preempted_at {
            let needed = score.completion(request.output_tokens);
            if !ends_in_time(needed.map(|micros| Duration::from_micros(micros.into())), at, now) {
                return Err(Refusal::Preempted { at });
            }
        }
        Ok(())
    }
}

/// The backends that serve the model, as far as ejection goes by them.
#[derive(Default)]
struct Pool<'v> {
    serving: usize,
    ejected: usize,
    /// Ejected by their breakers alone, with why.
    broken: Vec<(Candidate<'v>, Refusal)>,
}

impl<'v> Pool<'v> {
    /// Providers may not stand in for clusters: they are no part of the pool.
    fn only_clusters(&mut self, refused: &mut Vec<(BackendId, Refusal)>, view: &PreparedView) {
        self.broken.retain(|(candidate, _)| {
            if !candidate.cluster {
                let id = view.backends[candidate.index].spec.id.clone();
                refused.push((id, Refusal::ExternalFallbackDisabled));
            }
            candidate.cluster
        });
    }

    /// The least bad of the broken, where too many are ejected; the others are refused.
    fn readmit(
        mut self,
        max_percent: u8,
        refused: &mut Vec<(BackendId, Refusal)>,
        view: &PreparedView,
    ) -> (Ejection, Vec<(Candidate<'v>, Refusal)>) {
        let ejection = Ejection::capped(self.serving, self.ejected, self.broken.len(), max_percent);
        if !self.broken.is_empty() {
            self.broken.sort_by_key(|(_, refusal)| refusal.badness());
            let stay = self.broken.split_off(ejection.readmitted);
            let out = stay
                .into_iter()
                .map(|(candidate, refusal)| (view.backends[candidate.index].spec.id.clone(), refusal));
            refused.extend(out);
        }
        (ejection, self.broken)
    }
}

/// What a plan with these steps and refusals did not look at, each with the first reason against it;
/// `None` = it could have served. For those who want the whole story and have the time: a person, or the
/// record of a decision.
pub fn rest(
    steps: &[Step],
    refused: &[(BackendId, Refusal)],
    view: &PreparedView,
    loads: &impl Loads,
    request: &Request,
    policy: &Policy,
    now: Moment,
) -> Vec<(BackendId, Option<Refusal>)> {
    let steps = steps.iter().map(|step| &step.backend);
    let seen: HashSet<&BackendId> = steps.chain(refused.iter().map(|(id, _)| id)).collect();
    let unseen = |index: &usize| !seen.contains(&view.backends[*index].spec.id);
    let context = Context { view, request, policy, now };
    let judged = |index: usize| {
        let refusal = context.judge(index, loads, &mut None).refusal;
        (view.backends[index].spec.id.clone(), refusal)
    };
    (0..view.backends.len()).filter(unseen).map(judged).collect()
}

/// What is found of one backend, beside the candidate it may be: that is refused too where nothing but its
/// circuit breaker speaks against it.
struct Judged {
    /// Whether it would serve the request if it were well.
    serves: bool,
    refusal: Option<Refusal>,
}

/// The first place held by the other class than the first candidate's: from there on each step stands
/// in for a class that was tried before it.
fn fallbacks_from<const N: usize>(order: &Order<N>, candidates: &Few<Candidate<'_>, N>) -> usize {
    let mut classes = order.places().filter_map(|at| candidates.get(at)).map(|candidate| candidate.cluster);
    let first = classes.next();
    classes.position(|class| Some(class) != first).map_or(usize::MAX, |place| place + 1)
}

/// Labels each place of an ordered plan.
struct Reasons<'p> {
    strategy: Strategy,
    policy: &'p Policy,
    /// Clusters serve the model, and each of them was refused.
    clusters_refused: bool,
    pinned: bool,
    /// Why the first one goes first, where that is not its place in the order.
    bound: Option<Reason>,
    fallbacks_from: usize,
}

impl Reasons<'_> {
    fn of(&self, place: usize, candidate: &Candidate<'_>) -> Reason {
        let fallback = if candidate.cluster { Reason::ClusterFallback } else { Reason::ExternalFallback };
        if self.pinned {
            return Reason::Pinned;
        }
        if let Some(bound) = self.bound.filter(|_| place == 0) {
            return bound;
        }
        if place >= self.fallbacks_from {
            return fallback;
        }
        let stands_in = !candidate.cluster && self.clusters_refused;
        let priced = candidate.score.cost.is_some();
        match self.strategy {
            Strategy::Hybrid if candidate.under_threshold => Reason::HybridCluster,
            Strategy::Hybrid if priced && !stands_in => Reason::HybridCheapest,
            Strategy::Cost if priced => Reason::LowestCost,
            Strategy::Latency => Reason::LowestLatency,
            Strategy::ClusterFirst if candidate.cluster => Reason::ClusterFirst,
            Strategy::ExternalFirst if !candidate.cluster => Reason::ExternalFirst,
            Strategy::Slo if !candidate.score.meets(&self.policy.slo) => Reason::SloFastest,
            Strategy::Slo if priced => Reason::SloCheapest,
            Strategy::Hybrid
            | Strategy::Cost
            | Strategy::ClusterFirst
            | Strategy::ExternalFirst
            | Strategy::Slo => fallback,
        }
    }
}

/// The model of `models` that serves `asked`: by name, else by alias.
#[inline]
pub fn serves<'a>(models: &'a [ServedModel], asked: &str) -> Option<&'a ServedModel> {
    models
        .iter()
        .find(|m| *m.name == *asked)
        .or_else(|| models.iter().find(|m| m.aliases.iter().any(|alias| alias == asked)))
}
