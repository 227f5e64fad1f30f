//! Who may send the trial request of a half-open breaker, for a node without peers.

use crate::ports::Trials;
use llm_router_logic::ids::BackendId;
use llm_router_logic::time::Moment;

/// This node, always: its gate lets one trial at a time through.
pub(crate) struct Alone;

impl Trials for Alone {
    fn may_try(&self, _backend: &BackendId, _model: &str, _now: Moment) -> bool {
        true
    }
}
