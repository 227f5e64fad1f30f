//! Outlier ejection with a cap.
//!
//! Requests ejected a backend: its circuit breaker does not let them through. Where that hits more than a
//! share of the backends that serve a model, the breakers say more about the moment than about each
//! backend (a common network, a bad deployment, a client's poison request), and the few that are left
//! would break under the load of all. So the least bad are tried after all, behind those that are well.
//! The same idea as Envoy's `max_ejection_percent` and panic threshold.

use serde::Serialize;

/// How far ejection went for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ejection {
    /// Backends that serve the model asked for, well or not.
    pub serving: usize,
    /// Of these, ejected by their breaker or found dead by probes.
    pub ejected: usize,
    /// Of the ejected, tried after all.
    pub readmitted: usize,
}

impl Ejection {
    /// Lets back in as many of `by_outcomes`, those that only the outcomes of requests speak against, as
    /// are ejected beyond `max_percent` of `serving`. What probes found dead is never let back in: no need
    /// makes it answer. Where any may be ejected at all, one always may: a backend that is alone with its model
    /// would otherwise get every request of an outage, and no breaker would ever spare it.
    pub fn capped(serving: usize, ejected: usize, by_outcomes: usize, max_percent: u8) -> Self {
        let share = serving * usize::from(max_percent.min(100)) / 100;
        let allowed = share.max(usize::from(max_percent > 0));
        let readmitted = ejected.saturating_sub(allowed).min(by_outcomes);
        Self { serving, ejected, readmitted }
    }

    /// Whether nothing was ejected.
    pub fn is_none(&self) -> bool {
        self.ejected == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn at_most_half_stay_ejected() {
        for (serving, ejected, by_outcomes, readmitted) in [
            (4, 0, 0, 0),
            (4, 2, 2, 0),
            (4, 3, 3, 1),
            (4, 4, 4, 2),
            (3, 2, 2, 1),
            (2, 1, 1, 0),
            // The only one is spared, as a breaker is there to do.
            (1, 1, 1, 0),
            // Two are dead: one of the broken ones must do, and no dead one is tried.
            (4, 4, 1, 1),
            (4, 4, 0, 0),
        ] {
            let ejection = Ejection::capped(serving, ejected, by_outcomes, 50);
            assert_eq!(ejection.readmitted, readmitted, "{serving} serving, {ejected} ejected");
        }
    }

    #[test]
    fn the_cap_is_the_operators() {
        assert_eq!(Ejection::capped(4, 4, 4, 100).readmitted, 0, "all may be ejected");
        assert_eq!(Ejection::capped(4, 4, 4, 0).readmitted, 4, "none may");
        assert_eq!(Ejection::capped(10, 4, 4, 30).readmitted, 1);
    }

    proptest! {
        #[test]
        fn no_more_stay_ejected_than_the_cap_allows_or_are_dead(
            serving in 0usize..300, ejected in 0usize..300, broken in 0usize..300, percent in 0u8..=100
        ) {
            let ejected = ejected.min(serving);
            let broken = broken.min(ejected);
            let ejection = Ejection::capped(serving, ejected, broken, percent);
            let stay = ejected - ejection.readmitted;
            prop_assert!(stay <= (serving * usize::from(percent) / 100).max(ejected - broken).max(usize::from(percent > 0)));
            prop_assert!(ejection.readmitted <= broken);
        }
    }
}
