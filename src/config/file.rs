//! The file as it is written: every key, each of them optional.
//!
//! Owns names and shapes only; whether a value makes sense is judged in `check`. The doc of a field is
//! its description in the JSON Schema. A key whose type is [`Ignored`] is accepted and named in a
//! warning.

mod answers;
mod guard;
mod network;
mod telemetry;
mod tls;
mod webhook;

use crate::config::duration::{Millis, Span};
pub(super) use answers::{CacheFile, IdempotencyFile, RedisFile};
pub(super) use guard::{BreakerFile, HedgingFile, RetriesFile};
pub(super) use network::{LinkFile, NetworkFile};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, de};
use std::fmt;
pub(super) use telemetry::{TelemetryFile, TracesFile};
pub(super) use tls::TlsFile;
pub(super) use webhook::WebhookFile;

/// A value of any shape that nothing reads.
pub(super) type Ignored = serde_json::Value;

/// Configuration of llm-router. Any string may hold `${NAME}` or `${NAME:-default}`, taken from the
/// environment. Durations are written as `500ms`, `30s`, `1m30s` or `1.5h`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields, title = "llm-router configuration")]
pub(super) struct File {
    /// The HTTP edge.
    pub server: Option<ServerFile>,
    /// How backends are chosen and watched.
    pub router: Option<RouterFile>,
    /// Self-hosted clusters, paid by the hour.
    pub clusters: Option<Vec<Option<ClusterFile>>>,
    /// External providers, paid by the token.
    pub external_providers: Option<Vec<Option<ProviderFile>>>,
    /// The password-protected demo.
    pub demo: Option<DemoFile>,
    /// Who this node is.
    pub node: Option<NodeFile>,
    /// How it talks to its peers; without this section it runs alone.
    pub gossip: Option<GossipFile>,
    /// The operators' listener; without this section it is not opened.
    pub admin: Option<AdminFile>,
    /// How clients prove themselves: `none`, or a mapping with their keys. Without this section only
    /// loopback is listened on, and no key is asked for.
    pub auth: Option<AuthFile>,
    /// Who pays, and what each may use.
    pub tenants: Option<Vec<Option<TenantFile>>>,
    /// What all tenants together may spend and ask for, and how the routers of a fleet share limits.
    pub quota: Option<QuotaFile>,
    /// Bounds on one attempt at a backend.
    pub timeouts: Option<TimeoutsFile>,
    /// JSON file that overrides or extends the built-in table of models and prices; relative to this
    /// file's directory.
    pub prices_file: Option<String>,
    /// What every request came to, kept on disk; without this section nothing is.
    pub ledger: Option<LedgerFile>,
    /// What is remembered of the `Idempotency-Key` of requests.
    pub idempotency: Option<IdempotencyFile>,
    /// Answers given again to requests that ask for the same; without this section none are.
    pub cache: Option<CacheFile>,
    /// A/B experiments: requests are split into arms by a stable hash of a key.
    pub experiments: Option<Vec<Option<ExperimentFile>>>,
    /// Copies of requests that are sent elsewhere in the background and never reach the client.
    pub shadows: Option<Vec<Option<ShadowFile>>>,
    /// Who is told of what happens, by signed HTTP calls; see WEBHOOKS.md.
    pub webhooks: Option<Vec<Option<WebhookFile>>>,
    /// How the node tells what it does: the form of its logs, and where traces go.
    pub telemetry: Option<TelemetryFile>,
    /// Settings of `llm-router sidecar`; a router node does not read them.
    pub sidecar: Option<SidecarFile>,
    /// How backends behave in `llm-router replay`; a router node does not read it.
    pub simulation: Option<SimulationFile>,
    /// Accepted but not honoured: `/metrics` is always served.
    #[schemars(extend("deprecated" = true))]
    pub metrics: Option<Ignored>,
    /// Accepted but not honoured: `LOG_LEVEL` in the environment sets the level.
    #[schemars(extend("deprecated" = true))]
    pub logging: Option<Ignored>,
    /// Accepted but not honoured: `router` holds the settings that decide on cost.
    #[schemars(extend("deprecated" = true))]
    pub cost_optimization: Option<Ignored>,
}

/// The HTTP edge.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ServerFile {
    /// Address to listen on. Default `127.0.0.1`: only this machine; `0.0.0.0` for every network.
    pub host: Option<String>,
    /// TCP port, default 8080; 0 lets the system choose.
    pub port: Option<u16>,
    /// A request's head and body must have arrived within this. Default `30s`.
    pub read_timeout: Option<Span>,
    /// A client that takes no byte of its answer for this long is let go. Default `120s`.
    pub write_timeout: Option<Span>,
    /// An idle kept-alive connection is closed after this. Default `60s`.
    pub idle_timeout: Option<Span>,
    /// A request's head must have arrived within this. Default: `readTimeout`.
    pub header_timeout: Option<Span>,
    /// Largest request body in bytes. Default 33554432 (32 MiB).
    #[schemars(range(min = 1))]
    pub max_body_bytes: Option<usize>,
    /// How long a stopping node waits for running requests. Default `30s`.
    pub drain_timeout: Option<Span>,
    /// How long a stopping node, which is not ready any more, still takes new requests: as long as DNS or a
    /// load balancer takes to lead clients elsewhere. Default `0s`.
    pub lame_duck: Option<Span>,
    /// TLS 1.3 on this listener; without it, plain HTTP.
    pub tls: Option<TlsFile>,
}

