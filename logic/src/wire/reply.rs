//! One upstream response becoming one client response.
//!
//! Bytes are cut into stream events or gathered into a body (whichever they are: a server may answer a
//! streamed request with a body and the other way round). Between equal dialects events are forwarded as
//! they came and only looked into; otherwise they are read into neutral events and written again.
//!
//! What comes before the first content (a role, an id) is held back, so that until then nothing was sent
//! and another backend may still be tried.

mod forward;
mod sides;
mod told;

use super::answer::Event;
use super::json::parse;
use super::{Dialect, Exchange, Operation, error, gemini, openai, sse};
use crate::backend::Kind;
use crate::cost::usage::Usage;
use crate::fault::{ApiError, UpstreamError};
use forward::Forward;
use serde_json::Value;
use sides::{Read, Write};
use std::sync::Arc;
use told::Told;

/// Bound on a body that is not a stream, and on an answer put together from a stream, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes before the first content that are held back; more are let go, since they are no mere prelude.
const PRELUDE_BYTES_MAX: usize = 1024 * 1024;

/// What [`Reply`] met instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// An error object where an answer was expected (also "200 with an error body").
    Upstream {
        /// Status the error stands for, where the dialect tells.
        status: Option<u16>,
        /// The error.
        error: UpstreamError,
    },
    /// The body ended before the answer did.
    Incomplete(String),
    /// Not what the dialect allows, or over a bound.
    Malformed(String),
}

impl std::fmt::Display for ReplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Upstream { error, .. } => write!(f, "the backend sent an error: {}", error.message),
            Self::Incomplete(why) => write!(f, "the answer is incomplete: {why}"),
            Self::Malformed(why) => write!(f, "the answer is malformed: {why}"),
        }
    }
}

impl std::error::Error for ReplyError {}

/// Turns the body of one successful upstream response into the body for the client.
///
/// Feed it with [`push`](Self::push) as bytes arrive and call [`finish`](Self::finish) at the end of
/// the body. What is appended to `out` goes to the client as it is: whole events for a stream, the
/// whole body at `finish` otherwise.
#[derive(Debug)]
pub struct Reply {
    exchange: Exchange,
    input: Input,
    route: Route,
    /// Client bytes from before the first content.
    held: Vec<u8>,
    sent_content: bool,
    /// The upstream said it is done (`[DONE]`, `message_stop`).
    done: bool,
    /// The client's stream has its end.
    ended: bool,
    usage: Option<Usage>,
    told: Told,
    content_events: u64,
}

/// How the upstream's bytes are framed; decided by the first one that is not white space.
#[derive(Debug)]
enum Input {
    Unknown,
    Stream(sse::Reader),
    Body(Vec<u8>),
}

/// What happens with what was read.
#[derive(Debug)]
enum Route {
    /// Same dialect: passed on as it is.
    Forward(Forward),
    /// Legacy completions, put together for a client that wants one body.
    Completion(openai::completion::Assembly),
    /// One body without choices (vectors, a count) between dialects.
    Convert,
    /// Between dialects, or from a stream to a body.
    Translate { read: Read, write: Box<Write> },
}

fn too_large() -> ReplyError {
    ReplyError::Malformed(format!("larger than {BODY_BYTES_MAX} bytes"))
}

impl Reply {
    /// A fresh translation.
    pub fn new(exchange: Exchange) -> Self {
        let route = Self::route(&exchange);
        Self {
            exchange,
            input: Input::Unknown,
            route,
            held: Vec::new(),
            sent_content: false,
            done: false,
            ended: false,
            usage: None,
            told: Told::default(),
            content_events: 0,
        }
    }

    fn route(exchange: &Exchange) -> Route {
        let opaque = matches!(exchange.operation, Operation::Embedding | Operation::CountTokens);
        if opaque && exchange.kind == Kind::Gemini {
            return Route::Convert;
        }
        if opaque {
            return Route::Forward(Forward::new(exchange));
        }
        // llama.cpp is asked for responses as chat completions.
        let responses = exchange.operation == Operation::Responses;
        let same = matches!(
            (exchange.dialect, exchange.kind),
            (Dialect::OpenAi, Kind::OpenAi)
                | (Dialect::Anthropic, Kind::Anthropic)
                | (Dialect::Gemini, Kind::Gemini)
        ) || (exchange.dialect == Dialect::OpenAi && exchange.kind == Kind::Llama && !responses);
        if same && exchange.client_streams == exchange.upstream_streams {
            return Route::Forward(Forward::new(exchange));
        }
        if exchange.operation == Operation::Completion {
            return Route::Completion(openai::completion::Assembly::default());
        }
        Route::Translate { read: Read::new(exchange.kind), write: Box::new(Write::new(exchange)) }
    }

