//! Who decides: one of our strategies, or a baseline as other routers ship it.

use super::random;
use crate::backend::Placement;
use crate::money::Money;
use crate::request::Request;
use crate::route::Strategy;
use crate::route::eligible::resolve;
use crate::sim::model::{Backend, Behaviour};
use crate::time::Moment;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Weight of a new sample in the moving average of baseline `lowest_latency`.
const EWMA_WEIGHT: f64 = 0.1;

/// A way to choose among backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One of ours, by the very `plan` that production asks.
    Ours(Strategy),
    /// Each in turn.
    RoundRobin,
    /// By lot.
    Random,
    /// Fewest requests running and waiting.
    LeastBusy,
    /// Lowest moving average of the time to first token; who has none yet comes first.
    LowestLatency,
    /// Lowest fixed price per token: a provider's list price, a cluster's hour over its nominal
    /// throughput.
    StaticPrice,
}

impl Choice {
    /// All, ours first.
    pub const ALL: [Self; 11] = [
        Self::Ours(Strategy::Hybrid),
        Self::Ours(Strategy::Cost),
        Self::Ours(Strategy::Latency),
        Self::Ours(Strategy::ClusterFirst),
        Self::Ours(Strategy::ExternalFirst),
        Self::Ours(Strategy::Slo),
        Self::RoundRobin,
        Self::Random,
        Self::LeastBusy,
        Self::LowestLatency,
        Self::StaticPrice,
    ];

    /// Its word on the command line and in results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ours(strategy) => strategy.as_str(),
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastBusy => "least_busy",
            Self::LowestLatency => "lowest_latency",
            Self::StaticPrice => "static_price",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Choice {
    type Err = UnknownChoice;
    fn from_str(word: &str) -> Result<Self, UnknownChoice> {
        let found = Self::ALL.into_iter().find(|choice| choice.as_str() == word);
        found.ok_or_else(|| UnknownChoice(word.chars().take(64).collect()))
    }
}

/// A word that names no way to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownChoice(String);

impl std::error::Error for UnknownChoice {}

impl fmt::Display for UnknownChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Choice::ALL.map(Choice::as_str).join(", ");
        write!(f, "unknown strategy `{}`: choose one of all, {words}", self.0)
    }
}

/// What a baseline remembers.
#[derive(Debug)]
pub(super) struct Baseline {
    choice: Choice,
    turn: usize,
    latency_secs: Vec<Option<f64>>,
}

impl Baseline {
    pub(super) fn new(choice: Choice, backends: usize) -> Self {
        Self { choice, turn: 0, latency_secs: vec![None; backends] }
    }

    /// A request's first token was seen.
    pub(super) fn saw(&mut self, backend: usize, ttft: Duration) {
        if let Some(average) = self.latency_secs.get_mut(backend) {
            let sample = ttft.as_secs_f64();
            *average = Some(average.map_or(sample, |old| old + EWMA_WEIGHT * (sample - old)));
        }
    }

    /// The order in which the backends that can serve `request` at all are tried. Like the routers it
    /// stands for it knows neither speeds nor deadlines; `busy` is running and waiting per backend.
    pub(super) fn order(
        &mut self,
        backends: &[Backend],
        busy: impl Fn(usize) -> u32,
        request: &Request,
        draw: u64,
        now: Moment,
    ) -> Vec<usize> {
        let serves = |at: &usize| {
            let spec = &backends[*at].spec;
            resolve(spec, &spec.models, request).is_ok()
        };
        let mut order: Vec<usize> = (0..backends.len()).filter(serves).collect();
        let lot = |at: usize| random::at(draw, at as u64, now.micros());
        match self.choice {
            Choice::RoundRobin | Choice::Ours(_) => {
                let turn = self.turn % order.len().max(1);
                self.turn += 1;
                order.rotate_left(turn);
            }
            Choice::Random => order.sort_by_key(|at| lot(*at)),
            Choice::LeastBusy => order.sort_by_key(|at| (busy(*at), lot(*at))),
            Choice::LowestLatency => order.sort_by(|a, b| {
                let latency = |at: &usize| self.latency_secs[*at].unwrap_or(0.0);
                latency(a).total_cmp(&latency(b))
            }),
            Choice::StaticPrice => order.sort_by_key(|at| nominal_price(&backends[*at])),
        }
        order
    }
}

/// Price of one input and one output token by the price list; what has none comes last.
fn nominal_price(backend: &Backend) -> Money {
    match (&backend.spec.placement, &backend.behaviour) {
        (Placement::Cluster { cost_per_hour, .. }, Behaviour::Cluster(machine)) => {
            let token = 1.0 / machine.aggregate_tokens_per_second + 1.0 / machine.prefill_tokens_per_second;
            Money::from_usd(cost_per_hour.as_usd() / 3600.0 * token).unwrap_or(Money::from_pico(i128::MAX))
        }
        _ => {
            let price = backend.spec.models.iter().find_map(|model| model.price);
            price.map_or(Money::from_pico(i128::MAX), |price| price.rates.input + price.rates.output)
        }
    }
}
