//! Whether a new report of a backend is worth telling the peers.
//!
//! Owns what was told last about one backend. Flips are told at once, real changes at most five times
//! a second, and what stays the same every two seconds, so that peers' age limit
//! ([`PEER_FACT_LIMIT`](crate::view::PEER_FACT_LIMIT)) holds for as long as the observation does
//! ([`holding`]), however seldom the backend is looked at.

use crate::gossip::codec::quantised;
use crate::report::Report;
use crate::time::{Moment, millis_u32};
use std::time::Duration;

/// The least time between two tellings of mere changes.
const CHANGE_INTERVAL: Duration = Duration::from_millis(200);
/// After this long the same report is told again.
const REAFFIRM_INTERVAL: Duration = Duration::from_secs(2);

/// How much longer than two probe intervals an observation stands: a probe and its wait may take that long.
const PROBE_SLACK: Duration = Duration::from_secs(10);

/// What may still be told at `now` of `report`, observed at `observed_at` by a node that looks every
/// `interval`: the report with its back-off run down; `None` once two looks are overdue, since nobody is
/// looking any more.
pub fn holding(report: &Report, observed_at: Moment, interval: Duration, now: Moment) -> Option<Report> {
    let age = now.since(observed_at);
    let stands = age <= interval.saturating_mul(2).saturating_add(PROBE_SLACK);
    let backoff_ms = report.backoff_ms.saturating_sub(millis_u32(age));
    stands.then_some(Report { backoff_ms, ..*report })
}

/// What was told last about one backend.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    told: Option<(Report, Moment)>,
    beat: u8,
}

impl Pace {
    /// Whether `report`, just observed, is worth telling; if so it counts as told.
    pub fn worth_telling(&mut self, report: &Report, now: Moment) -> bool {
        let next = quantised(report);
        let worth = match &self.told {
            None => true,
            Some((told, at)) => {
                let passed = now.since(*at);
                flips(told, &next)
                    || passed >= REAFFIRM_INTERVAL
                    || (passed >= CHANGE_INTERVAL && changes(told, &next))
            }
        };
        if worth {
            self.told = Some((next, now));
            self.beat = self.beat.wrapping_add(1);
        }
        worth
    }

    /// How long `report` is held back that would be told, were the last telling not so near; `None` where it is
    /// not worth telling at all.
    pub fn held_back(&self, report: &Report, now: Moment) -> Option<Duration> {
        let (told, at) = self.told.as_ref()?;
        let wait = CHANGE_INTERVAL.saturating_sub(now.since(*at));
        (!wait.is_zero() && changes(told, &quantised(report))).then_some(wait)
    }

    /// A number that differs from the one before with every telling: goes into
    /// [`encode_report`](crate::gossip::codec::encode_report), since an equal value would not travel.
    pub fn beat(&self) -> u8 {
        self.beat
    }
}

/// Whether the backend may be used now and could not before, or the other way round.
fn flips(told: &Report, next: &Report) -> bool {
    told.health != next.health
        || told.breaker_open != next.breaker_open
        || (told.backoff_ms == 0) != (next.backoff_ms == 0)
}

/// Whether a figure moved enough to move a decision.
fn changes(told: &Report, next: &Report) -> bool {
    told.slots != next.slots
        || count_changes(told.queue_depth, next.queue_depth)
        || use_changes(told.in_flight, next.in_flight)
        || figure_changes(told.tokens_per_second, next.tokens_per_second)
        || figure_changes(told.latency_p95_ms.map(|ms| ms as f32), next.latency_p95_ms.map(|ms| ms as f32))
        || figure_changes(told.ttft_ms.map(|ms| ms as f32), next.ttft_ms.map(|ms| ms as f32))
        // A back-off only runs down by itself; what grows was set anew.
        || next.backoff_ms > told.backoff_ms
}

/// A count changes when it leaves or reaches zero, or moves by a quarter and by two.
fn count_changes(told: u32, next: u32) -> bool {
    (told == 0) != (next == 0) || told.abs_diff(next) >= (told.max(next) / 4).max(2)
}

/// Places in use change with each one of a few, since routers divide a backend's places by them, and by a quarter
/// where they are many.
fn use_changes(told: u32, next: u32) -> bool {
    (told == 0) != (next == 0) || told.abs_diff(next) >= (told.max(next) / 4).max(1)
}

