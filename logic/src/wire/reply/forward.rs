//! Passing a response through between equal dialects: bytes stay as they are, and a cheap look tells usage,
//! content, errors and the end.

use super::{Read, ReplyError, not_json, upstream_error};
use crate::backend::Kind;
use crate::cost::usage::Usage;
use crate::wire::answer::Event;
use crate::wire::json::parse;
use crate::wire::{Dialect, Exchange, Operation, gemini, openai, sse};
use openai::responses;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// What a look at an event or body told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Whether the client gets it.
    pub(super) forwarded: bool,
    /// Whether it carries content.
    pub(super) content: bool,
    pub(super) usage: Option<Usage>,
    /// Whether it ends the stream.
    pub(super) stopped: bool,
}

/// The state of a response that is passed through.
#[derive(Debug)]
pub(super) struct Forward {
    kind: Kind,
    begun: bool,
    framed: bool,
    eye: Eye,
}

/// How events are looked into.
#[derive(Debug)]
enum Eye {
    /// OpenAI's chat and completion chunks, by the few members that matter. Choices: index, ended.
    OpenAi(Vec<(u64, bool)>),
    /// Read in full, as for translation, with what is read thrown away.
    Full(Read),
    /// Responses: whether the last event was read.
    Responses(bool),
    /// One JSON body without choices, such as vectors.
    Opaque,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<ChoicePeek<'a>>>,
}

#[derive(Deserialize)]
struct ChoicePeek<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Option<DeltaPeek<'a>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct DeltaPeek<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
}

impl ChoicePeek<'_> {
    fn has_content(&self) -> bool {
        let holds = |member: Option<&RawValue>| {
            member.is_some_and(|raw| !matches!(raw.get(), "\"\"" | "[]" | "{}" | "null"))
        };
        let delta = self.delta.as_ref().is_some_and(|delta| {
            [
                delta.content,
                delta.refusal,
                delta.reasoning_content,
                delta.reasoning,
                delta.tool_calls,
                delta.function_call,
                delta.audio,
            ]
            .into_iter()
            .any(holds)
        });
        delta || holds(self.text)
    }
}

impl Forward {
    pub(super) fn new(exchange: &Exchange) -> Self {
        let eye = match (exchange.dialect, exchange.operation) {
            (_, Operation::Embedding | Operation::CountTokens) => Eye::Opaque,
            (Dialect::OpenAi, Operation::Responses) => Eye::Responses(false),
            (Dialect::OpenAi, _) => Eye::OpenAi(Vec::new()),
            _ => Eye::Full(Read::new(exchange.kind)),
        };
        Self { kind: exchange.kind, begun: false, framed: false, eye }
    }

    /// Whether anything of an answer was seen.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether an event was passed on.
    pub(super) fn has_framed(&self) -> bool {
        self.framed
    }

    /// Passes an event on; in one JSON array if the client wants it so.
    pub(super) fn write(&mut self, event: &sse::Event, json_array: bool, out: &mut Vec<u8>) {
        let first = !std::mem::replace(&mut self.framed, true);
        if json_array {
            gemini::write::frame(&event.data, first, true, out);
        } else {
            event.write(out);
        }
    }

    /// Whether every choice begun has ended.
    pub(super) fn is_finished(&self) -> bool {
        match &self.eye {
            Eye::OpenAi(choices) => !choices.is_empty() && choices.iter().all(|(_, ended)| *ended),
            Eye::Full(read) => read.is_finished(),
            Eye::Responses(ended) => *ended,
            Eye::Opaque => self.begun,
        }
    }

