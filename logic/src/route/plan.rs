//! `plan`: the ordered attempts for one request.
//!
//! Eligibility first ([`eligible`](crate::route::eligible)), then one score per candidate
//! ([`score`]), then the strategy's order. Nothing is recorded here: others
//! act on the plan and report what came of it.

use crate::backend::ServedModel;
use crate::guard::ejection::Ejection;
use crate::ids::BackendId;
use crate::money::Money;
use crate::request::{ANY_MODEL, Request};
use crate::route::eligible::{self, Refusal};
use crate::route::order::{self, Candidate};
use crate::route::prepared::PreparedView;
use crate::route::score::score;
use crate::route::shortlist::Walk;
use crate::route::{Policy, Reason, Strategy};
use crate::spot::ends_in_time;
use crate::time::Moment;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
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
}

/// Access to [`LocalLoad`] by index into [`ClusterView::backends`].
pub trait Loads {
    /// The load of backend `index` for a request of `tokens` estimated tokens.
    fn load(&self, index: usize, tokens: u32, now: Moment) -> LocalLoad;
}

/// One attempt of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Index into [`ClusterView::backends`].
    #[serde(skip)]
    pub index: usize,
    /// The backend.
    pub backend: BackendId,
    /// The model it will be asked for, by the backend's own name.
    pub model: Arc<str>,
    /// Why it stands here.
    pub reason: Reason,
    /// Predicted cost of this request there; `None` = unknown throughput or price.
    pub predicted_cost: Option<Money>,
    /// What the request would add to the bill there, as [`CostBasis::Marginal`](crate::route::CostBasis)
    /// sees it.
    pub marginal_cost: Option<Money>,
    /// Price per 1,000 tokens there, for this request's mix of input and output.
    pub cost_per_1k: Option<Money>,
    /// Predicted time to first token.
    pub predicted_ttft: Option<Duration>,
    /// Age of the fact it was judged on; zero for a provider nothing is known of yet.
    pub fact_age: Duration,
    /// What speaks against it: set where it is tried although it was ejected ([`Reason::LeastBad`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_for: Option<Refusal>,
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
    let strategy = request.hints.strategy.unwrap_or(policy.strategy);
    let mut candidates: Vec<Candidate<'_>> = Vec::with_capacity(view.backends.len());
    let mut refused = Vec::new();
    let mut pool = Pool::default();
    let mut a_cluster_serves = false;
    let mut looked_at = 0;
    let mut walk = Walk::new(view, request, strategy, draw);
    while let Some(index) = walk.next() {
        looked_at += 1;
        let backend = &view.backends[index];
        let judged = judge(view, index, loads, request, policy, now);
        a_cluster_serves |= backend.spec.is_cluster() && judged.serves;
        pool.serving += usize::from(judged.serves);
        match judged.verdict {
            Ok(candidate) => {
                let score = &candidate.score;
                let good = score.has_room() && (strategy != Strategy::Slo || score.meets(&policy.slo));
                walk.found(good);
                candidates.push(candidate);
            }
            Err(refusal) => {
                pool.ejected += usize::from(refusal.ejects());
                match judged.ejected {
                    Some(candidate) => pool.broken.push((candidate, refusal)),
                    None => refused.push((backend.spec.id.clone(), refusal)),
                }
            }
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
    let mut places = order::order(&candidates, strategy, policy, draw);
    let sticky = if pinned { None } else { request.sticky.as_ref() };
    let is_sticky = |id: &BackendId, at: usize| view.backends[candidates[at].index].spec.id == *id;
    let sticky = sticky.and_then(|id| places.iter().position(|at| is_sticky(id, *at)));
    if let Some(place) = sticky {
        places[..=place].rotate_right(1);
    }
    let reasons = Reasons {
        strategy,
        policy,
        clusters_refused: a_cluster_serves && candidates.iter().all(|candidate| !candidate.cluster),
        pinned,
        sticky: sticky.is_some(),
        fallbacks_from: fallbacks_from(&places, &candidates),
    };
    let not_looked_at = view.backends.len() - looked_at;
    let step = |(place, at): (usize, &usize)| {
        let candidate = &candidates[*at];
        Step {
            index: candidate.index,
            backend: view.backends[candidate.index].spec.id.clone(),
            model: Arc::clone(&candidate.model.name),
            reason: reasons.of(place, candidate),
            predicted_cost: candidate.score.predicted_cost,
            marginal_cost: candidate.marginal_cost,
            cost_per_1k: candidate.score.cost_per_1k,
            predicted_ttft: candidate.score.predicted_ttft,
            fact_age: candidate.fact_age,
            ejected_for: None,
        }
    };
    let mut steps: Vec<Step> = places.iter().enumerate().map(step).collect();
    steps.extend(readmitted.into_iter().map(|(candidate, refusal)| Step {
        index: candidate.index,
        backend: view.backends[candidate.index].spec.id.clone(),
        model: Arc::clone(&candidate.model.name),
        reason: Reason::LeastBad,
        predicted_cost: candidate.score.predicted_cost,
        marginal_cost: None,
        cost_per_1k: candidate.score.cost_per_1k,
        predicted_ttft: candidate.score.predicted_ttft,
        fact_age: candidate.fact_age,
        ejected_for: Some(refusal),
    }));
    Plan { strategy, steps, refused, not_looked_at, ejection }
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
    let judged = |index: usize| {
        let refusal = judge(view, index, loads, request, policy, now).verdict.err();
        (view.backends[index].spec.id.clone(), refusal)
    };
    (0..view.backends.len()).filter(unseen).map(judged).collect()
}

/// What is found of one backend.
struct Judged<'v> {
    /// Whether it would serve the request if it were well.
    serves: bool,
    verdict: Result<Candidate<'v>, Refusal>,
    /// The candidate it would be but for its circuit breaker.
    ejected: Option<Candidate<'v>>,
}