/// How backends are chosen and watched.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct RouterFile {
    /// How long a client's session stays with its backend; `0` turns it off. Default `60s`.
    pub stickiness_window: Option<Span>,
    /// Pause between two health probes of one backend, at least `2s`. Default `30s`.
    pub health_check_interval: Option<Span>,
    /// A cluster whose p95 latency in milliseconds is above this is not chosen. Default 5000.
    #[schemars(range(min = 1))]
    pub max_latency_ms: Option<u32>,
    /// A cluster with more requests waiting is not chosen. Default 10.
    pub max_queue_depth: Option<u32>,
    /// Factor on the machine price for what the machine does besides. Default 1.1.
    #[schemars(range(min = 1))]
    pub overhead_factor: Option<f64>,
    /// Pause between two readings of a cluster's queue and throughput, at least `2s`. Default `30s`.
    pub metrics_update_interval: Option<Span>,
    /// `hybrid` (default), `cost`, `latency`, `cluster_first` or `external_first`. `smart_hybrid` means
    /// `hybrid`.
    #[schemars(extend("enum" = ["hybrid", "cost", "latency", "cluster_first", "external_first", "slo", "smart_hybrid", null]))]
    pub routing_strategy: Option<String>,
    /// Whether providers may stand in for clusters. Default true.
    pub enable_external_fallback: Option<bool>,
    /// `hybrid` prefers clusters at or under this price in USD per 1,000 tokens. Default 0.01.
    #[schemars(range(min = 0))]
    pub cluster_cost_threshold: Option<f64>,
    /// What a cluster's request counts as where costs are compared: `average`, its machine price at
    /// measured throughput, or `marginal`, nothing while it has room. Default `average`.
    #[schemars(extend("enum" = ["average", "marginal", null]))]
    pub cost_basis: Option<String>,
    /// Strategy `slo`: time to first token to be met, in milliseconds. Default 2000.
    #[schemars(range(min = 1))]
    pub slo_ttft_ms: Option<u32>,
    /// Strategy `slo`: time per further output token to be met, in milliseconds. Default 100.
    #[schemars(range(min = 1))]
    pub slo_tpot_ms: Option<u32>,
    /// Whether requests that begin alike go to the same llama.cpp cluster, so that it reads their beginning
    /// once; never against health, a target or a price, and not beyond 1.25 times its share. Default true.
    pub prefix_affinity: Option<bool>,
    /// Distances and prices of the traffic between regions.
    pub network: Option<NetworkFile>,
    /// When a circuit breaker takes a model of a backend out.
    pub breaker: Option<BreakerFile>,
    /// At most this share of the backends that serve a model stays taken out for its failures, in
    /// percent; beyond it the least bad are tried after the others. One always may be, unless this is 0.
    /// Default 50.
    #[schemars(range(max = 100))]
    pub ejected_max_percent: Option<u8>,
    /// How often another backend is tried after a failed attempt.
    pub retries: Option<RetriesFile>,
    /// When the next backend is asked too while the first is still silent. Off by default.
    pub hedging: Option<HedgingFile>,
    /// A backend that comes back is given its places one after another over this; `0s` = all at once.
    /// Default `10s`.
    pub slow_start: Option<Span>,
    /// Requests this node runs at once at a backend that states no number, at most; the limit below it is
    /// learnt from latency and refusals. Default 256.
    #[schemars(range(min = 1))]
    pub concurrency_max: Option<u32>,
    /// Simulated answers for clusters with `authType: mock`. Default false.
    pub enable_smart_mocking: Option<bool>,
    /// What may be spent at providers in USD per month, by all tenants and routers together: the same as a soft
    /// `quota.budget`.
    #[serde(rename = "monthlyAPIBudget")]
    #[schemars(range(min = 0))]
    pub monthly_api_budget: Option<f64>,
    /// How long a simulated cluster takes: milliseconds as a number, or a duration. Default 100.
    pub mock_cluster_latency: Option<Millis>,
    /// What a simulated cluster costs in USD per 1,000 tokens. Default 0.001.
    #[schemars(range(min = 0))]
    pub mock_cluster_cost: Option<f64>,
    /// Whether a cluster whose throughput is unknown is measured with a request of the router's own.
    /// Default true.
    pub calibrate_throughput: Option<bool>,
    /// Accepted but not honoured: use `llm-router demo`.
    #[schemars(extend("deprecated" = true))]
    pub demo_mode: Option<Ignored>,
    /// Accepted but not honoured: limits are set per provider in `rateLimit`.
    #[schemars(extend("deprecated" = true))]
    pub api_rate_limit: Option<Ignored>,
}

