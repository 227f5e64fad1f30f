//! The way to webhooks' endpoints: one signed POST an event, to addresses of the configuration only.
//!
//! Owns addresses, secrets and what is told of a decision. Who is told what, and how often it is tried, is
//! `llm_router_actors::webhook`'s. No redirect is followed, and nothing of an answer is used but its status.

use crate::config::Webhook;
use crate::decisions::{Decision, Outcome};
use crate::outbound::{Carrier, read_bounded};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Uri};
use llm_router_actors::ports::{Deliver, Parcel, Undelivered};
use llm_router_actors::webhook::EndpointSpec;
use llm_router_logic::webhook::{
    AttemptTold, DecisionTold, ID_HEADER, KEY_ID_HEADER, KIND_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER,
    cut, key_id, signature,
};
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What of an answer is read, so that its connection can be used again.
const ANSWER_MAX: usize = 4 * 1024;
/// Characters of an answer that refuses, as logged.
const SAID_MAX: usize = 200;
/// Longest wait for the answer's body.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where one endpoint is, and what proves to it who sends.
struct Target {
    url: Uri,
    secret: SecretString,
    key_id: String,
}

/// Delivers over HTTP.
pub struct HttpDeliver {
    carrier: Arc<dyn Carrier>,
    targets: ArcSwap<HashMap<Arc<str>, Arc<Target>>>,
}

impl HttpDeliver {
    /// A way to `webhooks`.
    pub fn new(carrier: Arc<dyn Carrier>, webhooks: &[Webhook]) -> Self {
        let deliver = Self { carrier, targets: ArcSwap::default() };
        deliver.reconfigure(webhooks);
        deliver
    }

    /// Takes over new addresses and secrets.
    pub fn reconfigure(&self, webhooks: &[Webhook]) {
        let target = |webhook: &Webhook| {
            let (secret, name) = (webhook.secret.clone(), Arc::clone(&webhook.endpoint.name));
            // Checked when it was read.
            let url = webhook.url.parse().ok()?;
            let key_id = webhook.key_id.clone();
            let key_id = key_id.unwrap_or_else(|| self::key_id(secret.expose_secret().as_bytes()));
            Some((name, Arc::new(Target { url, secret, key_id })))
        };
        self.targets.store(Arc::new(webhooks.iter().filter_map(target).collect()));
    }
}

/// What the actor is told to keep up.
pub fn endpoints(webhooks: &[Webhook]) -> Vec<EndpointSpec> {
    webhooks.iter().map(|webhook| webhook.endpoint.clone()).collect()
}

impl Deliver for HttpDeliver {
    fn deliver(&self, endpoint: Arc<str>, parcel: Parcel) -> BoxFuture<'static, Result<(), Undelivered>> {
        let target = self.targets.load().get(&endpoint).cloned();
        let carrier = Arc::clone(&self.carrier);
        async move {
            let Some(target) = target else {
                return Err(Undelivered { why: "no longer configured".into(), retry_after: None });
            };
            let Parcel { id, kind, body } = parcel;
            let proof = Some((&target.secret, &*target.key_id));
            post(&*carrier, target.url.clone(), proof, (kind, &id), body).await
        }
        .boxed()
    }
}

/// Sends `body` once, signed where there is a secret. Every call that the router makes of its own accord goes
/// out here.
///
/// # Errors
/// [`Undelivered`] where the answer is no success.
pub(crate) async fn post(
    carrier: &dyn Carrier,
    url: Uri,
    proof: Option<(&SecretString, &str)>,
    (kind, id): (&str, &str),
    body: String,
) -> Result<(), Undelivered> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url;
    let signed = proof.map(|(secret, key_id)| {
        let signature = signature(secret.expose_secret().as_bytes(), now, request.body());
        (format!("v1={signature}"), key_id.to_owned())
    });
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static(TIMESTAMP_HEADER), HeaderValue::from(now));
    let mut insert = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    insert(KIND_HEADER, kind);
    insert(ID_HEADER, id);
    if let Some((signature, key_id)) = &signed {
        insert(SIGNATURE_HEADER, signature);
        insert(KEY_ID_HEADER, key_id);
    }
    let refuse = |why: String| Undelivered { why, retry_after: None };
    let response = carrier.carry(request).await.map_err(|error| refuse(error.to_string()))?;
    let (status, retry_after) = (response.status(), retry_after(response.headers()));
    let said = read_bounded(response.into_body(), ANSWER_MAX, PATIENCE).await.unwrap_or_default();
    if status.is_success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&said).chars().take(SAID_MAX).collect();
    Err(Undelivered { why: format!("answered {status}: {}", said.trim()), retry_after })
}

/// Whole seconds only: a date would need their clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What endpoints are told of `decision`: no text of a prompt, an answer or an error.
pub fn told(decision: &Decision) -> DecisionTold {
    let Decision { id, unix_ms, model, strategy, backend, backend_model, reason, outcome, .. } = decision;
    let Decision { status, attempts, ttft_ms, duration_ms, cost, external_cost, usage, .. } = decision;
    DecisionTold {
        id: id.clone(),
        unix_ms: *unix_ms,
        model: cut(model),
        strategy: strategy.as_str(),
        backend: backend.clone(),
        backend_model: backend_model.clone(),
        reason: reason.map(llm_router_logic::route::Reason::as_str),
        outcome: match outcome {
            Outcome::Served => "served",
            Outcome::Cancelled => "cancelled",
            Outcome::Failed | Outcome::Running => "failed",
        },
        status: *status,
        attempts: attempts
            .iter()
            .map(|attempt| AttemptTold {
                backend: attempt.backend.clone(),
                model: Arc::clone(&attempt.model),
                failed: attempt.fault.is_some(),
            })
            .collect(),
        ttft_ms: *ttft_ms,
        duration_ms: *duration_ms,
        input_tokens: usage.total_input(),
        output_tokens: usage.total_output(),
        cost_usd: *cost,
        external_cost_usd: *external_cost,
    }
}
