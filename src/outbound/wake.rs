//! The call that wakes a cluster scaled to zero: one signed POST to an address of the configuration.

use super::{Outbound, read_bounded};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use llm_router_actors::ports::{Wake, WakeOrder};
use llm_router_logic::sign;
use llm_router_logic::time::millis;
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an answer may hold; nothing of it is used but its first words in the log.
const ANSWER_MAX: usize = 4 * 1024;
/// Characters of an answer that refuses, as logged.
const SAID_MAX: usize = 200;
/// Longest wait for the answer's body.
const PATIENCE: Duration = Duration::from_secs(2);

/// Calls clusters over HTTP.
pub struct HttpWake {
    outbound: Arc<Outbound>,
}

impl HttpWake {
    /// Calls that go out as requests do.
    pub fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound }
    }
}

impl Wake for HttpWake {
    fn wake(&self, order: WakeOrder) -> BoxFuture<'static, Result<bool, String>> {
        let outbound = Arc::clone(&self.outbound);
        async move { call(&outbound, &order).await }.boxed()
    }
}

async fn call(outbound: &Outbound, order: &WakeOrder) -> Result<bool, String> {
    let Some(route) = outbound.routes.load().get(&order.backend).cloned() else {
        return Err("no longer configured".to_owned());
    };
    let Some((hook, carrier)) = &route.wake else {
        return Ok(false);
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let body = serde_json::json!({
        "event": "wake",
        "backend": order.backend,
        "requests": order.requests,
        "cold_start_ms": millis(order.cold_start),
        "unix_ms": millis(now),
    });
    let body = Bytes::from(body.to_string());
    let mut request = Request::new(body.clone());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hook.url.parse().map_err(|_| "`wakeUrl` is no address".to_owned())?;
    if let Some(secret) = &hook.secret {
        let secret = secret.expose_secret().as_bytes();
        let path = request.uri().path().to_owned();
        let signature = sign::sign_v1(secret, now.as_secs(), Method::POST.as_str(), &path, &body);
        let headers = request.headers_mut();
        headers.insert(sign::TIMESTAMP_HEADER, HeaderValue::from(now.as_secs()));
        headers.insert(sign::AUTH_TYPE_HEADER, HeaderValue::from_static(sign::AUTH_TYPE));
        if let Ok(signature) = HeaderValue::from_str(&signature) {
            headers.insert(sign::SIGNATURE_HEADER, signature);
        }
    }
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = carrier.carry(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    if status.is_success() {
        return Ok(true);
    }
    let said = read_bounded(response.into_body(), ANSWER_MAX, PATIENCE).await.unwrap_or_default();
    let said: String = String::from_utf8_lossy(&said).chars().take(SAID_MAX).collect();
    Err(format!("`wakeUrl` answered {status}: {said}"))
}
