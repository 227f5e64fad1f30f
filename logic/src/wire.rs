//! Dialects: what a client sent, what a backend must be sent, and what comes back.
//!
//! The flow of one request: [`inspect`] reads what routing must know; [`encode`] makes the upstream
//! request for the chosen backend; a [`Reply`] turns the upstream's bytes into the client's, chunk by
//! chunk, and reads usage on the way. Nothing here does I/O.

pub mod sse;

use crate::backend::Kind;
use crate::capability::Capabilities;
use crate::cost::usage::Usage;
use crate::fault::{ApiError, UpstreamError};
use serde::{Deserialize, Serialize};

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
    /// The client's bound on output tokens.
    pub max_output_tokens: Option<u32>,
    /// Capabilities the request needs: its operation, modalities, tools, JSON output.
    pub needs: Capabilities,
    /// The end user or session the client named (OpenAI `user`, Anthropic `metadata.user_id`).
    pub session: Option<String>,
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
}

/// Reads what routing must know, without a full parse where that can be avoided.
///
/// # Errors
/// A body that is not what the dialect allows: an [`ApiError`] naming the field.
pub fn inspect(inbound: &Inbound<'_>) -> Result<Inspected, ApiError> {
    let _ = inbound;
    Ok(Inspected::default())
}

/// Makes the upstream request for a backend of `kind` that knows the model as `model`.
///
/// # Errors
/// What the target cannot do: an [`ApiError`] naming the field.
pub fn encode(
    inbound: &Inbound<'_>,
    inspected: &Inspected,
    kind: Kind,
    model: &str,
) -> Result<Encoded, ApiError> {
    let _ = (inspected, kind, model);
    Ok(Encoded {
        path: String::new(),
        body: inbound.body.to_vec(),
        headers: Vec::new(),
        streams: false,
        dropped: Vec::new(),
    })
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
    /// Unique id for responses whose upstream gives none.
    pub response_id: String,
    /// Creation time for dialects that state it, Unix seconds.
    pub created: u64,
}

/// Turns the body of one successful upstream response into the body for the client.
///
/// Feed it with [`push`](Self::push) as bytes arrive and call [`finish`](Self::finish) at the end of
/// the body. What is appended to `out` goes to the client as it is: whole events for a stream, the
/// whole body at `finish` otherwise.
#[derive(Debug)]
pub struct Reply {
    exchange: Exchange,
}

impl Reply {
    /// A fresh translation.
    pub fn new(exchange: Exchange) -> Self {
        Self { exchange }
    }

    /// Takes upstream bytes in any chunking.
    ///
    /// # Errors
    /// [`ReplyError`] where the upstream sent an error object or bytes its dialect does not allow.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ReplyError> {
        out.extend_from_slice(bytes);
        Ok(())
    }

    /// The upstream's body ended.
    ///
    /// # Errors
    /// [`ReplyError::Incomplete`] where it ended before a finish reason.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let _ = out;
        Ok(())
    }

    /// The proper end of a stream that failed after its first byte: a typed error event and the
    /// dialect's end of stream.
    pub fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        let _ = (error, out, &self.exchange);
    }

    /// Whether a content byte (text, tool call, reasoning, vector) was appended to any `out` so far.
    pub fn has_content(&self) -> bool {
        false
    }

    /// Whether the upstream said it is done: bytes after this are only its formal end.
    pub fn is_complete(&self) -> bool {
        false
    }

    /// Usage as far as the upstream reported it.
    pub fn usage(&self) -> Option<Usage> {
        None
    }

    /// Content tokens or, where the upstream gives no count, content events seen so far: the estimate
    /// that settles a stream whose end was never seen.
    pub fn output_events(&self) -> u64 {
        0
    }
}

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

/// Reads the error object of an upstream's non-2xx body; never fails, falls back to the text.
pub fn read_error(kind: Kind, body: &[u8]) -> UpstreamError {
    let _ = kind;
    UpstreamError {
        message: String::from_utf8_lossy(body).into_owned(),
        ..UpstreamError::default()
    }
}

/// The body of an error response in the client's dialect.
pub fn encode_error(dialect: Dialect, error: &ApiError) -> Vec<u8> {
    let _ = dialect;
    error.message.clone().into_bytes()
}
