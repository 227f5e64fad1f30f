//! Predicted cost, latency and pressure of one candidate: numbers only, no choice.

use crate::backend::{Placement, ServedModel};
use crate::cost::unit;
use crate::guard::warm_up::part;
use crate::money::Money;
use crate::report::Report;
use crate::request::Request;
use crate::route::amount::Amount;
use crate::route::plan::LocalLoad;
use crate::route::prepared::Ready;
use crate::route::strategy::Slo;
use crate::time::Moment;
use crate::view::BackendView;
use std::time::Duration;

/// The pressure at which all places are taken.
const ALL_PLACES: u64 = 1_000_000;

/// What a candidate is judged by. Times are in microseconds, up to 71 minutes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Score {
    /// Price of this request; `None` = unknown throughput or price.
    pub(crate) cost: Option<Amount>,
    /// Price of its traffic.
    pub(crate) egress: Amount,
    /// Predicted time to first token under the load of now; `None` = never measured.
    pub(crate) ttft: Option<u32>,
    /// What hardly one answer in fifty exceeds, as far as that is known; otherwise the same.
    pub(crate) ttft_upper: Option<u32>,
    /// The same without that load and without the round trip.
    pub(crate) own_ttft: Option<u32>,
    /// Round trip, measured or else configured.
    pub(crate) rtt: Option<u32>,
    /// Predicted time per further token, at a cluster whose throughput is known.
    pub(crate) tpot: Option<u32>,
    /// Requests running and waiting.
    pub(crate) load: u32,
    /// How many run at once.
    pub(crate) places: u32,
}

/// Scores `model` at `backend` for `request`.
#[inline]
pub(crate) fn score(
    backend: &BackendView,
    ready: &Ready,
    model: &ServedModel,
    report: Option<&Report>,
    load: &LocalLoad,
    request: &Request,
) -> Score {
    let unknown = Report::default();
    let report = report.unwrap_or(&unknown);
    let running = load.in_flight.saturating_add(ready.peers_in_flight);
    let waiting = report.queue_depth.max(load.waiting);
    let local_limit = Some(load.limit).filter(|limit| *limit > 0);
    let places = report.slots.or(backend.spec.slots).or(local_limit).unwrap_or(1).max(1);
    let places = load.warming_percent.map_or(places, |percent| part(places, percent));
    let place_wait = load.hold.map(|hold| wait_for_place(hold, running.saturating_add(waiting), places));
    let pace = load.pace;
    let load = running.saturating_add(waiting);

    let micros = |ms: u32| ms.saturating_mul(1_000);
    let rtt = report.rtt_ms.map(micros).or(ready.rtt);
    let far = rtt.unwrap_or(0);
    // What is learnt here has the round trip in it, which is a term of its own.
    let own_ttft = match pace {
        Some(pace) => Some(pace.alone(request.input_tokens).saturating_sub(far)),
        None => report.ttft_ms.map(micros),
    };
    let (ttft, ttft_upper) = match (pace, own_ttft) {
        (Some(pace), Some(own)) => {
            let reads = own.saturating_add(pace.ahead());
            let (waits, longest) = place_wait.unwrap_or_default();
            let sum = |one: u32, other: u32| Some(one.saturating_add(other).saturating_add(far));
            (sum(reads, waits), sum(pace.upper(reads), longest))
        }
        (_, own) => {
            let ttft = own.map(|own| loaded(own, load, places).saturating_add(far));
            (ttft, ttft)
        }
    };
    Score {
        cost: cost(backend, ready, model, request).map(Amount::from),
        egress: ready.toll.of(request.input_tokens, request.output_tokens, request.stream).into(),
        ttft,
        ttft_upper,
        own_ttft,
        rtt,
        tpot: ready.token_micros.map(|micros| micros.saturating_mul(running.saturating_add(1).min(places))),
        load,
        places,
    }
}

impl Score {
    /// Whether one more request would run at once.
    pub(crate) fn has_room(&self) -> bool {
        self.load < self.places
    }

    /// Requests running and waiting per place, in millionths, up to 4,294 times the places: 1,000,000 means all
    /// places taken.
    pub(crate) fn pressure(&self) -> u32 {
        let pressure = u64::from(self.load) * ALL_PLACES / u64::from(self.places);
        u32::try_from(pressure).unwrap_or(u32::MAX)
    }

    /// Whether both latency targets are predicted to be met, the first one by forty-nine answers of fifty.
    ///
    /// What was never measured is given the chance to be, by one request at a time: with the first one
    /// still under way there it is not taken for fast.
    #[inline]
    pub(crate) fn meets(&self, slo: &Slo) -> bool {
        let within = |micros: Option<u32>, bound: Duration| {
            micros.is_none_or(|micros| Duration::from_micros(micros.into()) <= bound)
        };
        !self.is_being_measured() && within(self.ttft_upper, slo.ttft) && within(self.tpot, slo.tpot)
    }

    /// Whether a time to first token was never measured, and what would measure it is under way.
    pub(crate) fn is_being_measured(&self) -> bool {
        self.ttft.is_none() && self.load > 0
    }

    /// From request to last token of `output_tokens`; `None` where the speed was never measured.
    #[inline]
    pub(crate) fn completion(&self, output_tokens: u32) -> Option<u32> {
        let further = self.tpot?.saturating_mul(output_tokens.saturating_sub(1));
        Some(self.ttft_or_optimistic().saturating_add(further))
    }

