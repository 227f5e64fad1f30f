//! The way out: one carrier per TLS identity, requests signed or keyed for each backend.
//!
//! Owns addresses and secrets of backends. A client's own headers never come here: what goes out is
//! made here from an allow-list.

mod carrier;
mod certified;
mod probe;
mod signing;
#[cfg(test)]
mod tests;
mod wake;

pub use carrier::{Carrier, CarryError, HttpCarrier};
pub use probe::HttpProbe;
pub use wake::HttpWake;

use crate::config::{Auth, Backend, Connection, Timeouts, WakeHook};
use crate::peer_relay::{Ask, Caller, Unreached};
use arc_swap::{ArcSwap, ArcSwapOption};
use axum::body::Body;
use bytes::Bytes;
use carrier::innermost;
use certified::{Certified, Stamp};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use llm_router_actors::ports::Draw;
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::Fault;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::wire;
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Largest body of an error response that is read.
const ERROR_BODY_MAX: usize = 64 * 1024;

/// Sends requests to backends.
pub struct Outbound {
    routes: ArcSwap<HashMap<BackendId, Arc<Route>>>,
    timeouts: Timeouts,
    /// Carries everything, instead of connections of our own.
    carrier: Option<Arc<dyn Carrier>>,
    draw: Draw,
    /// Calls peers' relays; empty where this node cannot prove itself to them.
    peers: ArcSwapOption<Caller>,
}

/// How one backend is reached.
struct Route {
    kind: Kind,
    connection: Connection,
    carrier: Arc<dyn Carrier>,
    /// The certificates' files as they were read.
    stamp: Stamp,
    draw: Draw,
    /// What wakes it, and what carries that call: never with the backend's own proof of identity.
    wake: Option<(WakeHook, Arc<dyn Carrier>)>,
}

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// A certificate or key could not be used.
    #[error("backend `{backend}`: cannot use certificate `{file}`: {why}")]
    Identity {
        /// Whose.
        backend: BackendId,
        /// Which file.
        file: String,
        /// Why.
        why: String,
    },
    /// The HTTP client refused its settings.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// A successful response, its body still to come.
#[derive(Debug)]
pub struct Answer {
    body: Body,
}

impl Answer {
    /// An answer whose body this is.
    pub(crate) fn new(body: Body) -> Self {
        Self { body }
    }

    /// The next bytes; `None` at the end of the body.
    ///
    /// # Errors
    /// [`Fault::IdleTimeout`] after `patience` without a byte, [`Fault::Broken`] where the connection
    /// broke.
    pub async fn chunk(&mut self, patience: Duration) -> Result<Option<Bytes>, Fault> {
        match tokio::time::timeout(patience, next_chunk(&mut self.body)).await {
            Err(_) => Err(Fault::IdleTimeout(patience)),
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(Fault::Broken(innermost(&error))),
        }
    }
}

impl Outbound {
    /// Clients for `backends`.
    ///
    /// # Errors
    /// [`OutboundError`] where a client certificate cannot be used.
    pub fn new(backends: &[Backend], timeouts: Timeouts) -> Result<Self, OutboundError> {
        Self::carried(backends, timeouts, None, Arc::new(rand::random::<u64>))
    }

    /// The same with a source of randomness, and with `carrier` instead of connections of our own where
    /// there is one.
    ///
    /// # Errors
    /// [`OutboundError`] where a client certificate cannot be used.
    pub fn carried(
        backends: &[Backend],
        timeouts: Timeouts,
        carrier: Option<Arc<dyn Carrier>>,
        draw: Draw,
    ) -> Result<Self, OutboundError> {
        // What carries everything carries calls to peers too.
        let peers = ArcSwapOption::from(carrier.clone().map(|carrier| Arc::new(Caller::new(carrier))));
        let outbound = Self { routes: ArcSwap::default(), timeouts, carrier, draw, peers };
        outbound.reconfigure(backends)?;
        Ok(outbound)
    }

