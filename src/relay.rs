//! One request from plan to last byte. Read this first.
//!
//! ```text
//! call → view → plan → for each step: lease → encode → send → first content byte → commit
//!                        └ fault before that byte: next step     └ after it: typed error event
//! ```
//! Owns the order of attempts and the moment of commitment. What is decided is `logic::route`'s, what
//! is translated is `logic::wire`'s, what is counted is [`tally`]'s.

pub(crate) mod estimate;
mod fault;
mod running;
mod tally;

use crate::config::Timeouts;
use crate::decisions::Decisions;
use crate::outbound::Outbound;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use estimate::Estimates;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use llm_router_actors::Handle;
use llm_router_actors::gate::NotAdmitted;
use llm_router_actors::lease::Lease;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::backend::Kind;
use llm_router_logic::capability::Capabilities;
use llm_router_logic::fault::{ApiError, ErrorKind, Fault};
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use llm_router_logic::request::{ANY_MODEL, Hints, Request};
use llm_router_logic::route::{Explanation, Plan, Step, explain, plan};
use llm_router_logic::time::Moment;
use llm_router_logic::wire::{self, Dialect, Exchange, Inbound, Inspected, Operation, Reply, ReplyError};
use moka::sync::Cache;
use running::{Begun, Patience, Progress, Running};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tally::{Sources, Tally};

/// Attempts per request, the first included.
const ATTEMPTS_MAX: u32 = 3;
/// A longer session name, which only a body can hold, is not remembered.
const SESSION_BYTES_MAX: usize = 256;
/// Sessions remembered for stickiness.
const SESSIONS_MAX: u64 = 100_000;

/// A client's request, read and ready to be routed.
pub struct Call {
    /// The client's dialect.
    pub dialect: Dialect,
    /// What it wants.
    pub operation: Operation,
    /// What the path said, on Gemini's routes.
    pub path: Option<GeminiPath>,
    /// Its body as it came.
    pub body: Bytes,
    /// What was read of it.
    pub inspected: Inspected,
    /// Its wishes.
    pub hints: Hints,
    /// Capabilities asked for by header, besides what the body needs.
    pub needs: Capabilities,
    /// The session named by header.
    pub session: Option<String>,
}

/// What a path of Gemini's says of the request.
pub struct GeminiPath {
    /// The model.
    pub model: String,
    /// Whether a stream is wanted.
    pub stream: bool,
    /// Whether that stream shall be server-sent events (`alt=sse`) and not one JSON array.
    pub sse: bool,
}

/// Carries requests to backends and their answers back.
pub struct Relay {
    handle: Handle,
    outbound: Arc<Outbound>,
    decisions: Arc<Decisions>,
    estimates: Arc<Estimates>,
    timeouts: Timeouts,
    sessions: Option<Cache<String, BackendId>>,
}

impl Relay {
    /// A relay over the node's actors; `stickiness` zero = sessions are not remembered.
    pub fn new(
        handle: Handle,
        outbound: Arc<Outbound>,
        decisions: Arc<Decisions>,
        timeouts: Timeouts,
        stickiness: Duration,
    ) -> Self {
        let cache = || Cache::builder().max_capacity(SESSIONS_MAX).time_to_live(stickiness).build();
        let sessions = (!stickiness.is_zero()).then(cache);
        Self { handle, outbound, decisions, estimates: Arc::default(), timeouts, sessions }
    }

    /// The same relay with other timeouts; sessions are kept while the window stays the same.
    #[must_use]
    pub fn reconfigured(&self, timeouts: Timeouts, stickiness: Duration) -> Self {
        let mut relay = Self::new(
            self.handle.clone(),
            Arc::clone(&self.outbound),
            Arc::clone(&self.decisions),
            timeouts,
            stickiness,
        );
        let window = |sessions: &Option<Cache<String, BackendId>>| {
            sessions.as_ref().and_then(|cache| cache.policy().time_to_live())
        };
        if window(&relay.sessions) == window(&self.sessions) {
            relay.sessions.clone_from(&self.sessions);
        }
        relay.estimates = Arc::clone(&self.estimates);
        relay
    }

