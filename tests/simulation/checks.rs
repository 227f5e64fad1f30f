//! The invariants, each a function of the history alone, each proven by a history that breaks it.

use crate::history::{End, Event};
use llm_router_logic::report::Health;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

type Recorded = [(Duration, Event)];

/// What a request may take beyond its deadline: a stopped router answers once it goes on.
const LATE: Duration = Duration::from_secs(16);
/// A backend known dead for longer than this gets no new attempt.
const KNOWN_DEAD_MS: u64 = 1_000;
/// After the last fault the views are equal within this.
const EQUAL_WITHIN: Duration = Duration::from_secs(3);
/// Trials of one backend are at least this far apart: a breaker stays open for longer.
const TRIAL_WINDOW: Duration = Duration::from_secs(2);

/// Every broken invariant, in words.
pub(crate) fn all(events: &Recorded) -> Vec<String> {
    [
        one_end_per_request,
        one_attempt_per_answer,
        no_attempt_at_the_dead,
        one_trial_per_window,
        views_become_equal,
        totals_never_fall,
        relayed_once,
    ]
    .iter()
    .flat_map(|check| check(events))
    .collect()
}

/// Every request has exactly one terminal outcome, in time, and no answer ends without an end.
fn one_end_per_request(events: &Recorded) -> Vec<String> {
    let mut open: BTreeMap<u64, (Duration, Duration)> = BTreeMap::new();
    let mut ended = BTreeSet::new();
    let mut broken = Vec::new();
    for (at, event) in events {
        match event {
            Event::Sent { request, deadline_ms, .. } => {
                open.insert(*request, (*at, Duration::from_millis(*deadline_ms)));
            }
            Event::Ended { request, end, .. } => {
                let Some((sent, deadline)) = open.remove(request) else {
                    let why = if ended.contains(request) { "ended twice" } else { "ended without a start" };
                    broken.push(format!("request {request} {why} at {at:?}"));
                    continue;
                };
                ended.insert(*request);
                if *at > sent + deadline + LATE {
                    broken.push(format!("request {request} of {sent:?} ended only at {at:?}"));
                }
                if matches!(end, End::Truncated | End::Unreadable) {
                    broken.push(format!("request {request} of {sent:?} ended {end:?} at {at:?}"));
                }
            }
            _ => {}
        }
    }
    broken
        .extend(open.iter().map(|(request, (sent, _))| format!("request {request} of {sent:?} never ended")));
    broken
}

/// The bytes of a response come from one attempt, whole and in order.
fn one_attempt_per_answer(events: &Recorded) -> Vec<String> {
    let mut broken = Vec::new();
    for (at, event) in events {
        let Event::Ended { request, end, pieces } = event else { continue };
        let attempts: BTreeSet<u64> = pieces.iter().map(|piece| piece.attempt).collect();
        if attempts.len() > 1 {
            broken.push(format!("request {request}: text of attempts {attempts:?} at {at:?}"));
        }
        if pieces.iter().enumerate().any(|(nth, piece)| piece.nth != nth as u64) {
            broken.push(format!("request {request}: pieces lost, repeated or out of order at {at:?}"));
        }
        if *end == End::Complete && pieces.is_empty() {
            broken.push(format!("request {request}: complete without any text at {at:?}"));
        }
    }
    broken
}

/// No new attempt to a backend that is dead and known to be, be it a breaker's trial.
fn no_attempt_at_the_dead(events: &Recorded) -> Vec<String> {
    let mut broken = Vec::new();
    for (at, event) in events {
        if let Event::Attempt { request, node, backend, known_dead_ms: Some(known), .. } = event
            && *known > KNOWN_DEAD_MS
        {
            broken.push(format!(
                "request {request}: node {node} tried backend {backend}, known dead for {known} ms, at {at:?}"
            ));
        }
    }
    broken
}

/// At most one half-open trial of a backend in the fleet per window.
fn one_trial_per_window(events: &Recorded) -> Vec<String> {
    let mut last: BTreeMap<usize, Duration> = BTreeMap::new();
    let mut broken = Vec::new();
    for (at, event) in events {
        if let Event::Attempt { node, backend, trial: true, .. } = event
            && let Some(before) = last.insert(*backend, *at)
            && *at - before < TRIAL_WINDOW
        {
            broken.push(format!("backend {backend} was tried at {before:?} and by node {node} at {at:?}"));
        }
    }
    broken
}

