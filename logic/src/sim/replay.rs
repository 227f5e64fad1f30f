//! The event loop: one strategy over one trace.

use super::bound::Bound;
use super::choice::{Baseline, Choice};
use super::cluster::{Cluster, Happened};
use super::door::{Admitted, Door};
use super::guarded::Guarded;
use super::model::{Behaviour, Scene};
use super::random;
use super::summary::Summary;
use super::trace::Arrival;
use super::trouble::{State, Trouble};
use crate::capability::{CHAT, Capabilities};
use crate::cost::estimate::OutputEstimator;
use crate::cost::price::TokenPrice;
use crate::cost::unit::ThroughputMeter;
use crate::guard::latency::LatencyWindow;
use crate::guard::pace::Unread;
use crate::guard::retry::RetryBudget;
use crate::ids::NodeId;
use crate::money::Money;
use crate::report::Report;
use crate::request::Request;
use crate::route::eligible::resolve;
use crate::route::{Loads, LocalLoad, Policy, PreparedView, Reason, plan};
use crate::standing::Standing;
use crate::time::{Moment, millis_u32};
use crate::view::{BackendView, ClusterView};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

/// Requests at once at a provider whose configuration states no number.
const PROVIDER_LIMIT: u32 = 256;

/// Costs are compared by the middle of past answers, as in production.
const OUTPUT_QUANTILE: f64 = 0.5;

/// How long a request to a backend that does not answer takes to fail.
const FAILS_AFTER: Duration = Duration::from_secs(1);
/// How long a 429 takes.
const REFUSES_AFTER: Duration = Duration::from_millis(50);

/// What came of one strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// Who decided.
    pub choice: Choice,
    /// Time to first token of each served request, in the order of their ends.
    pub ttfts: Vec<Duration>,
    /// Requests nobody served to the end.
    pub refused: usize,
    /// Attempts that failed, by backend.
    pub failed_attempts: Vec<u32>,
    /// Second and further attempts.
    pub retries: u32,
    /// Requests served by clusters.
    pub at_clusters: usize,
    /// What the providers charged.
    pub provider_cost: Money,
    /// What the clouds charge for the traffic of the requests that were served.
    pub egress_cost: Money,
    /// What the cheapest provider would have charged for the requests nobody served.
    pub refused_cost: Money,
    /// When each backend had its last answer out.
    pub last_end: Vec<Moment>,
}

impl Replayed {
    /// Sums it up against `bound`.
    pub fn summary(&self, bound: &Bound, slo_ttft: Duration) -> Summary {
        Summary::new(self, bound, slo_ttft)
    }
}

/// Replays `trace` with `choice` deciding.
pub fn replay(scene: &Scene, trace: &[Arrival], choice: Choice) -> Replayed {
    let mut world = World::new(scene, trace, choice);
    world.run();
    world.result
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Something was foretold of a machine at this epoch.
    Cluster {
        backend: usize,
        epoch: u64,
    },
    FirstToken {
        request: usize,
        attempt: u32,
    },
    Ended {
        request: usize,
        attempt: u32,
    },
    /// An attempt fails.
    Failed {
        request: usize,
        attempt: u32,
    },
    /// Something befalls backends, or is over.
    Trouble,
    /// Facts reach the decisions.
    Refresh,
    /// A request has waited long enough for this step of its plan.
    WaitOver {
        request: usize,
        step: usize,
    },
    Arrival {
        request: usize,
    },
}

/// A request on its way.
#[derive(Debug, Default)]
struct Live {
    /// Backends to try in order.
    steps: Vec<Try>,
    /// The step it waits at or is served by.
    step: usize,
    /// Output tokens as estimated on arrival.
    output_tokens: u32,
    started: Moment,
    /// Attempts made; what was foretold of an earlier one is void.
    attempts: u32,
    /// Whether it is the one trial of a half-open breaker.
    trial: bool,
    /// Time to first token of this attempt and, waiting included, of the request.
    ttft: Option<(Duration, Duration)>,
    /// Its prompt, while that is being read.
    prompt: Option<Unread>,
}

/// A backend to try.
#[derive(Debug)]
struct Try {
    backend: usize,
    model: Arc<str>,
    /// Price of the model asked for there.
    price: Option<TokenPrice>,
    /// Tried although it was ejected: nobody waits for that, and it is no trial.
    least_bad: bool,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A machine does not answer, a provider answers 5xx, or the stream broke off.
    Broken,
    /// Refused with 429 and this `Retry-After`.
    Throttled(Duration),
}

