//! The body of a streamed answer, pulled by the client's connection.
//!
//! The client's connection polls it; when that connection goes, this is dropped, and with it the
//! upstream response (which cancels it there), the lease and the tally.

use super::{Committed, fault, reply_fault};
use crate::relay::tally::Tally;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use llm_router_actors::clock::Clock;
use llm_router_actors::lease::Lease;
use llm_router_logic::fault::Fault;
use llm_router_logic::time::Moment;
use std::convert::Infallible;
use std::time::Duration;

/// A stream under way.
pub(super) struct Streaming {
    committed: Committed,
    /// Taken when the outcome is known.
    lease: Option<Lease>,
    tally: Option<Tally>,
    clock: Clock,
    idle: Duration,
    deadline: Moment,
}

impl Streaming {
    pub(super) fn new(mut committed: Committed, tally: Tally, clock: Clock, idle: Duration, deadline: Moment) -> Self {
        let lease = committed.lease.take();
        Self { committed, lease, tally: Some(tally), clock, idle, deadline }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        stream::unfold(self, |mut streaming| async move {
            let bytes = streaming.next().await?;
            Some((Ok(bytes), streaming))
        })
    }

    /// The next bytes for the client; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.committed.head.is_empty() {
                let bytes = Bytes::from(std::mem::take(&mut self.committed.head));
                if self.committed.ended {
                    self.served();
                }
                return Some(bytes);
            }
            if self.committed.ended {
                self.served();
                return None;
            }
            if let Err(fault) = self.pull().await {
                self.committed.ended = true;
                self.failed(&fault);
            }
        }
    }

    async fn pull(&mut self) -> Result<(), Fault> {
        let Committed { answer, reply, head, .. } = &mut self.committed;
        let patience = self.idle.min(self.clock.until(self.deadline));
        let chunk = match answer.chunk(patience).await {
            Err(Fault::IdleTimeout(_)) if self.clock.until(self.deadline).is_zero() => return Err(Fault::Deadline),
            other => other?,
        };
        match chunk {
            Some(chunk) => reply.push(&chunk, head).map_err(reply_fault)?,
            None => {
                reply.finish(head).map_err(reply_fault)?;
                self.committed.ended = true;
            }
        }
        if let Some(lease) = &mut self.lease {
            lease.saw_output(reply.output_events());
        }
        if let Some(tally) = &mut self.tally {
            tally.saw(reply);
        }
        Ok(())
    }

    fn served(&mut self) {
        let reply = &self.committed.reply;
        if let Some(lease) = self.lease.take() {
            lease.succeed(reply.usage());
        }
        if let Some(tally) = self.tally.take() {
            tally.served(reply);
        }
    }

    /// A fault after the first content byte: a typed error event and the dialect's end of stream.
    fn failed(&mut self, fault: &Fault) {
        let Committed { step, reply, head, .. } = &mut self.committed;
        tracing::warn!(backend = %step.backend, %fault, "stream broke off after its first byte");
        let error = fault::told(fault, Some(step));
        reply.fail(&error, head);
        if let Some(lease) = self.lease.take() {
            lease.fail(fault);
        }
        if let Some(mut tally) = self.tally.take() {
            tally.failed(step, fault);
            tally.refused(&error);
        }
    }
}
