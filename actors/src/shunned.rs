//! Peers whose relay failed a moment ago: nobody waits for the same closed door twice.
//!
//! Gossip tells that a peer lives, not that its relay is reached from here. A failed call takes its relay out of
//! the view for a while.

use crate::clock::Clock;
use llm_router_logic::ids::NodeId;
use llm_router_logic::time::Moment;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a relay that could not be reached is left alone.
const SHUNNED_FOR: Duration = Duration::from_secs(5);
/// Peers remembered.
const SHUNNED_MAX: usize = 1_024;

/// Whose relay is left alone, and until when.
#[derive(Debug)]
pub(crate) struct Shunned {
    clock: Clock,
    until: Mutex<BTreeMap<NodeId, Moment>>,
}

impl Shunned {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, until: Mutex::default() }
    }

    /// The relay of `node` could not be reached.
    pub(crate) fn failed(&self, node: &NodeId) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        until.retain(|_, until| *until > now);
        if until.len() < SHUNNED_MAX {
            until.insert(node.clone(), now + SHUNNED_FOR);
        }
    }

    /// Whether it is left alone now.
    pub(crate) fn is_shunned(&self, node: &NodeId) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.get(node).is_some_and(|until| *until > self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_failed_is_left_alone_for_a_while() {
        let shunned = Shunned::new(Clock::start());
        let (a, b) = (NodeId::new("a"), NodeId::new("b"));
        shunned.failed(&a);
        assert!(shunned.is_shunned(&a) && !shunned.is_shunned(&b));
        tokio::time::advance(SHUNNED_FOR).await;
        assert!(!shunned.is_shunned(&a));
    }
}
