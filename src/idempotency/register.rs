//! What is known of each idempotency key: a state machine without the time.
//!
//! ```text
//!            begin                kept                    expiry, room
//! (unknown) ───────▶ running ──────────────▶ kept ──────────────────────▶ (unknown)
//!                       │ too large
//!                       ├──────────────▶ spent ── expiry ──▶ (unknown)
//!                       │ failed, given up
//!                       └──────────────▶ (unknown)
//! ```
//! Owns the bounds on how many keys are known and how many bytes their answers take. A key whose generation
//! runs is never forgotten. What waits and what is sent is [`super`]'s.

use crate::cache::answer::Answer;
use llm_router_logic::cache_key::Digest256;
use llm_router_logic::time::Moment;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Bounds on what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// For how long after an answer's end.
    pub(crate) ttl: Duration,
    /// Keys.
    pub(crate) entries_max: usize,
    /// Bytes of kept answers.
    pub(crate) bytes_max: usize,
}

/// What to do with a request under a key.
#[derive(Debug)]
pub(crate) enum Begin<J> {
    /// Generate: it is the first.
    Lead(J),
    /// Its generation runs: go along.
    Join(J),
    /// Its generation runs, and it is too late to go along.
    Busy,
    /// It was answered so long ago.
    Replay(Arc<Answer>, Duration),
    /// It was answered, with more than is kept.
    Spent,
    /// The key belongs to another request.
    Conflict,
    /// As many generations run as keys may be known.
    Full,
}

#[derive(Debug)]
enum State<R> {
    Running(R),
    Kept(Arc<Answer>, Moment),
    Spent,
}

#[derive(Debug)]
struct Entry<R> {
    /// Distinguishes generations under one key.
    turn: u64,
    fingerprint: Digest256,
    state: State<R>,
}

/// All keys known; `R` is a running generation.
#[derive(Debug)]
pub(crate) struct Register<R> {
    pub(crate) bounds: Bounds,
    entries: HashMap<Digest256, Entry<R>>,
    /// Those that ended, in that order, which is the order of their expiry.
    ended: VecDeque<(Moment, Digest256, u64)>,
    bytes: usize,
    turns: u64,
}

impl<R> Register<R> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, entries: HashMap::new(), ended: VecDeque::new(), bytes: 0, turns: 0 }
    }

    /// A request under `key`. `join` goes along with a running generation, `Err` where that is too late: `true`
    /// while it still runs for others, `false` where it was given up. `lead` starts one, given its turn.
    pub(crate) fn begin<J>(
        &mut self,
        key: Digest256,
        fingerprint: Digest256,
        now: Moment,
        join: impl FnOnce(&R) -> Result<J, bool>,
        lead: impl FnOnce(u64) -> (R, J),
    ) -> Begin<J> {
        self.expire(now);
        if let Some(entry) = self.entries.get(&key) {
            if entry.fingerprint != fingerprint {
                return Begin::Conflict;
            }
            match &entry.state {
                State::Kept(answer, at) => return Begin::Replay(Arc::clone(answer), now.since(*at)),
                State::Spent => return Begin::Spent,
                State::Running(running) => match join(running) {
                    Ok(joined) => return Begin::Join(joined),
                    Err(true) => return Begin::Busy,
                    Err(false) => {}
                },
            }
        } else if self.entries.len() >= self.bounds.entries_max && !self.forget_oldest() {
            return Begin::Full;
        }
        self.turns += 1;
        let turn = self.turns;
        let (running, led) = lead(turn);
        self.entries.insert(key, Entry { turn, fingerprint, state: State::Running(running) });
        Begin::Lead(led)
    }

    /// The generation of `turn` ended with an answer; `None` = one too large to keep. How many answers had to
    /// make room is returned.
    pub(crate) fn keep(
        &mut self,
        key: Digest256,
        turn: u64,
        answer: Option<Arc<Answer>>,
        now: Moment,
    ) -> usize {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.turn == turn) else { return 0 };
        entry.state = match answer {
            Some(answer) => {
                self.bytes += answer.weight();
                State::Kept(answer, now)
            }
            None => State::Spent,
        };
        self.ended.push_back((now, key, turn));
        let mut forgotten = 0;
        while self.bytes > self.bounds.bytes_max && self.forget_oldest() {
            forgotten += 1;
        }
        forgotten
    }

    /// The generation of `turn` ended without an answer: the key is free again.
    pub(crate) fn free(&mut self, key: Digest256, turn: u64) {
        if self.entries.get(&key).is_some_and(|entry| entry.turn == turn) {
            self.entries.remove(&key);
        }
    }

    /// Keys known, and bytes of kept answers.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    fn expire(&mut self, now: Moment) {
        while self.ended.front().is_some_and(|(at, ..)| now.since(*at) >= self.bounds.ttl) {
            self.forget_oldest();
        }
    }

    /// Forgets the key whose answer ended first; `false` where none did.
    fn forget_oldest(&mut self) -> bool {
        let Some((_, key, turn)) = self.ended.pop_front() else { return false };
        if self.entries.get(&key).is_some_and(|entry| entry.turn == turn)
            && let Some(Entry { state: State::Kept(answer, _), .. }) = self.entries.remove(&key)
        {
            self.bytes -= answer.weight();
        }
        true
    }
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
