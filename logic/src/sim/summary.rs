//! What a replay comes to, in the words of the command line's contract.

use super::bound::Bound;
use super::replay::Replayed;
use crate::money::Money;
use serde::Serialize;
use std::time::Duration;

/// Savings up to a ten-thousandth of a cent are none: the bound is rounded by less.
const NOTHING: Money = Money::from_pico(1_000_000);

/// The result of one strategy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The strategy or baseline.
    pub strategy: String,
    /// Requests of the trace.
    pub requests: usize,
    /// Machine hours over the trace, traffic and what providers charged, for requests nobody served what the
    /// cheapest provider would have.
    pub cost_usd: Money,
    /// All requests at the cheapest provider and no machine, less `cost_usd`.
    pub saving_vs_external_usd: Money,
    /// No schedule costs less than this.
    pub bound_cost_usd: Money,
    /// Saving as a share of the bound's saving; `null` where there is nothing to save.
    pub captured_saving: Option<f64>,
    /// Share of all requests whose first token came within the target.
    pub slo_attainment: f64,
    /// Time to first token of the requests that were served, from arrival.
    pub ttft_ms: Millis,
    /// Requests nobody served.
    #[serde(skip)]
    pub refused: usize,
    /// Attempts that failed.
    #[serde(skip)]
    pub failed_attempts: u32,
    /// Second and further attempts.
    #[serde(skip)]
    pub retries: u32,
    /// Requests served by clusters.
    #[serde(skip)]
    pub at_clusters: usize,
}

/// Percentiles in milliseconds, by nearest rank; `null` where nothing was served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Millis {
    /// Median.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

impl Summary {
    /// Sums `replayed` up against `bound`.
    pub fn new(replayed: &Replayed, bound: &Bound, slo_ttft: Duration) -> Self {
        let cost = bound.machine_cost + replayed.provider_cost + replayed.egress_cost + replayed.refused_cost;
        let saving = bound.external_cost - cost;
        let possible = bound.external_cost - bound.cost;
        let captured = (possible > NOTHING).then(|| saving.as_usd() / possible.as_usd());
        let mut ttfts = replayed.ttfts.clone();
        ttfts.sort_unstable();
        let within = ttfts.partition_point(|ttft| *ttft <= slo_ttft);
        let percentile = |percent: usize| {
            let rank = (ttfts.len() * percent).div_ceil(100).checked_sub(1)?;
            Some(ttfts.get(rank)?.as_micros() as f64 / 1_000.0)
        };
        let requests = replayed.ttfts.len() + replayed.refused;
        Self {
            strategy: replayed.choice.to_string(),
            requests,
            cost_usd: cost,
            saving_vs_external_usd: saving,
            bound_cost_usd: bound.cost,
            captured_saving: captured,
            slo_attainment: if requests == 0 { 1.0 } else { within as f64 / requests as f64 },
            ttft_ms: Millis { p50: percentile(50), p95: percentile(95), p99: percentile(99) },
            refused: replayed.refused,
            failed_attempts: replayed.failed_attempts.iter().sum(),
            retries: replayed.retries,
            at_clusters: replayed.at_clusters,
        }
    }
}
