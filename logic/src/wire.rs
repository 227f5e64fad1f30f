//! Dialects: what a client sent, what a backend must be sent, and what comes back.
//!
//! The flow of one request: [`inspect`] reads what routing must know; [`encode`] makes the upstream
//! request for the chosen backend; a [`Reply`] turns the upstream's bytes into the client's, chunk by
//! chunk, and reads usage on the way. Nothing here does I/O.
//!
//! Where client and backend speak the same dialect, bytes pass through and only what must change is
//! spliced in ([`json`]). Otherwise a request is decoded into the neutral [`chat::Chat`] and encoded
//! from it, and an answer into neutral [`answer::Event`]s and encoded from them, so that each dialect is
//! written once per direction and not once per pair. What a target cannot carry is refused with a 400
//! naming the field where leaving it out would change what the client gets, and listed in
//! [`Encoded::dropped`] where it only tunes.

mod answer;
mod anthropic;
mod chat;
mod error;
mod gemini;
mod inspect;
pub(crate) mod json;
mod llama;
mod openai;
mod prefix;
mod proof;
mod reply;
mod request;
pub mod sse;

pub use error::{client_error, corrected_status, encode_error, estimate_count, read_error};
pub use inspect::inspect;
pub use prefix::{PREFIX_BYTES, Prefix};
pub use reply::{BODY_BYTES_MAX, Reply, ReplyError};
pub use request::encode;

use crate::backend::Kind;
use crate::capability::Capabilities;
use crate::cost::shape::TextShape;
use crate::request::ANY_MODEL;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// OpenAI.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Gemini.
    Gemini,
}

/// What a client wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A chat turn in any dialect.
    Chat,
    /// OpenAI's legacy completions.
    Completion,
    /// Embeddings.
    Embedding,
    /// OpenAI's responses: a chat turn in another shape.
    Responses,
    /// Anthropic's `count_tokens`.
    CountTokens,
}

/// A client's request as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// The client's dialect.
    pub dialect: Dialect,
    /// The route's operation.
    pub operation: Operation,
    /// The whole body.
    pub body: &'a [u8],
    /// The model where the path names it, as Gemini's routes do.
    pub path_model: Option<&'a str>,
    /// Whether the path asks for a stream, as Gemini's `:streamGenerateContent` does.
    pub path_stream: bool,
    /// Whether a stream is wanted as one JSON array: Gemini's streaming without `alt=sse`.
    pub json_array: bool,
}

impl<'a> Inbound<'a> {
    /// A request whose body says everything, as in all dialects but Gemini's.
    pub fn new(dialect: Dialect, operation: Operation, body: &'a [u8]) -> Self {
        Self { dialect, operation, body, path_model: None, path_stream: false, json_array: false }
    }

    /// A request on one of Gemini's routes; `sse` is whether the query had `alt=sse`.
    pub fn gemini(operation: Operation, body: &'a [u8], model: &'a str, stream: bool, sse: bool) -> Self {
        Self {
            path_model: Some(model),
            path_stream: stream,
            json_array: stream && !sse,
            ..Self::new(Dialect::Gemini, operation, body)
        }
    }
}

/// What [`inspect`] read of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inspected {
    /// The model asked for; `None` where the body names none.
    pub model: Option<String>,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// Whether the client asked for the usage chunk of a stream (OpenAI's `stream_options`).
    pub include_usage: bool,
    /// Bytes of prompt text, images and other binary parts left out.
    pub text_bytes: usize,
    /// Its shape, by which its tokens are predicted.
    pub text: TextShape,
    /// The client's bound on output tokens.
    pub max_output_tokens: Option<u32>,
    /// Capabilities the request needs: its operation, modalities, tools, JSON output.
    pub needs: Capabilities,
    /// The end user or session the client named (OpenAI `user`, Anthropic `metadata.user_id`).
    pub session: Option<String>,
    /// How the prompt begins.
    pub prefix: Prefix,
}

impl Inspected {
    /// Adds a JSON string, as it stands in the body, to the prompt's text.
    fn read_string(&mut self, raw: &str) {
        self.text_bytes += json::string_bytes(raw);
        json::string_chars(raw, |c| self.text.push(c));
        self.text.cut();
    }

    /// Adds text as it is.
    fn read_text(&mut self, text: &str) {
        self.text_bytes += text.len();
        self.text.read(text);
        self.text.cut();
    }

    /// Adds `tokens` that the client has counted itself, as about four bytes each.
    fn read_tokens(&mut self, tokens: usize) {
        self.text_bytes += 4 * tokens;
        for _ in 0..tokens {
            self.text.read("word");
            self.text.cut();
        }
    }
}

/// A request ready for one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Path and query below the backend's base URL, for example `/v1/chat/completions`.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
    /// Headers the dialect needs besides authentication and content type.
    pub headers: Vec<(&'static str, String)>,
    /// Whether the upstream was asked for a stream, which may differ from what the client asked.
    pub streams: bool,
    /// Fields of the client's request that this dialect cannot carry and that were left out.
    pub dropped: Vec<String>,
    /// Parts of the request that the client's dialect repeats in its answer, for [`Exchange::echo`].
    pub echo: Option<Arc<str>>,
}

/// What a [`Reply`] must know of the exchange it translates.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The client's dialect.
    pub dialect: Dialect,
    /// The operation.
    pub operation: Operation,
    /// Whether the client gets a stream.
    pub client_streams: bool,
    /// Whether the client asked for the usage chunk.
    pub include_usage: bool,
    /// The backend's dialect.
    pub kind: Kind,
    /// Whether the upstream was asked for a stream.
    pub upstream_streams: bool,
    /// The model name the client is shown.
    pub model: String,
    /// Unique id for responses whose upstream gives none; letters and digits only.
    pub response_id: String,
    /// Creation time for dialects that state it, Unix seconds.
    pub created: u64,
    /// Whether the client's stream is one JSON array instead of server-sent events.
    pub json_array: bool,
    /// [`Encoded::echo`] of this attempt.
    pub echo: Option<Arc<str>>,
}

impl Exchange {
    /// The exchange that `encoded`, made for a backend of `kind`, begins. The client is shown the model
    /// name it asked for, or `model` where it left the choice to the router.
    pub fn new(
        inbound: &Inbound<'_>,
        inspected: &Inspected,
        encoded: &Encoded,
        kind: Kind,
        model: &str,
        response_id: impl Into<String>,
        created: u64,
    ) -> Self {
        Self {
            dialect: inbound.dialect,
            operation: inbound.operation,
            client_streams: inspected.stream,
            include_usage: inspected.include_usage,
            kind,
            upstream_streams: encoded.streams,
            model: inspected
                .model
                .clone()
                .filter(|asked| asked != ANY_MODEL)
                .unwrap_or_else(|| model.to_owned()),
            response_id: response_id.into(),
            created,
            json_array: inbound.json_array,
            echo: encoded.echo.clone(),
        }
    }

    /// The content type of the client's response.
    pub fn content_type(&self) -> &'static str {
        if self.client_streams && !self.json_array { "text/event-stream" } else { "application/json" }
    }
}
