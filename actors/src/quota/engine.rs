//! One beat of the shared limits: read what peers claim, set what this node may take, tell what it takes.
//!
//! Owns the pools of all scopes. It belongs to no actor, so that nothing told to peers is forgotten when one
//! dies; the `Quota` actor calls [`Engine::beat`] a few times a second. The order within a beat is the protocol's:
//! beats are read before claims, limits are set before the books are read, claims are told before the beat.

use crate::facts::Facts;
use crate::gate::Gate;
use crate::ledger::Journal;
use crate::metrics::Metrics;
use crate::quota::scope::{Scope, UNIT};
use crate::quota::spec::{Kept, Mode, Period};
use crate::quota::{ACCOUNT, Notice, SHARED_MAX};
use llm_router_logic::gossip::fact::Topic;
use llm_router_logic::gossip::quota::{Beat, Claims, SEEN_MAX, name_hash, scope_name};
use llm_router_logic::guard::pool::{Beats, Kind, Pool, fair_part};
use llm_router_logic::guard::window::WINDOW;
use llm_router_logic::ids::NodeId;
use llm_router_logic::money::Money;
use llm_router_logic::time::Moment;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// A beat is told at least this often while anything is shared: silence of two seconds means a node is gone.
const TELL_AT_LEAST: Duration = Duration::from_millis(500);
/// Parts of a limit wanted beyond what is asked for, so that a share grows before it is used up.
const AHEAD: i64 = 8;
/// What all nodes together may take of a soft budget beyond what all know of: 5 % of it.
const SLACK_PERCENT: i64 = 5;
/// Shares of spend that are warned of.
const WARN_AT: [i64; 3] = [50, 80, 100];
/// How fast wanted rates follow what is asked for: the weight of one beat.
const DEMAND_WEIGHT: f64 = 0.15;

/// All pools of a node.
pub(crate) struct Engine {
    this: NodeId,
    beats: Beats,
    beat: u64,
    told_at: Option<Moment>,
    last_beat: Option<Moment>,
    scopes: Vec<Shared>,
    /// What an earlier run left, until its scope is met.
    kept: HashMap<String, Kept>,
    /// Whether budgets are noted on disk: hard ones then never run ahead of the note.
    pub(crate) noted: bool,
    /// What was spent before the start, where nothing was noted.
    journal: Option<Journal>,
}

/// One scope with its pools.
struct Shared {
    scope: Arc<Scope>,
    fact: String,
    /// A scope beyond the number that fits in gossip keeps to its equal share.
    is_shared: bool,
    /// Limiter of a provider account, where the scope is one.
    gate: Option<Arc<Gate>>,
    budget: Option<(Period, Pool)>,
    /// Of the budget, spent by each peer.
    spent_by: BTreeMap<NodeId, i64>,
    /// Warnings given in this period.
    warned: usize,
    /// Up to where a hard budget is noted on disk.
    ceiling: i64,
    rates: [Option<Rate>; 3],
    told: Option<Claims>,
}

/// One rate: requests a minute, tokens a minute or requests at once, in thousandths.
struct Rate {
    pool: Pool,
    /// What is asked for, smoothed: falls slowly.
    demand: f64,
    want: i64,
    share: i64,
    wants: BTreeMap<NodeId, i64>,
}

impl Rate {
    /// `counts`: how long what was taken still counts.
    fn new(limit: i64, counts: Duration) -> Self {
        let pool = Pool::new(Kind::Lapsing(counts), limit);
        Self { pool, demand: 0.0, want: 0, share: 0, wants: BTreeMap::new() }
    }

    /// `asked` units are asked for now, of which `used` are taken and cannot be given up; `hungry`: some were
    /// denied.
    fn turn(&mut self, beats: &Beats, asked: i64, used: i64, hungry: bool, now: Moment) -> i64 {
        let limit = self.pool.limit();
        self.demand = (self.demand + (asked as f64 - self.demand) * DEMAND_WEIGHT).max(asked as f64);
        #[expect(clippy::cast_possible_truncation, reason = "clamped to the limit; `as` saturates")]
        let demand = self.demand as i64;
        let is_idle = demand == 0 && used == 0;
        let ahead = if is_idle { 0 } else { (limit / AHEAD).max(UNIT) };
        self.want = if hungry { limit } else { demand.max(used).saturating_add(ahead).min(limit) };
        let wants: Vec<i64> = std::iter::once(self.want)
            .chain(beats.peers().iter().map(|peer| self.wants.get(peer).copied().unwrap_or(0)))
            .collect();
        // Without word from a peer nobody knows its wish: the bound is an equal part then.
        let target = if beats.all_fresh(now) { fair_part(limit, &wants, 0) } else { limit };
        self.share = self.pool.bound(beats, now).min(target).max(used);
        self.share
    }
}

