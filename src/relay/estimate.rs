//! Token counts of a request before it runs, learnt from what backends report afterwards.
//!
//! No tokenizer on the hot path: the shape of the prompt's text and past answers are all there is. Input is
//! learnt per model, output per tenant and model; what was used least recently is forgotten first.

use llm_router_logic::cost::estimate::{InputEstimator, OutputEstimator};
use llm_router_logic::cost::shape::TextShape;
use llm_router_logic::cost::usage::Usage;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Models whose input is learnt apart.
const MODELS_MAX: usize = 1_024;
/// Tenants and models whose output is learnt apart, of about 800 bytes each.
const ANSWERS_MAX: usize = 8_192;
/// Costs are compared by the middle of past answers.
const OUTPUT_QUANTILE: f64 = 0.5;

/// What was learnt, by tenant and by the model name clients ask for.
#[derive(Debug, Default)]
pub(crate) struct Estimates {
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Default)]
struct Learnt {
    inputs: Recent<String, InputEstimator>,
    /// By model, all tenants together: stands in for a tenant of whom too little was seen.
    outputs: Recent<String, OutputEstimator>,
    tenants: Recent<(String, String), OutputEstimator>,
}

impl Estimates {
    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Input and output tokens of a prompt of `shape` whose client allows `max_tokens`.
    pub(crate) fn predict(
        &self,
        tenant: &str,
        model: &str,
        shape: &TextShape,
        max_tokens: Option<u32>,
    ) -> (u32, u32) {
        let learnt = self.learnt();
        let input = match learnt.inputs.get(model) {
            Some(one) => one.estimate(shape),
            None => InputEstimator::default().estimate(shape),
        };
        let key = (tenant.to_owned(), model.to_owned());
        let own = learnt.tenants.get(&key).filter(|one| one.is_trusted());
        let output = match own.or_else(|| learnt.outputs.get(model)) {
            Some(one) => one.estimate(OUTPUT_QUANTILE, max_tokens),
            None => OutputEstimator::default().estimate(OUTPUT_QUANTILE, max_tokens),
        };
        (input, output)
    }

    /// A prompt of `shape` turned out to have had `usage`.
    pub(super) fn learn(&self, tenant: &str, model: &str, shape: &TextShape, usage: &Usage) {
        let mut learnt = self.learnt();
        learnt.inputs.of(model.to_owned(), MODELS_MAX).learn(shape, usage.total_input());
        let output = usage.total_output();
        if output > 0 {
            learnt.outputs.of(model.to_owned(), MODELS_MAX).learn(output);
            learnt.tenants.of((tenant.to_owned(), model.to_owned()), ANSWERS_MAX).learn(output);
        }
    }
}

/// A bounded map that forgets what was learnt of least recently.
#[derive(Debug)]
struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    clock: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), clock: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Default> Recent<K, V> {
    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The entry of `key`, made where there is none; at `most` entries the oldest eighth goes first, so
    /// that room is made seldom.
    fn of(&mut self, key: K, most: usize) -> &mut V {
        self.clock += 1;
        if self.entries.len() >= most && !self.entries.contains_key(&key) {
            let mut ages: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
            let (_, bound, _) = ages.select_nth_unstable(most / 8);
            let bound = *bound;
            self.entries.retain(|_, (used, _)| *used > bound);
        }
        let entry = self.entries.entry(key).or_default();
        entry.0 = self.clock;
        &mut entry.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, output: u64) -> Usage {
        Usage { input, output, ..Usage::default() }
    }

    #[test]
    fn each_tenants_answers_are_learnt_apart_and_a_new_tenants_are_taken_for_like_the_others() {
        let estimates = Estimates::default();
        for _ in 0..20 {
            estimates.learn("short", "m", &TextShape::of_bytes(400), &usage(100, 20));
            estimates.learn("long", "m", &TextShape::of_bytes(400), &usage(100, 2_000));
        }
        let output = |tenant, model, max| estimates.predict(tenant, model, &TextShape::of_bytes(400), max).1;
        assert!((18..=22).contains(&output("short", "m", None)));
        assert!((1_800..=2_200).contains(&output("long", "m", None)));
        assert_eq!(output("long", "m", Some(64)), 64, "bounded by the client's maximum");
        let new = output("new", "m", None);
        assert!((18..=2_200).contains(&new) && new != 256, "{new}");
        assert_eq!(output("short", "other", None), 256, "another model is learnt apart");
    }

    #[test]
    fn a_crowd_of_tenants_is_bounded_and_forgets_the_oldest() {
        let mut map: Recent<u32, u32> = Recent::default();
        for key in 0..1_000 {
            *map.of(key, 80) += 1;
            *map.of(0, 80) += 1;
            assert!(map.entries.len() <= 80);
        }
        assert_eq!(map.get(&0), Some(&1_001), "what is used stays");
        assert_eq!((map.get(&1), map.get(&999)), (None, Some(&1)));
    }
}
