//! Everything this node knows of one cluster or provider.
//!
//! Started by `Root`, receives probe readings from its `Prober` and outcomes from leases, tells the
//! `Dispatcher`. Lost on restart: health streak, breakers, latency window and throughput; rebuilt
//! from the probe that a new `Prober` makes at once and from the next outcomes. The gate, and with it
//! every running request, is not its own and survives.

use crate::address::Address;
use crate::clock::Clock;
use crate::dispatcher;
use crate::facts::Facts;
use crate::lease::Verdict;
use crate::metrics::Metrics;
use crate::outage::{News, Outages};
use crate::poison::poison;
use crate::ports::{Draw, Probe, Reading, Speed};
use crate::prober::{self, Prober};
use crate::snapshot::Door;
use llm_router_logic::backend::{BackendSpec, ServedModel};
use llm_router_logic::cost::unit::ThroughputMeter;
use llm_router_logic::gossip::outage::BELIEVED_MAX;
use llm_router_logic::gossip::trial::model_hash;
use llm_router_logic::guard::breaker::{Breaker, BreakerState};
use llm_router_logic::guard::health::{HealthTracker, Sighting};
use llm_router_logic::guard::latency::LatencyWindow;
use llm_router_logic::guard::policy::GuardPolicy;
use llm_router_logic::guard::restart::Restarts;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::time::{Moment, millis_u32};
use llm_router_logic::view::{ModelGuard, OwnFact};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Good outcomes change the published fact at most this often; bad ones and health are told at once.
const PUBLISH_GAP: Duration = Duration::from_millis(50);
/// What comes together is published together, and what was asked for has joined the queue by then.
const GATHER: Duration = Duration::from_millis(5);
/// Breakers kept per backend: one for each model asked for.
const BREAKERS_MAX: usize = 256;

pub(crate) struct Backend;

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) spec: Arc<BackendSpec>,
    pub(crate) door: Door,
    pub(crate) dispatcher: Address<dispatcher::Msg>,
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) clock: Clock,
    pub(crate) draw: Draw,
    pub(crate) metrics: Metrics,
    pub(crate) interval: Duration,
    pub(crate) calibrate: bool,
    pub(crate) guards: GuardPolicy,
    pub(crate) facts: Facts,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) model: String,
    pub(crate) verdict: Verdict,
    pub(crate) began: Moment,
    pub(crate) ttft: Option<Duration>,
    pub(crate) output_tokens: u64,
}

#[derive(Debug)]
pub(crate) enum Msg {
    /// A request asks for a place.
    Asked,
    /// A request began to run.
    Started { at: Moment },
    /// A request ended.
    Ended(Ended),
    /// The prober looked.
    Probed(Result<Reading, String>),
    /// The prober measured speed.
    Calibrated(Result<Speed, String>),
    /// A peer's trial of these models was served.
    TriedElsewhere(Vec<u32>),
    /// A peer's requests showed trouble here.
    Troubled(News),
    /// It is awaited: look soon.
    LookSoon,
    /// The pause after the last publication is over, or a breaker's time is up.
    Publish,
    /// Start the prober again.
    RestartProber,
    /// Panic, to prove that the supervisor answers it.
    Poison,
    /// Make the prober panic.
    PoisonProber,
}

pub(crate) struct State {
    arguments: Arguments,
    prober: Address<prober::Msg>,
    prober_restarts: Restarts,
    health: HealthTracker,
    breakers: BTreeMap<String, Breaker>,
    latency: LatencyWindow,
    throughput: ThroughputMeter,
    reading: Option<Reading>,
    calibrated: Option<f64>,
    observed_at: Option<Moment>,
    published_at: Option<Moment>,
    publish_due: bool,
    outages: Outages,
}

