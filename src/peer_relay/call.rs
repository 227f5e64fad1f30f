//! The near end: sends a request for a backend to the peer that reaches it.

use super::message::{
    DEADLINE, DECISION, FAILED, FAILURE_BYTES_MAX, Failure, HOPS, MODEL, PATH, PATIENCE, TOKENS,
    UPSTREAM_PATH,
};
use crate::identity::Identity;
use crate::outbound::{Answer, Carrier, CarryError, HttpCarrier, read_bounded};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request};
use llm_router_logic::fault::Fault;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::time::millis;
use llm_router_logic::wire;
use std::sync::Arc;
use std::time::Duration;

/// What is spoken over the connection.
pub(super) const ALPN: &[u8] = b"h2";
/// Longest wait for a connection to a peer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A request for a backend, as the backend is to see it, and what the peer must know of it.
pub struct Ask<'a> {
    /// The backend.
    pub backend: &'a BackendId,
    /// The model, by the backend's own name.
    pub model: &'a str,
    /// Estimated tokens, input and output together.
    pub tokens: u32,
    /// The request in the backend's dialect.
    pub request: wire::Encoded,
    /// For the first byte.
    pub patience: Duration,
    /// For all of it.
    pub left: Duration,
    /// Id of the decision record here.
    pub decision: &'a str,
}

/// Calls peers' relays.
pub struct Caller {
    carrier: ArcSwap<Arc<dyn Carrier>>,
}

impl Caller {
    /// A caller over `carrier`.
    pub fn new(carrier: Arc<dyn Carrier>) -> Self {
        Self { carrier: ArcSwap::from_pointee(carrier) }
    }

    /// A caller that shows `identity` and asks the peer for one of the same cluster.
    ///
    /// # Errors
    /// In words, where no TLS client can be made of it.
    pub fn with_identity(identity: &Identity) -> Result<Self, String> {
        Ok(Self::new(carrier(identity)?))
    }

    /// Shows `identity` from the next connection on; requests under way end on the one they have.
    ///
    /// # Errors
    /// In words; the identity in force stays then.
    pub fn renew(&self, identity: &Identity) -> Result<(), String> {
        self.carrier.store(Arc::new(carrier(identity)?));
        Ok(())
    }

    /// Sends `ask` to `peer` at `address` and waits for the head of the backend's answer.
    ///
    /// # Errors
    /// The fault of the attempt, as if it had been made from here. [`Unreached`] as well where it was the peer
    /// and not the backend that could not be reached.
    pub async fn send(
        &self,
        peer: &NodeId,
        address: &str,
        ask: Ask<'_>,
    ) -> Result<Answer, (Fault, Unreached)> {
        let patience = ask.patience;
        let request = request(address, ask).map_err(|why| (Fault::Connect(why), Unreached(false)))?;
        let carrier = Arc::clone(&self.carrier.load());
        let response = match tokio::time::timeout(patience, carrier.carry(request)).await {
            Err(_) => return Err((Fault::FirstByteTimeout(patience), Unreached(false))),
            Ok(Err(error)) => {
                let told = format!("the relay of router `{peer}` at `{address}`: {error}");
                let unreached = Unreached(matches!(error, CarryError::Connect(_) | CarryError::TimedOut));
                let fault = if unreached.0 { Fault::Connect(told) } else { Fault::Broken(told) };
                return Err((fault, unreached));
            }
            Ok(Ok(response)) => response,
        };
        if response.status().is_success() {
            return Ok(Answer::new(response.into_body()));
        }
        let is_failure = response.headers().contains_key(FAILED);
        let status = response.status();
        let body = read_bounded(response.into_body(), FAILURE_BYTES_MAX, patience).await.unwrap_or_default();
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) if is_failure => Err((failure.fault(peer.as_str(), patience), Unreached(false))),
            // Whatever answers there is no relay of ours.
            _ => {
                let told = format!("the relay of router `{peer}` at `{address}` answered {status}");
                Err((Fault::Connect(told), Unreached(true)))
            }
        }
    }
}

/// Whether it was the peer's relay itself that could not be reached.
pub struct Unreached(pub bool);

fn carrier(identity: &Identity) -> Result<Arc<dyn Carrier>, String> {
    let tls = identity.client_config(ALPN).map_err(|error| error.to_string())?;
    let carrier = HttpCarrier::over(tls, CONNECT_TIMEOUT).map_err(|error| error.to_string())?;
    Ok(Arc::new(carrier))
}

fn request(address: &str, ask: Ask<'_>) -> Result<Request<Bytes>, String> {
    let wire::Encoded { path, body, headers, .. } = ask.request;
    let mut request = Request::post(format!("https://{address}{PATH}{}", ask.backend))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(UPSTREAM_PATH, path)
        .header(MODEL, ask.model)
        .header(TOKENS, ask.tokens)
        .header(PATIENCE, millis(ask.patience))
        .header(DEADLINE, millis(ask.left))
        .header(HOPS, 1)
        .header(DECISION, ask.decision);
    for (name, value) in headers {
        request = request.header(HeaderName::from_static(name), value);
    }
    request.body(Bytes::from(body)).map_err(|error| format!("cannot ask the router at `{address}`: {error}"))
}
