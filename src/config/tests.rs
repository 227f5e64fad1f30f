//! Whole files in, settings or problems out.

use super::*;
use llm_router_logic::backend::{Kind, Placement};
use llm_router_logic::money::Money;
use llm_router_logic::route::Strategy;
use std::time::Duration;

const SEED: &str = include_str!("../../config/seed.yaml");
const EXAMPLE: &str = include_str!("../../config/example.yaml");
const LLAMA_LOCAL: &str = include_str!("../../config/llama-local.yaml");

/// An environment in which every variable is set.
fn full(name: &str) -> Option<String> {
    Some(format!("value-of-{name}"))
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
    assert_eq!(
        config.policy.cluster_cost_threshold,
        Money::from_usd(0.01).unwrap()
    );
    assert!(config.policy.enable_external_fallback);
    assert!(config.smart_mocking.is_none() && config.demo.is_none() && config.gossip.is_none());

    let aws = &config.backends[0];
    assert_eq!(aws.spec.id.as_str(), "aws-us-west-2");
    assert_eq!(aws.spec.kind, Kind::Llama);
    assert_eq!(aws.connection.base_url, "https://llm.us-west-2.aws.example.com");
    assert!(matches!(&aws.connection.auth, Auth::Hmac(secret)
        if secrecy::ExposeSecret::expose_secret(secret) == "value-of-AWS_SHARED_SECRET"));
    assert!(
        matches!(&aws.spec.placement, Placement::Cluster { cloud, region, cost_per_hour }
        if cloud == "aws" && region.as_str() == "us-west-2" && *cost_per_hour == Money::from_usd(0.0928).unwrap())
    );
    assert!(
        aws.spec.models.is_empty(),
        "a cluster without models is asked what it serves"
    );
    assert!(
        matches!(&config.backends[2].connection.auth, Auth::Mtls { cert, .. }
        if cert == Path::new("/etc/llm-router/client.crt"))
    );

    let openai = &config.backends[4];
    assert_eq!(openai.spec.kind, Kind::OpenAi);
    assert_eq!(openai.connection.base_url, "https://api.openai.com");
    assert_eq!(openai.spec.default_model.as_deref(), Some("gpt-3.5-turbo"));
    let models: Vec<&str> = openai
        .spec
        .models
        .iter()
        .map(|model| model.name.as_str())
        .collect();
    assert_eq!(models, ["gpt-3.5-turbo", "gpt-4-turbo"]);
    let limit = openai.spec.rate_limit.unwrap();
    assert_eq!(
        (limit.requests_per_minute, limit.tokens_per_minute),
        (Some(60), Some(90_000))
    );
    assert_eq!(limit.burst_multiplier, 1.5);
    let claude = &config.backends[5];
    assert_eq!((claude.spec.kind, claude.spec.models.len()), (Kind::Anthropic, 1));

    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert!(paths.contains(&"router.monthlyAPIBudget"), "{paths:?}");
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
fn every_problem_of_a_bad_file_is_reported_at_once_with_its_path() {
    let text = "
server: {port: 70000, readTimeout: 30, idleTimeout: -1s, prot: 1}
router:
  routingStrategy: hybird
  overheadFactor: 0.5
  maxQueueDepth: -1
  healthCheckInterval: 1s
  clusterCostThreshold: .nan
  enableExternalFallback: maybe
clusters:
  - {name: a, endpoint: 'ftp://a', costPerHour: -1, authType: hmac}
  - {name: a, costPerHour: cheap, authType: mtls, sharedSecret: '${MISSING}', costPerHuor: 1}
  - 7
externalProviders:
  - {name: 'b c', type: openapi, apiKey: '${GONE}', rateLimit: {burstMultiplier: 0.2, requestsPerMinute: 0}, models: [{aliases: [x]}, 5]}
routter: {}
";
    let found = problems(text, &empty);
    let paths: Vec<&str> = found
        .iter()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    let expected = [
        "clusters[0].costPerHour",
        "clusters[0].endpoint",
        "clusters[0].sharedSecret",
        "clusters[1].certFile",
        "clusters[1].costPerHour",
        "clusters[1].costPerHuor",
        "clusters[1].endpoint",
        "clusters[1].keyFile",
        "clusters[1].name",
        "clusters[1].sharedSecret",
        "clusters[2]",
        "externalProviders[0].apiKey",
        "externalProviders[0].models[0].name",
        "externalProviders[0].models[1]",
        "externalProviders[0].name",
        "externalProviders[0].rateLimit.burstMultiplier",
        "externalProviders[0].rateLimit.requestsPerMinute",
        "externalProviders[0].type",
        "router.clusterCostThreshold",
        "router.enableExternalFallback",
        "router.healthCheckInterval",
        "router.maxQueueDepth",
        "router.overheadFactor",
        "router.routingStrategy",
        "routter",
        "server.idleTimeout",
        "server.port",
        "server.prot",
        "server.readTimeout",
    ];
    assert_eq!(paths, expected, "{found:#?}");
    let all = found.join("\n");
    for part in [
        "did you mean `costPerHour`?",
        "did you mean `port`?",
        "did you mean `router`?",
        "did you mean `hybrid`?",
        "environment variable `MISSING` is not set",
        "server.readTimeout: expected a duration such as `500ms`, `30s`, `1m30s` or `1.5h`, found `30` (add a unit)",
        "server.port: expected a whole number from 0 to 65535, found `70000`",
        "`a` is the name of `clusters[0]` already",
    ] {
        assert!(all.contains(part), "`{part}` in\n{all}");
    }
}

#[test]
fn a_key_in_the_wrong_section_is_sent_home() {
    assert_eq!(
        only_problem(&with_cluster("stickinessWindow: 5s")),
        "stickinessWindow: unknown key here (it belongs in `router`) [line 4]"
    );
    assert!(only_problem(&with_cluster("node: {endpoint: x}")).contains("it belongs in `clusters[]`"));
}

#[test]
fn a_key_given_twice_is_found_with_its_path() {
    let text = with_cluster("router:\n  maxQueueDepth: 1\n  maxQueueDepth: 2");
    assert_eq!(
        only_problem(&text),
        "router.maxQueueDepth: this key is given more than once (keep one of them) [line 6]"
    );
}

#[test]
fn a_syntax_error_says_line_and_column_and_shows_no_text() {
    let text = "demo:\n  password: hunter2\n   sessionTimeout: [1h\n";
    let problem = only_problem(text);
    assert!(problem.contains("line 3"), "{problem}");
    assert!(problem.contains("column"), "{problem}");
    assert!(!problem.contains("hunter2"), "{problem}");
}

#[test]
fn a_file_that_is_no_mapping_is_refused_in_one_line() {
    for text in ["", "# nothing", "- a\n- b", "42", "null"] {
        only_problem(text);
    }
    assert!(only_problem(&"a: 1\n".repeat(1_000_000)).contains("larger than"));
}

#[test]
fn bombs_of_aliases_and_nesting_are_refused_in_time() {
    let mut aliases = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let last = level - 1;
        aliases += &format!(
            "b{level}: &a{level} [*a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}]\n"
        );
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(5_000));
    let deep = format!("a: {}1{}", "[".repeat(5_000), "]".repeat(5_000));
    for (what, text) in [("aliases", aliases), ("long", long), ("deep", deep)] {
        let started = std::time::Instant::now();
        let problem = only_problem(&text);
        assert!(problem.starts_with("not valid YAML"), "{what}: {problem}");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{what} took {:?}",
            started.elapsed()
        );
    }
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
    let config = load_str(text, Path::new("."), &env)
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config;
    assert_eq!(
        (config.server.port, config.server.host.as_str()),
        (9000, "127.0.0.1")
    );
    assert!(config.smart_mocking.is_some());
    assert_eq!(config.policy.overhead_factor, 1.5);
    assert_eq!(config.stickiness_window, Duration::from_secs(5));
    assert_eq!(
        config.backends[0].connection.base_url,
        "http://llm.example.com:9000/x"
    );
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
    let paths: Vec<&str> = loaded
        .warnings
        .iter()
        .map(|warning| warning.path.as_str())
        .collect();
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
        "router.monthlyAPIBudget",
        "router.routingStrategy",
    ] {
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
    assert_eq!(loaded.config.backends[1].spec.kind, Kind::Gemini);
    assert_eq!(loaded.config.policy.strategy, Strategy::Hybrid);
}

