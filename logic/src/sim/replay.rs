//! The event loop: one strategy over one trace.

use super::bound::Bound;
use super::choice::{Baseline, Choice};
use super::cluster::{Cluster, Happened};
use super::door::{Admitted, Door};
use super::model::{Behaviour, Scene};
use super::random;
use super::summary::Summary;
use super::trace::Arrival;
use crate::capability::{CHAT, Capabilities};
use crate::cost::estimate::OutputEstimator;
use crate::cost::price::TokenPrice;
use crate::cost::unit::ThroughputMeter;
use crate::guard::latency::LatencyWindow;
use crate::guard::pace::Unread;
use crate::ids::NodeId;
use crate::money::Money;
use crate::report::{Health, Report};
use crate::request::Request;
use crate::route::eligible::resolve;
use crate::route::{Loads, LocalLoad, Policy, PreparedView, plan};
use crate::standing::Standing;
use crate::time::{Moment, millis_u32};
use crate::view::{BackendView, ClusterView, OwnFact};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

/// Requests at once at a provider whose configuration states no number.
const PROVIDER_LIMIT: u32 = 256;

/// Costs are compared by the middle of past answers, as in production.
const OUTPUT_QUANTILE: f64 = 0.5;

/// What came of one strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// Who decided.
    pub choice: Choice,
    /// Time to first token of each served request, in the order of their first tokens.
    pub ttfts: Vec<Duration>,
    /// Requests nobody served.
    pub refused: usize,
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
    },
    Ended {
        request: usize,
    },
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
    /// Backends to try in order, with the price of the model asked for there.
    steps: Vec<(usize, Option<TokenPrice>)>,
    /// The step it waits at or is served by.
    step: usize,
    /// Output tokens as estimated on arrival.
    output_tokens: u32,
    started: Moment,
    ttft: Duration,
    /// Its prompt, while that is being read.
    prompt: Option<Unread>,
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
                    Door::new(limit(at), spec.rate_limit, spec.is_cluster())
                })
                .collect(),
            clusters: backends.iter().map(|backend| cluster(&backend.behaviour)).collect(),
            measured: backends.iter().map(|backend| measured(&backend.behaviour)).collect(),
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
        self.at(Moment::ZERO, Event::Refresh);
        self.arrive_next(0);
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Refresh => self.refresh(),
                Event::Arrival { request } => {
                    self.arrive_next(request + 1);
                    let output_tokens = self.outputs.estimate(OUTPUT_QUANTILE, None);
                    let steps = self.order(request, output_tokens);
                    self.live.push(Live { steps, output_tokens, ..Live::default() });
                    self.try_from(request, 0);
                }
                Event::WaitOver { request, step } => self.wait_over(request, step),
                Event::Cluster { backend, epoch } => self.machine_moves(backend, epoch),
                Event::FirstToken { request } => self.first_token(request),
                Event::Ended { request } => self.ended(request),
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
    fn order(&mut self, request: usize, output_tokens: u32) -> Vec<(usize, Option<TokenPrice>)> {
        let asked = Request {
            needs: Capabilities::new([CHAT]),
            input_tokens: self.trace[request].input_tokens,
            output_tokens,
            stream: true,
            ..Request::default()
        };
        let draw = random::at(self.scene.seed, request as u64, u64::MAX);
        let order = if let Choice::Ours(_) = self.result.choice {
            let plan = plan(&self.prepared, &Doors(&self.doors), &asked, &self.policy, draw, self.now);
            plan.steps.into_iter().map(|step| step.index).collect()
        } else {
            let doors = &self.doors;
            let busy = |at: usize| doors[at].in_flight() + doors[at].waiting();
            self.baseline.order(&self.scene.backends, busy, &asked, draw, self.now)
        };
        let priced = |at: usize| {
            let spec = &self.scene.backends[at].spec;
            (at, resolve(spec, &spec.models, &asked).ok().and_then(|model| model.price))
        };
        order.into_iter().map(priced).collect()
    }

    /// Asks for a place at each step in turn, as the relay does.
    fn try_from(&mut self, request: usize, first: usize) {
        let tokens = self.estimated_tokens(request);
        let left = self.scene.deadline.saturating_sub(self.now.since(self.trace[request].at));
        for step in first..self.live[request].steps.len() {
            let (backend, _) = self.live[request].steps[step];
            let is_last = step + 1 == self.live[request].steps.len();
            let max_wait = if is_last { left } else { left.min(self.policy.max_latency) };
            let max_waiting = if max_wait.is_zero() { 0 } else { self.policy.max_queue_depth };
            self.live[request].step = step;
            match self.doors[backend].admit(request, tokens, max_waiting, self.now) {
                Admitted::Now => return self.start(request),
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
        let Some((backend, _)) = self.live[request].steps.get(step).copied() else {
            return;
        };
        let tokens = self.estimated_tokens(request);
        if self.doors[backend].give_up(request, tokens, self.now) {
            self.try_from(request, step + 1);
        }
    }

    fn backend_of(&self, request: usize) -> usize {
        let live = &self.live[request];
        live.steps[live.step].0
    }

    fn start(&mut self, request: usize) {
        let backend = self.backend_of(request);
        let Arrival { input_tokens, output_tokens, .. } = self.trace[request];
        self.live[request].started = self.now;
        self.live[request].prompt = Some(self.doors[backend].sent(input_tokens));
        self.measured[backend].throughput.started(self.now);
        match (&self.scene.backends[backend].behaviour, &mut self.clusters[backend]) {
            (Behaviour::Provider(provider), _) => {
                let normal = random::normal(self.scene.seed, request as u64, backend as u64);
                let ttft = provider.ttft(normal);
                let answer = f64::from(output_tokens.saturating_sub(1)) / provider.decode_tokens_per_second;
                let answer = Duration::try_from_secs_f64(answer).unwrap_or(Duration::MAX);
                self.at(self.now + ttft, Event::FirstToken { request });
                self.at(self.now + ttft.saturating_add(answer), Event::Ended { request });
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
        live.ttft = self.now.since(live.started) + rtt;
        self.result.ttfts.push(self.now.since(arrived) + rtt);
        let ttft = live.ttft;
        if let Some(prompt) = live.prompt.take() {
            self.doors[backend].read(prompt, Some(ttft), self.now);
        }
        self.baseline.saw(backend, ttft);
    }

    fn ended(&mut self, request: usize) {
        let backend = self.backend_of(request);
        let Arrival { input_tokens, output_tokens, .. } = self.trace[request];
        let ttft = self.live[request].ttft;
        let held = self.now.since(self.live[request].started);
        let measured = &mut self.measured[backend];
        measured.throughput.finished(u64::from(output_tokens), self.now);
        measured.latency.record(ttft, self.now);
        let spec = &self.scene.backends[backend].spec;
        if spec.is_cluster() {
            self.result.at_clusters += 1;
        } else {
            let live = &self.live[request];
            let charge = match live.steps[live.step].1 {
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
            self.start(next);
        }
    }

    fn refuse(&mut self, request: usize) {
        let Arrival { input_tokens, output_tokens, .. } = self.trace[request];
        self.result.refused += 1;
        self.result.refused_cost +=
            self.scene.cheapest_external(input_tokens, output_tokens).unwrap_or(Money::ZERO);
        self.unfinished -= 1;
    }

    /// What the router has measured reaches its decisions; providers it knows nothing of yet stay unknown.
    fn refresh(&mut self) {
        for (at, measured) in self.measured.iter().enumerate() {
            let speed = measured.throughput.tokens_per_second(self.now).or(measured.calibrated);
            let slots = match &self.scene.backends[at].behaviour {
                Behaviour::Cluster(machine) => Some(machine.slots),
                Behaviour::Provider(_) => self.scene.backends[at].spec.slots,
            };
            let report = Report {
                health: Health::Healthy,
                queue_depth: self.doors[at].waiting(),
                in_flight: self.doors[at].in_flight(),
                slots,
                #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more than an f32")]
                tokens_per_second: speed.map(|speed| speed as f32),
                latency_p95_ms: measured.latency.p95(self.now).map(millis_u32),
                ttft_ms: measured.latency.peak_ewma(self.now).map(millis_u32),
                rtt_ms: Some(millis_u32(measured.rtt)),
                backoff_ms: 0,
                breaker_open: false,
            };
            match &mut self.view.backends[at].own {
                Some(own) => (own.report, own.observed_at) = (report, self.now),
                unknown => {
                    *unknown = Some(OwnFact { report, observed_at: self.now, ..OwnFact::default() });
                }
            }
        }
        let last = Some(&self.prepared);
        self.prepared = PreparedView::new(self.view.clone(), &self.policy, self.now, last);
        if self.unfinished > 0 {
            self.at(self.next_refresh(), Event::Refresh);
        }
    }

    /// When facts are told next: one `staleness` on, or where nothing runs and nobody waits, so that nothing
    /// changes, with the last telling before the next arrival. A trace may pause for months.
    fn next_refresh(&self) -> Moment {
        let staleness = self.scene.staleness;
        let idle = self.doors.iter().all(|door| door.in_flight() == 0 && door.waiting() == 0);
        let next = self.trace.get(self.next_arrival).filter(|_| idle);
        let skipped = next.map_or(0, |next| {
            let tellings = next.at.since(self.now).as_micros() / staleness.as_micros().max(1);
            u64::try_from(tellings).unwrap_or(u64::MAX).saturating_sub(1)
        });
        let micros = u64::try_from(staleness.as_micros()).unwrap_or(u64::MAX).saturating_mul(skipped + 1);
        self.now + Duration::from_micros(micros)
    }
}
