//! Predicted cost, latency and pressure of one candidate: numbers only, no choice.

use crate::backend::{Placement, ServedModel};
use crate::cost::unit;
use crate::guard::warm_up::part;
use crate::money::Money;
use crate::report::Report;
use crate::request::Request;
use crate::route::plan::LocalLoad;
use crate::route::prepared::Ready;
use crate::route::strategy::Slo;
use crate::time::Moment;
use crate::view::BackendView;
use std::time::Duration;

/// The pressure at which all places are taken.
const ALL_PLACES: u64 = 1_000_000;

/// What a candidate is judged by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Price per 1,000 tokens for this request's mix; `None` = unknown throughput or price.
    pub cost_per_1k: Option<Money>,
    /// Price of this request; `None` as above.
    pub predicted_cost: Option<Money>,
    /// Predicted time to first token under the load of now; `None` = never measured.
    pub predicted_ttft: Option<Duration>,
    /// Predicted time per further token, at a cluster whose throughput is known.
    pub predicted_tpot: Option<Duration>,
    /// Time to first token and round trip as measured, the load of now left out; what is not known
    /// counts as nothing, so that it gets measured.
    pub unloaded: Duration,
    /// Requests running and waiting per place, in millionths: 1,000,000 means all places taken.
    pub pressure: u64,
}

/// Scores `model` at `backend` for `request`.
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
    let (cost_per_1k, predicted_cost) = cost(backend, ready, model, request).unzip();

    let running = u64::from(load.in_flight) + u64::from(ready.peers_in_flight);
    let waiting = u64::from(report.queue_depth.max(load.waiting));
    let local_limit = Some(load.limit).filter(|limit| *limit > 0);
    let places = report.slots.or(backend.spec.slots).or(local_limit).unwrap_or(1).max(1);
    let places = load.warming_percent.map_or(places, |percent| part(places, percent));

    let rtt = Duration::from_millis(u64::from(report.rtt_ms.unwrap_or(0)));
    let ttft = report.ttft_ms.map(|ms| Duration::from_millis(u64::from(ms)));
    Score {
        cost_per_1k,
        predicted_cost,
        predicted_ttft: ttft.map(|ttft| loaded(ttft, running + waiting, places) + rtt),
        predicted_tpot: tpot(backend, report, running, places),
        unloaded: ttft.unwrap_or_default() + rtt,
        pressure: (running + waiting).saturating_mul(ALL_PLACES) / u64::from(places),
    }
}

impl Score {
    /// Whether one more request would run at once.
    pub fn has_room(&self) -> bool {
        self.pressure < ALL_PLACES
    }

    /// Whether both latency targets are predicted to be met; what was never measured is given the
    /// chance to be.
    pub fn meets(&self, slo: &Slo) -> bool {
        self.predicted_ttft.is_none_or(|ttft| ttft <= slo.ttft)
            && self.predicted_tpot.is_none_or(|tpot| tpot <= slo.tpot)
    }

    /// From request to last token of `output_tokens`; `None` where the speed was never measured.
    pub fn predicted_duration(&self, output_tokens: u32) -> Option<Duration> {
        let further = self.predicted_tpot?.saturating_mul(output_tokens.saturating_sub(1));
        Some(self.ttft_or_optimistic().saturating_add(further))
    }

    /// The latency to order by: predicted or, where never measured, the round trip alone.
    pub fn ttft_or_optimistic(&self) -> Duration {
        self.predicted_ttft.unwrap_or(self.unloaded)
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

/// Requests that run at once share a machine's measured output evenly.
fn tpot(backend: &BackendView, report: &Report, running: u64, places: u32) -> Option<Duration> {
    let speed = report.tokens_per_second.filter(|speed| speed.is_finite() && *speed > 0.0)?;
    let sharing = (running + 1).min(u64::from(places));
    let secs = sharing as f64 / f64::from(speed);
    backend.spec.is_cluster().then(|| Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX))
}

/// `ttft × (ahead + 1) ÷ places` with `ahead` running or waiting, and never below `ttft`: while there is
/// a free place one more request waits for nobody, and an idle backend of many places is not faster than
/// it ever was.
fn loaded(ttft: Duration, ahead: u64, places: u32) -> Duration {
    let (sharing, places) = ((ahead + 1).max(u64::from(places)), u64::from(places));
    let micros = u64::try_from(ttft.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros.saturating_mul(sharing) / places)
}

/// Price per 1,000 tokens and of the request.
fn cost(
    backend: &BackendView,
    ready: &Ready,
    model: &ServedModel,
    request: &Request,
) -> Option<(Money, Money)> {
    let (input, output) = (request.input_tokens, request.output_tokens);
    if backend.spec.is_cluster() {
        let per_1k = ready.cost_per_1k?;
        return Some((per_1k, unit::request_cost(per_1k, u64::from(input), u64::from(output))));
    }
    let price = model.price.as_ref()?;
    let predicted = price.predict(input, output);
    let per_1k = match u64::from(input) + u64::from(output) {
        0 => price.mixed_per_1k(),
        tokens => predicted.share(1000, tokens),
    };
    Some((per_1k, predicted))
}
