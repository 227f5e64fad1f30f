//! Free looks at backends, and the one tiny generation that measures an own cluster's speed.
//!
//! A cluster is asked for `/health`, then for the sidecar's `/stats` and for llama-server's own
//! `/slots`, `/props`, `/metrics` and `/v1/models`; whatever it does not serve stays unknown. A
//! provider is asked for its list of models, which costs nothing. There is no other request to a
//! provider in this file, and there must never be one.

use super::Outbound;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::StatusCode;
use llm_router_actors::ports::{Probe, Reading, Speed};
use llm_router_logic::backend::{BackendSpec, Kind, ServedModel};
use llm_router_logic::capability;
use llm_router_logic::wire::{self, Dialect, Exchange, Inbound, Operation};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Largest answer to a probe that is read.
const BODY_MAX: usize = 1024 * 1024;
/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Models taken from one backend's list.
const MODELS_MAX: usize = 256;
/// Output tokens of a calibration: enough to time, too few to matter.
const CALIBRATION_TOKENS: u32 = 16;

/// Probes over HTTP.
pub struct HttpProbe {
    outbound: Arc<Outbound>,
}

impl HttpProbe {
    /// A probe that reaches backends as requests do.
    pub fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound }
    }
}

impl Probe for HttpProbe {
    fn probe(&self, backend: Arc<BackendSpec>) -> BoxFuture<'static, Result<Reading, String>> {
        let outbound = Arc::clone(&self.outbound);
        async move {
            if backend.is_cluster() {
                look_at_cluster(&outbound, &backend).await
            } else {
                look_at_provider(&outbound, &backend).await
            }
        }
        .boxed()
    }

    fn calibrate(
        &self,
        backend: Arc<BackendSpec>,
        model: String,
    ) -> BoxFuture<'static, Result<Speed, String>> {
        let outbound = Arc::clone(&self.outbound);
        async move { measure_speed(&outbound, &backend, &model).await }.boxed()
    }
}

/// The sidecar's figures.
#[derive(Default, Deserialize)]
struct Stats {
    queue_depth: Option<u32>,
    tokens_per_second: Option<f64>,
    latency_p95_ms: Option<f64>,
    slots: Option<u32>,
    busy_slots: Option<u32>,
}

#[derive(Deserialize)]
struct Slot {
    is_processing: bool,
}

#[derive(Default, Deserialize)]
struct Props {
    total_slots: Option<u32>,
    default_generation_settings: Option<GenerationSettings>,
    modalities: Option<Modalities>,
}

#[derive(Deserialize)]
struct GenerationSettings {
    n_ctx: Option<u32>,
}

#[derive(Deserialize)]
struct Modalities {
    #[serde(default)]
    vision: bool,
}

#[derive(Deserialize)]
struct ModelList {
    #[serde(default)]
    data: Vec<ListedModel>,
}

#[derive(Deserialize)]
struct ListedModel {
    id: String,
}

