//! The terms a candidate was judged by, told one by one.
//!
//! Each term has a name, a value and a unit, so that a record can be read by someone who never saw the
//! formula. What was not known is absent, never zero.

use crate::money::Money;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

/// Everything besides cost and time to first token that a candidate's place rests on. Times are in
/// microseconds, up to 71 minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// Time to first token under the load of now: the sum of the three below.
    pub ttft: Option<u32>,
    /// What hardly one answer in fifty exceeds: this is held against the target of strategy `slo`.
    pub ttft_late: Option<u32>,
    /// What the traffic of request and answer costs.
    pub egress: Money,
    /// Round trip.
    pub rtt: Option<u32>,
    /// Time to first token as measured, without the load of now and without the round trip.
    pub own_ttft: Option<u32>,
    /// What the load of now adds to it.
    pub wait: Option<u32>,
    /// Time per further output token.
    pub tpot: Option<u32>,
    /// From request to last token.
    pub completion: Option<u32>,
    /// Requests running and waiting there, as far as they are known.
    pub load: u32,
    /// How many it runs at once.
    pub places: u32,
    /// Whether the latency targets are predicted to be met.
    pub meets_slo: bool,
    /// Whether the client's deadline is predicted to be met; `None` = it set none.
    pub meets_deadline: Option<bool>,
    /// Whether this session was served there last.
    pub sticky: bool,
    /// Whether prompts that begin like this one go there.
    pub prefix: bool,
}

/// One term.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Term {
    /// What it is.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

impl Terms {
    /// The terms that are known, in the order in which a person asks for them.
    pub fn list(&self) -> impl Iterator<Item = Term> {
        let term = |name, value, unit| Some(Term { name, value, unit });
        let time = |name, micros: Option<u32>| term(name, f64::from(micros?) / 1_000.0, "ms");
        let flag = |name, is: bool| term(name, f64::from(u8::from(is)), "yes/no");
        [
            time("ttft", self.ttft),
            time("ttft_late", self.ttft_late),
            term("egress", self.egress.as_usd(), "USD"),
            time("rtt", self.rtt),
            time("ttft_unloaded", self.own_ttft),
            time("wait", self.wait),
            time("tpot", self.tpot),
            time("completion", self.completion),
            term("load", f64::from(self.load), "requests"),
            term("places", f64::from(self.places), "requests"),
            flag("meets_slo", self.meets_slo),
            self.meets_deadline.and_then(|meets| flag("meets_deadline", meets)),
            self.sticky.then(|| flag("sticky", true)).flatten(),
            self.prefix.then(|| flag("prefix", true)).flatten(),
        ]
        .into_iter()
        .flatten()
    }
}

/// A list of terms.
impl Serialize for Terms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut terms = serializer.serialize_seq(None)?;
        for term in self.list() {
            terms.serialize_element(&term)?;
        }
        terms.end()
    }
}
