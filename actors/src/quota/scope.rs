//! What requests draw on: the budget and the rates of one key, tenant, account or of the fleet.
//!
//! A scope belongs to no actor: requests take from it with an atomic or a short lock, and the `Quota` actor sets
//! how much this node may take.

use crate::quota::spec::{BudgetSpec, ScopeSpec};
use llm_router_logic::guard::window::{WINDOW, Window};
use llm_router_logic::money::Money;
use llm_router_logic::time::Moment;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One scope.
#[derive(Debug)]
pub struct Scope {
    /// `fleet`, `tenant:NAME`, `key:ID` or `account:BACKEND`.
    pub name: Arc<str>,
    spec: Mutex<ScopeSpec>,
    account: Account,
    rates: Mutex<Rates>,
}

/// The budget's books, in pico-dollars.
#[derive(Debug, Default)]
struct Account {
    /// Spent and reserved by this node in this period.
    committed: AtomicI64,
    /// Of that, spent.
    spent: AtomicI64,
    /// What `committed` may reach.
    allowed: AtomicI64,
    /// Spent and reserved by all nodes, as last known.
    fleet_committed: AtomicI64,
    fleet_spent: AtomicI64,
    /// The largest single amount asked for.
    largest: AtomicI64,
    period: AtomicU32,
    /// Unix seconds at which the period ends.
    ends: AtomicU64,
    overshoot: AtomicI64,
}

/// This node's share of the rates.
#[derive(Debug, Default)]
struct Rates {
    requests: Option<Window>,
    tokens: Option<Window>,
    /// Requests at once, in thousandths.
    concurrent: Option<i64>,
    in_flight: u32,
    /// Whether anything was denied since the last look.
    hungry: bool,
    asked_requests: u64,
    asked_tokens: u64,
    asked_at_once: u32,
}

/// Why a scope gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A rate is used up.
    Rate {
        /// Whose.
        scope: Arc<str>,
        /// `requests`, `tokens` or `concurrent`.
        what: &'static str,
        /// Of the whole fleet.
        limit: u64,
        /// When to come again.
        wait: Duration,
    },
    /// A budget has no room for the request's worst case.
    Budget {
        /// Whose.
        scope: Arc<str>,
        /// Of the whole fleet.
        limit: Money,
        /// Until then it will not grow by itself; `None` = this node's share is used up, not the budget.
        ends: Option<u64>,
    },
}

/// How a scope's rates stand, for the headers clients read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateStatus {
    /// Limit and what is left of requests, and when it is whole again.
    pub requests: Option<(u64, u64, Duration)>,
    /// The same of tokens.
    pub tokens: Option<(u64, u64, Duration)>,
}

impl RateStatus {
    /// Of each the one of both with less left.
    #[must_use]
    pub fn tightest(self, other: Self) -> Self {
        type Left = Option<(u64, u64, Duration)>;
        let tighter = |a: Left, b: Left| match (a, b) {
            (Some(a), Some(b)) => Some(if b.1 < a.1 { b } else { a }),
            (a, b) => a.or(b),
        };
        Self { requests: tighter(self.requests, other.requests), tokens: tighter(self.tokens, other.tokens) }
    }
}

/// How a budget stands.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetStatus {
    /// Whose.
    pub scope: Arc<str>,
    /// What may be spent in a period.
    pub limit: Money,
    /// Spent by all nodes, as far as is known here.
    pub spent: Money,
    /// Reserved by all nodes for requests under way.
    pub reserved: Money,
    /// Spent and reserved by this node.
    pub here: Money,
    /// What this node may reach.
    pub allowed_here: Money,
    /// What the budget may be exceeded by at worst, now.
    pub overshoot: Money,
    /// Unix seconds at which the period ends.
    pub ends: u64,
    /// How it is kept.
    pub spec: BudgetSpec,
}

impl Scope {
    pub(crate) fn new(spec: ScopeSpec) -> Self {
        Self {
            name: Arc::clone(&spec.name),
            spec: Mutex::new(spec),
            account: Account::default(),
            rates: Mutex::default(),
        }
    }

