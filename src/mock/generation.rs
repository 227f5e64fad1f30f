//! Tells an answer at the configured pace: queue, first token, one token after another, the end, and
//! the ways a fault rule makes it end otherwise. What the bytes look like is up to a [`Voice`].

use super::app::{App, Ticket};
use super::error;
use super::fault::{Ending, Twist, UsageTwist};
use super::text::{Ask, Finish, Script};
use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::stream::{self, Stream};
use http::{HeaderValue, StatusCode, header};
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What an answer says of itself at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) finish: Finish,
    /// `None` where a fault rule leaves the usage out.
    pub(crate) usage: Option<Usage>,
    pub(crate) timings: Timings,
}

/// Tokens as stated to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// Of the input, read from a cache.
    pub(crate) cached: u64,
    /// Of the input, written to a cache.
    pub(crate) written: u64,
    /// Of the output, reasoning.
    pub(crate) reasoning: u64,
    /// Whether the end of a stream states it twice.
    pub(crate) twice: bool,
}

/// What llama-server reports beside the usage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timings {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) prompt: Duration,
    pub(crate) predicted: Duration,
}

/// One dialect's way to write an answer.
pub(crate) trait Voice: Send + 'static {
    /// Content type of the streamed form.
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }
    /// What precedes the first token; `usage` is what is known by then (no output yet).
    fn open(&mut self, usage: Option<Usage>, out: &mut Vec<u8>);
    /// One token; `so_far` counts it in.
    fn piece(&mut self, piece: &str, so_far: Option<Usage>, out: &mut Vec<u8>);
    /// The end: finish reason, usage, end of stream.
    fn close(&mut self, summary: &Summary, out: &mut Vec<u8>);
    /// The whole answer of a request without streaming.
    fn whole(&mut self, text: &str, summary: &Summary) -> Value;
}

#[derive(Debug, thiserror::Error)]
#[error("cut by a fault rule")]
struct Cut;

