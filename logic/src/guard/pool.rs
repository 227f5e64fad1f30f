//! One amount that several nodes draw on without asking each other: dollars of a budget, requests per
//! minute, slots.
//!
//! Each node publishes its own *claim* and acknowledges what it has read of the others' ([`Beats`]). A node
//! may raise its claim `c` to at most
//!
//! ```text
//! a + (limit − a − Σ v) ÷ n
//! ```
//!
//! where `a` is the lowest of its own claims from the newest one that *every* other node has acknowledged on,
//! `v` is what it last read of each other node, and `n` counts the nodes. Nobody can take twice what is left:
//! what a node adds beyond what all others know of is one n-th of what it sees left. So the claims together
//! never exceed the limit, whatever is late, lost or cut off; and while everybody hears everybody, `a` follows
//! `c` and one node alone can take nearly all. Proven by the property tests beside this file, which let
//! messages be late, lost and overtaken.
//!
//! Owns the arithmetic only. Time, messages and persistence are the `Quota` actor's.

use crate::ids::NodeId;
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A peer that has been silent for this long is not counted on.
pub const FRESH: Duration = Duration::from_secs(2);
/// A silent peer takes no more than its fixed share of a [`Lapsing`](Kind::Lapsing) pool by then: it stops when
/// no acknowledgement of ours reached it for [`FRESH`], and the rest allows for clocks that run apart.
pub const LAPSED: Duration = Duration::from_secs(4);
/// Own claims remembered while some node has not acknowledged them; older ones are summed up by their lowest.
const HISTORY_MAX: usize = 64;

/// What becomes of the claim of a node that nobody hears of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It stays: what was spent is spent.
    Lasting,
    /// It lapses to an equal share, on both sides, once it was silent for [`LAPSED`] and this long besides: a rate
    /// can be used anew. The time is that for which what was taken of it still counts.
    Lapsing(Duration),
}

/// Which of this node's beats every other node has seen, and when. One for all pools of a node.
#[derive(Clone, Debug)]
pub struct Beats {
    this: NodeId,
    peers: BTreeSet<NodeId>,
    /// When each of the last own beats was told.
    told: VecDeque<(u64, Moment)>,
    heard: BTreeMap<NodeId, Heard>,
    started: Moment,
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// Its newest beat we read, and when.
    beat: u64,
    at: Option<Moment>,
    /// Our newest beat it read.
    acknowledged: u64,
}

impl Beats {
    /// For a node that starts at `now` and expects `peers`.
    pub fn new(this: NodeId, peers: BTreeSet<NodeId>, now: Moment) -> Self {
        let mut beats = Self {
            this,
            peers: BTreeSet::new(),
            told: VecDeque::new(),
            heard: BTreeMap::new(),
            started: now,
        };
        beats.expect(peers);
        beats
    }

    /// From now on `peers` are expected; itself is left out.
    pub fn expect(&mut self, mut peers: BTreeSet<NodeId>) {
        peers.remove(&self.this);
        self.peers = peers;
    }

    /// The nodes that share, this one included.
    pub fn nodes(&self) -> u64 {
        self.peers.len() as u64 + 1
    }

    /// The expected peers.
    pub fn peers(&self) -> &BTreeSet<NodeId> {
        &self.peers
    }

    /// Own beat `beat` is told at `now`.
    pub fn tell(&mut self, beat: u64, now: Moment) {
        self.told.push_back((beat, now));
        if self.told.len() > HISTORY_MAX {
            self.told.pop_front();
        }
    }

    /// `peer` told `beat` and that it has seen this node's `acknowledged`. Read this before the claims that
    /// came with it: they may then be newer than the beat, never older.
    pub fn hear(&mut self, peer: &NodeId, beat: u64, acknowledged: u64, now: Moment) {
        let heard = self.heard.entry(peer.clone()).or_default();
        if beat != heard.beat {
            heard.beat = beat;
            heard.at = Some(now);
        }
        heard.acknowledged = acknowledged;
    }

    /// What this node has read of the others: to be told with its next beat.
    pub fn acknowledgements(&self) -> impl Iterator<Item = (&NodeId, u64)> {
        self.heard.iter().map(|(node, heard)| (node, heard.beat))
    }

    /// The newest own beat that every expected peer has seen.
    fn seen_by_all(&self) -> u64 {
        let seen = |peer: &NodeId| self.heard.get(peer).map_or(0, |heard| heard.acknowledged);
        self.peers.iter().map(seen).min().unwrap_or(u64::MAX)
    }

    /// Time since `peer` told something new; since the start where it never did.
    pub fn silence(&self, peer: &NodeId, now: Moment) -> Duration {
        let at = self.heard.get(peer).and_then(|heard| heard.at);
        now.since(at.unwrap_or(self.started))
    }

    /// Time since this node told the newest beat that `peer` has acknowledged.
    fn unacknowledged(&self, peer: &NodeId, now: Moment) -> Duration {
        let seen = self.heard.get(peer).map_or(0, |heard| heard.acknowledged);
        match self.told.iter().rev().find(|(beat, _)| *beat <= seen) {
            Some((_, told)) => now.since(*told),
            // Older than what is remembered, or none at all.
            None => self.told.front().map_or(Duration::MAX, |(_, told)| now.since(*told).max(LAPSED)),
        }
    }

    /// Whether this node and every expected peer hear each other.
    pub fn all_fresh(&self, now: Moment) -> bool {
        self.peers.iter().all(|peer| self.is_fresh(peer, now))
    }

