//! A second attempt while the first is still silent.
//!
//! The first backend is given until it has been silent for longer than 95 of 100 of its answers are. Then,
//! where the operator allows it and the cap on what hedges cost leaves room, the next candidate that has a
//! place at once is asked the same. Whoever sends the first content byte serves the client; the other is
//! dropped, which cancels it upstream, and what it cost is booked.

use super::running::Begun;
use super::sending::{Outgoing, Watched};
use super::tally::Tally;
use super::{Call, Relay};
use llm_router_actors::lease::Lease;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::fault::Fault;
use llm_router_logic::guard::hedge::HedgeBudget;
use llm_router_logic::money::Money;
use llm_router_logic::request::Request;
use llm_router_logic::route::Step;
use llm_router_logic::time::Moment;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Which of two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Racer {
    /// The first.
    First,
    /// The hedge.
    Hedge,
}

/// Who has sent a content byte first.
#[derive(Debug, Default)]
pub(super) struct Finish {
    first: AtomicU8,
    crossed: Notify,
}

impl Finish {
    /// `racer` has begun to answer; said again, or after the other, it changes nothing.
    pub(super) fn cross(&self, racer: Racer) {
        let mark = if racer == Racer::First { 1 } else { 2 };
        if self.first.compare_exchange(0, mark, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.crossed.notify_one();
        }
    }

    fn winner(&self) -> Option<Racer> {
        match self.first.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Racer::First),
            _ => Some(Racer::Hedge),
        }
    }

    async fn crossed(&self) -> Racer {
        loop {
            if let Some(racer) = self.winner() {
                return racer;
            }
            self.crossed.notified().await;
        }
    }
}

/// What two attempts share.
pub(super) struct Course<'a> {
    pub(super) call: &'a Call,
    pub(super) request: &'a Request,
    pub(super) snapshot: &'a Snapshot,
    pub(super) tokens: u32,
    pub(super) deadline: Moment,
}

/// How an attempt, or two at once, came out: who answers, or who failed last and how.
pub(super) type Raced = Result<(Step, Begun, Lease), Box<(Step, Lease, Fault)>>;

impl Relay {
    /// Makes the attempt at `step` and, where `rival` is given and the first stays silent, one at the
    /// rival. `rival` is left in place where it was not tried.
    pub(super) async fn race(
        &self,
        course: &Course<'_>,
        step: &Step,
        mut lease: Lease,
        outgoing: Outgoing,
        rival: &mut Option<Step>,
        tally: &mut Tally,
    ) -> Raced {
        let delay = match rival {
            Some(_) => self.hedge_delay(course.snapshot, step, outgoing.exchange.upstream_streams),
            None => None,
        };
        let finish = Finish::default();
        let tally = Mutex::new(tally);
        let watch = |racer| Watched { tally: &tally, finish: &finish, racer };
        let lease_of_first = &mut lease;
        let mut first =
            Box::pin(self.begin(step, lease_of_first, outgoing, course.deadline, watch(Racer::First)));
        let early = match delay {
            None => Some(first.as_mut().await),
            Some(delay) => tokio::select! {
                biased;
                early = &mut first => Some(early),
                _ = finish.crossed() => Some(first.as_mut().await),
                () = tokio::time::sleep(delay) => None,
            },
        };
        if let Some(ended) = early {
            drop(first);
            return one(step, lease, ended);
        }
        let Some((next, mut hedge_lease, hedge_outgoing, taken)) =
            self.enter(course, step, rival, &tally).await
        else {
            let ended = first.as_mut().await;
            drop(first);
            return one(step, lease, ended);
        };
        let mut hedge = Box::pin(self.begin(
            &next,
            &mut hedge_lease,
            hedge_outgoing,
            course.deadline,
            watch(Racer::Hedge),
        ));
        // Until one has begun to answer, or one has failed and the other is alone.
        let ended = tokio::select! {
            biased;
            winner = finish.crossed() => Ended::Won(winner, None),
            ended = &mut first => Ended::of(Racer::First, ended),
            ended = &mut hedge => Ended::of(Racer::Hedge, ended),
        };
        let settle = |cost: Option<Money>| {
            let now = self.handle.clock().now();
            self.hedges().settle(taken, cost.unwrap_or(taken), now);
        };
        match ended {
            Ended::Won(Racer::First, begun) => {
                drop(hedge);
                drop(hedge_lease);
                settle(locked(&tally).hedge_lost(Racer::Hedge));
                let ended = match begun {
                    Some(begun) => Ok(*begun),
                    None => first.as_mut().await,
                };
                drop(first);
                one(step, lease, ended)
            }
            Ended::Won(Racer::Hedge, begun) => {
                drop(first);
                // Slower than this at any rate: its figures shall show it.
                lease.first_token();
                drop(lease);
                settle(locked(&tally).hedge_lost(Racer::First));
                let ended = match begun {
                    Some(begun) => Ok(*begun),
                    None => hedge.as_mut().await,
                };
                drop(hedge);
                one(&next, hedge_lease, ended)
            }
            Ended::Failed(Racer::First, fault) => {
                drop(first);
                settle(locked(&tally).first_failed(step, &fault));
                lease.fail(&fault);
                let ended = hedge.as_mut().await;
                drop(hedge);
                one(&next, hedge_lease, ended)
            }
            Ended::Failed(Racer::Hedge, fault) => {
                drop(hedge);
                settle(locked(&tally).hedge_failed(&next, &fault));
                hedge_lease.fail(&fault);
                let ended = first.as_mut().await;
                drop(first);
                one(step, lease, ended)
            }
        }
    }

