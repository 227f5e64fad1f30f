//! Who waits for a place at a backend, and who is next.
//!
//! One line per tenant. Tenants take turns by deficit round robin over the tokens their requests are
//! estimated at (Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin", SIGCOMM
//! 1995), so that a tenant with a thousand requests does not keep out one with two. Within a tenant the
//! earliest deadline goes first; what is past its deadline is dropped when its turn comes. The queue is
//! bounded: where it is full, the tenant with the longest line gives up a place to one with a shorter
//! line (longest queue drop; McKenney, "Stochastic Fairness Queueing", INFOCOM 1990).

use crate::time::Moment;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Tokens a tenant may send per turn.
const QUANTUM: u32 = 2_000;
/// A larger request costs no more than this many turns.
const TURNS_MAX: u32 = 16;

/// Where somebody stands in a [`WaitQueue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    tenant: Arc<str>,
    place: Place,
}

/// Deadline, then order of arrival.
type Place = (Moment, u64);

/// A bounded, deadline-aware queue that is fair to tenants.
#[derive(Debug)]
pub struct WaitQueue<T> {
    /// Tenants that have somebody waiting; the first has its turn.
    lines: VecDeque<Line<T>>,
    len: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct Line<T> {
    tenant: Arc<str>,
    /// Tokens it may still send in this turn.
    deficit: u32,
    /// Whether this turn's quantum has been given.
    served: bool,
    waiting: BTreeMap<Place, (u32, T)>,
}

impl<T> Default for WaitQueue<T> {
    fn default() -> Self {
        Self { lines: VecDeque::new(), len: 0, arrivals: 0 }
    }
}

/// What came of joining.
#[derive(Debug)]
pub struct Joined<T> {
    /// Where the newcomer stands.
    pub ticket: Ticket,
    /// Who had to leave for it.
    pub displaced: Option<T>,
}

impl<T> WaitQueue<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many would be served before a newcomer of `tenant` with `deadline`: those of its own line with
    /// an earlier deadline, and as many of every other tenant's as it takes turns.
    pub fn ahead(&self, tenant: &str, deadline: Moment) -> usize {
        let own = self.lines.iter().find(|line| *line.tenant == *tenant);
        let own = own.map_or(0, |line| line.waiting.range(..=(deadline, u64::MAX)).count());
        let others = self.lines.iter().filter(|line| *line.tenant != *tenant);
        own + others.map(|line| line.waiting.len().min(own + 1)).sum::<usize>()
    }

    /// Puts `item` of `tokens` estimated tokens in line until `deadline`, among at most `max` in all.
    ///
    /// # Errors
    /// `item` itself where the queue is full and no tenant has a longer line.
    pub fn join(
        &mut self,
        tenant: &str,
        tokens: u32,
        deadline: Moment,
        item: T,
        max: usize,
    ) -> Result<Joined<T>, T> {
        let mut displaced = None;
        if self.len >= max {
            let own = self.lines.iter().find(|line| *line.tenant == *tenant);
            let own = own.map_or(0, |line| line.waiting.len());
            let longest = self.lines.iter_mut().max_by_key(|line| line.waiting.len());
            match longest {
                Some(line) if line.waiting.len() > own + 1 => {
                    displaced = line.waiting.pop_last().map(|(_, (_, item))| item);
                    self.len -= 1;
                }
                _ => return Err(item),
            }
        }
        self.arrivals += 1;
        let place = (deadline, self.arrivals);
        let tokens = tokens.clamp(1, QUANTUM * TURNS_MAX);
        let at = self.lines.iter().position(|line| *line.tenant == *tenant).unwrap_or_else(|| {
            let waiting = BTreeMap::new();
            self.lines.push_back(Line { tenant: tenant.into(), deficit: 0, served: false, waiting });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        line.waiting.insert(place, (tokens, item));
        self.len += 1;
        Ok(Joined { ticket: Ticket { tenant: Arc::clone(&line.tenant), place }, displaced })
    }

    /// Leaves the line; `None` where it is no longer in it.
    pub fn leave(&mut self, ticket: &Ticket) -> Option<T> {
        let at = self.lines.iter().position(|line| line.tenant == ticket.tenant)?;
        let (_, item) = self.lines[at].waiting.remove(&ticket.place)?;
        self.len -= 1;
        if self.lines[at].waiting.is_empty() {
            self.lines.remove(at);
        }
        Some(item)
    }

    /// Who is next. What is past its deadline goes to `late`.
    pub fn next(&mut self, now: Moment, late: &mut Vec<T>) -> Option<T> {
        loop {
            let line = self.lines.front_mut()?;
            while let Some(first) = line.waiting.first_entry().filter(|first| first.key().0 <= now) {
                late.push(first.remove().1);
                self.len -= 1;
            }
            let Some(first) = line.waiting.first_entry() else {
                // A tenant without a request keeps no credit.
                self.lines.pop_front();
                continue;
            };
            if !std::mem::replace(&mut line.served, true) {
                line.deficit = line.deficit.saturating_add(QUANTUM);
            }
            let tokens = first.get().0;
            if tokens > line.deficit {
                line.served = false;
                self.lines.rotate_left(1);
                continue;
            }
            line.deficit -= tokens;
            let (_, item) = first.remove();
            self.len -= 1;
            if line.waiting.is_empty() {
                self.lines.pop_front();
            }
            return Some(item);
        }
    }
}

/// Share of the latest in the average time a place is held.
const HOLD_SHARE: f64 = 0.1;

/// The average time a place is held, where it was `before` and one more was held for `held`.
pub fn average_hold(before: Option<Duration>, held: Duration) -> Duration {
    before.unwrap_or(held).mul_f64(1.0 - HOLD_SHARE) + held.mul_f64(HOLD_SHARE)
}

/// How long a newcomer waits for one of `limit` places that are held for `hold` on average, behind
/// `ahead` others: places come free every `hold ÷ limit`.
pub fn estimated_wait(ahead: usize, limit: u32, hold: Duration) -> Duration {
    let turns = u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1);
    hold.saturating_mul(turns) / limit.max(1)
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
