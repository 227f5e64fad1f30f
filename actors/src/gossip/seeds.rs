//! Seeds that are named and not addressed: looked up again while the node runs, since what a name stands for
//! changes, and a first answer may be wrong or missing.

use super::Msg;
use crate::ports::Resolve;
use llm_router_logic::time::Moment;
use ractor::ActorRef;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Between two look-ups while no peer is known to be alive.
const ALONE: Duration = Duration::from_millis(500);
/// Between two look-ups otherwise.
const IN_COMPANY: Duration = Duration::from_secs(15);
/// Addresses that one look-up may give.
const ADDRESSES_MAX: usize = 64;

/// The names among a node's seeds.
pub(super) struct Names {
    names: Vec<String>,
    resolver: Arc<dyn Resolve>,
    next: Moment,
    /// A look-up is under way.
    asked: bool,
    /// A failure was said already.
    told: bool,
}

/// Splits `seeds` into those that are addresses, and the rest.
pub(super) fn split(seeds: &[String], resolver: Arc<dyn Resolve>) -> (Vec<String>, Names) {
    let is_address = |seed: &String| seed.parse::<SocketAddr>().is_ok();
    let (addresses, names) = seeds.iter().cloned().partition(is_address);
    (addresses, Names { names, resolver, next: Moment::ZERO, asked: false, told: false })
}

impl Names {
    /// Looks them up where it is time; the answer comes as a message.
    pub(super) fn look_up(&mut self, me: &ActorRef<Msg>, now: Moment) {
        if self.names.is_empty() || self.asked || now < self.next {
            return;
        }
        self.asked = true;
        let (names, resolver, me) = (self.names.clone(), Arc::clone(&self.resolver), me.clone());
        tokio::spawn(async move {
            let (mut found, mut failed) = (BTreeSet::new(), None);
            for name in names {
                match resolver.resolve(name.clone()).await {
                    Ok(addresses) => found.extend(addresses.into_iter().take(ADDRESSES_MAX)),
                    Err(why) => failed = Some(format!("`{name}`: {why}")),
                }
            }
            // A dead actor's successor looks up for itself.
            let _ = me.cast(Msg::Resolved(found.into_iter().take(ADDRESSES_MAX).collect(), failed));
        });
    }

    /// An answer came.
    pub(super) fn resolved(&mut self, failed: Option<&str>, alone: bool, now: Moment) {
        self.asked = false;
        self.next = now + if alone { ALONE } else { IN_COMPANY };
        if let Some(why) = failed
            && !self.told
        {
            tracing::warn!(why, "cannot look up a seed, will try again: check `gossip.seeds`");
        }
        self.told = failed.is_some();
    }
}
