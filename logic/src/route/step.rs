//! One attempt of a plan, with all it was judged by.
//!
//! A step keeps the score as it was worked out; amounts, times and terms are read from it when somebody
//! asks. So a plan of many steps is small, and what nobody reads is never computed.

use crate::backend::ServedModel;
use crate::ids::{BackendId, NodeId};
use crate::money::Money;
use crate::route::amount::Amount;
use crate::route::eligible::Refusal;
use crate::route::order::Candidate;
use crate::route::score::Score;
use crate::route::strategy::Reason;
use crate::route::terms::Terms;
use crate::route::total::{Compared, Total};
use crate::time::{Moment, millis_f64};
use crate::view::PeerFact;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::time::Duration;

/// One attempt of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Index into [`ClusterView::backends`](crate::view::ClusterView::backends).
    pub index: usize,
    /// The backend.
    pub backend: BackendId,
    /// The model it will be asked for, by the backend's own name.
    pub model: Arc<str>,
    /// Why it stands here.
    pub reason: Reason,
    /// The peer whose router it goes through; absent where this node reaches it by itself.
    pub via: Option<NodeId>,
    /// What speaks against it: set where it is tried although it was ejected ([`Reason::LeastBad`]).
    pub ejected_for: Option<Box<Refusal>>,
    fact_age: Duration,
    score: Score,
    marginal_cost: Option<Amount>,
    cost_per_1k: Option<Amount>,
    compared: Compared,
    meets_slo: bool,
    meets_deadline: Option<bool>,
    output_tokens: u32,
}

/// What a step has of the request and of its place, besides the candidate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) reason: Reason,
    pub(crate) compared: Compared,
    pub(crate) cost_per_1k: Option<Amount>,
    pub(crate) meets_slo: bool,
    pub(crate) meets_deadline: Option<bool>,
    pub(crate) output_tokens: u32,
}

impl Step {
    #[expect(clippy::inline_always, reason = "a step is made where it stays instead of being copied there")]
    #[inline(always)]
    pub(crate) fn new(candidate: &Candidate<'_>, backend: &BackendId, place: Place) -> Self {
        let ServedModel { name, .. } = candidate.model;
        Self {
            index: candidate.index,
            backend: backend.clone(),
            model: Arc::clone(name),
            reason: place.reason,
            via: candidate.via.cloned(),
            ejected_for: None,
            fact_age: candidate.fact_age,
            score: candidate.score,
            marginal_cost: candidate.marginal_cost,
            cost_per_1k: place.cost_per_1k,
            compared: place.compared,
            meets_slo: place.meets_slo,
            meets_deadline: place.meets_deadline,
            output_tokens: place.output_tokens,
        }
    }

    /// The same by way of the peer that said `fact`.
    pub(crate) fn through(&self, fact: &PeerFact, now: Moment) -> Self {
        Self { via: Some(fact.node.clone()), fact_age: now.since(fact.arrived_at), ..self.clone() }
    }

    /// Predicted cost of this request there; `None` = unknown throughput or price.
    pub fn predicted_cost(&self) -> Option<Money> {
        self.score.cost.map(Money::from)
    }

    /// What the request would add to the bill there, as
    /// [`CostBasis::Marginal`](crate::route::CostBasis) sees it.
    pub fn marginal_cost(&self) -> Option<Money> {
        self.marginal_cost.map(Money::from)
    }

    /// Price per 1,000 tokens there, for this request's mix of input and output.
    pub fn cost_per_1k(&self) -> Option<Money> {
        self.cost_per_1k.map(Money::from)
    }

    /// Predicted time to first token; `None` = never measured.
    pub fn predicted_ttft(&self) -> Option<Duration> {
        self.score.ttft.map(|micros| Duration::from_micros(micros.into()))
    }

    /// Age of the fact it was judged on; zero for a provider nothing is known of yet.
    pub fn fact_age(&self) -> Duration {
        self.fact_age
    }

    /// All that the strategy compared of it, as one number and the terms that add up to it.
    pub fn total(&self) -> Total {
        Total::of(self.compared, &self.score, self.marginal_cost)
    }

    /// What its place rests on, one by one.
    pub fn terms(&self) -> Terms {
        let score = &self.score;
        Terms {
            ttft: score.ttft,
            ttft_late: score.ttft_upper,
            egress: score.egress.into(),
            rtt: score.rtt,
            own_ttft: score.own_ttft,
            wait: score.wait(),
            tpot: score.tpot,
            completion: score.completion(self.output_tokens),
            load: score.load,
            places: score.places,
            meets_slo: self.meets_slo,
            meets_deadline: self.meets_deadline,
            sticky: self.reason == Reason::Sticky,
            prefix: self.reason == Reason::PrefixAffinity,
        }
    }
}

/// As decision records tell it: amounts in dollars, times in milliseconds.
impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut told = serializer.serialize_map(None)?;
        told.serialize_entry("backend", &self.backend)?;
        told.serialize_entry("model", &self.model)?;
        told.serialize_entry("reason", &self.reason)?;
        told.serialize_entry("score", &self.total())?;
        told.serialize_entry("predicted_cost_usd", &self.predicted_cost())?;
        told.serialize_entry("marginal_cost_usd", &self.marginal_cost())?;
        told.serialize_entry("cost_per_1k_usd", &self.cost_per_1k())?;
        told.serialize_entry("predicted_ttft_ms", &self.predicted_ttft().map(millis_f64))?;
        told.serialize_entry("fact_age_ms", &millis_f64(self.fact_age))?;
        if let Some(via) = &self.via {
            told.serialize_entry("via", via)?;
        }
        told.serialize_entry("terms", &self.terms())?;
        if let Some(why) = &self.ejected_for {
            told.serialize_entry("ejected_for", why)?;
        }
        told.end()
    }
}
