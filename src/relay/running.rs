//! A backend that has begun to answer: from here on there is no other.
//!
//! Pulls the upstream's body through the translation as the client's connection polls it. When the client's connection goes, this is dropped, and with it the upstream
//! response (which cancels it there), the lease and the tally, which books what was seen.

use super::fault;
use super::sending::reply_fault;
use super::tally::Tally;
use crate::cache::answer::{Completion, Whole};
use crate::outbound::Answer;
use crate::telemetry::scope;
use crate::trace::Context;
use bytes::Bytes;
use futures_util::{Stream, stream};
use llm_router_actors::clock::Clock;
use llm_router_actors::lease::Lease;
use llm_router_logic::fault::{ApiError, Fault};
use llm_router_logic::money::Money;
use llm_router_logic::route::Step;
use llm_router_logic::time::Moment;
use llm_router_logic::wire::Reply;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// An upstream's answer as far as the first content byte.
pub(super) struct Begun {
    pub(super) answer: Answer,
    pub(super) reply: Reply,
    /// Translated, not yet sent.
    pub(super) head: Vec<u8>,
    /// Whether the upstream's body has ended.
    pub(super) ended: bool,
    /// Of the client's response.
    pub(super) content_type: &'static str,
    /// Fields of the request that this backend's dialect cannot carry.
    pub(super) dropped: String,
    pub(super) progress: Progress,
}

/// How long the rest of an answer may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) clock: Clock,
    /// Between two pieces of content.
    pub(super) idle: Duration,
    /// For all of it.
    pub(super) deadline: Moment,
    /// After this long without a byte for it, the client of an event stream is sent a comment, so that
    /// nothing between takes the connection for dead. `None` = never.
    pub(super) keep_alive: Option<Duration>,
}

/// A comment in an event stream, which every reader passes over.
pub(crate) const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// When an answer last got on. Comments do not count: llama-server pings every 30 s, whatever becomes
/// of the answer.
pub(super) struct Progress {
    at: Moment,
    events: u64,
    /// A body that is no event stream gets on with every byte.
    by_bytes: bool,
}

impl Progress {
    pub(super) fn new(now: Moment, upstream_streams: bool) -> Self {
        Self { at: now, events: 0, by_bytes: !upstream_streams }
    }

    /// Bytes were read.
    pub(super) fn note(&mut self, reply: &Reply, now: Moment) {
        let events = reply.content_events() + u64::from(reply.is_complete());
        if self.by_bytes || events > self.events {
            self.at = now;
            self.events = events;
        }
    }

    /// What is left of `idle`.
    pub(super) fn left(&self, idle: Duration, now: Moment) -> Duration {
        idle.saturating_sub(now.since(self.at))
    }
}

/// What a look at the upstream brought.
enum Pulled {
    /// Bytes, or its end.
    Bytes,
    /// Nothing for as long as a client is left without a sign of life.
    Silence,
}

/// An answer under way.
pub(super) struct Running {
    pub(super) step: Step,
    begun: Begun,
    /// Both are taken when the outcome is known.
    open: Option<(Lease, Tally)>,
    patience: Patience,
    completion: Option<Arc<Completion>>,
    /// Whose lines in the log are its.
    context: Arc<Context>,
}

impl Running {
    pub(super) fn new(step: Step, begun: Begun, lease: Lease, tally: Tally, patience: Patience) -> Self {
        let context = Arc::clone(tally.trail().context());
        Self { step, begun, open: Some((lease, tally)), patience, completion: None, context }
    }

    /// Tells `completion` of a whole answer.
    pub(super) fn telling(self, completion: Option<Arc<Completion>>) -> Self {
        Self { completion, ..self }
    }

    /// The body of a streamed answer.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        stream::unfold(self, |mut running| async move {
            let context = Arc::clone(&running.context);
            let bytes = scope::within(context, running.next()).await?;
            Some((Ok(bytes), running))
        })
    }

    /// The whole body of a plain answer, which has ended, and its cost.
    pub(super) fn complete(mut self) -> (Bytes, Option<Money>) {
        let cost = self.served();
        (Bytes::from(self.begun.head), cost)
    }

    /// The next bytes for the client; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.begun.ended {
                // Booked before the last bytes go out: a client that has read them all may hang up.
                self.served();
            }
            if !self.begun.head.is_empty() {
                return Some(Bytes::from(std::mem::take(&mut self.begun.head)));
            }
            if self.begun.ended {
                return None;
            }
            match self.pull().await {
                Ok(Pulled::Bytes) => {}
                Ok(Pulled::Silence) => return Some(Bytes::from_static(KEEP_ALIVE)),
                // After the first content byte: a typed error event and the dialect's end of stream.
                Err(fault) => {
                    let error = self.failed(&fault);
                    self.begun.reply.fail(&error, &mut self.begun.head);
                    self.begun.ended = true;
                }
            }
        }
    }

    async fn pull(&mut self) -> Result<Pulled, Fault> {
        let Begun { answer, reply, head, ended, progress, .. } = &mut self.begun;
        let Patience { clock, idle, deadline, keep_alive } = self.patience;
        let wait = progress.left(idle, clock.now()).min(clock.until(deadline));
        let chunk = match answer.chunk(keep_alive.unwrap_or(wait).min(wait)).await {
            Err(Fault::IdleTimeout(_)) if clock.until(deadline).is_zero() => return Err(Fault::Deadline),
            Err(Fault::IdleTimeout(_)) if progress.left(idle, clock.now()).is_zero() => {
                return Err(Fault::IdleTimeout(idle));
            }
            Err(Fault::IdleTimeout(_)) => return Ok(Pulled::Silence),
            other => other?,
        };
        match chunk {
            Some(chunk) => reply.push(&chunk, head).map_err(reply_fault)?,
            None => {
                reply.finish(head).map_err(reply_fault)?;
                *ended = true;
            }
        }
        progress.note(reply, clock.now());
        if let Some((lease, tally)) = &mut self.open {
            lease.saw_output(reply.output_events());
            tally.saw(reply);
        }
        Ok(Pulled::Bytes)
    }

    fn served(&mut self) -> Option<Money> {
        let (lease, tally) = self.open.take()?;
        lease.succeed(self.begun.reply.usage());
        let cost = tally.served();
        if let Some(completion) = &self.completion {
            completion.tell(Whole {
                cost,
                usage: self.begun.reply.usage().unwrap_or_default(),
                model: Arc::clone(&self.step.model),
                has_content: self.begun.reply.has_read_content(),
            });
        }
        cost
    }

    fn failed(&mut self, fault: &Fault) -> ApiError {
        tracing::warn!(backend = %self.step.backend, %fault, "answer broke off after its first byte");
        let error = fault::told(fault, Some(&self.step));
        if let Some((lease, mut tally)) = self.open.take() {
            lease.fail(fault);
            tally.failed(&self.step, fault);
            tally.refused(&error);
        }
        error
    }
}
