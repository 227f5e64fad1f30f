//! Events for endpoints outside: what is told to whom, and the actor that sees to it that it arrives.
//!
//! Started by `Root`. Whoever notices something leaves it in the bounded queues of [`Webhooks`], which outlive
//! the actor, and goes on: nobody waits for an endpoint, the request path least of all. The actor looks for what
//! changed a few times a second and keeps one task per endpoint, which delivers through [`Deliver`]. Lost on
//! restart of the actor: nothing; what was under way is sent again under the same id. Lost with the process:
//! what had not been delivered. Without an endpoint nothing runs.

mod queue;
mod watch;

use crate::address::Address;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::poison::poison;
use crate::ports::{Deliver, Draw, Parcel, Undelivered};
use crate::quota::Notice;
use crate::roster::Roll;
use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use llm_router_logic::guard::restart::{RestartPolicy, Restarts};
use llm_router_logic::ids::{NodeId, Region};
use llm_router_logic::webhook::{DecisionTold, Event, Kind, Told};
use queue::{Item, Queue};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use watch::Watch;

/// How often the view is compared with what was told.
const TICK: Duration = Duration::from_millis(200);
/// Pauses of an endpoint that refuses: 0.5 to 1 s, doubling up to a minute.
const PAUSES: RestartPolicy = RestartPolicy {
    delay_min: Duration::from_millis(500),
    delay_max: Duration::from_secs(60),
    calm: Duration::from_secs(3_600),
};
/// The longest `Retry-After` that is kept to.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// How often a stopping node looks whether everything has been delivered.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// An endpoint as it is configured. Where it is and what its secret is, [`Deliver`] knows.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSpec {
    /// Its name.
    pub name: Arc<str>,
    /// What it is told of.
    pub kinds: Vec<Kind>,
    /// The share of decisions it is told of, from 0 to 1.
    pub sample: f64,
    /// Events kept for it; beyond them the oldest are dropped.
    pub queue_max: usize,
    /// Tries of one event.
    pub attempts_max: u32,
    /// How long one try may take.
    pub timeout: Duration,
}

/// What all endpoints are told. Clones share it.
#[derive(Clone)]
pub struct Webhooks {
    inner: Arc<Inner>,
}

struct Inner {
    setting: Setting,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    actor: Address<Msg>,
    notices: Mutex<broadcast::Receiver<Notice>>,
    watch: Mutex<Watch>,
}

/// What a node's webhooks are made of.
pub(crate) struct Setting {
    pub(crate) node: NodeId,
    pub(crate) region: Region,
    /// Names the fleet; empty for a node alone.
    pub(crate) cluster: String,
    pub(crate) clock: Clock,
    pub(crate) draw: Draw,
    pub(crate) metrics: Metrics,
    pub(crate) published: Arc<ArcSwap<Snapshot>>,
    pub(crate) roll: Arc<ArcSwap<Roll>>,
    /// `None` = there is no way out, so no endpoint.
    pub(crate) deliver: Option<Arc<dyn Deliver>>,
}

/// One endpoint with what it has still to be told.
struct Endpoint {
    name: Arc<str>,
    spec: ArcSwap<EndpointSpec>,
    queue: Mutex<Queue>,
    filled: Notify,
    /// Whether it refused the latest try.
    failing: AtomicBool,
}