#[test]
fn combinations_in_which_nothing_can_serve_are_refused() {
    assert!(only_problem("server: {host: localhost}").starts_with("clusters: there is no backend"));
    assert!(
        only_problem("externalProviders: [{name: a, enabled: false}]")
            .starts_with("clusters: there is no backend")
    );
    let stuck = provider("") + "router: {enableExternalFallback: false}";
    assert!(only_problem(&stuck).starts_with("router.enableExternalFallback: nothing can serve"));
    assert!(
        only_problem(&(stuck.clone() + "\n").replace("false}", "false, routingStrategy: cluster_first}"))
            .contains("nothing can serve")
    );
    assert_eq!(
        problems(&stuck.replace("false}", "false, routingStrategy: cost}"), &empty),
        Vec::<String>::new()
    );
    for strategy in ["hybrid", "cluster_first", "external_first", "cost", "latency"] {
        let text = provider("") + &format!("router: {{routingStrategy: {strategy}}}");
        assert_eq!(problems(&text, &empty), Vec::<String>::new());
    }
}

#[test]
fn each_single_mistake_is_told_where_it_is() {
    for (text, start) in [
        (cluster("authType: hmac"), "clusters[0].sharedSecret: missing"),
        (cluster("sharedSecret: ''"), "clusters[0].sharedSecret: is empty"),
        (
            cluster("sharedSecret: \"a\\n\""),
            "clusters[0].sharedSecret: holds characters",
        ),
        (
            cluster("authType: basic"),
            "clusters[0].authType: expected `hmac`, `mtls` or `none`",
        ),
        (cluster("authType: mock"), "clusters[0].authType: `mock` needs"),
        (
            cluster("certFile: a, keyFile: b"),
            "clusters[0].endpoint: `mtls` needs an `https://`",
        ),
        (cluster("slots: 0"), "clusters[0].slots: must be at least 1"),
        (
            cluster("capabilities: [chat, '']"),
            "clusters[0].capabilities[1]: is empty",
        ),
        (
            cluster("models: [m], defaultModel: n"),
            "clusters[0].defaultModel: `n` is not in `models`",
        ),
        (
            cluster("models: [m, {name: n, aliases: [m]}]"),
            "clusters[0].models: the name `m` is given twice",
        ),
        (
            cluster("models: [auto]"),
            "clusters[0].models[0]: `auto` leaves the choice",
        ),
        (
            cluster("models: [{name: m, contxtWindow: 1}]"),
            "clusters[0].models[0].contxtWindow: unknown key (did you mean `contextWindow`?)",
        ),
        (
            cluster("").replace("name: a", "name: a/b"),
            "clusters[0].name: `/` may not stand in a name",
        ),
        (
            cluster("").replace("name: a", &format!("name: {}", "n".repeat(65))),
            "clusters[0].name: must have 1 to 64",
        ),
        (
            cluster("").replace("http://a:1", "mock://a"),
            "clusters[0].endpoint: `mock://` needs",
        ),
        (
            provider("models: [x]"),
            "externalProviders[0].defaultModel: `m` is not in `models`",
        ),
        (
            provider("").replace("defaultModel: m", "enabled: true"),
            "externalProviders[0].defaultModel: missing",
        ),
        (
            provider("").replace("apiKey: k", "enabled: true"),
            "externalProviders[0].apiKey: missing",
        ),
        (
            provider("").replace("openai", "opnai"),
            "externalProviders[0].type: expected `openai`",
        ),
        (
            provider("models: [{name: m, price: {input: 1}}]"),
            "externalProviders[0].models[0].price.output: missing",
        ),
        (
            provider("models: [{name: m, price: {input: 1, output: -1}}]"),
            "externalProviders[0].models[0].price.output: must be",
        ),
        (
            provider("baseURL: 'https://u:p@host'"),
            "externalProviders[0].baseURL: an address may not hold",
        ),
        (
            provider("")
                .replace("name: p", "type: openai")
                .replacen("type: openai, ", "", 1),
            "externalProviders[0].name: missing",
        ),
        (
            with_cluster("router: {overheadFactor: 0.99}"),
            "router.overheadFactor: must be a number of at least 1",
        ),
        (
            with_cluster("router: {metricsUpdateInterval: 1s}"),
            "router.metricsUpdateInterval: must be at least `2s`",
        ),
        (
            with_cluster("router: {maxLatencyMs: 0}"),
            "router.maxLatencyMs: must be at least 1",
        ),
        (
            with_cluster("timeouts: {connect: 0s}"),
            "timeouts.connect: must be at least",
        ),
        (
            with_cluster("timeouts: {total: 9000h}"),
            "timeouts.total: expected a duration",
        ),
        (
            with_cluster("gossip: {listen: '0.0.0.0:7946'}\nnode: {name: n}"),
            "gossip.listen: `0.0.0.0:7946` is not a loopback",
        ),
        (
            with_cluster("gossip: {seeds: [host]}\nnode: {name: n}"),
            "gossip.seeds[0]: expected `host:port`",
        ),
        (
            with_cluster("gossip: {interval: 1ms}\nnode: {name: n}"),
            "gossip.interval: must be at least `50ms`",
        ),
        (
            with_cluster("admin: {listen: '127.0.0.1:1'}"),
            "admin.token: missing",
        ),
        (
            with_cluster("admin: {listen: here, token: t}"),
            "admin.listen: expected an IP address and a port",
        ),
        (with_cluster("demo: {enabled: true}"), "demo.password: missing"),
        (
            with_cluster("node: {name: 'a b'}"),
            "node.name: ` ` may not stand in a name",
        ),
        (
            with_cluster("clusterz: []"),
            "clusterz: unknown key (did you mean `clusters`?)",
        ),
        (
            with_cluster("timeouts: [1s, 2s, 3s, 4s]"),
            "timeouts: expected a mapping, found a list",
        ),
        (
            cluster("").replace("costPerHour: 1", "costPerHour: .inf"),
            "clusters[0].costPerHour: expected a number",
        ),
        (
            cluster("").replace("http://a:1", "http://a:1?x"),
            "clusters[0].endpoint: an address may not hold `?`",
        ),
        (
            "server: {maxBodyBytes: 0}\n".to_owned() + &cluster(""),
            "server.maxBodyBytes: must be from 1",
        ),
    ] {
        let problem = only_problem(&text);
        assert!(
            problem.starts_with(start),
            "{text}\nexpected {start}\nfound    {problem}"
        );
    }
}

