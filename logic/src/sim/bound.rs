//! What the requests must cost at least, whoever decides and however much is known beforehand.
//!
//! The machines are paid for in any case; what can be saved is provider spend. Request *i* would cost
//! `p_i` at the cheapest provider and needs `w_ic` seconds of machine *c* (its prompt at the machine's
//! reading speed and its answer at the aggregate speed). No schedule gives a machine more work than it
//! has seconds `H_c`, so no schedule saves more than the best fractional packing
//!
//! ```text
//! max Σ p_i x_ic   with   Σ_i w_ic x_ic ≤ H_c,   Σ_c x_ic ≤ 1,   x ≥ 0
//! ```
//!
//! which leaves out the price of traffic to machines, order, arrival times, slots, latency and rate limits: each only takes schedules
//! away. By weak duality any prices `λ_c ≥ 0` per machine second bound that maximum from above by
//! `Σ_c λ_c H_c + Σ_i max(0, max_c (p_i − λ_c w_ic))`; the prices are chosen to make it small, and how
//! well they are chosen decides only how tight the bound is, not whether it holds.

use super::model::{Behaviour, Machine, Scene};
use super::replay::Replayed;
use super::trace::Arrival;
use crate::backend::Placement;
use crate::money::Money;
use crate::time::Moment;

/// Rounds over all machines.
const ROUNDS: usize = 6;
/// Halvings per machine and round.
const HALVINGS: usize = 30;

/// What is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Machine hours and the least provider spend.
    pub cost: Money,
    /// The machines' price from the first to the last arrival: paid by every strategy alike.
    pub machine_cost: Money,
    /// All requests at the cheapest provider, traffic included, and no machine.
    pub external_cost: Money,
}

/// The bound for `trace`. Machines may work until the last of the `replayed` strategies had its last
/// answer of them, so that none of them had more of a machine than the bound.
pub fn clairvoyant_bound(scene: &Scene, trace: &[Arrival], replayed: &[Replayed]) -> Bound {
    let span = trace.last().map_or(Moment::ZERO, |last| last.at);
    let mut machines = Vec::new();
    let mut machine_cost = Money::ZERO;
    for (index, backend) in scene.backends.iter().enumerate() {
        if let (Placement::Cluster { cost_per_hour, .. }, Behaviour::Cluster(machine)) =
            (&backend.spec.placement, &backend.behaviour)
        {
            machine_cost += cost_per_hour.share(span.micros(), 3_600_000_000);
            let ends = replayed.iter().filter_map(|replayed| replayed.last_end.get(index).copied());
            let end = ends.fold(span, Moment::max);
            machines.push((*machine, end.micros() as f64 / 1e6));
        }
    }
    let prices: Vec<Money> = trace
        .iter()
        .map(|arrival| {
            scene.cheapest_external(arrival.input_tokens, arrival.output_tokens).unwrap_or(Money::ZERO)
        })
        .collect();
    let external_cost: Money = prices.iter().copied().sum();
    let saved = most_saved(trace, &prices, &machines);
    // A hundred-millionth for the rounding of floats, always to the side that keeps the bound.
    let saved = Money::from_usd(saved * (1.0 + 1e-8) + 1e-9).unwrap_or(external_cost).min(external_cost);
    Bound { cost: machine_cost + external_cost - saved, machine_cost, external_cost }
}

/// Machine seconds of one request: less than the model really needs, never more.
fn seconds(machine: &Machine, arrival: &Arrival) -> f64 {
    f64::from(arrival.input_tokens) / machine.prefill_tokens_per_second
        + f64::from(arrival.output_tokens.saturating_sub(1)) / machine.aggregate_tokens_per_second
}

/// The dual's value at good prices, in dollars.
fn most_saved(trace: &[Arrival], prices: &[Money], machines: &[(Machine, f64)]) -> f64 {
    let mut lambda = vec![0.0_f64; machines.len()];
    let usd: Vec<f64> = prices.iter().map(|price| price.as_usd()).collect();
    let gain = |lambda: &[f64], at: usize, skip: usize| {
        let each = machines.iter().enumerate().filter(|(c, _)| *c != skip);
        each.map(|(c, (machine, _))| usd[at] - lambda[c] * seconds(machine, &trace[at])).fold(0.0, f64::max)
    };
    for _ in 0..ROUNDS {
        for (c, (machine, capacity)) in machines.iter().enumerate() {
            let rows: Vec<(f64, f64, f64)> = (0..trace.len())
                .map(|at| (usd[at], seconds(machine, &trace[at]), gain(&lambda, at, c)))
                .collect();
            // Work this machine attracts at a price; the dual falls with the price while it is too much.
            let attracted = |price: f64| -> f64 {
                rows.iter().filter(|(p, w, other)| p - price * w > *other).map(|(_, w, _)| w).sum()
            };
            let (mut low, mut high) = (0.0, 1.0);
            while attracted(high) > *capacity && high < 1e12 {
                high *= 2.0;
            }
            for _ in 0..HALVINGS {
                let middle = f64::midpoint(low, high);
                if attracted(middle) > *capacity { low = middle } else { high = middle }
            }
            lambda[c] = if attracted(0.0) <= *capacity { 0.0 } else { high };
        }
    }
    let paid: f64 = machines.iter().zip(&lambda).map(|((_, capacity), price)| capacity * price).sum();
    paid + (0..trace.len()).map(|at| gain(&lambda, at, usize::MAX)).sum::<f64>()
}
