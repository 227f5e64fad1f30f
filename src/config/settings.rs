//! The settings a node runs on, checked and in their own types.
//!
//! A value of these types is always usable: whatever could be wrong was refused while loading. None of
//! them can print or serialise a secret.

mod telemetry;

pub use telemetry::{Export, ExportTls, LogFormat, Propagate, Protocol, Sampler, Telemetry, Traces};

use crate::identity::IdentityFiles;
use crate::tls::TlsFiles;
use llm_router_actors::ledger::JournalSettings;
use llm_router_actors::quota::{LimitSpec, Mode};
use llm_router_actors::webhook::EndpointSpec;
use llm_router_logic::backend::{BackendSpec, Kind};
use llm_router_logic::ids::{BackendId, KeyId, NodeId, Region, TenantId};
use llm_router_logic::money::Money;
use llm_router_logic::route::Policy;
use llm_router_logic::route::experiment::{Experiment, Scope};
use llm_router_logic::sign;
use llm_router_logic::sim::Behaviour;
use llm_router_logic::tenant::{Allowed, Principal};
use secrecy::{ExposeSecret, SecretString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything one router node is told by its file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The HTTP edge.
    pub server: Server,
    /// Who this node is.
    pub node: Node,
    /// How it talks to its peers; `None` = it runs alone.
    pub gossip: Option<Gossip>,
    /// Whether prices and notices that peers tell count here.
    pub heed_prices: bool,
    /// Whether outages that peers tell of count here.
    pub heed_outages: bool,
    /// The operators' listener; `None` = not opened.
    pub admin: Option<Admin>,
    /// Who may ask.
    pub access: Access,
    /// What all may spend and ask for together.
    pub quota: Quota,
    /// How backends are chosen.
    pub policy: Policy,
    /// How long a client's session stays with its backend; zero = not at all.
    pub stickiness_window: Duration,
    /// Pause between two health probes of one backend.
    pub health_check_interval: Duration,
    /// Pause between two readings of a cluster's queue and throughput.
    pub metrics_update_interval: Duration,
    /// Whether a cluster whose throughput is unknown is measured with a request of our own.
    pub calibrate_throughput: bool,
    /// Bounds on one attempt at a backend.
    pub timeouts: Timeouts,
    /// Clusters in the file's order, then enabled providers in the file's order. Names are unique.
    pub backends: Vec<Backend>,
    /// Where what requests came to is kept; `None` = nowhere.
    pub ledger: Option<Ledger>,
    /// What is remembered of idempotency keys.
    pub idempotency: Idempotency,
    /// The response cache; `None` = off.
    pub cache: Option<Cache>,
    /// A/B experiments.
    pub experiments: Vec<Experiment>,
    /// What is copied elsewhere in the background.
    pub shadows: Vec<Shadow>,
    /// Who is told of what happens.
    pub webhooks: Vec<Webhook>,
    /// How the node tells what it does.
    pub telemetry: Telemetry,
    /// How they behave in a replay.
    pub simulation: Simulation,
    /// Answers of simulated backends instead of real ones; `None` = off.
    pub smart_mocking: Option<SmartMocking>,
    /// The password-protected demo; `None` = off.
    pub demo: Option<Demo>,
}

impl Config {
    /// The notice files of backends that have one.
    pub fn notice_files(&self) -> Vec<(BackendId, PathBuf)> {
        let files = self.backends.iter();
        files.filter_map(|one| Some((one.spec.id.clone(), one.notice_file.clone()?))).collect()
    }

    /// How many clusters and how many providers there are.
    pub fn counts(&self) -> (usize, usize) {
        let clusters = self.backends.iter().filter(|b| b.spec.is_cluster()).count();
        (clusters, self.backends.len() - clusters)
    }
}

/// The HTTP edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Host name or address to listen on.
    pub host: String,
    /// TCP port; 0 lets the system choose one.
    pub port: u16,
    /// A request's head and body must have arrived within this (`server.readTimeout`).
    pub read_timeout: Duration,
    /// A request's head must have arrived within this.
    pub header_timeout: Duration,
    /// A client that takes no byte of its answer for this long is let go.
    pub write_timeout: Duration,
    /// An idle kept-alive connection is closed after this.
    pub idle_timeout: Duration,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// How long a stopping node waits for running requests.
    pub drain_timeout: Duration,
    /// How long a stopping node, no longer ready, takes what still comes.
    pub lame_duck: Duration,
    /// TLS on this listener; `None` = plain HTTP.
    pub tls: Option<TlsFiles>,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique among the routers of one deployment.
    pub name: NodeId,
    /// The region it runs in.
    pub region: Region,
    /// The cloud it runs in.
    pub cloud: String,
}