    fn is_fresh(&self, peer: &NodeId, now: Moment) -> bool {
        let has_spoken = self.heard.get(peer).is_some_and(|heard| heard.at.is_some());
        has_spoken && self.silence(peer, now) <= FRESH && self.unacknowledged(peer, now) <= FRESH
    }

    /// Whether the claims of all silent peers have lapsed by now, what is taken counting for `counts`.
    fn all_silent_lapsed(&self, counts: Duration, now: Moment) -> bool {
        let lapsed = LAPSED + counts;
        self.peers.iter().all(|peer| self.is_fresh(peer, now) || self.silence(peer, now) > lapsed)
    }
}

/// What one node knows of one pool. Amounts are whole units of the caller's choice.
#[derive(Clone, Debug)]
pub struct Pool {
    kind: Kind,
    limit: i64,
    /// Own claims by the beat they were first told with; the first stands for all before it too.
    told: VecDeque<(u64, i64)>,
    peers: BTreeMap<NodeId, i64>,
}

impl Pool {
    /// A pool of `limit` units that nothing was drawn from.
    pub fn new(kind: Kind, limit: i64) -> Self {
        Self { kind, limit: limit.max(0), told: VecDeque::new(), peers: BTreeMap::new() }
    }

    /// What all nodes together may claim.
    pub fn limit(&self) -> i64 {
        self.limit
    }

    /// Changes the limit; claims above a lower one are kept and not raised.
    pub fn set_limit(&mut self, limit: i64) {
        self.limit = limit.max(0);
    }

    /// `peer` claims `claim`.
    pub fn hear(&mut self, peer: &NodeId, claim: i64) {
        self.peers.insert(peer.clone(), claim.max(0));
    }

    /// What `peer` claims, as far as is known.
    pub fn claim_of(&self, peer: &NodeId) -> i64 {
        self.peers.get(peer).copied().unwrap_or(0)
    }

    /// What all other nodes claim, as far as is known.
    pub fn others(&self) -> i64 {
        self.peers.values().fold(0, |sum: i64, claim| sum.saturating_add(*claim))
    }

    /// Own claim `claim` is told with `beat`, which is later than any before.
    pub fn tell(&mut self, beat: u64, claim: i64) {
        if self.told.back().is_some_and(|(_, last)| *last == claim) {
            return;
        }
        self.told.push_back((beat, claim));
        if self.told.len() > HISTORY_MAX
            && let Some((_, oldest)) = self.told.pop_front()
            && let Some((_, next)) = self.told.front_mut()
        {
            *next = oldest.min(*next);
        }
    }

    /// Whether a claim was told.
    pub fn was_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// The lowest of the own claims that some node may still go by.
    fn known_to_all(&mut self, beats: &Beats) -> i64 {
        let seen = beats.seen_by_all();
        while self.told.len() > 1 && self.told.get(1).is_some_and(|(beat, _)| *beat <= seen) {
            self.told.pop_front();
        }
        match self.told.front() {
            Some((beat, _)) if *beat <= seen => {
                self.told.iter().map(|(_, claim)| *claim).min().unwrap_or(0).max(0)
            }
            // Nobody need know of any claim of ours.
            _ => 0,
        }
    }

    /// The most this node may claim now; what it claims already may be more, and is then not raised.
    pub fn bound(&mut self, beats: &Beats, now: Moment) -> i64 {
        let shared = self.shared(beats);
        match self.kind {
            Kind::Lasting => shared,
            Kind::Lapsing(_) if beats.all_fresh(now) => shared,
            Kind::Lapsing(counts) => {
                let fixed = self.limit / signed(beats.nodes());
                if beats.all_silent_lapsed(counts, now) { fixed } else { shared.clamp(0, fixed) }
            }
        }
    }

    /// As [`bound`](Self::bound), and up to `slack` units more than all nodes know of while every node hears
    /// every other: what is left is then used to the end at once, and the claims together may exceed the limit
    /// by [`overshoot`](Self::overshoot).
    pub fn bound_with_slack(&mut self, beats: &Beats, slack: i64, now: Moment) -> i64 {
        let bound = self.bound(beats, now);
        if !beats.all_fresh(now) {
            return bound;
        }
        let left_for_us = self.limit.saturating_sub(self.others());
        let with_slack = self.known_to_all(beats).saturating_add(slack.max(0));
        bound.max(left_for_us.min(with_slack))
    }

    /// The most by which the claims may exceed the limit where every node takes `slack`: all but one of them may
    /// each take the last units at the same time.
    pub fn overshoot(&self, beats: &Beats, slack: i64) -> i64 {
        slack.max(0).saturating_mul(signed(beats.nodes() - 1))
    }

    fn shared(&mut self, beats: &Beats) -> i64 {
        let known = self.known_to_all(beats);
        let left = self.limit.saturating_sub(known).saturating_sub(self.others());
        known.saturating_add(left.div_euclid(signed(beats.nodes())))
    }
}

/// Who should have how much of a lapsing pool: everybody what it wants, or else an equal part of what the others
/// leave (max-min fairness); what nobody wants in equal parts besides. Returns the part of `wants[index]`.
pub fn fair_part(limit: i64, wants: &[i64], index: usize) -> i64 {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|at| wants[*at]);
    let (mut left, mut ours) = (limit, 0);
    for (nth, at) in order.iter().enumerate() {
        let part = (left / signed((wants.len() - nth) as u64)).min(wants[*at].max(0));
        if *at == index {
            ours = part;
        }
        left -= part;
    }
    ours + left / signed(wants.len() as u64)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
