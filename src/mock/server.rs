//! The accept loop of a small HTTP server: TCP_NODELAY, HTTP/1 and HTTP/2, connections that end with
//! their owner, and a way for a route to close its connection without an answer.

use anyhow::Context;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt;

/// Response extension: close the connection instead of sending this response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HangUp;

#[derive(Debug, thiserror::Error)]
#[error("connection closed on purpose")]
struct HungUp;

pub(crate) async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| format!("cannot listen on `{listen}`"))
}

/// Serves until `stop` resolves, then drains for at most `grace`. Dropping this future closes every
/// connection at once.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    stop: impl Future<Output = ()>,
    grace: Duration,
) {
    let mut stop = std::pin::pin!(stop);
    let mut connections = JoinSet::new();
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let watcher = graceful.watcher();
                    connections.spawn(talk(stream, routes.clone(), watcher));
                }
                Err(error) => {
                    // Out of descriptors or a connection reset before accept: neither ends a server.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = &mut stop => break,
        }
    }
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::debug!("grace is over: closing the connections that are left");
    }
}

async fn talk(stream: TcpStream, routes: Router, watcher: hyper_util::server::graceful::Watcher) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let routes = routes.clone();
        async move {
            let Ok(response) = routes.oneshot(request).await;
            if response.extensions().get::<HangUp>().is_some() { Err(HungUp) } else { Ok(response) }
        }
    });
    let builder = Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // An error here is a client that left or a connection cut on purpose; both are normal.
    if let Err(error) = watcher.watch(connection).await {
        tracing::trace!(error, "connection ended early");
    }
}