    /// Takes upstream bytes in any chunking.
    ///
    /// # Errors
    /// [`ReplyError`] where the upstream sent an error object or bytes its dialect does not allow.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let mut bytes = bytes;
        if matches!(self.input, Input::Unknown) {
            bytes = bytes.trim_ascii_start();
            let Some(first) = bytes.first() else { return Ok(()) };
            // Field names of events, a comment, or a byte order mark; JSON and HTML begin otherwise.
            let stream = matches!(first, b'd' | b'e' | b'i' | b'r' | b':')
                || (*first == 0xEF && self.exchange.upstream_streams);
            self.input = if stream { Input::Stream(sse::Reader::default()) } else { Input::Body(Vec::new()) };
            if stream {
                self.gather_unasked();
            }
        }
        match &mut self.input {
            Input::Stream(reader) => {
                let mut events = Vec::new();
                let read = reader.push(bytes, &mut events);
                for event in events {
                    self.event(&event, out)?;
                }
                read.map_err(|error| ReplyError::Malformed(error.to_string()))
            }
            Input::Body(held) if held.len() + bytes.len() > BODY_BYTES_MAX => Err(too_large()),
            Input::Body(held) => {
                held.extend_from_slice(bytes);
                Ok(())
            }
            Input::Unknown => Ok(()),
        }
    }

    /// The upstream's body ended.
    ///
    /// # Errors
    /// [`ReplyError::Incomplete`] where it ended before a finish reason.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        match std::mem::replace(&mut self.input, Input::Unknown) {
            Input::Unknown if self.done => {}
            Input::Unknown => return Err(ReplyError::Incomplete("the body is empty".to_owned())),
            Input::Stream(mut reader) => {
                // A last event without its blank line counts if it is whole.
                if let Some(event) = reader.finish()
                    && (event.data == "[DONE]"
                        || serde_json::from_str::<serde::de::IgnoredAny>(&event.data).is_ok())
                {
                    self.event(&event, out)?;
                }
            }
            Input::Body(body) => self.body(&body, out)?,
        }
        let finished = self.done
            || match &self.route {
                Route::Forward(forward) => forward.is_finished(),
                Route::Completion(assembly) => assembly.is_finished(),
                Route::Convert => false,
                Route::Translate { read, .. } => read.is_finished(),
            };
        if !finished {
            return Err(ReplyError::Incomplete("the stream ended without a finish reason".to_owned()));
        }
        self.done = true;
        self.end(out)
    }

    /// A stream in place of the body that was asked for cannot be passed on as it is: it is put together.
    fn gather_unasked(&mut self) {
        if self.exchange.client_streams || !matches!(self.route, Route::Forward(_)) {
            return;
        }
        self.route = match self.exchange.operation {
            Operation::Chat => Route::Translate {
                read: Read::new(self.exchange.kind),
                write: Box::new(Write::new(&self.exchange)),
            },
            Operation::Completion => Route::Completion(openai::completion::Assembly::default()),
            // No stream of these can be put together; their first event is refused.
            Operation::Embedding | Operation::CountTokens | Operation::Responses => return,
        };
    }

    /// One event of the upstream's stream.
    fn event(&mut self, event: &sse::Event, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if self.done {
            return Ok(());
        }
        if event.data.trim() == "[DONE]" {
            let begun = match &self.route {
                Route::Forward(forward) => forward.has_begun(),
                Route::Completion(assembly) => assembly.is_finished(),
                Route::Convert => false,
                Route::Translate { read, .. } => read.is_finished() || self.content_events > 0,
            };
            if !begun {
                return Err(ReplyError::Incomplete("the stream ended before it began".to_owned()));
            }
            self.done = true;
            return if self.exchange.client_streams { self.end(out) } else { Ok(()) };
        }
        self.told.note(&event.data);
        if let Route::Forward(forward) = &mut self.route {
            if !self.exchange.client_streams {
                return Err(ReplyError::Malformed("a stream where one body was asked for".to_owned()));
            }
            let seen = forward.event(event, self.exchange.include_usage)?;
            self.usage = seen.usage.or(self.usage);
            self.content_events += u64::from(seen.content);
            if seen.forwarded {
                forward.write(event, self.exchange.json_array, &mut self.held);
            }
            self.release(seen.content, out);
            if seen.stopped {
                self.done = true;
                self.ended = true;
                self.release(true, out);
            }
            return Ok(());
        }
        let value = self.value(&event.data)?;
        let before = self.content_events;
        match &mut self.route {
            Route::Completion(assembly) => {
                if assembly.add(&value) > BODY_BYTES_MAX {
                    return Err(too_large());
                }
                self.usage = value.get("usage").and_then(openai::read_usage).or(self.usage);
                let texts = value.get("choices").and_then(Value::as_array).into_iter().flatten();
                let content =
                    texts.filter(|choice| choice["text"].as_str().is_some_and(|text| !text.is_empty()));
                self.content_events += content.count() as u64;
            }
            Route::Translate { read, .. } => {
                let mut events = Vec::new();
                read.chunk(&value, &mut events)?;
                let stopped = read.is_stopped();
                self.write(events)?;
                self.done |= stopped;
            }
            Route::Convert => {
                return Err(ReplyError::Malformed("a stream where none is possible".to_owned()));
            }
            Route::Forward(_) => {}
        }
        if self.exchange.client_streams {
            self.release(self.content_events > before, out);
            if self.done {
                self.end(out)?;
            }
        }
        Ok(())
    }

    /// A whole body, whether or not a stream was asked for.
    fn body(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let text = std::str::from_utf8(body).map_err(|_| ReplyError::Malformed("not UTF-8".to_owned()))?;
        let text = text.trim_start_matches('\u{FEFF}');
        self.told.note(text);
        if let Route::Forward(forward) = &mut self.route
            && !self.exchange.client_streams
        {
            let seen = forward.body(text)?;
            self.usage = seen.usage;
            self.content_events += u64::from(seen.content);
            self.sent_content |= seen.content;
            self.held.extend_from_slice(text.as_bytes());
            self.done = true;
            return Ok(());
        }
        // A body in place of the stream: told as a stream, or put together as any other.
        let value = self.value(text)?;
        if matches!(self.route, Route::Forward(_)) {
            let write = Box::new(Write::new(&self.exchange));
            self.route = Route::Translate { read: Read::new(self.exchange.kind), write };
        }
        match &mut self.route {
            Route::Completion(assembly) => {
                assembly.add(&value);
                self.usage = value.get("usage").and_then(openai::read_usage);
                self.content_events += 1;
            }
            Route::Translate { read, .. } => {
                let mut events = Vec::new();
                match &value {
                    Value::Array(chunks) => {
                        chunks.iter().try_for_each(|chunk| read.chunk(chunk, &mut events))?;
                    }
                    whole => read.body(whole, &mut events)?,
                }
                self.write(events)?;
            }
            Route::Convert => {
                let converted = if self.exchange.operation == Operation::Embedding {
                    gemini::embedding::write(&value, &self.exchange)?
                } else {
                    gemini::embedding::write_count(&value)?
                };
                self.held.extend_from_slice(converted.to_string().as_bytes());
                self.content_events += 1;
                self.done = true;
            }
            Route::Forward(_) => {}
        }
        if self.exchange.client_streams {
            self.release(self.content_events > 0, out);
        }
        Ok(())
    }

    /// JSON that is not an error object.
    fn value(&self, text: &str) -> Result<Value, ReplyError> {
        let value: Value = parse(text).map_err(|error| not_json(text, &error))?;
        match upstream_error(self.exchange.kind, &value) {
            Some(error) => Err(error),
            None => Ok(value),
        }
    }

    fn write(&mut self, events: Vec<Event>) -> Result<(), ReplyError> {
        let Route::Translate { write, .. } = &mut self.route else {
            return Ok(());
        };
        for event in events {
            if let Event::Usage(usage) = &event {
                self.usage = Some(*usage);
            }
            self.content_events += u64::from(event.is_content());
            write.event(event, &self.exchange, &mut self.held)?;
        }
        Ok(())
    }

    /// Lets go of what was held back, once there is content.
    fn release(&mut self, content: bool, out: &mut Vec<u8>) {
        self.sent_content |= content;
        if self.sent_content || self.done || self.held.len() > PRELUDE_BYTES_MAX {
            out.append(&mut self.held);
        }
    }

    /// The client's end of a complete answer, once.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        match &mut self.route {
            Route::Forward(forward) => forward.end(&self.exchange, &mut self.held),
            Route::Completion(assembly) => {
                let body = assembly.body(&self.exchange);
                self.held.extend_from_slice(body.to_string().as_bytes());
            }
            Route::Convert => {}
            Route::Translate { write, .. } => write.end(&self.exchange, &mut self.held)?,
        }
        self.release(self.content_events > 0, out);
        Ok(())
    }

    /// The proper end of a stream that failed after its first byte: a typed error event and the
    /// dialect's end of stream.
    pub fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        out.append(&mut self.held);
        let body = error::error_body(self.exchange.dialect, error).to_string();
        if let Route::Translate { write, .. } = &mut self.route
            && let Write::Responses(write) = write.as_mut()
        {
            return write.fail(error, &self.exchange, out);
        }
        match self.exchange.dialect {
            Dialect::OpenAi if self.exchange.operation == Operation::Responses => {
                openai::responses::write::Write::default().fail(error, &self.exchange, out);
            }
            Dialect::OpenAi => {
                sse::write_event(None, &body, out);
                sse::write_event(None, "[DONE]", out);
            }
            Dialect::Anthropic => sse::write_event(Some("error"), &body, out),
            Dialect::Gemini => {
                let begun = match &self.route {
                    Route::Forward(forward) => forward.has_framed(),
                    Route::Translate { write, .. } => {
                        matches!(write.as_ref(), Write::Gemini(write) if write.has_begun())
                    }
                    _ => false,
                };
                gemini::write::frame(&body, !begun, self.exchange.json_array, out);
                if self.exchange.json_array {
                    out.push(b']');
                }
            }
        }
    }

    /// Whether a content byte (text, tool call, reasoning, vector) was appended to any `out` so far.
    pub fn has_content(&self) -> bool {
        self.sent_content
    }

    /// Whether content was read of the upstream, also where the client's body is still being gathered:
    /// the moment of the first token.
    pub fn has_read_content(&self) -> bool {
        self.content_events > 0
    }

    /// Whether the upstream said it is done: bytes after this are only its formal end.
    pub fn is_complete(&self) -> bool {
        self.done
            || self.usage.is_some()
                && match &self.route {
                    Route::Forward(forward) => forward.is_finished(),
                    Route::Completion(assembly) => assembly.is_finished(),
                    Route::Convert => false,
                    Route::Translate { read, .. } => read.is_finished(),
                }
    }

    /// Usage as far as the upstream reported it.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Usage in the upstream's own JSON; of a stream that tells it in two parts (Anthropic) a list of both.
    pub fn raw_usage(&self) -> Option<Arc<str>> {
        self.told.usage()
    }

    /// The model as the upstream names it.
    pub fn model(&self) -> Option<Arc<str>> {
        self.told.model.clone()
    }

    /// Why the upstream stopped, in its own words, separated by commas where there are several choices.
    pub fn finish_reasons(&self) -> Option<Arc<str>> {
        self.told.finish.clone()
    }

    /// Whether the upstream said that it serves this in its batch or flex tier.
    pub fn is_batch(&self) -> bool {
        self.told.batch
    }

    /// Content events read so far: grows with every one, whatever usage the upstream claims.
    pub fn content_events(&self) -> u64 {
        self.content_events
    }

    /// Content tokens or, where the upstream gives no count, content events seen so far: the estimate
    /// that settles a stream whose end was never seen.
    pub fn output_events(&self) -> u64 {
        self.content_events.max(self.usage.map_or(0, |usage| usage.total_output()))
    }
}

fn not_json(text: &str, error: &serde_json::Error) -> ReplyError {
    if error.is_eof() && text.trim_start().starts_with(['{', '[']) {
        return ReplyError::Incomplete("JSON ended too early".to_owned());
    }
    ReplyError::Malformed(format!("not JSON: {error}"))
}

/// The error a value is, if it is one.
fn upstream_error(kind: Kind, value: &Value) -> Option<ReplyError> {
    let error = error::error_object(kind, value)?;
    Some(ReplyError::Upstream { status: error::status_of(&error), error })
}
