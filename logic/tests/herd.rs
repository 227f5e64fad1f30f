//! Many routers with stale views of each other share a few backends: nobody may be trampled.
//!
//! A discrete-event model: each router decides with `plan` on its own exact load and on what its peers
//! said of theirs some time ago; each backend runs as many requests as it has slots and queues the rest
//! in order of arrival. The measure is the wait in that queue, against an oracle that knows every queue
//! at the very moment.

#[cfg(test)]
mod herd {
    use llm_router_logic::backend::{BackendSpec, Kind, Placement, ServedModel};
    use llm_router_logic::capability::Capabilities;
    use llm_router_logic::ids::{NodeId, Region};
    use llm_router_logic::money::Money;
    use llm_router_logic::report::{Health, Report};
    use llm_router_logic::request::Request;
    use llm_router_logic::route::{Loads, LocalLoad, Policy, PreparedView, Strategy, plan};
    use llm_router_logic::standing::Standing;
    use llm_router_logic::time::Moment;
    use llm_router_logic::view::{BackendView, ClusterView, OwnFact, PeerFact};
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, VecDeque};
    use std::sync::Arc;
    use std::time::Duration;

    const ROUTERS: usize = 9;
    const SLOTS: u32 = 4;
    const REQUESTS: u64 = 12_000;
    const SERVICE_MEAN_SECS: f64 = 4.0;
    const UTILISATION: f64 = 0.85;

    /// Who decides where a request goes.
    #[derive(Clone, Copy, PartialEq)]
    enum Chooser {
        /// `plan`, with peers' loads as they were this long ago.
        Plan(Duration),
        /// The shortest queue of all, as it is now.
        Oracle,
        /// The shortest queue of all, as all saw it this long ago.
        LeastLoaded(Duration),
    }

    /// SplitMix64, so that every run is the same.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn exponential(&mut self, mean: f64) -> Duration {
            let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
            Duration::from_secs_f64(-mean * (1.0 - uniform).ln())
        }
    }

    /// Requests of each router at each backend, running or queued.
    type Loading = Vec<Vec<u32>>;

    struct OwnLoads<'l>(&'l [u32]);

    impl Loads for OwnLoads<'_> {
        fn load(&self, index: usize, _tokens: u32, _now: Moment) -> LocalLoad {
            LocalLoad { in_flight: self.0[index], limit: SLOTS, ..LocalLoad::default() }
        }
    }

    /// What `router` sees before anything runs.
    fn view_of(router: usize, backends: usize) -> ClusterView {
        let report = Report {
            health: Health::Healthy,
            slots: Some(SLOTS),
            tokens_per_second: Some(20.0),
            ttft_ms: Some(200),
            ..Report::default()
        };
        let node = |n: usize| NodeId::new(format!("n{n}"));
        let backend = |index: usize| BackendView {
            spec: Arc::new(BackendSpec {
                id: format!("b{index}").as_str().into(),
                kind: Kind::Llama,
                placement: Placement::Cluster {
                    cloud: "aws".into(),
                    region: Region::new("r"),
                    cost_per_hour: Money::from_usd(0.1).unwrap(),
                },
                models: vec![ServedModel::named("m")],
                default_model: None,
                capabilities: Capabilities::default(),
                rate_limit: None,
                slots: Some(SLOTS),
                scale_to_zero: None,
                reached_from: Vec::new(),
            }),
            own: Some(OwnFact { report, observed_at: Moment::ZERO, ..OwnFact::default() }),
            peers: (0..ROUTERS)
                .filter(|peer| *peer != router)
                .map(|peer| PeerFact {
                    node: node(peer),
                    region: Region::new("r"),
                    report,
                    arrived_at: Moment::ZERO,
                    models: Arc::from([]),
                })
                .collect(),
            standing: Standing::default(),
        };
        ClusterView {
            node: node(router),
            region: Region::new("r"),
            backends: (0..backends).map(backend).collect(),
            foreign: Vec::new(),
            members: Vec::new(),
        }
    }

    /// Brings `view` up to what was heard at `heard_at`.
    fn hear(view: &mut ClusterView, heard: &Loading, heard_at: Moment) {
        for (index, backend) in view.backends.iter_mut().enumerate() {
            for fact in &mut backend.peers {
                let peer: usize = fact.node.as_str()[1..].parse().unwrap();
                fact.report.in_flight = heard[peer][index];
                fact.arrived_at = heard_at;
            }
        }
    }

    /// The 99th percentile of the wait for a slot, in seconds.
    fn p99_wait(chooser: Chooser, strategy: Strategy, backends: usize, seed: u64) -> f64 {
        let mut random = Random(seed);
        let policy = Policy { strategy, max_queue_depth: u32::MAX, ..Policy::default() };
        let request = Request { output_tokens: 100, ..Request::default() };
        let arrivals_mean = SERVICE_MEAN_SECS / (UTILISATION * f64::from(SLOTS) * backends as f64);
        let mut loading: Loading = vec![vec![0; backends]; ROUTERS];
        // What was told when, oldest first; a telling every 100 ms.
        let mut told: VecDeque<(Moment, Loading)> = VecDeque::from([(Moment::ZERO, loading.clone())]);
        let mut views: Vec<ClusterView> = (0..ROUTERS).map(|router| view_of(router, backends)).collect();
        let mut running = vec![0_u32; backends];
        let mut queues: Vec<VecDeque<(usize, Moment)>> = vec![VecDeque::new(); backends];
        let mut ends: BinaryHeap<Reverse<(Moment, usize, usize)>> = BinaryHeap::new();
        let mut waits = Vec::new();
        let mut now = Moment::ZERO;
        for _ in 0..REQUESTS {
            let arrival = now + random.exponential(arrivals_mean);
            while let Some(Reverse((end, backend, router))) =
                ends.peek().copied().filter(|e| e.0.0 <= arrival)
            {
                ends.pop();
                loading[router][backend] -= 1;
                running[backend] -= 1;
                if let Some((owner, since)) = queues[backend].pop_front() {
                    running[backend] += 1;
                    waits.push(end.since(since).as_secs_f64());
                    ends.push(Reverse((end + random.exponential(SERVICE_MEAN_SECS), backend, owner)));
                }
            }
            now = arrival;
            if told.back().is_none_or(|(at, _)| now.since(*at) >= Duration::from_millis(100)) {
                told.push_back((now, loading.clone()));
            }
            let staleness = match chooser {
                Chooser::Plan(staleness) | Chooser::LeastLoaded(staleness) => staleness,
                Chooser::Oracle => Duration::ZERO,
            };
            while told.get(1).is_some_and(|(at, _)| now.since(*at) >= staleness) {
                told.pop_front();
            }
            let (heard_at, heard) = &told[0];
            let router = (random.next() % ROUTERS as u64) as usize;
            let draw = random.next();
            let total = |loading: &Loading, backend: usize| loading.iter().map(|of| of[backend]).sum::<u32>();
            let least = |loading: &Loading| (0..backends).min_by_key(|b| total(loading, *b)).unwrap();
            let backend = match chooser {
                Chooser::Oracle => least(&loading),
                Chooser::LeastLoaded(_) => least(heard),
                Chooser::Plan(_) => {
                    let view = &mut views[router];
                    hear(view, heard, *heard_at);
                    let view = PreparedView::new(view.clone(), &policy, now, None);
                    plan(&view, &OwnLoads(&loading[router]), &request, &policy, draw, now).steps[0].index
                }
            };
            loading[router][backend] += 1;
            if running[backend] < SLOTS {
                running[backend] += 1;
                waits.push(0.0);
                ends.push(Reverse((now + random.exponential(SERVICE_MEAN_SECS), backend, router)));
            } else {
                queues[backend].push_back((router, now));
            }
        }
        waits.sort_by(f64::total_cmp);
        waits[waits.len() * 99 / 100]
    }

    fn mean_p99(chooser: Chooser, strategy: Strategy, backends: usize) -> f64 {
        let seeds = 1..=3_u64;
        seeds.clone().map(|seed| p99_wait(chooser, strategy, backends, seed)).sum::<f64>()
            / seeds.count() as f64
    }

    #[test]
    fn views_half_a_second_old_cost_little_against_an_oracle() {
        let oracle = mean_p99(Chooser::Oracle, Strategy::Cost, 6);
        for strategy in [Strategy::Cost, Strategy::Latency] {
            let planned = mean_p99(Chooser::Plan(Duration::from_millis(500)), strategy, 6);
            assert!(planned <= 1.7 * oracle, "{strategy}: p99 {planned:.2} s, the oracle's {oracle:.2} s");
        }
    }

    /// The more backends, the rarer an oracle waits at all, and the larger the share of waits that come of not
    /// knowing: the ratio grows while the wait itself falls. ADR 11 has the figures and what was tried.
    #[test]
    fn with_more_backends_clients_wait_less_although_an_oracle_gains_more() {
        let stale = Chooser::Plan(Duration::from_millis(500));
        let [six, many] = [6, 24].map(|backends| mean_p99(stale, Strategy::Cost, backends));
        assert!(many < six, "p99 {six:.2} s with 6, {many:.2} s with 24");
        let blind = mean_p99(Chooser::LeastLoaded(Duration::from_millis(500)), Strategy::Cost, 24);
        assert!(many < 0.8 * blind, "p99 {many:.2} s, {blind:.2} s where all take the least loaded");
    }

    #[test]
    fn staler_views_make_it_slower_but_never_swing() {
        let fresh = mean_p99(Chooser::Plan(Duration::ZERO), Strategy::Cost, 6);
        let mut least_loaded = 0.0;
        for staleness in [Duration::from_secs(2), Duration::from_millis(4_500)] {
            let planned = mean_p99(Chooser::Plan(staleness), Strategy::Cost, 6);
            least_loaded = mean_p99(Chooser::LeastLoaded(staleness), Strategy::Cost, 6);
            assert!(planned <= 3.0 * fresh, "p99 {planned:.2} s at {staleness:?}, {fresh:.2} s when fresh");
            assert!(planned <= 0.65 * least_loaded, "p99 {planned:.2} s, least loaded {least_loaded:.2} s");
        }
        assert!(least_loaded > 4.0 * fresh, "the model shows no herd to avoid: {least_loaded:.2} s");
    }
}
