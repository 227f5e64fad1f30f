//! The last decisions of this node, each with everything it was judged on.

use llm_router_logic::cost::usage::Usage;
use llm_router_logic::guard::ejection::Ejection;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::money::Money;
use llm_router_logic::route::{Reason, RefusalNote, Step, Strategy};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Decisions kept; the oldest goes first.
const KEPT: usize = 1_000;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not yet.
    Running,
    /// Answered in full.
    Served,
    /// The client was told an error.
    Failed,
    /// The client went away.
    Cancelled,
}

/// Why no further backend was tried after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// Another backend would have been told the same: the mistake is the client's, or its time is over.
    NotRetriable,
    /// As many attempts as a request may have.
    AttemptsMax,
    /// The fleet's budget for second attempts is used up.
    RetryBudget,
    /// The client's deadline has passed.
    Deadline,
    /// The plan has no further step that could take it.
    NoCandidateLeft,
}

impl Stopped {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRetriable => "not_retriable",
            Self::AttemptsMax => "attempts_max",
            Self::RetryBudget => "retry_budget",
            Self::Deadline => "deadline",
            Self::NoCandidateLeft => "no_candidate_left",
        }
    }
}

/// A candidate that was passed over.
#[derive(Clone, Debug, Serialize)]
pub struct PassedOver {
    /// Which.
    pub backend: BackendId,
    /// Why.
    pub why: String,
}

/// How one of two attempts at the same time fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hedge {
    /// Both were silent to the end.
    Running,
    /// It began to answer first.
    Won,
    /// The other one began first: this one was cancelled.
    Lost,
    /// It failed before either had begun.
    Failed,
    /// The other one failed before either had begun.
    Alone,
}

impl Hedge {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Failed => "failed",
            Self::Alone => "alone",
        }
    }
}

/// One attempt at a backend.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// Where.
    pub backend: BackendId,
    /// How long it waited for a place there.
    pub waited_ms: u64,
    /// Which model there.
    pub model: Arc<str>,
    /// The peer whose router made it; absent where this node did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<NodeId>,
    /// How it fared against an attempt made at the same time; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// Why it failed; absent where it did not.
    pub fault: Option<String>,
}

/// The record of one request.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// As in the header `x-llm-router-decision`.
    pub id: String,
    /// When it was decided.
    pub unix_ms: u64,
    /// The model asked for.
    pub model: String,
    /// The strategy applied.
    pub strategy: Strategy,
    /// The backend that was tried last.
    pub backend: Option<BackendId>,
    /// The model asked of it.
    pub backend_model: Option<Arc<str>>,
    /// Why that one.
    pub reason: Option<Reason>,
    /// How it ended.
    pub outcome: Outcome,
    /// HTTP status told, 499 where the client went away.
    pub status: u16,
    /// What the client was told where it failed.
    pub error: Option<String>,
    /// Attempts in order.
    pub attempts: Vec<Attempt>,
    /// Candidates that had no place for it, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
    /// Why no further backend was tried, where an attempt failed and the client was told so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Time to first token of the last attempt.
    pub ttft_ms: Option<u64>,
    /// From request to last byte.
    pub duration_ms: u64,
    /// Input tokens as predicted before it ran.
    pub predicted_input_tokens: u32,
    /// Output tokens as predicted before it ran.
    pub predicted_output_tokens: u32,
    /// Cost as predicted.
    #[serde(rename = "predicted_cost_usd")]
    pub predicted_cost: Option<Money>,
    /// Cost in truth; `null` = unpriced.
    #[serde(rename = "cost_usd")]
    pub cost: Option<Money>,
    /// The same tokens at the cheapest provider that could have served them.
    #[serde(rename = "external_cost_usd")]
    pub external_cost: Option<Money>,
    /// Tokens by class.
    pub usage: Usage,
    /// Whether the tokens were estimated, since the backend never told.
    pub usage_estimated: bool,
    /// The plan.
    pub candidates: Vec<Step>,
    /// Who was refused and why.
    pub refused: Vec<(BackendId, RefusalNote)>,
    /// How many were ejected for their failures, and how many of these were candidates after all.
    #[serde(skip_serializing_if = "Ejection::is_none")]
    pub ejection: Ejection,
    /// Who could have served it too, but was not looked at: only where there are very many backends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_looked_at: Vec<BackendId>,
    /// What else bore on it.
    #[serde(flatten)]
    pub circumstances: Circumstances,
}

/// Where an answer came from that was made for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AnsweredFrom {
    /// The kept answer of its idempotency key.
    IdempotencyKey,
    /// The running generation of its idempotency key.
    RunningKey,
    /// The response cache.
    Cache,
    /// The running generation of an equal request.
    RunningAnswer,
}

impl AnsweredFrom {
    /// The word for it in records and traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdempotencyKey => "idempotency_key",
            Self::RunningKey => "running_key",
            Self::Cache => "cache",
            Self::RunningAnswer => "running_answer",
        }
    }
}

/// What else bore on a decision; what did not is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Circumstances {
    /// The sleeping cluster it would have gone to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<BackendId>,
    /// How long it waited for that one to wake, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// Arms of experiments it is in, each as `experiment=arm`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub experiments: Vec<String>,
    /// Whether a kept answer served it, without a backend.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// For a shadow copy: its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
    /// For a shadow copy: the id of the decision it copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_of: Option<String>,
    /// Where its answer came from; absent where it was generated for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_from: Option<AnsweredFrom>,
    /// The id of the decision whose answer it got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_of: Option<String>,
}

/// Who is told of each decision of a client's request. It must not wait.
pub type Listener = Box<dyn Fn(&Decision) + Send + Sync>;

/// A bounded ring of decisions.
#[derive(Default)]
pub struct Decisions {
    ring: Mutex<VecDeque<Arc<Decision>>>,
    listener: OnceLock<Listener>,
}

impl Decisions {
    /// Decisions that are told to `listener` too.
    pub fn told_to(listener: Listener) -> Self {
        Self { ring: Mutex::default(), listener: OnceLock::from(listener) }
    }

    /// Keeps one, forgetting the oldest where the ring is full.
    pub fn keep(&self, decision: Decision) {
        if let Some(listener) = self.listener.get().filter(|_| decision.circumstances.shadow.is_none()) {
            listener(&decision);
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(Arc::new(decision));
    }

    /// The newest first.
    pub fn newest(&self, count: usize) -> Vec<Arc<Decision>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().take(count).cloned().collect()
    }

    /// One by its id.
    pub fn find(&self, id: &str) -> Option<Arc<Decision>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().find(|decision| decision.id == id).cloned()
    }
}