/// A self-hosted cluster, paid by the hour.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ClusterFile {
    /// Unique over clusters and providers: letters, digits, `-`, `_` and `.`, at most 64. Required.
    pub name: Option<String>,
    /// `http://` or `https://` address of the llama-server or its sidecar. A final `/v1` is dropped.
    /// `mock://name` for a simulated cluster. Required.
    pub endpoint: Option<String>,
    /// The cloud's region. Default: `node.region`.
    pub region: Option<String>,
    /// The cloud: `aws`, `gcp`, `azure`, or a word of your own. Default: `node.cloud`.
    pub provider: Option<String>,
    /// Price of the whole cluster in USD per hour. Required.
    #[schemars(range(min = 0))]
    pub cost_per_hour: Option<f64>,
    /// `hmac` (version 1), `hmac_v2`, `mtls`, `none` or `mock`. Default: what the other keys show, else `none`.
    #[schemars(extend("enum" = ["hmac", "hmac_v2", "mtls", "none", "mock", null]))]
    pub auth_type: Option<String>,
    /// Secret of the HMAC signatures.
    #[schemars(with = "Option<String>")]
    pub shared_secret: Option<SecretString>,
    /// Name of `sharedSecret` in signatures of `hmac_v2`. Default: derived from it, the same on both sides.
    pub key_id: Option<String>,
    /// PEM file of the only authorities its certificate may come from, relative to this file's directory.
    /// Default: those the system trusts.
    pub ca_file: Option<String>,
    /// PEM file of the client certificate, relative to this file's directory.
    pub cert_file: Option<String>,
    /// PEM file of the client certificate's key, relative to this file's directory.
    pub key_file: Option<String>,
    /// What every model here can do, for example `chat`, `embedding`, `code`. Default: not stated.
    pub capabilities: Option<Vec<Option<String>>>,
    /// Models served. Default: the cluster is asked.
    pub models: Option<Vec<Option<ModelFile>>>,
    /// The model for requests that leave the choice to the router.
    pub default_model: Option<String>,
    /// Requests at once. Default: the cluster is asked.
    #[schemars(range(min = 1))]
    pub slots: Option<u32>,
    /// Regions whose routers have a way to it, as in a private network; those of others use it through a
    /// router there that has `gossip.relay`. Default: every region.
    pub reached_from: Option<Vec<Option<String>>>,
    /// For a cluster that may have no machine at times: it is then asleep and not ill.
    pub scale_to_zero: Option<ScaleToZeroFile>,
    /// For machines whose price changes and that may be taken away.
    pub spot: Option<SpotFile>,
}

/// For a cluster that may have no machine at times: it is then asleep and not ill.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ScaleToZeroFile {
    /// How long it takes from the call to the first request it can serve. Required.
    pub cold_start: Option<Span>,
    /// Demand is the number of requests that wanted the cluster in this time, at least `5s`. Default `60s`.
    pub demand_window: Option<Span>,
    /// It is not woken for fewer requests in the window. Default 1.
    #[schemars(range(min = 1))]
    pub wake_at_requests: Option<u32>,
    /// Nor while the window's requests would have saved less there than the cold start costs and this on top.
    /// Default 0. What nothing else can serve wakes it in any case.
    #[schemars(range(min = 0))]
    pub wake_at_saving_usd: Option<f64>,
    /// Aggregate output tokens per second to price it with before it was ever measured.
    #[schemars(range(min = 0))]
    pub tokens_per_second: Option<f64>,
    /// Address that is called to wake it. Default: nothing is called, and whoever scales it reads the metric
    /// `llm_router_cluster_demand`.
    pub wake_url: Option<String>,
    /// Secret that signs the call as it signs webhooks, best as `${NAME}`.
    #[schemars(with = "Option<String>")]
    pub wake_secret: Option<SecretString>,
}

/// For machines whose price changes and that may be taken away.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct SpotFile {
    /// JSON file with the price now and the notice of an end, looked at four times a second; relative to this
    /// file's directory. Required.
    pub notice_file: Option<String>,
}

