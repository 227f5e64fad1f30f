//! Who may serve a request, and the first reason against everyone else.
//!
//! Two questions, asked in this order: could this backend serve the request at all ([`resolve`]: model,
//! capabilities, context window), and may it now ([`admit`]: health, breaker, back-off, latency,
//! queue). Slots that are full are no reason against a backend: the relay queues within bounds.

use crate::backend::{BackendSpec, Kind, ServedModel};
use crate::capability::{CHAT, COMPLETION, Capabilities, EMBEDDING, JSON, TOOLS, VISION};
use crate::guard::breaker::{BreakerState, Cause};
use crate::ids::{BackendId, Region};
use crate::money::Money;
use crate::report::Health;
use crate::request::{ANY_MODEL, Request};
use crate::route::plan::{LocalLoad, serves};
use crate::route::strategy::Policy;
use crate::time::{Moment, millis, told};
use crate::view::{BackendView, Facts};
use crate::warmth::Warmth;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Why a backend may not serve a request now.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Refusal {
    /// The client named another backend.
    NotPinned {
        /// The one it named.
        pinned: BackendId,
    },
    /// The client's key or tenant may not use it.
    BackendNotAllowed,
    /// It does not serve the model asked for.
    ModelNotServed,
    /// It serves no model that the client's key and tenant may use.
    ModelNotAllowed,
    /// Nothing is known of its models yet.
    ModelsUnknown,
    /// The model lacks something the request needs.
    MissingCapability {
        /// The first word lacking, in alphabetical order.
        missing: String,
    },
    /// The request is longer than the model's context window.
    ContextWindow {
        /// Estimated tokens, input and output together.
        tokens: u64,
        /// The window.
        window: u32,
    },
    /// A provider would stand in for a cluster, which the operator does not want.
    ExternalFallbackDisabled,
    /// A cluster nobody has seen yet.
    NeverSeen,
    /// This node has no way to it, and no router there can be gone through.
    NotReached {
        /// Regions whose routers have one.
        from: Vec<Region>,
    },
    /// A cluster still loading its model.
    Loading,
    /// Its last three probes or requests failed.
    Unhealthy,
    /// A cluster scaled to zero.
    Cold {
        /// How long it takes to get a machine.
        cold_start_ms: u64,
    },
    /// A cluster that is getting a machine.
    Waking {
        /// When it is expected to serve.
        #[serde(skip)]
        until: Moment,
    },
    /// Its machine is taken away before the answer would end, or is gone already.
    Preempted {
        /// When it is taken away.
        #[serde(skip)]
        at: Moment,
    },
    /// The circuit breaker is open for this model.
    BreakerOpen {
        /// When a trial request may pass; `None` where only a peer said that it is open.
        #[serde(skip)]
        until: Option<Moment>,
        /// Why it opened, where this node saw it itself.
        cause: Option<Cause>,
    },
    /// The breaker is half open and its one trial request is under way.
    TrialTaken,
    /// The provider account's rate limit is used up.
    RateLimited {
        /// When there will be room.
        #[serde(skip)]
        until: Moment,
    },
    /// It asked to be left alone (`Retry-After`).
    BackingOff {
        /// Until when.
        #[serde(skip)]
        until: Moment,
    },
    /// A cluster that is too slow.
    LatencyTooHigh {
        /// Its p95 TTFT.
        p95_ms: u32,
        /// The operator's bound.
        max_ms: u64,
    },
    /// A cluster with too many requests waiting.
    QueueTooLong {
        /// Requests waiting.
        depth: u32,
        /// The operator's bound.
        max: u32,
    },
    /// The client set a maximum cost and this backend's cost is unknown.
    CostUnknown,
    /// A budget applies and this model's price is unknown.
    Unpriced,
    /// More than a budget has left for this router.
    BudgetExhausted {
        /// Predicted cost here.
        predicted: Money,
        /// What is left.
        left: Money,
    },
    /// More than the client's maximum cost.
    TooDear {
        /// Predicted cost here.
        predicted: Money,
        /// The client's maximum.
        max: Money,
    },
}

