//! Proofs of reasoning ("signatures") that another provider signed.
//!
//! A conversation may change its backend between two turns. Each provider refuses a proof it did not sign,
//! so what this router once passed to the client from elsewhere (marked as such) is taken out of a body
//! that otherwise passes through. Reasoning without a proof goes too: Anthropic refuses it as well.

use super::gemini::{ANTHROPIC_MARK, SIGNATURE_MARK};
use super::json::{Shallow, Splice, elements, parse};
use serde_json::Value;

/// Takes foreign thinking blocks out of a messages body; lists what was taken.
pub(super) fn drop_from_messages(body: &str, members: &Shallow<'_>, splice: &mut Splice) -> Vec<String> {
    // Bodies without any thinking, almost all, are told by a search.
    if !body.contains("\"thinking\"") {
        return Vec::new();
    }
    let is_foreign = |block: &Shallow<'_>| {
        let is_thinking = text(block, "type").as_deref() == Some("thinking");
        let signature = text(block, "signature").unwrap_or_default();
        is_thinking && (signature.is_empty() || signature.starts_with(SIGNATURE_MARK))
    };
    drop_parts(body, members.get("messages"), "messages", "content", is_foreign, splice)
}

/// Takes foreign thoughts out of a `generateContent` body; lists what was taken.
pub(super) fn drop_from_contents(body: &str, members: &Shallow<'_>, splice: &mut Splice) -> Vec<String> {
    if !body.contains(ANTHROPIC_MARK) {
        return Vec::new();
    }
    let is_foreign = |part: &Shallow<'_>| {
        let signature = text(part, "thoughtSignature").or_else(|| text(part, "thought_signature"));
        signature.is_some_and(|signature| signature.starts_with(ANTHROPIC_MARK))
    };
    drop_parts(body, members.get("contents"), "contents", "parts", is_foreign, splice)
}

/// Takes what this router added for another provider's sake out of a chat completions body: OpenAI refuses
/// fields it does not know. Signed blocks take the plain text of the same reasoning with them.
pub(super) fn drop_from_chat(body: &str, members: &Shallow<'_>, splice: &mut Splice) -> Vec<String> {
    let mut dropped = Vec::new();
    if !body.contains("\"thinking_blocks\"") && !body.contains("\"thought_signature\"") {
        return dropped;
    }
    for (at, message) in members.get("messages").and_then(elements).into_iter().flatten().enumerate() {
        let Ok(members) = Shallow::read(message.get()) else { continue };
        if members.get("thinking_blocks").is_some() {
            dropped.push(format!("messages[{at}].thinking_blocks"));
            let rest = members.without(&["thinking_blocks", "reasoning_content"]);
            let rest = without_call_signatures(&rest, at, &mut dropped).unwrap_or(rest);
            splice.replace(body, message.get(), rest);
        } else if let Some(rest) = without_call_signatures(message.get(), at, &mut dropped) {
            splice.replace(body, message.get(), rest);
        }
    }
    dropped
}

/// A message whose calls lost Gemini's signatures; `None` where no call had one of this router's making,
/// which its ids tell: Google's own OpenAI endpoint must get back what it sent.
fn without_call_signatures(message: &str, at: usize, dropped: &mut Vec<String>) -> Option<String> {
    let members = Shallow::read(message).ok()?;
    let calls_text = members.get("tool_calls")?;
    let before = dropped.len();
    let mut calls = Vec::new();
    for (index, call) in elements(calls_text)?.into_iter().enumerate() {
        let call = Shallow::read(call.get()).ok()?;
        let ours = text(&call, "id").is_some_and(|id| id.starts_with("call_"));
        if ours && call.get("extra_content").is_some() {
            dropped.push(format!("messages[{at}].tool_calls[{index}].extra_content"));
            calls.push(call.without(&["extra_content"]));
        } else {
            calls.push(call.without(&[]));
        }
    }
    if dropped.len() == before {
        return None;
    }
    let mut splice = Splice::default();
    splice.replace(message, calls_text, format!("[{}]", calls.join(",")));
    String::from_utf8(splice.apply(message)).ok()
}

