//! Health of a backend from a row of sightings: probes, and outcomes of real requests.
//!
//! Owns nothing but a counter; never asks for the time and never probes.

use crate::report::Health;

/// Failures in a row that make a backend unhealthy.
pub const FAILURES_IN_A_ROW: u8 = 3;

/// What one probe or one outcome told of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It answered as it should.
    Ok,
    /// It answered that it is still loading its model.
    Loading,
    /// It did not answer, or answered with a failure of its own.
    Failed,
}

/// Turns sightings into [`Health`].
///
/// One success is enough to be healthy, three failures in a row are needed to be unhealthy. Until the
/// third failure the last word stands: a backend never seen well stays [`Health::Unknown`], one that
/// was loading stays [`Health::Loading`].
#[derive(Clone, Debug, Default)]
pub struct HealthTracker {
    health: Health,
    failures: u8,
}

impl HealthTracker {
    /// Takes one sighting and tells the health that follows.
    pub fn observe(&mut self, seen: Sighting) -> Health {
        self.failures = match seen {
            Sighting::Ok | Sighting::Loading => 0,
            Sighting::Failed => self.failures.saturating_add(1),
        };
        self.health = match seen {
            Sighting::Ok => Health::Healthy,
            Sighting::Loading => Health::Loading,
            Sighting::Failed if self.failures >= FAILURES_IN_A_ROW => Health::Unhealthy,
            Sighting::Failed => self.health,
        };
        self.health
    }

    /// Nothing is there: unhealthy without a second look.
    pub fn gone(&mut self) {
        self.failures = FAILURES_IN_A_ROW;
        self.health = Health::Unhealthy;
    }

    /// The health after the last sighting.
    pub fn health(&self) -> Health {
        self.health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(sightings: &[Sighting]) -> Health {
        let mut tracker = HealthTracker::default();
        for seen in sightings {
            tracker.observe(*seen);
        }
        tracker.health()
    }

    #[test]
    fn the_third_failure_in_a_row_makes_a_backend_unhealthy() {
        use Sighting::{Failed, Ok};
        assert_eq!(after(&[Ok, Failed, Failed]), Health::Healthy);
        assert_eq!(after(&[Ok, Failed, Failed, Failed]), Health::Unhealthy);
        assert_eq!(after(&[Ok, Failed, Failed, Ok, Failed, Failed]), Health::Healthy);
    }

    #[test]
    fn one_success_makes_a_backend_healthy_again() {
        use Sighting::{Failed, Ok};
        assert_eq!(after(&[Failed, Failed, Failed, Failed, Ok]), Health::Healthy);
    }

    #[test]
    fn a_backend_never_seen_stays_unknown_until_the_third_failure() {
        use Sighting::Failed;
        assert_eq!(after(&[]), Health::Unknown);
        assert_eq!(after(&[Failed, Failed]), Health::Unknown);
        assert_eq!(after(&[Failed, Failed, Failed]), Health::Unhealthy);
    }

    #[test]
    fn loading_shows_at_once_and_breaks_a_row_of_failures() {
        use Sighting::{Failed, Loading, Ok};
        assert_eq!(after(&[Ok, Loading]), Health::Loading);
        assert_eq!(after(&[Failed, Failed, Loading, Failed, Failed]), Health::Loading);
        assert_eq!(after(&[Loading, Failed, Failed, Failed]), Health::Unhealthy);
    }

    #[test]
    fn a_long_row_of_failures_does_not_overflow() {
        assert_eq!(after(&[Sighting::Failed; 1000]), Health::Unhealthy);
    }
}
