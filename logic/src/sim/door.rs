//! The way into one backend, as the router keeps it: rate limit, places, a bounded queue.

use crate::guard::limit::{Limiter, RateLimit};
use crate::guard::pace::{Pace, Unread};
use crate::guard::queue::average_hold;
use crate::route::LocalLoad;
use crate::time::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// What came of asking for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    Now,
    Waits,
    No,
}

#[derive(Debug)]
pub(super) struct Door {
    in_flight: u32,
    limit: u32,
    waiting: VecDeque<usize>,
    limiter: Option<Limiter>,
    hold: Option<Duration>,
    pace: Pace,
}

impl Door {
    pub(super) fn new(limit: u32, rate_limit: Option<RateLimit>, serial: bool) -> Self {
        let (waiting, limiter) = (VecDeque::new(), rate_limit.map(Limiter::new));
        Self { in_flight: 0, limit, waiting, limiter, hold: None, pace: Pace::new(serial) }
    }

    /// A prompt is sent.
    pub(super) fn sent(&mut self, tokens: u32) -> Unread {
        self.pace.sent(tokens)
    }

    /// Its first token came `ttft` later; `None` = it is not waited for any more.
    pub(super) fn read(&mut self, prompt: Unread, ttft: Option<Duration>, now: Moment) {
        if let Some(ttft) = ttft {
            self.pace.answered(prompt, ttft, now);
        }
        self.pace.read(prompt);
    }

    /// Asks for a place, behind at most `max_waiting` others.
    pub(super) fn admit(&mut self, request: usize, tokens: u32, max_waiting: u32, now: Moment) -> Admitted {
        if let Some(limiter) = &mut self.limiter
            && limiter.admit(tokens, now).is_err()
        {
            return Admitted::No;
        }
        if self.in_flight < self.limit && self.waiting.is_empty() {
            self.in_flight += 1;
            return Admitted::Now;
        }
        if self.waiting.len() >= max_waiting as usize {
            self.settle(tokens, 0, now);
            return Admitted::No;
        }
        self.waiting.push_back(request);
        Admitted::Waits
    }

    /// Leaves the queue; `false` where it has a place already.
    pub(super) fn give_up(&mut self, request: usize, tokens: u32, now: Moment) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| *waiting != request);
        let left = self.waiting.len() < before;
        if left {
            self.settle(tokens, 0, now);
        }
        left
    }

    /// A request ended; who gets its place, if anybody waits.
    pub(super) fn release(
        &mut self,
        estimated: u32,
        actual: u32,
        held: Duration,
        now: Moment,
    ) -> Option<usize> {
        self.hold = Some(average_hold(self.hold, held));
        self.settle(estimated, actual, now);
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        next
    }

    /// The load as a decision reads it.
    pub(super) fn load(&self, tokens: u32, now: Moment) -> LocalLoad {
        LocalLoad {
            in_flight: self.in_flight,
            waiting: self.waiting(),
            limit: self.limit,
            closed_until: self.limiter.as_ref().and_then(|limiter| limiter.check(tokens, now).err()),
            hold: self.hold,
            pace: self.pace.now(now),
            ..LocalLoad::default()
        }
    }

    pub(super) fn waiting(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn settle(&mut self, estimated: u32, actual: u32, now: Moment) {
        if let Some(limiter) = &mut self.limiter {
            limiter.settle(estimated, actual, now);
        }
    }
}
