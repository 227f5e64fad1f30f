//! An amount of money as a decision compares it: in 64 bits, so that a candidate is small enough to be
//! moved in registers and divided in one instruction.
//!
//! Still an integer of pico-dollars. What one request costs fits, up to nine million dollars; beyond that it
//! counts as nine million, which changes no order anybody would want.

use crate::money::Money;
use std::ops::{Add, Sub};

/// Pico-dollars of one request at one candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(i64);

impl Amount {
    pub(crate) const ZERO: Self = Self(0);

    /// In pico-dollars.
    pub(crate) fn pico(self) -> i64 {
        self.0
    }
}

impl Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Amount {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<Money> for Amount {
    fn from(money: Money) -> Self {
        let bound = if money < Money::ZERO { i64::MIN } else { i64::MAX };
        Self(i64::try_from(money.pico()).unwrap_or(bound))
    }
}

impl From<Amount> for Money {
    fn from(amount: Amount) -> Self {
        Self::from_pico(i128::from(amount.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_its_bounds_counts_as_the_bound_and_keeps_its_order() {
        let usd = |usd: f64| Amount::from(Money::from_usd(usd).unwrap());
        assert_eq!(Money::from(usd(0.0123)), Money::from_usd(0.0123).unwrap());
        assert!(usd(1e9) > usd(9e6) && usd(-1e9) < usd(-9e6));
        assert_eq!(usd(1e9) + usd(1.0), usd(2e9));
    }
}