impl Refusal {
    /// One word for metrics and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotPinned { .. } => "not_pinned",
            Self::BackendNotAllowed => "backend_not_allowed",
            Self::ModelNotServed => "model_not_served",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::ModelsUnknown => "models_unknown",
            Self::MissingCapability { .. } => "missing_capability",
            Self::ContextWindow { .. } => "context_window",
            Self::ExternalFallbackDisabled => "external_fallback_disabled",
            Self::NeverSeen => "never_seen",
            Self::NotReached { .. } => "not_reached",
            Self::Loading => "loading",
            Self::Unhealthy => "unhealthy",
            Self::Cold { .. } => "cold",
            Self::Waking { .. } => "waking",
            Self::Preempted { .. } => "preempted",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::TrialTaken => "trial_taken",
            Self::RateLimited { .. } => "rate_limited",
            Self::BackingOff { .. } => "backing_off",
            Self::LatencyTooHigh { .. } => "latency_too_high",
            Self::QueueTooLong { .. } => "queue_too_long",
            Self::CostUnknown => "cost_unknown",
            Self::Unpriced => "unpriced",
            Self::BudgetExhausted { .. } => "budget_exhausted",
            Self::TooDear { .. } => "too_dear",
        }
    }

    /// How long until it may be otherwise, where that is known.
    pub fn retry_after(&self, now: Moment) -> Option<Duration> {
        match self {
            Self::RateLimited { until } | Self::BackingOff { until } | Self::Waking { until } => {
                Some(until.since(now))
            }
            Self::Cold { cold_start_ms } => Some(Duration::from_millis(*cold_start_ms)),
            Self::BreakerOpen { until, .. } => until.map(|until| until.since(now)),
            _ => None,
        }
    }

    /// Whether it ejects the backend from the pool of its model (see
    /// [`ejection`](crate::guard::ejection)).
    pub fn ejects(&self) -> bool {
        self.badness().is_some() || matches!(self, Self::Unhealthy)
    }

    /// How bad a backend is that only outcomes of requests speak against: the one whose next trial is
    /// nearest is the least bad. `None` for every other refusal.
    pub(crate) fn badness(&self) -> Option<Moment> {
        match self {
            Self::TrialTaken => Some(Moment::ZERO),
            Self::BreakerOpen { until, .. } => Some(until.unwrap_or(Moment::ZERO)),
            _ => None,
        }
    }

    /// Whether waiting can help: `false` where this request will never fit this backend as configured.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotPinned { .. }
            | Self::BackendNotAllowed
            | Self::ModelNotServed
            | Self::ModelNotAllowed
            | Self::MissingCapability { .. }
            | Self::ContextWindow { .. }
            | Self::ExternalFallbackDisabled
            | Self::TooDear { .. } => false,
            Self::ModelsUnknown
            | Self::NeverSeen
            | Self::NotReached { .. }
            | Self::Loading
            | Self::Unhealthy
            | Self::Cold { .. }
            | Self::Waking { .. }
            | Self::Preempted { .. }
            | Self::BreakerOpen { .. }
            | Self::TrialTaken
            | Self::RateLimited { .. }
            | Self::BackingOff { .. }
            | Self::LatencyTooHigh { .. }
            | Self::QueueTooLong { .. }
            | Self::BudgetExhausted { .. }
            | Self::Unpriced
            | Self::CostUnknown => true,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPinned { pinned } => write!(f, "the client named `{pinned}`"),
            Self::BackendNotAllowed => f.write_str("the key or its tenant may not use it"),
            Self::ModelNotServed => f.write_str("does not serve the model"),
            Self::ModelNotAllowed => f.write_str("the key or its tenant may not use the model"),
            Self::ModelsUnknown => f.write_str("its models are not known yet"),
            Self::MissingCapability { missing } => write!(f, "lacks `{missing}`"),
            Self::ContextWindow { tokens, window } => {
                write!(f, "about {tokens} tokens do not fit its window of {window}")
            }
            Self::ExternalFallbackDisabled => {
                f.write_str("a cluster serves the model and `enableExternalFallback` is off")
            }
            Self::NeverSeen => f.write_str("nothing was heard of it yet"),
            Self::NotReached { from } => {
                let from: Vec<&str> = from.iter().map(Region::as_str).collect();
                write!(f, "is reached from {} only, and no router there relays", from.join(", "))
            }
            Self::Loading => f.write_str("is loading its model"),
            Self::Unhealthy => f.write_str("failed three times in a row"),
            Self::Cold { cold_start_ms } => {
                write!(
                    f,
                    "is scaled to zero and takes {} to come",
                    told(Duration::from_millis(*cold_start_ms))
                )
            }
            Self::Waking { .. } => f.write_str("is scaled to zero and on its way"),
            Self::Preempted { .. } => f.write_str("its machine is taken away before this could end"),
            Self::BreakerOpen { cause: Some(cause), .. } => {
                write!(f, "its circuit breaker is open: {cause}")
            }
            Self::BreakerOpen { cause: None, .. } => f.write_str("its circuit breaker is open"),
            Self::TrialTaken => f.write_str("its circuit breaker waits for a trial request"),
            Self::RateLimited { .. } => f.write_str("its rate limit is used up"),
            Self::BackingOff { .. } => f.write_str("asked to be left alone for a while"),
            Self::LatencyTooHigh { p95_ms, max_ms } => {
                let [p95, max] = [u64::from(*p95_ms), *max_ms].map(|ms| told(Duration::from_millis(ms)));
                write!(
                    f,
                    "one first token in twenty took over {p95}, more than `maxLatencyMs` allows ({max})"
                )
            }
            Self::QueueTooLong { depth, max } => {
                write!(f, "its queue of {depth} is longer than `maxQueueDepth` {max}")
            }
            Self::CostUnknown => f.write_str("its cost is unknown and the client set a maximum"),
            Self::Unpriced => f.write_str("a budget applies and the price of its model is unknown"),
            Self::BudgetExhausted { predicted, left } => {
                write!(f, "would cost ${predicted}, and the budget has ${left} left")
            }
            Self::TooDear { predicted, max } => {
                write!(f, "would cost ${predicted}, above the client's maximum of ${max}")
            }
        }
    }
}

