//! What may be spent on second attempts made while the first is still silent.
//!
//! A running share: over the last ten minutes hedges have cost at most a share of everything that was
//! spent. A hedge takes the dearer of its two attempts out when it starts and gives back what it did not
//! cost, so that the bound holds whatever comes of it. "The tail at scale" (Dean and Barroso, CACM 2013)
//! hedges past the 95th percentile too, for about five percent more load; tokens are dear, hence the cap
//! in money.

use super::slices::Slices;
use crate::money::Money;
use crate::time::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Length of a slice in seconds; ten of them are the window.
const SLICE_SECS: u64 = 60;

/// When a second attempt is made while the first is still silent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HedgePolicy {
    /// Whether at all.
    pub enabled: bool,
    /// What hedges may cost, as a share of all that is spent.
    pub max_spend_share: f64,
    /// The first attempt is given at least this long, however fast its backend is otherwise.
    pub min_delay: Duration,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self { enabled: false, max_spend_share: 0.02, min_delay: Duration::from_millis(50) }
    }
}

/// What one node has spent, and of it on hedges.
#[derive(Clone, Debug, Default)]
pub struct HedgeBudget {
    /// One slice more than the window has: hedges are counted over it and the rest is not, so that the
    /// ten minutes before a hedge never see more than the share, however they lie to the slices.
    slices: Slices<Slice, SLICE_SECS>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    spent: Money,
    hedged: Money,
}

impl HedgeBudget {
    /// Counts what a request cost, its hedge left out.
    pub fn spent(&mut self, cost: Money, now: Moment) {
        self.slices.current(now).spent += cost;
    }

    /// Takes `cost` out for a hedge. `false` where that is beyond the share; nothing is taken then.
    pub fn withdraw(&mut self, policy: &HedgePolicy, cost: Money, now: Moment) -> bool {
        let (spent, hedged) = self.sums(now);
        let allowed = spent.pico() as f64 * policy.max_spend_share;
        if !policy.enabled || (hedged + cost).pico() as f64 > allowed {
            return false;
        }
        self.slices.current(now).hedged += cost;
        true
    }

    /// Replaces what was taken out by what the hedge has cost in truth.
    pub fn settle(&mut self, taken: Money, cost: Money, now: Moment) {
        self.slices.current(now).hedged += cost - taken;
    }

    fn sums(&self, now: Moment) -> (Money, Money) {
        let mut sums = (Money::ZERO, Money::ZERO);
        for (in_window, slice) in self.slices.recent(now) {
            if in_window {
                sums.0 += slice.spent;
            }
            sums.1 += slice.hedged;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usd(dollars: f64) -> Money {
        Money::from_usd(dollars).unwrap()
    }

    const ON: HedgePolicy =
        HedgePolicy { enabled: true, max_spend_share: 0.02, min_delay: Duration::from_millis(50) };

    #[test]
    fn one_in_fifty_equal_requests_may_be_hedged() {
        let mut budget = HedgeBudget::default();
        let now = Moment::from_secs(5);
        assert!(!budget.withdraw(&ON, usd(0.01), now), "nothing was spent yet");
        let mut hedged = 0;
        for _ in 0..500 {
            budget.spent(usd(0.01), now);
            hedged += u32::from(budget.withdraw(&ON, usd(0.01), now));
        }
        assert_eq!(hedged, 10);
    }

    #[test]
    fn what_a_hedge_did_not_cost_comes_back() {
        let mut budget = HedgeBudget::default();
        let now = Moment::from_secs(5);
        budget.spent(usd(1.0), now);
        assert!(budget.withdraw(&ON, usd(0.02), now));
        assert!(!budget.withdraw(&ON, usd(0.001), now));
        budget.settle(usd(0.02), usd(0.002), now);
        assert!(budget.withdraw(&ON, usd(0.018), now));
    }

    #[test]
    fn spending_earns_for_ten_minutes_and_switched_off_is_off() {
        let mut budget = HedgeBudget::default();
        budget.spent(usd(1.0), Moment::ZERO);
        assert!(!budget.clone().withdraw(&HedgePolicy::default(), usd(0.001), Moment::ZERO));
        assert!(budget.clone().withdraw(&ON, usd(0.001), Moment::from_secs(599)));
        assert!(!budget.withdraw(&ON, usd(0.001), Moment::from_secs(601)));
    }

    proptest! {
        #[test]
        fn hedges_never_cost_more_than_their_share_of_what_was_spent(
            steps in proptest::collection::vec((0u64..90, 0u32..100_000, 0u32..20_000), 1..300)
        ) {
            let (mut budget, mut now) = (HedgeBudget::default(), Moment::ZERO);
            let (mut spent, mut hedged) = (0_u64, 0_u64);
            for (wait, cost, hedge) in steps {
                now = now + Duration::from_secs(wait);
                let micro = |amount: u32| Money::from_pico(i128::from(amount) * 1_000_000);
                budget.spent(micro(cost), now);
                spent += u64::from(cost);
                if budget.withdraw(&ON, micro(hedge), now) {
                    hedged += u64::from(hedge);
                }
                prop_assert!(hedged as f64 <= spent as f64 * 0.02 + 1e-6, "{hedged} of {spent}");
            }
        }
    }
}
