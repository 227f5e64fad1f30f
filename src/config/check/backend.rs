//! The lists `clusters` and `externalProviders`.

use super::Check;
use super::address::is_loopback_url;
use super::router::Router;
use crate::config::decode::nearest;
use crate::config::file::{ClusterFile, ProviderFile, RateLimitFile};
use crate::config::path::Path;
use crate::config::settings::{Auth, Backend, Connection, HmacKey, Node, kind_of};
use llm_router_logic::backend::{BackendSpec, Kind, Placement};
use llm_router_logic::cost::price::PriceTable;
use llm_router_logic::guard::limit::{RateLimit, ThrottleScope};
use llm_router_logic::ids::{BackendId, Region};
use llm_router_logic::money::Money;
use llm_router_logic::route::Strategy;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Most clusters and providers together: each is probed, gossiped and judged per request.
const BACKENDS_MAX: usize = 256;
/// Regions a cluster may be reached from by name.
const REGIONS_MAX: usize = 64;
/// Clouds with infrastructure code of ours; other words are labels of the operator's own.
const CLOUDS: [&str; 3] = ["aws", "gcp", "azure"];

impl Check<'_> {
    pub(super) fn backends(
        &mut self,
        clusters: Vec<Option<ClusterFile>>,
        providers: Vec<Option<ProviderFile>>,
        node: &Node,
        router: &Router,
        prices: &PriceTable,
    ) -> Vec<Backend> {
        let root = Path::default();
        let (clusters_at, providers_at) = (root.key("clusters"), root.key("externalProviders"));
        let enabled =
            |provider: &Option<ProviderFile>| provider.as_ref().is_none_or(|p| p.enabled != Some(false));
        let provider_count = providers.iter().filter(|provider| enabled(provider)).count();
        if clusters.len() + provider_count > BACKENDS_MAX {
            let count = clusters.len() + provider_count;
            self.findings.problem(
                &clusters_at,
                format!("{count} clusters and providers are more than {BACKENDS_MAX}"),
            );
            return Vec::new();
        }
        self.something_can_serve(clusters.len(), provider_count, router);

        let mut backends = Vec::new();
        let mut names: BTreeMap<String, Path> = BTreeMap::new();
        for (index, cluster) in clusters.into_iter().enumerate() {
            let at = clusters_at.index(index);
            match cluster {
                Some(cluster) => {
                    self.unique(&at, cluster.name.as_deref(), &mut names);
                    backends.extend(self.cluster(&at, cluster, node, router));
                }
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        for (index, provider) in providers.into_iter().enumerate() {
            let at = providers_at.index(index);
            match provider {
                Some(provider) => {
                    self.provider_not_honoured(&at, &provider);
                    if provider.enabled != Some(false) {
                        self.unique(&at, provider.name.as_deref(), &mut names);
                        backends.extend(self.provider(&at, provider, prices));
                    }
                }
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        backends
    }

    fn something_can_serve(&mut self, clusters: usize, providers: usize, router: &Router) {
        let root = Path::default();
        if clusters + providers == 0 {
            self.findings
                .problem(&root.key("clusters"), "there is no backend (add a cluster or an enabled provider)");
        } else if clusters == 0
            && !router.policy.enable_external_fallback
            && matches!(router.policy.strategy, Strategy::Hybrid | Strategy::ClusterFirst)
        {
            self.findings.problem(
                &root.key("router").key("enableExternalFallback"),
                "nothing can serve: there is no cluster, and providers may not stand in for one (set it to `true`, or choose another `routingStrategy`)",
            );
        }
    }

    /// Backends are known by their names in metrics, gossip and headers, so each has its own.
    fn unique(&mut self, at: &Path, name: Option<&str>, names: &mut BTreeMap<String, Path>) {
        let Some(name) = name else {
            return;
        };
        if let Some(first) = names.get(name) {
            let message =
                format!("`{name}` is the name of `{first}` already (give each cluster and provider its own)");
            self.findings.problem(&at.key("name"), message);
        } else {
            names.insert(name.to_owned(), at.clone());
        }
    }

    fn cluster(&mut self, at: &Path, file: ClusterFile, node: &Node, router: &Router) -> Option<Backend> {
        let mocking = router.smart_mocking.is_some();
        let name = self.required(&at.key("name"), file.name.clone(), "aws-us-west-2");
        if let Some(name) = &name {
            self.name(&at.key("name"), name);
        }
        let endpoint_at = at.key("endpoint");
        let endpoint = self.required(&endpoint_at, file.endpoint.clone(), "http://10.0.1.20:8080");
        let base_url = endpoint.and_then(|text| {
            if text.starts_with("mock:") && !mocking {
                self.findings.problem(&endpoint_at, "`mock://` needs `router.enableSmartMocking: true`");
                return None;
            }
            self.base_url(
                &endpoint_at,
                &text,
                if mocking { &["http", "https", "mock"] } else { &["http", "https"] },
            )
        });
        let auth = self.cluster_auth(at, &file, base_url.as_deref(), mocking);
        let cost_at = at.key("costPerHour");
        let cost_per_hour = self.required(&cost_at, file.cost_per_hour, "0.0928");
        let cost_per_hour = self.dollars(&cost_at, cost_per_hour);
        let cloud = self.name_or(&at.key("provider"), file.provider, &node.cloud);
        if !CLOUDS.contains(&cloud.as_str())
            && let Some(meant) = nearest(&cloud, CLOUDS)
        {
            self.findings.warning(
                &at.key("provider"),
                format!("`{cloud}` is taken as a word of your own (did you mean `{meant}`?)"),
            );
        }
        let region = self.name_or(&at.key("region"), file.region, node.region.as_str());
        let models = self.cluster_models(&at.key("models"), file.models);
        self.model_names(at, &models, file.default_model.as_deref());
        let default_model = file.default_model.or_else(|| models.first().map(|model| model.name.to_string()));
        let capabilities = self.capabilities(&at.key("capabilities"), file.capabilities);
        let slots = self.count(&at.key("slots"), file.slots);
        let (scale_to_zero, wake) =
            self.scale_to_zero(&at.key("scaleToZero"), file.scale_to_zero, !models.is_empty());
        let notice_file = self.spot(&at.key("spot"), file.spot);
        let reached_from = self.regions(&at.key("reachedFrom"), file.reached_from);
        let placement = Placement::Cluster {
            cloud,
            region: Region::new(region),
            cost_per_hour: cost_per_hour.unwrap_or(Money::ZERO),
        };
        let spec = BackendSpec {
            id: BackendId::new(name?),
            kind: Kind::Llama,
            placement,
            models,
            default_model,
            capabilities,
            rate_limit: None,
            slots,
            scale_to_zero,
            reached_from,
        };
        let ca = self.authorities(&at.key("caFile"), file.ca_file.as_deref(), base_url.as_deref());
        let connection = Connection { base_url: base_url?, auth, ca, wake };
        Some(Backend { spec: Arc::new(spec), connection, notice_file })
    }

    fn regions(&mut self, at: &Path, names: Option<Vec<Option<String>>>) -> Vec<Region> {
        let names = self.texts(at, names);
        if names.len() > REGIONS_MAX {
            self.findings.problem(at, format!("at most {REGIONS_MAX} regions can be named"));
        }
        names.into_iter().map(|(_, name)| Region::new(name)).collect()
    }

    fn authorities(&mut self, at: &Path, file: Option<&str>, base_url: Option<&str>) -> Option<PathBuf> {
        let path = self.file_path(file.filter(|path| !path.is_empty())?);
        if base_url.is_some_and(|base| !base.starts_with("https:")) {
            self.findings.warning(at, "not used: the address is not `https://`");
            return None;
        }
        if let Err(error) = std::fs::File::open(&path) {
            self.findings.warning(at, format!("cannot read `{}`: {error}", path.display()));
        }
        Some(path)
    }

    fn cluster_auth(&mut self, at: &Path, file: &ClusterFile, base_url: Option<&str>, mocking: bool) -> Auth {
        let secret_at = at.key("sharedSecret");
        let secret = self.secret(&secret_at, file.shared_secret.clone());
        let certified = file.cert_file.is_some() || file.key_file.is_some();
        let key_id = self.key_id(&at.key("keyId"), file.key_id.clone());
        let word = file.auth_type.as_deref().unwrap_or(match (&secret, certified) {
            (_, true) => "mtls",
            (Some(_), false) => "hmac",
            (None, false) => "none",
        });
        if secret.is_some() && matches!(word, "mtls" | "none") {
            self.findings.warning(&secret_at, format!("not used: `authType` is `{word}`"));
        }
        if certified && matches!(word, "hmac" | "hmac_v2" | "none") {
            self.findings.warning(&at.key("certFile"), format!("not used: `authType` is `{word}`"));
        }
        match word {
            "none" => Auth::None,
            "mock" if mocking => Auth::None,
            "hmac" => {
                let secret = self.needed_by("authType: hmac", &secret_at, secret, "${LLM_SHARED_SECRET}");
                secret.map_or(Auth::None, Auth::Hmac)
            }
            "hmac_v2" => {
                let secret = self.needed_by("authType: hmac_v2", &secret_at, secret, "${LLM_SHARED_SECRET}");
                secret.map_or(Auth::None, |secret| Auth::HmacV2(HmacKey::new(key_id, secret)))
            }
            "mtls" => {
                if base_url.is_some_and(|base| base.starts_with("http:")) {
                    self.findings.problem(&at.key("endpoint"), "`mtls` needs an `https://` address");
                }
                let cert = self.needed_by(
                    "authType: mtls",
                    &at.key("certFile"),
                    file.cert_file.as_deref(),
                    "certs/client.pem",
                );
                let key = self.needed_by(
                    "authType: mtls",
                    &at.key("keyFile"),
                    file.key_file.as_deref(),
                    "certs/client-key.pem",
                );
                for (name, path) in [("certFile", cert), ("keyFile", key)] {
                    if let Some(path) = path.map(|path| self.file_path(path))
                        && let Err(error) = std::fs::File::open(&path)
                    {
                        self.findings
                            .warning(&at.key(name), format!("cannot read `{}`: {error}", path.display()));
                    }
                }
                match (cert, key) {
                    (Some(cert), Some(key)) => {
                        Auth::Mtls { cert: self.file_path(cert), key: self.file_path(key) }
                    }
                    _ => Auth::None,
                }
            }
            "mock" => {
                self.findings.problem(&at.key("authType"), "`mock` needs `router.enableSmartMocking: true`");
                Auth::None
            }
            word => {
                self.findings.problem(
                    &at.key("authType"),
                    format!("expected `hmac`, `hmac_v2`, `mtls` or `none`, found `{word}`"),
                );
                Auth::None
            }
        }
    }

    fn provider_not_honoured(&mut self, at: &Path, file: &ProviderFile) {
        self.not_honoured(
            at,
            &[
                ("costPerToken", file.cost_per_token.is_some(), "set `price` at a model"),
                ("budgetLimit", file.budget_limit.is_some(), "budgets are not enforced yet"),
                ("dailyBudgetLimit", file.daily_budget_limit.is_some(), "budgets are not enforced yet"),
            ],
        );
    }

    fn provider(&mut self, at: &Path, file: ProviderFile, prices: &PriceTable) -> Option<Backend> {
        let name = self.required(&at.key("name"), file.name, "openai");
        if let Some(name) = &name {
            self.name(&at.key("name"), name);
        }
        let word = self.required(&at.key("type"), file.kind, "openai");
        let kind = word.and_then(|word| {
            let kind = kind_of(&word);
            if kind.is_none() {
                let message = format!("expected `openai`, `claude` or `gemini`, found `{word}`");
                self.findings.problem(&at.key("type"), message);
            }
            kind
        });
        let base_url = match &file.base_url {
            Some(text) => self.base_url(&at.key("baseURL"), text, &["https", "http"]),
            None => kind.map(|kind| own_address(kind).to_owned()),
        };
        let key_at = at.key("apiKey");
        // Servers that speak a provider's dialect elsewhere may need no key.
        let api_key = if file.base_url.is_some() {
            file.api_key
        } else {
            self.required(&key_at, file.api_key, "${OPENAI_API_KEY}")
        };
        let api_key = self.secret(&key_at, api_key);
        if let (Some(_), Some(base)) = (&api_key, &base_url)
            && base.starts_with("http:")
            && !is_loopback_url(base)
        {
            self.findings.warning(
                &at.key("baseURL"),
                "the API key crosses the network in clear text (use `https://`)",
            );
        }

        let names_models = file.models.as_ref().is_some_and(|models| !models.is_empty());
        if !names_models {
            self.required(&at.key("defaultModel"), file.default_model.as_deref(), "gpt-4o-mini");
        }
        let default = file.default_model.as_deref();
        // Without a kind the prices cannot be looked up, but the models can still be checked.
        let kind_or_any = kind.unwrap_or(Kind::OpenAi);
        let elsewhere = base_url
            .as_deref()
            .is_some_and(|base| base != own_address(kind_or_any) && !is_loopback_url(base));
        let models = self.provider_models(at, file.models, default, kind_or_any, prices, elsewhere);
        self.model_names(at, &models, default);
        let default_model = file.default_model.or_else(|| models.first().map(|model| model.name.to_string()));
        let rate_limit = file.rate_limit.and_then(|limit| self.rate_limit(&at.key("rateLimit"), &limit));
        let slots = self.count(&at.key("maxConcurrent"), file.max_concurrent);
        let capabilities = self.capabilities(&at.key("capabilities"), file.capabilities);
        let spec = BackendSpec {
            id: BackendId::new(name?),
            kind: kind?,
            placement: Placement::External,
            models,
            default_model,
            capabilities,
            rate_limit,
            slots,
            scale_to_zero: None,
            reached_from: Vec::new(),
        };
        let auth = api_key.map_or(Auth::None, Auth::ApiKey);
        let connection = Connection { base_url: base_url?, auth, ca: None, wake: None };
        Some(Backend { spec: Arc::new(spec), connection, notice_file: None })
    }

    /// The account's limits; `None` where nothing is said, since then there is nothing to hold to.
    fn rate_limit(&mut self, at: &Path, file: &RateLimitFile) -> Option<RateLimit> {
        let limit = RateLimit {
            requests_per_minute: self.count(&at.key("requestsPerMinute"), file.requests_per_minute),
            tokens_per_minute: self.count(&at.key("tokensPerMinute"), file.tokens_per_minute),
            burst_multiplier: self.factor(&at.key("burstMultiplier"), file.burst_multiplier, 1.0),
            scope: file.scope.as_deref().map_or_else(ThrottleScope::default, |word| {
                let words = [("account", ThrottleScope::Account), ("model", ThrottleScope::Model)];
                self.one_of(&at.key("scope"), "scope", word, words)
            }),
        };
        let says = limit.requests_per_minute.is_some()
            || limit.tokens_per_minute.is_some()
            || limit.scope != ThrottleScope::default();
        says.then_some(limit)
    }
}

/// Where a provider's own API is served.
fn own_address(kind: Kind) -> &'static str {
    match kind {
        Kind::Anthropic => "https://api.anthropic.com",
        Kind::Gemini => "https://generativelanguage.googleapis.com",
        Kind::OpenAi | Kind::Llama => "https://api.openai.com",
    }
}
