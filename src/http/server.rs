//! The listener: accepts, bounds and drains connections.

use super::connection::{Activity, Guarded, Limits as ConnectionLimits, Timed};
use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub use super::connection::Limits;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 16_384;
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `stop` is cancelled, then lets running requests end for at most `drain`. Dropping the
/// future cuts every connection at once.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
    drain: Duration,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let hard_stop = CancellationToken::new();
    // A listener that is aborted takes its connections with it.
    let _cut = hard_stop.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (router, stop, hard_stop) = (router.clone(), stop.clone(), hard_stop.clone());
        connections.spawn(async move {
            tokio::select! {
                () = serve_connection(stream, peer, router, limits, stop) => {}
                () = hard_stop.cancelled() => {}
            }
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            ?drain,
            "cutting connections that did not end in time"
        );
        hard_stop.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            None
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    // A stream of small events must not wait for full packets; a socket without the option still works.
    let _ = stream.set_nodelay(true);
    let activity = Activity::new();
    let transport =
        Timed { stream, activity: Arc::clone(&activity), write_timeout: limits.write_timeout, stalled: None };
    let counted = Arc::clone(&activity);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (router, guard) = (router.clone(), counted.request());
        async move {
            let response = router.oneshot(request.map(Body::new)).await?;
            Ok::<_, std::convert::Infallible>(response.map(|body| Guarded { body, guard }))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    // The watch below keeps the time of heads.
    builder.http1().header_read_timeout(None);
    let connection = builder.serve_connection(TokioIo::new(transport), service);
    tokio::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            why = activity.overdue(limits) => {
                tracing::debug!(why, "closing a connection");
                return;
            }
        }
    }
}
