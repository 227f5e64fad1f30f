//! Neutral events as responses, whole or streamed. Both are made by one writer that builds the output
//! items step by step and tells each step as an event; a whole answer is the last of them.

use super::item::{Open, Text};
use super::write_usage;
use crate::cost::usage::Usage;
use crate::fault::ApiError;
use crate::wire::Exchange;
use crate::wire::answer::{Answer, Block, Event, Finish};
use crate::wire::openai::answer_id;
use crate::wire::openai::write::{annotation, call_id};
use crate::wire::sse::write_event;
use serde_json::{Map, Value, json};

/// A whole answer.
pub(in crate::wire) fn body(answer: &Answer, exchange: &Exchange) -> Value {
    let mut write = Write { id: answer.id.clone(), usage: answer.usage, ..Write::default() };
    let mut unsent = Vec::new();
    // The dialect has no `n`, so there is one choice.
    let choice = answer.choices.first();
    write.finish = choice.and_then(|choice| choice.finish.clone());
    let logprobs = choice.map(|choice| choice.logprobs.clone()).filter(|logprobs| !logprobs.is_empty());
    if let Some(content) = logprobs {
        write.event(Event::Logprobs { choice: 0, content }, exchange, &mut unsent);
    }
    for block in choice.map(|choice| choice.blocks.clone()).unwrap_or_default() {
        let mut tell = |event| write.event(event, exchange, &mut unsent);
        match block {
            Block::Text { text, citations } => {
                tell(Event::Text { choice: 0, text });
                citations.into_iter().for_each(|citation| tell(Event::Citation { choice: 0, citation }));
            }
            Block::Refusal(text) => tell(Event::Refusal { choice: 0, text }),
            Block::Reasoning { text, signature } => {
                tell(Event::Reasoning { choice: 0, text });
                if let Some(signature) = signature {
                    tell(Event::Signature { choice: 0, signature });
                }
            }
            Block::Redacted(data) => tell(Event::Redacted { choice: 0, data }),
            Block::ToolCall { call, id, name, arguments, signature } => {
                tell(Event::ToolCall { choice: 0, call, id, name, signature });
                tell(Event::Arguments { choice: 0, call, text: arguments });
            }
        }
        unsent.clear();
    }
    write.close(exchange, &mut unsent);
    let (status, _) = write.status();
    write.response(status, exchange)
}

/// Writes a stream for the client.
#[derive(Debug, Default)]
pub(in crate::wire) struct Write {
    id: Option<String>,
    usage: Option<Usage>,
    finish: Option<Finish>,
    sequence: u64,
    started: bool,
    /// Items that are whole.
    done: Vec<Value>,
    open: Option<Open>,
    logprobs: Vec<Value>,
    /// Bytes of text and arguments in all items.
    bytes: usize,
}

impl Write {
    /// Appends what the event becomes.
    pub(in crate::wire) fn event(&mut self, event: Event, exchange: &Exchange, out: &mut Vec<u8>) {
        match event {
            Event::Start { id } => self.id = id,
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Finish { finish, .. } => self.finish = Some(finish),
            Event::Logprobs { content, .. } => self.logprobs.extend(content),
            Event::Text { text, .. } => self.text(&text, false, exchange, out),
            Event::Refusal { text, .. } => self.text(&text, true, exchange, out),
            Event::Citation { citation, .. } => {
                if let (Some(annotation), Some(Open::Message { text: Some(text), .. })) =
                    (annotation(&citation), &mut self.open)
                {
                    // Responses have the same fields as chat completions, one level higher.
                    let mut flat = annotation["url_citation"].clone();
                    flat["type"] = json!("url_citation");
                    text.annotations.push(flat);
                }
            }
            Event::Reasoning { text, .. } => {
                if !matches!(self.open, Some(Open::Reasoning { .. })) {
                    self.begin(Open::Reasoning { text: String::new(), signature: None }, exchange, out);
                }
                self.bytes += text.len();
                if let Some(Open::Reasoning { text: held, .. }) = &mut self.open {
                    held.push_str(&text);
                }
                let place = json!({"summary_index": 0, "delta": text});
                self.tell_item("response.reasoning_summary_text.delta", place, exchange, out);
            }
            Event::Signature { signature, .. } => {
                if !matches!(self.open, Some(Open::Reasoning { .. })) {
                    self.begin(Open::Reasoning { text: String::new(), signature: None }, exchange, out);
                }
                if let Some(Open::Reasoning { signature: held, .. }) = &mut self.open {
                    *held = Some(signature);
                }
                self.close(exchange, out);
            }
            Event::Redacted { data, .. } => {
                self.begin(Open::Reasoning { text: String::new(), signature: Some(data) }, exchange, out);
                self.close(exchange, out);
            }
            Event::ToolCall { call, id, name, signature, .. } => {
                let id = call_id(id.as_deref(), &exchange.response_id, 0, call);
                let open = Open::Call { call, id, name, arguments: String::new(), signature };
                self.begin(open, exchange, out);
            }
            Event::Arguments { call, text, .. } => {
                if let Some(Open::Call { call: open, arguments, .. }) = &mut self.open
                    && *open == call
                {
                    arguments.push_str(&text);
                    self.bytes += text.len();
                    let place = json!({"delta": text});
                    self.tell_item("response.function_call_arguments.delta", place, exchange, out);
                }
            }
        }
    }

