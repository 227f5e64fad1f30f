//! Messages answers, whole or streamed, into neutral events.

use super::read_usage;
use crate::cost::usage::Usage;
use crate::wire::answer::{Event, Finish};
use crate::wire::reply::ReplyError;
use serde_json::Value;

/// What is known of an answer so far.
#[derive(Debug, Default)]
pub(in crate::wire) struct Read {
    usage: Option<Usage>,
    calls: u32,
    /// The tool call the open block is, if it is one, and whether it had arguments yet.
    open_call: Option<(u32, bool)>,
    finished: bool,
    stopped: bool,
}

impl Read {
    /// Whether a stop reason was given.
    pub(in crate::wire) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether `message_stop` was read.
    pub(in crate::wire) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// One event of a stream.
    pub(in crate::wire) fn chunk(&mut self, event: &Value, events: &mut Vec<Event>) {
        match event.get("type").and_then(Value::as_str) {
            Some("message_start") => {
                let message = event.get("message").unwrap_or(&Value::Null);
                self.start(message, events);
            }
            Some("content_block_start") => {
                if let Some(block) = event.get("content_block") {
                    self.block(block, events);
                }
            }
            Some("content_block_delta") => {
                if let Some(delta) = event.get("delta") {
                    self.delta(delta, events);
                }
            }
            Some("content_block_stop") => self.close_call(events),
            Some("message_delta") => {
                if let Some(delta) = event.get("delta") {
                    self.stop(delta, events);
                }
                self.usage(event, events);
            }
            Some("message_stop") => self.stopped = true,
            _ => {}
        }
    }

    /// A whole body.
    pub(in crate::wire) fn body(&mut self, body: &Value, events: &mut Vec<Event>) -> Result<(), ReplyError> {
        let Some(blocks) = body.get("content").and_then(Value::as_array) else {
            return Err(ReplyError::Malformed("the answer has no `content`".to_owned()));
        };
        self.start(body, events);
        for block in blocks {
            self.block(block, events);
            self.close_call(events);
        }
        self.stop(body, events);
        if !self.finished {
            return Err(ReplyError::Incomplete("the answer has no stop reason".to_owned()));
        }
        Ok(())
    }

    fn start(&mut self, message: &Value, events: &mut Vec<Event>) {
        events.push(Event::Start { id: message.get("id").and_then(Value::as_str).map(str::to_owned) });
        self.usage(message, events);
    }

    fn usage(&mut self, holder: &Value, events: &mut Vec<Event>) {
        let Some(usage) = holder.get("usage").and_then(|usage| read_usage(usage, self.usage)) else {
            return;
        };
        self.usage = Some(usage);
        events.push(Event::Usage(usage));
    }

    fn block(&mut self, block: &Value, events: &mut Vec<Event>) {
        let text_of = |key: &str| block.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        self.close_call(events);
        match block.get("type").and_then(Value::as_str) {
            Some("text") => {
                if !text_of("text").is_empty() {
                    events.push(Event::Text { choice: 0, text: text_of("text") });
                }
                for citation in block.get("citations").and_then(Value::as_array).into_iter().flatten() {
                    events.push(Event::Citation { choice: 0, citation: citation.clone() });
                }
            }
            Some("thinking") => {
                if !text_of("thinking").is_empty() {
                    events.push(Event::Reasoning { choice: 0, text: text_of("thinking") });
                }
                if !text_of("signature").is_empty() {
                    events.push(Event::Signature { choice: 0, signature: text_of("signature") });
                }
            }
            Some("redacted_thinking") => events.push(Event::Redacted { choice: 0, data: text_of("data") }),
            Some("tool_use") => {
                let call = self.calls;
                self.calls += 1;
                let id = block.get("id").and_then(Value::as_str).map(str::to_owned);
                events.push(Event::ToolCall { choice: 0, call, id, name: text_of("name"), signature: None });
                // A stream starts with an empty object and sends the arguments as deltas.
                let input =
                    block.get("input").filter(|input| input.as_object().is_some_and(|o| !o.is_empty()));
                self.open_call = Some((call, input.is_some()));
                if let Some(input) = input {
                    events.push(Event::Arguments { choice: 0, call, text: input.to_string() });
                }
            }
            _ => {}
        }
    }

    /// A call without arguments has sent none, where other dialects send an empty object.
    fn close_call(&mut self, events: &mut Vec<Event>) {
        if let Some((call, false)) = self.open_call.take() {
            events.push(Event::Arguments { choice: 0, call, text: "{}".to_owned() });
        }
    }

    fn delta(&mut self, delta: &Value, events: &mut Vec<Event>) {
        let text_of = |key: &str| delta.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        match delta.get("type").and_then(Value::as_str) {
            Some("text_delta") => events.push(Event::Text { choice: 0, text: text_of("text") }),
            Some("thinking_delta") => events.push(Event::Reasoning { choice: 0, text: text_of("thinking") }),
            Some("signature_delta") => {
                events.push(Event::Signature { choice: 0, signature: text_of("signature") });
            }
            Some("input_json_delta") => {
                let text = text_of("partial_json");
                if let Some((call, has_arguments)) = &mut self.open_call
                    && !text.is_empty()
                {
                    *has_arguments = true;
                    events.push(Event::Arguments { choice: 0, call: *call, text });
                }
            }
            Some("citations_delta") => {
                if let Some(citation) = delta.get("citation") {
                    events.push(Event::Citation { choice: 0, citation: citation.clone() });
                }
            }
            _ => {}
        }
    }

    fn stop(&mut self, holder: &Value, events: &mut Vec<Event>) {
        let Some(reason) = holder.get("stop_reason").and_then(Value::as_str) else {
            return;
        };
        self.finished = true;
        let finish = match reason {
            "stop_sequence" => {
                let sequence = holder.get("stop_sequence").and_then(Value::as_str);
                Finish::StopSequence(sequence.map(str::to_owned))
            }
            "max_tokens" | "model_context_window_exceeded" => Finish::Length,
            "tool_use" => Finish::ToolCalls,
            "refusal" => Finish::Filter,
            "pause_turn" => Finish::Pause,
            _ => Finish::Stop,
        };
        events.push(Event::Finish { choice: 0, finish });
    }
}
