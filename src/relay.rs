//! One request from plan to last byte. Read this first.
//!
//! ```text
//! call → view → plan → for each step: lease → encode → send → first content byte → commit
//!                        └ fault before that byte: next step     └ after it: typed error event
//! ```
//! Owns the moment of commitment. Which step is tried and when that ends is [`attempts`]'. What is decided is `logic::route`'s, what
//! is translated is `logic::wire`'s, what is counted is [`tally`]'s.

mod account;
mod account_limit;
mod allowance;
mod attempts;
mod candidates;
pub(crate) mod estimate;
mod fault;
mod hedge;
mod refusals;
mod repeat;
mod running;
mod sending;
mod shadow;
mod tally;
pub(crate) mod trial;
mod warmth;

use crate::cache::ResponseCache;
pub use crate::cache::answer::Completion;
use crate::config::{Config, Shadow, Timeouts};
use crate::decisions::{Circumstances, Decisions};
use crate::idempotency::Idempotency;
use crate::outbound::Outbound;
use crate::trace::{Context, Section, Tracer, Trail};
use allowance::Allowance;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use estimate::Estimates;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};
use llm_router_actors::Handle;
use llm_router_actors::metrics::Metrics;
use llm_router_logic::capability::Capabilities;
use llm_router_logic::fault::ApiError;
use llm_router_logic::guard::hedge::HedgeBudget;
use llm_router_logic::guard::retry::RetryBudget;
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use llm_router_logic::request::{ANY_MODEL, Hints, Request};
use llm_router_logic::route::experiment::Experiment;
use llm_router_logic::route::{Explanation, Step, explain};
use llm_router_logic::tenant::Principal;
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::wire::{Dialect, Inbound, Inspected, Operation};
use moka::sync::Cache;
pub(crate) use repeat::Repeat;
pub(crate) use running::KEEP_ALIVE;
use running::{Patience, Running};
use shadow::Shadows;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tally::{Sources, Tally};
use tokio::sync::Semaphore;
use warmth::Decided;

/// A longer session name, which only a body can hold, is not remembered.
const SESSION_BYTES_MAX: usize = 256;
/// Sessions remembered for stickiness.
const SESSIONS_MAX: u64 = 100_000;

/// A client's request, read and ready to be routed.
#[derive(Clone)]
pub struct Call {
    /// Who asks.
    pub principal: Arc<Principal>,
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
    /// Its headers: experiments read them; none of them is ever sent on.
    pub headers: HeaderMap,
    /// Who is told of a whole answer.
    pub completion: Option<Arc<Completion>>,
    /// Where it stands in a trace; `None` = nothing is sent for it.
    pub trace: Option<Arc<Context>>,
}

