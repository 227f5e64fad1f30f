//! Every kind of mistake, told where it is.

use super::*;

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
    let paths: Vec<&str> = found.iter().map(|line| line.split(": ").next().unwrap()).collect();
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
        (
            cluster("authType: hmac"),
            "clusters[0].sharedSecret: missing: `authType: hmac` needs `sharedSecret`",
        ),
        (cluster("sharedSecret: ''"), "clusters[0].sharedSecret: is empty"),
        (cluster("sharedSecret: \"a\\n\""), "clusters[0].sharedSecret: holds characters"),
        (cluster("authType: basic"), "clusters[0].authType: expected `hmac`, `hmac_v2`, `mtls` or `none`"),
        (cluster("authType: mock"), "clusters[0].authType: `mock` needs"),
        (cluster("certFile: a, keyFile: b"), "clusters[0].endpoint: `mtls` needs an `https://`"),
        (cluster("slots: 0"), "clusters[0].slots: must be at least 1"),
        (cluster("capabilities: [chat, '']"), "clusters[0].capabilities[1]: is empty"),
        (cluster("models: [m], defaultModel: n"), "clusters[0].defaultModel: `n` is not in `models`"),
        (cluster("models: [m, {name: n, aliases: [m]}]"), "clusters[0].models: the name `m` is given twice"),
        (cluster("models: [auto]"), "clusters[0].models[0]: `auto` leaves the choice"),
        (
            cluster("models: [{name: m, contxtWindow: 1}]"),
            "clusters[0].models[0].contxtWindow: unknown key (did you mean `contextWindow`?)",
        ),
        (cluster("").replace("name: a", "name: a/b"), "clusters[0].name: `/` may not stand in a name"),
        (
            cluster("").replace("name: a", &format!("name: {}", "n".repeat(65))),
            "clusters[0].name: must have 1 to 64",
        ),
        (cluster("").replace("http://a:1", "mock://a"), "clusters[0].endpoint: `mock://` needs"),
        (provider("models: [x]"), "externalProviders[0].defaultModel: `m` is not in `models`"),
        (
            provider("").replace("defaultModel: m", "enabled: true"),
            "externalProviders[0].defaultModel: missing",
        ),
        (provider("").replace("apiKey: k", "enabled: true"), "externalProviders[0].apiKey: missing"),
        (provider("").replace("openai", "opnai"), "externalProviders[0].type: expected `openai`"),
        (
            provider("models: [{name: m, price: {input: 1}}]"),
            "externalProviders[0].models[0].price.output: missing",
        ),
        (
            provider("models: [{name: m, price: {input: 1, output: -1}}]"),
            "externalProviders[0].models[0].price.output: must be",
        ),
        (provider("baseURL: 'https://u:p@host'"), "externalProviders[0].baseURL: an address may not hold"),
        (
            provider("").replace("name: p", "type: openai").replacen("type: openai, ", "", 1),
            "externalProviders[0].name: missing",
        ),
        (
            with_cluster("router: {breaker: {minSuccessPercent: 101}}"),
            "router.breaker.minSuccessPercent: must be from 0 to 100, is `101`",
        ),
        (
            with_cluster("router: {breaker: {open: 10s, openMax: 5s}}"),
            "router.breaker.openMax: must be at least `open`, 10s",
        ),
        (
            with_cluster("router: {overheadFactor: 0.99}"),
            "router.overheadFactor: must be a number of at least 1",
        ),
        (
            with_cluster("router: {metricsUpdateInterval: 1s}"),
            "router.metricsUpdateInterval: must be at least `2s`",
        ),
        (with_cluster("router: {maxLatencyMs: 0}"), "router.maxLatencyMs: must be at least 1"),
        (with_cluster("timeouts: {connect: 0s}"), "timeouts.connect: must be at least"),
        (with_cluster("timeouts: {total: 9000h}"), "timeouts.total: expected a duration"),
        (
            with_cluster("gossip: {listen: '0.0.0.0:7946'}\nnode: {name: n}"),
            "gossip.listen: `0.0.0.0:7946` is not a loopback",
        ),
        (
            with_cluster("gossip: {advertise: '10.0.0.1:7946'}\nnode: {name: n}"),
            "gossip.advertise: `10.0.0.1:7946` is not a loopback",
        ),
        (
            with_cluster("gossip: {identity: {cert: c, ca: a}}\nnode: {name: n}"),
            "gossip.identity.key: missing",
        ),
        (
            with_cluster(
                "gossip: {listen: '0.0.0.0:7946', identity: {cert: c, key: k, ca: a}}\nnode: {name: n}",
            ),
            "gossip.advertise: missing: `0.0.0.0:7946` is every address",
        ),
        (
            with_cluster(
                "gossip: {advertise: '10.0.0.1:0', identity: {cert: c, key: k, ca: a}}\nnode: {name: n}",
            ),
            "gossip.advertise: `10.0.0.1:0` is no address a peer could reach",
        ),
        (with_cluster("gossip: {seeds: [host]}\nnode: {name: n}"), "gossip.seeds[0]: expected `host:port`"),
        (
            with_cluster("gossip: {interval: 1ms}\nnode: {name: n}"),
            "gossip.interval: must be at least `50ms`",
        ),
        (with_cluster("admin: {listen: '127.0.0.1:1'}"), "admin.token: missing"),
        (with_cluster("admin: {listen: here, token: t}"), "admin.listen: expected an IP address and a port"),
        (with_cluster("demo: {enabled: true}"), "demo.password: missing"),
        (with_cluster("node: {name: 'a b'}"), "node.name: ` ` may not stand in a name"),
        (with_cluster("clusterz: []"), "clusterz: unknown key (did you mean `clusters`?)"),
        (with_cluster("timeouts: [1s, 2s, 3s, 4s]"), "timeouts: expected a mapping, found a list"),
        (
            cluster("").replace("costPerHour: 1", "costPerHour: .inf"),
            "clusters[0].costPerHour: expected a number",
        ),
        (
            cluster("").replace("http://a:1", "http://a:1?x"),
            "clusters[0].endpoint: an address may not hold `?`",
        ),
        ("server: {maxBodyBytes: 0}\n".to_owned() + &cluster(""), "server.maxBodyBytes: must be from 1"),
    ] {
        let problem = only_problem(&text);
        assert!(problem.starts_with(start), "{text}\nexpected {start}\nfound    {problem}");
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
    let expected = [("clusters[0].costPerHour", 8), ("clusters[1].costPerHour", 10), ("server.prot", 4)];
    assert_eq!(lines, expected.map(|(path, line)| (path.to_owned(), Some(line))));
}

