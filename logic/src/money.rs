//! Money as an integer: pico-dollars, so that the price of a single token is exact.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

/// Pico-USD in one dollar.
const PICO_PER_USD: i128 = 1_000_000_000_000;

/// An amount of US dollars in pico-dollars (10⁻¹² USD). Sums saturate instead of wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i128);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An exact amount in pico-dollars.
    pub const fn from_pico(pico: i128) -> Self {
        Self(pico)
    }

    /// The nearest pico-dollar to `usd`; `None` where `usd` is not finite or beyond ±10¹² USD.
    pub fn from_usd(usd: f64) -> Option<Self> {
        if !usd.is_finite() || usd.abs() > 1e12 {
            return None;
        }
        #[allow(clippy::cast_possible_truncation)]
        Some(Self((usd * PICO_PER_USD as f64).round() as i128))
    }

    /// The amount in pico-dollars.
    pub const fn pico(self) -> i128 {
        self.0
    }

    /// The amount in dollars, rounded to a float: for display and metrics, never for sums.
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / PICO_PER_USD as f64
    }

    /// `self` × `part` ÷ `whole`, rounded towards zero, saturating; nothing where `whole` is zero.
    #[must_use]
    #[inline]
    pub fn share(self, part: u64, whole: u64) -> Self {
        // Amounts below 9 million dollars take 64 bits, whose division is many times faster.
        let small = u64::try_from(self.0).ok().and_then(|pico| pico.checked_mul(part));
        match (small, whole) {
            (_, 0) => Self::ZERO,
            (Some(product), whole) => Self(i128::from(product / whole)),
            (None, whole) => Self(self.0.saturating_mul(i128::from(part)) / i128::from(whole)),
        }
    }

    /// `self` × `count`, saturating.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count as i128))
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    /// Plain decimal dollars without an exponent or trailing zeros, for example `0.002836`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, pico) =
            (self.0.unsigned_abs() / 1_000_000_000_000, self.0.unsigned_abs() % 1_000_000_000_000);
        let fraction = format!("{pico:012}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            digits => write!(f, "{sign}{whole}.{digits}"),
        }
    }
}

/// Serialised as a JSON number of dollars, as the surface's `*_usd` fields promise.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_usd())
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let usd = f64::deserialize(deserializer)?;
        Self::from_usd(usd).ok_or_else(|| serde::de::Error::custom("an amount of dollars must be finite"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_dollars_without_an_exponent() {
        assert_eq!(Money::from_pico(2_836_000_000).to_string(), "0.002836");
        assert_eq!(Money::from_pico(150_000).to_string(), "0.00000015");
        assert_eq!(Money::from_usd(12.5).unwrap().to_string(), "12.5");
        assert_eq!(Money::from_pico(-1_000_000_000_000).to_string(), "-1");
    }

    #[test]
    fn shares_are_exact_for_small_and_for_large_amounts() {
        assert_eq!(Money::from_pico(1_001).share(250, 1_000), Money::from_pico(250));
        assert_eq!(Money::from_pico(-1_001).share(250, 1_000), Money::from_pico(-250));
        let large = Money::from_usd(5e11).unwrap();
        assert_eq!(large.share(3, 2), Money::from_usd(7.5e11).unwrap());
        assert_eq!(large.share(1, 0), Money::ZERO);
    }

    #[test]
    fn refuses_amounts_that_are_no_amounts() {
        assert_eq!(Money::from_usd(f64::NAN), None);
        assert_eq!(Money::from_usd(1e13), None);
    }
}