impl Engine {
    pub(crate) fn new(this: NodeId, first_beat: u64, now: Moment, journal: Option<Journal>) -> Self {
        Self {
            beats: Beats::new(this.clone(), BTreeSet::new(), now),
            this,
            beat: first_beat,
            told_at: None,
            last_beat: None,
            scopes: Vec::new(),
            kept: HashMap::new(),
            noted: false,
            journal,
        }
    }

    /// What an earlier run of this node noted.
    pub(crate) fn recover(&mut self, kept: Vec<Kept>) {
        self.kept.extend(kept.into_iter().map(|kept| (kept.scope.clone(), kept)));
    }

    /// Takes over the scopes there are now. Pools of scopes that stay are kept.
    pub(crate) fn configure(&mut self, scopes: &[Arc<Scope>], facts: &Facts) {
        let mut before: HashMap<Arc<str>, Shared> = std::mem::take(&mut self.scopes)
            .into_iter()
            .map(|shared| (Arc::clone(&shared.scope.name), shared))
            .collect();
        self.scopes = scopes
            .iter()
            .enumerate()
            .map(|(index, scope)| {
                let mut shared = before.remove(&scope.name).unwrap_or_else(|| Shared {
                    scope: Arc::clone(scope),
                    fact: scope_name(&scope.name),
                    is_shared: true,
                    gate: None,
                    budget: None,
                    spent_by: BTreeMap::new(),
                    warned: 0,
                    ceiling: 0,
                    rates: [None, None, None],
                    told: None,
                });
                shared.scope = Arc::clone(scope);
                shared.is_shared = index < SHARED_MAX;
                shared.gate = None;
                shared
            })
            .collect();
        for gone in before.values() {
            facts.withdraw(Topic::Budget, &gone.fact);
        }
    }

    /// Which nodes share from now on.
    pub(crate) fn expect(&mut self, nodes: BTreeSet<NodeId>) {
        self.beats.expect(nodes);
    }

    /// Finds the limiters of provider accounts that have not been found yet.
    pub(crate) fn find_gates(&mut self, gate_of: impl Fn(&str) -> Option<Arc<Gate>>) {
        for shared in self.scopes.iter_mut().filter(|shared| shared.gate.is_none()) {
            if let Some(backend) = shared.scope.name.strip_prefix(ACCOUNT) {
                shared.gate = gate_of(backend);
            }
        }
    }

    /// Whether peers are heard that have not been heard for too long, or never.
    pub(crate) fn is_split(&self, now: Moment) -> bool {
        !self.beats.all_fresh(now)
    }

    pub(crate) fn nodes(&self) -> u64 {
        self.beats.nodes()
    }

    /// One beat. Returns what is worth a notice.
    pub(crate) fn beat(&mut self, facts: &Facts, metrics: &Metrics, unix: u64, now: Moment) -> Vec<Notice> {
        self.hear(facts, now);
        let mut notices = Vec::new();
        let beats = &self.beats;
        let passed = self.last_beat.map_or(Duration::ZERO, |last| now.since(last));
        self.last_beat = Some(now);
        let next = self.beat + 1;
        let mut changed = false;
        for shared in &mut self.scopes {
            shared.turn_budget(beats, &mut self.kept, self.journal.as_ref(), self.noted, unix, now);
            shared.turn_rates(beats, passed, now);
            let claims = shared.claims();
            if shared.is_shared && shared.told != Some(claims) && facts.publish(&shared.fact, &claims).is_ok()
            {
                shared.tell(next, claims);
                changed = true;
            }
            shared.count(beats, metrics);
            notices.extend(shared.warn());
        }
        let due = self.told_at.is_none_or(|told| now.since(told) >= TELL_AT_LEAST);
        if !self.scopes.is_empty() && (changed || due) {
            self.tell_beat(facts, now);
        }
        notices
    }

