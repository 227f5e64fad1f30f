//! The two sides of a translation: the reader of the upstream's dialect and the writer of the client's.

use super::{BODY_BYTES_MAX, ReplyError, too_large};
use crate::backend::Kind;
use crate::wire::answer::{Answer, Event};
use crate::wire::{Dialect, Exchange, Operation, anthropic, gemini, openai};
use serde_json::Value;

#[derive(Debug)]
pub(super) enum Read {
    OpenAi(openai::read::Read),
    Anthropic(anthropic::read::Read),
    Gemini(gemini::read::Read),
}

impl Read {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::OpenAi | Kind::Llama => Self::OpenAi(openai::read::Read::default()),
            Kind::Anthropic => Self::Anthropic(anthropic::read::Read::default()),
            Kind::Gemini => Self::Gemini(gemini::read::Read::default()),
        }
    }

    pub(super) fn chunk(&mut self, chunk: &Value, events: &mut Vec<Event>) -> Result<(), ReplyError> {
        match self {
            Self::OpenAi(read) => read.chunk(chunk, events),
            Self::Anthropic(read) => {
                read.chunk(chunk, events);
                Ok(())
            }
            Self::Gemini(read) => read.chunk(chunk, events),
        }
    }

    pub(super) fn body(&mut self, body: &Value, events: &mut Vec<Event>) -> Result<(), ReplyError> {
        match self {
            Self::OpenAi(read) => read.body(body, events),
            Self::Anthropic(read) => read.body(body, events),
            Self::Gemini(read) => read.body(body, events),
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::OpenAi(read) => read.is_finished(),
            Self::Anthropic(read) => read.is_finished(),
            Self::Gemini(read) => read.is_finished(),
        }
    }

    /// Whether the upstream's own end of stream was read; OpenAI's `[DONE]` is no JSON and seen before.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self, Self::Anthropic(read) if read.is_stopped())
    }
}

#[derive(Debug)]
pub(super) enum Write {
    /// Gathered for one body.
    Body(Answer),
    OpenAi(openai::write::Write),
    Anthropic(anthropic::write::Write),
    Gemini(gemini::write::Write),
    Responses(openai::responses::write::Write),
}

impl Write {
    pub(super) fn new(exchange: &Exchange) -> Self {
        if !exchange.client_streams {
            return Self::Body(Answer::default());
        }
        match exchange.dialect {
            Dialect::OpenAi if exchange.operation == Operation::Responses => {
                Self::Responses(openai::responses::write::Write::default())
            }
            Dialect::OpenAi => Self::OpenAi(openai::write::Write::default()),
            Dialect::Anthropic => Self::Anthropic(anthropic::write::Write::default()),
            Dialect::Gemini => Self::Gemini(gemini::write::Write::default()),
        }
    }

    pub(super) fn event(
        &mut self,
        event: Event,
        exchange: &Exchange,
        out: &mut Vec<u8>,
    ) -> Result<(), ReplyError> {
        match self {
            Self::Body(answer) => {
                if answer.add(event) > BODY_BYTES_MAX {
                    return Err(too_large());
                }
            }
            Self::OpenAi(write) => write.event(event, exchange, out),
            Self::Anthropic(write) => write.event(event, exchange, out),
            Self::Gemini(write) => write.event(event, exchange, out)?,
            Self::Responses(write) => {
                write.event(event, exchange, out);
                if write.bytes() > BODY_BYTES_MAX {
                    return Err(too_large());
                }
            }
        }
        Ok(())
    }

    pub(super) fn end(&mut self, exchange: &Exchange, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        match self {
            Self::Body(answer) => {
                let body = match exchange.dialect {
                    Dialect::OpenAi if exchange.operation == Operation::Responses => {
                        openai::responses::write::body(answer, exchange)
                    }
                    Dialect::OpenAi => openai::write::body(answer, exchange),
                    Dialect::Anthropic => anthropic::write::body(answer, exchange)?,
                    Dialect::Gemini => gemini::write::body(answer, exchange)?,
                };
                out.extend_from_slice(body.to_string().as_bytes());
            }
            Self::OpenAi(write) => write.end(exchange, out),
            Self::Anthropic(write) => write.end(exchange, out),
            Self::Gemini(write) => write.end(exchange, out),
            Self::Responses(write) => write.end(exchange, out),
        }
        Ok(())
    }
}