    /// Bytes held for the items' final events, for the caller's bound.
    pub(in crate::wire) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The end of a complete stream.
    pub(in crate::wire) fn end(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        self.start(exchange, out);
        self.close(exchange, out);
        let (status, event) = self.status();
        let response = self.response(status, exchange);
        self.tell(event, json!({"response": response}), out);
    }

    /// The end of a stream that failed.
    pub(in crate::wire) fn fail(&mut self, error: &ApiError, exchange: &Exchange, out: &mut Vec<u8>) {
        let code = error.code.as_deref().unwrap_or("server_error");
        let told = json!({"code": code, "message": error.message, "param": error.param});
        self.tell("error", told, out);
        let mut response = self.response("failed", exchange);
        let code = if error.status == 429 { "rate_limit_exceeded" } else { "server_error" };
        response["error"] = json!({"code": code, "message": error.message});
        self.tell("response.failed", json!({"response": response}), out);
    }

    fn status(&self) -> (&'static str, &'static str) {
        match self.finish {
            Some(Finish::Length | Finish::Filter) => ("incomplete", "response.incomplete"),
            _ => ("completed", "response.completed"),
        }
    }

    fn response(&self, status: &str, exchange: &Exchange) -> Value {
        let echo = exchange.echo.as_deref().and_then(|echo| serde_json::from_str(echo).ok());
        let mut response: Map<String, Value> = Map::new();
        let mut put = |key: &str, value: Value| response.insert(key.to_owned(), value);
        put("id", json!(answer_id("resp_", self.id.as_deref(), &exchange.response_id)));
        put("object", json!("response"));
        put("created_at", json!(exchange.created));
        put("status", json!(status));
        put("background", json!(false));
        put("error", Value::Null);
        let reason = match (&self.finish, status) {
            (Some(Finish::Length), "incomplete") => json!({"reason": "max_output_tokens"}),
            (Some(Finish::Filter), "incomplete") => json!({"reason": "content_filter"}),
            _ => Value::Null,
        };
        put("incomplete_details", reason);
        put("model", json!(exchange.model));
        put("output", Value::Array(self.done.clone()));
        put("previous_response_id", Value::Null);
        put("store", json!(false));
        if let Some(usage) = self.usage.as_ref().filter(|_| status != "in_progress") {
            put("usage", write_usage(usage));
        }
        let echo: Map<String, Value> = echo.unwrap_or_default();
        response.extend(echo);
        Value::Object(response)
    }