    fn hear(&mut self, facts: &Facts, now: Moment) {
        let this = name_hash(&self.this);
        // First the beats, then the claims they stand for.
        let mut newest: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
        for heard in facts.heard::<Beat>() {
            let seen = heard.fact.seen.iter().find(|(node, _)| *node == this).map_or(0, |(_, beat)| *beat);
            let entry = newest.entry(heard.node).or_default();
            *entry = (entry.0.max(heard.fact.beat), entry.1.max(seen));
        }
        for (node, (beat, seen)) in newest {
            // An acknowledgement of an earlier run of ours is none.
            self.beats.hear(&node, beat, seen, now);
        }
        let mut by_fact: HashMap<Arc<str>, Vec<(NodeId, Claims)>> = HashMap::new();
        for heard in facts.heard::<Claims>() {
            by_fact.entry(heard.name).or_default().push((heard.node, heard.fact));
        }
        for shared in &mut self.scopes {
            for (node, claims) in by_fact.remove(shared.fact.as_str()).unwrap_or_default() {
                shared.hear(&node, &claims);
            }
        }
    }

    fn tell_beat(&mut self, facts: &Facts, now: Moment) {
        self.beat += 1;
        let seen: Vec<(u32, u64)> =
            self.beats.acknowledgements().map(|(node, beat)| (name_hash(node), beat)).collect();
        let mut parts = seen.chunks(SEEN_MAX);
        let first = parts.next().unwrap_or_default();
        let rest = parts.enumerate().map(|(nth, part)| (format!("b{}", nth + 1), part));
        // A beat that cannot be told is acknowledged by nobody: all keep to what they have.
        for (name, part) in rest.chain([("b0".to_owned(), first)]) {
            let _ = facts.publish(&name, &Beat { beat: self.beat, seen: part.to_vec() });
        }
        self.beats.tell(self.beat, now);
        self.told_at = Some(now);
    }

    /// What should be kept over a restart; `at_end` says that nothing more is spent after it.
    pub(crate) fn notes(&self, at_end: bool) -> Vec<Kept> {
        self.scopes
            .iter()
            .filter_map(|shared| {
                let (period, _) = shared.budget.as_ref()?;
                let budget = shared.scope.budget()?;
                let (committed, ..) = shared.scope.books();
                let committed = match budget.mode {
                    Mode::Hard if !at_end => shared.wanted_ceiling(),
                    _ => committed,
                };
                Some(Kept { scope: shared.scope.name.to_string(), period: period.id, committed })
            })
            .collect()
    }

    /// `notes` are on disk.
    pub(crate) fn kept(&mut self, notes: &[Kept]) {
        for shared in &mut self.scopes {
            let note = notes.iter().find(|note| *note.scope == *shared.scope.name);
            if let (Some(note), Some((period, _))) = (note, &shared.budget)
                && note.period == period.id
            {
                shared.ceiling = note.committed;
            }
        }
    }

    /// Whether a hard budget is about to reach what is noted of it.
    pub(crate) fn needs_note(&self) -> bool {
        self.scopes.iter().any(|shared| {
            let is_hard = shared.scope.budget().is_some_and(|budget| budget.mode == Mode::Hard);
            is_hard && shared.budget.is_some() && {
                let (committed, ..) = shared.scope.books();
                shared.wanted_ceiling() > shared.ceiling && committed + shared.headroom() / 2 > shared.ceiling
            }
        })
    }
}

impl Shared {
    fn hear(&mut self, node: &NodeId, claims: &Claims) {
        if let Some((period, pool)) = &mut self.budget
            && claims.period == period.id
        {
            pool.hear(node, claims.budget);
            self.spent_by.insert(node.clone(), claims.spent);
        }
        for (rate, (share, want)) in
            self.rates.iter_mut().zip([claims.requests, claims.tokens, claims.concurrent])
        {
            if let Some(rate) = rate {
                rate.pool.hear(node, share);
                rate.wants.insert(node.clone(), want);
            }
        }
    }