fn text(members: &Shallow<'_>, key: &str) -> Option<String> {
    match parse(members.get(key)?) {
        Ok(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn drop_parts(
    body: &str,
    turns: Option<&str>,
    turns_key: &str,
    parts_key: &str,
    is_foreign: impl Fn(&Shallow<'_>) -> bool,
    splice: &mut Splice,
) -> Vec<String> {
    let mut dropped = Vec::new();
    for (turn_at, turn) in turns.and_then(elements).into_iter().flatten().enumerate() {
        let Ok(turn) = Shallow::read(turn.get()) else { continue };
        let Some(parts_text) = turn.get(parts_key) else { continue };
        let Some(parts) = elements(parts_text) else { continue };
        let mut kept = Vec::with_capacity(parts.len());
        for (part_at, part) in parts.iter().enumerate() {
            match Shallow::read(part.get()) {
                Ok(members) if is_foreign(&members) => {
                    dropped.push(format!("{turns_key}[{turn_at}].{parts_key}[{part_at}]"));
                }
                _ => kept.push(part.get()),
            }
        }
        if kept.len() < parts.len() {
            splice.replace(body, parts_text, format!("[{}]", kept.join(",")));
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_foreign_and_unsigned_thinking_is_taken_out() {
        let body = r#"{"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"a","signature":"own"},
            {"type":"thinking","thinking":"b","signature":"gemini#x"}, {"type":"thinking","thinking":"c","signature":""},
            {"type":"text", "text":"kept 1.50"}]},{"role":"user","content":"thinking"}]}"#;
        let mut splice = Splice::default();
        let dropped = drop_from_messages(body, &Shallow::read(body).unwrap(), &mut splice);
        assert_eq!(dropped, ["messages[0].content[1]", "messages[0].content[2]"]);
        assert_eq!(
            String::from_utf8(splice.apply(body)).unwrap(),
            r#"{"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"a","signature":"own"},{"type":"text", "text":"kept 1.50"}]},{"role":"user","content":"thinking"}]}"#
        );
    }

    #[test]
    fn what_was_added_for_another_provider_is_taken_out() {
        let body = r#"{"messages":[{"role":"assistant", "content":"x", "reasoning_content":"r","thinking_blocks":[{}]},
            {"role":"assistant","reasoning_content":"kept","tool_calls":[{"id":"call_1", "extra_content":{"google":{"thought_signature":"s"}}},
            {"id":"function-call-1","extra_content":{"google":{"thought_signature":"t"}}}]}]}"#;
        let mut splice = Splice::default();
        let dropped = drop_from_chat(body, &Shallow::read(body).unwrap(), &mut splice);
        assert_eq!(dropped, ["messages[0].thinking_blocks", "messages[1].tool_calls[0].extra_content"]);
        let changed: Value = serde_json::from_slice(&splice.apply(body)).unwrap();
        assert_eq!(
            changed,
            serde_json::json!({"messages": [
                {"role": "assistant", "content": "x"},
                {"role": "assistant", "reasoning_content": "kept", "tool_calls": [
                    {"id": "call_1"},
                    {"id": "function-call-1", "extra_content": {"google": {"thought_signature": "t"}}},
                ]},
            ]})
        );
    }

    #[test]
    fn only_foreign_thoughts_are_taken_out() {
        let body = r#"{"contents":[{"parts":[{"text":"a","thoughtSignature":"own"},{"text":"","thoughtSignature":"anthropicSigx"}]}]}"#;
        let mut splice = Splice::default();
        let dropped = drop_from_contents(body, &Shallow::read(body).unwrap(), &mut splice);
        assert_eq!(dropped, ["contents[0].parts[1]"]);
        assert_eq!(
            String::from_utf8(splice.apply(body)).unwrap(),
            r#"{"contents":[{"parts":[{"text":"a","thoughtSignature":"own"}]}]}"#
        );
    }
}
