//! `generateContent` answers, whole or streamed, into neutral events.

use super::{SIGNATURE_MARK, read_usage};
use crate::wire::answer::{Event, Finish};
use crate::wire::reply::ReplyError;
use serde_json::{Value, json};

/// Candidates one answer may have.
const CANDIDATES_MAX: usize = 64;

/// What is known of an answer so far.
#[derive(Debug, Default)]
pub(in crate::wire) struct Read {
    started: bool,
    /// Candidates begun: index, calls so far, whether it ended.
    candidates: Vec<(u32, u32, bool)>,
}

impl Read {
    /// Whether every candidate begun has ended.
    pub(in crate::wire) fn is_finished(&self) -> bool {
        !self.candidates.is_empty() && self.candidates.iter().all(|(_, _, ended)| *ended)
    }

    /// One chunk of a stream; a whole body is one chunk.
    pub(in crate::wire) fn chunk(
        &mut self,
        chunk: &Value,
        events: &mut Vec<Event>,
    ) -> Result<(), ReplyError> {
        if !std::mem::replace(&mut self.started, true) {
            events.push(Event::Start {
                id: chunk.get("responseId").and_then(Value::as_str).map(str::to_owned),
            });
        }
        if let Some(usage) = chunk.get("usageMetadata").and_then(read_usage) {
            events.push(Event::Usage(usage));
        }
        let candidates = chunk.get("candidates").and_then(Value::as_array);
        for candidate in candidates.into_iter().flatten() {
            self.candidate(candidate, events)?;
        }
        if chunk.pointer("/promptFeedback/blockReason").is_some() && self.candidates.is_empty() {
            self.candidates.push((0, 0, true));
            events.push(Event::Finish { choice: 0, finish: Finish::Filter });
        }
        Ok(())
    }

    /// A whole body.
    pub(in crate::wire) fn body(&mut self, body: &Value, events: &mut Vec<Event>) -> Result<(), ReplyError> {
        self.chunk(body, events)?;
        if self.candidates.is_empty() {
            return Err(ReplyError::Malformed("the answer has no `candidates`".to_owned()));
        }
        if !self.is_finished() {
            return Err(ReplyError::Incomplete("the answer has no finish reason".to_owned()));
        }
        Ok(())
    }

    fn candidate(&mut self, candidate: &Value, events: &mut Vec<Event>) -> Result<(), ReplyError> {
        let index = candidate.get("index").and_then(Value::as_u64).unwrap_or(0);
        let index = u32::try_from(index)
            .map_err(|_| ReplyError::Malformed("a candidate's index is too large".into()))?;
        let at = match self.candidates.iter().position(|(known, _, _)| *known == index) {
            Some(at) => at,
            None if self.candidates.len() >= CANDIDATES_MAX => {
                return Err(ReplyError::Malformed(format!("more than {CANDIDATES_MAX} candidates")));
            }
            None => {
                self.candidates.push((index, 0, false));
                self.candidates.len() - 1
            }
        };
        let (_, calls, ended) = &mut self.candidates[at];
        for part in candidate.pointer("/content/parts").and_then(Value::as_array).into_iter().flatten() {
            read_part(index, calls, part, events);
        }
        if let Some(result) = candidate.get("logprobsResult") {
            let content = logprobs(result);
            if !content.is_empty() {
                events.push(Event::Logprobs { choice: index, content });
            }
        }
        if let Some(reason) = candidate.get("finishReason").and_then(Value::as_str) {
            *ended = true;
            let finish = finish(reason, *calls > 0)?;
            events.push(Event::Finish { choice: index, finish });
        }
        Ok(())
    }
}

fn read_part(choice: u32, calls: &mut u32, part: &Value, events: &mut Vec<Event>) {
    let signature = part.get("thoughtSignature").and_then(Value::as_str);
    if let Some(function) = part.get("functionCall") {
        let call = *calls;
        *calls += 1;
        let text_of = |key: &str| function.get(key).and_then(Value::as_str).map(str::to_owned);
        events.push(Event::ToolCall {
            choice,
            call,
            id: text_of("id"),
            name: text_of("name").unwrap_or_default(),
            signature: signature.map(str::to_owned),
        });
        let args = function.get("args").filter(|args| args.is_object());
        let text = args.map_or_else(|| "{}".to_owned(), Value::to_string);
        events.push(Event::Arguments { choice, call, text });
        return;
    }
    if let Some(text) = part.get("text").and_then(Value::as_str) {
        let text = text.to_owned();
        if part.get("thought").and_then(Value::as_bool) == Some(true) {
            events.push(Event::Reasoning { choice, text });
        } else if !text.is_empty() {
            events.push(Event::Text { choice, text });
        }
    }
    if let Some(signature) = signature {
        events.push(Event::Signature { choice, signature: format!("{SIGNATURE_MARK}{signature}") });
    }
}

/// Gemini's log probabilities in OpenAI's shape.
fn logprobs(result: &Value) -> Vec<Value> {
    let entry = |candidate: &Value| {
        let token = candidate.get("token").and_then(Value::as_str).unwrap_or_default();
        let logprob = candidate.get("logProbability").cloned().unwrap_or(json!(0));
        json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()})
    };
    let chosen = result.get("chosenCandidates").and_then(Value::as_array).into_iter().flatten();
    let tops = result.get("topCandidates").and_then(Value::as_array);
    chosen
        .enumerate()
        .map(|(at, candidate)| {
            let top = tops.and_then(|tops| tops.get(at)?.get("candidates")?.as_array());
            let mut object = entry(candidate);
            object["top_logprobs"] = top.into_iter().flatten().map(entry).collect();
            object
        })
        .collect()
}

fn finish(reason: &str, called: bool) -> Result<Finish, ReplyError> {
    Ok(match reason {
        "MAX_TOKENS" => Finish::Length,
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => Finish::Filter,
        "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "TOO_MANY_TOOL_CALLS" | "MALFORMED_RESPONSE" => {
            return Err(ReplyError::Malformed(format!("the answer ended with `{reason}`")));
        }
        _ if called => Finish::ToolCalls,
        _ => Finish::Stop,
    })
}