#[test]
fn simulated_clusters_are_there_only_while_mocking_is_on() {
    let text = cluster("authType: mock").replace("http://a:1", "mock://gpu/")
        + "router: {enableSmartMocking: true, mockClusterLatency: 150, mockClusterCost: 0.002}";
    let config = loaded(&text).config;
    assert_eq!(
        config.backends[0].connection,
        Connection {
            base_url: "mock://gpu".to_owned(),
            auth: Auth::None
        }
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
    assert_eq!(price.input, Money::from_pico(3_000_000));
    assert_eq!(price.output, Money::from_pico(15_000_000));
    assert_eq!(price.cached_read, Money::from_pico(300_000));
    assert_eq!(price.cache_write, Money::from_pico(3_000_000));
    assert_eq!(
        (model.context_window, model.aliases.as_slice()),
        (Some(8000), ["n".to_owned()].as_slice())
    );
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
    .replace(
        "costPerHour: 1",
        "costPerHour: 1, authType: hmac, sharedSecret: s3cret-4",
    );
    let loaded = loaded(&text);
    assert_eq!(loaded.config.backends.len(), 2);
    assert!(!format!("{loaded:?}").contains("s3cret"));

    let wrong = "demo: {password: [s3cret]}
admin: {token: 5337000}
server: {port: '${S}'}
clusters: [{name: a, endpoint: 'http://s3cret@b', costPerHour: '${S}', sharedSecret: 5337000}]";
    let found = problems(wrong, &|_| Some("s3cret".to_owned())).join("\n");
    assert!(
        found.contains("server.port") && found.contains("clusters[0].sharedSecret"),
        "{found}"
    );
    assert!(!found.contains("s3cret") && !found.contains("5337000"), "{found}");
}

#[test]
fn more_wrong_values_than_can_be_told_still_end() {
    let text = format!("clusters: [{}]", "7, ".repeat(10_000));
    assert!(problems(&text, &empty).len() >= 100);
}

#[test]
fn relative_paths_start_at_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("router.yaml");
    let text = cluster("certFile: c.pem, keyFile: /k.pem").replace("http:", "https:");
    std::fs::write(&path, text).unwrap();
    let loaded = load(&path, &empty).unwrap();
    let expected = Auth::Mtls {
        cert: directory.path().join("c.pem"),
        key: "/k.pem".into(),
    };
    assert_eq!(loaded.config.backends[0].connection.auth, expected);
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.path == "clusters[0].certFile"),
        "the file is not there"
    );
    let gone = load(&directory.path().join("gone.yaml"), &empty).unwrap_err();
    assert!(gone.to_string().contains("cannot read `"), "{gone}");
}

