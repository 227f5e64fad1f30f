//! What carries one HTTP request to a backend's address.
//!
//! [`Outbound`](super::Outbound) says what is sent where; a carrier only moves it. Production uses
//! [`HttpCarrier`]; a simulation carries requests to services in the same process.

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::time::Duration;

/// Idle connections kept per backend.
const IDLE_PER_HOST: usize = 64;

/// Moves one request with an absolute URL and gives back the response's head, its body still to come.
pub trait Carrier: Send + Sync + 'static {
    /// Sends `request`.
    ///
    /// # Errors
    /// [`CarryError`]; whether the peer has seen anything of the request is unknown then, except after
    /// [`CarryError::Connect`].
    fn carry(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, CarryError>>;
}

/// Why a request got no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarryError {
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection took too long.
    #[error("timed out")]
    TimedOut,
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
}

/// Carries over TCP and TLS with pooled connections.
pub struct HttpCarrier {
    client: reqwest::Client,
}

impl HttpCarrier {
    /// A carrier that shows `identity` to servers that ask for a client certificate, and that trusts
    /// `authorities` only, or those of the system where there are none.
    ///
    /// # Errors
    /// Where the HTTP client refuses its settings.
    pub fn new(
        connect_timeout: Duration,
        identity: Option<reqwest::Identity>,
        authorities: Vec<reqwest::Certificate>,
    ) -> reqwest::Result<Self> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .connect_timeout(connect_timeout)
            .user_agent(concat!("llm-router/", env!("CARGO_PKG_VERSION")));
        let builder = if authorities.is_empty() { builder } else { builder.tls_certs_only(authorities) };
        let builder = match identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        };
        Ok(Self { client: builder.build()? })
    }

    /// A carrier over HTTP/2 and `tls`, for calls between routers. A peer that says nothing for ten seconds is
    /// gone.
    ///
    /// # Errors
    /// Where the HTTP client refuses its settings.
    pub fn over(tls: rustls::ClientConfig, connect_timeout: Duration) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(PEER_SILENCE)
            .http2_keep_alive_timeout(PEER_SILENCE)
            .http2_initial_stream_window_size(PEER_WINDOW)
            .http2_initial_connection_window_size(PEER_WINDOW * 4)
            .user_agent(concat!("llm-router/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls)
            .build()?;
        Ok(Self { client })
    }
}

/// A connection between routers that is silent for this long is asked whether it still is one.
const PEER_SILENCE: Duration = Duration::from_secs(5);
/// Bytes of one answer on their way between two routers: half a second of the fastest at 150 ms.
const PEER_WINDOW: u32 = 1024 * 1024;

impl Carrier for HttpCarrier {
    fn carry(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, CarryError>> {
        let client = self.client.clone();
        async move {
            let request = reqwest::Request::try_from(request).map_err(|error| carry_error(&error))?;
            let response = client.execute(request).await.map_err(|error| carry_error(&error))?;
            Ok(Response::<reqwest::Body>::from(response).map(Body::new))
        }
        .boxed()
    }
}

fn carry_error(error: &reqwest::Error) -> CarryError {
    if error.is_connect() {
        CarryError::Connect(innermost(error))
    } else if error.is_timeout() {
        CarryError::TimedOut
    } else {
        CarryError::Broken(innermost(error))
    }
}

/// The root cause, without the URL that reqwest puts before it.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