/// How a node talks to its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gossip {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Address peers reach it at; `None` = the one it listens on.
    pub advertise: Option<SocketAddr>,
    /// `host:port` of nodes to start from.
    pub seeds: Vec<String>,
    /// Pause between two rounds.
    pub interval: Duration,
    /// Nodes of another cluster id are ignored.
    pub cluster_id: String,
    /// What this node proves itself with; `None` = plain UDP, on loopback only.
    pub identity: Option<IdentityFiles>,
    /// The listener for requests of peers; `None` = it takes none.
    pub relay: Option<PeerRelay>,
}

/// The listener for requests of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRelay {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// `host:port` peers reach it at; `None` = the one it listens on.
    pub advertise: Option<String>,
}

/// The operators' listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Bearer token every request must carry.
    pub token: SecretString,
    /// TLS on this listener; `None` = plain HTTP.
    pub tls: Option<TlsFiles>,
}

/// Who may ask, and for what.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// How clients prove themselves; `None` = no key is asked for.
    pub keys: Option<Keys>,
    /// Tenants that have bounds of their own.
    pub tenants: Vec<Tenant>,
}

/// The keys clients prove themselves with.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Secret of the hashes in the file.
    pub secret: Option<SecretString>,
    /// The file of keys. It need not be there yet.
    pub file: Option<PathBuf>,
    /// Keys of the configuration itself.
    pub fixed: Vec<FixedKey>,
    /// Bearer token that opens `/metrics` on the API listener.
    pub metrics_token: Option<SecretString>,
    /// Whether `/metrics` on the API listener needs no token.
    pub open_metrics: bool,
}

/// A key in the configuration itself.
#[derive(Clone, Debug)]
pub struct FixedKey {
    /// Its name.
    pub id: KeyId,
    /// Its text.
    pub key: SecretString,
    /// Whose it is and what it may do.
    pub grant: Grant,
}

/// Whose a key is and what it may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Who pays.
    pub tenant: TenantId,
    /// What it may use, within what the tenant may.
    pub allowed: Allowed,
    /// What it may spend and ask for.
    pub share: Share,
}

/// What a key, a tenant or all tenants together may spend and ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Share {
    /// What may be spent.
    pub budget: Option<Budget>,
    /// How much may be asked for.
    pub limits: LimitSpec,
}

/// What may be spent in a period.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// The amount.
    pub limit: Money,
    /// How often it begins anew.
    pub period: BudgetPeriod,
    /// IANA name of the time zone in whose midnight it does; it is known to exist.
    pub time_zone: String,
    /// How strictly it is kept.
    pub mode: Mode,
    /// Whether the machine cost of own clusters counts too.
    pub counts_clusters: bool,
}

/// How often a budget begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetPeriod {
    /// At midnight.
    Day,
    /// At midnight before Monday.
    Week,
    /// At midnight before the first.
    Month,
}

/// How the routers of a fleet share limits, and what all tenants together may do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    /// The routers that share; empty = whoever gossip knows.
    pub nodes: Vec<NodeId>,
    /// Where this router notes what was spent.
    pub state_file: Option<PathBuf>,
    /// What all tenants together may do.
    pub share: Share,
}

/// What all keys of a tenant together may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// What they may use.
    pub allowed: Allowed,
    /// What they may spend and ask for together.
    pub share: Share,
}

/// Bounds on one attempt at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// From the request's end to the first byte of a streamed answer.
    pub first_byte: Duration,
    /// The same for an answer that the backend does not stream, which comes as a whole.
    pub whole_answer: Duration,
    /// Between two pieces of an answer's content.
    pub idle: Duration,
    /// Silence after which a streaming client is sent a comment; `None` = never.
    pub keep_alive: Option<Duration>,
    /// From the client's request to the end of its answer, over all attempts.
    pub total: Duration,
}

/// A cluster or an enabled provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// What routing knows of it.
    pub spec: Arc<BackendSpec>,
    /// How to reach it.
    pub connection: Connection,
    /// File with its price now and the notice of its end.
    pub notice_file: Option<PathBuf>,
}

