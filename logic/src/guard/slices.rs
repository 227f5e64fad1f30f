//! A running window kept in slices: what was counted in each of the last ten, and in the one before them.
//!
//! Owns which slice a moment falls into and which of them still count. What is counted is the caller's.

use crate::time::Moment;
use std::time::Duration;

/// Slices the window has.
pub(super) const SLICES: usize = 10;

/// Counts of the window, in slices of `SECS` seconds; one slice more than the window has.
#[derive(Clone, Debug)]
pub(super) struct Slices<T, const SECS: u64> {
    slices: [(u64, T); SLICES + 1],
}

impl<T: Copy + Default, const SECS: u64> Default for Slices<T, SECS> {
    fn default() -> Self {
        Self { slices: [(0, T::default()); SLICES + 1] }
    }
}

impl<T: Copy + Default, const SECS: u64> Slices<T, SECS> {
    /// The counts of the slice that `now` falls into.
    pub(super) fn current(&mut self, now: Moment) -> &mut T {
        let serial = Self::serial(now);
        let (counted, counts) = &mut self.slices[(serial % (SLICES as u64 + 1)) as usize];
        if *counted != serial {
            (*counted, *counts) = (serial, T::default());
        }
        counts
    }

    /// The counts of the window and of the slice before it, each with whether it is of the window.
    pub(super) fn recent(&self, now: Moment) -> impl Iterator<Item = (bool, &T)> {
        let current = Self::serial(now);
        self.slices.iter().filter_map(move |(serial, counts)| {
            let age = current.checked_sub(*serial)?;
            (age <= SLICES as u64).then_some((age < SLICES as u64, counts))
        })
    }

    fn serial(now: Moment) -> u64 {
        Duration::from_micros(now.micros()).as_secs() / SECS
    }
}