/// What a backend can do where its configuration names no operation, by kind and model name.
///
/// | kind | does | because |
/// |---|---|---|
/// | llama | chat, completion, tools, json | llama-server serves these for any model; embeddings and images need flags, so they count only when stated or discovered |
/// | openai | chat, completion, tools, json, vision | what its current chat models do |
/// | anthropic | chat, tools, json, vision | it has neither legacy completions nor embeddings |
/// | gemini | chat, tools, json, vision | its chat models do not embed |
/// | openai, gemini with `embedding` in the model's name | embedding | both vendors name their embedding models so, and those do not chat |
///
/// Any other word (for example `code`) must be stated.
pub fn default_capabilities(kind: Kind, model: &str) -> &'static Capabilities {
    static LLAMA: Capabilities = Capabilities::of_known(&[CHAT, COMPLETION, TOOLS, JSON]);
    static OPENAI: Capabilities = Capabilities::of_known(&[CHAT, COMPLETION, TOOLS, JSON, VISION]);
    static OTHERS: Capabilities = Capabilities::of_known(&[CHAT, TOOLS, JSON, VISION]);
    static EMBEDDINGS: Capabilities = Capabilities::of_known(&[EMBEDDING]);
    match kind {
        Kind::Llama => &LLAMA,
        Kind::OpenAi | Kind::Gemini if model.contains("embedding") => &EMBEDDINGS,
        Kind::OpenAi => &OPENAI,
        Kind::Anthropic | Kind::Gemini => &OTHERS,
    }
}