    /// Routes one call and answers it.
    ///
    /// # Errors
    /// What to tell the client where nothing could serve it; everything is booked.
    pub async fn relay(&self, call: Call) -> Result<Response, Failed> {
        let clock = self.handle.clock();
        let started = clock.now();
        let snapshot = self.handle.snapshot();
        let session = self.session_key(&call);
        let request = self.request(&call, session.as_deref());
        let deadline =
            started + request.hints.deadline.unwrap_or(self.timeouts.total).min(self.timeouts.total);

        let planning = std::time::Instant::now();
        let plan = plan(&snapshot.view, &*snapshot, &request, &snapshot.policy, self.handle.draw(), started);
        self.handle.metrics().decision_duration_seconds.observe(planning.elapsed().as_secs_f64());

        let sources = Sources {
            handle: self.handle.clone(),
            decisions: Arc::clone(&self.decisions),
            estimates: Arc::clone(&self.estimates),
            snapshot: Arc::clone(&snapshot),
        };
        let mut tally = Tally::open(sources, &request, call.inspected.text_bytes, &plan, started);
        let (step, mut begun, lease) =
            match self.attempt(&call, &request, &snapshot, &plan, deadline, &mut tally).await {
                Ok(attempted) => attempted,
                Err(error) => {
                    let decision = tally.id().to_owned();
                    tally.refused(&error);
                    return Err(Failed { error, decision });
                }
            };
        if let (Some(sessions), Some(session)) = (&self.sessions, session) {
            sessions.insert(session, step.backend.clone());
        }
        let mut told = Told {
            decision: tally.id().to_owned(),
            attempts: tally.attempts(),
            cost: step.predicted_cost,
            dropped: std::mem::take(&mut begun.dropped),
        };
        let content_type = begun.content_type;
        let is_event_stream = content_type == "text/event-stream";
        let patience = Patience {
            clock,
            idle: self.timeouts.idle,
            deadline,
            keep_alive: self.timeouts.keep_alive.filter(|_| is_event_stream),
        };
        let running = Running::new(step.clone(), begun, lease, tally, patience);
        let body = if call.inspected.stream {
            Body::from_stream(running.into_stream())
        } else {
            let (body, cost) = running.complete();
            told.cost = cost;
            Body::from(body)
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if call.inspected.stream {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        self.mark(&mut response, &step, told);
        Ok(response)
    }

    /// Tries the plan's steps in order until one begins to answer.
    async fn attempt(
        &self,
        call: &Call,
        request: &Request,
        snapshot: &Snapshot,
        plan: &Plan,
        deadline: Moment,
        tally: &mut Tally,
    ) -> Result<(Step, Begun, Lease), ApiError> {
        let clock = self.handle.clock();
        let tokens = request.input_tokens.saturating_add(request.output_tokens);
        let mut failure = None;
        let mut attempts = 0;
        for (nth, step) in plan.steps.iter().enumerate() {
            let left = clock.until(deadline);
            if left.is_zero() {
                return Err(failure.unwrap_or_else(|| fault::told(&Fault::Deadline, None)));
            }
            let inbound = call.inbound();
            let kind = snapshot.view.backends[step.index].spec.kind;
            let encoded = match wire::encode(&inbound, &call.inspected, kind, &step.model) {
                Ok(encoded) => encoded,
                // This dialect cannot carry the request; another backend's may.
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            // The last candidate is waited for as long as the client waits; the others for as long
            // as a cluster may take to be eligible at all.
            let is_last = nth + 1 == plan.steps.len();
            let max_wait = if is_last { left } else { left.min(snapshot.policy.max_latency) };
            let admitted =
                self.handle.lease(snapshot, step, tokens, max_wait, snapshot.policy.max_queue_depth).await;
            let mut lease = match admitted {
                Ok(lease) => lease,
                Err(refused) => {
                    failure.get_or_insert_with(|| not_admitted(refused, step, clock.now()));
                    continue;
                }
            };
            attempts += 1;
            tally.attempt(step);
            let exchange = self.exchange(call, &encoded, kind, &step.model);
            let dropped = encoded.dropped.join(", ");
            match self.begin(step, &mut lease, encoded, exchange, deadline, tally).await {
                Ok(begun) => return Ok((step.clone(), Begun { dropped, ..begun }, lease)),
                Err(fault) => {
                    tracing::warn!(backend = %step.backend, model = %step.model, attempt = attempts, %fault, "attempt failed");
                    tally.failed(step, &fault);
                    lease.fail(&fault);
                    let told = fault::told(&fault, Some(step));
                    if !fault.may_retry() || attempts >= ATTEMPTS_MAX {
                        return Err(told);
                    }
                    failure = Some(told);
                }
            }
        }
        Err(failure.unwrap_or_else(|| fault::nothing_can_serve(call, request, plan, clock.now())))
    }

    /// Sends the request and reads up to where falling back ends: the first content byte of a stream,
    /// the end of a plain answer, of which the client has seen nothing before.
    async fn begin(
        &self,
        step: &Step,
        lease: &mut Lease,
        encoded: wire::Encoded,
        exchange: Exchange,
        deadline: Moment,
        tally: &mut Tally,
    ) -> Result<Begun, Fault> {
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
        let sent = self.outbound.send(&step.backend, encoded, clock.until(first_byte_by)).await;
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
                tally.began(step, lease.ttft());
            }
            progress.note(&reply, clock.now());
            lease.saw_output(reply.output_events());
            tally.saw(&reply);
        }
        Ok(Begun { answer, reply, head, ended, content_type, dropped: String::new(), progress })
    }

    /// The headers that tell the decision.
    fn mark(&self, response: &mut Response, step: &Step, told: Told) {
        let cost = told.cost.map_or_else(|| "unpriced".to_owned(), |cost| cost.to_string());
        let headers = [
            ("x-llm-router-backend", step.backend.to_string()),
            ("x-llm-router-reason", step.reason.as_str().to_owned()),
            ("x-llm-router-decision", told.decision),
            ("x-llm-router-cost-usd", cost),
            ("x-llm-router-attempts", told.attempts.to_string()),
            ("x-llm-router-region", self.handle.topology().region.to_string()),
            ("x-llm-router-dropped", told.dropped),
        ];
        for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
    }

    fn exchange(&self, call: &Call, encoded: &wire::Encoded, kind: Kind, model: &str) -> Exchange {
        let id = format!("{:016x}", self.handle.draw());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Exchange::new(&call.inbound(), &call.inspected, encoded, kind, model, id, created)
    }

    fn request(&self, call: &Call, session: Option<&str>) -> Request {
        let sticky = session.and_then(|session| self.sessions.as_ref()?.get(session));
        call.routing_request(&self.estimates, sticky)
    }

    /// What would be decided now for `call`, with everything it is judged on; nothing is sent or booked.
    pub fn explain(&self, call: &Call) -> Explanation {
        let snapshot = self.handle.snapshot();
        let request = self.request(call, self.session_key(call).as_deref());
        let now = self.handle.clock().now();
        let plan = plan(&snapshot.view, &*snapshot, &request, &snapshot.policy, self.handle.draw(), now);
        explain(&plan, &snapshot.view, &request, &snapshot.policy, now)
    }

    /// What stickiness goes by: the session the client named, for the same model and strategy.
    fn session_key(&self, call: &Call) -> Option<String> {
        self.sessions.as_ref()?;
        let session = call.session.as_ref().or(call.inspected.session.as_ref())?;
        if session.len() > SESSION_BYTES_MAX {
            return None;
        }
        let model = call.inspected.model.as_deref().unwrap_or(ANY_MODEL);
        Some(format!("{session}\u{0}{model}\u{0}{:?}\u{0}{:?}", call.hints.strategy, call.operation))
    }
}

/// A call that nothing could serve.
#[derive(Debug)]
pub struct Failed {
    /// What to tell the client.
    pub error: ApiError,
    /// Id of the decision record.
    pub decision: String,
}

/// What the response headers tell besides the step.
struct Told {
    decision: String,
    attempts: usize,
    /// Of a plain answer in truth, of a stream as predicted: its headers go before its end.
    cost: Option<Money>,
    /// Fields of the request that the backend's dialect could not carry.
    dropped: String,
}

impl Call {
    /// What routing must know of it; `sticky` is the backend that served its session last.
    pub(crate) fn routing_request(&self, estimates: &Estimates, sticky: Option<BackendId>) -> Request {
        let inspected = &self.inspected;
        let asked = inspected.model.as_deref().unwrap_or(ANY_MODEL);
        let (input_tokens, output_tokens) =
            estimates.predict(asked, inspected.text_bytes, inspected.max_output_tokens);
        let generates = !matches!(self.operation, Operation::Embedding | Operation::CountTokens);
        Request {
            model: inspected.model.clone().filter(|model| model != ANY_MODEL),
            needs: inspected.needs.union(&self.needs),
            input_tokens,
            output_tokens: if generates { output_tokens } else { 0 },
            stream: inspected.stream,
            hints: self.hints.clone(),
            sticky,
        }
    }

