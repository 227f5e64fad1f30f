//! Answers that several clients get of one generation.
//!
//! Owns a generation that runs for whoever waits for it ([`flight`]) and what is left of it ([`answer`]). Who
//! may share one is said by [`crate::idempotency`]: repeats under the same key.

pub(crate) mod answer;
pub(crate) mod flight;
