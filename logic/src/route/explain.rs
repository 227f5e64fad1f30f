//! A decision told to a person.
//!
//! Built from a plan and the view it was made on; adds nothing to the decision.

use crate::ids::{BackendId, NodeId};
use crate::money::Money;
use crate::report::Health;
use crate::request::{ANY_MODEL, Request};
use crate::route::eligible::{Refusal, known_models, resolve};
use crate::route::plan::{LocalLoad, Plan};
use crate::route::prepared::PreparedView;
use crate::route::score::score;
use crate::route::step::Step;
use crate::route::table;
use crate::route::terms::Terms;
use crate::route::total::Total;
use crate::route::{CostBasis, Policy, Reason, Strategy};
use crate::time::{Moment, millis, told};
use crate::view::BackendView;
use crate::warmth::Warmth;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A decision with everything it was judged on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The strategy applied.
    pub strategy: Strategy,
    /// Which cost of a cluster was compared.
    pub cost_basis: CostBasis,
    /// The model asked for; `auto` where the choice was left to the router.
    pub model: String,
    /// What the request needs.
    pub needs: Vec<String>,
    /// Estimated input tokens.
    pub input_tokens: u32,
    /// Estimated output tokens.
    pub output_tokens: u32,
    /// Backends that may serve it, in the order in which they are tried.
    pub candidates: Vec<CandidateNote>,
    /// All others.
    pub refused: Vec<RefusedNote>,
}

/// A backend that may serve the request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateNote {
    /// The backend.
    pub backend: BackendId,
    /// The model it will be asked for.
    pub model: Arc<str>,
    /// Why it stands here.
    pub reason: Reason,
    /// Predicted cost of this request there; `None` = unknown.
    pub predicted_cost_usd: Option<Money>,
    /// What it would add to the bill there; `None` = unknown.
    pub marginal_cost_usd: Option<Money>,
    /// How much more (or, negative, less) that is than at the first candidate.
    pub extra_cost_usd: Option<Money>,
    /// Price per 1,000 tokens.
    pub cost_per_1k_usd: Option<Money>,
    /// Predicted time to first token, in milliseconds; `None` = never measured.
    pub predicted_ttft_ms: Option<u64>,
    /// All that the strategy compared of it, as one number: the lowest is tried first.
    pub score: Total,
    /// What its place rests on, one by one.
    pub terms: Terms,
    /// What is known of it.
    pub facts: FactNote,
}

/// A backend that may not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefusedNote {
    /// The backend.
    pub backend: BackendId,
    /// The reason in one word.
    pub code: &'static str,
    /// The reason in a sentence.
    pub text: String,
    /// Milliseconds until it may be otherwise, where that is known.
    pub retry_after_ms: Option<u64>,
    /// What the request would have cost there, where it could have been served.
    pub would_cost_usd: Option<Money>,
    /// What is known of it.
    pub facts: FactNote,
}

/// The facts a backend was judged on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FactNote {
    /// Health.
    pub health: Health,
    /// Age of the facts, in milliseconds; `None` = nothing known yet.
    pub age_ms: Option<u64>,
    /// The peer that said so; `None` = seen by this node.
    pub said_by: Option<NodeId>,
    /// Requests waiting.
    pub queue_depth: Option<u32>,
    /// Aggregate output tokens per second.
    pub tokens_per_second: Option<f32>,
    /// p95 of TTFT, in milliseconds.
    pub latency_p95_ms: Option<u32>,
    /// `cold`, `waking` or `warm`; absent for what does not scale to zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmth: Option<&'static str>,
    /// Time until its machine is taken away; absent without a notice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preempted_in_ms: Option<u64>,
}