    fn turn_budget(
        &mut self,
        beats: &Beats,
        kept: &mut HashMap<String, Kept>,
        journal: Option<&Journal>,
        noted: bool,
        unix: u64,
        now: Moment,
    ) {
        let Some(spec) = self.scope.budget() else {
            self.budget = None;
            return;
        };
        let period = (spec.calendar.0)(unix);
        let limit = pico(spec.limit);
        if self.budget.as_ref().is_none_or(|(running, _)| running.id != period.id) {
            let is_first = self.budget.is_none();
            self.scope.begin_period(period.id, period.ends);
            match kept.remove(&*self.scope.name).filter(|kept| kept.period == period.id) {
                Some(kept) => self.scope.recover(kept.committed),
                None if is_first => self.scope.recover(booked(journal, &self.scope.name, period)),
                None => {}
            }
            self.budget = Some((period, Pool::new(Kind::Lasting, limit)));
            self.spent_by.clear();
            (self.warned, self.ceiling) = (0, 0);
        }
        let Some((_, pool)) = &mut self.budget else { return };
        let share = if self.is_shared { limit } else { limit / i64::try_from(beats.nodes()).unwrap_or(1) };
        pool.set_limit(share);
        let slack = limit / 100 * SLACK_PERCENT / i64::try_from(beats.nodes()).unwrap_or(1);
        let allowed = match spec.mode {
            _ if !self.is_shared => share,
            Mode::Soft => pool.bound_with_slack(beats, slack, now),
            Mode::Hard if noted => pool.bound(beats, now).min(self.ceiling),
            Mode::Hard => pool.bound(beats, now),
        };
        let overshoot = match spec.mode {
            Mode::Soft if self.is_shared => pool.overshoot(beats, slack),
            _ => 0,
        };
        let others = pool.others();
        self.scope.allow(allowed);
        let (committed, spent, _) = self.scope.books();
        let spent_there = self.spent_by.values().fold(0, |sum: i64, spent| sum.saturating_add(*spent));
        self.scope.know_fleet(committed.saturating_add(others), spent.saturating_add(spent_there), overshoot);
    }

    /// How far a hard budget may run ahead of what is noted on disk: a tenth of it, or some large requests.
    fn headroom(&self) -> i64 {
        let limit = self.budget.as_ref().map_or(0, |(_, pool)| pool.limit());
        let (_, _, largest) = self.scope.books();
        (limit / 10).max(largest.saturating_mul(8))
    }

    fn wanted_ceiling(&self) -> i64 {
        let limit = self.budget.as_ref().map_or(0, |(_, pool)| pool.limit());
        let (committed, ..) = self.scope.books();
        committed.saturating_add(self.headroom()).min(limit).max(committed)
    }

    fn turn_rates(&mut self, beats: &Beats, passed: Duration, now: Moment) {
        let limits = self.scope.spec().limits;
        let (asked, hungry) = match &self.gate {
            Some(gate) => {
                let (requests, tokens) = gate.take_asked();
                ([requests, tokens, 0], false)
            }
            None => self.scope.take_asked(),
        };
        let [used_requests, used_tokens] = self.scope.used(now);
        let used = [used_requests, used_tokens, i64::from(self.scope.in_flight())];
        let limits = [limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent];
        let mut shares = [None; 3];
        for (nth, limit) in limits.into_iter().enumerate() {
            let Some(limit) = limit.map(|limit| i64::from(limit) * UNIT) else {
                self.rates[nth] = None;
                continue;
            };
            // Of an account nothing is known but what is asked for; its limiter keeps the time.
            let counts = if nth < 2 && self.gate.is_none() { WINDOW } else { Duration::ZERO };
            let rate = self.rates[nth].get_or_insert_with(|| Rate::new(limit, counts));
            rate.pool.set_limit(limit);
            let asked = i64::try_from(asked[nth]).unwrap_or(i64::MAX).saturating_mul(UNIT);
            let asked = match (&self.gate, nth) {
                // A minute's worth of what was asked for in this beat, twice, so that it can grow.
                (Some(_), _) => 2 * per_minute(asked, passed),
                (None, 2) => asked,
                // What the next seconds will ask for, on top of what counts.
                (None, _) => used[nth].saturating_mul(UNIT).saturating_add(per_minute(asked, passed) / 12),
            };
            let used = used[nth].saturating_mul(UNIT);
            let share = if self.is_shared {
                rate.turn(beats, asked.min(limit), used, hungry, now)
            } else {
                limit / i64::try_from(beats.nodes()).unwrap_or(1)
            };
            rate.share = share;
            shares[nth] = Some(share);
        }
        let Some(gate) = &self.gate else {
            return self.scope.set_shares(shares);
        };
        let millionths = |nth: usize| match (shares[nth], limits[nth]) {
            (Some(share), Some(limit)) => {
                let whole = i64::from(limit.max(1)) * UNIT;
                u32::try_from(share.saturating_mul(1_000_000) / whole).unwrap_or(1_000_000)
            }
            _ => 1_000_000,
        };
        gate.set_share(millionths(0), millionths(1));
    }