    /// Takes over new backends; requests under way keep the client they have.
    ///
    /// # Errors
    /// [`OutboundError`]; nothing is changed then.
    pub fn reconfigure(&self, backends: &[Backend]) -> Result<(), OutboundError> {
        let before = self.routes.load();
        let mut plain = before
            .values()
            .find(|route| !certified::is_own(&route.connection))
            .map(|route| Arc::clone(&route.carrier));
        let mut routes = HashMap::new();
        for backend in backends {
            let id = &backend.spec.id;
            let kept = before.get(id).filter(|route| route.connection == backend.connection);
            let stamp = certified::stamp(&backend.connection);
            let carrier = match (certified::is_own(&backend.connection), kept) {
                (_, Some(route)) if route.stamp == stamp => Arc::clone(&route.carrier),
                (true, _) => self.carrier(certified::read(id, &backend.connection)?)?,
                (false, _) => match &plain {
                    Some(carrier) => Arc::clone(carrier),
                    None => Arc::clone(plain.insert(self.carrier(Certified::default())?)),
                },
            };
            let wake = match (&backend.connection.wake, &plain) {
                (None, _) => None,
                (Some(hook), Some(carrier)) => Some((hook.clone(), Arc::clone(carrier))),
                (Some(hook), None) => {
                    Some((hook.clone(), Arc::clone(plain.insert(self.carrier(Certified::default())?))))
                }
            };
            let (kind, connection) = (backend.spec.kind, backend.connection.clone());
            let draw = Arc::clone(&self.draw);
            routes.insert(id.clone(), Arc::new(Route { kind, connection, carrier, stamp, draw, wake }));
        }
        self.routes.store(Arc::new(routes));
        Ok(())
    }

    /// Whether a backend's certificates are other files by now than those in use.
    pub fn is_outdated(&self) -> bool {
        self.routes.load().values().any(|route| certified::stamp(&route.connection) != route.stamp)
    }

    fn carrier(&self, tls: Certified) -> Result<Arc<dyn Carrier>, OutboundError> {
        match &self.carrier {
            Some(carrier) => Ok(Arc::clone(carrier)),
            None => Ok(Arc::new(HttpCarrier::new(self.timeouts.connect, tls.identity, tls.authorities)?)),
        }
    }

