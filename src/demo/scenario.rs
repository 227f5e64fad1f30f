//! The demo's world as tables: regions, clusters, providers, and the configuration each router gets.
//!
//! Pure. Hourly prices are spot prices of a small CPU node and of a Tesla T4 in each cloud; providers'
//! token prices are not here: they come from the table of models the router itself ships.

use llm_router_logic::backend::Kind;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The name under which every backend serves its model, so that one request can go anywhere.
pub(super) const ALIAS: &str = "assistant";
/// The model of the CPU clusters.
pub(super) const SMALL: &str = "tinyllama-1.1b-chat";
/// The model of the GPU clusters.
pub(super) const LARGE: &str = "llama-2-7b-chat";
/// Longest answer of a simulated backend, in tokens.
pub(super) const ANSWER_TOKENS: u64 = 160;
/// What stands where a real configuration has an API key.
const NO_KEY: &str = "simulated";

/// A region and its router.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) cloud: &'static str,
    pub(super) region: &'static str,
}

/// The three regions, in the order of their ports.
pub(super) const PLACES: [Place; 3] = [
    Place { cloud: "aws", region: "us-west-2" },
    Place { cloud: "gcp", region: "us-central1" },
    Place { cloud: "azure", region: "eastus" },
];

impl Place {
    /// The router's name.
    pub(super) fn node(&self) -> String {
        format!("{}-{}", self.cloud, self.region)
    }
}

/// How fast a simulated backend is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Time to first token.
    pub(super) ttft: Duration,
    /// Tokens per second of one answer.
    pub(super) tokens_per_second: f64,
    /// Answers at once.
    pub(super) slots: usize,
}

const fn pace(ttft_ms: u64, tokens_per_second: f64, slots: usize) -> Pace {
    Pace { ttft: Duration::from_millis(ttft_ms), tokens_per_second, slots }
}

/// A simulated cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    pub(super) name: &'static str,
    pub(super) place: Place,
    /// USD per hour.
    pub(super) cost_per_hour: f64,
    pub(super) model: &'static str,
    pub(super) pace: Pace,
}

impl Cluster {
    /// Whether it runs on machines that the cloud may take away.
    pub(super) fn is_spot(&self) -> bool {
        self.model == LARGE
    }
}

/// One CPU and one GPU cluster in each region.
pub(super) const CLUSTERS: [Cluster; 6] = [
    Cluster {
        name: "aws-cpu",
        place: PLACES[0],
        cost_per_hour: 0.0928,
        model: SMALL,
        pace: pace(420, 14.0, 2),
    },
    Cluster {
        name: "aws-gpu",
        place: PLACES[0],
        cost_per_hour: 0.156,
        model: LARGE,
        pace: pace(180, 34.0, 6),
    },
    Cluster {
        name: "gcp-cpu",
        place: PLACES[1],
        cost_per_hour: 0.0950,
        model: SMALL,
        pace: pace(450, 13.0, 2),
    },
    Cluster {
        name: "gcp-gpu",
        place: PLACES[1],
        cost_per_hour: 0.275,
        model: LARGE,
        pace: pace(170, 36.0, 6),
    },
    Cluster {
        name: "azure-cpu",
        place: PLACES[2],
        cost_per_hour: 0.0968,
        model: SMALL,
        pace: pace(480, 12.0, 2),
    },
    Cluster {
        name: "azure-gpu",
        place: PLACES[2],
        cost_per_hour: 0.207,
        model: LARGE,
        pace: pace(200, 32.0, 6),
    },
];

/// A simulated provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Provider {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// A model of the router's price table: its list price is real, its answers are not.
    pub(super) model: &'static str,
    pub(super) pace: Pace,
}

/// One provider of each dialect.
pub(super) const PROVIDERS: [Provider; 3] = [
    Provider { name: "openai", kind: Kind::OpenAi, model: "gpt-4.1-mini", pace: pace(380, 75.0, 32) },
    Provider {
        name: "anthropic",
        kind: Kind::Anthropic,
        model: "claude-haiku-4-5",
        pace: pace(460, 90.0, 32),
    },
    Provider { name: "gemini", kind: Kind::Gemini, model: "gemini-2.5-flash", pace: pace(330, 110.0, 32) },
];

