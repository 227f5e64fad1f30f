//! Which sleeping cluster a request would have gone to.
//!
//! Asks [`plan`] a second time, on a view in which every sleeping cluster is awake. Only where one is: a fleet
//! that is awake pays nothing.

use crate::ids::BackendId;
use crate::money::Money;
use crate::report::{Health, Report};
use crate::request::Request;
use crate::route::eligible::known_models;
use crate::route::plan::{Loads, Plan, plan};
use crate::route::prepared::PreparedView;
use crate::route::strategy::Policy;
use crate::standing::Standing;
use crate::time::Moment;
use crate::view::{BackendView, ClusterView, OwnFact};
use crate::warmth::{Want, Warmth};
use std::sync::Arc;

/// `view` with every cluster that is asleep as it would be awake and idle; `None` where none is.
///
/// It is priced by the speed it was last measured at, else by the one configured, else not at all.
pub fn awake(view: &ClusterView, policy: &Policy, now: Moment) -> Option<PreparedView> {
    let asleep = |backend: &BackendView| is_asleep(backend, now);
    if !view.backends.iter().any(asleep) {
        return None;
    }
    let backends = view.backends.iter();
    let backends = backends.map(|one| if asleep(one) { awoken(one, now) } else { one.clone() }).collect();
    Some(PreparedView::new(ClusterView { backends, ..view.clone() }, policy, now, None))
}

fn is_asleep(backend: &BackendView, now: Moment) -> bool {
    let healthy = backend.facts(now).is_some_and(|facts| facts.report.health == Health::Healthy);
    backend.spec.scale_to_zero.is_some() && !healthy
}

fn awoken(backend: &BackendView, now: Moment) -> BackendView {
    let configured = backend.spec.scale_to_zero.as_ref().and_then(|settings| settings.tokens_per_second);
    let last = backend.own.as_ref().map(|own| own.report).unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more than an f32")]
    let report = Report {
        health: Health::Healthy,
        slots: last.slots,
        tokens_per_second: last.tokens_per_second.or(configured.map(|rate| rate as f32)),
        rtt_ms: last.rtt_ms,
        ..Report::default()
    };
    let own =
        OwnFact { report, observed_at: now, models: known_models(backend).into(), guards: Arc::from([]) };
    let spec = Arc::clone(&backend.spec);
    BackendView { spec, own: Some(own), peers: Vec::new(), standing: Standing::default() }
}

/// The cluster asleep in `view` that `request` would have gone to before the first step of `made`, and what going
/// elsewhere cost it. One that is waking goes before one that sleeps on, so that what one machine will do
/// wakes no second one. The two views are the one of `made` and the same [`awake`].
pub fn wanted(
    made: &Plan,
    (view, awake): (&ClusterView, &PreparedView),
    loads: &impl Loads,
    request: &Request,
    policy: &Policy,
    draw: u64,
    now: Moment,
) -> Option<(BackendId, Want)> {
    let waking = |index: usize| {
        let backend = &view.backends[index];
        let waking = matches!(backend.standing.warmth, Warmth::Waking { .. });
        is_asleep(backend, now).then_some(waking)
    };
    let dreamt = plan(awake, loads, request, policy, draw, now);
    let chosen = made.steps.first();
    let before =
        dreamt.steps.iter().take_while(|step| chosen.is_none_or(|chosen| chosen.backend != step.backend));
    let sleeping: Vec<_> = before.filter_map(|step| Some((step, waking(step.index)?))).collect();
    let first = sleeping.iter().find(|(_, waking)| *waking).or(sleeping.first());
    let (step, _) = first?;
    let want = match chosen {
        None => Want::Unserved,
        Some(chosen) => Want::Elsewhere(saving(chosen.predicted_cost(), step.predicted_cost())),
    };
    Some((step.backend.clone(), want))
}

fn saving(elsewhere: Option<Money>, there: Option<Money>) -> Option<Money> {
    Some(elsewhere? - there?)
}
