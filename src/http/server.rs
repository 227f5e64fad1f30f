//! The listener: accepts, bounds and drains connections.

use super::connection::{Activity, Arriving, Guarded, Limits as ConnectionLimits, Timed};
use crate::tls::{self, Acceptor, Certified};
use axum::Router;
use axum::body::Body;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
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

/// Serves `router` over `tls`, or plain HTTP without it, until `stop` is cancelled, then lets running requests end for at most `drain`. Dropping the
/// future cuts every connection at once.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Acceptor>>,
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
        let (router, tls, stop, hard_stop) = (router.clone(), tls.clone(), stop.clone(), hard_stop.clone());
        connections.spawn(async move {
            // A stream of small events must not wait for full packets; a socket without the option still works.
            let _ = stream.set_nodelay(true);
            let served = async {
                let Some(tls) = tls else {
                    return serve_connection(stream, peer, None, router, limits, stop).await;
                };
                let Some(Some(stream)) = stop.run_until_cancelled(tls.accept(stream)).await else { return };
                let certified = tls::certified(&stream);
                serve_connection(stream, peer, certified, router, limits, stop).await;
            };
            tokio::select! {
                () = served => {}
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

/// How an HTTP/1 request tells where its body ends.
#[derive(Clone, Copy)]
enum Framing {
    /// By its length, or it has no body, or it is HTTP/2.
    Length,
    /// By its chunks. hyper takes a `Content-Length` that comes after `Transfer-Encoding` away unseen, so the
    /// connection ends with such a request: what a proxy before us may have read otherwise is never taken for a
    /// further request (RFC 9112, 6.1 and 11.2).
    Chunked,
    /// By both.
    Ambiguous,
}

impl Framing {
    fn of(request: &Request<Incoming>) -> Self {
        let headers = request.headers();
        match (headers.contains_key(TRANSFER_ENCODING), headers.contains_key(CONTENT_LENGTH)) {
            (true, true) => Self::Ambiguous,
            (true, false) => Self::Chunked,
            (false, _) => Self::Length,
        }
    }
}

fn ambiguous() -> http::Response<Body> {
    const TOLD: &str = "{\"error\":{\"message\":\"the request has both `Content-Length` and `Transfer-Encoding`: send one\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"ambiguous_length\"}}";
    let mut response = http::Response::new(Body::from(TOLD));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
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
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    certified: Option<Certified>,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let activity = Activity::new();
    let transport =
        Timed { stream, activity: Arc::clone(&activity), write_timeout: limits.write_timeout, stalled: None };
    let counted = Arc::clone(&activity);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let framing = Framing::of(&request);
        request.extensions_mut().insert(peer);
        if let Some(certified) = &certified {
            request.extensions_mut().insert(certified.clone());
        }
        let (router, guard) = (router.clone(), counted.request());
        async move {
            let mut response = match framing {
                Framing::Ambiguous => ambiguous(),
                Framing::Length | Framing::Chunked => {
                    let arriving =
                        |body| Body::new(Arriving { body, patience: limits.body_timeout, overdue: None });
                    router.oneshot(request.map(arriving)).await?
                }
            };
            if !matches!(framing, Framing::Length) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
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