/// What every region has besides: a day's budget at providers, and an experiment on who answers sessions.
const WORLD: &str = "quota: {budget: {usd: 2, period: day}}\n\
    experiments:\n  \
    - name: small-model\n    \
    key: session\n    \
    arms: [{name: control, weight: 50}, {name: small, weight: 50, model: tinyllama-1.1b-chat}]\n";

/// Who asks in the demo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tenant {
    pub(super) name: &'static str,
    /// Its part of the requests.
    pub(super) weight: u32,
    /// USD it may spend at providers in a day.
    pub(super) budget_usd: Option<f64>,
}

/// Three customers, one of which will soon have spent what it may; its requests then stay on clusters.
pub(super) const TENANTS: [Tenant; 3] = [
    Tenant { name: "acme", weight: 55, budget_usd: None },
    Tenant { name: "globex", weight: 30, budget_usd: Some(1.0) },
    Tenant { name: "initech", weight: 15, budget_usd: Some(0.006) },
];

/// The key of a tenant's clients, which nobody beside the demo has.
pub(super) fn key_of(tenant: &Tenant, secret: &str) -> String {
    format!("demo-{}-{secret}", tenant.name)
}

/// Most a region's ledger takes on disk.
const LEDGER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where a region's router finds what it needs; everything on loopback.
pub(super) struct Addresses<'a> {
    /// HTTP port, 0 for any.
    pub(super) port: u16,
    /// Gossip addresses of all regions, in the order of [`PLACES`].
    pub(super) gossip: &'a [SocketAddr],
    /// Base URL of a backend by name.
    pub(super) url: &'a dyn Fn(&str) -> String,
    /// Token of the admin listener; empty = no such listener.
    pub(super) admin_token: &'a str,
    /// Where its ledger is kept; `None` = nowhere.
    pub(super) ledger: Option<&'a Path>,
}