/// After the last fault, within its time, all routers list the same members and each has heard what
/// every other says of each backend.
fn views_become_equal(events: &Recorded) -> Vec<String> {
    let healed = events.iter().find(|(_, event)| *event == Event::Healed).map(|(at, _)| *at);
    let Some(healed) = healed else { return Vec::new() };
    let mut views: BTreeMap<usize, &Event> = BTreeMap::new();
    let mut why = String::from("no view was seen");
    for (at, event) in events.iter().filter(|(at, _)| *at >= healed && *at <= healed + EQUAL_WITHIN) {
        if let Event::View { node, .. } = event {
            views.insert(*node, event);
            match difference(&views) {
                None if views.len() > 1 => return Vec::new(),
                None => {}
                Some(difference) => why = format!("at {at:?}: {difference}"),
            }
        }
    }
    vec![format!("views differ {EQUAL_WITHIN:?} after the last fault ended at {healed:?}: {why}")]
}

fn difference(views: &BTreeMap<usize, &Event>) -> Option<String> {
    for one in views.values() {
        let Event::View { name: speaker, own, generation, .. } = one else { continue };
        for two in views.values() {
            let Event::View { name: listener, members, said, .. } = two else { continue };
            if !members.contains(&(speaker.clone(), *generation)) {
                return Some(format!("`{listener}` does not list `{speaker}` of {generation}: {members:?}"));
            }
            if members.len() != views.len() {
                return Some(format!("`{listener}` lists {members:?}"));
            }
            if speaker == listener {
                continue;
            }
            for (backend, health) in own.iter().enumerate() {
                let heard = said.iter().find(|(by, of, _)| by == speaker && *of == backend);
                // A backend that is not looked at is not spoken of.
                let said = heard.map_or(Health::Unknown, |(_, _, health)| *health);
                if said != *health {
                    return Some(format!(
                        "`{speaker}` takes backend {backend} for {health:?}, `{listener}` heard {heard:?}"
                    ));
                }
            }
        }
    }
    None
}

/// A published total never falls within a generation.
fn totals_never_fall(events: &Recorded) -> Vec<String> {
    let mut last: BTreeMap<(usize, u64, &str), u64> = BTreeMap::new();
    let mut broken = Vec::new();
    for (at, event) in events {
        if let Event::Total { node, generation, name, value } = event
            && let Some(before) = last.insert((*node, *generation, name), *value)
            && before > *value
        {
            broken.push(format!("`{name}` of node {node} fell from {before} to {value} at {at:?}"));
        }
    }
    broken
}

/// No request is relayed twice.
fn relayed_once(events: &Recorded) -> Vec<String> {
    let mut hops: BTreeMap<u64, Vec<(usize, usize)>> = BTreeMap::new();
    for (_, event) in events {
        if let Event::Relayed { request, from, to } = event {
            hops.entry(*request).or_default().push((*from, *to));
        }
    }
    let chained =
        |hops: &Vec<(usize, usize)>| hops.iter().any(|(_, to)| hops.iter().any(|(from, _)| from == to));
    let broken = hops.iter().filter(|(_, hops)| chained(hops));
    broken.map(|(request, hops)| format!("request {request} was relayed on: {hops:?}")).collect()
}

/// Each checker, held against a history that breaks its invariant on purpose.
mod sim {
    use super::*;
    use crate::history::Piece;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(second: u32, event: Event) -> (Duration, Event) {
        (SECOND * second, event)
    }

    fn sent(request: u64) -> Event {
        Event::Sent { request, node: 0, deadline_ms: 20_000 }
    }

    fn ended(request: u64, end: End, pieces: &[(u64, u64)]) -> Event {
        let pieces = pieces.iter().map(|(attempt, nth)| Piece { attempt: *attempt, nth: *nth }).collect();
        Event::Ended { request, end, pieces }
    }

    fn attempt(known_dead_ms: Option<u64>, trial: bool) -> Event {
        Event::Attempt { attempt: 1, request: 1, node: 0, backend: 2, known_dead_ms, trial }
    }

    fn view(node: usize, heard_of_the_other: Health, members: usize) -> Event {
        let name = |node: usize| format!("n{node}");
        Event::View {
            node,
            name: name(node),
            generation: 1,
            members: (0..members).map(|member| (name(member), 1)).collect(),
            own: vec![Health::Healthy],
            said: vec![(name(1 - node), 0, heard_of_the_other)],
        }
    }

