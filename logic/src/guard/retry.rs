//! The retry budget: a fleet in trouble must not be given more work by its own second attempts.
//!
//! Each node keeps its share by itself: a share of its own requests, and its part of a small rate that
//! lets a quiet fleet retry at all. The parts sum to the whole whatever the nodes know of each other, but
//! for one that takes a dead peer for alive, which keeps the fleet below its budget. After Finagle's
//! `RetryBudget` (`finagle-core/…/service/RetryBudget.scala`), whose window is ten seconds too.

use super::slices::{SLICES, Slices};
use crate::time::Moment;
use serde::{Deserialize, Serialize};

/// Length of a slice in seconds; ten of them are the window.
const SLICE_SECS: u64 = 1;

/// How often another backend is tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts per request, the first included.
    pub attempts_max: u32,
    /// Second and further attempts as a share of requests, in percent, …
    pub percent: u8,
    /// … plus so many a second, over all nodes.
    pub per_second: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 3, percent: 20, per_second: 3.0 }
    }
}

/// What one node has left for second and further attempts.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    /// One slice more than the window has: retries are counted over it and requests are not, so that the
    /// ten seconds before a retry never see more than the budget, however they lie to the slices.
    slices: Slices<Slice, SLICE_SECS>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    requests: u32,
    retries: u32,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// Second and further attempts of the last ten seconds.
    pub retries: u32,
    /// Requests of the last ten seconds.
    pub requests: u32,
}

impl RetryBudget {
    /// Counts a request, which earns its share of a retry.
    pub fn requested(&mut self, now: Moment) {
        let slice = self.slices.current(now);
        slice.requests = slice.requests.saturating_add(1);
    }

    /// Takes one retry out, for a node that is one of `nodes`.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing is taken then.
    pub fn withdraw(&mut self, policy: &RetryPolicy, nodes: usize, now: Moment) -> Result<(), Exhausted> {
        let (requests, retries) = self.sums(now);
        let window = (SLICE_SECS * SLICES as u64) as f64;
        let earned = f64::from(requests) * f64::from(policy.percent) / 100.0;
        let granted = policy.per_second * window / nodes.max(1) as f64;
        if f64::from(retries) + 1.0 > earned + granted {
            return Err(Exhausted { retries, requests });
        }
        let slice = self.slices.current(now);
        slice.retries = slice.retries.saturating_add(1);
        Ok(())
    }

    /// Gives back what was taken for an attempt that was not made.
    pub fn refund(&mut self, now: Moment) {
        let slice = self.slices.current(now);
        slice.retries = slice.retries.saturating_sub(1);
    }

    /// Requests of the window, and retries of the window and a slice.
    fn sums(&self, now: Moment) -> (u32, u32) {
        let mut sums = (0_u32, 0_u32);
        for (in_window, slice) in self.slices.recent(now) {
            if in_window {
                sums.0 = sums.0.saturating_add(slice.requests);
            }
            sums.1 = sums.1.saturating_add(slice.retries);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::time::Duration;

    fn taken(budget: &mut RetryBudget, nodes: usize, now: Moment) -> u32 {
        let policy = RetryPolicy::default();
        (0..10_000).take_while(|_| budget.withdraw(&policy, nodes, now).is_ok()).count() as u32
    }

    #[test]
    fn a_quiet_fleet_may_retry_three_times_a_second_and_each_node_its_part() {
        let now = Moment::from_secs(100);
        assert_eq!(taken(&mut RetryBudget::default(), 1, now), 30);
        assert_eq!(taken(&mut RetryBudget::default(), 3, now), 10);
        assert_eq!(taken(&mut RetryBudget::default(), 9, now), 3);
    }

    #[test]
    fn requests_earn_a_fifth_of_a_retry_for_ten_seconds() {
        let mut budget = RetryBudget::default();
        for _ in 0..1_000 {
            budget.requested(Moment::from_secs(100));
        }
        assert_eq!(taken(&mut budget.clone(), 1, Moment::from_secs(109)), 230);
        assert_eq!(taken(&mut budget, 1, Moment::from_secs(110)), 30);
    }

    #[test]
    fn what_is_used_up_comes_back_with_time_and_says_how_much_was_used() {
        let mut budget = RetryBudget::default();
        budget.requested(Moment::from_secs(100));
        assert_eq!(taken(&mut budget, 1, Moment::from_secs(100)), 30);
        let refused = budget.withdraw(&RetryPolicy::default(), 1, Moment::from_secs(110));
        assert_eq!(refused, Err(Exhausted { retries: 30, requests: 0 }));
        assert!(budget.withdraw(&RetryPolicy::default(), 1, Moment::from_secs(111)).is_ok());
    }

    #[test]
    fn an_attempt_that_was_not_made_costs_nothing() {
        let mut budget = RetryBudget::default();
        let now = Moment::from_secs(5);
        assert_eq!(taken(&mut budget, 1, now), 30);
        budget.refund(now);
        assert!(budget.withdraw(&RetryPolicy::default(), 1, now).is_ok());
        assert!(budget.withdraw(&RetryPolicy::default(), 1, now).is_err());
    }

    proptest! {
        /// Nodes that know nothing of each other but their number stay within the fleet's budget: no
        /// ten seconds have more retries than the requests since ten seconds before them earned.
        #[test]
        fn the_fleet_never_retries_beyond_its_budget(
            nodes in 1usize..6,
            steps in proptest::collection::vec((0usize..6, any::<bool>(), 0u64..900), 1..400)
        ) {
            let policy = RetryPolicy::default();
            let mut budgets = vec![RetryBudget::default(); nodes];
            let mut now = Moment::from_secs(50);
            let mut seen: VecDeque<(Moment, bool)> = VecDeque::new();
            for (node, asks, wait_ms) in steps {
                now = now + Duration::from_millis(wait_ms);
                let budget = &mut budgets[node % nodes];
                budget.requested(now);
                seen.push_back((now, false));
                for _ in 0..if asks { 5 } else { 0 } {
                    if budget.withdraw(&policy, nodes, now).is_ok() {
                        seen.push_back((now, true));
                    }
                }
                let within = |at: &Moment, secs| now.since(*at) < Duration::from_secs(secs);
                let retries = seen.iter().filter(|(at, retry)| *retry && within(at, 10)).count();
                let requests = seen.iter().filter(|(at, retry)| !*retry && within(at, 20)).count();
                prop_assert!(retries as f64 <= requests as f64 * 0.2 + 30.0, "{retries} of {requests}");
            }
        }
    }
}