/// An external provider, paid by the token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ProviderFile {
    /// Unique over clusters and providers: letters, digits, `-`, `_` and `.`, at most 64. Required.
    pub name: Option<String>,
    /// `openai` (or anything that speaks its dialect), `claude` or `gemini`. Required.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["openai", "claude", "anthropic", "gemini", "google", null]))]
    pub kind: Option<String>,
    /// Default true. While false the entry is not used, and its `${NAME}` need not be set.
    pub enabled: Option<bool>,
    /// API key, best as `${NAME}`. Required at the provider's own address.
    #[schemars(with = "Option<String>")]
    pub api_key: Option<SecretString>,
    /// Address, with or without a final `/v1`. Default: the provider's own.
    #[serde(rename = "baseURL")]
    pub base_url: Option<String>,
    /// The model for requests that leave the choice to the router. Default: the first of `models`.
    pub default_model: Option<String>,
    /// Models served. Default: `defaultModel` alone.
    pub models: Option<Vec<Option<ModelFile>>>,
    /// Limits of the account.
    pub rate_limit: Option<RateLimitFile>,
    /// Requests at once. Default: no limit but `rateLimit`.
    #[schemars(range(min = 1))]
    pub max_concurrent: Option<u32>,
    /// What every model here can do. Default: what the table of models says.
    pub capabilities: Option<Vec<Option<String>>>,
    /// Accepted but not honoured: prices come from the table of models, or from `models[].price`.
    #[schemars(extend("deprecated" = true))]
    pub cost_per_token: Option<Ignored>,
    /// Accepted but not honoured: budgets are not enforced by this version.
    #[schemars(extend("deprecated" = true))]
    pub budget_limit: Option<Ignored>,
    /// Accepted but not honoured: budgets are not enforced by this version.
    #[schemars(extend("deprecated" = true))]
    pub daily_budget_limit: Option<Ignored>,
}

/// Limits of a provider account.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct RateLimitFile {
    /// Requests per minute.
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, input and output together.
    #[schemars(range(min = 1))]
    pub tokens_per_minute: Option<u32>,
    /// How many seconds' share of the limits may be spent at once. Default 1.
    #[schemars(range(min = 1))]
    pub burst_multiplier: Option<f64>,
    /// What a 429 closes: the whole `account` or the `model` asked for alone. Default `account`.
    #[schemars(extend("enum" = ["account", "model", null]))]
    pub scope: Option<String>,
}

/// A model: its name alone, or its name with what else is known.
#[derive(Debug, Default)]
pub(super) struct ModelFile(pub(super) ModelEntry);

/// A model with what is known of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ModelEntry {
    /// The name the backend itself knows. Required.
    pub name: Option<String>,
    /// Other names clients may ask for.
    pub aliases: Option<Vec<Option<String>>>,
    /// Context window in tokens.
    #[schemars(range(min = 1))]
    pub context_window: Option<u32>,
    /// What this model can do, added to the backend's own capabilities.
    pub capabilities: Option<Vec<Option<String>>>,
    /// Price at a provider. Default: what the table of models says.
    pub price: Option<PriceFile>,
}

/// Prices in USD per million tokens.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct PriceFile {
    /// Input tokens. Required.
    #[schemars(range(min = 0))]
    pub input: Option<f64>,
    /// Output tokens. Required.
    #[schemars(range(min = 0))]
    pub output: Option<f64>,
    /// Input tokens read from the provider's cache. Default: `input`.
    #[schemars(range(min = 0))]
    pub cached_read: Option<f64>,
    /// Input tokens written to the provider's cache. Default: `input`.
    #[schemars(range(min = 0))]
    pub cache_write: Option<f64>,
    /// The same for a cache entry kept for an hour. Default: `cacheWrite`.
    #[serde(rename = "cacheWrite1h")]
    #[schemars(range(min = 0))]
    pub cache_write_1h: Option<f64>,
    /// Reasoning tokens. Default: `output`.
    #[schemars(range(min = 0))]
    pub reasoning: Option<f64>,
    /// Output tokens of images. Default: `output`.
    #[schemars(range(min = 0))]
    pub image: Option<f64>,
    /// Prices of longer requests, which then hold for the whole request; at most two.
    pub tiers: Option<Vec<Option<TierFile>>>,
    /// Share of the price charged in the provider's batch or flex tier. Default: 1.
    #[schemars(range(min = 0, max = 1))]
    pub batch: Option<f64>,
}

/// Prices above a length of input.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct TierFile {
    /// Input tokens of all classes above which these prices hold. Required.
    pub above_tokens: Option<u32>,
    /// Input tokens. Required.
    #[schemars(range(min = 0))]
    pub input: Option<f64>,
    /// Output tokens. Required.
    #[schemars(range(min = 0))]
    pub output: Option<f64>,
    /// Input tokens read from the provider's cache. Default: `input`.
    #[schemars(range(min = 0))]
    pub cached_read: Option<f64>,
    /// Input tokens written to the provider's cache. Default: `input`.
    #[schemars(range(min = 0))]
    pub cache_write: Option<f64>,
    /// The same for a cache entry kept for an hour. Default: `cacheWrite`.
    #[serde(rename = "cacheWrite1h")]
    #[schemars(range(min = 0))]
    pub cache_write_1h: Option<f64>,
    /// Reasoning tokens. Default: `output`.
    #[schemars(range(min = 0))]
    pub reasoning: Option<f64>,
    /// Output tokens of images. Default: `output`.
    #[schemars(range(min = 0))]
    pub image: Option<f64>,
}