    #[test]
    fn a_good_history_passes_every_checker() {
        let good = [
            at(1, sent(1)),
            at(1, attempt(None, false)),
            at(2, ended(1, End::Complete, &[(1, 0), (1, 1)])),
            at(3, Event::Healed),
            at(4, view(0, Health::Healthy, 2)),
            at(4, view(1, Health::Healthy, 2)),
        ];
        assert_eq!(all(&good), Vec::<String>::new());
    }

    #[test]
    fn a_request_without_an_end_with_two_ends_late_or_cut_off_is_found() {
        assert_eq!(one_end_per_request(&[at(1, sent(1))]).len(), 1);
        let whole = || ended(1, End::Complete, &[(1, 0)]);
        assert_eq!(one_end_per_request(&[at(1, sent(1)), at(2, whole()), at(3, whole())]).len(), 1);
        assert_eq!(one_end_per_request(&[at(1, sent(1)), at(90, whole())]).len(), 1);
        for end in [End::Truncated, End::Unreadable] {
            assert_eq!(one_end_per_request(&[at(1, sent(1)), at(2, ended(1, end, &[]))]).len(), 1);
        }
    }

    #[test]
    fn an_answer_of_two_attempts_or_with_a_piece_lost_repeated_or_moved_is_found() {
        for pieces in [&[(1, 0), (2, 0)][..], &[(1, 0), (1, 2)], &[(1, 0), (1, 0)], &[(1, 1), (1, 0)], &[]] {
            assert_ne!(
                one_attempt_per_answer(&[at(2, ended(1, End::Complete, pieces))]).len(),
                0,
                "{pieces:?}"
            );
        }
    }

    #[test]
    fn an_attempt_at_a_backend_known_dead_is_found_also_where_it_is_a_trial() {
        assert_eq!(no_attempt_at_the_dead(&[at(1, attempt(Some(1_500), false))]).len(), 1);
        assert_eq!(no_attempt_at_the_dead(&[at(1, attempt(Some(900), false))]).len(), 0);
        assert_eq!(no_attempt_at_the_dead(&[at(1, attempt(Some(1_500), true))]).len(), 1);
    }

    #[test]
    fn two_trials_in_one_window_are_found() {
        let trial = || attempt(None, true);
        assert_eq!(one_trial_per_window(&[at(1, trial()), at(2, trial())]).len(), 1);
        assert_eq!(one_trial_per_window(&[at(1, trial()), at(9, trial())]).len(), 0);
    }

    #[test]
    fn views_that_stay_different_are_found() {
        let differing =
            |one: Event, two: Event| views_become_equal(&[at(3, Event::Healed), at(4, one), at(4, two)]);
        let good = |node| view(node, Health::Healthy, 2);
        assert_eq!(differing(good(0), good(1)).len(), 0);
        assert_eq!(differing(good(0), view(1, Health::Unhealthy, 2)).len(), 1, "what was heard is old");
        assert_eq!(differing(good(0), view(1, Health::Healthy, 1)).len(), 1, "a member is missing");
        assert_eq!(differing(good(0), view(1, Health::Healthy, 3)).len(), 1, "a member too many");
        let late = [at(3, Event::Healed), at(9, good(0)), at(9, good(1))];
        assert_eq!(views_become_equal(&late).len(), 1, "too late");
    }

    #[test]
    fn a_total_that_falls_within_a_generation_is_found() {
        let total = |generation, value| Event::Total { node: 1, generation, name: "spent".into(), value };
        assert_eq!(totals_never_fall(&[at(1, total(1, 5)), at(2, total(1, 4))]).len(), 1);
        assert_eq!(totals_never_fall(&[at(1, total(1, 5)), at(2, total(2, 0))]).len(), 0);
    }

    #[test]
    fn a_request_relayed_on_is_found() {
        let hop = |from, to| Event::Relayed { request: 1, from, to };
        assert_eq!(relayed_once(&[at(1, hop(0, 1)), at(1, hop(1, 2))]).len(), 1);
        assert_eq!(relayed_once(&[at(1, hop(0, 1)), at(2, hop(0, 2))]).len(), 0, "two attempts of one node");
    }
}
