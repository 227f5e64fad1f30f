//! One attempt: the request in its backend's dialect, sent there or through a peer, and the answer read up to
//! the first content byte.
//!
//! Owns the clocks of an attempt. Which backend is tried, and what follows a failure, is
//! [`attempts`](super::attempts)'.

use super::hedge::{Finish, Racer, locked};
use super::running::{Begun, Progress};
use super::tally::Tally;
use super::{Call, Relay};
use crate::config::Timeouts;
use crate::outbound::Answer;
use crate::peer_relay::{Ask, Unreached};
use llm_router_actors::lease::Lease;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, Fault};
use llm_router_logic::ids::NodeId;
use llm_router_logic::route::Step;
use llm_router_logic::time::Moment;
use llm_router_logic::wire::{self, Exchange, Reply, ReplyError};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A request ready to be sent to one backend.
pub(super) struct Outgoing {
    encoded: wire::Encoded,
    pub(super) exchange: Exchange,
    /// Fields of the client's request that the dialect cannot carry.
    dropped: String,
}

/// Where what is seen of an attempt is noted, which may be one of two at once.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a, 't> {
    pub(super) tally: &'a Mutex<&'t mut Tally>,
    pub(super) finish: &'a Finish,
    pub(super) racer: Racer,
}

impl Watched<'_, '_> {
    fn began(&self, step: &Step, ttft: Option<Duration>) {
        locked(self.tally).began_as(self.racer, step, ttft);
        self.finish.cross(self.racer);
    }

    /// Id of the decision, and the tokens predicted.
    fn told(&self) -> (String, u32) {
        let tally = locked(self.tally);
        (tally.id().to_owned(), tally.tokens())
    }

    /// Headers that tell the backend of `step` where it stands in the trace.
    fn traced(&self, relay: &Relay, step: &Step) -> Vec<(&'static str, String)> {
        relay.tracer.as_ref().map_or_else(Vec::new, |tracer| locked(self.tally).trail().told(tracer, step))
    }

    fn saw(&self, reply: &Reply) {
        locked(self.tally).saw_as(self.racer, reply);
    }
}

impl Relay {
    /// Sends the request and reads up to where falling back ends: the first content byte of a stream,
    /// the end of a plain answer, of which the client has seen nothing before.
    pub(super) async fn begin(
        &self,
        step: &Step,
        lease: &mut Lease,
        outgoing: Outgoing,
        deadline: Moment,
        watched: Watched<'_, '_>,
    ) -> Result<Begun, Fault> {
        let Outgoing { mut encoded, exchange, dropped } = outgoing;
        encoded.headers.extend(watched.traced(self, step));
        let clock = self.handle.clock();
        let Timeouts { first_byte, whole_answer, idle, .. } = self.timeouts;
        let first_byte = if exchange.upstream_streams { first_byte } else { whole_answer };
        let first_byte_by = (clock.now() + first_byte).min(deadline);
        let timed_out = |fault: Fault| match fault {
            Fault::FirstByteTimeout(_) | Fault::IdleTimeout(_) if clock.until(deadline).is_zero() => {
                Fault::Deadline
            }
            Fault::FirstByteTimeout(_) => Fault::FirstByteTimeout(first_byte),
            other => other,
        };
        let Exchange { client_streams, upstream_streams, .. } = exchange;
        let content_type = exchange.content_type();
        let mut reply = Reply::new(exchange);
        let patience = clock.until(first_byte_by);
        let sent = match &step.via {
            None => self.outbound.send(&step.backend, encoded, patience).await,
            Some(peer) => {
                let (decision, tokens) = watched.told();
                let (backend, model, decision) = (&step.backend, &*step.model, &*decision);
                let (request, left) = (encoded, clock.until(deadline));
                let ask = Ask { backend, model, tokens, request, patience, left, decision };
                self.send_through(peer, ask).await
            }
        };
        let mut answer = sent.map_err(timed_out)?;
        let mut head = Vec::new();
        let mut ended = false;
        let mut progress = Progress::new(clock.now(), upstream_streams);
        while !(ended || client_streams && reply.has_content()) {
            let chunk = if reply.has_read_content() {
                answer.chunk(progress.left(idle, clock.now()).min(clock.until(deadline))).await
            } else {
                let chunk = answer.chunk(clock.until(first_byte_by)).await;
                chunk.map_err(|fault| match fault {
                    Fault::IdleTimeout(_) => Fault::FirstByteTimeout(first_byte),
                    other => other,
                })
            };
            match chunk.map_err(timed_out)? {
                Some(chunk) => reply.push(&chunk, &mut head).map_err(reply_fault)?,
                None => {
                    reply.finish(&mut head).map_err(reply_fault)?;
                    ended = true;
                }
            }
            if reply.has_read_content() || ended {
                // An upstream that does not stream shows its first token with its last: that is no
                // time to first token.
                if upstream_streams {
                    lease.first_token();
                }
                watched.began(step, lease.ttft());
            }
            progress.note(&reply, clock.now());
            lease.saw_output(reply.output_events());
            watched.saw(&reply);
        }
        Ok(Begun { answer, reply, head, ended, content_type, dropped, progress })
    }

    /// Sends the request through the router of `peer`. One whose relay cannot be reached is left alone for a
    /// while.
    async fn send_through(&self, peer: &NodeId, ask: Ask<'_>) -> Result<Answer, Fault> {
        let counted = |result: &str| {
            let counter = &self.handle.metrics().relayed_requests_total;
            counter.with_label_values(&["sent", result]).inc();
        };
        let snapshot = self.handle.snapshot();
        let sent = match snapshot.view.relay_of(peer) {
            Some(address) => self.outbound.send_through(peer, address, ask).await,
            None => Err((Fault::Connect(format!("router `{peer}` relays no more")), Unreached(false))),
        };
        match sent {
            Ok(answer) => {
                counted("served");
                Ok(answer)
            }
            Err((fault, Unreached(unreached))) => {
                counted(if unreached { "unreached" } else { fault.label() });
                if unreached {
                    self.handle.relay_failed(peer);
                }
                Err(fault)
            }
        }
    }

    /// The request in the dialect of `step`.
    pub(super) fn outgoing(
        &self,
        call: &Call,
        snapshot: &Snapshot,
        step: &Step,
    ) -> Result<Outgoing, ApiError> {
        let kind = snapshot.view.backends[step.index].spec.kind;
        let encoded = wire::encode(&call.inbound(), &call.inspected, kind, &step.model)?;
        let exchange = self.exchange(call, &encoded, kind, &step.model);
        let dropped = encoded.dropped.join(", ");
        Ok(Outgoing { encoded, exchange, dropped })
    }

    fn exchange(&self, call: &Call, encoded: &wire::Encoded, kind: Kind, model: &str) -> Exchange {
        let id = format!("{:016x}", self.handle.draw());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Exchange::new(&call.inbound(), &call.inspected, encoded, kind, model, id, created)
    }
}

pub(super) fn reply_fault(error: ReplyError) -> Fault {
    match error {
        ReplyError::Upstream { status, error } => {
            Fault::Status { status: status.unwrap_or(502), retry_after: None, error }
        }
        ReplyError::Incomplete(why) => Fault::Broken(why),
        ReplyError::Malformed(why) => Fault::Malformed(why),
    }
}
