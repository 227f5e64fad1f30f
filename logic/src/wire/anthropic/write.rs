//! Neutral events as messages answers, whole or streamed.

use crate::cost::usage::Usage;
use crate::wire::Exchange;
use crate::wire::answer::{Answer, Block, Event, Finish};
use crate::wire::gemini::SIGNATURE_MARK;
use crate::wire::openai::answer_id;
use crate::wire::openai::write::call_id;
use crate::wire::reply::ReplyError;
use crate::wire::sse::write_event;
use serde_json::{Value, json};

const ID_PREFIX: &str = "msg_";

/// The object of a tool call's arguments, for dialects that carry an object and not text. Text cut off by
/// the token bound is no object; any other broken text is the model's failure.
pub(in crate::wire) fn input(name: &str, arguments: &str, cut: bool) -> Result<Value, ReplyError> {
    if arguments.trim().is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_str(arguments) {
        Ok(input @ Value::Object(_)) => Ok(input),
        _ if cut => Ok(json!({})),
        _ => {
            Err(ReplyError::Malformed(format!("the arguments of the call of `{name}` are not a JSON object")))
        }
    }
}

/// A whole answer. The dialect has no `n`, so there is one choice.
pub(in crate::wire) fn body(answer: &Answer, exchange: &Exchange) -> Result<Value, ReplyError> {
    let mut content = Vec::new();
    let choice = answer.choices.first();
    let finish = choice.and_then(|choice| choice.finish.clone()).unwrap_or(Finish::Stop);
    let mut called = false;
    for block in choice.map(|choice| choice.blocks.as_slice()).unwrap_or_default() {
        match block {
            Block::Text { text, citations } => {
                let citations: Vec<&Value> = citations.iter().filter(|citation| is_own(citation)).collect();
                let citations = if citations.is_empty() { Value::Null } else { json!(citations) };
                content.push(json!({"type": "text", "text": text, "citations": citations}));
            }
            Block::Refusal(text) => content.push(json!({"type": "text", "text": text, "citations": null})),
            Block::Reasoning { text, signature } => {
                let signature = signature.as_deref().unwrap_or_default();
                content.push(json!({"type": "thinking", "thinking": text, "signature": signature}));
            }
            Block::Redacted(data) => content.push(json!({"type": "redacted_thinking", "data": data})),
            Block::ToolCall { call, id, name, arguments, signature } => {
                called = true;
                if let Some(signature) = signature {
                    let signature = format!("{SIGNATURE_MARK}{signature}");
                    content.push(json!({"type": "thinking", "thinking": "", "signature": signature}));
                }
                let input = input(name, arguments, finish == Finish::Length)?;
                content.push(json!({
                    "type": "tool_use",
                    "id": call_id(id.as_deref(), &exchange.response_id, 0, *call),
                    "name": name,
                    "input": input,
                    "caller": {"type": "direct"},
                }));
            }
        }
    }
    Ok(message(
        answer.id.as_deref(),
        exchange,
        content,
        stop(&finish, called),
        &answer.usage.unwrap_or_default(),
    ))
}