/// The classes a price and its tiers have in common, in USD per million tokens.
pub(super) struct RatesFile {
    pub input: Option<f64>,
    pub output: Option<f64>,
    pub cached_read: Option<f64>,
    pub cache_write: Option<f64>,
    pub cache_write_1h: Option<f64>,
    pub reasoning: Option<f64>,
    pub image: Option<f64>,
}

macro_rules! has_rates {
    ($($file:ty),*) => {$(
        impl $file {
            /// Its classes.
            pub(super) fn rates(&self) -> RatesFile {
                RatesFile {
                    input: self.input,
                    output: self.output,
                    cached_read: self.cached_read,
                    cache_write: self.cache_write,
                    cache_write_1h: self.cache_write_1h,
                    reasoning: self.reasoning,
                    image: self.image,
                }
            }
        }
    )*};
}
has_rates!(PriceFile, TierFile);

/// The password-protected demo.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct DemoFile {
    /// Default false. While false the section is not used, and its `${NAME}` need not be set.
    pub enabled: Option<bool>,
    /// What `POST /api/auth` asks for. Required while enabled.
    #[schemars(with = "Option<String>")]
    pub password: Option<SecretString>,
    /// How long a session lasts. Default `1h`.
    pub session_timeout: Option<Span>,
    /// Requests per minute from one address. Default 60.
    #[serde(rename = "rateLimitPerIP")]
    #[schemars(range(min = 1))]
    pub rate_limit_per_ip: Option<u32>,
    /// Accepted but not honoured: `router.mockClusterLatency` says how long a simulated cluster takes.
    #[schemars(extend("deprecated" = true))]
    pub mock_response_delay: Option<Ignored>,
    /// Accepted but not honoured: `router.routingStrategy` decides.
    #[schemars(extend("deprecated" = true))]
    pub smart_routing_enabled: Option<Ignored>,
    /// Accepted but not honoured: budgets are not enforced by this version.
    #[schemars(extend("deprecated" = true))]
    pub budget_tracking_enabled: Option<Ignored>,
}

/// Who this node is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct NodeFile {
    /// Unique among the routers of one deployment. Default: the host's name.
    pub name: Option<String>,
    /// The region it runs in. Default `local`.
    pub region: Option<String>,
    /// The cloud it runs in. Default `local`.
    pub cloud: Option<String>,
}

/// How a node talks to its peers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct GossipFile {
    /// UDP address to listen on; beyond loopback only with `identity`. Default `127.0.0.1:0`.
    pub listen: Option<String>,
    /// Address peers reach it at, where that is another. Default: the one it listens on.
    pub advertise: Option<String>,
    /// `host:port` of nodes to start from; names are looked up again every 15 seconds, twice a second while no peer
    /// is known.
    pub seeds: Option<Vec<Option<String>>>,
    /// Pause between two rounds, `50ms` to `10s`. Default `200ms`.
    pub interval: Option<Span>,
    /// Nodes of another cluster id are ignored. Default `llm-router`.
    pub cluster_id: Option<String>,
    /// Certificate this node proves itself with; gossip then travels over QUIC with mutual TLS, without
    /// it over plain UDP.
    pub identity: Option<IdentityFile>,
    /// Whether prices and preemption notices that peers tell count here. Default true.
    pub heed_prices: Option<bool>,
    /// Whether outages that peers tell of (429, `Retry-After`, failures in a row, open breakers) count here. Default true.
    pub heed_outages: Option<bool>,
    /// Takes peers' requests for backends that this node reaches and they do not; needs `identity`. Without
    /// this section it takes none, and may still send its own through peers.
    pub relay: Option<RelayFile>,
}

/// The listener for requests of peers: HTTP/2 over mutual TLS with `gossip.identity`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct RelayFile {
    /// TCP address to listen on, for example `0.0.0.0:7947`. Required.
    pub listen: Option<String>,
    /// `host:port` peers reach it at, where that is another. Default: the one it listens on.
    pub advertise: Option<String>,
}

/// Certificate this node proves itself with: PEM files, as `llm-router certs issue` makes them. Changed
/// files take effect within seconds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct IdentityFile {
    /// The node's certificate with any between it and the authority; relative to this file's directory.
    /// Required.
    pub cert: Option<String>,
    /// Its private key. Required.
    pub key: Option<String>,
    /// Certificates of the authorities peers come from; two while one replaces the other. Required.
    pub ca: Option<String>,
}

