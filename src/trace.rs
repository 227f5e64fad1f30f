//! Traces: what a request did, as spans that a collector takes as OTLP.
//!
//! ```text
//! headers → Context ──▶ noted while it runs (Trail) ──▶ its end: is it worth keeping? ──▶ spans → queue → collector
//!              └ told to every backend and peer (traceparent)
//! ```
//! Spans are made once a request has ended, from what was noted of it: whether it failed or was slow is known
//! then, so that such requests are kept however few others are, and a request that is not kept costs a few
//! small notes. Owns trace ids, the queue and the exporter's task. Never waits for the collector, never grows
//! beyond the queue, and never holds a prompt unless the configuration asks for it.

mod context;
mod export;
mod note;
mod otlp;
mod sampling;
mod span;
mod spans;
mod taken;

pub use context::Context;
pub(crate) use note::{Ending, Section, Trail};
pub use otlp::OtlpError;
pub(crate) use span::error_word;
pub(crate) use spans::{operation_word, provider_word};
pub(crate) use taken::Taken;

use crate::config::{Backend, Propagate, Telemetry, Traces};
use arc_swap::ArcSwap;
use context::Ids;
use export::Queue;
use http::HeaderMap;
use llm_router_actors::clock::Clock;
use llm_router_actors::metrics::Metrics;
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::ApiError;
use llm_router_logic::ids::{BackendId, NodeId, Region};
use llm_router_logic::time::Moment;
use opentelemetry::trace::SpanId;
use opentelemetry_sdk::trace::SpanExporter;
use sampling::Kept;
use span::Span;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a node that ends waits for the last spans to be taken.
pub const FLUSH_PATIENCE: Duration = Duration::from_secs(3);

/// Traces the requests of one node.
pub struct Tracer {
    clock: Clock,
    ids: Ids,
    settings: Traces,
    kept: Kept,
    /// `None` = no span is made.
    queue: Option<Queue>,
    metrics: Metrics,
    node: NodeId,
    region: Region,
    /// Where backends are, for their spans.
    places: ArcSwap<HashMap<BackendId, Place>>,
}

/// What a span says of where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    host: String,
    port: Option<u16>,
    is_cluster: bool,
    kind: Kind,
}

/// Who traces.
pub struct Who {
    /// The node's clock.
    pub clock: Clock,
    /// Where it counts.
    pub metrics: Metrics,
    /// Its name.
    pub node: NodeId,
    /// Where it runs.
    pub region: Region,
    /// Two random numbers.
    pub random: [u64; 2],
}

impl Tracer {
    /// A tracer as `telemetry` wants it. Needs the runtime where there is a collector.
    ///
    /// # Errors
    /// [`OtlpError`] where nothing can be sent to such a collector.
    pub fn start(telemetry: &Telemetry, backends: &[Backend], who: Who) -> Result<Self, OtlpError> {
        let exporter = match &telemetry.traces.export {
            Some(export) => Some(otlp::exporter(export, &who.node, &who.region)?),
            None => None,
        };
        Ok(Self::over(exporter, telemetry, backends, who))
    }