/// A backend's facts as the router measures them.
#[derive(Debug)]
struct Measured {
    throughput: ThroughputMeter,
    latency: LatencyWindow,
    /// What the one calibration before any traffic told.
    calibrated: Option<f64>,
    rtt: Duration,
}

struct Doors<'d>(&'d [Door]);

impl Loads for Doors<'_> {
    fn load(&self, index: usize, tokens: u32, now: Moment) -> LocalLoad {
        self.0.get(index).map_or_else(LocalLoad::default, |door| door.load(tokens, now))
    }
}

struct World<'s> {
    scene: &'s Scene,
    trace: &'s [Arrival],
    policy: Policy,
    now: Moment,
    events: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    sequence: u64,
    doors: Vec<Door>,
    clusters: Vec<Option<Cluster>>,
    measured: Vec<Measured>,
    guarded: Vec<Guarded>,
    retries: RetryBudget,
    /// What befalls each backend now.
    troubled: Vec<State>,
    /// Requests that each backend works on.
    running: Vec<BTreeSet<usize>>,
    /// What is known of the backends, and the same made ready for decisions.
    view: ClusterView,
    prepared: PreparedView,
    baseline: Baseline,
    /// What past answers tell of the length of the next.
    outputs: OutputEstimator,
    live: Vec<Live>,
    unfinished: usize,
    /// The request that arrives next.
    next_arrival: usize,
    result: Replayed,
}

impl<'s> World<'s> {
    fn new(scene: &'s Scene, trace: &'s [Arrival], choice: Choice) -> Self {
        let policy = match choice {
            Choice::Ours(strategy) => Policy { strategy, ..scene.policy.clone() },
            _ => scene.policy.clone(),
        };
        let backends = &scene.backends;
        let limit = |at: usize| match &backends[at].behaviour {
            Behaviour::Cluster(machine) => machine.slots,
            Behaviour::Provider(_) => backends[at].spec.slots.unwrap_or(PROVIDER_LIMIT),
        };
        let measured = |behaviour: &Behaviour| {
            let (calibrated, rtt) = match behaviour {
                Behaviour::Cluster(machine) => (Some(machine.decode_tokens_per_second), machine.rtt),
                Behaviour::Provider(_) => (None, Duration::ZERO),
            };
            let (throughput, latency) = (ThroughputMeter::default(), LatencyWindow::default());
            Measured { throughput, latency, calibrated, rtt }
        };
        let cluster = |behaviour: &Behaviour| match behaviour {
            Behaviour::Cluster(machine) => Some(Cluster::new(*machine)),
            Behaviour::Provider(_) => None,
        };
        let view = ClusterView {
            node: NodeId::new("replay"),
            region: scene.region.clone(),
            backends: backends
                .iter()
                .map(|backend| BackendView {
                    spec: Arc::clone(&backend.spec),
                    own: None,
                    peers: Vec::new(),
                    standing: Standing::default(),
                })
                .collect(),
            foreign: Vec::new(),
            members: Vec::new(),
        };
        Self {
            scene,
            trace,
            now: Moment::ZERO,
            events: BinaryHeap::new(),
            sequence: 0,
            doors: (0..backends.len())
                .map(|at| {
                    let spec = &backends[at].spec;
                    Door::new(limit(at), spec.rate_limit, spec.is_cluster(), policy.guards.slow_start)
                })
                .collect(),
            clusters: backends.iter().map(|backend| cluster(&backend.behaviour)).collect(),
            measured: backends.iter().map(|backend| measured(&backend.behaviour)).collect(),
            guarded: backends.iter().map(|_| Guarded::new(policy.guards.breaker)).collect(),
            retries: RetryBudget::default(),
            troubled: vec![State::WELL; backends.len()],
            running: vec![BTreeSet::new(); backends.len()],
            prepared: PreparedView::new(view.clone(), &policy, Moment::ZERO, None),
            view,
            policy,
            baseline: Baseline::new(choice, backends.len()),
            outputs: OutputEstimator::default(),
            live: Vec::with_capacity(trace.len()),
            unfinished: trace.len(),
            next_arrival: 0,
            result: Replayed {
                choice,
                ttfts: Vec::with_capacity(trace.len()),
                refused: 0,
                failed_attempts: vec![0; backends.len()],
                retries: 0,
                at_clusters: 0,
                provider_cost: Money::ZERO,
                egress_cost: Money::ZERO,
                refused_cost: Money::ZERO,
                last_end: vec![Moment::ZERO; backends.len()],
            },
        }
    }

