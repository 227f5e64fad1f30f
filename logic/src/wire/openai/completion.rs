//! Legacy completions: the stream that llama.cpp is always asked for, put together again for a client that
//! wants one body.

use super::{answer_id, read_usage, write_usage};
use crate::cost::usage::Usage;
use crate::wire::Exchange;
use serde_json::{Map, Value, json};

/// A completion put together from its chunks.
#[derive(Debug, Default)]
pub(in crate::wire) struct Assembly {
    id: Option<String>,
    choices: Vec<Choice>,
    usage: Option<Usage>,
    bytes: usize,
}

#[derive(Debug)]
struct Choice {
    index: u64,
    text: String,
    /// The four parallel arrays of legacy log probabilities, or llama.cpp's `content`.
    logprobs: Map<String, Value>,
    finish_reason: Option<String>,
}

impl Assembly {
    /// Adds one chunk. Returns the bytes held so far, for the caller's bound.
    pub(in crate::wire) fn add(&mut self, chunk: &Value) -> usize {
        self.id = self.id.take().or_else(|| chunk.get("id").and_then(Value::as_str).map(str::to_owned));
        self.usage = chunk.get("usage").and_then(read_usage).or(self.usage);
        let mut bytes = 0;
        for entry in chunk.get("choices").and_then(Value::as_array).into_iter().flatten() {
            let index = entry.get("index").and_then(Value::as_u64).unwrap_or(0);
            let text = entry.get("text").and_then(Value::as_str).unwrap_or_default();
            bytes += text.len() + 64;
            let choice = self.choice(index);
            choice.text.push_str(text);
            if let Some(reason) = entry.get("finish_reason").and_then(Value::as_str) {
                choice.finish_reason = Some(reason.to_owned());
            }
            for (key, values) in entry.get("logprobs").and_then(Value::as_object).into_iter().flatten() {
                let Some(values) = values.as_array() else { continue };
                bytes += values.len() * 128;
                let held = choice.logprobs.entry(key.clone()).or_insert_with(|| json!([]));
                if let Value::Array(held) = held {
                    held.extend(values.iter().cloned());
                }
            }
        }
        self.bytes += bytes;
        self.bytes
    }

    /// Whether every choice begun has ended.
    pub(in crate::wire) fn is_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finish_reason.is_some())
    }

    /// The whole body.
    pub(in crate::wire) fn body(&self, exchange: &Exchange) -> Value {
        let choices: Vec<Value> = self
            .choices
            .iter()
            .map(|choice| {
                let logprobs = if choice.logprobs.is_empty() {
                    Value::Null
                } else {
                    Value::Object(choice.logprobs.clone())
                };
                json!({
                    "text": choice.text,
                    "index": choice.index,
                    "logprobs": logprobs,
                    "finish_reason": choice.finish_reason.as_deref().unwrap_or("stop"),
                })
            })
            .collect();
        let mut body = json!({
            "id": answer_id("cmpl-", self.id.as_deref(), &exchange.response_id),
            "object": "text_completion",
            "created": exchange.created,
            "model": exchange.model,
            "choices": choices,
        });
        if let Some(usage) = &self.usage {
            body["usage"] = write_usage(usage);
        }
        body
    }

    fn choice(&mut self, index: u64) -> &mut Choice {
        let at = match self.choices.binary_search_by_key(&index, |choice| choice.index) {
            Ok(at) => at,
            Err(at) => {
                let choice = Choice { index, text: String::new(), logprobs: Map::new(), finish_reason: None };
                self.choices.insert(at, choice);
                at
            }
        };
        &mut self.choices[at]
    }
}
