//! Requests that one router sends through another: the relay's own service and caller, over the simulated
//! network instead of HTTP/2 and TLS.

use crate::clients::request_of;
use crate::history::Event;
use crate::network::{Host, Network};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use llm_router::identity::NodeName;
use llm_router::node::Core;
use llm_router::outbound::{Carrier, CarryError};
use llm_router::peer_relay::service::{self, Service};
use llm_router::peer_relay::{Caller, Proven};
use llm_router_logic::ids::NodeId;
use std::sync::Arc;
use tower::ServiceExt;

/// Largest body a relay takes.
const BODY_MAX: usize = 1 << 20;

/// Lets `core`, which is `node`, send through peers and take their requests.
pub(crate) fn open(network: &Network, node: usize, name: &str, core: &Core) {
    let wire = PeerWire { network: network.clone(), node, name: NodeId::new(name) };
    core.outbound.call_peers_with(Arc::new(Caller::new(Arc::new(wire))));
    let (handle, outbound) = (core.app.handle.clone(), Arc::clone(&core.outbound));
    let tracer = Arc::clone(&core.app.tracer);
    let routes = service::router(Service { handle, outbound, tracer, max_body_bytes: BODY_MAX });
    network.set_relay(node, Some(routes));
    core.app.handle.tell_relay(&format!("node-{node}.relay:7947")).unwrap();
}

/// HTTP from one node to the relays of others.
struct PeerWire {
    network: Network,
    node: usize,
    name: NodeId,
}

impl Carrier for PeerWire {
    fn carry(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, CarryError>> {
        let (network, node, name) = (self.network.clone(), self.node, self.name.clone());
        async move { network.relay(node, name, request).await }.boxed()
    }
}

impl Network {
    async fn relay(
        &self,
        node: usize,
        name: NodeId,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, CarryError> {
        let to = node_of(&request).ok_or_else(|| CarryError::Connect("no such host".into()))?;
        let crossing = self.cross(Host::Node(node), Host::Node(to)).await?;
        if let Some(request) = request_of(request.body()) {
            self.note(Event::Relayed { request, from: node, to });
        }
        let routes: Option<Router> = self.relay_of(to);
        let routes = routes.ok_or_else(|| CarryError::Connect("connection refused".into()))?;
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(Proven(NodeName { cluster: "simulation".into(), node: name }));
        let answered = async move { routes.oneshot(request).await.map_err(|never| match never {}) };
        crossing.answer(self, answered, None).await
    }
}

fn node_of(request: &Request<Bytes>) -> Option<usize> {
    request.uri().host()?.strip_prefix("node-")?.strip_suffix(".relay")?.parse().ok()
}