impl Actor for Backend {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        me.cast(Msg::RestartProber)?;
        arguments.door.actor.occupy(me);
        arguments.door.gate.set_guards(&arguments.guards);
        arguments.metrics.show_health(&arguments.spec, Health::Unknown);
        let outages =
            Outages::new(arguments.spec.id.clone(), arguments.facts.clone(), arguments.metrics.clone());
        Ok(State {
            outages,
            arguments,
            prober: Address::vacant(),
            prober_restarts: Restarts::default(),
            health: HealthTracker::default(),
            breakers: BTreeMap::new(),
            latency: LatencyWindow::default(),
            throughput: ThroughputMeter::default(),
            reading: None,
            calibrated: None,
            observed_at: None,
            published_at: None,
            publish_due: false,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(message, Msg::Publish | Msg::RestartProber) {
            state.arguments.door.actor.received();
        }
        match message {
            Msg::Asked => state.publish_soon(&me),
            Msg::TriedElsewhere(models) => {
                state.tried_elsewhere(&models);
                state.publish_now(&me);
            }
            Msg::Troubled(news) => {
                state.troubled(&news);
                state.publish_now(&me);
            }
            Msg::Started { at } => {
                state.throughput.started(at);
                state.publish_soon(&me);
            }
            Msg::Ended(ended) => {
                let is_bad_news = matches!(ended.verdict, Verdict::Failed { .. });
                state.ended(ended);
                if is_bad_news {
                    state.publish_now(&me);
                } else {
                    state.publish_soon(&me);
                }
            }
            Msg::Probed(looked) => {
                state.probed(looked);
                state.publish_now(&me);
            }
            Msg::Calibrated(measured) => {
                state.calibrated(measured);
                state.publish_now(&me);
            }
            Msg::Publish => {
                state.publish_due = false;
                state.publish_now(&me);
            }
            Msg::LookSoon => {
                state.prober.send(prober::Msg::LookSoon);
            }
            Msg::RestartProber => state.start_prober(&me).await?,
            Msg::PoisonProber => {
                state.prober.send(prober::Msg::Poison);
            }
            Msg::Poison => poison(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, _) | SupervisionEvent::ActorTerminated(_, _, _) = event {
            let Arguments { spec, clock, draw, metrics, .. } = &state.arguments;
            let delay = state.prober_restarts.next_delay(clock.now(), draw());
            metrics.actor_restarts_total.with_label_values(&["prober"]).inc();
            tracing::warn!(backend = %spec.id, ?delay, "prober died, restarting it");
            me.send_after(delay, || Msg::RestartProber);
        }
        Ok(())
    }
}

impl State {
    async fn start_prober(&self, me: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        let Arguments { spec, door, probe, clock, interval, .. } = &self.arguments;
        let arguments = prober::Arguments {
            me: self.prober.clone(),
            spec: Arc::clone(spec),
            probe: Arc::clone(probe),
            backend: door.actor.clone(),
            gate: Arc::clone(&door.gate),
            clock: *clock,
            interval: (*interval).max(prober::MIN_GAP),
        };
        Actor::spawn_linked(None, Prober, arguments, me.get_cell()).await?;
        Ok(())
    }

    /// One trial in the fleet is enough: what a peer's showed closes the breaker here as well.
    fn tried_elsewhere(&mut self, models: &[u32]) {
        let now = self.arguments.clock.now();
        for (model, breaker) in &mut self.breakers {
            if models.contains(&model_hash(model)) && breaker.state(now) != BreakerState::Closed {
                breaker.trial_now(now);
                breaker.record(true, now);
            }
        }
    }

    /// What a peer's requests showed holds here until own ones show otherwise.
    fn troubled(&mut self, news: &News) {
        if !self.outages.is_new(news) {
            return;
        }
        let now = self.arguments.clock.now();
        let until = |ms: u32| now + Duration::from_millis(u64::from(ms)).min(BELIEVED_MAX);
        let gate = Arc::clone(&self.arguments.door.gate);
        let mut heeded = false;
        if news.outage.closed_ms > 0 {
            gate.told_closed(None, until(news.outage.closed_ms));
            heeded = true;
        }
        let known = self.models().iter().map(|model| model.name.to_string());
        let known: BTreeSet<String> = known.chain(self.breakers.keys().cloned()).collect();
        for model in known {
            let hash = model_hash(&model);
            let Some(told) = news.outage.models.iter().find(|told| told.model == hash) else { continue };
            if told.closed_ms > 0 {
                gate.told_closed(Some(&model), until(told.closed_ms));
                heeded = true;
            }
            if told.open_ms == 0 && told.failures == 0
                || self.breakers.len() >= BREAKERS_MAX && !self.breakers.contains_key(&model)
            {
                continue;
            }
            let policy = self.arguments.guards.breaker;
            let doubted = self.outages.outweighs(&model, now);
            let breaker = self.breakers.entry(model).or_insert_with(|| Breaker::new(policy));
            breaker.told_failures(told.failures, now);
            if told.open_ms > 0 && doubted {
                self.outages.count("doubted");
            } else if told.open_ms > 0 {
                breaker.told_open(until(told.open_ms), now);
                heeded = true;
            }
        }
        if heeded {
            let (backend, by) = (&self.arguments.spec.id, &news.node);
            tracing::info!(%backend, %by, outage = ?news.outage, "a peer told of an outage");
            self.outages.count("heeded");
        }
    }

    fn ended(&mut self, ended: Ended) {
        let now = self.arguments.clock.now();
        self.throughput.finished(ended.output_tokens, now);
        if let Some(ttft) = ended.ttft {
            self.latency.record(ttft, now);
        }
        let ok = match ended.verdict {
            Verdict::Served => {
                self.health.observe(Sighting::Ok);
                true
            }
            Verdict::Failed { unreachable } => {
                if unreachable && self.arguments.spec.scale_to_zero.is_some() {
                    self.fell_asleep();
                    self.observed_at = Some(now);
                    self.prober.send(prober::Msg::LookSoon);
                    return;
                }
                if unreachable {
                    self.health.observe(Sighting::Failed);
                }
                self.prober.send(prober::Msg::LookSoon);
                false
            }
            Verdict::Neutral => return,
        };
        self.observed_at = Some(now);
        if self.breakers.len() >= BREAKERS_MAX && !self.breakers.contains_key(&ended.model) {
            return;
        }
        let unreachable = ended.verdict == Verdict::Failed { unreachable: true };
        self.outages.note(&ended.model, ok, unreachable, ended.began, now);
        let policy = self.arguments.guards.breaker;
        let breaker = self.breakers.entry(ended.model).or_insert_with(|| Breaker::new(policy));
        let before = breaker.state(now);
        if ok {
            breaker.served_since_told(ended.began);
        }
        breaker.record(ok, now);
        let recovered = before != BreakerState::Closed && breaker.state(now) == BreakerState::Closed;
        // Where its other models were well all the while, its places are not cold.
        if recovered && self.models().len() <= 1 {
            self.arguments.door.gate.warm_up();
        }
    }

    fn probed(&mut self, looked: Result<Reading, String>) {
        let now = self.arguments.clock.now();
        let before = self.health.health();
        let spec = Arc::clone(&self.arguments.spec);
        match looked {
            Ok(reading) => {
                let sighting = if reading.loading { Sighting::Loading } else { Sighting::Ok };
                self.health.observe(sighting);
                // A backend back from the dead is worth a trial at once. One whose probes were good all
                // the while fails requests all the same: its breaker keeps its own time.
                if sighting == Sighting::Ok && before != Health::Healthy {
                    for breaker in self.breakers.values_mut() {
                        breaker.trial_now(now);
                    }
                }
                self.reading = Some(Reading {
                    // An idle llama-server measures nothing: what it said last still holds.
                    tokens_per_second: reading
                        .tokens_per_second
                        .or_else(|| self.reading.as_ref().and_then(|last| last.tokens_per_second)),
                    ..reading
                });
                self.calibrate_if_unknown(now);
            }
            Err(_)
                if spec.scale_to_zero.is_some() && self.arguments.door.gate.load(0, now).in_flight == 0 =>
            {
                self.fell_asleep();
            }
            Err(why) => {
                self.health.observe(Sighting::Failed);
                if before != Health::Unhealthy {
                    tracing::warn!(backend = %spec.id, %why, "probe failed");
                }
            }
        }
        self.observed_at = Some(now);
        let after = self.health.health();
        if before != after {
            tracing::info!(backend = %spec.id, ?before, ?after, "health changed");
            let was_away = matches!(before, Health::Unhealthy | Health::Loading);
            if after == Health::Healthy && was_away {
                self.arguments.door.gate.warm_up();
            }
        }
    }

    /// A cluster that scales to zero and does not answer has no machine: that says nothing of its health, and
    /// the next machine begins without the last one's record. Its speed is remembered, to price it by.
    fn fell_asleep(&mut self) {
        self.health.gone();
        self.breakers.clear();
        if let Some(reading) = &mut self.reading {
            (reading.queue_depth, reading.busy_slots) = (None, None);
        }
    }

    /// A cluster whose speed nobody measured yet has no cost and would never be chosen on cost: it is
    /// measured once, while idle.
    fn calibrate_if_unknown(&mut self, now: Moment) {
        let Arguments { spec, calibrate, door, .. } = &self.arguments;
        let idle = self
            .reading
            .as_ref()
            .is_some_and(|reading| !reading.loading && reading.busy_slots.unwrap_or(0) == 0)
            && door.gate.load(0, now).in_flight == 0;
        if !calibrate || !spec.is_cluster() || !idle || self.tokens_per_second(now).is_some() {
            return;
        }
        let model = self.models().first().map(|model| model.name.to_string());
        if let Some(model) = spec.default_model.clone().or(model) {
            self.prober.send(prober::Msg::Calibrate(model));
        }
    }

    fn calibrated(&mut self, measured: Result<Speed, String>) {
        let spec = &self.arguments.spec;
        match measured {
            Ok(speed) if speed.tokens > 1 && !speed.elapsed.is_zero() => {
                let tokens_per_second = (speed.tokens - 1) as f64 / speed.elapsed.as_secs_f64();
                tracing::info!(backend = %spec.id, tokens_per_second, "throughput calibrated");
                self.calibrated = Some(tokens_per_second);
            }
            Ok(speed) => tracing::warn!(backend = %spec.id, ?speed, "too few tokens to tell the throughput"),
            Err(why) => tracing::warn!(backend = %spec.id, %why, "cannot calibrate throughput"),
        }
    }

    /// The best aggregate rate anyone measured: the machine delivers at least that. The one
    /// calibration counts only until real traffic was measured.
    fn tokens_per_second(&self, now: Moment) -> Option<f64> {
        let told =
            self.reading.as_ref().and_then(|reading| reading.tokens_per_second).filter(|rate| *rate > 0.0);
        let own = self.throughput.tokens_per_second(now);
        match (told, own) {
            (Some(told), Some(own)) => Some(told.max(own)),
            (told, own) => told.or(own).or(self.calibrated),
        }
    }

    fn models(&self) -> &[ServedModel] {
        match &self.reading {
            Some(reading) if self.arguments.spec.models.is_empty() => &reading.models,
            _ => &self.arguments.spec.models,
        }
    }

    fn publish_soon(&mut self, me: &ActorRef<Msg>) {
        if self.publish_due {
            return;
        }
        let now = self.arguments.clock.now();
        let since = self.published_at.map_or(PUBLISH_GAP, |last| now.since(last));
        let wait = PUBLISH_GAP.saturating_sub(since).max(GATHER);
        self.publish_due = true;
        me.send_after(wait, || Msg::Publish);
    }

    fn publish_now(&mut self, me: &ActorRef<Msg>) {
        let now = self.arguments.clock.now();
        if let Some(ends) = self.outages.tell(&self.arguments.door.gate, &self.breakers, now) {
            me.send_after(ends, || Msg::Publish);
        }
        let Some(observed_at) = self.observed_at else {
            return;
        };
        let Arguments { spec, door, dispatcher, clock, metrics, .. } = &self.arguments;
        let load = door.gate.load(0, now);
        let reading = self.reading.as_ref();
        let tokens_per_second = self.tokens_per_second(now);
        let slots = spec.slots.or(reading.and_then(|reading| reading.slots));
        let mut guards = Vec::new();
        for (model, breaker) in &self.breakers {
            let state = breaker.state(now);
            if let BreakerState::Open { until } = state {
                me.send_after(clock.until(until), || Msg::Publish);
            }
            if state != BreakerState::Closed {
                let cause = breaker.cause();
                guards.push(ModelGuard { model: model.clone(), breaker: state, cause, closed_until: None });
            }
        }
        for (model, until) in door.gate.closed_models().into_iter().chain(door.gate.told_models()) {
            match guards.iter_mut().find(|guard| guard.model == model) {
                Some(guard) => guard.closed_until = guard.closed_until.max(Some(until)),
                None => guards.push(ModelGuard {
                    model,
                    breaker: BreakerState::Closed,
                    cause: None,
                    closed_until: Some(until),
                }),
            }
        }
        let any_open = guards.iter().any(|guard| matches!(guard.breaker, BreakerState::Open { .. }));
        // Peers are told what this node's own requests showed.
        let is_open = |model: &ServedModel| {
            self.breakers.get(&*model.name).is_some_and(|breaker| breaker.open_by_itself(now).is_some())
        };
        let report = Report {
            health: self.health.health(),
            queue_depth: reading.and_then(|reading| reading.queue_depth).unwrap_or(0) + load.waiting,
            in_flight: load.in_flight,
            slots,
            #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more than an f32")]
            tokens_per_second: tokens_per_second.map(|rate| rate as f32),
            latency_p95_ms: self
                .latency
                .p95(now)
                .or(reading.and_then(|reading| reading.latency_p95))
                .map(millis_u32),
            ttft_ms: self.latency.peak_ewma(now).map(millis_u32),
            rtt_ms: reading.map(|reading| millis_u32(reading.rtt)),
            backoff_ms: millis_u32(door.gate.backoff_left()),
            breaker_open: self.breakers.values().any(|breaker| breaker.open_by_itself(now).is_some())
                && self.models().iter().all(is_open),
        };
        let id = spec.id.as_str();
        metrics.show_health(spec, report.health);
        metrics.backend_in_flight.with_label_values(&[id]).set(i64::from(report.in_flight));
        metrics.backend_queue_depth.with_label_values(&[id]).set(i64::from(report.queue_depth));
        metrics.backend_limit.with_label_values(&[id]).set(i64::from(load.limit));
        metrics.backend_breaker_open.with_label_values(&[id]).set(i64::from(any_open));
        if let Some(rate) = tokens_per_second {
            metrics.backend_tokens_per_second.with_label_values(&[id]).set(rate);
        }
        let fact = OwnFact { report, observed_at, models: self.models().into(), guards: guards.into() };
        dispatcher.send(dispatcher::Msg::Observed(spec.id.clone(), fact));
        self.published_at = Some(now);
    }
}
