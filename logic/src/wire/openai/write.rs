//! Neutral events as chat completions answers, whole or streamed.

use super::{answer_id, write_usage};
use crate::cost::usage::Usage;
use crate::wire::Exchange;
use crate::wire::answer::{Answer, Block, Choice, Event, Finish};
use crate::wire::sse::write_event;
use serde_json::{Map, Value, json};

const ID_PREFIX: &str = "chatcmpl-";

/// A whole answer.
pub(in crate::wire) fn body(answer: &Answer, exchange: &Exchange) -> Value {
    let choices: Vec<Value> = answer.choices.iter().map(|choice| choice_object(choice, exchange)).collect();
    let mut body = json!({
        "id": answer_id(ID_PREFIX, answer.id.as_deref(), &exchange.response_id),
        "object": "chat.completion",
        "created": exchange.created,
        "model": exchange.model,
        "choices": choices,
    });
    if let Some(usage) = &answer.usage {
        body["usage"] = write_usage(usage);
    }
    body
}

fn choice_object(choice: &Choice, exchange: &Exchange) -> Value {
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("assistant"));
    message.insert("content".to_owned(), json!(choice.text()));
    message.insert("refusal".to_owned(), json!(choice.refusal()));
    if let Some(reasoning) = choice.reasoning() {
        message.insert("reasoning_content".to_owned(), json!(reasoning));
    }
    let blocks: Vec<Value> = choice.blocks.iter().filter_map(signed_block).collect();
    if !blocks.is_empty() {
        message.insert("thinking_blocks".to_owned(), Value::Array(blocks));
    }
    let annotations: Vec<Value> = choice
        .blocks
        .iter()
        .flat_map(|block| match block {
            Block::Text { citations, .. } => citations.as_slice(),
            _ => &[],
        })
        .filter_map(annotation)
        .collect();
    if !annotations.is_empty() {
        message.insert("annotations".to_owned(), Value::Array(annotations));
    }
    let calls: Vec<Value> = choice
        .blocks
        .iter()
        .filter_map(|block| match block {
            Block::ToolCall { call, id, name, arguments, signature } => {
                let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
                let mut object = json!({
                    "id": call_id(id.as_deref(), &exchange.response_id, choice.index, *call),
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                });
                if let Some(signature) = signature {
                    object["extra_content"] = json!({"google": {"thought_signature": signature}});
                }
                Some(object)
            }
            _ => None,
        })
        .collect();
    let called = !calls.is_empty();
    if called {
        message.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    let logprobs = if choice.logprobs.is_empty() {
        Value::Null
    } else {
        json!({"content": choice.logprobs, "refusal": null})
    };
    json!({
        "index": choice.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish_word(choice.finish.as_ref(), called),
    })
}

/// A tool call's id: the upstream's, or one that is unique in the conversation.
pub(in crate::wire) fn call_id(id: Option<&str>, response_id: &str, choice: u32, call: u32) -> String {
    id.map_or_else(|| format!("call_{response_id}_{choice}_{call}"), str::to_owned)
}

/// Thinking that must be sent back unchanged; unsigned reasoning needs no block of its own.
fn signed_block(block: &Block) -> Option<Value> {
    match block {
        Block::Reasoning { text, signature: Some(signature) } => {
            Some(json!({"type": "thinking", "thinking": text, "signature": signature}))
        }
        Block::Redacted(data) => Some(json!({"type": "redacted_thinking", "data": data})),
        _ => None,
    }
}

