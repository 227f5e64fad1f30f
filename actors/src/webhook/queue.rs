//! What one endpoint has still to be told: bounded, and the oldest goes first where it is too much.
//!
//! Decisions come in numbers and are told last; they never push out anything else.

use llm_router_logic::time::Moment;
use llm_router_logic::webhook::{Event, Kind};
use std::collections::VecDeque;
use std::sync::Arc;

/// An event on its way.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) event: Arc<Event>,
    /// When it was left here.
    pub(super) since: Moment,
    /// Tries that failed.
    pub(super) tries: u32,
}

/// The events of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Queue {
    decisions: VecDeque<Item>,
    others: VecDeque<Item>,
    /// The one under way: it is here until it has arrived or was given up.
    sending: Option<Item>,
}

impl Queue {
    /// Keeps `item`. Returns how many were dropped so that at most `max` wait.
    pub(super) fn push(&mut self, item: Item, max: usize) -> u64 {
        let is_decision = item.event.kind() == Kind::Decision;
        if is_decision && self.others.len() >= max {
            return 1;
        }
        let lane = if is_decision { &mut self.decisions } else { &mut self.others };
        lane.push_back(item);
        let mut dropped = 0;
        while self.decisions.len() + self.others.len() > max {
            if self.decisions.pop_front().is_none() {
                self.others.pop_front();
            }
            dropped += 1;
        }
        dropped
    }

    /// The event to be sent now: the one under way, else the oldest that is no decision, else the oldest.
    pub(super) fn next(&mut self) -> Option<Item> {
        if self.sending.is_none() {
            self.sending = self.others.pop_front().or_else(|| self.decisions.pop_front());
        }
        self.sending.clone()
    }

    /// The one under way failed and stays.
    pub(super) fn tried(&mut self) {
        if let Some(item) = &mut self.sending {
            item.tries += 1;
        }
    }

    /// The one under way arrived, or was given up.
    pub(super) fn done(&mut self) {
        self.sending = None;
    }

    /// Events that have not arrived.
    pub(super) fn len(&self) -> usize {
        self.decisions.len() + self.others.len() + usize::from(self.sending.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_router_logic::ids::{BackendId, NodeId, Region};
    use llm_router_logic::report::Health;
    use llm_router_logic::webhook::{DecisionTold, Told};
    use proptest::prelude::*;

    fn item(nth: u64, decision: bool) -> Item {
        let told = if decision {
            Told::Decision(Box::new(DecisionTold {
                id: String::new(),
                unix_ms: 0,
                model: String::new(),
                strategy: "",
                backend: None,
                backend_model: None,
                reason: None,
                outcome: "served",
                status: 200,
                attempts: Vec::new(),
                ttft_ms: None,
                duration_ms: 0,
                input_tokens: 0,
                output_tokens: 0,
                cost_usd: None,
                external_cost_usd: None,
            }))
        } else {
            Told::Backend { backend: BackendId::new("b"), health: Health::Unhealthy }
        };
        let event = Event::new(told, (NodeId::new("n"), Region::new("r")), "", nth, [nth, nth]);
        Item { event: Arc::new(event), since: Moment::ZERO, tries: 0 }
    }

    fn number(item: &Item) -> u64 {
        item.event.at_unix_ms
    }

    proptest! {
        /// Against a plain list: of what is pushed, dropped and sent nothing is lost uncounted, nothing comes
        /// twice, and of its kind everything comes in order.
        #[test]
        fn whatever_is_left_here_arrives_in_order_or_is_counted(
            steps in proptest::collection::vec((0_u8..4, any::<bool>()), 1..200),
            max in 1_usize..8,
        ) {
            let mut queue = Queue::default();
            let (mut pushed, mut dropped, mut arrived) = (0_u64, 0_u64, Vec::new());
            let (mut last_decision, mut last_other) = (None, None);
            for (step, decision) in steps {
                match step {
                    0 | 1 => {
                        dropped += queue.push(item(pushed, decision), max);
                        pushed += 1;
                    }
                    2 => {
                        queue.next();
                        queue.tried();
                    }
                    _ => {
                        if let Some(item) = queue.next() {
                            let last = if item.event.kind() == Kind::Decision { &mut last_decision } else { &mut last_other };
                            prop_assert!(last.is_none_or(|last| last < number(&item)));
                            *last = Some(number(&item));
                            arrived.push(number(&item));
                            queue.done();
                        }
                    }
                }
                prop_assert!(queue.len() <= max + 1, "one more is under way");
                prop_assert_eq!(pushed, dropped + arrived.len() as u64 + queue.len() as u64);
            }
        }
    }

    #[test]
    fn decisions_go_first_when_it_is_too_much_and_come_last() {
        let mut queue = Queue::default();
        assert_eq!(queue.push(item(0, true), 3), 0);
        assert_eq!(queue.push(item(1, false), 3), 0);
        assert_eq!(queue.push(item(2, true), 3), 0);
        assert_eq!(queue.push(item(3, false), 3), 1, "the oldest decision");
        assert_eq!(queue.push(item(4, false), 3), 1, "the other decision");
        assert_eq!(queue.push(item(5, true), 3), 1, "a decision pushes nothing else out");
        assert_eq!(queue.push(item(6, false), 3), 1, "the oldest");
        let left: Vec<u64> = std::iter::from_fn(|| {
            let next = queue.next();
            queue.done();
            next.map(|item| number(&item))
        })
        .collect();
        assert_eq!(left, [3, 4, 6]);
    }
}