    /// Takes a place and money for the hedge. The rival is taken where that worked.
    async fn enter(
        &self,
        course: &Course<'_>,
        step: &Step,
        rival: &mut Option<Step>,
        tally: &Mutex<&mut Tally>,
    ) -> Option<(Step, Lease, Outgoing, Money)> {
        let next = rival.as_ref()?;
        let metrics = self.handle.metrics();
        let refuse = |why: &str| metrics.hedges_refused_total.with_label_values(&[why]).inc();
        let now = self.handle.clock().now();
        let policy = &course.snapshot.policy.guards.hedging;
        let Some(cost) = step.predicted_cost().zip(next.predicted_cost()).map(|(one, other)| one.max(other))
        else {
            refuse("unpriced");
            return None;
        };
        if !self.hedges().withdraw(policy, cost, now) {
            refuse("spend_share");
            return None;
        }
        let Course { call, request, snapshot, .. } = course;
        if locked(tally).allowance.reserve_hedge(call, snapshot, request, next).is_err() {
            refuse("budget");
            self.hedges().settle(cost, Money::ZERO, now);
            return None;
        }
        let tenant = course.call.principal.tenant.as_str();
        let lease = self.handle.lease(course.snapshot, next, tenant, course.tokens, Duration::ZERO).await;
        let entered = match lease {
            Ok(lease) => match self.outgoing(course.call, course.snapshot, next) {
                Ok(outgoing) => Some((lease, outgoing)),
                Err(_) => {
                    lease.unused();
                    None
                }
            },
            Err(_) => None,
        };
        let Some((lease, outgoing)) = entered else {
            refuse("no_place");
            locked(tally).allowance.release_hedge();
            self.hedges().settle(cost, Money::ZERO, now);
            return None;
        };
        let next = rival.take()?;
        locked(tally).hedged(&next);
        Some((next, lease, outgoing, cost))
    }

    /// How long `step` may be silent before it is hedged; `None` where that is off or nothing is known of
    /// how long it takes.
    fn hedge_delay(&self, snapshot: &Snapshot, step: &Step, streams: bool) -> Option<Duration> {
        let policy = &snapshot.policy.guards.hedging;
        if !policy.enabled {
            return None;
        }
        Some(self.handle.usual_latency(snapshot, step, streams)?.max(policy.min_delay))
    }

    /// What hedges may still cost.
    pub(super) fn hedges(&self) -> MutexGuard<'_, HedgeBudget> {
        // A panic while holding the lock cannot leave it inconsistent: every change is one step.
        self.hedges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the race went on.
enum Ended {
    /// It has begun to answer, or has come as far as it needs to already.
    Won(Racer, Option<Box<Begun>>),
    /// It failed while the other was silent.
    Failed(Racer, Fault),
}

impl Ended {
    fn of(racer: Racer, ended: Result<Begun, Fault>) -> Self {
        match ended {
            Ok(begun) => Self::Won(racer, Some(Box::new(begun))),
            Err(fault) => Self::Failed(racer, fault),
        }
    }
}

fn one(step: &Step, lease: Lease, ended: Result<Begun, Fault>) -> Raced {
    match ended {
        Ok(begun) => Ok((step.clone(), begun, lease)),
        Err(fault) => Err(Box::new((step.clone(), lease, fault))),
    }
}

pub(super) fn locked<'a, 't>(tally: &'a Mutex<&'t mut Tally>) -> MutexGuard<'a, &'t mut Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