/// Whether a citation has this dialect's shape.
fn is_own(citation: &Value) -> bool {
    citation.get("type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("_location"))
}

fn message(
    id: Option<&str>,
    exchange: &Exchange,
    content: Vec<Value>,
    (stop_reason, stop_sequence): (Value, Value),
    usage: &Usage,
) -> Value {
    let mut message = json!({
        "id": answer_id(ID_PREFIX, id, &exchange.response_id),
        "type": "message",
        "role": "assistant",
        "model": exchange.model,
        "content": [],
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "stop_details": null,
        "container": null,
        "usage": {
            "input_tokens": usage.input,
            "cache_creation": null,
            "cache_creation_input_tokens": usage.cache_write,
            "cache_read_input_tokens": usage.cached_read,
            "inference_geo": null,
            "output_tokens": usage.total_output(),
            "output_tokens_details": {"thinking_tokens": usage.reasoning},
            "server_tool_use": null,
            "service_tier": null,
        },
    });
    message["content"] = Value::Array(content);
    message
}

fn stop(finish: &Finish, called: bool) -> (Value, Value) {
    let word = match finish {
        Finish::StopSequence(sequence) => return (json!("stop_sequence"), json!(sequence)),
        Finish::Length => "max_tokens",
        Finish::Filter => "refusal",
        Finish::Pause => "pause_turn",
        Finish::ToolCalls => "tool_use",
        Finish::Stop if called => "tool_use",
        Finish::Stop => "end_turn",
    };
    (json!(word), Value::Null)
}

/// Writes a stream for the client.
#[derive(Debug, Default)]
pub(in crate::wire) struct Write {
    id: Option<String>,
    usage: Usage,
    started: bool,
    /// The next block's index.
    next: u32,
    open: Option<Open>,
    /// The block index of each tool call.
    calls: Vec<u32>,
    finish: Option<Finish>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    ToolUse,
}

impl Write {
    /// Appends what the event becomes.
    pub(in crate::wire) fn event(&mut self, event: Event, exchange: &Exchange, out: &mut Vec<u8>) {
        match event {
            Event::Start { id } => self.id = id,
            Event::Usage(usage) => self.usage = usage,
            Event::Finish { finish, .. } => self.finish = Some(finish),
            Event::Logprobs { .. } => {}
            Event::Text { text, .. } | Event::Refusal { text, .. } => {
                self.open(Open::Text, exchange, out);
                self.delta(&json!({"type": "text_delta", "text": text}), out);
            }
            Event::Citation { citation, .. } => {
                if is_own(&citation) {
                    self.open(Open::Text, exchange, out);
                    self.delta(&json!({"type": "citations_delta", "citation": citation}), out);
                }
            }
            Event::Reasoning { text, .. } => {
                self.open(Open::Thinking, exchange, out);
                self.delta(&json!({"type": "thinking_delta", "thinking": text}), out);
            }
            Event::Signature { signature, .. } => {
                self.open(Open::Thinking, exchange, out);
                self.delta(&json!({"type": "signature_delta", "signature": signature}), out);
                self.close(out);
            }
            Event::Redacted { data, .. } => {
                self.begin(&json!({"type": "redacted_thinking", "data": data}), exchange, out);
                self.stop(self.next - 1, out);
            }
            Event::ToolCall { choice, call, id, name, signature } => {
                if let Some(signature) = signature {
                    let signature = format!("{SIGNATURE_MARK}{signature}");
                    self.event(Event::Signature { choice, signature }, exchange, out);
                }
                let id = call_id(id.as_deref(), &exchange.response_id, 0, call);
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}, "caller": {"type": "direct"}});
                self.begin(&block, exchange, out);
                self.open = Some(Open::ToolUse);
                self.calls.push(self.next - 1);
            }
            Event::Arguments { call, text, .. } => {
                let index = usize::try_from(call).ok().and_then(|call| self.calls.get(call));
                if let Some(index) = index {
                    let delta = json!({"type": "input_json_delta", "partial_json": text});
                    write(&json!({"type": "content_block_delta", "index": index, "delta": delta}), out);
                }
            }
        }
    }

    /// The end of a complete stream.
    pub(in crate::wire) fn end(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        self.start(exchange, out);
        self.close(out);
        let finish = self.finish.clone().unwrap_or(Finish::Stop);
        let (reason, sequence) = stop(&finish, !self.calls.is_empty());
        write(
            &json!({
                "type": "message_delta",
                "delta": {
                    "stop_reason": reason, "stop_sequence": sequence, "stop_details": null, "container": null,
                },
                "usage": {
                    "input_tokens": self.usage.input,
                    "cache_creation_input_tokens": self.usage.cache_write,
                    "cache_read_input_tokens": self.usage.cached_read,
                    "output_tokens": self.usage.total_output(),
                    "output_tokens_details": {"thinking_tokens": self.usage.reasoning},
                    "server_tool_use": null,
                },
            }),
            out,
        );
        write(&json!({"type": "message_stop"}), out);
    }

    fn start(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.started, true) {
            let message =
                message(self.id.as_deref(), exchange, Vec::new(), (Value::Null, Value::Null), &self.usage);
            write(&json!({"type": "message_start", "message": message}), out);
        }
    }

    /// Makes `kind` the open block, where it is not already.
    fn open(&mut self, kind: Open, exchange: &Exchange, out: &mut Vec<u8>) {
        if self.open == Some(kind) {
            return;
        }
        let block = match kind {
            Open::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Open::Text | Open::ToolUse => json!({"type": "text", "text": "", "citations": null}),
        };
        self.begin(&block, exchange, out);
        self.open = Some(kind);
    }

    fn begin(&mut self, block: &Value, exchange: &Exchange, out: &mut Vec<u8>) {
        self.start(exchange, out);
        self.close(out);
        write(&json!({"type": "content_block_start", "index": self.next, "content_block": block}), out);
        self.next += 1;
    }

    fn delta(&self, delta: &Value, out: &mut Vec<u8>) {
        let index = self.next.saturating_sub(1);
        write(&json!({"type": "content_block_delta", "index": index, "delta": delta}), out);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            self.stop(self.next - 1, out);
        }
    }

    fn stop(&self, index: u32, out: &mut Vec<u8>) {
        write(&json!({"type": "content_block_stop", "index": index}), out);
    }
}

/// Every event is named by its type.
fn write(event: &Value, out: &mut Vec<u8>) {
    write_event(event.get("type").and_then(Value::as_str), &event.to_string(), out);
}
