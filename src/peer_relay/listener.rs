//! The relay's door: TLS 1.3, a certificate of the cluster demanded of the caller, HTTP/2.
//!
//! Whom it lets in is known by name to what answers ([`Proven`]). Whom it refuses is counted by the reason. A
//! renewed identity holds for the next connection, and none lives longer than ten minutes, so that an expired
//! certificate ends.

use super::call::ALPN;
use crate::identity::{Identity, IdentityError, NodeName};
use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use llm_router_actors::metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at once: peers keep a few each.
const CONNECTIONS_MAX: usize = 1_024;
/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection this old is asked to end, and a new one shows the certificates in force.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The peer at the other end, as its certificate names it.
#[derive(Clone, Debug)]
pub struct Proven(pub NodeName);

/// Serves `router` to proven peers until `stop`, then lets running requests end for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    identity: watch::Receiver<Arc<Identity>>,
    metrics: Metrics,
    stop: CancellationToken,
    drain: Duration,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let hard_stop = CancellationToken::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (router, identity, metrics) = (router.clone(), Arc::clone(&identity.borrow()), metrics.clone());
        let (stop, hard_stop) = (stop.clone(), hard_stop.clone());
        connections.spawn(async move {
            tokio::select! {
                () = serve_connection(stream, router, &identity, &metrics, stop) => {}
                () = hard_stop.cancelled() => {}
            }
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        hard_stop.cancel();
        connections.wait().await;
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    identity: &Identity,
    metrics: &Metrics,
    stop: CancellationToken,
) {
    let refused = |why: &str| metrics.relay_refused_total.with_label_values(&[why]).inc();
    let _ = stream.set_nodelay(true);
    let acceptor = match acceptor(identity) {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!(%error, "the identity cannot serve the relay"),
    };
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "refused a caller of the relay");
            return refused(crate::tls::refusal(&error));
        }
        Err(_) => return refused("handshake"),
    };
    let name =
        stream.get_ref().1.peer_certificates().and_then(|chain| NodeName::of_certificate(chain.first()?));
    let Some(name) = name else { return refused("certificate_missing") };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Proven(name.clone()));
        let router = router.clone();
        async move { router.oneshot(request.map(Body::new)).await }
    });
    let builder = Builder::new(TokioExecutor::new()).http2_only();
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let too_old = tokio::time::sleep(CONNECTION_AGE_MAX);
    tokio::pin!(too_old);
    let mut ending = false;
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stop.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut too_old, if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor, IdentityError> {
    Ok(TlsAcceptor::from(Arc::new(identity.server_config(ALPN)?)))
}
