//! What changed since the last look: backends, breakers, notices, clusters that wake.
//!
//! Owns what was told of each backend. A change that is undone between two looks is not told.

use crate::roster::Roll;
use crate::snapshot::Snapshot;
use llm_router_logic::guard::breaker::BreakerState;
use llm_router_logic::ids::BackendId;
use llm_router_logic::report::Health;
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::view::BackendView;
use llm_router_logic::warmth::Warmth;
use llm_router_logic::webhook::Told;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was told.
#[derive(Default)]
pub(super) struct Watch {
    backends: BTreeMap<BackendId, Seen>,
    /// What was looked at last: as long as it is the same, nothing changed.
    last: Option<(Arc<Snapshot>, Arc<Roll>)>,
    /// Whether the next look only takes notice.
    silent: bool,
}

#[derive(Default)]
struct Seen {
    /// Whether it served when it was looked at last.
    up: bool,
    down: bool,
    /// Models whose breaker was told to be open.
    open: BTreeSet<String>,
    notice: Option<u64>,
    waking: bool,
}

impl Watch {
    /// Begins anew: what is so at the next look is no news, except that a backend is down.
    pub(super) fn begin(&mut self) {
        *self = Self { silent: true, ..Self::default() };
    }

    /// What is news in `snapshot` and `roll`.
    pub(super) fn look(
        &mut self,
        snapshot: &Arc<Snapshot>,
        roll: &Arc<Roll>,
        now: Moment,
        unix_ms: u64,
    ) -> Vec<Told> {
        let same = |(one, other): &(Arc<Snapshot>, Arc<Roll>)| {
            Arc::ptr_eq(one, snapshot) && Arc::ptr_eq(other, roll)
        };
        if self.last.as_ref().is_some_and(same) {
            return Vec::new();
        }
        self.last = Some((Arc::clone(snapshot), Arc::clone(roll)));
        let silent = std::mem::take(&mut self.silent);
        let view = &snapshot.view;
        self.backends.retain(|id, _| view.backends.iter().any(|backend| backend.spec.id == *id));
        let mut news = Vec::new();
        for backend in &view.backends {
            let id = &backend.spec.id;
            let seen = self.backends.entry(id.clone()).or_default();
            seen.health(backend, &mut news);
            let mut more = Vec::new();
            seen.breakers(backend, now, &mut more);
            if let Some(stated) = roll.backends.get(id) {
                let notice = stated.spoken.preemption.value;
                if seen.notice != notice {
                    seen.notice = notice;
                    if let Some(at_unix_ms) = notice.filter(|at| *at > unix_ms) {
                        more.push(Told::SpotNotice { backend: id.clone(), at_unix_ms });
                    }
                }
                let is_ours = stated.waker.as_ref() == Some(&view.node);
                seen.waking(id, stated.standing.warmth, is_ours, now, &mut more);
            }
            if !silent {
                news.append(&mut more);
            }
        }
        news
    }
}

impl Seen {
    fn health(&mut self, backend: &BackendView, news: &mut Vec<Told>) {
        let Some(own) = &backend.own else { return };
        let health = own.report.health;
        let tell = |health| Told::Backend { backend: backend.spec.id.clone(), health };
        match health {
            Health::Healthy => {
                if std::mem::take(&mut self.down) {
                    news.push(tell(health));
                }
                self.up = true;
            }
            // One that loads its model has left off serving, or has not begun to.
            Health::Unhealthy | Health::Loading => {
                let news_of_it = !self.down && (self.up || health == Health::Unhealthy);
                if news_of_it {
                    self.down = true;
                    news.push(tell(health));
                }
                self.up = false;
            }
            // It sleeps, or nobody has looked yet.
            Health::Unknown => self.up = false,
        }
    }

    fn breakers(&mut self, backend: &BackendView, now: Moment, news: &mut Vec<Told>) {
        let Some(own) = &backend.own else { return };
        let id = &backend.spec.id;
        let mut open = BTreeSet::new();
        for guard in own.guards.iter() {
            match guard.breaker_at(now) {
                BreakerState::Open { .. } => {
                    if !self.open.contains(&guard.model) {
                        let why = guard.cause.map(|cause| cause.to_string());
                        let (backend, model) = (id.clone(), guard.model.clone());
                        news.push(Told::Breaker { backend, model, open: true, why });
                    }
                    open.insert(guard.model.clone());
                }
                // Its trial decides: told of neither way.
                BreakerState::HalfOpen if self.open.contains(&guard.model) => {
                    open.insert(guard.model.clone());
                }
                BreakerState::HalfOpen | BreakerState::Closed => {}
            }
        }
        for model in self.open.difference(&open) {
            news.push(Told::Breaker { backend: id.clone(), model: model.clone(), open: false, why: None });
        }
        self.open = open;
    }

    /// Told by the router that wakes it, and by no other.
    fn waking(&mut self, id: &BackendId, warmth: Warmth, is_ours: bool, now: Moment, news: &mut Vec<Told>) {
        match warmth {
            Warmth::Waking { until } => {
                if is_ours && !std::mem::replace(&mut self.waking, true) {
                    let ready_in_ms = millis(until.since(now));
                    news.push(Told::Wake { backend: id.clone(), ready: false, ready_in_ms });
                }
            }
            Warmth::Warm => {
                if std::mem::take(&mut self.waking) {
                    news.push(Told::Wake { backend: id.clone(), ready: true, ready_in_ms: 0 });
                }
            }
            Warmth::Cold { .. } => self.waking = false,
        }
    }
}