/// A refusal as a record keeps it: in fields, and in words that need no clock to be understood.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefusalNote {
    /// The reason in fields.
    #[serde(flatten)]
    pub refusal: Refusal,
    /// The reason in a sentence, with how long it held from then on where that was known.
    pub text: String,
    /// The same time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl RefusalNote {
    /// `refusal` as it reads at `now`.
    pub fn new(refusal: Refusal, now: Moment) -> Self {
        let (text, wait) = (refusal_text(&refusal, now), refusal.retry_after(now));
        Self { refusal, text, retry_after_ms: wait.map(millis) }
    }
}

fn refusal_text(refusal: &Refusal, now: Moment) -> String {
    match (refusal, refusal.retry_after(now)) {
        (Refusal::Preempted { at }, _) => format!("{refusal} (in {})", told(at.since(now))),
        (Refusal::Cold { .. }, _) | (_, None) => refusal.to_string(),
        (_, Some(wait)) => format!("{refusal}; again in {}", told(wait)),
    }
}

/// Explains `plan`, which was made on `view` for `request` under `policy`.
pub fn explain(
    plan: &Plan,
    view: &PreparedView,
    request: &Request,
    policy: &Policy,
    now: Moment,
) -> Explanation {
    let backend = |id: &BackendId| view.backends.iter().find(|backend| backend.spec.id == *id);
    let first_cost = plan.steps.first().and_then(Step::predicted_cost);
    let candidates = plan.steps.iter().map(|step| CandidateNote {
        backend: step.backend.clone(),
        model: Arc::clone(&step.model),
        reason: step.reason,
        predicted_cost_usd: step.predicted_cost(),
        marginal_cost_usd: step.marginal_cost(),
        extra_cost_usd: step.predicted_cost().zip(first_cost).map(|(cost, first)| cost - first),
        cost_per_1k_usd: step.cost_per_1k(),
        predicted_ttft_ms: step.predicted_ttft().map(millis),
        score: step.total(),
        terms: step.terms(),
        facts: backend(&step.backend).map(|backend| fact_note(backend, now)).unwrap_or_default(),
    });
    let refused = plan.refused.iter().map(|(id, refusal)| RefusedNote {
        backend: id.clone(),
        code: refusal.code(),
        text: refusal_text(refusal, now),
        retry_after_ms: refusal.retry_after(now).map(millis),
        would_cost_usd: would_cost(refusal, view, id, request, now),
        facts: backend(id).map(|backend| fact_note(backend, now)).unwrap_or_default(),
    });
    Explanation {
        strategy: plan.strategy,
        cost_basis: policy.cost_basis,
        model: request.model.clone().unwrap_or_else(|| ANY_MODEL.to_owned()),
        needs: request.needs.iter().map(str::to_owned).collect(),
        input_tokens: request.input_tokens,
        output_tokens: request.output_tokens,
        candidates: candidates.collect(),
        refused: refused.collect(),
    }
}

fn would_cost(
    refusal: &Refusal,
    view: &PreparedView,
    id: &BackendId,
    request: &Request,
    now: Moment,
) -> Option<Money> {
    if let Refusal::TooDear { predicted, .. } | Refusal::BudgetExhausted { predicted, .. } = refusal {
        return Some(*predicted);
    }
    let index = view.backends.iter().position(|backend| backend.spec.id == *id)?;
    let (backend, facts) = (&view.backends[index], view.facts(index, now));
    let model = resolve(&backend.spec, known_models(backend), request).ok()?;
    let report = facts.as_ref().map(|facts| &facts.report);
    score(backend, view.ready(index), model, report, &LocalLoad::default(), request).cost.map(Money::from)
}