    fn start(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.started, true) {
            let response = self.response("in_progress", exchange);
            self.tell("response.created", json!({"response": response.clone()}), out);
            self.tell("response.in_progress", json!({"response": response}), out);
        }
    }

    fn text(&mut self, text: &str, refusal: bool, exchange: &Exchange, out: &mut Vec<u8>) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.begin(Open::Message { parts: Vec::new(), text: None }, exchange, out);
        }
        let other =
            matches!(&self.open, Some(Open::Message { text: Some(open), .. }) if open.refusal != refusal);
        if other {
            self.close_part(exchange, out);
        }
        if let Some(Open::Message { parts, text: held @ None }) = &mut self.open {
            let begun = Text { refusal, ..Text::default() };
            let place = json!({"content_index": parts.len(), "part": begun.part()});
            *held = Some(begun);
            self.tell_item("response.content_part.added", place, exchange, out);
        }
        let logprobs = std::mem::take(&mut self.logprobs);
        self.bytes += text.len() + logprobs.len() * 128;
        let mut index = 0;
        if let Some(Open::Message { parts, text: Some(held) }) = &mut self.open {
            held.text.push_str(text);
            held.logprobs.extend(logprobs.iter().cloned());
            index = parts.len();
        }
        if refusal {
            let place = json!({"content_index": index, "delta": text});
            self.tell_item("response.refusal.delta", place, exchange, out);
        } else {
            let place = json!({"content_index": index, "delta": text, "logprobs": logprobs});
            self.tell_item("response.output_text.delta", place, exchange, out);
        }
    }

    /// Opens an item, closing the one before.
    fn begin(&mut self, open: Open, exchange: &Exchange, out: &mut Vec<u8>) {
        self.start(exchange, out);
        self.close(exchange, out);
        let reasoning = matches!(&open, Open::Reasoning { signature: None, .. });
        self.open = Some(open);
        let item = self.item("in_progress", exchange);
        let place = json!({"output_index": self.done.len(), "item": item});
        self.tell("response.output_item.added", place, out);
        if reasoning {
            let place = json!({"summary_index": 0, "part": {"type": "summary_text", "text": ""}});
            self.tell_item("response.reasoning_summary_part.added", place, exchange, out);
        }
    }

    fn close_part(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        let Some(Open::Message { parts, text }) = &mut self.open else {
            return;
        };
        let Some(text) = text.take() else { return };
        let index = parts.len();
        parts.push(text.part());
        if text.refusal {
            let place = json!({"content_index": index, "refusal": text.text});
            self.tell_item("response.refusal.done", place, exchange, out);
        } else {
            let place = json!({"content_index": index, "text": text.text, "logprobs": text.logprobs});
            self.tell_item("response.output_text.done", place, exchange, out);
        }
        let place = json!({"content_index": index, "part": text.part()});
        self.tell_item("response.content_part.done", place, exchange, out);
    }

    /// Closes the open item.
    fn close(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        self.close_part(exchange, out);
        if let Some(Open::Call { arguments, .. }) = &mut self.open
            && arguments.trim().is_empty()
        {
            "{}".clone_into(arguments);
        }
        match &self.open {
            None => return,
            Some(Open::Message { .. }) => {}
            Some(Open::Reasoning { text, signature }) => {
                if !text.is_empty() || signature.is_none() {
                    let text = text.clone();
                    let place = json!({"summary_index": 0, "text": text});
                    self.tell_item("response.reasoning_summary_text.done", place, exchange, out);
                    let place = json!({"summary_index": 0, "part": {"type": "summary_text", "text": text}});
                    self.tell_item("response.reasoning_summary_part.done", place, exchange, out);
                }
            }
            Some(Open::Call { name, arguments, .. }) => {
                let place = json!({"name": name, "arguments": arguments});
                self.tell_item("response.function_call_arguments.done", place, exchange, out);
            }
        }
        let cut = matches!(self.finish, Some(Finish::Length));
        let item = self.item(if cut { "incomplete" } else { "completed" }, exchange);
        self.tell("response.output_item.done", json!({"output_index": self.done.len(), "item": item}), out);
        self.done.push(item);
        self.open = None;
    }

    fn item_id(&self, exchange: &Exchange) -> String {
        let prefix = self.open.as_ref().map_or("msg", Open::prefix);
        format!("{prefix}_{}_{}", exchange.response_id, self.done.len())
    }

    fn item(&self, status: &str, exchange: &Exchange) -> Value {
        self.open.as_ref().map_or(Value::Null, |open| open.item(&self.item_id(exchange), status))
    }

    /// An event about the open item.
    fn tell_item(&mut self, kind: &str, mut members: Value, exchange: &Exchange, out: &mut Vec<u8>) {
        members["item_id"] = json!(self.item_id(exchange));
        members["output_index"] = json!(self.done.len());
        self.tell(kind, members, out);
    }

    fn tell(&mut self, kind: &str, members: Value, out: &mut Vec<u8>) {
        let mut event = json!({"type": kind, "sequence_number": self.sequence});
        self.sequence += 1;
        if let (Value::Object(event), Value::Object(members)) = (&mut event, members) {
            event.extend(members);
        }
        write_event(Some(kind), &event.to_string(), out);
    }
}
