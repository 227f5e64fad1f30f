//! The steps of a plan in the order they are tried, and how long a place at each is waited for.

use llm_router_actors::gate::NotAdmitted;
use llm_router_logic::ids::NodeId;
use llm_router_logic::route::{Reason, Step};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

/// Other ways to a backend that one request may try: each may cost it the wait for a connection.
const DETOURS_MAX: usize = 3;

/// How long a place is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// As long as a cluster may take to be eligible at all: there are others to go to.
    Latency,
    /// As long as the client waits: there is nothing better.
    Deadline,
}

/// The steps of a plan in the order they are tried: once around for a place soon, then by other ways to what
/// could not be connected to, then, of those that are full, the one with the shortest queue that can be waited
/// for.
pub(super) struct Candidates<'p> {
    steps: std::slice::Iter<'p, Step>,
    full: Vec<(Duration, Cow<'p, Step>)>,
    detours: VecDeque<Step>,
    /// Ways that led nowhere: the backend, and the peer it was tried through.
    closed: Vec<(usize, Option<NodeId>)>,
    /// Indexes of backends that a hedge has tried already.
    pub(super) used: Vec<usize>,
}

impl<'p> Candidates<'p> {
    pub(super) fn new(steps: &'p [Step]) -> Self {
        let (full, detours) = (Vec::new(), VecDeque::new());
        Self { steps: steps.iter(), full, detours, closed: Vec::new(), used: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Option<(Cow<'p, Step>, Wait)> {
        let used = &self.used;
        if let Some(step) = self.steps.by_ref().find(|step| !used.contains(&step.index)) {
            let only = self.steps.len() == 0 && self.full.is_empty();
            return Some((Cow::Borrowed(step), if only { Wait::Deadline } else { Wait::Latency }));
        }
        if let Some(step) = self.detours.pop_front() {
            return Some((Cow::Owned(step), Wait::Latency));
        }
        let shortest = self.full.iter().enumerate().min_by_key(|(_, (wait, _))| *wait)?.0;
        Some((self.full.swap_remove(shortest).1, Wait::Deadline))
    }

    /// Who would be tried next, if it is well.
    pub(super) fn rival(&self) -> Option<&'p Step> {
        let mut rest = self.steps.as_slice().iter();
        rest.find(|step| step.reason != Reason::LeastBad && !self.used.contains(&step.index))
    }

    /// `step` could not be connected to by its way. `around` finds another, given those that led nowhere; whether
    /// there is one, which is tried after the plan's other steps.
    pub(super) fn unconnected(
        &mut self,
        step: &Step,
        around: impl FnOnce(&dyn Fn(&NodeId) -> bool) -> Option<Step>,
    ) -> bool {
        self.closed.push((step.index, step.via.clone()));
        if self.closed.len() > DETOURS_MAX {
            return false;
        }
        let closed = &self.closed;
        let led_nowhere = |peer: &NodeId| {
            closed.iter().any(|(index, via)| *index == step.index && via.as_ref() == Some(peer))
        };
        let Some(detour) = around(&led_nowhere) else { return false };
        self.detours.push_back(detour);
        true
    }

    /// `step` had no place within `wait`.
    pub(super) fn refused(&mut self, step: Cow<'p, Step>, wait: Wait, refused: NotAdmitted, left: Duration) {
        let estimated = match refused {
            NotAdmitted::TooLate(estimated) => estimated,
            NotAdmitted::TimedOut(_) => Duration::ZERO,
            _ => return,
        };
        if wait == Wait::Latency && step.reason != Reason::LeastBad && estimated <= left {
            self.full.push((estimated, step));
        }
    }
}