/// What a path of Gemini's says of the request.
#[derive(Clone)]
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
    retries: Arc<Mutex<RetryBudget>>,
    hedges: Arc<Mutex<HedgeBudget>>,
    /// Places for requests that wait for sleeping clusters.
    sleepers: Arc<Semaphore>,
    experiments: Arc<[Experiment]>,
    shadows: Shadows,
    keys: Arc<Idempotency>,
    tracer: Option<Arc<Tracer>>,
    cache: Option<Arc<ResponseCache>>,
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
        let keys = Idempotency::new(&Default::default(), handle.clock(), handle.metrics().clone());
        Self {
            keys,
            cache: None,
            handle,
            outbound,
            decisions,
            estimates: Arc::default(),
            timeouts,
            sessions,
            retries: Arc::default(),
            hedges: Arc::default(),
            sleepers: Arc::new(Semaphore::new(warmth::WAITING_MAX)),
            experiments: Arc::from([]),
            shadows: Shadows::default(),
            tracer: None,
        }
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
        relay.retries = Arc::clone(&self.retries);
        relay.hedges = Arc::clone(&self.hedges);
        relay.sleepers = Arc::clone(&self.sleepers);
        relay.shadows = self.shadows.with(&[]);
        relay.keys = Arc::clone(&self.keys);
        relay.tracer.clone_from(&self.tracer);
        relay.cache.clone_from(&self.cache);
        relay
    }

    /// The same relay, its requests traced by `tracer`.
    #[must_use]
    pub fn traced(mut self, tracer: Arc<Tracer>) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// The same relay with these experiments and shadows.
    #[must_use]
    pub fn trying(mut self, experiments: &[Experiment], shadows: &[Shadow]) -> Self {
        self.experiments = experiments.into();
        self.shadows = self.shadows.with(shadows);
        self
    }

    /// The same relay, giving answers again as `config` says.
    #[must_use]
    pub fn keeping(mut self, config: &Config) -> Self {
        self.keys.reconfigure(&config.idempotency);
        let (clock, metrics) = (self.handle.clock(), self.metrics().clone());
        self.cache = ResponseCache::renewed(self.cache.take(), config.cache.as_ref(), clock, &metrics);
        self
    }

    /// Answers one call: with what was generated for an earlier one where it is its repeat.
    ///
    /// # Errors
    /// What to tell the client where nothing could serve it; everything is booked.
    pub async fn answer(self: &Arc<Self>, call: Call) -> Result<Response, Failed> {
        match self.keys.key(&call.headers).map(|key| key.map(str::to_owned)) {
            Ok(None) if self.cache.is_none() => self.relay(call).await,
            Ok(None) => Arc::clone(self).generate(call).await.map(|generated| generated.response),
            Ok(Some(key)) => self.once(call, &self.keys, &key).await,
            Err(error) => {
                let status = error.status.to_string();
                self.metrics().requests_total.with_label_values(&["none", &status]).inc();
                Err(Failed::of(error))
            }
        }
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
        let mut in_arms = self.in_arms(&call, self.request(&call, session.as_deref()));
        let allowance = match Allowance::admit(&self.handle, &call, &in_arms.request) {
            Ok(allowance) => allowance,
            Err((error, headers)) => {
                let refused = &self.handle.metrics().requests_total;
                refused.with_label_values(&["none", &error.status.to_string()]).inc();
                return Err(Failed { error, decision: String::new(), headers });
            }
        };
        in_arms.request.budget_left = allowance.budget_left();
        let request = &in_arms.request;
        let deadline =
            started + request.hints.deadline.unwrap_or(self.timeouts.total).min(self.timeouts.total);

        let planning = std::time::Instant::now();
        let draw = self.handle.draw();
        let plan = in_arms.plan(&snapshot.view, &*snapshot, &snapshot.policy, draw, started);
        self.handle.metrics().decision_duration_seconds.observe(planning.elapsed().as_secs_f64());

        let planned = clock.now();
        let decided = self.with_sleepers(snapshot, plan, request, draw, deadline).await;
        let Decided { snapshot, plan, wanted, waited } = decided;

        let sources = Sources {
            handle: self.handle.clone(),
            decisions: Arc::clone(&self.decisions),
            estimates: Arc::clone(&self.estimates),
            snapshot: Arc::clone(&snapshot),
            hedges: Arc::clone(&self.hedges),
        };
        let mut tally = Tally::open(sources, &call, request, &plan, started);
        self.trace(&call, &mut tally, (started, planned), wanted.as_ref().map(|id| (id, waited)));
        tally.allow(allowance);
        tally.note(Circumstances {
            wanted,
            waited_ms: (!waited.is_zero()).then(|| millis(waited)),
            experiments: in_arms.arms.clone(),
            ..Circumstances::default()
        });
        self.cast_shadows(&call, tally.id());
        let (step, mut begun, lease) =
            match self.attempt(&call, request, &snapshot, &plan, deadline, &mut tally).await {
                Ok(attempted) => attempted,
                Err(error) => {
                    let decision = tally.id().to_owned();
                    let limits = tally.allowance.headers(call.dialect);
                    tally.refused(&error);
                    return Err(Failed { error, decision, headers: limits });
                }
            };
        let limits = tally.allowance.headers(call.dialect);
        if let (Some(sessions), Some(session)) = (&self.sessions, session) {
            sessions.insert(session, step.backend.clone());
        }
        let mut told = Told {
            decision: tally.id().to_owned(),
            attempts: tally.attempts(),
            cost: step.predicted_cost(),
            dropped: std::mem::take(&mut begun.dropped),
            experiments: in_arms.arms.join(", "),
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
        let running = running.telling(call.completion.clone());
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
        for (name, value) in limits {
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }

    /// What is noted of `call`, of which the decision `id` was made.
    fn trail_of(&self, call: &Call, id: &str) -> Trail {
        let (Some(tracer), Some(context)) = (&self.tracer, &call.trace) else { return Trail::default() };
        context.decided(id);
        let mut trail = tracer.trail(context);
        trail.asked(call);
        trail
    }

    /// The response cache knew `word` of `call`, which it was asked since `began`.
    pub(crate) fn looked(&self, call: &Call, began: Moment, word: &'static str, why: Option<&'static str>) {
        if let (Some(tracer), Some(context)) = (&self.tracer, &call.trace) {
            tracer.looked(context, began, word, why);
        }
    }

    /// Begins to note what becomes of `call`, which was planned in the time `planning` and then may have `waited`
    /// for a cluster to wake.
    fn trace(
        &self,
        call: &Call,
        tally: &mut Tally,
        planning: (Moment, Moment),
        waited: Option<(&BackendId, Duration)>,
    ) {
        let mut trail = self.trail_of(call, tally.id());
        trail.section(Section::new("plan", planning.0, planning.1));
        if let Some((backend, waited)) = waited.filter(|(_, waited)| !waited.is_zero()) {
            let wait = Section::new("wait for a cluster", planning.1, planning.1 + waited);
            trail.section(wait.word("llm_router.backend", backend.as_str()));
        }
        tally.traced(trail);
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
            ("x-llm-router-via", step.via.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("x-llm-router-region", self.handle.topology().region.to_string()),
            ("x-llm-router-dropped", told.dropped),
            ("x-llm-router-experiment", told.experiments),
        ];
        for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
    }

    pub(crate) fn cache(&self) -> Option<Arc<ResponseCache>> {
        self.cache.clone()
    }

    /// Arms of experiments `call` is in.
    pub(crate) fn arms_of(&self, call: &Call) -> Vec<String> {
        if self.experiments.is_empty() {
            return Vec::new();
        }
        self.in_arms(call, self.request(call, None)).arms
    }

    /// Whether `backend` is still one of ours.
    pub(crate) fn has_backend(&self, backend: &str) -> bool {
        self.handle.topology().backends.iter().any(|spec| spec.id.as_str() == backend)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.handle.metrics()
    }

    /// How long `call` may take from its arrival.
    pub(crate) fn patience(&self, call: &Call) -> Duration {
        call.hints.deadline.unwrap_or(self.timeouts.total).min(self.timeouts.total)
    }

    /// How long a client that reads a body with `headers` is left without a sign of life.
    pub(crate) fn keep_alive(&self, headers: &HeaderMap) -> Option<Duration> {
        let is_event_stream = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        self.timeouts.keep_alive.filter(|_| is_event_stream)
    }

    fn request(&self, call: &Call, session: Option<&str>) -> Request {
        let sticky = session.and_then(|session| self.sessions.as_ref()?.get(session));
        call.routing_request(&self.estimates, sticky)
    }

    /// What would be decided now for `call`, with everything it is judged on; nothing is sent or booked.
    /// Beside it, the arms of experiments it is in.
    pub fn explain(&self, call: &Call) -> (Explanation, Vec<String>) {
        let snapshot = self.handle.snapshot();
        let in_arms = self.in_arms(call, self.request(call, self.session_key(call).as_deref()));
        let now = self.handle.clock().now();
        let plan = in_arms.plan(&snapshot.view, &*snapshot, &snapshot.policy, self.handle.draw(), now);
        (explain(&plan, &snapshot.view, &in_arms.request, &snapshot.policy, now), in_arms.arms)
    }

    /// What stickiness goes by: the session the client named, for the same model and strategy.
    fn session_key(&self, call: &Call) -> Option<String> {
        self.sessions.as_ref()?;
        let session = call.session.as_ref().or(call.inspected.session.as_ref())?;
        if session.len() > SESSION_BYTES_MAX {
            return None;
        }
        let model = call.inspected.model.as_deref().unwrap_or(ANY_MODEL);
        let tenant = &call.principal.tenant;
        Some(format!(
            "{tenant}\u{0}{session}\u{0}{model}\u{0}{:?}\u{0}{:?}",
            call.hints.strategy, call.operation
        ))
    }
}

/// A call that nothing could serve.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What to tell the client.
    pub error: ApiError,
    /// Id of the decision record; empty where nothing was decided.
    pub decision: String,
    /// How the client's limits stand.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failed {
    /// A call that nothing was decided for.
    pub(crate) fn of(error: ApiError) -> Self {
        Self { error, decision: String::new(), headers: Vec::new() }
    }
}

