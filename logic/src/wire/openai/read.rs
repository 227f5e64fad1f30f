//! Chat completions answers, whole or streamed, into neutral events.

use super::read_usage;
use crate::wire::answer::{Event, Finish};
use crate::wire::reply::ReplyError;
use serde_json::Value;

/// Tool calls and choices one answer may have; more is not an answer but an attack on memory.
const CALLS_MAX: usize = 1024;

/// What is known of an answer so far.
#[derive(Debug, Default)]
pub(in crate::wire) struct Read {
    started: bool,
    calls: Vec<Call>,
    /// Choices begun, and how many of them ended.
    choices: Vec<(u32, bool)>,
}

#[derive(Debug)]
struct Call {
    choice: u32,
    /// The upstream's index, and the id it gave under that index.
    index: u64,
    id: Option<String>,
    call: u32,
}

impl Read {
    /// Whether every choice begun has ended.
    pub(in crate::wire) fn is_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|(_, ended)| *ended)
    }

    /// One chunk of a stream.
    pub(in crate::wire) fn chunk(
        &mut self,
        chunk: &Value,
        events: &mut Vec<Event>,
    ) -> Result<(), ReplyError> {
        self.object(chunk, "delta", events)
    }

    /// A whole body.
    pub(in crate::wire) fn body(&mut self, body: &Value, events: &mut Vec<Event>) -> Result<(), ReplyError> {
        if !body.get("choices").is_some_and(Value::is_array) {
            return Err(ReplyError::Malformed("the answer has no `choices`".to_owned()));
        }
        self.object(body, "message", events)?;
        if !self.is_finished() {
            return Err(ReplyError::Incomplete("the answer has no finish reason".to_owned()));
        }
        Ok(())
    }

    fn object(&mut self, object: &Value, part: &str, events: &mut Vec<Event>) -> Result<(), ReplyError> {
        if !std::mem::replace(&mut self.started, true) {
            events.push(Event::Start { id: object.get("id").and_then(Value::as_str).map(str::to_owned) });
        }
        if let Some(usage) = object.get("usage").and_then(read_usage) {
            events.push(Event::Usage(usage));
        }
        for choice in object.get("choices").and_then(Value::as_array).into_iter().flatten() {
            self.choice(choice, part, events)?;
        }
        Ok(())
    }

    fn choice(&mut self, choice: &Value, part: &str, events: &mut Vec<Event>) -> Result<(), ReplyError> {
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
        let index = u32::try_from(index)
            .map_err(|_| ReplyError::Malformed("a choice's index is too large".into()))?;
        if !self.choices.iter().any(|(known, _)| *known == index) {
            if self.choices.len() >= CALLS_MAX {
                return Err(ReplyError::Malformed(format!("more than {CALLS_MAX} choices")));
            }
            self.choices.push((index, false));
        }
        let text_of = |message: &Value, key: &str| {
            message.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        if let Some(content) = choice.pointer("/logprobs/content").and_then(Value::as_array)
            && !content.is_empty()
        {
            events.push(Event::Logprobs { choice: index, content: content.clone() });
        }
        if let Some(message) = choice.get(part) {
            self.thinking(index, message, events);
            if let Some(text) = text_of(message, "content") {
                events.push(Event::Text { choice: index, text });
            }
            for annotation in message.get("annotations").and_then(Value::as_array).into_iter().flatten() {
                events.push(Event::Citation { choice: index, citation: annotation.clone() });
            }
            if let Some(text) = text_of(message, "refusal") {
                events.push(Event::Refusal { choice: index, text });
            }
            for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
                self.tool_call(index, call, part == "message", events)?;
            }
        }
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            for (known, ended) in &mut self.choices {
                *ended |= *known == index;
            }
            events.push(Event::Finish { choice: index, finish: finish(reason) });
        }
        Ok(())
    }

    /// Reasoning in the two spellings that servers add, or in signed blocks.
    fn thinking(&self, choice: u32, message: &Value, events: &mut Vec<Event>) {
        let blocks = message.get("thinking_blocks").and_then(Value::as_array);
        for block in blocks.into_iter().flatten() {
            let text_of = |key: &str| block.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            if block.get("type").and_then(Value::as_str) == Some("redacted_thinking") {
                events.push(Event::Redacted { choice, data: text_of("data") });
                continue;
            }
            events.push(Event::Reasoning { choice, text: text_of("thinking") });
            if block.get("signature").is_some_and(Value::is_string) {
                events.push(Event::Signature { choice, signature: text_of("signature") });
            }
        }
        if blocks.is_some_and(|blocks| !blocks.is_empty()) {
            return;
        }
        let plain = ["reasoning_content", "reasoning"].iter().find_map(|key| message.get(*key)?.as_str());
        if let Some(text) = plain.filter(|text| !text.is_empty()) {
            events.push(Event::Reasoning { choice, text: text.to_owned() });
        }
    }

    fn tool_call(
        &mut self,
        choice: u32,
        entry: &Value,
        whole: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), ReplyError> {
        let ordinal = self.calls.iter().filter(|call| call.choice == choice).count();
        let index = match entry.get("index").and_then(Value::as_u64) {
            Some(index) => index,
            None if whole => ordinal as u64,
            None => 0,
        };
        let id = entry.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
        let known = self.calls.iter().rposition(|call| call.choice == choice && call.index == index);
        // Some servers give every call the index 0 and tell them apart by id only.
        let known = known.filter(|at| id.is_none() || self.calls[*at].id.as_deref() == id);
        let function = entry.get("function");
        let text_of = |key: &str| function.and_then(|function| function.get(key)).and_then(Value::as_str);
        let call = match known {
            Some(at) => self.calls[at].call,
            None => {
                if self.calls.len() >= CALLS_MAX {
                    return Err(ReplyError::Malformed(format!("more than {CALLS_MAX} tool calls")));
                }
                let Some(name) = text_of("name").filter(|name| !name.is_empty()) else {
                    return Err(ReplyError::Malformed("a tool call has no `function.name`".to_owned()));
                };
                let call = u32::try_from(ordinal).unwrap_or(u32::MAX);
                let id = id.map(str::to_owned);
                let signature = entry.pointer("/extra_content/google/thought_signature");
                events.push(Event::ToolCall {
                    choice,
                    call,
                    id: id.clone(),
                    name: name.to_owned(),
                    signature: signature.and_then(Value::as_str).map(str::to_owned),
                });
                self.calls.push(Call { choice, index, id, call });
                call
            }
        };
        if let Some(text) = text_of("arguments").filter(|text| !text.is_empty()) {
            events.push(Event::Arguments { choice, call, text: text.to_owned() });
        }
        Ok(())
    }
}

fn finish(reason: &str) -> Finish {
    match reason {
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "content_filter" => Finish::Filter,
        _ => Finish::Stop,
    }
}
