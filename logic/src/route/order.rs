//! The strategy's order of the candidates.
//!
//! Never the best of all on figures that may be seconds old: every router would send its requests to
//! the same backend at once. Where more than three candidates are near equal, three of them are drawn
//! and the least loaded of the three goes first.

use crate::backend::{Kind, ServedModel};
use crate::ids::NodeId;
use crate::route::affinity::{self, Claimant};
use crate::route::amount::Amount;
use crate::route::few::Few;
use crate::route::prepared::PreparedView;
use crate::route::score::Score;
use crate::route::strategy::{CostBasis, Policy, Strategy};
use crate::route::total::{By, Compared};
use std::time::Duration;

/// Candidates compared for one place. Simulated on views 0.5 s old: the p99 wait of best of three is
/// 1.47 s where an oracle has 0.92 s, best of two 2.72 s and the best of all 6.6 s and more.
const SAMPLE: usize = 3;
/// Places filled by sampling: as many as there can be attempts.
const SAMPLED_PLACES: usize = 3;
/// Slack in microseconds in which two round trips count as equally fast.
const NEAR_LATENCY_MICROS: u32 = 10_000;

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
    /// Whether `hybrid` prefers it before asking for the cheapest of all.
    pub(crate) under_threshold: bool,
    /// Whether the client's deadline is predicted to be missed there.
    pub(crate) late: bool,
    /// What the request would add to the bill, filled by [`add_marginal_costs`].
    pub(crate) marginal_cost: Option<Amount>,
    /// Age of the facts behind the score.
    pub(crate) fact_age: Duration,
    /// The peer whose router it goes through.
    pub(crate) via: Option<&'v NodeId>,
}

/// Fills each candidate's marginal cost: its charge at a provider; nothing at a cluster with room, since
/// its hour is paid; at a full cluster what the cheapest candidate with room adds, or the average where
/// none has room. What is not known on average stays unknown. Traffic is paid for everywhere.
pub(crate) fn add_marginal_costs<const N: usize>(candidates: &mut Few<Candidate<'_>, N>) {
    let with_room = |candidate: &Candidate<'_>| {
        let charge = candidate.score.cost?;
        Some(candidate.score.egress + if candidate.cluster { Amount::ZERO } else { charge })
    };
    let alternative =
        candidates.iter().filter(|candidate| candidate.score.has_room()).filter_map(with_room).min();
    for candidate in candidates.iter_mut() {
        candidate.marginal_cost = match candidate.score.cost {
            Some(average) if candidate.cluster && !candidate.score.has_room() => {
                Some(alternative.unwrap_or(average + candidate.score.egress))
            }
            _ => with_room(candidate),
        };
    }
}

/// The order in which candidates are to be tried.
#[derive(Debug)]
pub(crate) struct Order<const N: usize> {
    keys: [Key; N],
    len: usize,
    /// Difference of amounts that is none.
    slack: i64,
}

impl<const N: usize> Order<N> {
    /// Orders `candidates`.
    pub(crate) fn of(
        candidates: &Few<Candidate<'_>, N>,
        strategy: Strategy,
        policy: &Policy,
        draw: u64,
    ) -> Self {
        let mut draws = Draws(draw);
        let mut order = Self { keys: [Key::default(); N], len: 0, slack: 0 };
        for (at, candidate) in candidates.iter().enumerate() {
            order.keys[at] = Key::of(at, candidate, strategy, policy);
            order.len = at + 1;
        }
        order.slack = slack(candidates);
        let (keys, slack) = (&mut order.keys[..order.len], order.slack);
        if strategy == Strategy::Latency {
            by_latency(keys, &mut draws);
        } else {
            by_rank_and_amount(keys, slack, &mut draws);
        }
        order
    }