    /// Sends one request and waits for a successful response's head.
    ///
    /// # Errors
    /// [`Fault::Connect`], [`Fault::FirstByteTimeout`] after `patience`, or [`Fault::Status`] with the
    /// upstream's error.
    pub async fn send(
        &self,
        backend: &BackendId,
        request: wire::Encoded,
        patience: Duration,
    ) -> Result<Answer, Fault> {
        let Some(route) = self.routes.load().get(backend).cloned() else {
            return Err(Fault::Connect(format!("backend `{backend}` is no longer configured")));
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &request.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let call = route.call(Method::POST, &request.path, headers, Bytes::from(request.body));
        let response = match tokio::time::timeout(patience, call).await {
            Err(_) => return Err(Fault::FirstByteTimeout(patience)),
            Ok(Err(error)) => return Err(fault_of(error, patience)),
            Ok(Ok(response)) => response,
        };
        if response.status().is_success() {
            return Ok(Answer { body: response.into_body() });
        }
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let body = read_bounded(response.into_body(), ERROR_BODY_MAX, patience).await.unwrap_or_default();
        let error = wire::read_error(route.kind, &body);
        let status = wire::corrected_status(route.kind, status.as_u16(), &error);
        Err(Fault::Status { status, retry_after, error })
    }

    /// From now on calls to peers' relays are made by `caller`.
    pub fn call_peers_with(&self, caller: Arc<Caller>) {
        self.peers.store(Some(caller));
    }

    /// Sends one request through the router of `peer`, as [`Self::send`] does from here.
    ///
    /// # Errors
    /// The fault of the attempt, with whether it was the peer's relay itself that could not be reached.
    pub async fn send_through(
        &self,
        peer: &NodeId,
        address: &str,
        ask: Ask<'_>,
    ) -> Result<Answer, (Fault, Unreached)> {
        match self.peers.load_full() {
            Some(caller) => caller.send(peer, address, ask).await,
            None => {
                let told = format!("cannot call router `{peer}`: this node has no `gossip.identity`");
                Err((Fault::Connect(told), Unreached(true)))
            }
        }
    }

    /// Asks with GET, for probes: status and at most `limit` bytes of body.
    async fn get(
        &self,
        backend: &BackendId,
        path: &str,
        limit: usize,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let Some(route) = self.routes.load().get(backend).cloned() else {
            return Err("no longer configured".into());
        };
        let mut headers = HeaderMap::new();
        if route.kind == Kind::Anthropic {
            headers
                .insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01"));
        }
        let call = route.call(Method::GET, path, headers, Bytes::new());
        let response = match tokio::time::timeout(patience, call).await {
            Err(_) => return Err(format!("{path}: no answer within {patience:?}")),
            Ok(Err(error)) => return Err(format!("{path}: {}", fault_of(error, patience))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        let body = read_bounded(response.into_body(), limit, patience)
            .await
            .map_err(|why| format!("{path}: {why}"))?;
        Ok((status, body))
    }
}

impl Route {
    /// One request with this backend's proof of identity.
    async fn call(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        mut body: Bytes,
    ) -> Result<Response<Body>, CarryError> {
        let url = format!("{}{path}", self.connection.base_url);
        match &self.connection.auth {
            Auth::None | Auth::Mtls { .. } => {}
            Auth::ApiKey(key) => {
                let (name, value) = api_key_header(self.kind, key);
                if let Some(value) = value {
                    headers.insert(name, value);
                }
            }
            Auth::Hmac(secret) => {
                body = signing::sign_v1(&mut headers, secret, &method, &url, body, (self.draw)());
            }
            Auth::HmacV2(key) => {
                let draws = [(self.draw)(), (self.draw)()];
                signing::sign_v2(&mut headers, key, &method, &url, &body, draws);
            }
        }
        let request = Request::builder().method(method).uri(url).body(body);
        let mut request = request.map_err(|error| CarryError::Connect(error.to_string()))?;
        *request.headers_mut() = headers;
        self.carrier.carry(request).await
    }
}

/// The header a provider expects its key in; the value is marked so that nothing logs it.
fn api_key_header(kind: Kind, key: &SecretString) -> (HeaderName, Option<HeaderValue>) {
    let (name, value) = match kind {
        Kind::OpenAi | Kind::Llama => (AUTHORIZATION, format!("Bearer {}", key.expose_secret())),
        Kind::Anthropic => (HeaderName::from_static("x-api-key"), key.expose_secret().to_owned()),
        Kind::Gemini => (HeaderName::from_static("x-goog-api-key"), key.expose_secret().to_owned()),
    };
    let value = HeaderValue::from_str(&value).ok().map(|mut value| {
        value.set_sensitive(true);
        value
    });
    (name, value)
}

fn fault_of(error: CarryError, patience: Duration) -> Fault {
    match error {
        CarryError::Connect(why) => Fault::Connect(why),
        CarryError::TimedOut => Fault::FirstByteTimeout(patience),
        CarryError::Broken(why) => Fault::Broken(why),
    }
}

/// `Retry-After` in seconds; the HTTP-date form is not used by any of these providers.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(86_400.0)))
}

/// The next bytes of `body`; trailers are passed over.
async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, axum::Error> {
    while let Some(frame) = body.frame().await {
        if let Ok(chunk) = frame?.into_data() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

pub(crate) async fn read_bounded(mut body: Body, limit: usize, patience: Duration) -> Result<Bytes, String> {
    let mut read = Vec::new();
    let reading = async {
        while let Some(chunk) = next_chunk(&mut body).await.map_err(|error| innermost(&error))? {
            if read.len() + chunk.len() > limit {
                return Err(format!("more than {limit} bytes"));
            }
            read.extend_from_slice(&chunk);
        }
        Ok(())
    };
    match tokio::time::timeout(patience, reading).await {
        Err(_) => Err(format!("not complete within {patience:?}")),
        Ok(Err(why)) => Err(why),
        Ok(Ok(())) => Ok(Bytes::from(read)),
    }
}
