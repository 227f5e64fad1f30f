//! The way into one backend, as the router keeps it: rate limit, places, a bounded queue.

use crate::guard::limit::{Limiter, RateLimit};
use crate::guard::pace::{Pace, Unread};
use crate::guard::queue::average_hold;
use crate::guard::warm_up::{WarmUp, part};
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
    /// Until when it asked to be left alone.
    closed_until: Option<Moment>,
    warm_up: WarmUp,
    slow_start: Duration,
    trial_taken: bool,
}

impl Door {
    pub(super) fn new(limit: u32, rate_limit: Option<RateLimit>, serial: bool, slow_start: Duration) -> Self {
        let (waiting, limiter) = (VecDeque::new(), rate_limit.map(Limiter::new));
        Self {
            in_flight: 0,
            limit,
            waiting,
            limiter,
            hold: None,
            pace: Pace::new(serial),
            closed_until: None,
            warm_up: WarmUp::default(),
            slow_start,
            trial_taken: false,
        }
    }

    /// It has come back: its places are given one after another.
    pub(super) fn warm_up(&mut self, now: Moment) {
        self.warm_up.begin(now);
    }

    /// It asked to be left alone until then (`Retry-After`).
    pub(super) fn back_off(&mut self, until: Moment) {
        self.closed_until = self.closed_until.max(Some(until));
    }

    /// What is left of that.
    pub(super) fn backoff_left(&self, now: Moment) -> Duration {
        self.closed_until.map_or(Duration::ZERO, |until| until.since(now))
    }

    /// The one trial of a half-open breaker has ended.
    pub(super) fn trial_over(&mut self) {
        self.trial_taken = false;
    }

    fn warming_percent(&self, now: Moment) -> u8 {
        self.warm_up.percent(self.slow_start, now)
    }

    fn has_place(&self, now: Moment) -> bool {
        self.in_flight < part(self.limit, self.warming_percent(now))
    }

    /// Who gets a place that came free by itself, as more of them are given.
    pub(super) fn fill(&mut self, now: Moment) -> Option<usize> {
        let next = self.waiting.front().copied().filter(|_| self.has_place(now))?;
        self.waiting.pop_front();
        self.in_flight += 1;
        Some(next)
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

    /// Asks for a place, behind at most `max_waiting` others; a `trial` waits for nobody and is the only one.
    pub(super) fn admit(
        &mut self,
        request: usize,
        tokens: u32,
        max_waiting: u32,
        trial: bool,
        now: Moment,
    ) -> Admitted {
        if trial && self.trial_taken || !self.backoff_left(now).is_zero() {
            return Admitted::No;
        }
        if let Some(limiter) = &mut self.limiter
            && limiter.admit(tokens, now).is_err()
        {
            return Admitted::No;
        }
        if self.has_place(now) && self.waiting.is_empty() {
            self.in_flight += 1;
            self.trial_taken |= trial;
            return Admitted::Now;
        }
        if trial || self.waiting.len() >= max_waiting as usize {
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
        self.leave(estimated, actual, now)
    }

    /// A request left without an answer; who gets its place, if anybody waits. How long it held the place says
    /// nothing of the next.
    pub(super) fn leave(&mut self, estimated: u32, actual: u32, now: Moment) -> Option<usize> {
        self.settle(estimated, actual, now);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.fill(now)
    }

    /// The load as a decision reads it.
    pub(super) fn load(&self, tokens: u32, now: Moment) -> LocalLoad {
        LocalLoad {
            in_flight: self.in_flight,
            waiting: self.waiting(),
            limit: self.limit,
            closed_until: self
                .limiter
                .as_ref()
                .and_then(|limiter| limiter.check(tokens, now).err())
                .max(self.closed_until),
            trial_taken: self.trial_taken,
            warming_percent: Some(self.warming_percent(now)).filter(|percent| *percent < 100),
            hold: self.hold,
            pace: self.pace.now(now),
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
