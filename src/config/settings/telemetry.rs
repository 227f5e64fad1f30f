//! Where logs and traces go, and which requests are traced.

use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::time::Duration;

/// How a node tells what it does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telemetry {
    /// How log lines are written; `None` = for people.
    pub log_format: LogFormat,
    /// Traces.
    pub traces: Traces,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Which requests are traced, and where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The collector; `None` = no span is made.
    pub export: Option<Export>,
    /// Which requests are kept whatever comes of them.
    pub sampler: Sampler,
    /// A request that takes longer is kept.
    pub slow: Duration,
    /// A request whose first token takes longer is kept.
    pub slow_first_token: Duration,
    /// Requests per second kept only since they failed or were slow.
    pub keep_per_second: u32,
    /// Who is told the trace context.
    pub propagate: Propagate,
    /// Bytes of a request's body that its span shows; `None` = none, which is the default.
    pub body_bytes: Option<usize>,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            export: None,
            sampler: Sampler::default(),
            slow: Duration::from_secs(30),
            slow_first_token: Duration::from_secs(5),
            keep_per_second: 20,
            propagate: Propagate::All,
            body_bytes: None,
        }
    }
}

/// A collector that takes OTLP.
#[derive(Clone)]
pub struct Export {
    /// Where spans are sent: for HTTP the whole address.
    pub endpoint: String,
    /// How.
    pub protocol: Protocol,
    /// Headers sent with each batch.
    pub headers: Vec<(String, SecretString)>,
    /// For one batch, its repetitions included.
    pub timeout: Duration,
    /// `service.name`.
    pub service_name: String,
    /// Further attributes of the resource.
    pub attributes: Vec<(String, String)>,
    /// Spans that may wait; what comes when so many do is dropped and counted.
    pub queue_spans: usize,
    /// Spans sent at once.
    pub batch_spans: usize,
    /// How long a span waits for others to be sent with.
    pub delay: Duration,
    /// By what the collector is known and the router proves itself.
    pub tls: ExportTls,
}

/// Files for TLS towards a collector, each in PEM; by default the system's roots and no certificate of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportTls {
    /// Certificates of authorities that the collector's may come from, instead of the system's.
    pub authorities: Option<PathBuf>,
    /// The router's own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Export {
    fn eq(&self, other: &Self) -> bool {
        let headers = |export: &Self| {
            let each = export.headers.iter();
            each.map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect::<Vec<_>>()
        };
        let rest = |export: &Self| {
            (
                export.protocol,
                export.timeout,
                export.attributes.clone(),
                export.queue_spans,
                export.batch_spans,
                export.delay,
            )
        };
        self.endpoint == other.endpoint
            && self.service_name == other.service_name
            && self.tls == other.tls
            && headers(self) == headers(other)
            && rest(self) == rest(other)
    }
}

/// How spans are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, as protobuf.
    Http,
}

/// Which requests are kept whatever comes of them, decided before they run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a client's own decision counts.
    pub parent_based: bool,
    /// The share of the others, from 0 to 1.
    pub ratio: f64,
    /// Whether requests that fail or are slow are kept besides.
    pub keeps_bad: bool,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { parent_based: true, ratio: 1.0, keeps_bad: true }
    }
}

/// Who is told the trace context of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagate {
    /// Clusters and providers.
    All,
    /// Clusters only.
    Clusters,
    /// Nobody but peers' routers.
    None,
}