/// The operators' listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct AdminFile {
    /// Address to listen on, for example `127.0.0.1:9090`. Required.
    pub listen: Option<String>,
    /// Bearer token every request must carry, best as `${NAME}`. Required.
    #[schemars(with = "Option<String>")]
    pub token: Option<SecretString>,
    /// TLS 1.3 on this listener; without it, plain HTTP.
    pub tls: Option<TlsFile>,
}

/// How clients prove themselves: `none`, said out loud, or their keys.
#[derive(Debug)]
pub(super) enum AuthFile {
    /// No key is asked for, on any address.
    None,
    /// A key is asked for.
    Keys(AuthKeysFile),
}

/// The keys clients prove themselves with.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct AuthKeysFile {
    /// Secret of the hashes in `keysFile`, at least 16 characters, best as `${NAME}`. Required with
    /// `keysFile`, and the same on every router.
    #[schemars(with = "Option<String>")]
    pub secret: Option<SecretString>,
    /// YAML or JSON file that `llm-router keys` writes; relative to this file's directory. It is read again
    /// within a second of a change.
    pub keys_file: Option<String>,
    /// Keys given here instead, best as `${NAME}`: one is enough to start with.
    pub keys: Option<Vec<Option<FixedKeyFile>>>,
    /// Bearer token that opens `/metrics` on the API listener. Default: only the admin listener serves it.
    #[schemars(with = "Option<String>")]
    pub metrics_token: Option<SecretString>,
    /// Whether `/metrics` on the API listener needs no token. Default false.
    pub open_metrics: Option<bool>,
}

/// A key in the configuration itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct FixedKeyFile {
    /// Name of the key in books and logs. Default: the tenant's.
    pub id: Option<String>,
    /// The key, at least 16 characters, best as `${NAME}`. Required.
    #[schemars(with = "Option<String>")]
    pub key: Option<SecretString>,
    /// Who pays. Default `default`.
    pub tenant: Option<String>,
    /// Models it may use, by name or alias; a final `*` stands for any ending. Default: what its tenant may.
    pub models: Option<Vec<Option<String>>>,
    /// Backends it may use; a final `*` stands for any ending. Default: what its tenant may.
    pub backends: Option<Vec<Option<String>>>,
    /// Strategies it may use; the first stands in where the configured one is not among them. Default:
    /// what its tenant may.
    pub strategies: Option<Vec<Option<String>>>,
    /// What it may spend.
    pub budget: Option<BudgetFile>,
    /// How much it may ask for.
    pub limits: Option<LimitsFile>,
}

/// Who pays, and what all its keys together may use.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct TenantFile {
    /// The tenant's name: letters, digits, `-`, `_` and `.`, at most 64. Required.
    pub name: Option<String>,
    /// Models its keys may use, by name or alias; a final `*` stands for any ending. Default: all.
    pub models: Option<Vec<Option<String>>>,
    /// Backends its keys may use; a final `*` stands for any ending. Default: all.
    pub backends: Option<Vec<Option<String>>>,
    /// Strategies its keys may use; the first stands in where the configured one is not among them.
    /// Default: all.
    pub strategies: Option<Vec<Option<String>>>,
    /// What all its keys together may spend.
    pub budget: Option<BudgetFile>,
    /// How much all its keys together may ask for.
    pub limits: Option<LimitsFile>,
}

/// What may be spent in a period, over all routers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct BudgetFile {
    /// USD per period, at most 1,000,000. Required.
    #[schemars(range(min = 0))]
    pub usd: Option<f64>,
    /// `day`, `week` (from Monday) or `month`. Default `month`.
    #[schemars(extend("enum" = ["day", "week", "month", null]))]
    pub period: Option<String>,
    /// Time zone in whose midnight a period begins, by its IANA name. Default `UTC`.
    pub time_zone: Option<String>,
    /// `soft`: to the end, within the stated overshoot; `hard`: never exceeded, needs `quota.stateFile`. Default
    /// `soft`.
    #[schemars(extend("enum" = ["soft", "hard", null]))]
    pub mode: Option<String>,
    /// `external`: what providers charge; `all`: the machine cost of own clusters too. Default `external`.
    #[schemars(extend("enum" = ["external", "all", null]))]
    pub counts: Option<String>,
}

/// How much may be asked for, over all routers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct LimitsFile {
    /// Requests in any minute.
    #[schemars(range(min = 1))]
    pub requests_per_minute: Option<u32>,
    /// Tokens in any minute, input and output together.
    #[schemars(range(min = 1))]
    pub tokens_per_minute: Option<u32>,
    /// Requests at once.
    #[schemars(range(min = 1))]
    pub max_concurrent: Option<u32>,
}

