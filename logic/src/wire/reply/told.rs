//! What an upstream says of itself: its usage as it wrote it, the tier it charges by, the model that answered and
//! why it stopped.

use crate::wire::json::Shallow;
use std::sync::Arc;

/// Bound on one usage object that is kept, in bytes; a larger one is not.
const BYTES_MAX: usize = 4_096;
/// Tiers charged at the batch price (OpenAI calls the same price for single requests `flex`).
const BATCH_TIERS: [&str; 2] = ["\"batch\"", "\"flex\""];

/// Longest name of a model that is kept, in bytes.
const MODEL_BYTES_MAX: usize = 128;
/// Longest word that says why an answer ended, and most of them.
const REASON_BYTES_MAX: usize = 32;
const REASONS_MAX: usize = 8;
/// Members that say why, and those that name the model.
const REASONS: [&str; 3] = ["\"finish_reason\"", "\"stop_reason\"", "\"finishReason\""];
const MODELS: [&str; 2] = ["\"model\"", "\"modelVersion\""];

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of a message's start (Anthropic).
    start: Option<Arc<str>>,
    /// The newest elsewhere.
    latest: Option<Arc<str>>,
    pub(super) batch: bool,
    /// The model that answers, as it calls itself.
    pub(super) model: Option<Arc<str>>,
    /// Why it stopped, once per choice, separated by commas.
    pub(super) finish: Option<Arc<str>>,
}

impl Told {
    /// Looks into one event or body.
    pub(super) fn note(&mut self, text: &str) {
        self.note_words(text);
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

    /// Finds words by their member's name: within a text a quote is escaped, so that no text is taken for one.
    fn note_words(&mut self, text: &str) {
        if self.model.is_none() {
            let named = MODELS.iter().find_map(|key| words(text, key, MODEL_BYTES_MAX).next());
            self.model = named.map(Arc::from);
        }
        if !text.contains("eason\"") {
            return;
        }
        for reason in REASONS.iter().flat_map(|key| words(text, key, REASON_BYTES_MAX)) {
            let known = self.finish.as_deref().unwrap_or_default();
            let is_word = reason.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            if is_word && known.split(',').count() < REASONS_MAX {
                let comma = if known.is_empty() { "" } else { "," };
                self.finish = Some(format!("{known}{comma}{reason}").into());
            }
        }
    }

    /// The usage as it was told.
    pub(super) fn usage(&self) -> Option<Arc<str>> {
        match (&self.start, &self.latest) {
            (Some(start), Some(latest)) => Some(format!("[{start},{latest}]").into()),
            (start, latest) => latest.clone().or_else(|| start.clone()),
        }
    }
}

/// The texts that stand in `text` as values of members `key` (written with its quotes), of at most `bytes_max`
/// bytes and without escapes.
fn words<'t>(text: &'t str, key: &'static str, bytes_max: usize) -> impl Iterator<Item = &'t str> {
    text.match_indices(key).filter_map(move |(at, _)| {
        let value = text[at + key.len()..].trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        let end = value.find('"')?;
        let word = &value[..end];
        (!word.is_empty() && end <= bytes_max && !word.contains('\\')).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_and_why_it_stopped_are_read_in_every_dialect() {
        let said = |texts: &[&str]| {
            let mut told = Told::default();
            texts.iter().for_each(|text| told.note(text));
            (told.model.unwrap_or_default().to_string(), told.finish.unwrap_or_default().to_string())
        };
        let openai = [
            r#"{"model":"gpt-x-2026","choices":[{"delta":{"content":"a \"finish_reason\": \"lie\""},"finish_reason":null}]}"#,
            r#"{"model":"gpt-x-2026","choices":[{"index":0,"finish_reason": "stop"},{"index":1,"finish_reason":"length"}]}"#,
        ];
        assert_eq!(said(&openai), ("gpt-x-2026".to_owned(), "stop,length".to_owned()));
        let anthropic = [
            r#"{"type":"message_start","message":{"model":"claude-y","stop_reason":null}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#,
        ];
        assert_eq!(said(&anthropic), ("claude-y".to_owned(), "end_turn".to_owned()));
        let gemini = [r#"{"candidates":[{"finishReason":"STOP"}],"modelVersion":"gemini-z"}"#];
        assert_eq!(said(&gemini), ("gemini-z".to_owned(), "STOP".to_owned()));
        assert_eq!(said(&[r#"{"finish_reason":"no word, a text"}"#]), Default::default());
    }

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