/// The first word of `needs` that `model` at `spec` lacks.
#[inline]
fn missing<'n>(spec: &BackendSpec, model: &ServedModel, needs: &'n Capabilities) -> Option<&'n str> {
    static NOTHING: Capabilities = Capabilities::of_known(&[]);
    static OPERATIONS: Capabilities = Capabilities::of_known(&[CHAT, COMPLETION, EMBEDDING]);
    let stated = model.capabilities.meets(&OPERATIONS) || spec.capabilities.meets(&OPERATIONS);
    let defaults = if stated { &NOTHING } else { default_capabilities(spec.kind, &model.name) };
    needs.first_outside([&model.capabilities, &spec.capabilities, defaults])
}

/// Whether `model` at `spec` can do what `request` needs, within its context window.
#[inline]
fn fits(spec: &BackendSpec, model: &ServedModel, request: &Request) -> Result<(), Refusal> {
    if let Some(word) = missing(spec, model, &request.needs) {
        return Err(Refusal::MissingCapability { missing: word.to_owned() });
    }
    let tokens = u64::from(request.input_tokens) + u64::from(request.output_tokens);
    match model.context_window {
        Some(window) if tokens > u64::from(window) => Err(Refusal::ContextWindow { tokens, window }),
        _ => Ok(()),
    }
}

/// The model of `models` that `request` would get at `spec`, by the backend's own name.
///
/// A model that is named must be served, by name or alias. Where the choice is left to the router it
/// is the backend's default model or, where that does not fit, its first model that does.
///
/// # Errors
/// The [`Refusal`] that holds whatever the backend's health.
#[inline]
pub(crate) fn resolve<'m>(
    spec: &BackendSpec,
    models: &'m [ServedModel],
    request: &Request,
) -> Result<&'m ServedModel, Refusal> {
    if models.is_empty() {
        return Err(Refusal::ModelsUnknown);
    }
    if let Some(asked) = request.model.as_deref().filter(|name| *name != ANY_MODEL) {
        let model = serves(models, asked).ok_or(Refusal::ModelNotServed)?;
        if !request.rights.allow_model(model) {
            return Err(Refusal::ModelNotAllowed);
        }
        return fits(spec, model, request).map(|()| model);
    }
    let default = spec.default_model.as_deref().and_then(|name| serves(models, name));
    let mut first_refusal = None;
    for model in default.into_iter().chain(models) {
        let may = if request.rights.allow_model(model) { Ok(()) } else { Err(Refusal::ModelNotAllowed) };
        match may.and_then(|()| fits(spec, model, request)) {
            Ok(()) => return Ok(model),
            Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
        }
    }
    Err(first_refusal.unwrap_or(Refusal::ModelsUnknown))
}

/// Models of a backend whatever the age of the fact: the configured ones, else what it told this node,
/// else what it told a peer.
pub(crate) fn known_models(backend: &BackendView) -> &[ServedModel] {
    let own = backend.own.as_ref().map(|fact| &fact.models[..]);
    let heard = || backend.peers.iter().map(|fact| &fact.models[..]).find(|models| !models.is_empty());
    match (&backend.spec.models[..], own) {
        ([], Some(own)) if !own.is_empty() => own,
        ([], _) => heard().unwrap_or_default(),
        (configured, _) => configured,
    }
}