/// What the response headers tell besides the step.
struct Told {
    decision: String,
    attempts: usize,
    /// Of a plain answer in truth, of a stream as predicted: its headers go before its end.
    cost: Option<Money>,
    /// Fields of the request that the backend's dialect could not carry.
    dropped: String,
    /// Arms it is in.
    experiments: String,
}

impl Call {
    /// What routing must know of it; `sticky` is the backend that served its session last.
    pub(crate) fn routing_request(&self, estimates: &Estimates, sticky: Option<BackendId>) -> Request {
        let inspected = &self.inspected;
        let generates = self.generates();
        let mut request = Request {
            model: inspected.model.clone().filter(|model| model != ANY_MODEL),
            needs: inspected.needs.union(&self.needs),
            input_tokens: 0,
            output_tokens: 0,
            stream: inspected.stream,
            hints: self.hints.clone(),
            prefix: inspected.prefix.hash().filter(|_| generates),
            sticky,
            budget_left: None,
            rights: Arc::clone(&self.principal.rights),
        };
        self.predict(estimates, &mut request);
        request
    }

    /// Predicts its tokens at the model that `request` names.
    pub(crate) fn predict(&self, estimates: &Estimates, request: &mut Request) {
        let inspected = &self.inspected;
        let asked = request.model.as_deref().unwrap_or(ANY_MODEL);
        let tenant = self.principal.tenant.as_str();
        let (input, output) = estimates.predict(tenant, asked, &inspected.text, inspected.max_output_tokens);
        (request.input_tokens, request.output_tokens) = (input, if self.generates() { output } else { 0 });
    }

    fn generates(&self) -> bool {
        !matches!(self.operation, Operation::Embedding | Operation::CountTokens)
    }

    /// The request as the wire reads it.
    pub(crate) fn inbound(&self) -> Inbound<'_> {
        match &self.path {
            Some(path) => Inbound::gemini(self.operation, &self.body, &path.model, path.stream, path.sse),
            None => Inbound::new(self.dialect, self.operation, &self.body),
        }
    }
}
