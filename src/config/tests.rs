//! Whole files in, settings or problems out.

mod everywhere;
mod manual;
mod mistakes;
mod telemetry;

use super::*;
use llm_router_logic::backend::{Kind, Placement};
use llm_router_logic::money::Money;
use llm_router_logic::route::Strategy;
use std::time::Duration;

const SEED: &str = include_str!("../../config/seed.yaml");
const EXAMPLE: &str = include_str!("../../config/example.yaml");
const LLAMA_LOCAL: &str = include_str!("../../config/llama-local.yaml");

/// An environment in which every variable is set that no specification gives a meaning.
fn full(name: &str) -> Option<String> {
    let meant = name.starts_with("OTEL_") || name.starts_with("LOG_");
    (!meant).then(|| format!("value-of-{name}"))
}

fn empty(_: &str) -> Option<String> {
    None
}

fn loaded(text: &str) -> Loaded {
    load_str(text, Path::new("."), &full).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The problems of `text` as `path: message` lines.
fn problems(text: &str, env: &Env<'_>) -> Vec<String> {
    match load_str(text, Path::new("."), env) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// The one problem of `text`.
fn only_problem(text: &str) -> String {
    let mut all = problems(text, &empty);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

/// A good file with one cluster, and `more` at its end.
fn with_cluster(more: &str) -> String {
    format!(
        "server: {{host: localhost}}\nclusters:\n  - {{name: a, endpoint: 'http://a:1', costPerHour: 1}}\n{more}\n"
    )
}

/// A good file with `cluster` as one cluster's keys.
fn cluster(keys: &str) -> String {
    format!("clusters:\n  - {{name: a, endpoint: 'http://a:1', costPerHour: 1, {keys}}}\n")
}

/// A good file with one provider and more `keys` for it.
fn provider(keys: &str) -> String {
    format!("externalProviders:\n  - {{name: p, type: openai, apiKey: k, defaultModel: m, {keys}}}\n")
}

#[test]
fn the_seed_file_loads_unchanged_with_every_value_where_it_belongs() {
    let Loaded { config, warnings } = loaded(SEED);
    assert_eq!(config.counts(), (4, 2));
    assert_eq!(config.server.port, 8080);
    assert_eq!(config.server.read_timeout, Duration::from_secs(30));
    assert_eq!(config.server.header_timeout, Duration::from_secs(30));
    assert_eq!(config.server.write_timeout, Duration::from_secs(120));
    assert_eq!(config.server.idle_timeout, Duration::from_secs(60));
    assert_eq!(config.stickiness_window, Duration::from_secs(60));
    assert_eq!(config.health_check_interval, Duration::from_secs(30));
    assert_eq!(config.metrics_update_interval, Duration::from_secs(30));
    assert_eq!(config.policy.strategy, Strategy::Hybrid);
    assert_eq!(config.policy.max_latency, Duration::from_secs(5));
    assert_eq!(config.policy.max_queue_depth, 10);
    assert_eq!(config.policy.overhead_factor, 1.1);
    assert_eq!(config.policy.cluster_cost_threshold, Money::from_usd(0.01).unwrap());
    assert!(config.policy.enable_external_fallback);
    assert!(config.smart_mocking.is_none() && config.demo.is_none() && config.gossip.is_none());

    let aws = &config.backends[0];
    assert_eq!(aws.spec.id.as_str(), "aws-us-west-2");
    assert_eq!(aws.spec.kind, Kind::Llama);
    assert_eq!(aws.connection.base_url, "https://llm.us-west-2.aws.example.com");
    assert!(matches!(&aws.connection.auth, Auth::Hmac(secret)
        if secrecy::ExposeSecret::expose_secret(secret) == "value-of-AWS_SHARED_SECRET"));
    assert!(matches!(&aws.spec.placement, Placement::Cluster { cloud, region, cost_per_hour }
        if cloud == "aws" && region.as_str() == "us-west-2" && *cost_per_hour == Money::from_usd(0.0928).unwrap()));
    assert!(aws.spec.models.is_empty(), "a cluster without models is asked what it serves");
    assert!(matches!(&config.backends[2].connection.auth, Auth::Mtls { cert, .. }
        if cert == Path::new("/etc/llm-router/client.crt")));

    let openai = &config.backends[4];
    assert_eq!(openai.spec.kind, Kind::OpenAi);
    assert_eq!(openai.connection.base_url, "https://api.openai.com");
    assert_eq!(openai.spec.default_model.as_deref(), Some("gpt-3.5-turbo"));
    let models: Vec<&str> = openai.spec.models.iter().map(|model| &*model.name).collect();
    assert_eq!(models, ["gpt-3.5-turbo", "gpt-4-turbo"]);
    let limit = openai.spec.rate_limit.unwrap();
    assert_eq!((limit.requests_per_minute, limit.tokens_per_minute), (Some(60), Some(90_000)));
    assert_eq!(limit.burst_multiplier, 1.5);
    let claude = &config.backends[5];
    assert_eq!((claude.spec.kind, claude.spec.models.len()), (Kind::Anthropic, 1));

    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert!(paths.contains(&"server.host"), "{paths:?}");
}

#[test]
fn the_samples_load_and_the_small_one_needs_nothing() {
    let example = loaded(EXAMPLE).config;
    assert_eq!(example.counts(), (3, 2));
    assert_eq!(example.gossip.unwrap().seeds.len(), 2);
    assert_eq!(example.server.header_timeout, Duration::from_secs(10));
    let small = load_str(LLAMA_LOCAL, Path::new("."), &empty).unwrap();
    assert_eq!(small.warnings, []);
    assert_eq!(small.config.counts(), (1, 0));
}

#[test]
fn variables_are_filled_in_anywhere_and_defaults_stand_in() {
    let env = |name: &str| match name {
        "PORT" => Some("9000".to_owned()),
        "HOST" => Some("llm.example.com".to_owned()),
        "MOCK" => Some("true".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let text = "
server: {port: '${PORT}', host: '${BIND:-127.0.0.1}'}
router: {enableSmartMocking: '${MOCK}', overheadFactor: '${FACTOR:-1.5}', stickinessWindow: '${EMPTY:-5s}'}
clusters:
  - {name: a, endpoint: 'http://${HOST}:${PORT}/x', costPerHour: 1, authType: hmac, sharedSecret: 'a$${b}$c'}
";
    let config = load_str(text, Path::new("."), &env).unwrap_or_else(|problems| panic!("{problems}")).config;
    assert_eq!((config.server.port, config.server.host.as_str()), (9000, "127.0.0.1"));
    assert!(config.smart_mocking.is_some());
    assert_eq!(config.policy.overhead_factor, 1.5);
    assert_eq!(config.stickiness_window, Duration::from_secs(5));
    assert_eq!(config.backends[0].connection.base_url, "http://llm.example.com:9000/x");
    assert!(matches!(&config.backends[0].connection.auth, Auth::Hmac(secret)
        if secrecy::ExposeSecret::expose_secret(secret) == "a${b}$c"));

    for bad in ["${", "${A B}", "${}", "${1A}", "x${GONE"] {
        let problem = only_problem(&with_cluster(&format!("node: {{region: '{bad}'}}")));
        assert!(problem.starts_with("node.region: "), "{problem}");
    }
}

#[test]
fn what_is_switched_off_may_lack_its_variables() {
    let text = with_cluster(
        "externalProviders: [{name: a, type: openai, enabled: false, apiKey: '${GONE}'}]
demo: {enabled: false, password: '${GONE}'}
sidecar: {listen: '${GONE}'}",
    );
    assert_eq!(problems(&text, &empty), Vec::<String>::new());
    assert!(
        only_problem(
            &text
                .replace("enabled: false, apiKey", "enabled: true, defaultModel: m, apiKey")
                .replace("name: a, type", "name: b, type")
        )
        .starts_with("externalProviders[0].apiKey: environment variable `GONE` is not set")
    );
}

#[test]
fn old_words_for_true_and_false_are_read_and_texts_stay_texts() {
    let text = "server: {host: localhost}\nrouter: {enableExternalFallback: no}\nclusters:\n  - {name: no, endpoint: 'http://a:1', costPerHour: 1}\n";
    let config = loaded(text).config;
    assert!(!config.policy.enable_external_fallback);
    assert_eq!(config.backends[0].spec.id.as_str(), "no");
    assert!(only_problem(&cluster("region: 1.0")).contains("put it in quotes"));
}

#[test]
fn keys_of_other_files_are_accepted_and_named() {
    let text = with_cluster(
        "router: {demoMode: true, apiRateLimit: 5, monthlyAPIBudget: 100, routingStrategy: smart_hybrid}
externalProviders: [{name: p, type: google, apiKey: k, defaultModel: m, costPerToken: 1, budgetLimit: 2, dailyBudgetLimit: {a: 1}}]
demo: {mockResponseDelay: 1s, smartRoutingEnabled: true, budgetTrackingEnabled: true}
metrics: {enabled: true}
logging: {level: debug}
costOptimization: [1]",
    );
    let loaded = loaded(&text);
    let paths: Vec<&str> = loaded.warnings.iter().map(|warning| warning.path.as_str()).collect();
    for path in [
        "costOptimization",
        "demo.budgetTrackingEnabled",
        "demo.mockResponseDelay",
        "demo.smartRoutingEnabled",
        "externalProviders[0].budgetLimit",
        "externalProviders[0].costPerToken",
        "externalProviders[0].dailyBudgetLimit",
        "logging",
        "metrics",
        "router.apiRateLimit",
        "router.demoMode",
        "router.routingStrategy",
    ] {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    assert_eq!(loaded.config.backends[1].spec.kind, Kind::Gemini);
    assert_eq!(loaded.config.policy.strategy, Strategy::Hybrid);
}

#[test]
fn simulated_clusters_are_there_only_while_mocking_is_on() {
    let text = cluster("authType: mock").replace("http://a:1", "mock://gpu/")
        + "router: {enableSmartMocking: true, mockClusterLatency: 150, mockClusterCost: 0.002}";
    let config = loaded(&text).config;
    assert_eq!(
        config.backends[0].connection,
        Connection { base_url: "mock://gpu".to_owned(), auth: Auth::None, ca: None, wake: None }
    );
    let mocking = config.smart_mocking.unwrap();
    assert_eq!(mocking.cluster_latency, Duration::from_millis(150));
    assert_eq!(mocking.cluster_cost, Money::from_usd(0.002).unwrap());
}

#[test]
fn prices_in_the_file_are_per_million_tokens() {
    let text = provider(
        "models: [{name: m, aliases: [n], contextWindow: 8000, price: {input: 3, output: 15, cachedRead: 0.3}}]",
    );
    let config = loaded(&text).config;
    let model = &config.backends[0].spec.models[0];
    let price = model.price.unwrap();
    assert_eq!(price.rates.input, Money::from_pico(3_000_000));
    assert_eq!(price.rates.output, Money::from_pico(15_000_000));
    assert_eq!(price.rates.cached_read, Money::from_pico(300_000));
    assert_eq!(price.rates.cache_write, Money::from_pico(3_000_000));
    assert_eq!((model.context_window, model.aliases.as_slice()), (Some(8000), ["n".to_owned()].as_slice()));
}

#[test]
fn a_server_of_one_s_own_needs_no_key_but_the_provider_s_does() {
    let own = provider("baseURL: 'http://127.0.0.1:9/v1'").replace("apiKey: k, ", "");
    let config = load_str(&own, Path::new("."), &empty).unwrap().config;
    assert_eq!(config.backends[0].connection.auth, Auth::None);
    let open = loaded(&provider("baseURL: 'http://llm.example.com'"));
    assert!(
        open.warnings
            .iter()
            .any(|w| w.path == "externalProviders[0].baseURL" && w.message.contains("clear text"))
    );
}

#[test]
fn no_secret_is_ever_printed() {
    let text = with_cluster(
        "externalProviders: [{name: p, type: openai, apiKey: s3cret-1, defaultModel: m}]
demo: {enabled: true, password: s3cret-2}
admin: {listen: '127.0.0.1:1', token: s3cret-3}",
    )
    .replace("costPerHour: 1", "costPerHour: 1, authType: hmac, sharedSecret: s3cret-4");
    let loaded = loaded(&text);
    assert_eq!(loaded.config.backends.len(), 2);
    assert!(!format!("{loaded:?}").contains("s3cret"));

    let wrong = "demo: {password: [s3cret]}
admin: {token: 5337000}
server: {port: '${S}'}
clusters: [{name: a, endpoint: 'http://s3cret@b', costPerHour: '${S}', sharedSecret: 5337000}]";
    let found = problems(wrong, &|_| Some("s3cret".to_owned())).join("\n");
    assert!(found.contains("server.port") && found.contains("clusters[0].sharedSecret"), "{found}");
    assert!(!found.contains("s3cret") && !found.contains("5337000"), "{found}");
}

#[test]
fn relative_paths_start_at_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("router.yaml");
    let text = cluster("certFile: c.pem, keyFile: /k.pem").replace("http:", "https:");
    std::fs::write(&path, text).unwrap();
    let loaded = load(&path, &empty).unwrap();
    let expected = Auth::Mtls { cert: directory.path().join("c.pem"), key: "/k.pem".into() };
    assert_eq!(loaded.config.backends[0].connection.auth, expected);
    assert!(
        loaded.warnings.iter().any(|warning| warning.path == "clusters[0].certFile"),
        "the file is not there"
    );
    let gone = load(&directory.path().join("gone.yaml"), &empty).unwrap_err();
    assert!(gone.to_string().contains("cannot read `"), "{gone}");
}

#[test]
fn a_sidecar_reads_only_its_own_section() {
    let text = "
clusters: [{name: a, sharedSecret: '${GONE}', costPerHour: x}]
sidecar: {listen: '127.0.0.1:8080', upstream: 'http://127.0.0.1:8081/v1', sharedSecret: '${SECRET}', costPerHour: 0.1, name: gpu, upstreamApiKey: k, drainTimeout: 10m}";
    let env = |name: &str| (name == "SECRET").then(|| "s3cret".to_owned());
    let (sidecar, warnings) =
        load_sidecar_str(text, Path::new("."), &env).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(warnings, []);
    assert_eq!(sidecar.upstream, "http://127.0.0.1:8081");
    assert_eq!(sidecar.cost_per_hour, Money::from_usd(0.1).unwrap());
    assert_eq!((sidecar.name.as_str(), sidecar.provider.as_str()), ("gpu", "local"));
    assert_eq!(sidecar.drain_timeout, Duration::from_secs(600));
    assert!(
        matches!(sidecar.auth, SidecarAuth::Hmac { v1: true, ref keys } if keys.len() == 1)
            && sidecar.upstream_api_key.is_some()
    );
    assert!(!format!("{sidecar:?}").contains("s3cret"));

    let lines = |text: &str| load_sidecar_str(text, Path::new("."), &env).unwrap_err().to_string();
    assert!(lines("clusters: []").starts_with("sidecar: missing"));
    let found = lines("sidecar: {authType: mtls, lisen: x, overheadFactor: 0}\nsidecars: 1");
    for path in [
        "sidecar.listen: ",
        "sidecar.lisen: ",
        "sidecar.upstream: ",
        "sidecar.costPerHour: ",
        "sidecar.authType: ",
        "sidecar.overheadFactor: ",
        "sidecars: ",
    ] {
        assert!(found.contains(path), "{path} in {found}");
    }
}

#[test]
fn known_models_take_price_window_and_capabilities_from_the_table_and_a_file_overrides_it() {
    let seed = loaded(SEED).config;
    let turbo = &seed.backends[4].spec.models[0];
    assert_eq!(turbo.price.unwrap().rates.input, Money::from_pico(500_000));
    assert!(turbo.context_window.is_some() && turbo.capabilities.contains("chat"));
    assert!(seed.backends[5].spec.models[0].price.is_some(), "the version date is left out of the look-up");

    let directory = tempfile::tempdir().unwrap();
    let own = r#"{"models":[{"kind":"openai","model":"m","input":2,"output":4,"capabilities":["chat"],"source":"contract","date":"2026-01-02"}]}"#;
    std::fs::write(directory.path().join("own.json"), own).unwrap();
    let text = provider("") + "pricesFile: own.json\n";
    let loaded = load_str(&text, directory.path(), &empty).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        loaded.config.backends[0].spec.models[0].price.unwrap().rates.output,
        Money::from_pico(4_000_000)
    );

    std::fs::write(directory.path().join("own.json"), own.replace("contract", "")).unwrap();
    let problem = load_str(&text, directory.path(), &empty).unwrap_err().to_string();
    assert!(problem.starts_with("pricesFile: ") && problem.contains("`source` is empty"), "{problem}");
    assert!(only_problem(&text).starts_with("pricesFile: `./own.json`: cannot read"));
}

#[test]
fn a_model_without_a_known_price_is_named() {
    let warnings = loaded(&provider("")).warnings;
    assert!(
        warnings
            .iter()
            .any(|w| w.path == "externalProviders[0].defaultModel" && w.message.contains("`m` is not known"))
    );
}
