//! Neutral events as `generateContent` answers: whole, as server-sent events or as one JSON array.

use super::{ANTHROPIC_MARK, SIGNATURE_MARK};
use crate::cost::usage::Usage;
use crate::wire::Exchange;
use crate::wire::answer::{Answer, Block, Event, Finish};
use crate::wire::anthropic::write::input;
use crate::wire::openai::write::call_id;
use crate::wire::reply::ReplyError;
use crate::wire::sse::write_event;
use serde_json::{Map, Value, json};

/// A whole answer.
pub(in crate::wire) fn body(answer: &Answer, exchange: &Exchange) -> Result<Value, ReplyError> {
    let mut candidates = Vec::new();
    for choice in &answer.choices {
        let mut parts = Vec::new();
        let finish = choice.finish.clone().unwrap_or(Finish::Stop);
        for block in &choice.blocks {
            match block {
                Block::Text { text, .. } | Block::Refusal(text) => parts.push(json!({"text": text})),
                Block::Reasoning { text, signature } => parts.push(thought(text, signature.as_deref())),
                Block::Redacted(_) => {}
                Block::ToolCall { call, id, name, arguments, signature } => {
                    let args = input(name, arguments, finish == Finish::Length)?;
                    let id = call_id(id.as_deref(), &exchange.response_id, choice.index, *call);
                    parts.push(function_call(&id, name, &args, signature.as_deref()));
                }
            }
        }
        let mut candidate = candidate(choice.index, parts, Some(&finish));
        if !choice.logprobs.is_empty() {
            candidate["logprobsResult"] = logprobs(&choice.logprobs);
        }
        candidates.push(candidate);
    }
    Ok(response(answer.id.as_deref(), candidates, answer.usage.as_ref(), exchange))
}

fn function_call(id: &str, name: &str, args: &Value, signature: Option<&str>) -> Value {
    let mut part = json!({"functionCall": {"id": id, "name": name, "args": args}});
    if let Some(signature) = signature {
        part["thoughtSignature"] = json!(signature);
    }
    part
}

/// Reasoning; a signature alone stands on an empty text part, as Gemini itself sends it.
fn thought(text: &str, signature: Option<&str>) -> Value {
    let signature = signature.map(|signature| match signature.strip_prefix(SIGNATURE_MARK) {
        Some(own) => own.to_owned(),
        None => format!("{ANTHROPIC_MARK}{signature}"),
    });
    match signature {
        Some(signature) if text.is_empty() => json!({"text": "", "thoughtSignature": signature}),
        Some(signature) => json!({"text": text, "thought": true, "thoughtSignature": signature}),
        None => json!({"text": text, "thought": true}),
    }
}

fn candidate(index: u32, parts: Vec<Value>, finish: Option<&Finish>) -> Value {
    let mut content = Map::new();
    content.insert("role".to_owned(), json!("model"));
    content.insert("parts".to_owned(), Value::Array(parts));
    let mut candidate = json!({"content": content});
    if let Some(finish) = finish {
        let word = match finish {
            Finish::Length => "MAX_TOKENS",
            Finish::Filter => "SAFETY",
            Finish::Stop | Finish::StopSequence(_) | Finish::ToolCalls | Finish::Pause => "STOP",
        };
        candidate["finishReason"] = json!(word);
    }
    candidate["index"] = json!(index);
    candidate
}

/// OpenAI's log probabilities in Gemini's shape.
fn logprobs(content: &[Value]) -> Value {
    let entry = |token: &Value| json!({"token": token["token"], "logProbability": token["logprob"]});
    let chosen: Vec<Value> = content.iter().map(entry).collect();
    let tops: Vec<Value> = content
        .iter()
        .map(|token| {
            let top = token.get("top_logprobs").and_then(Value::as_array);
            json!({"candidates": top.into_iter().flatten().map(entry).collect::<Vec<_>>()})
        })
        .collect();
    json!({"chosenCandidates": chosen, "topCandidates": tops})
}

fn response(id: Option<&str>, candidates: Vec<Value>, usage: Option<&Usage>, exchange: &Exchange) -> Value {
    let mut response = Map::new();
    response.insert("candidates".to_owned(), Value::Array(candidates));
    if let Some(usage) = usage {
        let mut counts = json!({
            "promptTokenCount": usage.total_input(),
            "candidatesTokenCount": usage.output,
            "totalTokenCount": usage.total_input() + usage.total_output(),
        });
        if usage.cached_read > 0 {
            counts["cachedContentTokenCount"] = json!(usage.cached_read);
        }
        if usage.reasoning > 0 {
            counts["thoughtsTokenCount"] = json!(usage.reasoning);
        }
        response.insert("usageMetadata".to_owned(), counts);
    }
    response.insert("modelVersion".to_owned(), json!(exchange.model));
    response.insert("responseId".to_owned(), json!(id.unwrap_or(&exchange.response_id)));
    Value::Object(response)
}

