//! What is said of a backend besides what is measured: the price of its hour now, and when it will be
//! taken away.
//!
//! Owns the merging of what several nodes were told, so that all come to the same answer in any order, and
//! the life of a preemption notice. Never asks who said it.

use crate::money::Money;
use crate::report::Health;
use crate::time::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A machine that is healthy this long past its announced end was not taken away.
pub const OVERDUE: Duration = Duration::from_secs(120);

/// A value that the last word wins, whoever said it.
///
/// Words are counted, not timed, so that clocks of two machines are never compared: who speaks counts one
/// further than what it knows. Two words of one count are settled by their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Register<T> {
    /// How many words there were; 0 = nothing was ever said.
    pub version: u64,
    /// The last word; `None` = as configured.
    pub value: Option<T>,
}

impl<T: Copy + Ord> Register<T> {
    /// Says `value`. Saying again what holds changes nothing, and `false` is returned.
    pub fn say(&mut self, value: Option<T>) -> bool {
        if self.version > 0 && self.value == value || self.version == 0 && value.is_none() {
            return false;
        }
        *self = Self { version: self.version.saturating_add(1), value };
        true
    }

    /// Takes over `other` where it is the later word; `true` where it was.
    pub fn merge(&mut self, other: Self) -> bool {
        let later = other > *self;
        if later {
            *self = other;
        }
        later
    }
}

/// What was said of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spoken {
    /// Price of the whole cluster for one hour; without a word the configured one holds.
    pub price: Register<Money>,
    /// When it will be taken away, in Unix milliseconds, as clouds announce it.
    pub preemption: Register<u64>,
}

impl Spoken {
    /// Takes over what is later in `other`; `true` where something was.
    pub fn merge(&mut self, other: &Self) -> bool {
        let price = self.price.merge(other.price);
        self.preemption.merge(other.preemption) || price
    }
}

/// A preemption notice in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// When the machine is taken away.
    pub at: Moment,
    seen_down: bool,
}

impl Notice {
    /// A notice for `at`.
    pub fn new(at: Moment) -> Self {
        Self { at, seen_down: false }
    }

    /// Takes in the health seen at `now`; `true` once the notice is over: the machine was gone and is well
    /// again, or it is well two minutes past its announced end.
    pub fn is_over(&mut self, health: Health, now: Moment) -> bool {
        if now < self.at {
            return false;
        }
        let well = health == Health::Healthy;
        self.seen_down |= !well;
        well && (self.seen_down || now.since(self.at) >= OVERDUE)
    }
}

/// Whether an answer predicted to take `needed` from `now` ends before `at`. What is not predicted does not.
pub fn ends_in_time(needed: Option<Duration>, at: Moment, now: Moment) -> bool {
    // A quarter on top, since a machine that is taken away answers nothing at all.
    needed.is_some_and(|needed| at > now && needed + needed / 4 <= at.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_word_holds_and_saying_it_again_is_no_word() {
        let mut price = Register::default();
        assert!(!price.say(None), "that the configured price holds needs no word");
        assert!(price.say(Some(5)) && !price.say(Some(5)) && price.say(None) && !price.say(None));
        assert_eq!(price, Register { version: 2, value: None });
        assert!(!price.merge(Register { version: 1, value: Some(9) }));
        assert!(price.merge(Register { version: 3, value: Some(9) }));
        assert_eq!(price.value, Some(9));
    }

    #[test]
    fn a_notice_ends_when_the_machine_is_back_or_was_never_taken() {
        let s = Moment::from_secs;
        let mut notice = Notice::new(s(100));
        assert!(!notice.is_over(Health::Unhealthy, s(50)), "ill before its end says nothing");
        assert!(!notice.is_over(Health::Healthy, s(110)));
        assert!(!notice.is_over(Health::Unhealthy, s(115)) && !notice.is_over(Health::Loading, s(118)));
        assert!(notice.is_over(Health::Healthy, s(120)));
        let mut spared = Notice::new(s(100));
        assert!(!spared.is_over(Health::Healthy, s(219)) && spared.is_over(Health::Healthy, s(220)));
    }

    #[test]
    fn only_what_is_predicted_to_end_with_a_margin_ends_in_time() {
        let s = Moment::from_secs;
        let secs = |secs| Some(Duration::from_secs(secs));
        assert!(ends_in_time(secs(8), s(110), s(100)) && !ends_in_time(secs(9), s(110), s(100)));
        assert!(!ends_in_time(None, s(110), s(100)));
        assert!(!ends_in_time(secs(0), s(100), s(100)) && !ends_in_time(secs(0), s(90), s(100)));
    }

    proptest! {
        #[test]
        fn nodes_that_hear_the_same_words_in_any_order_agree(
            words in proptest::collection::vec((0u64..5, proptest::option::of(0u8..4)), 1..20), turn in 0usize..20
        ) {
            let hear = |words: &[(u64, Option<u8>)]| {
                let mut register = Register::default();
                for (version, value) in words {
                    register.merge(Register { version: *version, value: *value });
                }
                register
            };
            let mut turned = words.clone();
            turned.rotate_left(turn % words.len());
            prop_assert_eq!(hear(&words), hear(&turned));
            turned.reverse();
            prop_assert_eq!(hear(&words), hear(&turned));
        }
    }
}