/// The configuration file of the router in `PLACES[index]`.
pub(super) fn config(index: usize, at: &Addresses<'_>) -> String {
    let place = PLACES[index];
    let seeds = at.gossip.iter().enumerate().filter(|(peer, _)| *peer != index);
    let seeds: Vec<String> = seeds.map(|(_, address)| format!("\"{address}\"")).collect();
    let mut text = format!(
        "server: {{host: 127.0.0.1, port: {port}, drainTimeout: 5s}}\n\
         node: {{name: {node}, region: {region}, cloud: {cloud}}}\n\
         gossip: {{listen: \"{gossip}\", seeds: [{seeds}], clusterId: demo}}\n\
         router: {{routingStrategy: hybrid, healthCheckInterval: 2s, metricsUpdateInterval: 2s, maxQueueDepth: 3}}\n",
        port = at.port,
        node = place.node(),
        region = place.region,
        cloud = place.cloud,
        gossip = at.gossip[index],
        seeds = seeds.join(", "),
    );
    // Writing to a String cannot fail.
    if !at.admin_token.is_empty() {
        let _ = writeln!(text, "admin: {{listen: \"127.0.0.1:0\", token: {}}}", at.admin_token);
        let key = |tenant: &Tenant| {
            format!("{{id: {0}-app, tenant: {0}, key: {1}}}", tenant.name, key_of(tenant, at.admin_token))
        };
        let keys: Vec<String> = TENANTS.iter().map(key).collect();
        let _ = writeln!(text, "auth: {{openMetrics: true, keys: [{}]}}", keys.join(", "));
        let tenant = |tenant: &Tenant| match tenant.budget_usd {
            Some(usd) => format!("{{name: {}, budget: {{usd: {usd}, period: day}}}}", tenant.name),
            None => format!("{{name: {}}}", tenant.name),
        };
        let tenants: Vec<String> = TENANTS.iter().map(tenant).collect();
        let _ = writeln!(text, "tenants: [{}]", tenants.join(", "));
    }
    text.push_str(WORLD);
    if let Some(ledger) = at.ledger {
        // A demonstration never waits for a disk, and leaves little on one that is killed.
        let path = serde_json::json!(ledger);
        let _ = writeln!(text, "ledger: {{path: {path}, posture: observe, maxBytes: {LEDGER_BYTES_MAX}}}");
    }
    text.push_str("clusters:\n");
    for cluster in &CLUSTERS {
        let _ = writeln!(
            text,
            "  - {{name: {}, endpoint: \"{}\", provider: {}, region: {}, costPerHour: {}, authType: none, \
             slots: {}, models: [{{name: {}, aliases: [{ALIAS}], contextWindow: 4096}}]}}",
            cluster.name,
            (at.url)(cluster.name),
            cluster.place.cloud,
            cluster.place.region,
            cluster.cost_per_hour,
            cluster.pace.slots,
            cluster.model,
        );
    }
    text.push_str("externalProviders:\n");
    for provider in &PROVIDERS {
        let _ = writeln!(
            text,
            "  - {{name: {}, type: {}, apiKey: {NO_KEY}, baseURL: \"{}\", defaultModel: {model}, \
             maxConcurrent: {}, models: [{{name: {model}, aliases: [{ALIAS}]}}]}}",
            provider.name,
            provider.kind.as_str(),
            (at.url)(provider.name),
            provider.pace.slots,
            model = provider.model,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Loaded, load_str};
    use std::collections::BTreeSet;

    fn loaded(index: usize) -> Loaded {
        let gossip: Vec<SocketAddr> = (0..3).map(|n| SocketAddr::from(([127, 0, 0, 1], 7000 + n))).collect();
        let url = |_: &str| "http://127.0.0.1:9".to_owned();
        let text = config(
            index,
            &Addresses {
                port: 8080,
                gossip: &gossip,
                url: &url,
                admin_token: "a-token-of-the-tests",
                ledger: Some(Path::new("/tmp/a \"b\".sqlite")),
            },
        );
        load_str(&text, Path::new("."), &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }

    #[test]
    fn every_region_has_a_config_without_problems_or_warnings() {
        let mut names = BTreeSet::new();
        for (index, place) in PLACES.iter().enumerate() {
            let Loaded { config, warnings } = loaded(index);
            assert!(warnings.is_empty(), "{}: {}", place.region, warnings.len());
            assert_eq!(config.ledger.unwrap().path, Path::new("/tmp/a \"b\".sqlite"));
            assert_eq!(config.node.region.as_str(), place.region);
            assert_eq!(config.gossip.unwrap().seeds.len(), 2);
            assert_eq!(config.backends.len(), 9);
            names.insert(config.node.name);
        }
        assert!(WORLD.contains(SMALL), "the experiment names a model that is served");
        assert_eq!(names.len(), 3, "routers need names of their own");
    }

    #[test]
    fn no_backend_is_reached_beyond_loopback() {
        for index in 0..PLACES.len() {
            let config = loaded(index).config;
            assert_eq!(config.server.host, "127.0.0.1");
            for backend in &config.backends {
                let url = &backend.connection.base_url;
                assert!(url.starts_with("http://127.0.0.1:"), "`{}` is at {url}", backend.spec.id);
            }
        }
    }

    #[test]
    fn every_backend_serves_the_common_name_and_every_provider_has_a_price() {
        for backend in &loaded(0).config.backends {
            let model =
                backend.spec.models.iter().find(|model| model.aliases.iter().any(|alias| alias == ALIAS));
            let model = model.unwrap_or_else(|| panic!("`{}` does not serve {ALIAS}", backend.spec.id));
            assert_eq!(model.price.is_some(), !backend.spec.is_cluster(), "`{}`", backend.spec.id);
        }
    }

    #[test]
    fn each_cloud_has_a_small_and_a_large_cluster() {
        for place in PLACES {
            let here = CLUSTERS.iter().filter(|cluster| cluster.place.cloud == place.cloud);
            let models: BTreeSet<&str> = here.map(|cluster| cluster.model).collect();
            assert_eq!(models, BTreeSet::from([SMALL, LARGE]), "{}", place.cloud);
        }
    }
}