    /// Whether the answer is predicted to be whole within `deadline`; what is unknown may be.
    #[inline]
    pub(crate) fn in_time(&self, output_tokens: u32, deadline: Duration) -> bool {
        let needed = self.completion(output_tokens).or(self.ttft);
        needed.is_none_or(|needed| Duration::from_micros(needed.into()) <= deadline)
    }

    /// What the load of now adds to the time to first token.
    pub(crate) fn wait(&self) -> Option<u32> {
        self.ttft.map(|ttft| ttft.saturating_sub(self.unloaded()))
    }

    /// The latency to order by: predicted or, where never measured, the round trip alone.
    pub(crate) fn ttft_or_optimistic(&self) -> u32 {
        self.ttft.unwrap_or_else(|| self.unloaded())
    }

    /// Time to first token and round trip as measured, the load of now left out; what is not known counts
    /// as nothing, so that it gets measured.
    pub(crate) fn unloaded(&self) -> u32 {
        self.own_ttft.unwrap_or(0).saturating_add(self.rtt.unwrap_or(0))
    }
}

/// Price per 1,000 tokens of a request that is predicted to cost `cost`: a cluster's own, or for this mix
/// of input and output a provider's.
#[inline]
pub(crate) fn cost_per_1k(
    ready: &Ready,
    model: &ServedModel,
    cost: Option<Amount>,
    request: &Request,
) -> Option<Amount> {
    if let Some(cost) = ready.cost_per_1k {
        return Some(cost.into());
    }
    match u64::from(request.input_tokens) + u64::from(request.output_tokens) {
        0 => Some(model.price.as_ref()?.mixed_per_1k().into()),
        tokens => Some(Money::from(cost?).share(1000, tokens).into()),
    }
}

/// What 1,000 tokens cost at `backend` in general, as shown to people: the machine's price at its
/// measured throughput, or a provider's list price of its default model with input and output in equal
/// parts. `None` = unknown.
pub fn unit_cost(backend: &BackendView, overhead_factor: f64, now: Moment) -> Option<Money> {
    if backend.spec.is_cluster() {
        return cluster_cost_per_1k(backend, &backend.facts(now)?.report, overhead_factor);
    }
    list_price(backend)
}

/// What 1,000 tokens cost at our own machines by their price and measured throughput; `None` where that
/// is unknown, and at providers.
pub(crate) fn cluster_cost_per_1k(
    backend: &BackendView,
    report: &Report,
    overhead_factor: f64,
) -> Option<Money> {
    match &backend.spec.placement {
        Placement::Cluster { cost_per_hour, .. } => {
            unit::cost_per_1k(*cost_per_hour, f64::from(report.tokens_per_second?), overhead_factor)
        }
        Placement::External => None,
    }
}

/// What 1,000 tokens of a provider's default model cost by its list, input and output in equal parts.
pub(crate) fn list_price(backend: &BackendView) -> Option<Money> {
    let models = &backend.spec.models;
    let default = backend.spec.default_model.as_deref();
    let model = models.iter().find(|model| Some(&*model.name) == default).or(models.first())?;
    Some(model.price.as_ref()?.mixed_per_1k())
}

/// Microseconds from token to token of one answer that has the machine to itself; answers that run at
/// once share its measured output evenly.
pub(crate) fn token_micros(backend: &BackendView, report: &Report) -> Option<u32> {
    let speed = report.tokens_per_second.filter(|speed| speed.is_finite() && *speed > 0.0)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates at u32's bound"
    )]
    let micros = (1e6 / f64::from(speed)).round() as u32;
    backend.spec.is_cluster().then_some(micros)
}

/// `ttft × (ahead + 1) ÷ places` with `ahead` running or waiting, and never below `ttft`: while there is
/// a free place one more request waits for nobody, and an idle backend of many places is not faster than
/// it ever was.
#[inline]
fn loaded(ttft: u32, ahead: u32, places: u32) -> u32 {
    if ahead < places {
        return ttft;
    }
    let shared = u64::from(ttft) * (u64::from(ahead) + 1) / u64::from(places);
    u32::try_from(shared).unwrap_or(u32::MAX)
}

/// Microseconds until one of `places` is free for one more request where `load` run or wait and each holds its
/// place for `hold` on average, and how long that takes one time in fifty. Places come free one after another,
/// as if by chance: `n` of them take `n` times the mean, give or take its square root times the mean (a gamma
/// distribution, and two of its standard deviations).
#[inline]
fn wait_for_place(hold: Duration, load: u32, places: u32) -> (u32, u32) {
    if load < places {
        return (0, 0);
    }
    let (mean, turns) = (hold.as_secs_f64() * 1e6 / f64::from(places), f64::from(load - places) + 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let micros = |turns: f64| (mean * turns) as u32;
    (micros(turns), micros(turns + 2.0 * turns.sqrt() + 1.0))
}

/// Price of the request.
#[inline]
fn cost(backend: &BackendView, ready: &Ready, model: &ServedModel, request: &Request) -> Option<Money> {
    let (input, output) = (request.input_tokens, request.output_tokens);
    if backend.spec.is_cluster() {
        return Some(unit::request_cost(ready.cost_per_1k?, u64::from(input), u64::from(output)));
    }
    Some(model.price.as_ref()?.predict(input, output))
}