fn fact_note(backend: &BackendView, now: Moment) -> FactNote {
    let scales = backend.spec.scale_to_zero.is_some();
    let awake = backend.facts(now).is_some_and(|facts| facts.report.health == Health::Healthy);
    let warmth = match backend.standing.warmth {
        _ if awake => "warm",
        Warmth::Warm => "cold",
        warmth => warmth.as_str(),
    };
    let standing = FactNote {
        warmth: scales.then_some(warmth),
        preempted_in_ms: backend.standing.preempted_at.map(|at| millis(at.since(now))),
        ..FactNote::default()
    };
    let Some(facts) = backend.facts(now) else {
        return standing;
    };
    FactNote {
        health: facts.report.health,
        age_ms: Some(millis(facts.age)),
        said_by: facts.said_by.cloned(),
        queue_depth: Some(facts.report.queue_depth),
        tokens_per_second: facts.report.tokens_per_second,
        latency_p95_ms: facts.report.latency_p95_ms,
        ..standing
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "model {}, about {} tokens in and {} out",
            self.model, self.input_tokens, self.output_tokens
        )?;
        if !self.needs.is_empty() {
            write!(f, ", needs {}", self.needs.join(", "))?;
        }
        writeln!(f, "; strategy {}", self.strategy)?;
        if self.candidates.is_empty() {
            writeln!(f, "nothing can serve it now")?;
        }
        for (place, note) in self.candidates.iter().enumerate() {
            writeln!(f, "{}. {note}", place + 1)?;
        }
        table::write(self, f)?;
        if !self.refused.is_empty() {
            writeln!(f, "refused:")?;
        }
        for note in &self.refused {
            writeln!(f, "-  {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for CandidateNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} ({}): ", self.backend, self.model, self.reason)?;
        match self.predicted_cost_usd {
            None => write!(f, "cost unknown")?,
            Some(cost) => write!(f, "${:.6}", cost.as_usd())?,
        }
        if let Some(extra) = self.extra_cost_usd.filter(|extra| *extra != Money::ZERO) {
            let sign = if extra > Money::ZERO { "+" } else { "-" };
            write!(f, " ({sign}${:.6} against the first)", extra.as_usd().abs())?;
        }
        if let Some(per_1k) = self.cost_per_1k_usd {
            write!(f, " at ${:.6} per 1K tokens", per_1k.as_usd())?;
        }
        match self.marginal_cost_usd.filter(|cost| Some(*cost) != self.predicted_cost_usd) {
            None => {}
            Some(Money::ZERO) => write!(f, ", adding nothing to the bill")?,
            Some(marginal) => write!(f, ", adding ${:.6} to the bill", marginal.as_usd())?,
        }
        match self.predicted_ttft_ms {
            None => write!(f, ", first token not measured yet")?,
            Some(ms) => write!(f, ", first token in about {}", told(Duration::from_millis(ms)))?,
        }
        write!(f, "; {}", self.facts)
    }
}

impl fmt::Display for RefusedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.backend, self.text, self.code)?;
        if let Some(cost) = self.would_cost_usd {
            write!(f, "; would have cost ${:.6}", cost.as_usd())?;
        }
        write!(f, "; {}", self.facts)
    }
}

impl fmt::Display for FactNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(warmth) = self.warmth {
            write!(f, "{warmth}, ")?;
        }
        if let Some(ms) = self.preempted_in_ms {
            write!(f, "taken away in {}, ", told(Duration::from_millis(ms)))?;
        }
        let Some(age_ms) = self.age_ms else {
            return f.write_str("nothing known yet");
        };
        let health = match self.health {
            Health::Unknown => "health unknown",
            Health::Healthy => "healthy",
            Health::Loading => "loading",
            Health::Unhealthy => "unhealthy",
        };
        write!(f, "{health}, {} waiting", self.queue_depth.unwrap_or(0))?;
        match self.tokens_per_second {
            None => write!(f, ", tokens/s unknown")?,
            Some(speed) => write!(f, ", {speed:.1} tokens/s")?,
        }
        if let Some(p95) = self.latency_p95_ms {
            write!(f, ", p95 {}", told(Duration::from_millis(p95.into())))?;
        }
        match &self.said_by {
            None => write!(f, ", seen {} ago", told(Duration::from_millis(age_ms))),
            Some(peer) => write!(f, ", said by {peer} {} ago", told(Duration::from_millis(age_ms))),
        }
    }
}
