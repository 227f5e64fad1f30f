//! The sidecar of a llama-server: verifies signed requests, forwards them, and measures what passes.
//!
//! It stands where llama-server cannot: llama-server knows neither HMAC nor `/stats`. It owns the
//! signatures seen and the figures of the last minutes, all in memory; lost on restart and measured
//! anew. It never retries, never caches and never changes a body. `docs/SIDECAR.md` states each figure.

mod auth;
mod figures;
mod forward;
mod meter;
mod scan;
mod upstream;

pub use figures::Stats;

use crate::config::SidecarConfig;
use crate::http::server::{self, Limits};
use crate::tls::Acceptor;
use anyhow::Context;
use auth::Gatekeeper;
use axum::Router;
use axum::routing::get;
use figures::Figures;
use meter::Meter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use upstream::Upstream;

/// How patient it is with its clients, which are routers.
const LIMITS: Limits = Limits {
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(120),
    body_timeout: Duration::from_secs(35),
    write_timeout: Duration::from_secs(60),
};

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    config: SidecarConfig,
    gatekeeper: Option<Gatekeeper>,
    meter: Arc<Meter>,
    upstream: Upstream,
    figures: Figures,
}

/// A running sidecar. Dropping it closes its listener and every connection at once.
#[derive(Debug)]
pub struct Sidecar {
    addr: SocketAddr,
    app: Arc<App>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// Starts a sidecar. The process must have a rustls provider installed before.
///
/// # Errors
/// When the address cannot be bound or the HTTP client cannot be made.
pub async fn start(config: SidecarConfig) -> anyhow::Result<Sidecar> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on `{}`", config.listen))?;
    let addr = listener.local_addr()?;
    let drain = config.drain_timeout;
    let app = Arc::new(App {
        gatekeeper: Gatekeeper::new(&config.auth),
        meter: Arc::default(),
        upstream: Upstream::new(&config.upstream, config.upstream_api_key.as_ref())?,
        figures: Figures::new(&config)?,
        config,
    });
    if app.gatekeeper.is_none() {
        tracing::warn!("no secret is configured: every request is let through");
    }
    let stop = CancellationToken::new();
    let tls = match app.config.tls.clone() {
        Some(files) => Some(Acceptor::start("sidecar", files, app.figures.tls_signals()?, stop.clone())?),
        None => None,
    };
    let routes = Router::new()
        .route("/health", get(forward::health))
        .route("/stats", get(figures::stats))
        .route("/metrics", get(figures::metrics))
        .route("/upstream/metrics", get(forward::upstream_metrics))
        .fallback(forward::forward)
        .with_state(Arc::clone(&app));
    let task = tokio::spawn(server::serve(listener, tls, routes, LIMITS, stop.clone(), drain));
    Ok(Sidecar { addr, app, stop, task: AbortOnDropHandle::new(task) })
}

/// Runs a sidecar until `shutdown` resolves, then lets running answers end.
///
/// # Errors
/// As [`start`].
pub async fn serve(config: SidecarConfig, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let upstream = config.upstream.clone();
    let sidecar = start(config).await?;
    tracing::info!(addr = %sidecar.addr(), upstream, "sidecar is listening");
    shutdown.await;
    sidecar.shutdown().await;
    Ok(())
}

impl Sidecar {
    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What `/stats` would answer now.
    pub async fn stats(&self) -> Stats {
        self.app.stats().await
    }

    /// Stops listening and lets running answers end within the drain limit.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the server ended abnormally");
        }
    }
}

#[cfg(test)]
mod sidecar_test;
