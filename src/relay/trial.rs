//! The arms of experiments a call is in, and the plan that follows.
//!
//! An arm comes first and what would have been without it stands in: an experiment may cost a client a
//! slower answer, never an answer.

use super::estimate::Estimates;
use super::{Call, Relay};
use llm_router_logic::request::{ANY_MODEL, Request};
use llm_router_logic::route::experiment::{Experiment, Subject, assign};
use llm_router_logic::route::{Loads, Plan, Policy, PreparedView, Step, plan};
use llm_router_logic::time::Moment;

/// A request as its arms make it.
pub(crate) struct InArms {
    pub(crate) request: Request,
    /// Each as `experiment=arm`.
    pub(crate) arms: Vec<String>,
    /// The request without them, where they change whom it is sent to.
    without: Option<Request>,
}

impl InArms {
    /// `request` of `call` as the arms of `experiments` make it.
    pub(crate) fn new(
        experiments: &[Experiment],
        call: &Call,
        request: Request,
        estimates: &Estimates,
    ) -> Self {
        let none = |request| Self { request, arms: Vec::new(), without: None };
        if experiments.is_empty() {
            return none(request);
        }
        let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok());
        let user = call.inspected.session.as_deref();
        let subject = Subject {
            model: request.model.as_deref().unwrap_or(ANY_MODEL),
            tenant: Some(call.principal.tenant.as_str()),
            session: call.session.as_deref().or(user),
            user,
            header: &header,
        };
        // A strategy that authentication filled in is not the client's own.
        let mut asked = request.clone();
        if header("x-llm-router-strategy").is_none() {
            asked.hints.strategy = None;
        }
        let rights = &request.rights;
        let assigned = assign(experiments, &subject, &asked);
        // Whoever may not have every arm's strategy takes no part, so that shares stay true among the others.
        let allowed = assigned.into_iter().filter(|one| {
            let mut strategies = one.experiment.arms.iter().filter_map(|arm| arm.change.strategy);
            strategies.all(|strategy| rights.allow_strategy(strategy))
        });
        let allowed: Vec<_> = allowed.collect();
        if allowed.is_empty() {
            return none(request);
        }
        let (mut changed, mut arms, mut elsewhere) = (request.clone(), Vec::new(), false);
        for one in allowed {
            let change = &one.arm.change;
            change.apply(&mut changed);
            if change.model.is_some() {
                call.predict(estimates, &mut changed);
            }
            elsewhere |= change.model.is_some() || change.backend.is_some();
            arms.push(format!("{}={}", one.experiment.name, one.arm.name));
        }
        Self { request: changed, arms, without: elsewhere.then_some(request) }
    }

    /// The plan of the request in its arms, with the steps of the one without them behind.
    pub(crate) fn plan(
        &self,
        view: &PreparedView,
        loads: &impl Loads,
        policy: &Policy,
        draw: u64,
        now: Moment,
    ) -> Plan {
        let mut made = plan(view, loads, &self.request, policy, draw, now);
        let Some(without) = &self.without else { return made };
        let others = plan(view, loads, without, policy, draw, now);
        for step in others.steps {
            let known = |one: &Step| one.backend == step.backend && one.model == step.model;
            if !made.steps.iter().any(known) {
                made.refused.retain(|(id, _)| *id != step.backend);
                made.steps.push(step);
            }
        }
        made
    }
}

impl Relay {
    /// `request` of `call` as the arms it is in make it.
    pub(super) fn in_arms(&self, call: &Call, request: Request) -> InArms {
        InArms::new(&self.experiments, call, request, &self.estimates)
    }
}
