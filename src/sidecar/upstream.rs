//! The llama-server behind the sidecar: how it is reached and what it says of its slots and queue.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A server on the same machine either accepts at once or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one look at slots and queue may take.
const LOOK_TIMEOUT: Duration = Duration::from_millis(1_500);
/// llama-server must not be asked more often: each look restarts the wait in which it notices that
/// the client of a queued request has left.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Most bytes of `/slots` or `/metrics` that are read: some builds list whole prompts in `/slots`.
const LOOK_BYTES_MAX: usize = 4 << 20;

/// Reaches one llama-server.
#[derive(Debug)]
pub(crate) struct Upstream {
    base: String,
    key: Option<HeaderValue>,
    client: reqwest::Client,
    last: Mutex<Option<(Instant, Load)>>,
}

/// What llama-server says of its load; `None` where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Whether it answered at all.
    pub(crate) reachable: bool,
    pub(crate) slots: Option<u32>,
    pub(crate) busy_slots: Option<u32>,
    pub(crate) queued: Option<u32>,
}

#[derive(Deserialize)]
struct Slot {
    is_processing: bool,
}

#[derive(Deserialize)]
struct Props {
    total_slots: Option<u32>,
}

impl Upstream {
    pub(crate) fn new(base: &str, api_key: Option<&SecretString>) -> anyhow::Result<Self> {
        let key = match api_key {
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
                    .map_err(|_| anyhow::anyhow!("the upstream API key has bytes that no header may have"))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), key, client, last: Mutex::default() })
    }

    /// Sends a request; `target` is a path with its query.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> reqwest::Result<reqwest::Response> {
        if let Some(key) = &self.key {
            headers.insert(AUTHORIZATION, key.clone());
        }
        let request = self.client.request(method, format!("{}{target}", self.base));
        request.headers(headers).body(body).send().await
    }

    /// Asks for a path without a body.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    /// Slots and queue, at most two seconds old; callers at the same time share one look.
    pub(crate) async fn load(&self) -> Load {
        let mut last = self.last.lock().await;
        if let Some((_, load)) = last.filter(|(at, _)| at.elapsed() < LOOK_INTERVAL) {
            return load;
        }
        let load = self.look().await;
        *last = Some((Instant::now(), load));
        load
    }

    async fn look(&self) -> Load {
        let (slots, metrics, props) =
            tokio::join!(self.read("/slots"), self.read("/metrics"), self.read("/props"));
        let reachable = slots.is_some() || metrics.is_some() || props.is_some();
        let slots = serde_json::from_slice::<Vec<Slot>>(&slots.unwrap_or_default()).ok();
        let props = serde_json::from_slice::<Props>(&props.unwrap_or_default()).ok();
        let metrics = String::from_utf8(metrics.unwrap_or_default()).unwrap_or_default();
        let count = |n: usize| u32::try_from(n).ok();
        let listed = slots.as_ref().and_then(|slots| count(slots.len()));
        let busy =
            slots.as_ref().and_then(|slots| count(slots.iter().filter(|slot| slot.is_processing).count()));
        Load {
            reachable,
            slots: listed.or(props.and_then(|props| props.total_slots)),
            busy_slots: busy.or_else(|| gauge(&metrics, "llamacpp:requests_processing")),
            queued: gauge(&metrics, "llamacpp:requests_deferred"),
        }
    }

    /// The body of a successful answer in time; empty where the server refuses the route (`/slots` and
    /// `/metrics` can be switched off), `None` where it does not answer.
    async fn read(&self, path: &str) -> Option<Vec<u8>> {
        let read = async {
            let mut response = self.get(path).await.ok()?;
            if !response.status().is_success() {
                return Some(Vec::new());
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.ok()? {
                if body.len() + chunk.len() > LOOK_BYTES_MAX {
                    return Some(Vec::new());
                }
                body.extend_from_slice(&chunk);
            }
            Some(body)
        };
        tokio::time::timeout(LOOK_TIMEOUT, read).await.ok().flatten()
    }
}

/// A gauge without labels in Prometheus text.
fn gauge(text: &str, name: &str) -> Option<u32> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let value: f64 = value.trim().parse().ok()?;
    (value >= 0.0 && value <= f64::from(u32::MAX)).then(|| value.round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_found_by_their_whole_name() {
        let text = "# TYPE a:b gauge\na:bc 7\na:b 3\n";
        assert_eq!(gauge(text, "a:b"), Some(3));
        assert_eq!(gauge(text, "a:d"), None);
        assert_eq!(gauge("a -1\n", "a"), None);
        assert_eq!(gauge("a nan\n", "a"), None);
    }
}