/// Answers `ask`: waits for a slot, then streams or collects.
pub(crate) async fn respond(app: &Arc<App>, ask: &Ask, voice: impl Voice, twist: Twist) -> Response {
    let kind = app.config.kind;
    let script = Script::new(ask, app.config.output_tokens);
    if script.input_tokens > app.config.context_window {
        return error::respond(kind, &too_long(kind, script.input_tokens, app.config.context_window));
    }
    let Ok(ticket) = app.enter(&ask.model, script.input_tokens).await else {
        return error::respond(kind, &queue_full(kind));
    };
    let mut telling = Telling::new(Arc::clone(app), ticket, script, voice, twist);
    if !ask.stream {
        return telling.collect().await;
    }
    let content_type = HeaderValue::from_static(telling.voice.stream_type());
    // llama-server sends its headers with the first token; a provider sends them when it starts.
    let held_back = if kind == Kind::Llama { telling.until_first_token().await } else { Vec::new() };
    let rest = telling.into_stream();
    let mut response =
        Response::new(Body::from_stream(stream::StreamExt::chain(stream::iter(held_back), rest)));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn too_long(kind: Kind, tokens: u64, window: u64) -> ApiError {
    let error = ApiError::new(
        ErrorKind::InvalidRequest,
        format!("the prompt has {tokens} tokens, the context window of this model is {window}"),
    );
    match kind {
        Kind::OpenAi => error.with_code("context_length_exceeded").with_param("messages"),
        Kind::Llama => error.with_code("exceed_context_size_error"),
        Kind::Anthropic | Kind::Gemini => error,
    }
}

fn queue_full(kind: Kind) -> ApiError {
    let error = if kind == Kind::Llama { ErrorKind::Unavailable } else { ErrorKind::RateLimit };
    ApiError::new(error, "the queue is full, retry later")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Speaking,
    Over,
}

struct Telling<V> {
    app: Arc<App>,
    /// `None` once the answer is over: the books are written and the slot is free.
    ticket: Option<Ticket>,
    script: Script,
    voice: V,
    twist: Twist,
    phase: Phase,
    told: usize,
    started: Instant,
    first_token_at: Option<Instant>,
    last_token_due: Option<Instant>,
}

impl<V: Voice> Telling<V> {
    fn new(app: Arc<App>, ticket: Ticket, script: Script, voice: V, twist: Twist) -> Self {
        Self {
            app,
            ticket: Some(ticket),
            script,
            voice,
            twist,
            phase: Phase::Opening,
            told: 0,
            started: Instant::now(),
            first_token_at: None,
            last_token_due: None,
        }
    }

    /// Waits until the next token is due. Dues are added up, so that rounding of the timer does not
    /// slow a fast answer down.
    async fn wait_for_token(&mut self) {
        let speed = self.app.speed();
        let due = match self.last_token_due {
            None => self.started + self.twist.ttft.unwrap_or(speed.ttft),
            Some(last) => last + interval(self.twist.tokens_per_second.unwrap_or(speed.tokens_per_second)),
        };
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        } else {
            // Lets the connection flush what it has: one event, one write.
            tokio::task::yield_now().await;
        }
        self.last_token_due = Some(due);
        self.first_token_at.get_or_insert_with(Instant::now);
    }

    /// The early end a fault rule asks for, once its token is reached.
    fn early_end(&self) -> Option<Ending> {
        self.twist.ending.filter(|(_, after)| self.told as u64 >= *after).map(|(ending, _)| ending)
    }

    fn stated(&self) -> Option<Usage> {
        self.twist.usage.apply(Usage::plain(self.script.input_tokens, self.told as u64))
    }

    fn summary(&self) -> Summary {
        let first = self.first_token_at.unwrap_or(self.started);
        Summary {
            finish: self.script.finish,
            usage: self.stated(),
            timings: Timings {
                input: self.script.input_tokens,
                output: self.told as u64,
                prompt: first - self.started,
                predicted: first.elapsed(),
            },
        }
    }

    /// The next bytes of the stream; `None` at its end.
    async fn advance(&mut self) -> Option<Result<Bytes, Cut>> {
        let mut out = Vec::new();
        loop {
            match self.phase {
                Phase::Opening => {
                    let usage = self.stated();
                    self.voice.open(usage, &mut out);
                    self.phase = Phase::Speaking;
                }
                Phase::Speaking => {
                    if self.early_end().is_some() || self.told < self.script.pieces.len() {
                        self.wait_for_token().await;
                    }
                    if let Some(ending) = self.early_end() {
                        return self.end_early(ending).await;
                    }
                    let Some(piece) = self.script.pieces.get(self.told) else {
                        let summary = self.summary();
                        self.voice.close(&summary, &mut out);
                        self.phase = Phase::Over;
                        if let Some(ticket) = self.ticket.take() {
                            ticket.complete(&summary.timings, summary.usage);
                        }
                        return Some(Ok(out.into()));
                    };
                    self.told += 1;
                    let so_far = self.stated();
                    self.voice.piece(piece, so_far, &mut out);
                    if let Some(ticket) = &mut self.ticket {
                        ticket.token();
                    }
                }
                Phase::Over => return None,
            }
            if !out.is_empty() {
                return Some(Ok(out.into()));
            }
        }
    }

    async fn end_early(&mut self, ending: Ending) -> Option<Result<Bytes, Cut>> {
        if ending == Ending::Stall {
            // Holds the slot until the client gives up.
            std::future::pending::<()>().await;
        }
        self.phase = Phase::Over;
        if let Some(ticket) = self.ticket.take() {
            ticket.break_off();
        }
        (ending == Ending::Cut).then_some(Err(Cut))
    }

    /// Everything up to and including the first token.
    async fn until_first_token(&mut self) -> Vec<Result<Bytes, Cut>> {
        let mut items = Vec::new();
        while self.told == 0 && self.phase != Phase::Over {
            items.extend(self.advance().await);
        }
        items
    }

    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Cut>> + Send {
        stream::unfold(self, async |mut telling| telling.advance().await.map(|item| (item, telling)))
    }

    /// The whole answer at once, after the time its tokens take.
    async fn collect(mut self) -> Response {
        while self.told < self.script.pieces.len() && self.early_end().is_none() {
            self.wait_for_token().await;
            self.told += 1;
            if let Some(ticket) = &mut self.ticket {
                ticket.token();
            }
        }
        let summary = self.summary();
        let text = self.script.text();
        let body = self.voice.whole(&text, &summary);
        let Some(ending) = self.early_end() else {
            if let Some(ticket) = self.ticket.take() {
                ticket.complete(&summary.timings, summary.usage);
            }
            return error::json_response(StatusCode::OK, &body);
        };
        // An early end of a plain answer: half of its bytes, then what the rule says.
        let whole = body.to_string().into_bytes();
        let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
        let rest = stream::unfold(Some((self, ending)), async |state| {
            let (mut telling, ending) = state?;
            telling.last_token_due = Some(Instant::now());
            telling.wait_for_token().await;
            telling.end_early(ending).await.map(|item| (item, None))
        });
        let mut response =
            Response::new(Body::from_stream(stream::StreamExt::chain(stream::iter([Ok(half)]), rest)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

fn interval(tokens_per_second: f64) -> Duration {
    if tokens_per_second > 0.0 {
        Duration::try_from_secs_f64(tokens_per_second.recip()).unwrap_or(Duration::ZERO)
    } else {
        Duration::ZERO
    }
}

impl Usage {
    /// Tokens of no special class.
    pub(crate) fn plain(input: u64, output: u64) -> Self {
        Self { input, output, cached: 0, written: 0, reasoning: 0, twice: false }
    }
}

impl UsageTwist {
    pub(crate) fn apply(self, truth: Usage) -> Option<Usage> {
        let scaled = |tokens: u64, factor: f64| (tokens as f64 * factor).round() as u64;
        match self {
            Self::True => Some(truth),
            Self::Missing => None,
            Self::Factor(factor) => {
                Some(Usage::plain(scaled(truth.input, factor), scaled(truth.output, factor)))
            }
            Self::Classes { cached, written, reasoning, twice } => {
                let cached = scaled(truth.input, cached);
                Some(Usage {
                    cached,
                    written: scaled(truth.input, written).min(truth.input - cached),
                    reasoning: scaled(truth.output, reasoning),
                    twice,
                    ..truth
                })
            }
        }
    }
}