    /// Places in the list of candidates, the first to be tried first.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> + Clone {
        self.keys[..self.len].iter().map(|key| usize::from(key.at))
    }

    /// What candidates are ordered by, the first to be tried first.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys[..self.len]
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts the candidate at `place` of this order first.
    pub(crate) fn promote(&mut self, place: usize) {
        self.keys[..=place].rotate_right(1);
    }

    /// The place in this order of the candidate that prompts beginning like `prefix` go to: one of the
    /// clusters of llama.cpp that stand as well as the first, so that neither health nor a target, a price or
    /// a queue is given up for it.
    pub(crate) fn affine(
        &self,
        prefix: u64,
        candidates: &Few<Candidate<'_>, N>,
        view: &PreparedView,
        strategy: Strategy,
    ) -> Option<usize> {
        let keys = &self.keys[..self.len];
        let first = keys.first()?;
        let fits = |key: &&Key| {
            let as_good = if strategy == Strategy::Latency {
                key.ttft <= first.ttft.saturating_mul(2).saturating_add(NEAR_LATENCY_MICROS)
            } else {
                key.rank == first.rank
                    && key.amount <= first.amount.saturating_add((first.amount / 4).max(self.slack))
            };
            let candidate = candidates.get(usize::from(key.at));
            as_good && candidate.is_some_and(|one| view.backends[one.index].spec.kind == Kind::Llama)
        };
        let claimant = |key: &Key| {
            let candidate = candidates.get(usize::from(key.at))?;
            let Score { load, places, .. } = candidate.score;
            Some(Claimant { hash: view.ready(candidate.index).hash, load, places })
        };
        if !fits(&first) || keys.iter().filter(fits).nth(1).is_none() {
            return None;
        }
        let claimants = keys.iter().filter(fits).filter_map(claimant);
        let chosen = affinity::choose(prefix, claimants)?;
        keys.iter().enumerate().filter(|(_, key)| fits(key)).map(|(place, _)| place).nth(chosen)
    }
}

/// What a candidate is ordered by: small, so that sorting moves little.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Key {
    /// Place in the list of candidates.
    at: u8,
    /// The class it is tried in; lower first.
    rank: u8,
    /// What is compared within a rank: the cost of the request on the policy's basis in pico-dollars,
    /// or the time to first token in microseconds where a target is missed. Nothing where the cost is
    /// unknown, which has a rank of its own.
    amount: i64,
    /// What that is.
    by: By,
    pressure: u32,
    /// Time to first token under the load of now, in microseconds.
    ttft: u32,
    /// The same without load.
    unloaded: u32,
    /// Drawn by lot, so that equals go in any order: worked out once, since sorting asks for it often.
    lot: u32,
}

impl Key {
    /// What a candidate behind all others is compared by.
    pub(crate) const LAST: Compared = Compared { rank: LATE - 1, by: By::Cost };

    /// Place in the list of candidates.
    pub(crate) fn place(&self) -> usize {
        self.at.into()
    }

    /// What its place in the order goes by.
    pub(crate) fn compared(&self) -> Compared {
        Compared { rank: self.rank, by: self.by }
    }

    fn draw(&mut self, salt: u64) {
        self.lot = (mixed(salt, u64::from(self.at)) >> 32) as u32;
    }

    #[inline]
    fn of(at: usize, candidate: &Candidate<'_>, strategy: Strategy, policy: &Policy) -> Self {
        let score = &candidate.score;
        let cost = match policy.cost_basis {
            CostBasis::Average => score.cost.map(|cost| cost + score.egress),
            CostBasis::Marginal => candidate.marginal_cost,
        };
        let ttft = score.ttft_or_optimistic();
        let by = match (strategy, policy.cost_basis) {
            (Strategy::Latency, _) => By::FirstToken,
            (Strategy::Slo, _) if !score.meets(&policy.slo) => By::LateFirstToken,
            (_, CostBasis::Average) => By::Cost,
            (_, CostBasis::Marginal) => By::Adds,
        };
        let amount = if by == By::LateFirstToken {
            // What is being measured for the first time may be slow: it comes behind what is known.
            i64::from(if score.is_being_measured() { u32::MAX } else { ttft })
        } else {
            cost.unwrap_or(Amount::ZERO).pico()
        };
        Self {
            at: u8::try_from(at).unwrap_or(u8::MAX),
            rank: rank(candidate, strategy, policy),
            amount,
            by,
            pressure: score.pressure(),
            ttft,
            unloaded: score.unloaded(),
            lot: 0,
        }
    }
}

/// The rank from which on candidates are predicted to miss the client's deadline.
pub(crate) const LATE: u8 = 64;