/// How a backend is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Scheme, host, port and path prefix, without a final slash and without `/v1` or `/v1beta`. The
    /// scheme is `http` or `https`, or `mock` while `smart_mocking` is on.
    pub base_url: String,
    /// How the router proves itself.
    pub auth: Auth,
    /// The only authorities its certificate may come from; `None` = those the system trusts.
    pub ca: Option<PathBuf>,
    /// What is called while it sleeps; `None` = nothing.
    pub wake: Option<WakeHook>,
}

/// What wakes a cluster.
#[derive(Clone, Debug)]
pub struct WakeHook {
    /// The address.
    pub url: String,
    /// Secret of the signature; `None` = the call is not signed.
    pub secret: Option<SecretString>,
}

impl PartialEq for WakeHook {
    fn eq(&self, other: &Self) -> bool {
        let secret = |hook: &Self| hook.secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        self.url == other.url && secret(self) == secret(other)
    }
}

/// How the router proves itself to a backend.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Not at all.
    None,
    /// HMAC v1 with a shared secret.
    Hmac(SecretString),
    /// HMAC v2 with a shared secret and its name.
    HmacV2(HmacKey),
    /// A TLS client certificate: PEM files. They need not be readable yet.
    Mtls {
        /// Certificate chain.
        cert: PathBuf,
        /// Private key.
        key: PathBuf,
    },
    /// The provider's API key.
    ApiKey(SecretString),
}

/// A secret of signatures and its name in them.
#[derive(Clone, Debug)]
pub struct HmacKey {
    /// `X-Key-Id`.
    pub id: String,
    /// The secret.
    pub secret: SecretString,
}

impl HmacKey {
    /// `secret` as `id`, or under the name derived from it.
    pub fn new(id: Option<String>, secret: SecretString) -> Self {
        let id = id.unwrap_or_else(|| sign::v2::derived_key_id(secret.expose_secret().as_bytes()));
        Self { id, secret }
    }
}

/// Equal when the backend would see the same identity: a reload keeps such a connection.
impl PartialEq for Auth {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Hmac(a), Self::Hmac(b)) | (Self::ApiKey(a), Self::ApiKey(b)) => {
                a.expose_secret() == b.expose_secret()
            }
            (Self::HmacV2(a), Self::HmacV2(b)) => {
                a.id == b.id && a.secret.expose_secret() == b.secret.expose_secret()
            }
            (Self::Mtls { cert: a, key: b }, Self::Mtls { cert: c, key: d }) => a == c && b == d,
            _ => false,
        }
    }
}

/// Where what requests came to is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Its file.
    pub path: PathBuf,
    /// Attempts older than this are deleted.
    pub retention: Duration,
    /// The oldest are deleted beyond this size.
    pub max_bytes: u64,
    /// How requests get on with it.
    pub journal: JournalSettings,
}

/// What is remembered of idempotency keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// For how long after an answer's end.
    pub ttl: Duration,
    /// Keys.
    pub max_entries: usize,
    /// Bytes of all kept answers, and again of all running ones.
    pub max_bytes: usize,
    /// Bytes of one answer.
    pub max_entry_bytes: usize,
    /// Bytes of a key.
    pub max_key_bytes: usize,
}

/// The response cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// How long an answer is given again.
    pub ttl: Duration,
    /// Bytes of all kept answers, and again of all that run.
    pub max_bytes: usize,
    /// Bytes of one answer.
    pub max_entry_bytes: usize,
    /// Whether answers drawn at random are kept too.
    pub include_sampled: bool,
    /// Among whom an answer is shared.
    pub scope: CacheScope,
    /// Where a region's routers share them; `None` = nowhere.
    pub redis: Option<Redis>,
}

/// A Redis in which routers share answers.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Its address, which may hold a password.
    pub url: SecretString,
    /// What answers are sealed with.
    pub secret: SecretString,
    /// What the names of our values begin with.
    pub key_prefix: String,
    /// The longest a request waits for it.
    pub lookup_timeout: Duration,
}

impl PartialEq for Redis {
    fn eq(&self, other: &Self) -> bool {
        let secrets =
            |redis: &Self| (redis.url.expose_secret().to_owned(), redis.secret.expose_secret().to_owned());
        secrets(self) == secrets(other)
            && (&self.key_prefix, self.lookup_timeout) == (&other.key_prefix, other.lookup_timeout)
    }
}

impl Eq for Redis {}

