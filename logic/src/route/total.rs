//! All that a strategy compared of one candidate as one number, the lowest first, and what adds up to it.
//!
//! A strategy asks in two steps: which class a candidate is in (a free place, a met target, a known price)
//! and then how much it costs or how long it takes. One number says both where a class weighs more than
//! anything that can be compared within it. It is for people and records: the choice itself compares the
//! two apart, takes near equals for equal and lets their load decide.

use crate::money::Money;
use crate::route::amount::Amount;
use crate::route::order::LATE;
use crate::route::score::Score;
use crate::route::terms::Term;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// What one class weighs, in dollars: more than any one request costs.
const CLASS_USD: f64 = 1_000.0;
/// What one class weighs, in milliseconds: more than the longest time that is predicted.
const CLASS_MS: f64 = 10_000_000.0;
/// A millisecond of a first token that misses its target, in dollars: a second is a dollar.
const LATE_USD_PER_MS: f64 = 0.001;
/// Most terms of a score.
const TERMS_MAX: usize = 5;

/// What is compared within a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum By {
    /// What the request costs there on average, and its traffic.
    #[default]
    Cost,
    /// What the request adds to the bill, its traffic included.
    Adds,
    /// The time to first token, since a target is missed.
    LateFirstToken,
    /// The time to first token.
    FirstToken,
}

/// The class a candidate was tried in, and what was compared within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// The lower the earlier it is tried.
    pub(crate) rank: u8,
    pub(crate) by: By,
}

/// The whole score of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    /// The sum of its terms.
    pub value: f64,
    /// `USD` or `ms`: the unit of the number and of each term.
    pub unit: &'static str,
    terms: [Option<Term>; TERMS_MAX],
}

impl Total {
    pub(crate) fn of(compared: Compared, score: &Score, marginal: Option<Amount>) -> Self {
        let Compared { rank, by } = compared;
        let (unit, class) = match by {
            By::FirstToken => ("ms", CLASS_MS),
            By::Cost | By::Adds | By::LateFirstToken => ("USD", CLASS_USD),
        };
        let term = |name, value: f64| (value != 0.0).then_some(Term { name, value, unit });
        let usd = |name, amount: Option<Amount>| term(name, Money::from(amount?).as_usd());
        let per_ms = if unit == "ms" { 1.0 } else { LATE_USD_PER_MS };
        let time = |name, micros: Option<u32>| term(name, f64::from(micros?) / 1_000.0 * per_ms);
        let class = |name, count: u8| term(name, f64::from(count) * class);
        let (deadline, rank) = if rank >= LATE { (LATE, rank - LATE) } else { (0, rank) };
        let compared = match by {
            By::Cost => [usd("cost", score.cost), usd("egress", score.cost.map(|_| score.egress)), None],
            By::Adds => {
                let without = marginal.map(|adds| adds - score.egress);
                [usd("adds", without), usd("egress", marginal.map(|_| score.egress)), None]
            }
            By::LateFirstToken if score.is_being_measured() => {
                [time("being_measured", Some(u32::MAX)), None, None]
            }
            By::LateFirstToken | By::FirstToken => {
                [time("reading", score.own_ttft), time("waiting", score.wait()), time("way", score.rtt)]
            }
        };
        let [one, two, three] = compared;
        let terms = [class("deadline_missed", deadline), class("class", rank), one, two, three];
        Self { value: terms.iter().flatten().map(|term| term.value).sum(), unit, terms }
    }

    /// What adds up to it; terms of nothing are left out.
    pub fn terms(&self) -> impl Iterator<Item = &Term> {
        self.terms.iter().flatten()
    }
}

/// `{value, unit, terms: {name: value}}`.
impl Serialize for Total {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Terms<'t>(&'t Total);
        impl Serialize for Terms<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.terms().map(|term| (term.name, term.value)))
            }
        }
        let mut told = serializer.serialize_map(Some(3))?;
        told.serialize_entry("value", &self.value)?;
        told.serialize_entry("unit", self.unit)?;
        told.serialize_entry("terms", &Terms(self))?;
        told.end()
    }
}