/// Appends one chunk of a stream in the framing the client asked for.
pub(in crate::wire) fn frame(chunk: &str, first: bool, json_array: bool, out: &mut Vec<u8>) {
    if !json_array {
        return write_event(None, chunk, out);
    }
    out.extend_from_slice(if first { b"[" } else { b",\r\n" });
    out.extend_from_slice(chunk.as_bytes());
}

/// Writes a stream for the client.
#[derive(Debug, Default)]
pub(in crate::wire) struct Write {
    id: Option<String>,
    usage: Option<Usage>,
    /// Tool calls are sent whole, so each waits here for its arguments.
    calls: Vec<Call>,
    logprobs: Vec<(u32, Vec<Value>)>,
    finished: Vec<(u32, Finish)>,
    framed: bool,
}

#[derive(Debug)]
struct Call {
    choice: u32,
    call: u32,
    id: String,
    name: String,
    arguments: String,
    signature: Option<String>,
}

impl Write {
    /// Appends what the event becomes.
    pub(in crate::wire) fn event(
        &mut self,
        event: Event,
        exchange: &Exchange,
        out: &mut Vec<u8>,
    ) -> Result<(), ReplyError> {
        let (choice, part) = match event {
            Event::Start { id } => {
                self.id = id;
                return Ok(());
            }
            Event::Usage(usage) => {
                self.usage = Some(usage);
                return Ok(());
            }
            Event::Citation { .. } | Event::Redacted { .. } => return Ok(()),
            Event::Logprobs { choice, content } => {
                match self.logprobs.iter_mut().find(|(of, _)| *of == choice) {
                    Some((_, held)) => held.extend(content),
                    None => self.logprobs.push((choice, content)),
                }
                return Ok(());
            }
            Event::ToolCall { choice, call, id, name, signature } => {
                let id = call_id(id.as_deref(), &exchange.response_id, choice, call);
                self.calls.push(Call { choice, call, id, name, arguments: String::new(), signature });
                return Ok(());
            }
            Event::Arguments { choice, call, text } => {
                let held = self.calls.iter_mut().find(|held| held.choice == choice && held.call == call);
                if let Some(held) = held {
                    held.arguments.push_str(&text);
                    if held.arguments.len() > crate::wire::sse::EVENT_BYTES_MAX {
                        return Err(ReplyError::Malformed(
                            "the arguments of a tool call are too large".to_owned(),
                        ));
                    }
                }
                return Ok(());
            }
            Event::Finish { choice, finish } => {
                self.flush_calls(choice, finish == Finish::Length, exchange, out)?;
                self.finished.push((choice, finish));
                return Ok(());
            }
            Event::Text { choice, text } | Event::Refusal { choice, text } => (choice, json!({"text": text})),
            Event::Reasoning { choice, text } => (choice, thought(&text, None)),
            Event::Signature { choice, signature } => (choice, thought("", Some(&signature))),
        };
        self.part(choice, part, exchange, out);
        Ok(())
    }

    /// The end of a complete stream: finish reasons and usage in the last chunk.
    pub(in crate::wire) fn end(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        let mut candidates = Vec::new();
        for (choice, finish) in std::mem::take(&mut self.finished) {
            let mut last = candidate(choice, vec![json!({"text": ""})], Some(&finish));
            if let Some((_, content)) = self.logprobs.iter().find(|(of, _)| *of == choice) {
                last["logprobsResult"] = logprobs(content);
            }
            candidates.push(last);
        }
        self.chunk(candidates, exchange, out);
        if exchange.json_array {
            out.push(b']');
        }
    }

    /// Whether a chunk was written: an array has its opening bracket then.
    pub(in crate::wire) fn has_begun(&self) -> bool {
        self.framed
    }

    fn flush_calls(
        &mut self,
        choice: u32,
        cut: bool,
        exchange: &Exchange,
        out: &mut Vec<u8>,
    ) -> Result<(), ReplyError> {
        let (flushed, kept) =
            std::mem::take(&mut self.calls).into_iter().partition(|call| call.choice == choice);
        self.calls = kept;
        let flushed: Vec<Call> = flushed;
        for call in flushed {
            let args = input(&call.name, &call.arguments, cut)?;
            let part = function_call(&call.id, &call.name, &args, call.signature.as_deref());
            self.part(choice, part, exchange, out);
        }
        Ok(())
    }

    fn part(&mut self, choice: u32, part: Value, exchange: &Exchange, out: &mut Vec<u8>) {
        let candidate = candidate(choice, vec![part], None);
        self.chunk(vec![candidate], exchange, out);
    }

    fn chunk(&mut self, candidates: Vec<Value>, exchange: &Exchange, out: &mut Vec<u8>) {
        let chunk = response(self.id.as_deref(), candidates, self.usage.as_ref(), exchange);
        let first = !std::mem::replace(&mut self.framed, true);
        frame(&chunk.to_string(), first, exchange.json_array, out);
    }
}