/// A figure changes when it becomes known or unknown, or moves by a quarter. RTT is left out: it is
/// this node's own and no peer uses it.
fn figure_changes(told: Option<f32>, next: Option<f32>) -> bool {
    match (told, next) {
        (Some(told), Some(next)) => (told - next).abs() > told.max(next) / 4.0,
        (told, next) => told.is_some() != next.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Health;
    use proptest::prelude::*;

    fn healthy() -> Report {
        Report { health: Health::Healthy, ttft_ms: Some(100), queue_depth: 4, ..Report::default() }
    }

    fn ms(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn told(reports: &[(u64, Report)]) -> Vec<bool> {
        let mut pace = Pace::default();
        reports.iter().map(|(at, report)| pace.worth_telling(report, ms(*at))).collect()
    }

    #[test]
    fn a_change_that_comes_too_soon_is_told_as_soon_as_it_may_be() {
        let mut pace = Pace::default();
        let busy = Report { in_flight: 1, ..healthy() };
        assert!(pace.worth_telling(&healthy(), ms(0)));
        assert_eq!(pace.held_back(&healthy(), ms(50)), None, "nothing has changed");
        assert!(!pace.worth_telling(&busy, ms(50)));
        assert_eq!(pace.held_back(&busy, ms(50)), Some(Duration::from_millis(150)));
        assert!(pace.worth_telling(&busy, ms(200)));
    }

    #[test]
    fn each_of_a_few_places_in_use_is_told() {
        let using = |in_flight| Report { in_flight, ..healthy() };
        assert_eq!(told(&[(0, using(1)), (300, using(2)), (600, using(1))]), [true; 3]);
        assert_eq!(told(&[(0, using(40)), (300, using(41))]), [true, false]);
    }

    #[test]
    fn the_first_report_is_told() {
        assert_eq!(told(&[(0, Report::default())]), [true]);
    }

    #[test]
    fn a_flip_is_told_at_once() {
        let well = healthy();
        let ill = Report { health: Health::Unhealthy, ..well };
        let open = Report { breaker_open: true, ..well };
        let backed_off = Report { backoff_ms: 500, ..well };
        assert_eq!(
            told(&[(0, well), (1, ill), (2, well), (3, open), (4, well), (5, backed_off), (6, well)]),
            [true; 7]
        );
    }

    #[test]
    fn drift_is_not_told() {
        let slower = Report { ttft_ms: Some(120), queue_depth: 5, rtt_ms: Some(9), ..healthy() };
        assert_eq!(told(&[(0, healthy()), (500, slower), (1_999, slower)]), [true, false, false]);
    }

    #[test]
    fn a_real_change_is_told_no_sooner_than_a_fifth_of_a_second_after_the_last() {
        let busy = Report { queue_depth: 8, ..healthy() };
        assert_eq!(told(&[(0, healthy()), (199, busy), (200, busy)]), [true, false, true]);
    }

    #[test]
    fn a_back_off_that_runs_down_is_not_told_again_and_a_longer_one_is() {
        let at = |backoff_ms| Report { backoff_ms, ..healthy() };
        assert_eq!(
            told(&[(0, at(900)), (300, at(600)), (600, at(300)), (900, at(5_000))]),
            [true, false, false, true]
        );
    }

    #[test]
    fn what_stays_the_same_is_told_every_two_seconds_with_another_beat() {
        let mut pace = Pace::default();
        let mut beats = Vec::new();
        for tick in 0..50 {
            if pace.worth_telling(&healthy(), ms(tick * 100)) {
                beats.push((tick, pace.beat()));
            }
        }
        assert_eq!(beats, [(0, 1), (20, 2), (40, 3)]);
    }

    #[test]
    fn an_observation_stands_until_two_looks_are_overdue_and_its_back_off_runs_down() {
        let report = Report { backoff_ms: 5_000, ..healthy() };
        let at = |secs| holding(&report, ms(1_000), Duration::from_secs(30), Moment::from_secs(secs));
        assert_eq!(at(1), Some(report));
        assert_eq!(at(4).map(|told| told.backoff_ms), Some(2_000));
        assert_eq!(at(71).map(|told| told.backoff_ms), Some(0));
        assert_eq!(at(72), None);
    }

    proptest! {
        #[test]
        fn without_a_flip_never_more_than_five_a_second_and_never_silent_for_two(
            steps in proptest::collection::vec((1u64..400, 0u32..50, 0u32..5_000), 1..300)
        ) {
            let mut pace = Pace::default();
            let mut now = Moment::ZERO;
            let mut tellings = Vec::new();
            for (wait, queue_depth, ttft) in steps {
                now = now + Duration::from_millis(wait);
                let report = Report { queue_depth, ttft_ms: Some(ttft), ..healthy() };
                if pace.worth_telling(&report, now) {
                    tellings.push(now);
                }
                prop_assert!(now.since(*tellings.last().unwrap()) < Duration::from_secs(2));
            }
            for pair in tellings.windows(2) {
                prop_assert!(pair[1].since(pair[0]) >= Duration::from_millis(200));
            }
        }
    }
}