/// What all tenants together may spend and ask for, and how the routers of a fleet share limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct QuotaFile {
    /// Names of all routers that share limits (`node.name`), the same list on each. Required with `gossip` for a
    /// hard budget. Default: whoever gossip knows.
    pub nodes: Option<Vec<Option<String>>>,
    /// File in which this router notes what was spent, so that a restart does not forget it; relative to this
    /// file's directory. Required for a hard budget.
    pub state_file: Option<String>,
    /// What all tenants together may spend.
    pub budget: Option<BudgetFile>,
    /// How much all tenants together may ask for.
    pub limits: Option<LimitsFile>,
}

/// Read by hand for the same reason as [`ModelFile`].
impl<'de> Deserialize<'de> for AuthFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NoneOrKeys;

        impl<'de> de::Visitor<'de> for NoneOrKeys {
            type Value = AuthFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, or a mapping with `keysFile` or `keys`")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<AuthFile, E> {
                match word {
                    "none" => Ok(AuthFile::None),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<AuthFile, A::Error> {
                AuthKeysFile::deserialize(MapAccessDeserializer::new(map)).map(AuthFile::Keys)
            }
        }

        deserializer.deserialize_any(NoneOrKeys)
    }
}

impl JsonSchema for AuthFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AuthFile".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "How clients prove themselves: `none`, or their keys.",
            "anyOf": [{ "const": "none" }, generator.subschema_for::<AuthKeysFile>()],
        })
    }
}

/// Bounds on one attempt at a backend.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct TimeoutsFile {
    /// To connect, TLS included. Default `5s`.
    pub connect: Option<Span>,
    /// From the request's end to the first byte of a streamed answer. Default `60s`.
    pub first_byte: Option<Span>,
    /// From the request's end to the first byte of an answer that the backend does not stream, which
    /// comes with its last. Default five times `firstByte`.
    pub whole_answer: Option<Span>,
    /// Between two pieces of an answer's content; comments do not count. Default `30s`.
    pub idle: Option<Span>,
    /// A streaming client that got nothing for this long is sent a comment. Default `15s`, `0s` = never.
    pub keep_alive: Option<Span>,
    /// From the client's request to the end of its answer, over all attempts. Default `10m`.
    pub total: Option<Span>,
}

/// What every request came to, kept on disk: one SQLite file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct LedgerFile {
    /// The file, made where there is none; relative to this file's directory. Required.
    pub path: Option<String>,
    /// Attempts older than this are deleted, their daily sums kept. Default `2160h` (90 days).
    pub retention: Option<Span>,
    /// The oldest attempts are deleted beyond this size. Default 4294967296 (4 GiB).
    #[schemars(range(min = 4194304))]
    pub max_bytes: Option<u64>,
    /// A request whose intent is not on disk after this is not answered by a paid backend. Default `5s`.
    pub commit_timeout: Option<Span>,
    /// What happens while it cannot be written: `closed` (nothing is served, and nothing is ever sent before
    /// its intent is on disk), `degraded` (paid backends are refused, our own clusters go on), `open` (all
    /// goes on) or `observe` (as `open`, and nothing ever waits for the disk). Default `degraded`.
    #[schemars(extend("enum" = ["closed", "degraded", "open", "observe", null]))]
    pub posture: Option<String>,
}

/// Settings of `llm-router sidecar`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct SidecarFile {
    /// Address to listen on. Required.
    pub listen: Option<String>,
    /// The llama-server, for example `http://127.0.0.1:8081`. Required.
    pub upstream: Option<String>,
    /// `hmac` (versions 1 and 2), `hmac_v2` (only version 2), `mtls` (a client certificate, see `tls`) or `none`.
    /// Default: `hmac` where there is a `sharedSecret`.
    #[schemars(extend("enum" = ["hmac", "hmac_v2", "mtls", "none", null]))]
    pub auth_type: Option<String>,
    /// Secret of the HMAC signatures demanded.
    #[schemars(with = "Option<String>")]
    pub shared_secret: Option<SecretString>,
    /// Name of `sharedSecret` in signatures of version 2. Default: derived from it, the same on both sides.
    pub key_id: Option<String>,
    /// The secret before, accepted as well while routers change over to the new one.
    #[schemars(with = "Option<String>")]
    pub previous_secret: Option<SecretString>,
    /// Name of `previousSecret` in signatures of version 2. Default: derived from it.
    pub previous_key_id: Option<String>,
    /// TLS 1.3 on this listener; without it, plain HTTP.
    pub tls: Option<TlsFile>,
    /// Price of the machine in USD per hour. Required.
    #[schemars(range(min = 0))]
    pub cost_per_hour: Option<f64>,
    /// Factor on the machine price for what the machine does besides. Default 1.1.
    #[schemars(range(min = 1))]
    pub overhead_factor: Option<f64>,
    /// The cloud, as a metric label. Default `local`.
    pub provider: Option<String>,
    /// The cloud's region, as a metric label. Default `local`.
    pub region: Option<String>,
    /// The cluster's name, as a metric label. Default: the host's name.
    pub name: Option<String>,
    /// Key the llama-server was started with.
    #[schemars(with = "Option<String>")]
    pub upstream_api_key: Option<SecretString>,
    /// Largest request body in bytes. Default 33554432 (32 MiB).
    #[schemars(range(min = 1))]
    pub max_body_bytes: Option<usize>,
    /// How long a stopping sidecar waits for running answers. Default `25s`.
    pub drain_timeout: Option<Span>,
}

