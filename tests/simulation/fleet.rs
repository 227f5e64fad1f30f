//! The routers of one run: started, killed, started again.

use crate::history::{Event, History};
use crate::network::{Host, Network, gossip_address};
use crate::randomness::Draws;
use crate::relays;
use axum::Router;
use llm_router::config::{self, Config};
use llm_router::gossip_transport::SystemResolver;
use llm_router::http::router;
use llm_router::mock::{Faults, InProcess, MockConfig};
use llm_router::node::{Core, World};
use llm_router_actors::metrics::Metrics;
use llm_router_actors::topology::GossipSettings;
use llm_router_logic::backend::Kind;
use llm_router_logic::gossip::quota::{Beat, Claims};
use llm_router_logic::report::Health;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Regions, in the order of the nodes.
const REGIONS: [&str; 3] = ["us-west-2", "us-central1", "eastus"];
const CLOUDS: [&str; 3] = ["aws", "gcp", "azure"];
/// Backends: so many clusters, then so many providers.
pub(crate) const CLUSTERS: usize = 4;
pub(crate) const PROVIDERS: usize = 2;
/// The cluster that only routers of its own region reach: the others go through them.
const PRIVATE: usize = 1;

/// All routers, and what they share.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) network: Network,
    pub(crate) history: History,
    pub(crate) size: usize,
    seed: u64,
    started: Instant,
    nodes: Arc<Mutex<BTreeMap<usize, Running>>>,
    /// Totals as they were noted last.
    totals: Arc<Mutex<BTreeMap<Published, u64>>>,
}

/// Whose total: the node, its generation, what it is of.
type Published = (usize, u64, String);

struct Running {
    core: Core,
    routes: Router,
    generation: u64,
}

impl Fleet {
    pub(crate) fn new(seed: u64, size: usize) -> Self {
        let history = History::start();
        let backends = (0..CLUSTERS + PROVIDERS).map(fresh_backend).collect();
        let network = Network::new(seed, backends, size, history.clone());
        Self {
            network,
            history,
            size,
            seed,
            started: Instant::now(),
            nodes: Arc::default(),
            totals: Arc::default(),
        }
    }

    /// The routes of a running node.
    pub(crate) fn routes(&self, node: usize) -> Option<Router> {
        self.nodes.lock().unwrap().get(&node).map(|running| running.routes.clone())
    }

    /// Starts a node that does not run.
    pub(crate) async fn start(&self, node: usize) {
        self.network.start(Host::Node(node));
        let generation = 1_700_000_000_000 + self.started.elapsed().as_millis() as u64;
        let draws = Mutex::new(Draws::new(self.seed ^ generation.rotate_left(17) ^ (node as u64) << 40));
        let address = gossip_address(node);
        let settings = GossipSettings {
            cluster_id: "simulation".into(),
            listen: address,
            advertise: address,
            seeds: (0..self.size)
                .filter(|peer| *peer != node)
                .map(|n| gossip_address(n).to_string())
                .collect(),
            resolver: Arc::new(SystemResolver),
            interval: Duration::from_millis(200),
        };
        let world = World {
            metrics: Metrics::new().unwrap(),
            carrier: Some(self.network.carrier(node)),
            gossip: Some((settings, self.network.gossip(node))),
            draw: Arc::new(move || draws.lock().unwrap().next()),
            generation,
            simulated: true,
        };
        let core = Core::start(&self.settings(node), world).await.unwrap();
        self.network.set_handle(node, Some(core.app.handle.clone()));
        relays::open(&self.network, node, &format!("sim{}-{node}", self.seed), &core);
        let routes = router(core.app.clone());
        self.nodes.lock().unwrap().insert(node, Running { core, routes, generation });
    }

    /// Ends a node at once. Nothing it does from now on reaches anybody; its tasks are then ended in
    /// good order, which a dead process would not need.
    pub(crate) async fn kill(&self, node: usize) {
        self.network.kill(Host::Node(node));
        self.network.set_handle(node, None);
        self.network.set_relay(node, None);
        let running = self.nodes.lock().unwrap().remove(&node);
        if let Some(running) = running {
            running.core.app.handle.shutdown().await;
        }
    }