impl Endpoint {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change of a queue is one step: a panic cannot leave it inconsistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Webhooks {
    pub(crate) fn new(setting: Setting, notices: broadcast::Receiver<Notice>) -> Self {
        let inner = Inner {
            setting,
            endpoints: ArcSwap::default(),
            actor: Address::vacant(),
            notices: Mutex::new(notices),
            watch: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes over the endpoints of a configuration. One that stays keeps what it has still to be told.
    pub fn configure(&self, specs: Vec<EndpointSpec>) {
        if self.inner.setting.deliver.is_none() {
            return;
        }
        let before = self.inner.endpoints.load_full();
        let metrics = &self.inner.setting.metrics.webhook;
        let endpoints: Vec<Arc<Endpoint>> = specs
            .into_iter()
            .map(|spec| match before.iter().find(|endpoint| endpoint.name == spec.name) {
                Some(endpoint) => {
                    endpoint.spec.store(Arc::new(spec));
                    Arc::clone(endpoint)
                }
                None => {
                    metrics.open(&spec.name);
                    Arc::new(Endpoint {
                        name: Arc::clone(&spec.name),
                        spec: ArcSwap::from_pointee(spec),
                        queue: Mutex::default(),
                        filled: Notify::new(),
                        failing: AtomicBool::new(false),
                    })
                }
            })
            .collect();
        for gone in before.iter().filter(|old| !endpoints.iter().any(|new| new.name == old.name)) {
            metrics.forget(&gone.name);
        }
        if before.is_empty() && !endpoints.is_empty() {
            // What happened while nobody was to be told is no news.
            self.watch().begin();
            let mut notices = self.inner.notices.lock().unwrap_or_else(PoisonError::into_inner);
            *notices = notices.resubscribe();
        }
        self.inner.endpoints.store(Arc::new(endpoints));
        // A dead actor's successor looks at the endpoints first.
        self.inner.actor.send(Msg::Configured);
    }

    /// Tells what happened to everybody who is to know.
    pub fn tell(&self, told: Told) {
        self.queue(told, |_| true);
    }

    /// Tells of a decision to those in whose sample it is. `told` is called where there are any.
    pub fn decided(&self, told: impl FnOnce() -> DecisionTold) {
        let endpoints = self.inner.endpoints.load();
        if endpoints.is_empty() {
            return;
        }
        // One draw for all, so that a larger sample holds a smaller one.
        let draw = (self.inner.setting.draw)() as f64 / 2_f64.powi(64);
        let sampled = |spec: &EndpointSpec| draw < spec.sample;
        let wanted = endpoints.iter().any(|endpoint| {
            let spec = endpoint.spec.load();
            spec.kinds.contains(&Kind::Decision) && sampled(&spec)
        });
        if wanted {
            self.queue(Told::Decision(Box::new(told())), sampled);
        }
    }

    fn queue(&self, told: Told, may: impl Fn(&EndpointSpec) -> bool) {
        let endpoints = self.inner.endpoints.load();
        if endpoints.is_empty() {
            return;
        }
        let Setting { node, region, cluster, clock, draw, metrics, .. } = &self.inner.setting;
        let place = (node.clone(), region.clone());
        let event = Arc::new(Event::new(told, place, cluster, clock.unix_ms(), [draw(), draw()]));
        for endpoint in endpoints.iter() {
            let spec = endpoint.spec.load();
            if !spec.kinds.contains(&event.kind()) || !may(&spec) {
                continue;
            }
            let item = Item { event: Arc::clone(&event), since: clock.now(), tries: 0 };
            let (dropped, depth) = {
                let mut queue = endpoint.queue();
                (queue.push(item, spec.queue_max), queue.len())
            };
            metrics.webhook.dropped_total.with_label_values(&[&endpoint.name]).inc_by(dropped);
            metrics.webhook.show_depth(&endpoint.name, depth);
            endpoint.filled.notify_one();
        }
    }

    /// Tells what changed since the last look.
    fn look(&self) {
        for notice in self.take_notices() {
            let Notice { scope, percent, spent, limit, ends } = notice;
            let (spent_usd, limit_usd, period_ends_unix) = (spent, limit, ends);
            self.tell(Told::BudgetWarning { scope, percent, spent_usd, limit_usd, period_ends_unix });
        }
        let Setting { clock, published, roll, .. } = &self.inner.setting;
        let (snapshot, roll) = (published.load_full(), roll.load_full());
        let news = self.watch().look(&snapshot, &roll, clock.now(), clock.unix_ms());
        news.into_iter().for_each(|told| self.tell(told));
    }

    fn take_notices(&self) -> Vec<Notice> {
        let mut notices = self.inner.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        loop {
            match notices.try_recv() {
                Ok(notice) => taken.push(notice),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => {
                    let dropped = &self.inner.setting.metrics.webhook.dropped_total;
                    for endpoint in self.inner.endpoints.load().iter() {
                        dropped.with_label_values(&[&endpoint.name]).inc_by(missed);
                    }
                }
                Err(_) => return taken,
            }
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most `patience`, until every endpoint that answers has been told everything.
    pub(crate) async fn drain(&self, patience: Duration) {
        if self.inner.endpoints.load().is_empty() {
            return;
        }
        self.look();
        let drained = async {
            let waits = |endpoint: &Arc<Endpoint>| {
                !endpoint.failing.load(Ordering::Relaxed) && endpoint.queue().len() > 0
            };
            while self.inner.endpoints.load().iter().any(waits) {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        // Who has not taken everything by then is not waited for.
        let _ = tokio::time::timeout(patience, drained).await;
    }

    pub(crate) fn actor(&self) -> &Address<Msg> {
        &self.inner.actor
    }

    /// Delivers what `endpoint` is to be told, one after the other, for ever.
    async fn serve(self, endpoint: Arc<Endpoint>) {
        let mut pauses = Restarts::new(PAUSES);
        loop {
            let next = endpoint.queue().next();
            let Some(item) = next else {
                endpoint.filled.notified().await;
                continue;
            };
            let result = self.attempt(&endpoint, &item).await;
            let Setting { clock, draw, metrics, .. } = &self.inner.setting;
            let name = &endpoint.name;
            let is_last = item.tries + 1 >= endpoint.spec.load().attempts_max;
            let depth = {
                let mut queue = endpoint.queue();
                if result.is_ok() || is_last {
                    queue.done();
                } else {
                    queue.tried();
                }
                queue.len()
            };
            metrics.webhook.show_depth(name, depth);
            let was_failing = endpoint.failing.swap(result.is_err(), Ordering::Relaxed);
            match result {
                Ok(()) => {
                    metrics.webhook.delivered(name, clock.now().since(item.since));
                    pauses = Restarts::new(PAUSES);
                    if was_failing {
                        tracing::info!(endpoint = %name, "a webhook's endpoint takes events again");
                    }
                }
                Err(refused) => {
                    metrics.webhook.refused(name, is_last);
                    if !was_failing {
                        tracing::warn!(endpoint = %name, why = refused.why, "a webhook's endpoint does not take an event, will try again");
                    }
                    if is_last {
                        let (event, tries) = (&item.event.id, item.tries + 1);
                        tracing::warn!(endpoint = %name, event, tries, why = refused.why, "gave an event up");
                    }
                    let asked = refused.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
                    tokio::time::sleep(pauses.next_delay(clock.now(), draw()).max(asked)).await;
                }
            }
        }
    }

    async fn attempt(&self, endpoint: &Endpoint, item: &Item) -> Result<(), Undelivered> {
        let refuse = |why: String| Undelivered { why, retry_after: None };
        let Some(deliver) = &self.inner.setting.deliver else { return Err(refuse("no way out".into())) };
        let body = item.event.body().map_err(refuse)?;
        let parcel = Parcel { id: item.event.id.clone(), kind: item.event.event, body };
        let timeout = endpoint.spec.load().timeout;
        let delivery = deliver.deliver(Arc::clone(&endpoint.name), parcel);
        let late = |_| Err(refuse(format!("no answer within {timeout:?}")));
        tokio::time::timeout(timeout, delivery).await.unwrap_or_else(late)
    }
}

/// The actor.
pub(crate) struct Webhook;

#[derive(Debug)]
pub(crate) enum Msg {
    /// Endpoints came or went.
    Configured,
    /// A look is due.
    Tick,
    /// Panic, to prove that the supervisor answers it.
    Poison,
}

pub(crate) struct State {
    webhooks: Webhooks,
    workers: BTreeMap<Arc<str>, Worker>,
    /// Whether a tick is under way.
    ticking: bool,
}

/// An endpoint's task, which ends with its owner.
struct Worker {
    endpoint: Arc<Endpoint>,
    task: JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Actor for Webhook {
    type Msg = Msg;
    type State = State;
    type Arguments = Webhooks;

    async fn pre_start(&self, me: ActorRef<Msg>, webhooks: Webhooks) -> Result<State, ActorProcessingErr> {
        let mut state = State { webhooks, workers: BTreeMap::new(), ticking: false };
        state.employ();
        state.tick_soon(&me);
        state.webhooks.actor().occupy(me);
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Configured => {
                state.webhooks.actor().received();
                state.employ();
            }
            Msg::Tick => {
                state.ticking = false;
                state.webhooks.look();
                state.employ();
            }
            Msg::Poison => poison(),
        }
        state.tick_soon(&me);
        Ok(())
    }
}

impl State {
    /// One task for each endpoint, and none for others.
    fn employ(&mut self) {
        let endpoints = self.webhooks.inner.endpoints.load_full();
        let known = |worker: &Worker| endpoints.iter().any(|one| Arc::ptr_eq(one, &worker.endpoint));
        self.workers.retain(|_, worker| known(worker) && !worker.task.is_finished());
        for endpoint in endpoints.iter() {
            if !self.workers.contains_key(&endpoint.name) {
                let task = tokio::spawn(self.webhooks.clone().serve(Arc::clone(endpoint)));
                let worker = Worker { endpoint: Arc::clone(endpoint), task };
                self.workers.insert(Arc::clone(&endpoint.name), worker);
            }
        }
    }

    fn tick_soon(&mut self, me: &ActorRef<Msg>) {
        if !self.workers.is_empty() && !std::mem::replace(&mut self.ticking, true) {
            me.send_after(TICK, || Msg::Tick);
        }
    }
}

#[cfg(test)]
#[path = "webhook/webhook_tests.rs"]
mod tests;
