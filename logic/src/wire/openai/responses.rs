//! OpenAI's responses: a chat turn whose input and output are lists of items.
//!
//! Nothing is stored here, so what refers to stored state (`previous_response_id`, item references,
//! conversations, background runs) is refused and the answer says `store: false`.

pub(in crate::wire) mod decode;
pub(in crate::wire) mod forward;
mod item;
pub(in crate::wire) mod write;

use crate::cost::usage::Usage;
use serde_json::{Value, json};

/// Request fields that need stored state or another service.
pub(in crate::wire) const STATEFUL: [&str; 4] =
    ["previous_response_id", "conversation", "background", "prompt"];

fn write_usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.total_input(),
        "input_tokens_details": {
            "cached_tokens": usage.cached_read, "cache_write_tokens": usage.cache_write,
        },
        "output_tokens": usage.total_output(),
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total_input() + usage.total_output(),
    })
}
