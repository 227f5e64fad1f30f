//! Where a backend stands besides its health: warm or not, and until when it is there.
//!
//! Owns the shapes only: what a decision reads ([`Standing`]) and what a node tells its peers
//! ([`SpokenFact`], [`WakingFact`]).

use crate::gossip::codec::CodecError;
use crate::gossip::fact::{Fact, Payload, Topic};
use crate::money::Money;
use crate::spot::{Register, Spoken};
use crate::time::{Moment, millis_u32};
use crate::warmth::{Claim, Wanted, Warmth};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Words are counted one by one: no fleet ever gets here, and a count near the largest could not be
/// followed by another word.
const VERSION_MAX: u64 = 1 << 48;
const PICO_PER_MICRO: i128 = 1_000_000;

/// What a decision reads of a backend's standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Whether it has a machine.
    pub warmth: Warmth,
    /// When its machine is taken away, while a notice of that is in force.
    pub preempted_at: Option<Moment>,
}

/// What was said of a backend, as it travels. Every node tells on what it knows, since the last word is the
/// same for all: so it outlives the node it was said to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpokenFact {
    price_version: u64,
    price_pico: Option<u64>,
    preemption_version: u64,
    preemption_unix_ms: Option<u64>,
}

impl Fact for SpokenFact {
    const TOPIC: Topic = Topic::Price;
    const VERSION: u8 = 1;

    fn read(payload: &Payload) -> Result<Self, CodecError> {
        if payload.version() != Self::VERSION {
            return Err(CodecError::Version { found: payload.version(), reads: Self::VERSION });
        }
        let fact: Self = payload.body()?;
        if fact.price_version.max(fact.preemption_version) > VERSION_MAX {
            return Err(CodecError::Body("more words than can have been said".into()));
        }
        Ok(fact)
    }
}

impl From<&Spoken> for SpokenFact {
    fn from(spoken: &Spoken) -> Self {
        Self {
            price_version: spoken.price.version,
            // No hour of a cluster costs 18 million dollars.
            price_pico: spoken.price.value.map(|price| u64::try_from(price.pico()).unwrap_or(u64::MAX)),
            preemption_version: spoken.preemption.version,
            preemption_unix_ms: spoken.preemption.value,
        }
    }
}

impl From<SpokenFact> for Spoken {
    fn from(fact: SpokenFact) -> Self {
        let price = fact.price_pico.map(|pico| Money::from_pico(pico.into()));
        Self {
            price: Register { version: fact.price_version, value: price },
            preemption: Register { version: fact.preemption_version, value: fact.preemption_unix_ms },
        }
    }
}

/// What a node does about a sleeping cluster and what wanted it there, as it travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakingFact {
    /// Changes with every telling: an equal value would not travel, and peers would take it for old.
    beat: u8,
    claimed: bool,
    /// Machines share no monotonic clock: told is what is left.
    called_left_ms: Option<u32>,
    requests: u32,
    priced: u32,
    unserved: u32,
    saving_micro_usd: i64,
}

impl Fact for WakingFact {
    const TOPIC: Topic = Topic::Waking;
    const VERSION: u8 = 1;
}

impl WakingFact {
    /// As told at `now`, with a `beat` other than the last.
    pub fn new(claim: Option<Claim>, wanted: &Wanted, beat: u8, now: Moment) -> Self {
        let left = match claim {
            Some(Claim::Called { until }) => Some(millis_u32(until.since(now))),
            Some(Claim::Made) | None => None,
        };
        Self {
            beat,
            claimed: claim.is_some(),
            called_left_ms: left,
            requests: wanted.requests,
            priced: wanted.priced,
            unserved: wanted.unserved,
            saving_micro_usd: i64::try_from(wanted.saving.pico() / PICO_PER_MICRO).unwrap_or(i64::MAX),
        }
    }

    /// The claim as heard at `arrived_at`.
    pub fn claim(&self, arrived_at: Moment) -> Option<Claim> {
        match (self.claimed, self.called_left_ms) {
            (false, _) => None,
            (true, None) => Some(Claim::Made),
            (true, Some(left)) => {
                Some(Claim::Called { until: arrived_at + Duration::from_millis(left.into()) })
            }
        }
    }

    /// What wanted it there.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            requests: self.requests,
            priced: self.priced,
            unserved: self.unserved,
            saving: Money::from_pico(i128::from(self.saving_micro_usd) * PICO_PER_MICRO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told<F: Fact>(fact: &F) -> Result<F, CodecError> {
        F::read(&Payload::parse(&Payload::of(fact)?.text())?)
    }

    #[test]
    fn a_count_that_leaves_no_room_for_another_word_is_refused() {
        let mut spoken = Spoken::default();
        spoken.price.version = VERSION_MAX;
        assert!(told(&SpokenFact::from(&spoken)).is_ok());
        spoken.price.version += 1;
        assert!(told(&SpokenFact::from(&spoken)).is_err());
    }

    proptest! {
        #[test]
        fn what_was_said_comes_back_as_it_was_told(
            versions in (0..=VERSION_MAX, 0..=VERSION_MAX), price: Option<u64>, end: Option<u64>
        ) {
            let price = price.map(|pico| Money::from_pico(pico.into()));
            let spoken = Spoken {
                price: Register { version: versions.0, value: price },
                preemption: Register { version: versions.1, value: end },
            };
            prop_assert_eq!(told(&SpokenFact::from(&spoken)).map(Spoken::from), Ok(spoken));
        }

        #[test]
        fn a_claim_and_what_wanted_it_come_back_as_they_were_told(
            beat: u8, claim in 0u8..3, left_ms: u32, requests: u32, unserved: u32, micro: i32
        ) {
            let now = Moment::from_secs(50);
            let claim = match claim {
                0 => None,
                1 => Some(Claim::Made),
                _ => Some(Claim::Called { until: now + Duration::from_millis(left_ms.into()) }),
            };
            let saving = Money::from_pico(i128::from(micro) * PICO_PER_MICRO);
            let wanted = Wanted { requests, priced: requests, unserved, saving };
            let read = told(&WakingFact::new(claim, &wanted, beat, now)).unwrap();
            prop_assert_eq!((read.claim(now), read.wanted()), (claim, wanted));
        }
    }
}