    /// The same over any exporter.
    fn over<E: SpanExporter + 'static>(
        exporter: Option<E>,
        telemetry: &Telemetry,
        backends: &[Backend],
        who: Who,
    ) -> Self {
        let Who { clock, metrics, node, region, random } = who;
        let settings = telemetry.traces.clone();
        let queue = exporter
            .zip(settings.export.as_ref())
            .map(|(exporter, export)| Queue::start(exporter, export, metrics.clone()));
        let tracer = Self {
            kept: Kept::new(&settings, clock),
            ids: Ids::new(random),
            clock,
            settings,
            queue,
            metrics,
            node,
            region,
            places: ArcSwap::default(),
        };
        tracer.reconfigure(backends);
        tracer
    }

    /// Takes over where backends are.
    pub fn reconfigure(&self, backends: &[Backend]) {
        let place = |backend: &Backend| {
            let uri = backend.connection.base_url.parse::<http::Uri>().ok();
            let uri = uri.unwrap_or_default();
            let usual = match uri.scheme_str() {
                Some("https") => Some(443),
                Some("http") => Some(80),
                _ => None,
            };
            Place {
                host: uri.host().unwrap_or_default().to_owned(),
                port: uri.port_u16().or(usual),
                is_cluster: backend.spec.is_cluster(),
                kind: backend.spec.kind,
            }
        };
        let places = backends.iter().map(|backend| (backend.spec.id.clone(), place(backend)));
        self.places.store(Arc::new(places.collect()));
    }

    /// Where a request that came with `headers` on `route` stands.
    pub fn begin(&self, headers: &HeaderMap, route: &'static str) -> Arc<Context> {
        Arc::new(Context::of(headers, route, &self.ids, &self.kept, self.clock.now()))
    }

    /// What is noted of a request from here on.
    pub(crate) fn trail(self: &Arc<Self>, context: &Arc<Context>) -> Trail {
        Trail::new(self.queue.is_some().then(|| Arc::clone(self)), Arc::clone(context))
    }

    /// What is noted of a shadow copy of the request of `context`.
    pub(crate) fn copied(self: &Arc<Self>, context: &Context) -> Trail {
        self.trail(&Arc::new(context.copied(&self.ids, self.clock.now())))
    }

    /// The response cache knew `word` of the request of `context`, which it was asked since `began`; `why` says
    /// more.
    pub(crate) fn looked(
        &self,
        context: &Context,
        began: Moment,
        word: &'static str,
        why: Option<&'static str>,
    ) {
        if !self.is_on() {
            return;
        }
        let mut section = Section::new("cache", began, self.clock.now()).word("llm_router.cache", word);
        if let Some(why) = why {
            section = section.word("llm_router.cache.why", why);
        }
        context.looked(section);
    }

    /// Whether spans are made at all.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// What `backend` is told of the trace: `traceparent`, and `tracestate` where there is one. `span` is the
    /// attempt's.
    pub(crate) fn told(
        &self,
        context: &Context,
        span: SpanId,
        backend: &BackendId,
        peer: bool,
    ) -> Vec<(&'static str, String)> {
        let heard = peer
            || match self.settings.propagate {
                Propagate::All => true,
                Propagate::Clusters => self.places.load().get(backend).is_some_and(|place| place.is_cluster),
                Propagate::None => false,
            };
        if heard { context.told(self.is_on().then_some(span)) } else { Vec::new() }
    }

    /// A request was answered with an error before anything was decided.
    pub(crate) fn refused(&self, context: &Context, error: &ApiError) {
        if !self.is_on() {
            return;
        }
        let now = self.clock.now();
        let failed = error.status >= 500;
        let lasted = now.since(context.started());
        let Some(sampled) = self.keep(context, failed, lasted > self.settings.slow) else { return };
        let mut span = Span::request(context, sampled, now);
        span.number("http.response.status_code", i64::from(error.status));
        span.text("llm_router.node", self.node.as_str());
        span.text("llm_router.region", self.region.as_str());
        span.fail(error_word(error.kind), &format!("told {} to the client", error.status), failed);
        self.send(vec![span]);
    }

    /// Whether a request that ended is kept, which is counted; what is kept says whether it was sampled.
    fn keep(&self, context: &Context, failed: bool, slow: bool) -> Option<bool> {
        let (word, kept) = self.kept.judge(context.is_sampled(), failed, slow, self.clock.now());
        self.metrics.telemetry.traces_total.with_label_values(&[word]).inc();
        kept.then(|| context.is_sampled())
    }

    fn send(&self, spans: Vec<Span>) {
        if let Some(queue) = &self.queue {
            queue.offer(spans.into_iter().map(Span::into_data).collect());
        }
    }

    fn place(&self, backend: &BackendId) -> Option<Place> {
        self.places.load().get(backend).cloned()
    }

    /// Sends what waits, for as long as [`FLUSH_PATIENCE`]; what is left then is counted as dropped.
    pub async fn shutdown(&self) {
        if let Some(queue) = &self.queue {
            queue.shutdown(FLUSH_PATIENCE).await;
        }
    }
}

/// Nanoseconds never matter here: moments are in microseconds.
fn wall(context: &Context, moment: Moment) -> std::time::SystemTime {
    context.wall() + moment.since(context.started())
}
