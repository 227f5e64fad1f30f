//! The section `telemetry`.

use crate::config::duration::Span;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

/// How the node tells what it does. The environment's `OTEL_*` variables and `LOG_FORMAT` win over this file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct TelemetryFile {
    /// `human` (default) or `json`: one object a line.
    #[schemars(extend("enum" = ["human", "json", null]))]
    pub log_format: Option<String>,
    /// Traces of requests, sent to a collector as OTLP.
    pub traces: Option<TracesFile>,
}

/// Traces of requests, sent to a collector as OTLP. Without an endpoint none are made.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct TracesFile {
    /// Address of the collector, such as `http://otel-collector:4318`; over HTTP `/v1/traces` is added where it
    /// is missing.
    pub endpoint: Option<String>,
    /// `http/protobuf` (default) or `grpc`.
    #[schemars(extend("enum" = ["http/protobuf", "grpc", null]))]
    pub protocol: Option<String>,
    /// Headers sent with each batch, as `name=value,name=value`; values are percent-encoded.
    #[schemars(with = "Option<String>")]
    pub headers: Option<SecretString>,
    /// For sending one batch, its repetitions included. Default `10s`.
    pub timeout: Option<Span>,
    /// `service.name` of the spans. Default `llm-router`.
    pub service_name: Option<String>,
    /// Further attributes of the resource, as `name=value,name=value`.
    pub resource_attributes: Option<String>,
    /// Which requests are kept whatever comes of them: `parentbased_traceidratio` (default), `traceidratio`,
    /// `parentbased_always_on`, `parentbased_always_off`, `always_on` or `always_off`.
    #[schemars(extend("enum" = ["parentbased_traceidratio", "traceidratio", "parentbased_always_on", "parentbased_always_off", "always_on", "always_off", null]))]
    pub sampler: Option<String>,
    /// The share that a sampler by ratio keeps. Default 1.
    #[schemars(range(min = 0, max = 1))]
    pub ratio: Option<f64>,
    /// A request that takes longer than this is always kept. Default `30s`.
    pub slow: Option<Span>,
    /// A request whose first token takes longer than this is always kept. Default `5s`.
    pub slow_first_token: Option<Span>,
    /// Requests per second that are kept only since they failed or were slow; more of them are counted and not
    /// sent. Default 20.
    #[schemars(range(min = 0))]
    pub keep_per_second: Option<u32>,
    /// Spans that may wait to be sent; what comes on top is dropped and counted. Default 8192.
    #[schemars(range(min = 1))]
    pub queue_spans: Option<u32>,
    /// Which backends are told the trace context (`traceparent`, `tracestate`): `all` (default), `clusters` or
    /// `none`. Peers' routers always are.
    #[schemars(extend("enum" = ["all", "clusters", "none", null]))]
    pub propagate: Option<String>,
    /// Bytes of a request's body that its span shows: prompts then go to the collector. Default 0: none.
    #[schemars(range(min = 0, max = 65536))]
    pub body_bytes: Option<u32>,
}