/// Whether `backend` may take a request for `model` now.
///
/// # Errors
/// The first [`Refusal`] of its momentary state.
#[inline]
pub(crate) fn admit(
    backend: &BackendView,
    facts: Option<&Facts<'_>>,
    model: &str,
    load: &LocalLoad,
    policy: &Policy,
    now: Moment,
) -> Result<(), Refusal> {
    let cluster = backend.spec.is_cluster();
    let health = facts.map_or(Health::Unknown, |facts| facts.report.health);
    asleep(backend, health)?;
    match health {
        Health::Healthy => {}
        Health::Unhealthy => return Err(Refusal::Unhealthy),
        // Providers are not probed for money: what is not known to be ill is tried.
        Health::Unknown | Health::Loading if !cluster => {}
        Health::Unknown => return Err(Refusal::NeverSeen),
        Health::Loading => return Err(Refusal::Loading),
    }
    breaker(backend, facts, model, load, now)?;
    admit_whatever_its_breaker(backend, facts, model, load, policy, now)
}

/// The rest of [`admit`]: what holds against a well backend and an ejected one alike.
#[inline]
pub(crate) fn admit_whatever_its_breaker(
    backend: &BackendView,
    facts: Option<&Facts<'_>>,
    model: &str,
    load: &LocalLoad,
    policy: &Policy,
    now: Moment,
) -> Result<(), Refusal> {
    let closed = backend.own.as_ref().and_then(|own| own.guard(model)?.closed_until);
    if let Some(until) = closed.filter(|until| *until > now) {
        return Err(Refusal::BackingOff { until });
    }
    if let Some(own) = &backend.own {
        let until = own.observed_at + Duration::from_millis(u64::from(own.report.backoff_ms));
        if until > now {
            return Err(Refusal::BackingOff { until });
        }
    }
    if let Some(until) = load.closed_until.filter(|until| *until > now) {
        return Err(Refusal::RateLimited { until });
    }
    if !backend.spec.is_cluster() {
        return Ok(());
    }
    let report = facts.map(|facts| &facts.report);
    if let Some(p95_ms) = report.and_then(|report| report.latency_p95_ms)
        && Duration::from_millis(p95_ms.into()) > policy.max_latency
    {
        return Err(Refusal::LatencyTooHigh { p95_ms, max_ms: millis(policy.max_latency) });
    }
    let depth = report.map_or(0, |report| report.queue_depth).max(load.waiting);
    if depth > policy.max_queue_depth {
        return Err(Refusal::QueueTooLong { depth, max: policy.max_queue_depth });
    }
    Ok(())
}

/// A cluster that scales to zero and does not answer has no machine; that is no illness.
#[inline]
fn asleep(backend: &BackendView, health: Health) -> Result<(), Refusal> {
    let Some(settings) = backend.spec.scale_to_zero.as_ref().filter(|_| health != Health::Healthy) else {
        return Ok(());
    };
    Err(match backend.standing.warmth {
        Warmth::Waking { until } => Refusal::Waking { until },
        Warmth::Cold { .. } | Warmth::Warm => Refusal::Cold { cold_start_ms: millis(settings.cold_start) },
    })
}

/// A breaker judges one model; a peer's counts only while this node has not seen the backend itself.
#[inline]
fn breaker(
    backend: &BackendView,
    facts: Option<&Facts<'_>>,
    model: &str,
    load: &LocalLoad,
    now: Moment,
) -> Result<(), Refusal> {
    if let Some(own) = &backend.own {
        let guard = own.guard(model);
        return match guard.map_or(BreakerState::Closed, |guard| guard.breaker_at(now)) {
            BreakerState::HalfOpen if load.trial_taken => Err(Refusal::TrialTaken),
            BreakerState::HalfOpen => Ok(()),
            BreakerState::Open { until } => {
                let cause = guard.and_then(|guard| guard.cause);
                Err(Refusal::BreakerOpen { until: Some(until), cause })
            }
            BreakerState::Closed if own.report.breaker_open => {
                Err(Refusal::BreakerOpen { until: None, cause: None })
            }
            BreakerState::Closed => Ok(()),
        };
    }
    match facts {
        Some(facts) if facts.report.breaker_open => Err(Refusal::BreakerOpen { until: None, cause: None }),
        _ => Ok(()),
    }
}