    fn run(&mut self) {
        if self.trace.is_empty() {
            return;
        }
        for at in self.scene.troubles.iter().flat_map(Trouble::moments) {
            self.at(at, Event::Trouble);
        }
        self.at(Moment::ZERO, Event::Refresh);
        self.arrive_next(0);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Refresh => self.refresh(),
                Event::Arrival { request } => {
                    self.arrive_next(request + 1);
                    let output_tokens = self.outputs.estimate(OUTPUT_QUANTILE, None);
                    self.retries.requested(at);
                    let steps = self.order(request, output_tokens);
                    self.live.push(Live { steps, output_tokens, ..Live::default() });
                    self.try_from(request, 0);
                }
                Event::WaitOver { request, step } => self.wait_over(request, step),
                Event::Cluster { backend, epoch } => self.machine_moves(backend, epoch),
                Event::FirstToken { request, attempt } if self.is_current(request, attempt) => {
                    self.first_token(request);
                }
                Event::Ended { request, attempt } if self.is_current(request, attempt) => self.ended(request),
                Event::Failed { request, attempt } if self.is_current(request, attempt) => {
                    let fault = match self.troubled[self.backend_of(request)] {
                        State { down: false, retry_after: Some(after), .. } => Fault::Throttled(after),
                        _ => Fault::Broken,
                    };
                    self.failed(request, fault);
                }
                Event::FirstToken { .. } | Event::Ended { .. } | Event::Failed { .. } => {}
                Event::Trouble => self.trouble(),
            }
        }
    }

    fn at(&mut self, at: Moment, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn arrive_next(&mut self, request: usize) {
        self.next_arrival = request;
        if let Some(arrival) = self.trace.get(request) {
            self.at(arrival.at, Event::Arrival { request });
        }
    }

    fn estimated_tokens(&self, request: usize) -> u32 {
        self.trace[request].input_tokens.saturating_add(self.live[request].output_tokens)
    }

    /// Backends in the order in which they are to be tried.
    fn order(&mut self, request: usize, output_tokens: u32) -> Vec<Try> {
        let asked = Request {
            needs: Capabilities::new([CHAT]),
            input_tokens: self.trace[request].input_tokens,
            output_tokens,
            stream: true,
            ..Request::default()
        };
        let draw = random::at(self.scene.seed, request as u64, u64::MAX);
        let order: Vec<(usize, bool)> = if let Choice::Ours(_) = self.result.choice {
            let plan = plan(&self.prepared, &Doors(&self.doors), &asked, &self.policy, draw, self.now);
            plan.steps.into_iter().map(|step| (step.index, step.reason == Reason::LeastBad)).collect()
        } else {
            let doors = &self.doors;
            let busy = |at: usize| doors[at].in_flight() + doors[at].waiting();
            let order = self.baseline.order(&self.scene.backends, busy, &asked, draw, self.now);
            order.into_iter().map(|at| (at, false)).collect()
        };
        let attempt = |(backend, least_bad): (usize, bool)| {
            let spec = &self.scene.backends[backend].spec;
            let model = resolve(spec, &spec.models, &asked).ok()?;
            Some(Try { backend, model: Arc::clone(&model.name), price: model.price, least_bad })
        };
        order.into_iter().filter_map(attempt).collect()
    }

    /// Asks for a place at each step in turn, as the relay does.
    fn try_from(&mut self, request: usize, first: usize) {
        let tokens = self.estimated_tokens(request);
        let left = self.scene.deadline.saturating_sub(self.now.since(self.trace[request].at));
        for step in first..self.live[request].steps.len() {
            let Try { backend, ref model, least_bad, .. } = self.live[request].steps[step];
            let own = self.view.backends[backend].own.as_ref();
            let ours = matches!(self.result.choice, Choice::Ours(_));
            let trial = ours && !least_bad && own.is_some_and(|own| own.on_trial(model, self.now));
            let is_last = step + 1 == self.live[request].steps.len();
            let max_wait = match (least_bad, is_last) {
                (true, _) => Duration::ZERO,
                (false, true) => left,
                (false, false) => left.min(self.policy.max_latency),
            };
            let max_waiting = if max_wait.is_zero() { 0 } else { self.policy.max_queue_depth };
            self.live[request].step = step;
            self.live[request].trial = trial;
            match self.doors[backend].admit(request, tokens, max_waiting, trial, self.now) {
                Admitted::Now => return self.begin(request),
                Admitted::Waits => {
                    self.at(self.now + max_wait, Event::WaitOver { request, step });
                    return;
                }
                Admitted::No => {}
            }
        }
        self.refuse(request);
    }

    fn wait_over(&mut self, request: usize, step: usize) {
        if self.live[request].step != step {
            return;
        }
        let Some(&Try { backend, .. }) = self.live[request].steps.get(step) else {
            return;
        };
        let tokens = self.estimated_tokens(request);
        if self.doors[backend].give_up(request, tokens, self.now) {
            self.try_from(request, step + 1);
        }
    }

    fn backend_of(&self, request: usize) -> usize {
        let live = &self.live[request];
        live.steps[live.step].backend
    }

    /// Whether that attempt is the one under way.
    fn is_current(&self, request: usize, attempt: u32) -> bool {
        self.live[request].attempts == attempt
    }

    /// Has `request` sent where it was given a place, unless it is a retry beyond the budget: then the next in
    /// line has that place.
    fn begin(&mut self, request: usize) {
        let mut given = Some(request);
        while let Some(request) = given.take() {
            if self.live[request].attempts > 0 {
                // One router: the whole fleet's budget is its own.
                if self.retries.withdraw(&self.policy.guards.retries, 1, self.now).is_err() {
                    let (backend, tokens) = (self.backend_of(request), self.estimated_tokens(request));
                    self.end_trial(request);
                    given = self.doors[backend].leave(tokens, 0, self.now);
                    self.refuse(request);
                    continue;
                }
                self.result.retries += 1;
            }
            self.start(request);
        }
    }

    fn end_trial(&mut self, request: usize) {
        if std::mem::take(&mut self.live[request].trial) {
            let backend = self.backend_of(request);
            self.doors[backend].trial_over();
        }
    }

    /// An attempt came to nothing: the guards are told, and the next step of the plan is tried within the
    /// bounds on attempts. A client who has seen a first token is told an error.
    fn failed(&mut self, request: usize, fault: Fault) {
        let (backend, tokens) = (self.backend_of(request), self.estimated_tokens(request));
        self.end_trial(request);
        let live = &mut self.live[request];
        // Nothing that was foretold of this attempt holds any more.
        live.attempts += 1;
        let made = live.attempts / 2;
        let (step, prompt, begun) = (live.step, live.prompt.take(), live.ttft.is_some());
        let model = Arc::clone(&live.steps[step].model);
        if let Some(prompt) = prompt {
            self.doors[backend].read(prompt, None, self.now);
        }
        self.running[backend].remove(&request);
        self.measured[backend].throughput.finished(0, self.now);
        self.result.failed_attempts[backend] += 1;
        match fault {
            Fault::Throttled(after) => self.doors[backend].back_off(self.now + after),
            Fault::Broken => {
                let unreachable = self.scene.backends[backend].spec.is_cluster();
                self.guarded[backend].failed(&model, unreachable, self.now);
            }
        }
        if let Some(next) = self.doors[backend].leave(tokens, 0, self.now) {
            self.begin(next);
        }
        self.observe(backend);
        self.prepare();
        if begun || made >= self.policy.guards.retries.attempts_max {
            self.refuse(request);
        } else {
            self.try_from(request, step + 1);
        }
    }

    /// Something befalls backends, or is over.
    fn trouble(&mut self) {
        let scene = self.scene;
        let mut broken = BTreeSet::new();
        for (at, backend) in scene.backends.iter().enumerate() {
            let before = self.troubled[at];
            let state = State::of(&scene.troubles, &backend.spec, self.now);
            self.troubled[at] = state;
            self.view.backends[at].standing.preempted_at = state.preempted_at;
            if state.slow.to_bits() != before.slow.to_bits() {
                if let Some(cluster) = &mut self.clusters[at] {
                    cluster.slow_down(state.slow, self.now);
                }
                self.foretell(at);
            }
            if state.down && !before.down {
                if let Some(cluster) = &mut self.clusters[at] {
                    cluster.clear(self.now);
                }
                broken.append(&mut self.running[at]);
            }
        }
        self.prepare();
        // Only now, so that nobody is sent from one backend of a lost region to the next.
        for request in broken {
            self.failed(request, Fault::Broken);
        }
    }

    fn start(&mut self, request: usize) {
        let backend = self.backend_of(request);
        let Arrival { input_tokens, output_tokens, .. } = self.trace[request];
        let live = &mut self.live[request];
        live.started = self.now;
        live.attempts += 1;
        let attempt = live.attempts;
        self.live[request].prompt = Some(self.doors[backend].sent(input_tokens));
        self.measured[backend].throughput.started(self.now);
        let state = self.troubled[backend];
        if state.down || state.retry_after.is_some() {
            let after = if state.down { FAILS_AFTER } else { REFUSES_AFTER };
            self.at(self.now + after, Event::Failed { request, attempt });
            return;
        }
        self.running[backend].insert(request);
        match (&self.scene.backends[backend].behaviour, &mut self.clusters[backend]) {
            (Behaviour::Provider(provider), _) => {
                let normal = random::normal(self.scene.seed, request as u64, backend as u64);
                let ttft = provider.ttft(normal).mul_f64(state.slow);
                let answer = f64::from(output_tokens.saturating_sub(1)) / provider.decode_tokens_per_second;
                let answer = Duration::try_from_secs_f64(answer * state.slow).unwrap_or(Duration::MAX);
                self.at(self.now + ttft, Event::FirstToken { request, attempt });
                self.at(self.now + ttft.saturating_add(answer), Event::Ended { request, attempt });
            }
            (Behaviour::Cluster(_), Some(cluster)) => {
                cluster.start(request, input_tokens, output_tokens, self.now);
                self.foretell(backend);
            }
            (Behaviour::Cluster(_), None) => {}
        }
    }

    fn foretell(&mut self, backend: usize) {
        let foretold =
            self.clusters[backend].as_ref().and_then(|cluster| Some((cluster.next()?, cluster.epoch)));
        if let Some((at, epoch)) = foretold {
            self.at(at, Event::Cluster { backend, epoch });
        }
    }

    fn machine_moves(&mut self, backend: usize, epoch: u64) {
        let now = self.now;
        let Some(cluster) = self.clusters[backend].as_mut().filter(|cluster| cluster.epoch == epoch) else {
            return; // Foretold before something changed.
        };
        for happened in cluster.happened(now) {
            match happened {
                Happened::FirstToken(request) => self.first_token(request),
                Happened::Ended(request) => self.ended(request),
            }
        }
        self.foretell(backend);
    }

    fn first_token(&mut self, request: usize) {
        let backend = self.backend_of(request);
        let rtt = self.measured[backend].rtt;
        let (arrived, live) = (self.trace[request].at, &mut self.live[request]);
        let ttft = self.now.since(live.started) + rtt;
        live.ttft = Some((ttft, self.now.since(arrived) + rtt));
        if let Some(prompt) = live.prompt.take() {
            self.doors[backend].read(prompt, Some(ttft), self.now);
        }
        self.baseline.saw(backend, ttft);
    }

    fn ended(&mut self, request: usize) {
        let backend = self.backend_of(request);
        let Arrival { input_tokens, output_tokens, .. } = self.trace[request];
        let (ttft, since_arrival) = self.live[request].ttft.unwrap_or_default();
        self.result.ttfts.push(since_arrival);
        self.end_trial(request);
        self.running[backend].remove(&request);
        let model = Arc::clone(&self.live[request].steps[self.live[request].step].model);
        if self.guarded[backend].served(&model, self.now)
            && self.scene.backends[backend].spec.models.len() <= 1
        {
            self.doors[backend].warm_up(self.now);
        }
        let held = self.now.since(self.live[request].started);
        let measured = &mut self.measured[backend];
        measured.throughput.finished(u64::from(output_tokens), self.now);
        measured.latency.record(ttft, self.now);
        let spec = &self.scene.backends[backend].spec;
        if spec.is_cluster() {
            self.result.at_clusters += 1;
        } else {
            let live = &self.live[request];
            let charge = match live.steps[live.step].price {
                Some(price) => price.predict(input_tokens, output_tokens),
                // What has no price is not free: the cheapest is the least it can be counted at.
                None => self.scene.cheapest_external(input_tokens, output_tokens).unwrap_or(Money::ZERO),
            };
            self.result.provider_cost += charge;
        }
        self.result.egress_cost += self.prepared.ready(backend).toll.of(input_tokens, output_tokens, true);
        self.result.last_end[backend] = self.now;
        self.unfinished -= 1;
        self.outputs.learn(u64::from(output_tokens));
        let estimated = self.estimated_tokens(request);
        let actual = input_tokens.saturating_add(output_tokens);
        if let Some(next) = self.doors[backend].release(estimated, actual, held, self.now) {
            self.begin(next);
        }
    }

    fn refuse(&mut self, request: usize) {
        let Arrival { input_tokens, output_tokens, .. } = self.trace[request];
        self.result.refused += 1;
        self.result.refused_cost +=
            self.scene.cheapest_external(input_tokens, output_tokens).unwrap_or(Money::ZERO);
        self.unfinished -= 1;
    }

    /// Looks at the backends whose turn it is and tells decisions all that is known.
    fn refresh(&mut self) {
        for at in 0..self.doors.len() {
            // A provider is asked for its list of models, which an outage of its models leaves well.
            let answers = !self.troubled[at].down || !self.scene.backends[at].spec.is_cluster();
            if self.guarded[at].look(answers, self.scene.probe_interval, self.now) {
                self.doors[at].warm_up(self.now);
            }
            while let Some(next) = self.doors[at].fill(self.now) {
                self.begin(next);
            }
            self.observe(at);
        }
        self.prepare();
        if self.unfinished > 0 {
            self.at(self.next_refresh(), Event::Refresh);
        }
    }

    /// What the router has measured of one backend, as decisions will be told.
    fn observe(&mut self, at: usize) {
        let measured = &self.measured[at];
        let speed = measured.throughput.tokens_per_second(self.now).or(measured.calibrated);
        let slots = match &self.scene.backends[at].behaviour {
            Behaviour::Cluster(machine) => Some(machine.slots),
            Behaviour::Provider(_) => self.scene.backends[at].spec.slots,
        };
        let guards = self.guarded[at].told(self.now);
        let report = Report {
            health: self.guarded[at].health(),
            queue_depth: self.doors[at].waiting(),
            in_flight: self.doors[at].in_flight(),
            slots,
            #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more than an f32")]
            tokens_per_second: speed.map(|speed| speed as f32),
            latency_p95_ms: measured.latency.p95(self.now).map(millis_u32),
            ttft_ms: measured.latency.peak_ewma(self.now).map(millis_u32),
            rtt_ms: Some(millis_u32(measured.rtt)),
            backoff_ms: millis_u32(self.doors[at].backoff_left(self.now)),
            breaker_open: false,
        };
        let own = self.view.backends[at].own.get_or_insert_default();
        (own.report, own.observed_at, own.guards) = (report, self.now, guards);
    }

    /// Makes what was observed known to decisions.
    fn prepare(&mut self) {
        let last = Some(&self.prepared);
        self.prepared = PreparedView::new(self.view.clone(), &self.policy, self.now, last);
    }

    /// When facts are told next: one `staleness` on, or where nothing runs and nobody waits, so that nothing
    /// changes, with the last telling before the next arrival. A trace may pause for months.
    fn next_refresh(&self) -> Moment {
        let staleness = self.scene.staleness;
        let calm = self.scene.troubles.iter().all(|trouble| trouble.to < self.now);
        let idle = calm && self.doors.iter().all(|door| door.in_flight() == 0 && door.waiting() == 0);
        let next = self.trace.get(self.next_arrival).filter(|_| idle);
        let skipped = next.map_or(0, |next| {
            let tellings = next.at.since(self.now).as_micros() / staleness.as_micros().max(1);
            u64::try_from(tellings).unwrap_or(u64::MAX).saturating_sub(1)
        });
        let micros = u64::try_from(staleness.as_micros()).unwrap_or(u64::MAX).saturating_mul(skipped + 1);
        self.now + Duration::from_micros(micros)
    }
}