    /// Looks into one event.
    pub(super) fn event(&mut self, event: &sse::Event, include_usage: bool) -> Result<Seen, ReplyError> {
        let text = event.data.as_str();
        let seen = match &mut self.eye {
            Eye::OpenAi(choices) => {
                let chunk: Chunk<'_> = serde_json::from_str(text).map_err(|error| not_json(text, &error))?;
                if chunk.error.is_some() {
                    return Err(self.error(text));
                }
                let usage = chunk.usage.and_then(|raw| openai::read_usage(&parse(raw.get()).ok()?));
                let mut content = false;
                let entries = chunk.choices.unwrap_or_default();
                for entry in &entries {
                    content |= entry.has_content();
                    let at =
                        choices.iter().position(|(index, _)| *index == entry.index).unwrap_or_else(|| {
                            choices.push((entry.index, false));
                            choices.len() - 1
                        });
                    choices[at].1 |= entry.finish_reason.is_some();
                    if choices.len() > 1024 {
                        return Err(ReplyError::Malformed("more than 1024 choices".to_owned()));
                    }
                }
                // The chunk that only tells usage is ours where the client did not ask for it.
                let hidden = usage.is_some() && entries.is_empty() && !include_usage;
                Seen { forwarded: !hidden, content, usage, stopped: false }
            }
            Eye::Responses(ended) => {
                let value = parse(text).map_err(|error| not_json(text, &error))?;
                let look = responses::forward::event(&value)?;
                *ended |= look.stopped;
                Seen { forwarded: true, content: look.content, usage: look.usage, stopped: look.stopped }
            }
            Eye::Full(read) => {
                let value = parse(text).map_err(|error| not_json(text, &error))?;
                if let Some(error) = upstream_error(self.kind, &value) {
                    return Err(error);
                }
                let mut events = Vec::new();
                // What translation would refuse is the client's to judge here.
                let _ = read.chunk(&value, &mut events);
                let (content, usage) = look(&events);
                Seen { forwarded: true, content, usage, stopped: read.is_stopped() }
            }
            Eye::Opaque => {
                return Err(ReplyError::Malformed("a stream where none is possible".to_owned()));
            }
        };
        self.begun = true;
        Ok(seen)
    }

    /// Looks into a whole body.
    pub(super) fn body(&mut self, text: &str) -> Result<Seen, ReplyError> {
        let members = crate::wire::json::Shallow::read(text).map_err(|error| not_json(text, &error))?;
        if members.get("error").is_some() {
            return Err(self.error(text));
        }
        if let Eye::Responses(ended) = &mut self.eye {
            let value = parse(text).map_err(|error| not_json(text, &error))?;
            let look = responses::forward::body(&value)?;
            *ended = true;
            self.begun = true;
            return Ok(Seen { forwarded: true, content: look.content, usage: look.usage, stopped: true });
        }
        let needed = match (&self.eye, self.kind) {
            (Eye::Opaque, _) => "",
            (_, Kind::OpenAi | Kind::Llama) => "choices",
            (_, Kind::Anthropic) => "content",
            (_, Kind::Gemini) => "",
        };
        if !needed.is_empty() && members.get(needed).is_none() {
            return Err(ReplyError::Malformed(format!("the answer has no `{needed}`")));
        }
        self.begun = true;
        let usage = |key: &str| parse(members.get(key)?).ok();
        let usage = match self.kind {
            Kind::OpenAi | Kind::Llama => usage("usage").as_ref().and_then(openai::read_usage),
            Kind::Anthropic => {
                usage("usage").as_ref().and_then(|usage| crate::wire::anthropic::read_usage(usage, None))
            }
            Kind::Gemini => usage("usageMetadata").as_ref().and_then(gemini::read_usage),
        };
        Ok(Seen { forwarded: true, content: true, usage, stopped: false })
    }

    /// The end a stream must have, where the upstream left it out.
    pub(super) fn end(&mut self, exchange: &Exchange, out: &mut Vec<u8>) {
        if !exchange.client_streams {
            return;
        }
        match exchange.dialect {
            // Responses end with their last event.
            Dialect::OpenAi if exchange.operation == Operation::Responses => {}
            Dialect::OpenAi => sse::write_event(None, "[DONE]", out),
            Dialect::Anthropic => sse::write_event(Some("message_stop"), r#"{"type":"message_stop"}"#, out),
            Dialect::Gemini if exchange.json_array => {
                out.extend_from_slice(if self.framed { b"]" } else { b"[]" });
            }
            Dialect::Gemini => {}
        }
    }

    fn error(&self, text: &str) -> ReplyError {
        let value: Option<Value> = parse(text).ok();
        value
            .and_then(|value| upstream_error(self.kind, &value))
            .unwrap_or_else(|| ReplyError::Malformed("an `error` that cannot be read".to_owned()))
    }
}

fn look(events: &[Event]) -> (bool, Option<Usage>) {
    let content = events.iter().any(Event::is_content);
    let usage = events.iter().rev().find_map(|event| match event {
        Event::Usage(usage) => Some(*usage),
        _ => None,
    });
    (content, usage)
}
