//! What can be broken in the demo, and the breaking and mending of it.
//!
//! Owns which breakages are in force. Each mends itself after a while, so that nobody leaves a broken demo
//! behind, and none that is killed needs a router to bring it back.

use super::fleet::Fleet;
use super::scenario::{CLUSTERS, PLACES, PROVIDERS};
use crate::mock::{Action, Faults, Speed};
use llm_router_actors::handle::Word;
use llm_router_logic::ids::BackendId;
use llm_router_logic::time::millis;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The answer to whoever asked gets out before its router is killed.
const KILL_AFTER: Duration = Duration::from_millis(300);
/// Notice that a spot machine's end is announced with; real clouds give 30 s to two minutes.
const SPOT_NOTICE: Duration = Duration::from_secs(8);
/// A slow cluster takes so many times as long.
const SLOWER: f64 = 12.0;
/// Pause before a killed router is started once more where its port is still taken.
const START_AGAIN: Duration = Duration::from_millis(500);
const STARTS_MAX: usize = 10;

/// A way to break things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A region's router crashes.
    Kill,
    /// A region is cut off from the others; providers stay in reach.
    Partition,
    /// A cluster answers slowly.
    Slow,
    /// Far more requests come in.
    Burst,
    /// A spot machine is taken away, after notice.
    Preempt,
    /// A provider answers every request with an error.
    Outage,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Kill, Self::Partition, Self::Slow, Self::Burst, Self::Preempt, Self::Outage];

    /// The word for it in addresses.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Partition => "partition",
            Self::Slow => "slow",
            Self::Burst => "burst",
            Self::Preempt => "preempt",
            Self::Outage => "outage",
        }
    }

    fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            Self::Kill | Self::Preempt => 45,
            Self::Burst => 20,
            Self::Partition | Self::Slow | Self::Outage => 60,
        })
    }

    fn targets(self) -> Vec<&'static str> {
        match self {
            Self::Kill | Self::Partition => PLACES.iter().map(|place| place.region).collect(),
            Self::Slow => CLUSTERS.iter().map(|cluster| cluster.name).collect(),
            Self::Burst => vec!["all"],
            Self::Preempt => {
                CLUSTERS.iter().filter(|cluster| cluster.is_spot()).map(|cluster| cluster.name).collect()
            }
            Self::Outage => PROVIDERS.iter().map(|provider| provider.name).collect(),
        }
    }
}

/// One thing that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Breakage {
    pub(super) kind: Kind,
    /// A region, a backend, or `all`.
    pub(super) target: &'static str,
}

impl Breakage {
    /// Everything that can be broken.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let of = |kind: Kind| kind.targets().into_iter().map(move |target| Self { kind, target });
        Kind::ALL.into_iter().flat_map(of)
    }

    fn place(self) -> Option<usize> {
        PLACES.iter().position(|place| place.region == self.target)
    }
}

/// How one thing stands.
#[derive(Debug, Serialize)]
pub(super) struct Standing {
    #[serde(flatten)]
    breakage: Breakage,
    /// How long it has been broken; `null` where it is whole.
    since_ms: Option<u64>,
    /// Time until it mends itself.
    mends_in_ms: Option<u64>,
}

struct Broken {
    since: Instant,
    mend: CancellationToken,
}

/// What is broken now.
#[derive(Default)]
pub(super) struct Breakages {
    broken: Mutex<BTreeMap<Breakage, Broken>>,
    running: TaskTracker,
}

impl Breakages {
    /// Breaks it; it mends itself later. Nothing where it is broken already.
    pub(super) fn begin(&self, fleet: &Arc<Fleet>, breakage: Breakage) {
        let mend = CancellationToken::new();
        {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            if self.running.is_closed() || broken.contains_key(&breakage) {
                return;
            }
            broken.insert(breakage, Broken { since: Instant::now(), mend: mend.clone() });
        }
        let fleet = Arc::clone(fleet);
        self.running.spawn(async move {
            carry_out(&fleet, breakage, &mend).await;
            fleet.breakages.broken.lock().unwrap_or_else(PoisonError::into_inner).remove(&breakage);
        });
    }

    /// Mends it now.
    pub(super) fn mend(&self, breakage: Breakage) {
        if let Some(one) = self.broken.lock().unwrap_or_else(PoisonError::into_inner).get(&breakage) {
            one.mend.cancel();
        }
    }

    /// Mends all and waits for it; nothing can be broken after.
    pub(super) async fn end(&self) {
        self.running.close();
        for one in self.broken.lock().unwrap_or_else(PoisonError::into_inner).values() {
            one.mend.cancel();
        }
        self.running.wait().await;
    }