/// The class a candidate is tried in; lower first. What has no price comes last in its class or, where
/// the strategy compares all, last of all. Strategies that prefer clusters fill the free places of all
/// of them before they queue at the cheapest: those machines are paid for whether they work or not. Who is
/// predicted to miss the client's deadline comes behind all who are not.
#[inline]
fn rank(candidate: &Candidate<'_>, strategy: Strategy, policy: &Policy) -> u8 {
    let unpriced = u8::from(candidate.score.cost.is_none());
    let full = u8::from(candidate.cluster && !candidate.score.has_room());
    let late = if candidate.late { LATE } else { 0 };
    late + match strategy {
        Strategy::Hybrid if candidate.under_threshold => full,
        Strategy::Hybrid | Strategy::Cost => 2 + unpriced,
        // Who is being measured for the first time is not taken for fast meanwhile.
        Strategy::Latency => u8::from(candidate.score.is_being_measured()),
        Strategy::ClusterFirst => 4 * u8::from(!candidate.cluster) + 2 * unpriced + full,
        Strategy::ExternalFirst => 4 * u8::from(candidate.cluster) + 2 * unpriced + full,
        Strategy::Slo if candidate.score.meets(&policy.slo) => unpriced,
        Strategy::Slo => 2,
    }
}

/// A twentieth of what the request costs at the cheapest on average. On the margin most costs are nothing
/// or nearly: a difference that is small beside what the request is worth must not send all of them to the
/// same machine.
fn slack<const N: usize>(candidates: &Few<Candidate<'_>, N>) -> i64 {
    let cheapest = candidates.iter().filter_map(|candidate| candidate.score.cost).min();
    cheapest.map_or(0, |cost| cost.pico() / 20)
}

/// Lowest amount first within each rank; candidates within 5 % of the first of their band, or within
/// `slack`, are near equal and go by pressure, sampled where there are more than three.
fn by_rank_and_amount(keys: &mut [Key], slack: i64, draws: &mut Draws) {
    keys.sort_unstable_by_key(|key| (key.rank, key.amount, key.at));
    let mut rest = keys;
    while let Some(first) = rest.first() {
        let slack = if first.by == By::LateFirstToken { 0 } else { slack };
        let (rank, bound) = (first.rank, first.amount.saturating_add((first.amount / 20).max(slack)));
        let near = rest.partition_point(|key| key.rank == rank && key.amount <= bound);
        let (band, beyond) = rest.split_at_mut(near);
        rest = beyond;
        if band.len() == 1 {
            continue;
        }
        let salt = draws.next();
        band.iter_mut().for_each(|key| key.draw(salt));
        band.sort_unstable_by_key(|key| (key.pressure, key.lot));
        for place in 0..SAMPLED_PLACES.min(band.len()) {
            let rest = &mut band[place..];
            let best = draws.best_of_sample(rest.len());
            rest[..=best].rotate_right(1);
        }
    }
}

/// Lowest predicted TTFT first, in each rank.
///
/// More than three candidates whose own speed, the load of now left out, is within a factor of two of
/// the fastest are sampled. Slower ones are taken ahead of them only where the sampled one is so loaded
/// that it is predicted slower still.
fn by_latency(keys: &mut [Key], draws: &mut Draws) {
    let salt = draws.next();
    keys.iter_mut().for_each(|key| key.draw(salt));
    keys.sort_unstable_by_key(|key| (key.rank, key.ttft, key.pressure, key.lot));
    let ranked = keys.first().map_or(0, |first| keys.partition_point(|key| key.rank == first.rank));
    let keys = &mut keys[..ranked];
    let fastest = keys.iter().map(|key| key.unloaded).min().unwrap_or(0);
    let bound = fastest.saturating_mul(2).saturating_add(NEAR_LATENCY_MICROS);
    for place in 0..SAMPLED_PLACES.min(keys.len()) {
        let rest = &mut keys[place..];
        let near = |key: &Key| key.unloaded <= bound;
        let sampled = draws.best_of_sample(rest.iter().filter(|key| near(key)).count());
        let sampled = rest.iter().enumerate().filter(|(_, key)| near(key)).nth(sampled);
        let sampled = sampled.map(|(at, _)| at);
        let slower = rest.iter().position(|key| !near(key));
        if let Some(best) = sampled.into_iter().chain(slower).min() {
            rest[..=best].rotate_right(1);
        }
    }
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