/// OpenAI's annotation of a citation: only web citations have a counterpart.
pub(in crate::wire) fn annotation(citation: &Value) -> Option<Value> {
    if citation.get("type")?.as_str()? == "url_citation" {
        return Some(citation.clone());
    }
    let url = citation.get("url")?.as_str()?;
    let title = citation.get("title").and_then(Value::as_str).unwrap_or(url);
    Some(
        json!({"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 0, "url": url, "title": title}}),
    )
}

fn finish_word(finish: Option<&Finish>, called: bool) -> &'static str {
    match finish {
        Some(Finish::Length) => "length",
        Some(Finish::Filter) => "content_filter",
        Some(Finish::ToolCalls) => "tool_calls",
        // Gemini says STOP after tool calls; OpenAI's clients look for this word.
        _ if called => "tool_calls",
        _ => "stop",
    }
}

/// Writes a stream for the client.
#[derive(Debug, Default)]
pub(in crate::wire) struct Write {
    id: Option<String>,
    usage: Option<Usage>,
    /// Choices begun, and whether each called a tool.
    choices: Vec<(u32, bool)>,
    /// Log probabilities whose text is still to come.
    logprobs: Vec<(u32, Vec<Value>)>,
}

impl Write {
    /// Appends what the event becomes.
    pub(in crate::wire) fn event(&mut self, event: Event, exchange: &Exchange, out: &mut Vec<u8>) {
        let (choice, delta) = match event {
            Event::Start { id } => {
                self.id = Some(answer_id(ID_PREFIX, id.as_deref(), &exchange.response_id));
                return;
            }
            Event::Usage(usage) => {
                self.usage = Some(usage);
                return;
            }
            Event::Text { choice, text } => (choice, json!({"content": text})),
            Event::Refusal { choice, text } => (choice, json!({"refusal": text})),
            Event::Reasoning { choice, text } => (choice, json!({"reasoning_content": text})),
            Event::Signature { choice, signature } => {
                let block = json!({"type": "thinking", "thinking": "", "signature": signature});
                (choice, json!({"thinking_blocks": [block]}))
            }
            Event::Redacted { choice, data } => {
                (choice, json!({"thinking_blocks": [{"type": "redacted_thinking", "data": data}]}))
            }
            Event::ToolCall { choice, call, id, name, signature } => {
                let mut entry = json!({
                    "index": call,
                    "id": call_id(id.as_deref(), &exchange.response_id, choice, call),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                });
                if let Some(signature) = signature {
                    entry["extra_content"] = json!({"google": {"thought_signature": signature}});
                }
                self.begin(choice, exchange, out);
                for (known, called) in &mut self.choices {
                    *called |= *known == choice;
                }
                (choice, json!({"tool_calls": [entry]}))
            }
            Event::Arguments { choice, call, text } => {
                (choice, json!({"tool_calls": [{"index": call, "function": {"arguments": text}}]}))
            }
            Event::Citation { choice, citation } => match annotation(&citation) {
                Some(annotation) => (choice, json!({"annotations": [annotation]})),
                None => return,
            },
            Event::Logprobs { choice, content } => {
                // They go with the text of the same chunk, which follows.
                self.logprobs.push((choice, content));
                return;
            }
            Event::Finish { choice, finish } => {
                self.begin(choice, exchange, out);
                let called = self.choices.iter().any(|(known, called)| *known == choice && *called);
                let word = json!(finish_word(Some(&finish), called));
                self.chunk(choice, json!({}), word, exchange, out);
                return;
            }
        };
        self.begin(choice, exchange, out);
        self.chunk(choice, delta, Value::Null, exchange, out);
    }

    /// The end of a complete stream.
    pub(in crate::wire) fn end(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        if exchange.include_usage
            && let Some(usage) = &self.usage
        {
            let mut chunk = self.frame(exchange);
            chunk["choices"] = json!([]);
            chunk["usage"] = write_usage(usage);
            write_event(None, &chunk.to_string(), out);
        }
        write_event(None, "[DONE]", out);
    }

    /// The first chunk of a choice names the role.
    fn begin(&mut self, choice: u32, exchange: &Exchange, out: &mut Vec<u8>) {
        if self.choices.iter().any(|(known, _)| *known == choice) {
            return;
        }
        self.choices.push((choice, false));
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        self.chunk(choice, delta, Value::Null, exchange, out);
    }

    fn frame(&self, exchange: &Exchange) -> Value {
        let id = self.id.clone().unwrap_or_else(|| answer_id(ID_PREFIX, None, &exchange.response_id));
        json!({
            "id": id,
            "object": "chat.completion.chunk",
            "created": exchange.created,
            "model": exchange.model,
        })
    }

    fn chunk(
        &mut self,
        choice: u32,
        delta: Value,
        finish_reason: Value,
        exchange: &Exchange,
        out: &mut Vec<u8>,
    ) {
        let mut logprobs = Value::Null;
        if delta.get("role").is_none()
            && let Some(at) = self.logprobs.iter().position(|(of, _)| *of == choice)
        {
            logprobs = json!({"content": self.logprobs.swap_remove(at).1, "refusal": null});
        }
        let mut object = Map::new();
        object.insert("index".to_owned(), json!(choice));
        object.insert("delta".to_owned(), delta);
        object.insert("logprobs".to_owned(), logprobs);
        object.insert("finish_reason".to_owned(), finish_reason);
        let mut chunk = self.frame(exchange);
        chunk["choices"] = Value::Array(vec![Value::Object(object)]);
        if exchange.include_usage {
            chunk["usage"] = Value::Null;
        }
        write_event(None, &chunk.to_string(), out);
    }
}
