//! What a request draws on: its place in the rate limits, and money set aside for each attempt.
//!
//! Owns the estimate of the worst case and what a client is told of its limits. Dropped, it gives everything
//! back that was not settled.

use super::Call;
use http::{HeaderName, HeaderValue};
use llm_router_actors::Handle;
use llm_router_actors::quota::{Admission, Denied, Drawn, RateStatus, Reservation};
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::capability::VISION;
use llm_router_logic::cost::unit::request_cost;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::money::Money;
use llm_router_logic::request::Request;
use llm_router_logic::route::Step;
use llm_router_logic::wire::{Dialect, Operation};
use serde::Deserialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A soft budget sets aside so much more than the predicted input, in percent.
const INPUT_MARGIN_PERCENT: u64 = 125;
/// A soft budget sets aside so many times the predicted answer where the client names no longest one.
const OUTPUT_MARGIN: u64 = 4;
/// And at least so many tokens.
const OUTPUT_LEAST: u64 = 1_024;
/// Tokens of input that a dialect may add to the text: roles, tool preambles.
const INPUT_EXTRA: u64 = 256;
/// Tokens that the pictures of one request may come to where they are given by address.
const PICTURES: u64 = 16_384;
/// A refusal that the next exchange with the other routers may lift.
const SOON: Duration = Duration::from_secs(1);

/// Headers that tell a client how its limits stand.
pub(super) type Headers = Vec<(HeaderName, HeaderValue)>;

/// What one request draws on.
#[derive(Default)]
pub(super) struct Allowance {
    drawn: Option<Drawn>,
    admission: Option<Admission>,
    /// Set aside for an attempt that may follow.
    pending: Option<Reservation>,
    /// Set aside for the attempt under way.
    running: Option<Reservation>,
    /// Set aside for the other one of two at the same time.
    hedge: Option<Reservation>,
    /// How the limits of the provider's account stand that it drew on, or found used up.
    account: RateStatus,
}

impl Allowance {
    /// Takes a place in the rate limits.
    ///
    /// # Errors
    /// 429 with what ran out and when to come again.
    pub(super) fn admit(
        handle: &Handle,
        call: &Call,
        request: &Request,
    ) -> Result<Self, (ApiError, Headers)> {
        let drawn = handle.quotas().of(&call.principal);
        let tokens = request.input_tokens.saturating_add(request.output_tokens);
        match drawn.admit(tokens) {
            Ok(admission) => Ok(Self { drawn: Some(drawn), admission: Some(admission), ..Self::default() }),
            Err(denied) => Err((told(&denied), headers(drawn.rate_status(), call.dialect))),
        }
    }

    /// What is left at providers; `None` = no budget applies.
    pub(super) fn budget_left(&self) -> Option<Money> {
        self.drawn.as_ref().filter(|drawn| drawn.counts(false))?.left()
    }

    /// How the limits stand.
    pub(super) fn headers(&self, dialect: Dialect) -> Headers {
        let own = self.drawn.as_ref().map(Drawn::rate_status).unwrap_or_default();
        headers(own.tightest(self.account), dialect)
    }

    /// It drew on the limits of a provider's account as well, or found them used up.
    pub(super) fn draws_on(&mut self, account: RateStatus) {
        self.account = account;
    }

    /// Sets aside what `step` may cost at worst.
    ///
    /// # Errors
    /// What the client is told where no other step is left.
    pub(super) fn reserve(
        &mut self,
        call: &Call,
        snapshot: &Snapshot,
        request: &Request,
        step: &Step,
    ) -> Result<(), ApiError> {
        self.pending = None;
        self.pending = self.set_aside(call, snapshot, request, step)?;
        Ok(())
    }

    /// Sets aside what `step` may cost at worst beside the attempt under way: both may be charged.
    ///
    /// # Errors
    /// Where there is not enough left for both.
    pub(super) fn reserve_hedge(
        &mut self,
        call: &Call,
        snapshot: &Snapshot,
        request: &Request,
        step: &Step,
    ) -> Result<(), ApiError> {
        self.hedge = self.set_aside(call, snapshot, request, step)?;
        Ok(())
    }

    fn set_aside(
        &self,
        call: &Call,
        snapshot: &Snapshot,
        request: &Request,
        step: &Step,
    ) -> Result<Option<Reservation>, ApiError> {
        let cluster = snapshot.view.backends[step.index].spec.is_cluster();
        let Some(drawn) = self.drawn.as_ref().filter(|drawn| drawn.counts(cluster)) else {
            return Ok(None);
        };
        let worst = worst_case(call, snapshot, request, step, drawn.is_hard())?;
        drawn.reserve(worst, cluster).map(Some).map_err(|denied| told(&denied))
    }

    /// The hedge goes on as the attempt under way, and that one is to be settled as the hedge.
    pub(super) fn swap(&mut self) {
        std::mem::swap(&mut self.running, &mut self.hedge);
    }

    /// The other one of two attempts ended, as [`Self::settle`] says of the one under way.
    pub(super) fn settle_hedge(&mut self, cost: Option<Money>) {
        if let Some(reservation) = self.hedge.take() {
            reservation.settle(cost);
        }
    }

    /// The hedge that was set aside for is not made.
    pub(super) fn release_hedge(&mut self) {
        self.hedge = None;
    }

    /// The attempt that was set aside for begins.
    pub(super) fn attempt(&mut self) {
        self.running = self.pending.take();
    }

    /// The attempt under way ended and cost so much; `None` = unknown, so what was set aside counts.
    pub(super) fn settle(&mut self, cost: Option<Money>) {
        if let Some(reservation) = self.running.take() {
            reservation.settle(cost);
        }
    }

    /// The request ended, having used `tokens`.
    pub(super) fn end(&mut self, tokens: u64) {
        if let Some(admission) = self.admission.take() {
            admission.end(Some(tokens));
        }
    }
}