/// Among whom an answer is shared, provided they have the same rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheScope {
    /// All keys of a tenant.
    Tenant,
    /// Nobody but the key it was generated for.
    Key,
    /// All tenants.
    All,
}

impl CacheScope {
    /// The words of it for a cache key.
    pub(crate) fn words(self, principal: &Principal, rights: String) -> Vec<String> {
        let key = || principal.key.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut words = match self {
            Self::Tenant => vec!["tenant".to_owned(), principal.tenant.to_string()],
            Self::Key => vec!["key".to_owned(), principal.tenant.to_string(), key()],
            Self::All => vec!["all".to_owned()],
        };
        words.push(rights);
        words
    }
}

impl Default for Idempotency {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(3600),
            max_entries: 10_000,
            max_bytes: 64 * 1024 * 1024,
            max_entry_bytes: 4 * 1024 * 1024,
            max_key_bytes: 255,
        }
    }
}

/// Copies of requests that are sent elsewhere in the background.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// Unique.
    pub name: String,
    /// Share of the requests, from 0 to 1.
    pub share: f64,
    /// Where to; `None` = where the strategy sends them.
    pub backend: Option<BackendId>,
    /// The model asked for; `None` = the client's.
    pub model: Option<String>,
    /// Which requests.
    pub scope: Scope,
    /// Copies at once.
    pub max_concurrent: u32,
    /// What copies may have cost, in parts of what clients' requests cost.
    pub max_spend_share: f64,
}

/// An endpoint that is told of what happens.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// What it is told, and how often that is tried.
    pub endpoint: EndpointSpec,
    /// Where it is. Not for logs or metrics: an address may hold a token.
    pub url: String,
    /// Secret of the signature.
    pub secret: SecretString,
    /// Name of the secret; `None` = it follows from it.
    pub key_id: Option<String>,
}

/// How backends behave in a replay; nothing else reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulation {
    /// How often measured facts reach the decisions.
    pub staleness: Duration,
    /// One for each of [`Config::backends`], in their order.
    pub backends: Vec<Simulated>,
}

/// How one backend behaves in a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Simulated {
    /// How.
    pub behaviour: Behaviour,
    /// Whether that is assumed, since the file says nothing of it.
    pub assumed: bool,
}

/// Answers of simulated clusters instead of real ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmartMocking {
    /// How long a simulated cluster takes.
    pub cluster_latency: Duration,
    /// What it costs per 1,000 tokens.
    pub cluster_cost: Money,
}

/// The password-protected demo.
#[derive(Clone, Debug)]
pub struct Demo {
    /// What `POST /api/auth` asks for.
    pub password: SecretString,
    /// How long a session lasts.
    pub session_timeout: Duration,
    /// Requests per minute from one address.
    pub rate_limit_per_ip: u32,
}

/// What a sidecar demands of requests.
#[derive(Clone, Debug)]
pub enum SidecarAuth {
    /// Nothing: every request is let through.
    None,
    /// A signature.
    Hmac {
        /// Whether version 1 will do as well as version 2.
        v1: bool,
        /// The secret, and the one before where it is still accepted.
        keys: Vec<HmacKey>,
    },
    /// A client certificate that its listener verified.
    Certificate,
}

/// The settings of `llm-router sidecar`.
#[derive(Clone, Debug)]
pub struct SidecarConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// The llama-server behind it: scheme, host, port and path prefix, without a final slash or `/v1`.
    pub upstream: String,
    /// What a request must show.
    pub auth: SidecarAuth,
    /// TLS on its listener; `None` = plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Price of the machine for one hour.
    pub cost_per_hour: Money,
    /// Factor on the machine price for what the machine does besides.
    pub overhead_factor: f64,
    /// The cloud, as a metric label.
    pub provider: String,
    /// The cloud's region, as a metric label.
    pub region: String,
    /// The cluster's name, as a metric label.
    pub name: String,
    /// Key the llama-server was started with (`--api-key`).
    pub upstream_api_key: Option<SecretString>,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// How long running answers may take to end after a stop.
    pub drain_timeout: Duration,
}

/// A word of configuration for each wire dialect, synonyms included.
pub(crate) fn kind_of(word: &str) -> Option<Kind> {
    match word {
        "openai" => Some(Kind::OpenAi),
        "claude" | "anthropic" => Some(Kind::Anthropic),
        "gemini" | "google" => Some(Kind::Gemini),
        _ => None,
    }
}
