//! The strategy's order of the candidates.
//!
//! Never the best of all on figures that may be seconds old: every router would send its requests to
//! the same backend at once. Where more than three candidates are near equal, three of them are drawn
//! and the least loaded of the three goes first.

use crate::backend::ServedModel;
use crate::money::Money;
use crate::route::score::Score;
use crate::route::strategy::{Policy, Strategy};
use std::cmp::Ordering;
use std::time::Duration;

/// Candidates compared for one place. Simulated on views 0.5 s old: the p99 wait of best of three is
/// 1.47 s where an oracle has 0.92 s, best of two 2.72 s and the best of all 6.6 s and more.
const SAMPLE: usize = 3;
/// Places filled by sampling: as many as there can be attempts.
const SAMPLED_PLACES: usize = 3;
/// Slack in which two round trips count as equally fast.
const NEAR_LATENCY_SLACK: Duration = Duration::from_millis(10);

/// A backend that may serve the request.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'v> {
    /// Index into the view's backends.
    pub(crate) index: usize,
    /// Whether it is one of our own clusters.
    pub(crate) cluster: bool,
    /// The model it would be asked for.
    pub(crate) model: &'v ServedModel,
    /// What it is judged by.
    pub(crate) score: Score,
    /// Age of the facts behind the score.
    pub(crate) fact_age: Duration,
}

/// Whether `hybrid` prefers this candidate before asking for the cheapest of all.
pub(crate) fn under_threshold(candidate: &Candidate<'_>, policy: &Policy) -> bool {
    candidate.cluster && candidate.score.cost_per_1k.is_some_and(|cost| cost <= policy.cluster_cost_threshold)
}

/// Puts `candidates` into the order in which they are to be tried.
pub(crate) fn order(candidates: &mut [Candidate<'_>], strategy: Strategy, policy: &Policy, draw: u64) {
    let mut draws = Draws(draw);
    if strategy == Strategy::Latency {
        by_latency(candidates, &mut draws);
    } else {
        by_rank_and_cost(candidates, |candidate| rank(candidate, strategy, policy), &mut draws);
    }
}

/// The class a candidate is tried in; lower first. What has no price comes last in its class or, where
/// the strategy compares all, last of all.
fn rank(candidate: &Candidate<'_>, strategy: Strategy, policy: &Policy) -> u8 {
    let unpriced = u8::from(candidate.score.predicted_cost.is_none());
    match strategy {
        Strategy::Hybrid if under_threshold(candidate, policy) => 0,
        Strategy::Hybrid | Strategy::Cost | Strategy::Latency => 1 + unpriced,
        Strategy::ClusterFirst => 2 * u8::from(!candidate.cluster) + unpriced,
        Strategy::ExternalFirst => 2 * u8::from(candidate.cluster) + unpriced,
    }
}

/// Cheapest first within each rank; candidates within 5 % of the cheapest of their band are near equal
/// and go by pressure, sampled where there are more than three.
fn by_rank_and_cost(
    candidates: &mut [Candidate<'_>],
    rank: impl Fn(&Candidate<'_>) -> u8,
    draws: &mut Draws,
) {
    let cost = |c: &Candidate<'_>| c.score.predicted_cost.unwrap_or(Money::ZERO);
    candidates.sort_unstable_by_key(|c| (rank(c), cost(c), c.index));
    let mut rest = candidates;
    while let Some(cheapest) = rest.first() {
        let (first_rank, bound) = (rank(cheapest), five_percent_above(cost(cheapest)));
        let near = rest.partition_point(|c| rank(c) == first_rank && cost(c) <= bound);
        let (band, beyond) = rest.split_at_mut(near);
        let salt = draws.next();
        let key = |c: &Candidate<'_>| (c.score.pressure, cost(c), mixed(salt, c.index as u64));
        band.sort_unstable_by_key(key);
        for place in 0..SAMPLED_PLACES.min(band.len()) {
            let rest = &mut band[place..];
            let best = draws.best_of_sample(rest.len());
            rest[..=best].rotate_right(1);
        }
        rest = beyond;
    }
}

/// Lowest predicted TTFT first.
///
/// More than three candidates whose own speed, the load of now left out, is within a factor of two of
/// the fastest are sampled. Slower ones are taken ahead of them only where the sampled one is so loaded
/// that it is predicted slower still.
fn by_latency(candidates: &mut [Candidate<'_>], draws: &mut Draws) {
    let salt = draws.next();
    let compare = |a: &Candidate<'_>, b: &Candidate<'_>| -> Ordering {
        let key =
            |c: &Candidate<'_>| (c.score.ttft_or_optimistic(), c.score.pressure, mixed(salt, c.index as u64));
        key(a).cmp(&key(b))
    };
    candidates.sort_unstable_by(compare);
    let fastest = candidates.iter().map(|c| c.score.unloaded).min().unwrap_or_default();
    let bound = fastest.saturating_mul(2).saturating_add(NEAR_LATENCY_SLACK);
    for place in 0..SAMPLED_PLACES.min(candidates.len()) {
        let rest = &mut candidates[place..];
        let near = |c: &Candidate<'_>| c.score.unloaded <= bound;
        let sampled = draws.best_of_sample(rest.iter().filter(|c| near(c)).count());
        let sampled = rest.iter().enumerate().filter(|(_, c)| near(c)).nth(sampled).map(|(at, _)| at);
        let slower = rest.iter().position(|c| !near(c));
        if let Some(best) = sampled.into_iter().chain(slower).min() {
            rest[..=best].rotate_right(1);
        }
    }
}

fn five_percent_above(cost: Money) -> Money {
    Money::from_pico(cost.pico().saturating_add(cost.pico().unsigned_abs() as i128 / 20))
}

/// Numbers drawn from the 64 bits a plan is given.
struct Draws(u64);

impl Draws {
    /// The next number: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
    /// generators", OOPSLA 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0, 0)
    }

    /// The best place of [`SAMPLE`] different ones out of `count` sorted best first.
    fn best_of_sample(&mut self, count: usize) -> usize {
        if count <= SAMPLE {
            return 0;
        }
        // Floyd's sampling: each draw comes from one place more; a repeat takes the place just added.
        let mut taken = [usize::MAX; SAMPLE];
        for round in 0..SAMPLE {
            let last = count - SAMPLE + round;
            let drawn = (self.next() % (last as u64 + 1)) as usize;
            taken[round] = if taken.contains(&drawn) { last } else { drawn };
        }
        taken.into_iter().min().unwrap_or(0)
    }
}

/// SplitMix64's output function over `salt` and `value`.
fn mixed(salt: u64, value: u64) -> u64 {
    let mut z = salt ^ value.wrapping_mul(0xd134_2543_de82_ef95);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
