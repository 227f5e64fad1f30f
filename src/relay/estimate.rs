//! Token counts of a request before it runs, learnt from what backends report afterwards.
//!
//! No tokenizer on the hot path: bytes of prompt text and past answers are all there is.

use llm_router_logic::cost::estimate::{InputEstimator, OutputEstimator};
use llm_router_logic::cost::usage::Usage;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Models learnt apart; further ones go by the estimators' priors.
const MODELS_MAX: usize = 1_024;
/// Costs are compared by the middle of past answers.
const OUTPUT_QUANTILE: f64 = 0.5;

/// What was learnt, by the model name clients ask for.
#[derive(Debug, Default)]
pub(crate) struct Estimates {
    models: Mutex<HashMap<String, Learnt>>,
}

#[derive(Debug, Default)]
struct Learnt {
    input: InputEstimator,
    output: OutputEstimator,
}

impl Estimates {
    fn models(&self) -> MutexGuard<'_, HashMap<String, Learnt>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Input and output tokens of a prompt of `bytes` whose client allows `max_tokens`.
    pub(crate) fn predict(&self, model: &str, bytes: usize, max_tokens: Option<u32>) -> (u32, u32) {
        let predict = |learnt: &Learnt| {
            (learnt.input.estimate(bytes), learnt.output.estimate(OUTPUT_QUANTILE, max_tokens))
        };
        self.models().get(model).map_or_else(|| predict(&Learnt::default()), predict)
    }

    /// A prompt of `bytes` turned out to have had `usage`.
    pub(super) fn learn(&self, model: &str, bytes: usize, usage: &Usage) {
        let mut models = self.models();
        if models.len() >= MODELS_MAX && !models.contains_key(model) {
            return;
        }
        let learnt = models.entry(model.to_owned()).or_default();
        learnt.input.learn(bytes, usage.total_input());
        learnt.output.learn(usage.total_output());
    }
}