    /// Whether it is broken now.
    pub(super) fn has(&self, breakage: Breakage) -> bool {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&breakage)
    }

    /// How everything stands.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = |breakage: Breakage| {
            let since = broken.get(&breakage).map(|one| one.since.elapsed());
            let left = since.map(|since| breakage.kind.lasts().saturating_sub(since));
            Standing { breakage, since_ms: since.map(millis), mends_in_ms: left.map(millis) }
        };
        Breakage::all().map(standing).collect()
    }
}

/// Breaks it, waits until it is to be mended, and mends it.
async fn carry_out(fleet: &Arc<Fleet>, breakage: Breakage, mend: &CancellationToken) {
    let until_mended = async {
        let _ = tokio::time::timeout(breakage.kind.lasts(), mend.cancelled()).await;
    };
    let target = breakage.target;
    match (breakage.kind, breakage.place()) {
        (Kind::Kill, Some(place)) => {
            tokio::time::sleep(KILL_AFTER).await;
            fleet.network.cut_off(place, true);
            fleet.kill(place).await;
            until_mended.await;
            fleet.network.cut_off(place, fleet.is_partitioned(place));
            for _ in 0..STARTS_MAX {
                match fleet.revive(place).await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(%error, "a router of the demo cannot be started yet"),
                }
                tokio::time::sleep(START_AGAIN).await;
            }
        }
        (Kind::Partition, Some(place)) => {
            fleet.network.cut_off(place, true);
            until_mended.await;
            fleet.network.cut_off(place, false);
        }
        (Kind::Slow, _) => {
            let Some((mock, pace)) = fleet.mock(target).zip(fleet.pace(target)) else { return };
            let slow =
                Speed { ttft: pace.ttft.mul_f64(SLOWER), tokens_per_second: pace.tokens_per_second / SLOWER };
            mock.set_speed(slow);
            until_mended.await;
            mock.set_speed(Speed { ttft: pace.ttft, tokens_per_second: pace.tokens_per_second });
        }
        (Kind::Burst, _) => {
            fleet.burst.send_replace(true);
            until_mended.await;
            fleet.burst.send_replace(false);
        }
        (Kind::Preempt, _) => {
            let Some(mock) = fleet.mock(target) else { return };
            let at = std::time::SystemTime::now() + SPOT_NOTICE;
            let at = at.duration_since(std::time::UNIX_EPOCH).map_or(0, millis);
            fleet.say(&BackendId::new(target), Word::Preemption(Some(at)));
            if tokio::time::timeout(SPOT_NOTICE, mend.cancelled()).await.is_err() {
                mock.set_faults(out_of_reach());
                until_mended.await;
                mock.set_faults(Faults::none());
            }
            fleet.say(&BackendId::new(target), Word::Preemption(None));
        }
        (Kind::Outage, _) => {
            let Some(mock) = fleet.mock(target) else { return };
            mock.set_faults(failing());
            until_mended.await;
            mock.set_faults(Faults::none());
        }
        (Kind::Kill | Kind::Partition, None) => {}
    }
}

/// A machine that is gone: no answer, and not to the health check either.
fn out_of_reach() -> Faults {
    rules(&[Action::Unhealthy, Action::Disconnect])
}

/// A provider that is down: its status page may say otherwise, so its model list still answers.
fn failing() -> Faults {
    rules(&[Action::Status { code: 503, retry_after: None, body: None }])
}

fn rules(actions: &[Action]) -> Faults {
    let rule = |action: &Action| crate::mock::Rule {
        r#match: crate::mock::Match::default(),
        times: None,
        probability: None,
        action: action.clone(),
    };
    // Refused are only figures out of range, and there is none here.
    Faults::new(0, actions.iter().map(rule).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_can_be_broken_is_offered_and_mends_itself() {
        let all: Vec<Breakage> = Breakage::all().collect();
        for kind in Kind::ALL {
            assert!(all.iter().any(|breakage| breakage.kind == kind), "{kind:?}");
            assert!((5..=60).contains(&kind.lasts().as_secs()), "{kind:?}");
        }
        assert!(Kind::Preempt.lasts() > SPOT_NOTICE);
        let none_is_broken = |standing: &Standing| standing.since_ms.is_none();
        assert!(Breakages::default().standings().iter().all(none_is_broken));
    }

    #[test]
    fn the_rules_of_a_breakage_are_good_ones() {
        assert!(!out_of_reach().show().to_string().contains("[]"));
        assert!(failing().show().to_string().contains("503"));
    }
}