    pub(crate) fn spec(&self) -> ScopeSpec {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_spec(&self, spec: ScopeSpec) {
        *self.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec;
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        // A panic while holding the lock cannot leave it inconsistent: every change is one step.
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a budget of it counts the cost of `external` or own machines.
    pub(crate) fn budget(&self) -> Option<BudgetSpec> {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner).budget.clone()
    }

    /// What is left to this node of its budget.
    pub(crate) fn left(&self) -> Money {
        let account = &self.account;
        let left = account.allowed.load(Ordering::SeqCst) - account.committed.load(Ordering::SeqCst);
        Money::from_pico(i128::from(left.max(0)))
    }

    /// Takes `amount` of the budget.
    pub(crate) fn reserve(&self, amount: i64) -> bool {
        let account = &self.account;
        account.largest.fetch_max(amount, Ordering::Relaxed);
        let taken = account.committed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |committed| {
            let sum = committed.checked_add(amount)?;
            (sum <= account.allowed.load(Ordering::SeqCst)).then_some(sum)
        });
        if taken.is_err() {
            return false;
        }
        // The actor may have lowered what is allowed, and told peers so, between the two looks at it: either it saw
        // what was taken here, or it is seen here what it allows.
        if account.committed.load(Ordering::SeqCst) > account.allowed.load(Ordering::SeqCst) {
            account.committed.fetch_sub(amount, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Replaces a reserved amount by what was spent.
    pub(crate) fn settle(&self, reserved: i64, spent: i64) {
        self.account.committed.fetch_add(spent.saturating_sub(reserved), Ordering::SeqCst);
        self.account.spent.fetch_add(spent, Ordering::SeqCst);
    }

    /// Takes a request of `tokens` from the rates.
    pub(crate) fn admit(&self, tokens: u32, now: Moment) -> Result<(), Denied> {
        let limits = self.spec.lock().unwrap_or_else(PoisonError::into_inner).limits;
        let mut rates = self.rates();
        let was_hungry = rates.hungry;
        rates.asked_requests += 1;
        rates.asked_tokens += u64::from(tokens);
        rates.asked_at_once = rates.asked_at_once.max(rates.in_flight + 1);
        let denied = |what, limit: Option<u32>, wait| {
            let scope = Arc::clone(&self.name);
            Err(Denied::Rate { scope, what, limit: limit.unwrap_or(0).into(), wait })
        };
        rates.hungry = true;
        if let Some(share) = rates.concurrent
            && i64::from(rates.in_flight + 1) * UNIT > share + ROUNDING
        {
            return denied("concurrent", limits.concurrent, Duration::from_secs(1));
        }
        let wait = rates.requests.as_mut().map_or(Duration::ZERO, |window| window.wait(1, now));
        if !wait.is_zero() {
            return denied("requests", limits.requests_per_minute, wait);
        }
        let wait = rates.tokens.as_mut().map_or(Duration::ZERO, |window| window.wait(tokens.into(), now));
        if !wait.is_zero() {
            return denied("tokens", limits.tokens_per_minute, wait);
        }
        if let Some(window) = &mut rates.requests {
            window.take(1, now);
        }
        if let Some(window) = &mut rates.tokens {
            window.take(tokens.into(), now);
        }
        rates.in_flight += 1;
        rates.hungry = was_hungry;
        Ok(())
    }

    /// Gives back what [`admit`](Self::admit) took of requests and tokens, where another scope denied.
    pub(crate) fn take_back(&self, tokens: u32, now: Moment) {
        let mut rates = self.rates();
        rates.in_flight = rates.in_flight.saturating_sub(1);
        if let Some(window) = &mut rates.requests {
            window.take(-1, now);
        }
        if let Some(window) = &mut rates.tokens {
            window.take(-i64::from(tokens), now);
        }
    }

    /// A request ended that used `actual` tokens instead of the estimate.
    pub(crate) fn leave(&self, estimated: u32, actual: Option<u64>, now: Moment) {
        let mut rates = self.rates();
        rates.in_flight = rates.in_flight.saturating_sub(1);
        if let (Some(window), Some(actual)) = (&mut rates.tokens, actual) {
            window.take(i64::try_from(actual).unwrap_or(i64::MAX) - i64::from(estimated), now);
        }
    }

    /// What was asked for since the last call: requests, tokens and requests at once; and whether any was denied.
    pub(crate) fn take_asked(&self) -> ([u64; 3], bool) {
        let mut rates = self.rates();
        let at_once = u64::from(rates.asked_at_once.max(rates.in_flight));
        let asked = [rates.asked_requests, rates.asked_tokens, at_once];
        (rates.asked_requests, rates.asked_tokens, rates.asked_at_once) = (0, 0, 0);
        (asked, std::mem::take(&mut rates.hungry))
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.rates().in_flight
    }

    /// Units of requests and tokens taken here in the last minute.
    pub(crate) fn used(&self, now: Moment) -> [i64; 2] {
        let mut rates = self.rates();
        let used = |window: &mut Option<Window>| window.as_mut().map_or(0, |window| window.used(now));
        [used(&mut rates.requests), used(&mut rates.tokens)]
    }

    /// Shares of this node from now on, in thousandths; `None` = no limit.
    pub(crate) fn set_shares(&self, shares: [Option<i64>; 3]) {
        let mut rates = self.rates();
        let set = |window: &mut Option<Window>, share: Option<i64>| match share {
            Some(share) => window.get_or_insert_with(|| Window::new(0)).set_limit((share + ROUNDING) / UNIT),
            None => *window = None,
        };
        set(&mut rates.requests, shares[0]);
        set(&mut rates.tokens, shares[1]);
        rates.concurrent = shares[2];
    }

    pub(crate) fn rate_status(&self, now: Moment) -> RateStatus {
        let limits = self.spec.lock().unwrap_or_else(PoisonError::into_inner).limits;
        let mut rates = self.rates();
        let status = |window: &mut Option<Window>, limit: Option<u32>| {
            let (window, limit) = (window.as_mut()?, limit?);
            let left = u64::try_from(window.left(now)).unwrap_or(0);
            let used = window.used(now);
            let whole =
                if used == 0 { Duration::ZERO } else { window.wait(i64::from(limit), now).min(WINDOW) };
            Some((u64::from(limit), left, whole))
        };
        RateStatus {
            requests: status(&mut rates.requests, limits.requests_per_minute),
            tokens: status(&mut rates.tokens, limits.tokens_per_minute),
        }
    }

    /// The budget's books: spent and reserved, of that spent, and the largest amount asked for.
    pub(crate) fn books(&self) -> (i64, i64, i64) {
        let account = &self.account;
        let load = |value: &AtomicI64| value.load(Ordering::SeqCst);
        (load(&account.committed), load(&account.spent), load(&account.largest))
    }

    pub(crate) fn allow(&self, allowed: i64) {
        self.account.allowed.store(allowed, Ordering::SeqCst);
    }

    pub(crate) fn know_fleet(&self, committed: i64, spent: i64, overshoot: i64) {
        self.account.fleet_committed.store(committed, Ordering::Relaxed);
        self.account.fleet_spent.store(spent, Ordering::Relaxed);
        self.account.overshoot.store(overshoot, Ordering::Relaxed);
    }

    /// A period begins: what was spent is forgotten, what is reserved stays.
    pub(crate) fn begin_period(&self, period: u32, ends: u64) {
        self.account.allowed.store(0, Ordering::SeqCst);
        let spent = self.account.spent.swap(0, Ordering::SeqCst);
        self.account.committed.fetch_sub(spent, Ordering::SeqCst);
        self.account.period.store(period, Ordering::Relaxed);
        self.account.ends.store(ends, Ordering::Relaxed);
    }

    /// What an earlier run of this node spent in the running period.
    pub(crate) fn recover(&self, spent: i64) {
        self.account.committed.fetch_add(spent, Ordering::SeqCst);
        self.account.spent.fetch_add(spent, Ordering::SeqCst);
    }

    pub(crate) fn budget_status(&self) -> Option<BudgetStatus> {
        let spec = self.budget()?;
        let account = &self.account;
        let money = |value: &AtomicI64| Money::from_pico(value.load(Ordering::SeqCst).into());
        let (spent, committed) = (money(&account.fleet_spent), money(&account.fleet_committed));
        Some(BudgetStatus {
            scope: Arc::clone(&self.name),
            limit: spec.limit,
            spent,
            reserved: committed - spent,
            here: money(&account.committed),
            allowed_here: money(&account.allowed),
            overshoot: money(&account.overshoot),
            ends: account.ends.load(Ordering::Relaxed),
            spec,
        })
    }

    /// Whether the whole budget is used up, not only this node's share; and when the period ends.
    pub(crate) fn denied_budget(&self) -> Denied {
        let limit = self.budget().map_or(Money::ZERO, |budget| budget.limit);
        let committed = Money::from_pico(self.account.fleet_committed.load(Ordering::Relaxed).into());
        let nearly = limit - limit.share(NEARLY.0, NEARLY.1);
        let ends = self.account.ends.load(Ordering::Relaxed);
        let ends = (committed >= nearly).then_some(ends);
        Denied::Budget { scope: Arc::clone(&self.name), limit, ends }
    }
}

/// Thousandths of a unit: shares are counted in them.
pub(crate) const UNIT: i64 = 1_000;
/// A share that is this little short of a whole unit counts as one: shares approach it without end.
const ROUNDING: i64 = 10;
/// A budget of which no more than this is left counts as used up.
const NEARLY: (u64, u64) = (5, 100);