async fn look_at_cluster(outbound: &Outbound, backend: &BackendSpec) -> Result<Reading, String> {
    let id = &backend.id;
    let get = |path: &'static str| outbound.get(id, path, BODY_MAX, PATIENCE);
    let started = Instant::now();
    let (status, body) = get("/health").await?;
    let rtt = started.elapsed();
    if status == StatusCode::SERVICE_UNAVAILABLE && String::from_utf8_lossy(&body).contains("Loading model") {
        return Ok(Reading { loading: true, rtt, ..Reading::default() });
    }
    if !status.is_success() {
        return Err(format!("/health answered {status}"));
    }
    let (stats, slots, props, metrics, models) = tokio::join!(
        json::<Stats>(get("/stats")),
        json::<Vec<Slot>>(get("/slots")),
        json::<Props>(get("/props")),
        get("/metrics"),
        json::<ModelList>(get("/v1/models")),
    );
    let stats = stats.unwrap_or_default();
    let props = props.unwrap_or_default();
    let metrics = metrics.ok().filter(|(status, _)| status.is_success());
    let metrics = metrics.map(|(_, text)| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
    let count = |name: &str| metric(&metrics, name).map(|value| value.max(0.0).round() as u32);
    let busy = slots.as_ref().map(|slots| slots.iter().filter(|slot| slot.is_processing).count() as u32);
    let listed = slots.as_ref().map(|slots| slots.len() as u32);
    Ok(Reading {
        loading: false,
        queue_depth: stats.queue_depth.or_else(|| count("llamacpp:requests_deferred")),
        busy_slots: stats.busy_slots.or(busy).or_else(|| count("llamacpp:requests_processing")),
        slots: stats.slots.or(props.total_slots).or(listed).filter(|slots| *slots > 0),
        tokens_per_second: stats
            .tokens_per_second
            .or_else(|| metric(&metrics, "llamacpp:predicted_tokens_seconds"))
            .filter(|rate| rate.is_finite() && *rate > 0.0),
        latency_p95: stats
            .latency_p95_ms
            .filter(|millis| millis.is_finite() && *millis > 0.0)
            .map(|millis| Duration::from_secs_f64(millis.min(86_400_000.0) / 1_000.0)),
        models: models.map(|list| served(list, &props)).unwrap_or_default(),
        rtt,
    })
}

fn served(list: ModelList, props: &Props) -> Vec<ServedModel> {
    let context_window = props.default_generation_settings.as_ref().and_then(|settings| settings.n_ctx);
    let sees = props.modalities.as_ref().is_some_and(|modalities| modalities.vision);
    let named = list.data.into_iter().filter(|model| !model.id.is_empty()).take(MODELS_MAX);
    named
        .map(|model| {
            let mut served = ServedModel { context_window, ..ServedModel::named(model.id) };
            if sees {
                served.capabilities.insert(capability::VISION);
            }
            served
        })
        .collect()
}

async fn look_at_provider(outbound: &Outbound, backend: &BackendSpec) -> Result<Reading, String> {
    let path = match backend.kind {
        Kind::Gemini => "/v1beta/models?pageSize=1",
        Kind::Anthropic => "/v1/models?limit=1",
        Kind::OpenAi | Kind::Llama => "/v1/models",
    };
    let started = Instant::now();
    let (status, _) = outbound.get(&backend.id, path, BODY_MAX, PATIENCE).await?;
    let rtt = started.elapsed();
    match status.as_u16() {
        401 | 403 => Err(format!("{path} answered {status}: the provider refuses our key")),
        500.. => Err(format!("{path} answered {status}")),
        // Some compatible servers have no list; an answer is a sign of life all the same.
        _ => Ok(Reading { rtt, ..Reading::default() }),
    }
}

/// Times one short streamed answer: output tokens from the first to the last of them.
async fn measure_speed(outbound: &Outbound, backend: &BackendSpec, model: &str) -> Result<Speed, String> {
    let body = serde_json::json!({
        "model": model,
        "messages": [{"role": "user", "content": "Count upwards from one."}],
        "max_tokens": CALIBRATION_TOKENS,
        "stream": true,
    })
    .to_string();
    let inbound = Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes());
    let inspected = wire::inspect(&inbound).map_err(|error| error.message)?;
    let request = wire::encode(&inbound, &inspected, backend.kind, model).map_err(|error| error.message)?;
    let exchange = Exchange::new(&inbound, &inspected, &request, backend.kind, model, "calibration", 0);
    let mut reply = wire::Reply::new(exchange);
    let patience = Duration::from_secs(20);
    let mut answer =
        outbound.send(&backend.id, request, patience).await.map_err(|fault| fault.to_string())?;
    let (mut first, mut last) = (None, Instant::now());
    let mut out = Vec::new();
    while let Some(chunk) = answer.chunk(patience).await.map_err(|fault| fault.to_string())? {
        let before = reply.output_events();
        reply.push(&chunk, &mut out).map_err(|error| format!("{error:?}"))?;
        out.clear();
        if reply.output_events() > before {
            last = Instant::now();
            first.get_or_insert(last);
        }
    }
    let tokens = reply.usage().map_or(0, |usage| usage.total_output()).max(reply.output_events());
    let first = first.ok_or("no output token came")?;
    Ok(Speed { tokens, elapsed: last - first })
}

/// The value of a label-less series in Prometheus text.
fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line[name.len()..].trim().parse().ok()
}

/// A successful JSON answer; anything else is `None`.
async fn json<T: serde::de::DeserializeOwned>(
    answer: impl Future<Output = Result<(StatusCode, bytes::Bytes), String>>,
) -> Option<T> {
    let (status, body) = answer.await.ok()?;
    if status.is_success() { serde_json::from_slice(&body).ok() } else { None }
}
