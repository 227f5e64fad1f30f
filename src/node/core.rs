//! A node without its listeners: everything that answers a request once it has been accepted.
//!
//! `serve` puts TCP listeners before it; a simulation calls its routes in process, with a network, a
//! clock and a source of randomness of its own.

use super::{NodeError, topology};
use crate::config::Config;
use crate::decisions::{Decision, Decisions};
use crate::http::{App, Auth, Fixed, Readiness, Sessions};
use crate::ledger::SqliteLedger;
use crate::outbound::{Carrier, HttpCarrier, HttpProbe, HttpWake, Outbound, OutboundError};
use crate::quota::StateFile;
use crate::relay::Relay;
use crate::spot::Notices;
use crate::trace::{Tracer, Who};
use crate::webhook::{self, HttpDeliver};
use arc_swap::ArcSwap;
use llm_router_actors::clock::Clock;
use llm_router_actors::handle::Setup;
use llm_router_actors::metrics::Metrics;
use llm_router_actors::ports::{Deliver, Draw, GossipTransport, LedgerStorage, QuotaStore};
use llm_router_actors::topology::GossipSettings;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What a node needs of the world besides its configuration.
pub struct World {
    /// Where it counts.
    pub metrics: Metrics,
    /// Carries requests to backends; `None` = connections of its own.
    pub carrier: Option<Arc<dyn Carrier>>,
    /// The way to its peers; `None` = it has none.
    pub gossip: Option<(GossipSettings, Arc<dyn GossipTransport>)>,
    /// The one source of randomness.
    pub draw: Draw,
    /// Higher at each start: the start's time in milliseconds.
    pub generation: u64,
    /// Whether all backends are simulated, which its page then says.
    pub simulated: bool,
}

/// A running node that nobody can reach but through its `app`.
pub struct Core {
    /// What its routes share.
    pub app: App,
    /// The way to its backends.
    pub outbound: Arc<Outbound>,
    /// Wishes of operators that the configuration be read again.
    pub reloads: mpsc::Receiver<()>,
}

impl Core {
    /// Starts the actors and what stands between them and the routes.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub async fn start(config: &Config, world: World) -> Result<Self, NodeError> {
        let clock = Clock::start();
        let who = Who {
            clock,
            metrics: world.metrics.clone(),
            node: config.node.name.clone(),
            region: config.node.region.clone(),
            random: [(world.draw)(), (world.draw)()],
        };
        let tracer = Arc::new(Tracer::start(&config.telemetry, &config.backends, who)?);
        let draw = Arc::clone(&world.draw);
        let carrier: Arc<dyn Carrier> = match &world.carrier {
            Some(carrier) => Arc::clone(carrier),
            None => Arc::new(
                HttpCarrier::new(config.timeouts.connect, None, Vec::new()).map_err(OutboundError::from)?,
            ),
        };
        let deliver = Arc::new(HttpDeliver::new(carrier, &config.webhooks));
        let outbound = Outbound::carried(&config.backends, config.timeouts, world.carrier, draw)?;
        let outbound = Arc::new(outbound);
        let handle = llm_router_actors::start(Setup {
            topology: topology(config),
            probe: Arc::new(HttpProbe::new(Arc::clone(&outbound))),
            wake: Arc::new(HttpWake::new(Arc::clone(&outbound))),
            gossip: world.gossip,
            ledger: config.ledger.clone().map(|ledger| {
                let storage = SqliteLedger::new(ledger.path, ledger.retention, ledger.max_bytes);
                (ledger.journal, Arc::new(storage) as Arc<dyn LedgerStorage>)
            }),
            draw: world.draw,
            metrics: world.metrics,
            clock,
            generation: world.generation,
            quota_store: config
                .quota
                .state_file
                .clone()
                .map(|path| Arc::new(StateFile::new(path)) as Arc<dyn QuotaStore>),
            deliver: Some(Arc::clone(&deliver) as Arc<dyn Deliver>),
        })
        .await?;
        handle.webhooks().configure(webhook::endpoints(&config.webhooks));
        let webhooks = handle.webhooks().clone();
        let listener = move |decision: &Decision| webhooks.decided(|| webhook::told(decision));
        let decisions = Arc::new(Decisions::told_to(Box::new(listener)));
        let relay = Relay::new(
            handle.clone(),
            Arc::clone(&outbound),
            Arc::clone(&decisions),
            config.timeouts,
            config.stickiness_window,
        )
        .trying(&config.experiments, &config.shadows)
        .keeping(config)
        .traced(Arc::clone(&tracer));
        let random = [handle.draw(), handle.draw(), handle.draw(), handle.draw()];
        let auth = Arc::new(Auth::new(config, random, handle.clone()));
        // One reload waiting is enough: it reads the newest file.
        let (reload, reloads) = mpsc::channel(1);
        let notices = Notices::watch(handle.clone(), config.notice_files());
        let app = App {
            notices: Arc::new(notices),
            deliver,
            handle,
            tracer,
            relay: Arc::new(ArcSwap::from_pointee(relay)),
            decisions,
            readiness: Arc::new(Readiness::new(
                config.gossip.as_ref().is_some_and(|gossip| !gossip.seeds.is_empty()),
            )),
            auth,
            sessions: config.demo.clone().map(|demo| Arc::new(Sessions::new(demo))),
            history: Arc::default(),
            staged: false,
            fixed: Arc::new(Fixed::new(config, world.simulated)),
            reload,
        };
        Ok(Self { app, outbound, reloads })
    }
}
