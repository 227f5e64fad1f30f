//! How soon a backend begins to answer a request of a given length.
//!
//! The time to first token of a machine grows with the prompt, and with the prompts of ours that it has not
//! read yet: it reads one after the other. So it is learnt as a line, `base + per token × (tokens ahead + own
//! tokens)`, by least squares over past requests, recent ones counting more. A provider reads each prompt by
//! itself: there nothing is ahead.
//!
//! Two lines are kept. The recent one follows what happens now; while no answer comes it fades towards the
//! settled one, so that a backend which was slow for a moment is tried again, and both fade slowly towards
//! nothing, so that one which was always slow is tried now and then. Beside them a running 98th percentile
//! tells by how much answers exceed the line: a target is met where that is within it.

use crate::time::Moment;
use serde::Serialize;
use std::time::Duration;

/// Requests after which one counts a third: in the recent line, and in the settled one.
const RECENT: f64 = 32.0;
const SETTLED: f64 = 1_000.0;
/// Half-life of the difference between the two while no answer comes.
const RECENT_FADES: Duration = Duration::from_secs(30);
/// Half-life of both then.
const SETTLED_FADES: Duration = Duration::from_secs(600);
/// One answer in fifty may be later than the excess says: half of what a target of 99 % allows is left to what
/// nobody can foretell.
const LATER: f64 = 0.02;
/// It is searched in steps of this share of it.
const STEP: f64 = 0.1;
/// The excess is kept within these.
const EXCESS: (f64, f64) = (1.0, 6.0);
/// Excess assumed before anything is known.
const EXCESS_FIRST: f64 = 1.5;
/// Lengths must differ by this share of their mean before a slope is read from them.
const SPREAD_MIN: f64 = 0.1;

/// What is learnt of one backend's first tokens, and what of ours it has still to read.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Whether prompts are read one after the other.
    serial: bool,
    recent: Line,
    settled: Line,
    excess: f64,
    unread_tokens: u64,
    learnt_at: Moment,
}

/// A prompt that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    own: u32,
    ahead: u64,
}

/// A [`Pace`] at one moment, as a decision reads it. Times are in microseconds, up to 71 minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PaceNow {
    /// Time to first token of a prompt of no length.
    pub base: u32,
    /// What each token adds.
    pub per_token: f32,
    /// Tokens of our prompts that are read before the next one.
    pub unread_tokens: u32,
    /// By what factor one answer in fifty is later than the line.
    pub excess: f32,
}

impl Pace {
    /// Nothing is known yet; `serial` tells whether prompts are read one after the other.
    pub fn new(serial: bool) -> Self {
        Self {
            serial,
            recent: Line::default(),
            settled: Line::default(),
            excess: EXCESS_FIRST,
            unread_tokens: 0,
            learnt_at: Moment::ZERO,
        }
    }

    /// A prompt of `tokens` was sent.
    pub fn sent(&mut self, tokens: u32) -> Unread {
        let ahead = if self.serial { self.unread_tokens } else { 0 };
        self.unread_tokens = self.unread_tokens.saturating_add(tokens.into());
        Unread { own: tokens, ahead }
    }

    /// It was read, or is not waited for any more.
    pub fn read(&mut self, prompt: Unread) {
        self.unread_tokens = self.unread_tokens.saturating_sub(prompt.own.into());
    }

    /// The first token came `ttft` after the prompt was sent. [`read`](Self::read) is still to be told.
    pub fn answered(&mut self, prompt: Unread, ttft: Duration, now: Moment) {
        let tokens = prompt.ahead as f64 + f64::from(prompt.own);
        let secs = ttft.as_secs_f64();
        if let Some(expected) = self.line(now).map(|(base, slope)| base + slope * tokens).filter(|e| *e > 0.0)
        {
            // Up by 49 small steps where an answer is later than that, down by one where it is not: it rests
            // where one in fifty is.
            let step = self.excess * STEP * if secs > expected * self.excess { 1.0 - LATER } else { -LATER };
            self.excess = (self.excess + step).clamp(EXCESS.0, EXCESS.1);
        }
        self.recent.learn(tokens, secs, RECENT);
        self.settled.learn(tokens, secs, SETTLED);
        self.learnt_at = now;
    }

    /// As it is now; `None` before the first answer.
    pub fn now(&self, now: Moment) -> Option<PaceNow> {
        let (base, slope) = self.line(now)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates; a factor needs no more than an f32"
        )]
        Some(PaceNow {
            base: (base * 1e6).round() as u32,
            per_token: (slope * 1e6) as f32,
            unread_tokens: if self.serial {
                u32::try_from(self.unread_tokens).unwrap_or(u32::MAX)
            } else {
                0
            },
            excess: self.excess as f32,
        })
    }

    /// Base and slope in seconds.
    fn line(&self, now: Moment) -> Option<(f64, f64)> {
        let (recent, settled) = (self.recent.fit(self.serial)?, self.settled.fit(self.serial)?);
        let silent = now.since(self.learnt_at).as_secs_f64();
        let left = |half_life: Duration| (-silent / half_life.as_secs_f64()).exp2();
        let (short, long) = (left(RECENT_FADES), left(SETTLED_FADES));
        let between = |recent: f64, settled: f64| (settled + (recent - settled) * short) * long;
        Some((between(recent.0, settled.0), between(recent.1, settled.1)))
    }
}

impl PaceNow {
    /// Microseconds from sending a prompt of `tokens` to its first token where nothing else is unread.
    pub fn alone(&self, tokens: u32) -> u32 {
        self.base.saturating_add(self.reading(tokens.into()))
    }

    /// Microseconds until our other prompts there are read.
    pub fn ahead(&self) -> u32 {
        self.reading(self.unread_tokens.into())
    }

    /// What of `micros` one answer in fifty exceeds.
    pub fn upper(&self, micros: u32) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
        let upper = (f64::from(micros) * f64::from(self.excess.max(1.0))) as u32;
        upper
    }

    fn reading(&self, tokens: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
        let micros = (tokens as f64 * f64::from(self.per_token)) as u32;
        micros
    }
}

/// Sums of weighted least squares.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    fn learn(&mut self, x: f64, y: f64, memory: f64) {
        let kept = 1.0 - 1.0 / memory;
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.xx, x * x),
            (&mut self.xy, x * y),
        ] {
            *sum = *sum * kept + new;
        }
    }

    /// Base and slope, neither below 0. Where lengths hardly differ, all of a machine's time is taken for
    /// reading, and none of a provider's.
    fn fit(&self, serial: bool) -> Option<(f64, f64)> {
        if self.weight <= 0.0 {
            return None;
        }
        let (x, y) = (self.x / self.weight, self.y / self.weight);
        let variance = self.xx / self.weight - x * x;
        let steepest = if x > 0.0 { y / x } else { 0.0 };
        let slope = if variance > (SPREAD_MIN * x).powi(2) {
            ((self.xy / self.weight - x * y) / variance).clamp(0.0, steepest)
        } else if serial {
            steepest
        } else {
            0.0
        };
        Some(((y - slope * x).max(0.0), slope))
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
