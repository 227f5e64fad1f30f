//! The decision record of a request.

use super::Tally;
use crate::decisions::{Circumstances, Decision, Outcome};
use crate::relay::account::unix_ms;
use llm_router_actors::Handle;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::guard::ejection::Ejection;
use llm_router_logic::ids::BackendId;
use llm_router_logic::request::{ANY_MODEL, Request};
use llm_router_logic::route::plan::rest;
use llm_router_logic::route::{Plan, Refusal, RefusalNote, Strategy};

/// The record of a request that was just planned.
pub(in crate::relay) fn open_record(handle: &Handle, request: &Request, plan: &Plan) -> Decision {
    let now = handle.clock().now();
    let note = |(id, refusal): &(BackendId, Refusal)| (id.clone(), RefusalNote::new(refusal.clone(), now));
    Decision {
        predicted_input_tokens: request.input_tokens,
        predicted_output_tokens: request.output_tokens,
        candidates: plan.steps.clone(),
        refused: plan.refused.iter().map(note).collect(),
        ejection: plan.ejection,
        ..blank_record(handle, request, plan.strategy)
    }
}

/// The record of a request of which nothing is known yet but what was asked for.
pub(in crate::relay) fn blank_record(handle: &Handle, request: &Request, strategy: Strategy) -> Decision {
    Decision {
        id: format!("d-{:016x}", handle.draw()),
        unix_ms: unix_ms(),
        model: request.model.clone().unwrap_or_else(|| ANY_MODEL.to_owned()),
        strategy,
        backend: None,
        backend_model: None,
        reason: None,
        outcome: Outcome::Running,
        status: 0,
        error: None,
        attempts: Vec::new(),
        passed_over: Vec::new(),
        stopped: None,
        ttft_ms: None,
        duration_ms: 0,
        predicted_input_tokens: 0,
        predicted_output_tokens: 0,
        predicted_cost: None,
        cost: None,
        external_cost: None,
        usage: Usage::default(),
        usage_estimated: false,
        candidates: Vec::new(),
        refused: Vec::new(),
        ejection: Ejection::default(),
        not_looked_at: Vec::new(),
        circumstances: Circumstances::default(),
    }
}

impl Tally {
    /// What the plan did not look at, now that nobody waits for the answer.
    pub(super) fn judge_rest(&mut self) {
        let Some(request) = self.rest_of.take() else { return };
        let (record, snapshot) = (&mut self.record, &*self.sources.snapshot);
        let view = &snapshot.view;
        let plain = |(id, note): &(BackendId, RefusalNote)| (id.clone(), note.refusal.clone());
        let (steps, refused) = (&record.candidates, &record.refused.iter().map(plain).collect::<Vec<_>>());
        for (id, why) in rest(steps, refused, view, snapshot, &request, &snapshot.policy, self.started) {
            match why {
                Some(refusal) => record.refused.push((id, RefusalNote::new(refusal, self.started))),
                None => record.not_looked_at.push(id),
            }
        }
    }
}