    /// Notes what every running node believes.
    pub(crate) fn note_views(&self) {
        self.network.watch_views();
        for (node, running) in &*self.nodes.lock().unwrap() {
            let handle = &running.core.app.handle;
            self.note_totals(*node, running);
            let snapshot = handle.snapshot();
            let view = &snapshot.view;
            let members = view.members.iter().filter(|member| member.live);
            let own = |backend: &llm_router_logic::view::BackendView| {
                backend.own.as_ref().map_or(Health::Unknown, |own| own.report.health)
            };
            let said = view.backends.iter().enumerate().flat_map(|(index, backend)| {
                backend.peers.iter().map(move |fact| (fact.node.to_string(), index, fact.report.health))
            });
            self.history.note(Event::View {
                node: *node,
                name: view.node.to_string(),
                members: members.map(|member| (member.node.to_string(), member.generation)).collect(),
                generation: running.generation,
                own: view.backends.iter().map(own).collect(),
                said: said.collect(),
            });
        }
    }

    /// Notes the totals that `node` reads of its peers, where they changed.
    fn note_totals(&self, node: usize, running: &Running) {
        let facts = running.core.app.handle.facts();
        let reader = running.generation;
        let spent = facts.heard::<Claims>().into_iter().map(|heard| {
            let name = format!("spent of {} in {} to {node} of {reader}", heard.name, heard.fact.period);
            (heard.node, heard.generation, name, heard.fact.spent.cast_unsigned())
        });
        let beats = facts.heard::<Beat>().into_iter().map(|heard| {
            let name = format!("beat {} to {node} of {reader}", heard.name);
            (heard.node, heard.generation, name, heard.fact.beat)
        });
        let mut told = self.totals.lock().unwrap();
        for (speaker, generation, name, value) in spent.chain(beats) {
            let Some(speaker) = speaker.as_str().rsplit('-').next().and_then(|n| n.parse().ok()) else {
                continue;
            };
            if told.insert((speaker, generation, name.clone()), value) != Some(value) {
                self.history.note(Event::Total { node: speaker, generation, name, value });
            }
        }
    }

    fn settings(&self, node: usize) -> Config {
        let (region, cloud) = (REGIONS[node % 3], CLOUDS[node % 3]);
        let cluster = |n: usize| {
            format!(
                "  - {{name: cluster-{n}, endpoint: \"http://backend-{n}.example\", region: {}, provider: {}, \
                 costPerHour: 0.{}, authType: none, slots: 4{}}}\n",
                REGIONS[n % 3],
                CLOUDS[n % 3],
                n + 1,
                if n == PRIVATE { format!(", reachedFrom: [{}]", REGIONS[n % 3]) } else { String::new() },
            )
        };
        let provider = |n: usize| {
            format!(
                "  - {{name: provider-{n}, type: openai, enabled: true, apiKey: sk-simulated, \
                 baseURL: \"http://backend-{n}.example\", defaultModel: tiny, \
                 models: [{{name: tiny, price: {{input: 1.0, output: 2.0}}}}]}}\n"
            )
        };
        let clusters: String = (0..CLUSTERS).map(cluster).collect();
        let providers: String = (CLUSTERS..CLUSTERS + PROVIDERS).map(provider).collect();
        let yaml = format!(
            "server: {{host: 127.0.0.1, port: 0}}\n\
             node: {{name: sim{}-{node}, region: {region}, cloud: {cloud}}}\n\
             router: {{healthCheckInterval: 2s, stickinessWindow: 0s}}\n\
             quota: {{budget: {{usd: 1000, mode: soft, period: month}}}}\n\
             timeouts: {{connect: 1s, firstByte: 5s, idle: 3s, total: 20s}}\n\
             clusters:\n{clusters}externalProviders:\n{providers}",
            self.seed
        );
        match config::load_str(&yaml, Path::new("."), &|_| None) {
            Ok(loaded) => loaded.config,
            Err(problems) => panic!("{problems}\n{yaml}"),
        }
    }
}

/// A backend as it was at first.
pub(crate) fn fresh_backend(index: usize) -> InProcess {
    let mut config = MockConfig::new(if index < CLUSTERS { Kind::Llama } else { Kind::OpenAi });
    config.models = vec!["tiny".into()];
    config.ttft = Duration::from_millis(60 + 20 * index as u64);
    config.tokens_per_second = 60.0;
    config.output_tokens = 12;
    InProcess::new(config, Faults::none())
}

impl Fleet {
    /// A node is away for `down`. One that is away already stays so for its own time.
    pub(crate) async fn restart(&self, node: usize, down: Duration) {
        if !self.network.is_running(Host::Node(node)) {
            tokio::time::sleep(down).await;
            return;
        }
        self.kill(node).await;
        tokio::time::sleep(down).await;
        self.start(node).await;
    }
}
