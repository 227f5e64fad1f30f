//! The call that wakes a cluster scaled to zero: one POST to an address of the configuration, signed as webhooks are.
//!
//! It is an order to one receiver, made once by one router of the fleet; who only wants to know of it subscribes
//! to the events `wake` of a webhook.

use super::Outbound;
use crate::webhook::post;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use llm_router_actors::ports::{Wake, WakeOrder};
use llm_router_logic::time::millis;
use llm_router_logic::webhook;
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

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
    let url = hook.url.parse().map_err(|_| "`wakeUrl` is no address".to_owned())?;
    let key_id = hook.secret.as_ref().map(|secret| webhook::key_id(secret.expose_secret().as_bytes()));
    let proof = hook.secret.as_ref().zip(key_id.as_deref());
    let id = format!("wake_{}_{}", order.backend, millis(now));
    let called = post(&**carrier, url, proof, ("wake", &id), body.to_string()).await;
    called.map(|()| true).map_err(|refused| format!("`wakeUrl` {}", refused.why))
}