#[test]
fn mistakes_in_experiments_shadows_and_sleeping_clusters_are_told_at_their_place() {
    for (keys, problem) in [
        ("experiments: [{key: user, arms: [{name: a, weight: 1}]}]", "experiments[0].name: missing"),
        ("experiments: [{name: e, key: age, arms: [{name: a, weight: 1}]}]", "experiments[0].key: expected"),
        ("experiments: [{name: e, key: user, arms: [{name: a, weight: 0}]}]", "experiments[0].arms: no arm"),
        (
            "experiments: [{name: e, key: user, arms: [{name: a, weight: 1, backend: aa}]}]",
            "experiments[0].arms[0].backend: there is no backend",
        ),
        (
            "experiments: [{name: e, key: user, arms: [{name: a, weight: 1, strategy: cots}]}]",
            "experiments[0].arms[0].strategy: unknown strategy",
        ),
        ("shadows: [{name: s, share: 2, backend: a}]", "shadows[0].share: must be"),
        ("shadows: [{name: s, share: 0.5}]", "shadows[0]: needs"),
    ] {
        let found = only_problem(&with_cluster(keys));
        assert!(found.starts_with(problem), "{found}");
    }
    for (keys, problem) in [
        ("scaleToZero: {}, models: [m]", "clusters[0].scaleToZero.coldStart: missing"),
        (
            "scaleToZero: {coldStart: 9s, wakeUrl: 'ftp://x'}, models: [m]",
            "clusters[0].scaleToZero.wakeUrl: expected",
        ),
        (
            "scaleToZero: {coldStart: 9s, demandWindow: 1s}, models: [m]",
            "clusters[0].scaleToZero.demandWindow: must be",
        ),
        ("spot: {}", "clusters[0].spot.noticeFile: missing"),
    ] {
        let found = only_problem(&cluster(keys));
        assert!(found.starts_with(problem), "{found}");
    }
}
