//! A node's part in relaying: it calls peers with its identity, and opens its own relay where it has one.

use super::{NodeError, bind};
use crate::config::Config;
use crate::identity::Identity;
use crate::outbound::Outbound;
use crate::peer_relay::service::{self, Service};
use crate::peer_relay::{Caller, listener};
use crate::trace::Tracer;
use llm_router_actors::Handle;
use llm_router_actors::metrics::Metrics;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What it takes to relay.
pub(super) struct PeerRelay<'a> {
    pub(super) config: &'a Config,
    pub(super) identity: watch::Receiver<Arc<Identity>>,
    pub(super) metrics: Metrics,
    pub(super) tracer: Arc<Tracer>,
    pub(super) stop: CancellationToken,
}

impl PeerRelay<'_> {
    /// Lets `outbound` call peers; opens the relay and tells peers of it where the configuration has one.
    pub(super) async fn start(
        self,
        handle: &Handle,
        outbound: &Arc<Outbound>,
    ) -> Result<Option<JoinHandle<()>>, NodeError> {
        let Self { config, identity, metrics, tracer, stop } = self;
        let caller = Caller::with_identity(&identity.borrow()).map_err(NodeError::PeerRelay)?;
        let caller = Arc::new(caller);
        outbound.call_peers_with(Arc::clone(&caller));
        tokio::spawn(renew(caller, identity.clone(), stop.clone()));
        let Some(relay) = config.gossip.as_ref().and_then(|gossip| gossip.relay.as_ref()) else {
            return Ok(None);
        };
        let (host, port) = (relay.listen.ip().to_string(), relay.listen.port());
        let listener = bind("gossip.relay.listen", &host, port).await?;
        let bound = listener.local_addr().map_or(relay.listen, |bound| bound);
        let advertised = relay.advertise.clone().unwrap_or_else(|| bound.to_string());
        let (handle, outbound) = (handle.clone(), Arc::clone(outbound));
        handle.tell_relay(&advertised).map_err(|error| NodeError::PeerRelay(error.to_string()))?;
        tracing::info!(%bound, advertised, "takes peers' requests");
        let router = service::router(Service {
            handle,
            outbound,
            tracer,
            max_body_bytes: config.server.max_body_bytes,
        });
        let drain = config.server.drain_timeout;
        Ok(Some(tokio::spawn(listener::serve(listener, router, identity, metrics, stop, drain))))
    }
}

/// Shows each new identity from its first connection on.
async fn renew(caller: Arc<Caller>, mut identity: watch::Receiver<Arc<Identity>>, stop: CancellationToken) {
    loop {
        tokio::select! {
            changed = identity.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        let newest = Arc::clone(&identity.borrow_and_update());
        if let Err(error) = caller.renew(&newest) {
            tracing::error!(error, "peers' relays are called with the identity that was in force before");
        }
    }
}