/// The most `step` can cost. For a hard budget nothing is guessed: a text has no more tokens than bytes, and an
/// answer no more than the client or the model's window allows.
fn worst_case(
    call: &Call,
    snapshot: &Snapshot,
    request: &Request,
    step: &Step,
    hard: bool,
) -> Result<Money, ApiError> {
    let spec = &snapshot.view.backends[step.index].spec;
    let inspected = &call.inspected;
    let model = spec.models.iter().find(|model| model.name == step.model);
    let text = inspected.text_bytes as u64 + INPUT_EXTRA;
    let input = match hard {
        true if request.needs.contains(VISION) => text + call.body.len() as u64 + PICTURES,
        true => text,
        false => (u64::from(request.input_tokens) * INPUT_MARGIN_PERCENT / 100).max(1),
    };
    let generates = !matches!(call.operation, Operation::Embedding | Operation::CountTokens);
    let output = match (inspected.max_output_tokens, model.and_then(|model| model.context_window)) {
        _ if !generates => 0,
        (Some(most), _) => u64::from(most),
        (None, Some(window)) if hard => u64::from(window),
        (None, None) if hard => return Err(unbounded(step)),
        (None, window) => {
            let likely = (u64::from(request.output_tokens) * OUTPUT_MARGIN).max(OUTPUT_LEAST);
            window.map_or(likely, |window| likely.min(window.into()))
        }
    };
    let output = output.saturating_mul(answers(call));
    if spec.is_cluster() {
        let per_1k = step.cost_per_1k().ok_or_else(|| unpriced(step))?;
        return Ok(request_cost(per_1k, input, output));
    }
    let price = model.and_then(|model| model.price.as_ref()).ok_or_else(|| unpriced(step))?;
    let rates = price.rates_at(input);
    let dearest = |rates: &[Money]| rates.iter().copied().max().unwrap_or(Money::ZERO);
    let input_rate = dearest(&[rates.input, rates.cached_read, rates.cache_write, rates.cache_write_1h]);
    let output_rate = dearest(&[rates.output, rates.reasoning, rates.image]);
    Ok(input_rate.times(input) + output_rate.times(output))
}

/// How many answers to one prompt are asked for (`n`).
fn answers(call: &Call) -> u64 {
    #[derive(Deserialize)]
    struct Count {
        n: Option<u64>,
    }
    let count = serde_json::from_slice::<Count>(&call.body).ok().and_then(|count| count.n);
    count.unwrap_or(1).max(1)
}

fn unpriced(step: &Step) -> ApiError {
    let text = format!(
        "a budget applies and the price of `{}` at `{}` is unknown: have `models[].price` configured, or ask for another model",
        step.model, step.backend
    );
    ApiError::new(ErrorKind::InvalidRequest, text).with_code("unpriced").with_param("model")
}

fn unbounded(step: &Step) -> ApiError {
    let text = format!(
        "a hard budget applies and nothing bounds the answer of `{}` at `{}`: send a maximum of output tokens",
        step.model, step.backend
    );
    ApiError::new(ErrorKind::InvalidRequest, text).with_code("output_unbounded").with_param("max_tokens")
}

/// What a client is told of what ran out.
fn told(denied: &Denied) -> ApiError {
    match denied {
        Denied::Rate { scope, what, limit, wait } => {
            let unit = match *what {
                "concurrent" => "requests at once",
                "tokens" => "tokens per minute",
                _ => "requests per minute",
            };
            let text = format!("{} may have {limit} {unit}", owner(scope));
            ApiError::new(ErrorKind::RateLimit, text).with_code("rate_limit_exceeded").with_retry_after(*wait)
        }
        Denied::Budget { scope, limit, ends: Some(ends) } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let wait = Duration::from_secs(*ends).saturating_sub(now).max(SOON);
            let text = format!("the budget of ${limit} of {} is used up", owner(scope));
            ApiError::new(ErrorKind::RateLimit, text).with_code("insufficient_quota").with_retry_after(wait)
        }
        Denied::Budget { scope, limit, ends: None } => {
            let text = format!(
                "this request may cost more than this router may take now of the budget of ${limit} of {}",
                owner(scope)
            );
            ApiError::new(ErrorKind::RateLimit, text).with_code("insufficient_quota").with_retry_after(SOON)
        }
    }
}

/// A scope's name for its client.
fn owner(scope: &str) -> String {
    match scope.split_once(':') {
        Some(("key", id)) => format!("API key `{id}`"),
        Some((kind, name)) => format!("{kind} `{name}`"),
        None => "all tenants together".to_owned(),
    }
}

/// How the limits stand, in the words of the dialect: Anthropic has its own, everybody else OpenAI's.
/// Google's API has no such headers: its clients get OpenAI's.
fn headers(status: RateStatus, dialect: Dialect) -> Headers {
    let mut headers = Headers::new();
    for (what, standing) in [("requests", status.requests), ("tokens", status.tokens)] {
        let Some((limit, left, whole)) = standing else { continue };
        let names = match dialect {
            Dialect::Anthropic => {
                ["limit", "remaining", "reset"].map(|word| format!("anthropic-ratelimit-{what}-{word}"))
            }
            _ => ["limit", "remaining", "reset"].map(|word| format!("x-ratelimit-{word}-{what}")),
        };
        let reset = match dialect {
            // A moment, and not a time to wait.
            Dialect::Anthropic => humantime::format_rfc3339_seconds(SystemTime::now() + whole).to_string(),
            _ => format!("{}ms", whole.as_millis()),
        };
        for (name, value) in names.into_iter().zip([limit.to_string(), left.to_string(), reset]) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.push((name, value));
            }
        }
    }
    headers
}
