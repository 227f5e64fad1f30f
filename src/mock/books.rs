//! What a mock counted, so that a router's ledger can be checked against the other side's truth.

use super::generation::Usage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names counted one by one; further models share the row [`OTHER_MODELS`].
const MODEL_NAMES_MAX: usize = 256;
/// The row of models beyond the bound.
const OTHER_MODELS: &str = "(other)";

/// A mock's books. `docs/MOCK.md` says when each figure moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Answers completed with usage: chat, completion, response and embedding requests whose last byte
    /// was produced. Usage counts here even where a fault made the answer misstate it.
    pub requests: u64,
    /// Input tokens of those answers.
    pub input_tokens: u64,
    /// Output tokens of those answers.
    pub output_tokens: u64,
    /// Inference requests that arrived, whatever became of them.
    pub received: u64,
    /// Inference requests answered with an error, on purpose or for cause.
    pub errors: u64,
    /// Requests whose client left before the answer was complete: queued, hanging or producing.
    pub cancelled: u64,
    /// Answers that a fault rule ended early.
    pub broken: u64,
    /// Input tokens of answers that were started and not completed.
    pub unfinished_input_tokens: u64,
    /// Output tokens produced by answers that were not completed.
    pub unfinished_output_tokens: u64,
    /// Requests that hold a slot now.
    pub in_flight: u64,
    /// Requests that wait for a slot now.
    pub queued: u64,
    /// Most slots held at once.
    pub peak_in_flight: u64,
    /// Most requests waiting at once.
    pub peak_queued: u64,
    /// Times a fault rule fired.
    pub faults: u64,
    /// What the completed answers stated of themselves, right or wrong: what a provider bills by.
    pub stated: StatedBooks,
    /// The first three figures per model.
    pub by_model: BTreeMap<String, ModelBooks>,
}

/// Usage as completed answers stated it, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedBooks {
    /// Answers that stated any usage other than zero.
    pub requests: u64,
    /// Answers that stated none, or zero.
    pub silent: u64,
    /// Input tokens neither read from nor written to a cache.
    pub input_tokens: u64,
    /// Input tokens read from a cache.
    pub cached_tokens: u64,
    /// Input tokens written to a cache.
    pub written_tokens: u64,
    /// Output tokens other than reasoning.
    pub output_tokens: u64,
    /// Reasoning tokens.
    pub reasoning_tokens: u64,
}

/// One model's share of the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelBooks {
    /// Answers completed.
    pub requests: u64,
    /// Their input tokens.
    pub input_tokens: u64,
    /// Their output tokens.
    pub output_tokens: u64,
}

impl Books {
    pub(crate) fn complete(&mut self, model: &str, input: u64, output: u64) {
        self.requests += 1;
        self.input_tokens += input;
        self.output_tokens += output;
        let known = self.by_model.contains_key(model) || self.by_model.len() < MODEL_NAMES_MAX;
        let row = self.by_model.entry(if known { model } else { OTHER_MODELS }.to_owned()).or_default();
        row.requests += 1;
        row.input_tokens += input;
        row.output_tokens += output;
    }

    pub(crate) fn state(&mut self, usage: Option<Usage>) {
        let stated = &mut self.stated;
        let Some(usage) = usage.filter(|usage| usage.input + usage.output > 0) else {
            stated.silent += 1;
            return;
        };
        stated.requests += 1;
        stated.input_tokens += usage.input - usage.cached - usage.written;
        stated.cached_tokens += usage.cached;
        stated.written_tokens += usage.written;
        stated.output_tokens += usage.output - usage.reasoning;
        stated.reasoning_tokens += usage.reasoning;
    }

    pub(crate) fn take_slot(&mut self) {
        self.in_flight += 1;
        self.peak_in_flight = self.peak_in_flight.max(self.in_flight);
    }

    pub(crate) fn wait_in_line(&mut self) {
        self.queued += 1;
        self.peak_queued = self.peak_queued.max(self.queued);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_are_bounded_and_nothing_is_lost() {
        let mut books = Books::default();
        for n in 0..1_000 {
            books.complete(&format!("model-{n}"), 2, 3);
        }
        assert_eq!(books.by_model.len(), MODEL_NAMES_MAX + 1);
        assert_eq!(books.by_model.values().map(|row| row.requests).sum::<u64>(), books.requests);
        assert_eq!(books.output_tokens, 3_000);
    }
}