/// Read by hand and not as an untagged enum: that would hide the paths of what is wrong inside.
impl<'de> Deserialize<'de> for ModelFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrEntry;

        impl<'de> de::Visitor<'de> for NameOrEntry {
            type Value = ModelFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model's name, or a mapping with `name`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<ModelFile, E> {
                Ok(ModelFile(ModelEntry { name: Some(name.to_owned()), ..ModelEntry::default() }))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ModelFile, A::Error> {
                ModelEntry::deserialize(MapAccessDeserializer::new(map)).map(ModelFile)
            }
        }

        deserializer.deserialize_any(NameOrEntry)
    }
}

impl JsonSchema for ModelFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ModelFile".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A model: its name alone, or its name with what else is known.",
            "anyOf": [{ "type": "string" }, generator.subschema_for::<ModelEntry>()],
        })
    }
}

/// How backends behave in `llm-router replay`; a router node does not read it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct SimulationFile {
    /// How often measured facts reach the decisions. Default `500ms`.
    pub staleness: Option<Span>,
    /// Figures of single backends; those not named here behave as docs/REPLAY.md says.
    pub backends: Option<Vec<Option<SimulatedFile>>>,
}

/// How one backend behaves in a replay.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct SimulatedFile {
    /// Name of a cluster or an enabled provider. Required.
    pub name: Option<String>,
    /// Input tokens an idle cluster reads per second.
    pub prefill_tokens_per_second: Option<f64>,
    /// Output tokens per second of one answer alone.
    pub decode_tokens_per_second: Option<f64>,
    /// Output tokens per second of all of a cluster's answers together.
    pub aggregate_tokens_per_second: Option<f64>,
    /// Round trip to a cluster.
    pub rtt: Option<Span>,
    /// A provider's median time to first token.
    pub ttft_p50: Option<Span>,
    /// The 95th percentile of a provider's time to first token, at least `ttftP50`.
    pub ttft_p95: Option<Span>,
}

/// An A/B experiment: requests are split into arms by a stable hash of a key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ExperimentFile {
    /// Unique among the experiments: letters, digits, `-`, `_` and `.`, at most 64. Required.
    pub name: Option<String>,
    /// What decides the arm: `tenant`, `session`, `user` or `header:NAME`. A request without it takes no part.
    /// Required.
    pub key: Option<String>,
    /// The arms. Required.
    pub arms: Option<Vec<Option<ArmFile>>>,
    /// Which requests take part. Default: all.
    pub when: Option<ScopeFile>,
}

/// One arm of an experiment; with nothing but name and weight it is the control.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ArmFile {
    /// Unique in its experiment. Required.
    pub name: Option<String>,
    /// Its share is its weight among all weights. Required.
    #[schemars(range(min = 0))]
    pub weight: Option<f64>,
    /// The model asked for instead of the client's.
    pub model: Option<String>,
    /// The backend tried first; others stand in should it fail.
    pub backend: Option<String>,
    /// The strategy applied instead of the configured one.
    #[schemars(extend("enum" = ["hybrid", "cost", "latency", "cluster_first", "external_first", "slo", null]))]
    pub strategy: Option<String>,
}

/// Which requests are meant.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ScopeFile {
    /// Models as clients name them; `auto` for requests that leave the choice to the router. Default: all.
    pub models: Option<Vec<Option<String>>>,
    /// Tenants. Default: all.
    pub tenants: Option<Vec<Option<String>>>,
}

/// Copies of requests that are sent elsewhere in the background and never reach the client.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ShadowFile {
    /// Unique among the shadows: letters, digits, `-`, `_` and `.`, at most 64. Required.
    pub name: Option<String>,
    /// Share of the requests that are copied, from 0 to 1. Required.
    #[schemars(range(min = 0, max = 1))]
    pub share: Option<f64>,
    /// Where copies are sent. Default: where the strategy sends them.
    pub backend: Option<String>,
    /// The model copies ask for. Default: the client's.
    pub model: Option<String>,
    /// Which requests are copied. Default: all.
    pub when: Option<ScopeFile>,
    /// Copies at once; beyond them none is sent. Default 4.
    #[schemars(range(min = 1, max = 256))]
    pub max_concurrent: Option<u32>,
    /// No copy is sent while copies have cost more than this part of what clients' requests cost. Default 0.05.
    #[schemars(range(min = 0))]
    pub max_spend_share: Option<f64>,
}
