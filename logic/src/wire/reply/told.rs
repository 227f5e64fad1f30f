//! What an upstream says of its own bill: its usage as it wrote it, and the tier it charges by.

use crate::wire::json::Shallow;
use std::sync::Arc;

/// Bound on one usage object that is kept, in bytes; a larger one is not.
const BYTES_MAX: usize = 4_096;
/// Tiers charged at the batch price (OpenAI calls the same price for single requests `flex`).
const BATCH_TIERS: [&str; 2] = ["\"batch\"", "\"flex\""];

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of a message's start (Anthropic).
    start: Option<Arc<str>>,
    /// The newest elsewhere.
    latest: Option<Arc<str>>,
    pub(super) batch: bool,
}

impl Told {
    /// Looks into one event or body.
    pub(super) fn note(&mut self, text: &str) {
        // Most events tell nothing of the kind, and this is far cheaper than to parse them.
        if !(text.contains("\"usage") || text.contains("_tier\"")) {
            return;
        }
        let Ok(members) = Shallow::read(text) else { return };
        let nested = ["message", "response"].iter().find_map(|name| Shallow::read(members.get(name)?).ok());
        let usage = members.get("usage").or_else(|| members.get("usageMetadata"));
        let nested_usage = nested.as_ref().and_then(|nested| nested.get("usage"));
        let kept = |raw: &str| (raw.len() <= BYTES_MAX).then(|| Arc::from(raw));
        if let Some(raw) = usage {
            self.latest = kept(raw);
        } else if let Some(raw) = nested_usage {
            let place = if members.get("message").is_some() { &mut self.start } else { &mut self.latest };
            *place = kept(raw);
        }
        let in_usage = usage.or(nested_usage).and_then(|raw| Shallow::read(raw).ok());
        let tiers = [Some(&members), nested.as_ref(), in_usage.as_ref()];
        self.batch |= tiers
            .into_iter()
            .flatten()
            .filter_map(|members| members.get("service_tier"))
            .any(|tier| BATCH_TIERS.contains(&tier));
    }

    /// The usage as it was told.
    pub(super) fn usage(&self) -> Option<Arc<str>> {
        match (&self.start, &self.latest) {
            (Some(start), Some(latest)) => Some(format!("[{start},{latest}]").into()),
            (start, latest) => latest.clone().or_else(|| start.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(texts: &[&str]) -> (Option<String>, bool) {
        let mut told = Told::default();
        texts.iter().for_each(|text| told.note(text));
        (told.usage().map(|usage| usage.to_string()), told.batch)
    }

    #[test]
    fn usage_is_kept_as_it_was_written() {
        let openai = r#"{"choices":[],"usage":{"prompt_tokens": 7,"odd":null},"service_tier":"default"}"#;
        assert_eq!(told(&[openai]), (Some(r#"{"prompt_tokens": 7,"odd":null}"#.into()), false));
        let gemini =
            [r#"{"usageMetadata":{"promptTokenCount":1}}"#, r#"{"usageMetadata":{"promptTokenCount":2}}"#];
        assert_eq!(told(&gemini).0.unwrap(), r#"{"promptTokenCount":2}"#);
        let responses = r#"{"type":"response.completed","response":{"usage":{"input_tokens":3}}}"#;
        assert_eq!(told(&[responses]).0.unwrap(), r#"{"input_tokens":3}"#);
    }

    #[test]
    fn a_usage_told_in_two_parts_is_kept_with_both() {
        let events = [
            r#"{"type":"message_start","message":{"usage":{"input_tokens":7,"service_tier":"batch"}}}"#,
            r#"{"type":"content_block_delta","delta":{"text":"the \"usage\" of words"}}"#,
            r#"{"type":"message_delta","usage":{"output_tokens":9}}"#,
        ];
        let expected = r#"[{"input_tokens":7,"service_tier":"batch"},{"output_tokens":9}]"#;
        assert_eq!(told(&events), (Some(expected.into()), true));
    }

    #[test]
    fn the_flex_tier_is_told_beside_the_usage() {
        assert!(told(&[r#"{"service_tier":"flex","choices":[]}"#]).1);
        assert!(!told(&[r#"{"service_tier":"priority","usage":{}}"#]).1);
    }

    #[test]
    fn what_is_too_large_or_no_json_is_left_out() {
        let large = format!(r#"{{"usage":{{"a":"{}"}}}}"#, "x".repeat(BYTES_MAX));
        assert_eq!(told(&[&large, "\"usage", r#"{"usage":null}"#]), (None, false));
    }
}