#[test]
fn a_sidecar_reads_only_its_own_section() {
    let text = "
clusters: [{name: a, sharedSecret: '${GONE}', costPerHour: x}]
sidecar: {listen: '127.0.0.1:8080', upstream: 'http://127.0.0.1:8081/v1', sharedSecret: '${SECRET}', costPerHour: 0.1, name: gpu, upstreamApiKey: k}";
    let env = |name: &str| (name == "SECRET").then(|| "s3cret".to_owned());
    let (sidecar, warnings) = load_sidecar_str(text, &env).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(warnings, []);
    assert_eq!(sidecar.upstream, "http://127.0.0.1:8081");
    assert_eq!(sidecar.cost_per_hour, Money::from_usd(0.1).unwrap());
    assert_eq!(
        (sidecar.name.as_str(), sidecar.provider.as_str()),
        ("gpu", "local")
    );
    assert!(sidecar.auth.is_some() && sidecar.upstream_api_key.is_some());
    assert!(!format!("{sidecar:?}").contains("s3cret"));

    let lines = |text: &str| load_sidecar_str(text, &env).unwrap_err().to_string();
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
fn the_schema_knows_every_key_of_the_samples_and_closes_every_mapping() {
    fn walk(at: &path::Path, value: &Value) {
        match value {
            Value::Object(keys) => {
                let known = schema::keys_at(at);
                for (key, value) in keys {
                    // The one key of the seed that is marked as not honoured.
                    assert!(
                        known.contains(key) || key == "monthlyAPIBudget",
                        "{at} has no `{key}`: {known:?}"
                    );
                    walk(&at.key(key), value);
                }
            }
            Value::Array(values) => values
                .iter()
                .enumerate()
                .for_each(|(index, value)| walk(&at.index(index), value)),
            _ => {}
        }
    }
    for text in [SEED, EXAMPLE, LLAMA_LOCAL] {
        walk(
            &path::Path::default(),
            &tree::parse(text, &mut Findings::default()).unwrap(),
        );
    }
    let schema = schema();
    let mut mappings = vec![&schema];
    mappings.extend(schema["$defs"].as_object().unwrap().values());
    for mapping in mappings
        .into_iter()
        .filter(|mapping| mapping.get("properties").is_some())
    {
        assert_eq!(mapping["additionalProperties"], false, "{mapping}");
        for (key, property) in mapping["properties"].as_object().unwrap() {
            assert!(
                property.get("description").is_some(),
                "`{key}` has no description"
            );
        }
    }
    assert_eq!(schema["properties"]["costOptimization"]["deprecated"], true);
}

#[test]
fn the_manual_has_every_key_with_its_own_description() {
    let manual = include_str!("../../docs/CONFIG.md");
    let schema = schema();
    let mut mappings = vec![&schema];
    mappings.extend(schema["$defs"].as_object().unwrap().values());
    for mapping in mappings {
        for (key, property) in mapping["properties"].as_object().into_iter().flatten() {
            let description = property["description"].as_str().unwrap().replace('\n', " ");
            let row = manual.lines().any(|line| {
                line.starts_with(&format!("| `{key}` |")) && line.ends_with(&format!("| {description} |"))
            });
            assert!(row, "docs/CONFIG.md lacks: | `{key}` | … | {description} |");
        }
    }
}

#[test]
fn known_models_take_price_window_and_capabilities_from_the_table_and_a_file_overrides_it() {
    let seed = loaded(SEED).config;
    let turbo = &seed.backends[4].spec.models[0];
    assert_eq!(turbo.price.unwrap().input, Money::from_pico(500_000));
    assert!(turbo.context_window.is_some() && turbo.capabilities.contains("chat"));
    assert!(
        seed.backends[5].spec.models[0].price.is_some(),
        "the version date is left out of the look-up"
    );

    let directory = tempfile::tempdir().unwrap();
    let own = r#"{"models":[{"kind":"openai","model":"m","input":2,"output":4,"capabilities":["chat"],"source":"contract","date":"2026-01-02"}]}"#;
    std::fs::write(directory.path().join("own.json"), own).unwrap();
    let text = provider("") + "pricesFile: own.json\n";
    let loaded = load_str(&text, directory.path(), &empty).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        loaded.config.backends[0].spec.models[0].price.unwrap().output,
        Money::from_pico(4_000_000)
    );

    std::fs::write(directory.path().join("own.json"), own.replace("contract", "")).unwrap();
    let problem = load_str(&text, directory.path(), &empty).unwrap_err().to_string();
    assert!(
        problem.starts_with("pricesFile: ") && problem.contains("`source` is empty"),
        "{problem}"
    );
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

/// Calls `change` with every place in `tree` and what is there.
fn each_place(at: &path::Path, value: &Value, change: &mut impl FnMut(&path::Path, &Value)) {
    change(at, value);
    match value {
        Value::Object(keys) => keys
            .iter()
            .for_each(|(key, value)| each_place(&at.key(key), value, change)),
        Value::Array(values) => {
            values
                .iter()
                .enumerate()
                .for_each(|(index, value)| each_place(&at.index(index), value, change));
        }
        _ => {}
    }
}

/// The problems of `tree` with `value` put at `path`; JSON is YAML.
fn problems_with(tree: &Value, path: &path::Path, value: Value) -> Vec<String> {
    let mut tree = tree.clone();
    *path.find(&mut tree).unwrap() = value;
    problems(&tree.to_string(), &full)
}

#[test]
fn a_wrong_type_anywhere_is_reported_there_and_nowhere_else() {
    for text in [SEED, EXAMPLE] {
        let tree = tree::parse(text, &mut Findings::default()).unwrap();
        let mut places = 0;
        each_place(&path::Path::default(), &tree, &mut |at, value| {
            let is_name_of_model = at.to_string().contains("models[") && value.is_string();
            let switched_off = at.to_string().starts_with("externalProviders[2]");
            if at.steps().is_empty() || is_name_of_model {
                return;
            }
            places += 1;
            let found = problems_with(&tree, at, serde_json::json!([[true]]));
            let expected = format!("{at}");
            let inside = |line: &String| line.starts_with(&expected);
            assert!(!found.is_empty() && found.iter().all(inside), "{at}: {found:#?}");
            if !value.is_array() && !switched_off {
                assert_eq!(found.len(), 1, "{at}: {found:#?}");
            }
        });
        assert!(places > 60, "{places}");
    }
}

#[test]
fn an_unknown_key_in_any_mapping_is_reported_there_and_nowhere_else() {
    for text in [SEED, EXAMPLE] {
        let tree = tree::parse(text, &mut Findings::default()).unwrap();
        each_place(&path::Path::default(), &tree, &mut |at, value| {
            if let Value::Object(keys) = value {
                let mut keys = keys.clone();
                keys.insert("qqqqqq".to_owned(), Value::Bool(true));
                let found = problems_with(&tree, at, Value::Object(keys));
                assert_eq!(found.len(), 1, "{at}: {found:#?}");
                assert!(
                    found[0].starts_with(&format!("{}: unknown key (known here: ", at.key("qqqqqq"))),
                    "{found:?}"
                );
            }
        });
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_loading_panic(text in "[a-z0-9:{}\\[\\]&*!|>'\"#%@,.$ \n-]{0,200}") {
        let _ = load_str(&text, Path::new("."), &empty);
        let _ = load_sidecar_str(&text, &empty);
    }

    #[test]
    fn no_value_anywhere_makes_loading_panic(place in 0_usize..200, text in "\\PC{0,40}", number in proptest::num::f64::ANY) {
        let tree = tree::parse(EXAMPLE, &mut Findings::default()).unwrap();
        let mut places = Vec::new();
        each_place(&path::Path::default(), &tree, &mut |at, _| places.push(at.clone()));
        let at = &places[place % places.len()];
        for value in [Value::from(text.clone()), Value::from(number), Value::from(i64::MIN), Value::Null] {
            let _ = problems_with(&tree, at, value);
        }
    }
}

#[test]
fn each_problem_names_the_line_of_its_key_or_of_what_lacks_it() {
    let text = "# first
server:
  host: localhost
  prot: 1
clusters:
  - name: a
    endpoint: http://a
    costPerHour:
      - 1
  - name: b
    endpoint: http://b
";
    let lines: Vec<(String, Option<u64>)> = load_str(text, Path::new("."), &empty)
        .unwrap_err()
        .iter()
        .map(|problem| (problem.path.clone(), problem.line))
        .collect();
    let expected = [
        ("clusters[0].costPerHour", 8),
        ("clusters[1].costPerHour", 10),
        ("server.prot", 4),
    ];
    assert_eq!(lines, expected.map(|(path, line)| (path.to_owned(), Some(line))));
}
