//! Two attempts at the same time: which of them lost, failed or goes on alone.

use super::Tally;
use crate::decisions::{Attempt, Hedge};
use crate::relay::account::{Account, End};
use crate::relay::hedge::Racer;
use llm_router_logic::cost::entry::Outcome as Ended;
use llm_router_logic::fault::Fault;
use llm_router_logic::money::Money;
use llm_router_logic::route::Step;
use llm_router_logic::wire::Reply;
use std::sync::Arc;
use std::time::Duration;

impl Tally {
    /// A second attempt is made while the latest is silent.
    pub(in crate::relay) fn hedged(&mut self, step: &Step) {
        self.record.attempts.push(Attempt {
            backend: step.backend.clone(),
            waited_ms: 0,
            model: Arc::clone(&step.model),
            via: step.via.clone(),
            hedge: Some(Hedge::Running),
            fault: None,
        });
        self.trail.attempt(step, Duration::ZERO, true, &self.sources.snapshot);
        self.hedge = Some(self.open_account(step));
    }

    /// The other one of two attempts has begun to answer. Returns what the loser cost.
    pub(in crate::relay) fn hedge_lost(&mut self, loser: Racer) -> Option<Money> {
        let (first, hedge) = match loser {
            Racer::First => (Hedge::Lost, Hedge::Won),
            Racer::Hedge => (Hedge::Won, Hedge::Lost),
        };
        self.mark_hedge(first, hedge, loser == Racer::First);
        let mut lost = self.hedge.take()?;
        self.count_hedge(&lost.step, Hedge::Lost);
        let won = self.account.as_ref().map(|won| (won.step.clone(), won.ttft()));
        if let Some((step, ttft)) = won {
            self.count_hedge(&step, Hedge::Won);
            self.began(&step, ttft);
        }
        lost.lose_hedge();
        self.settle_hedge(lost, Ended::Cancelled)
    }

    /// The first of two attempts failed; the hedge goes on alone. Returns what the hedge has cost beyond
    /// the fallback it has become.
    pub(in crate::relay) fn first_failed(&mut self, step: &Step, fault: &Fault) -> Option<Money> {
        self.mark_hedge(Hedge::Failed, Hedge::Alone, true);
        let failed = self.hedge.take()?;
        self.count_failed(failed, step, fault);
        Some(Money::ZERO)
    }

    /// The hedge failed; the first goes on alone. Returns what the hedge cost.
    pub(in crate::relay) fn hedge_failed(&mut self, step: &Step, fault: &Fault) -> Option<Money> {
        self.mark_hedge(Hedge::Alone, Hedge::Failed, false);
        let failed = self.hedge.take()?;
        self.count_failed(failed, step, fault)
    }

    fn count_failed(&mut self, mut failed: Account, step: &Step, fault: &Fault) -> Option<Money> {
        let before = self.record.attempts.len().checked_sub(2)?;
        if let Some(attempt) = self.record.attempts.get_mut(before) {
            attempt.fault = Some(fault.to_string());
        }
        failed.failed(fault);
        self.trail.failed(&step.backend, fault);
        self.count_hedge(step, Hedge::Failed);
        let metrics = self.sources.handle.metrics();
        metrics.attempt_failures_total.with_label_values(&[step.backend.as_str(), fault.label()]).inc();
        self.count_external(step, fault.label());
        self.settle_hedge(failed, Ended::Failed)
    }

    /// Says how the two latest attempts fared against each other. Whoever goes on comes last; `swap` says
    /// that this is the hedge, whose account then is the one of the latest attempt.
    fn mark_hedge(&mut self, first: Hedge, hedge: Hedge, swap: bool) {
        let count = self.record.attempts.len();
        if let [.., one, other] = &mut self.record.attempts[..] {
            (one.hedge, other.hedge) = (Some(first), Some(hedge));
        }
        if swap {
            std::mem::swap(&mut self.account, &mut self.hedge);
            self.allowance.swap();
        } else if count >= 2 {
            self.record.attempts.swap(count - 2, count - 1);
        }
    }

    fn count_hedge(&self, step: &Step, how: Hedge) {
        let labels = [step.backend.as_str(), how.as_str()];
        self.sources.handle.metrics().hedges_total.with_label_values(&labels).inc();
    }

    /// Settles an attempt beside which another one goes on.
    pub(super) fn settle_hedge(&mut self, account: Account, outcome: Ended) -> Option<Money> {
        let end = End { outcome, status: 0, is_last: false, now: self.now() };
        let charged = self.settle_account(account, end);
        self.allowance.settle_hedge(charged.cost);
        self.spent = self.spent.zip(charged.cost).map(|(spent, cost)| spent + cost);
        let cost = charged.cost?;
        self.sources.handle.metrics().hedge_cost_usd_total.inc_by(cost.as_usd());
        Some(cost)
    }

    /// One of two attempts has begun to answer; said again, it changes nothing.
    pub(in crate::relay) fn began_as(&mut self, racer: Racer, step: &Step, ttft: Option<Duration>) {
        match (racer, self.hedge.as_mut()) {
            (Racer::Hedge, Some(hedge)) => {
                if let Some(ttft) = ttft {
                    self.trail.first_token(&step.backend, ttft);
                    hedge.first_token(ttft);
                }
            }
            // Whoever is left is the latest attempt.
            _ => self.began(step, ttft),
        }
    }

    /// Notes usage seen so far of one of two attempts.
    pub(in crate::relay) fn saw_as(&mut self, racer: Racer, reply: &Reply) {
        match (racer, self.hedge.as_mut()) {
            (Racer::Hedge, Some(hedge)) => hedge.saw(reply),
            _ => self.saw(reply),
        }
    }
}