fn judge<'v>(
    view: &'v PreparedView,
    index: usize,
    loads: &impl Loads,
    request: &Request,
    policy: &Policy,
    now: Moment,
) -> Judged<'v> {
    let backend = &view.backends[index];
    let refuse = |serves, refusal| Judged { serves, verdict: Err(refusal), ejected: None };
    if let Some(pinned) = request.hints.backend.as_ref().filter(|id| **id != backend.spec.id) {
        return refuse(false, Refusal::NotPinned { pinned: pinned.clone() });
    }
    if !request.rights.allow_backend(&backend.spec.id) {
        return refuse(false, Refusal::BackendNotAllowed);
    }
    let facts = view.facts(index, now);
    let models = match &facts {
        Some(facts) if !facts.models.is_empty() => facts.models,
        _ => eligible::known_models(backend),
    };
    let load = loads.load(index, request.input_tokens.saturating_add(request.output_tokens), now);
    let model = match eligible::resolve(&backend.spec, models, request) {
        Ok(model) => model,
        Err(Refusal::ModelsUnknown) => {
            // That nothing was heard of a cluster says more than that its models are unknown. It may
            // serve whatever is left to the router, but nobody can say so of a model that is named.
            let state = eligible::admit(backend, facts.as_ref(), "", &load, policy, now);
            let any_model = request.model.as_deref().is_none_or(|name| name == ANY_MODEL);
            return refuse(any_model, state.err().unwrap_or(Refusal::ModelsUnknown));
        }
        Err(refusal) => return refuse(false, refusal),
    };
    let admitted = eligible::admit(backend, facts.as_ref(), &model.name, &load, policy, now);
    if let Err(refusal) = &admitted {
        let rest =
            || eligible::admit_whatever_its_breaker(backend, facts.as_ref(), &model.name, &load, policy, now);
        if refusal.badness().is_none() || rest().is_err() {
            return refuse(true, refusal.clone());
        }
    }
    let report = facts.as_ref().map(|facts| &facts.report);
    let score = score(backend, view.ready(index), model, report, &load, request);
    if let Some(max) = request.hints.max_cost {
        match score.predicted_cost {
            None => return refuse(true, Refusal::CostUnknown),
            Some(predicted) if predicted > max => return refuse(true, Refusal::TooDear { predicted, max }),
            Some(_) => {}
        }
    }
    if let Some(at) = backend.standing.preempted_at
        && !ends_in_time(score.predicted_duration(request.output_tokens), at, now)
    {
        return refuse(true, Refusal::Preempted { at });
    }
    let cluster = backend.spec.is_cluster();
    let fact_age = facts.map_or(Duration::ZERO, |facts| facts.age);
    let candidate = Candidate { index, cluster, model, score, marginal_cost: None, fact_age };
    match admitted {
        Ok(()) => Judged { serves: true, verdict: Ok(candidate), ejected: None },
        Err(refusal) => Judged { serves: true, verdict: Err(refusal), ejected: Some(candidate) },
    }
}

/// The first place held by the other class than the first candidate's: from there on each step stands
/// in for a class that was tried before it.
fn fallbacks_from(places: &[usize], candidates: &[Candidate<'_>]) -> usize {
    let class = |at: &usize| candidates[*at].cluster;
    let first = places.first().map(class);
    let other = places.iter().position(|at| Some(class(at)) != first);
    other.unwrap_or(places.len())
}

/// Labels each place of an ordered plan.
struct Reasons<'p> {
    strategy: Strategy,
    policy: &'p Policy,
    /// Clusters serve the model, and each of them was refused.
    clusters_refused: bool,
    pinned: bool,
    sticky: bool,
    fallbacks_from: usize,
}

impl Reasons<'_> {
    fn of(&self, place: usize, candidate: &Candidate<'_>) -> Reason {
        let fallback = if candidate.cluster { Reason::ClusterFallback } else { Reason::ExternalFallback };
        if self.pinned {
            return Reason::Pinned;
        }
        if self.sticky && place == 0 {
            return Reason::Sticky;
        }
        if place >= self.fallbacks_from {
            return fallback;
        }
        let stands_in = !candidate.cluster && self.clusters_refused;
        let priced = candidate.score.predicted_cost.is_some();
        match self.strategy {
            Strategy::Hybrid if order::under_threshold(candidate, self.policy) => Reason::HybridCluster,
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
pub fn serves<'a>(models: &'a [ServedModel], asked: &str) -> Option<&'a ServedModel> {
    models
        .iter()
        .find(|m| *m.name == *asked)
        .or_else(|| models.iter().find(|m| m.aliases.iter().any(|alias| alias == asked)))
}