    /// The request as the wire reads it.
    pub(crate) fn inbound(&self) -> Inbound<'_> {
        match &self.path {
            Some(path) => Inbound::gemini(self.operation, &self.body, &path.model, path.stream, path.sse),
            None => Inbound::new(self.dialect, self.operation, &self.body),
        }
    }
}

fn reply_fault(error: ReplyError) -> Fault {
    match error {
        ReplyError::Upstream { status, error } => {
            Fault::Status { status: status.unwrap_or(502), retry_after: None, error }
        }
        ReplyError::Incomplete(why) => Fault::Broken(why),
        ReplyError::Malformed(why) => Fault::Malformed(why),
    }
}

fn not_admitted(refused: NotAdmitted, step: &Step, now: Moment) -> ApiError {
    let busy = |why: String| ApiError::new(ErrorKind::Unavailable, why).with_code("overloaded");
    match refused {
        NotAdmitted::Closed(until) => ApiError::new(
            ErrorKind::RateLimit,
            format!("backend `{}` takes no more requests for now", step.backend),
        )
        .with_code("rate_limited")
        .with_retry_after(until.since(now)),
        NotAdmitted::QueueFull => busy(format!("backend `{}` is busy and its queue is full", step.backend)),
        NotAdmitted::TimedOut(waited) => {
            busy(format!("no slot became free at backend `{}` within {waited:?}", step.backend))
        }
        NotAdmitted::TrialTaken => busy(format!("backend `{}` is being tried after an outage", step.backend)),
    }
}