    fn claims(&self) -> Claims {
        let (committed, spent, _) = self.scope.books();
        let rate = |nth: usize| self.rates[nth].as_ref().map_or((0, 0), |rate| (rate.share, rate.want));
        Claims {
            period: self.budget.as_ref().map_or(0, |(period, _)| period.id),
            budget: if self.budget.is_some() { committed } else { 0 },
            spent: if self.budget.is_some() { spent } else { 0 },
            requests: rate(0),
            tokens: rate(1),
            concurrent: rate(2),
        }
    }

    fn tell(&mut self, beat: u64, claims: Claims) {
        if let Some((_, pool)) = &mut self.budget {
            pool.tell(beat, claims.budget);
        }
        for (rate, (share, _)) in
            self.rates.iter_mut().zip([claims.requests, claims.tokens, claims.concurrent])
        {
            if let Some(rate) = rate {
                rate.pool.tell(beat, share);
            }
        }
        self.told = Some(claims);
    }

    fn count(&self, beats: &Beats, metrics: &Metrics) {
        let name: &str = if self.is_shared { &self.scope.name } else { "other" };
        for (rate, what) in self.rates.iter().zip(["requests", "tokens", "concurrent"]) {
            if let Some(rate) = rate {
                metrics.quota_share.with_label_values(&[name, what]).set(rate.share as f64 / UNIT as f64);
            }
        }
        let Some(status) = self.scope.budget_status() else { return };
        metrics.budget_limit_usd.with_label_values(&[name]).set(status.limit.as_usd());
        metrics.budget_spent_usd.with_label_values(&[name]).set(status.spent.as_usd());
        metrics.budget_reserved_usd.with_label_values(&[name]).set(status.reserved.as_usd());
        metrics.budget_overshoot_bound_usd.with_label_values(&[name]).set(status.overshoot.as_usd());
        metrics.quota_nodes.set(i64::try_from(beats.nodes()).unwrap_or(i64::MAX));
    }

    fn warn(&mut self) -> Option<Notice> {
        let status = self.scope.budget_status()?;
        let (spent, limit) = (pico(status.spent), pico(status.limit));
        let reached = WARN_AT.iter().filter(|percent| spent >= limit / 100 * **percent && limit > 0).count();
        if reached <= self.warned {
            return None;
        }
        self.warned = reached;
        Some(Notice {
            scope: Arc::clone(&self.scope.name),
            percent: u8::try_from(WARN_AT[reached - 1]).unwrap_or(100),
            spent: status.spent,
            limit: status.limit,
            ends: status.ends,
        })
    }
}

/// What the ledger has of `scope` in `period`. A tenant's and a key's sums hold the machine cost of own clusters
/// too: a budget that does not count it is then kept more strictly until its period ends.
fn booked(journal: Option<&Journal>, scope: &str, period: Period) -> i64 {
    let Some(journal) = journal else { return 0 };
    let spent = match journal.spent_since(period.starts.saturating_mul(1_000)) {
        Ok(spent) => spent,
        Err(error) => {
            tracing::error!(scope, ?error, "cannot read from the ledger what was spent before");
            return 0;
        }
    };
    let of = |sums: &BTreeMap<String, Money>, name: &str| sums.get(name).copied().unwrap_or(Money::ZERO);
    pico(match scope.split_once(':') {
        Some(("tenant", name)) => of(&spent.tenants, name),
        Some(("key", id)) => of(&spent.keys, id),
        _ => spent.external,
    })
}

/// What a minute sees of `units` that came in `passed`.
fn per_minute(units: i64, passed: Duration) -> i64 {
    let millis = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX).max(1);
    units.saturating_mul(60_000) / millis
}

/// Pico-dollars as the pools count them; budgets are configured below what fits.
pub(crate) fn pico(money: Money) -> i64 {
    i64::try_from(money.pico()).unwrap_or(i64::MAX)
}
