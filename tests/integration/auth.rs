//! Clients with and without keys, through real sockets.

use crate::fixture::{
    Router, cluster, eventually, fast, file, hello, json_body, provider, settings, upstream,
};
use llm_router::config;
use llm_router_logic::api_key::Digest;
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::path::Path;

const SECRET: &str = "a-secret-of-these-tests";
const KEY: &str = "lr-aaaaaaaa-0123456789abcdef";
const NARROW: &str = "lr-bbbbbbbb-0123456789abcdef";

/// The file of keys as it stands on disk.
fn write_keys(path: &Path, keys: &[(&str, &str, Value)]) {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(id, key, more)| {
            let mut entry = json!({"id": id, "tenant": "team-a",
                "hash": Digest::of(SECRET.as_bytes(), key.as_bytes()).to_string()});
            entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            entry
        })
        .collect();
    std::fs::write(path, json!({"keys": keys}).to_string()).unwrap();
}

fn auth(path: &Path) -> String {
    format!("auth: {{secret: {SECRET}, keysFile: \"{}\"}}\n", path.display())
}

async fn status(router: &Router, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, Value, String) {
    let mut request = router.client.post(format!("{}{path}", router.url)).body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let challenge =
        response.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), json_body(response).await, challenge.unwrap_or_default())
}

#[tokio::test]
async fn a_key_is_asked_for_in_each_dialects_own_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    write_keys(&path, &[("aaaaaaaa", KEY, json!({}))]);
    let llama = upstream(fast(Kind::Llama, "m")).await;
    let router = Router::start(&file(&auth(&path), &cluster("c1", &llama, 0.05), "")).await;
    let openai = hello("m", false);
    let anthropic = json!({"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]});
    let gemini = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let bearer = format!("Bearer {KEY}");
    let routes = [
        ("/v1/chat/completions", &openai, ("authorization", bearer.as_str()), "/error/type"),
        ("/v1/messages", &anthropic, ("x-api-key", KEY), "/error/type"),
        ("/v1beta/models/m:generateContent", &gemini, ("x-goog-api-key", KEY), "/error/status"),
    ];
    let words = ["authentication_error", "authentication_error", "UNAUTHENTICATED"];
    for ((path, body, header, place), word) in routes.into_iter().zip(words) {
        assert_eq!(status(&router, path, body, &[header]).await.0, 200, "{path}");
        for wrong in [None, Some((header.0, "Bearer lr-nobody")), Some((header.0, ""))] {
            let headers: Vec<(&str, &str)> = wrong.into_iter().collect();
            let (code, error, challenge) = status(&router, path, body, &headers).await;
            assert_eq!(code, 401, "{path} {wrong:?}");
            assert_eq!(error.pointer(place).and_then(Value::as_str), Some(word), "{path}: {error}");
            assert_eq!(challenge, "Bearer realm=\"llm-router\"");
        }
    }
    // Figures of all tenants are not for everybody.
    for path in ["/metrics", "/ui/data"] {
        let get = |token: &'static str| {
            router.client.get(format!("{}{path}", router.url)).bearer_auth(token).send()
        };
        assert_eq!(get("nobody").await.unwrap().status(), 401, "{path}");
    }
    let admin = format!("http://{}/metrics", router.node.admin_addr().unwrap());
    let figures = router.client.get(admin).bearer_auth(crate::fixture::TOKEN).send().await.unwrap();
    assert!(figures.text().await.unwrap().contains("llm_router_auth_refused_total{why=\"missing\"} "));
    // The key does not go upstream, whatever header carried it.
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_change_of_the_key_file_is_in_force_within_two_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    let llama = upstream(fast(Kind::Llama, "m")).await;
    let router = Router::start(&file(&auth(&path), &cluster("c1", &llama, 0.05), "")).await;
    let bearer = format!("Bearer {KEY}");
    let ask = async || {
        status(&router, "/v1/chat/completions", &hello("m", false), &[("authorization", &bearer)]).await.0
    };
    assert_eq!(ask().await, 401, "there is no file yet");

    write_keys(&path, &[("aaaaaaaa", KEY, json!({}))]);
    let written = std::time::Instant::now();
    eventually("the new key to open", async || ask().await == 200).await;
    assert!(written.elapsed().as_secs() < 2, "{:?}", written.elapsed());

    std::fs::write(&path, "keys: [").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(900)).await;
    assert_eq!(ask().await, 200, "a broken file changes nothing");

    write_keys(&path, &[("aaaaaaaa", KEY, json!({"revoked": "2026-01-01T00:00:00Z"}))]);
    eventually("the revoked key to close", async || ask().await == 401).await;
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_key_reaches_only_what_it_may_and_lists_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    let narrow = json!({"models": ["small"], "backends": ["c*"], "strategies": ["latency"]});
    write_keys(&path, &[("aaaaaaaa", KEY, json!({})), ("bbbbbbbb", NARROW, narrow)]);
    let llama = upstream(fast(Kind::Llama, "small")).await;
    let openai = upstream(fast(Kind::OpenAi, "large")).await;
    let yaml = file(&auth(&path), &cluster("c1", &llama, 0.05), &provider("p1", &openai, "large"));
    let router = Router::start(&yaml).await;
    let bearer = format!("Bearer {NARROW}");
    let authorized = ("authorization", bearer.as_str());
    let ask = async |model: &str, more: &[(&str, &str)]| {
        let headers: Vec<(&str, &str)> = [authorized].into_iter().chain(more.iter().copied()).collect();
        let (code, body, _) = status(&router, "/v1/chat/completions", &hello(model, false), &headers).await;
        (code, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask("small", &[]).await.0, 200);
    assert_eq!(ask("auto", &[]).await.0, 200, "the choice is left to what the key may use");
    assert_eq!(ask("large", &[]).await, (403, "backend_not_allowed".into()));
    assert_eq!(ask("none-such", &[]).await.0, 403, "which backends there are is not told");
    assert_eq!(ask("small", &[("x-llm-router-backend", "p1")]).await, (403, "backend_not_allowed".into()));
    assert_eq!(
        ask("small", &[("x-llm-router-strategy", "cost")]).await,
        (403, "strategy_not_allowed".into())
    );
    assert_eq!(ask("small", &[("x-llm-router-strategy", "latency")]).await.0, 200);

    let listed = async |key: &str| {
        let get = router.client.get(format!("{}/v1/models", router.url)).bearer_auth(key).send();
        let list = json_body(get.await.unwrap()).await;
        let ids =
            list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<String>>()
    };
    assert_eq!(listed(NARROW).await, ["small"]);
    assert_eq!(listed(KEY).await, ["large", "small"]);
    router.node.shutdown().await;
}

#[test]
fn a_listener_beyond_loopback_needs_keys_or_an_explicit_none() {
    let load = |server: &str, more: &str| {
        let yaml = format!(
            "server: {{host: {server}, port: 0}}\n{more}clusters: [{{name: a, endpoint: 'http://a', costPerHour: 1}}]"
        );
        config::load_str(&yaml, Path::new("."), &|_| None).map_err(|problems| problems.to_string())
    };
    let refusal = load("0.0.0.0", "").unwrap_err();
    assert!(refusal.starts_with("auth: missing: `server.host` `0.0.0.0` is not loopback"), "{refusal}");
    assert!(load("127.0.0.1", "").is_ok());
    let open = load("0.0.0.0", "auth: none\n").unwrap();
    assert!(open.warnings.iter().any(|warning| warning.path == "auth"), "{:?}", open.warnings);
    assert!(load("0.0.0.0", "auth: {keys: [{key: 0123456789abcdef}]}\n").is_ok());
    for (auth, path) in [
        ("auth: nobody\n", "auth: "),
        ("auth: {}\n", "auth: "),
        ("auth: {keysFile: k.yaml}\n", "auth.secret: "),
        ("auth: {keysFile: k.yaml, secret: short}\n", "auth.secret: "),
        ("auth: {keys: [{key: short}]}\n", "auth.keys[0].key: "),
        ("auth: {keys: [{key: 0123456789abcdef, strategies: [best]}]}\n", "auth.keys[0].strategies[0]: "),
    ] {
        let refusal = load("0.0.0.0", auth).unwrap_err();
        assert!(refusal.starts_with(path) && !refusal.contains('\n'), "{auth}: {refusal}");
    }
    assert!(
        settings(&file("auth: none", "  - {name: a, endpoint: 'http://a', costPerHour: 1}\n", ""))
            .access
            .keys
            .is_none()
    );
}

/// A UDP port that is free now.
fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// How `router` answers a request with [`KEY`].
async fn opens(router: &Router) -> u16 {
    let bearer = format!("Bearer {KEY}");
    status(router, "/v1/chat/completions", &hello("m", false), &[("authorization", &bearer)]).await.0
}

/// How often the router has read its file of keys.
async fn files_read(router: &Router) -> u64 {
    let metrics = router.client.get(format!("http://{}/metrics", router.node.admin_addr().unwrap()));
    let text = metrics.bearer_auth(crate::fixture::TOKEN).send().await.unwrap().text().await.unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix("llm_router_key_file_reads_total{result=\"read\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_revoked_in_one_routers_file_is_closed_everywhere_in_two_seconds_and_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let llama = upstream(fast(Kind::Llama, "m")).await;
    let names = ["a", "b", "c", "d", "stranger"];
    let paths = names.map(|name| directory.path().join(format!("{name}.yaml")));
    let ports = names.map(|_| free_port());
    let yaml = |nth: usize, seed: usize, cluster_id: &str| {
        let (name, port, seed) = (names[nth], ports[nth], ports[seed]);
        let gossip = format!(
            "node: {{name: {name}, region: r-{name}}}\ngossip: {{clusterId: {cluster_id}, listen: \"127.0.0.1:{port}\", seeds: [\"127.0.0.1:{seed}\"]}}\n"
        );
        file(&(auth(&paths[nth]) + &gossip), &cluster("c1", &llama, 0.05), "")
    };
    for path in &paths {
        write_keys(path, &[("aaaaaaaa", KEY, json!({})), ("bbbbbbbb", NARROW, json!({}))]);
    }
    let a = Router::start(&yaml(0, 1, "ours")).await;
    let b = Router::start(&yaml(1, 0, "ours")).await;
    let c = Router::start(&yaml(2, 0, "ours")).await;
    let stranger = Router::start(&yaml(4, 0, "theirs")).await;
    for router in [&a, &b, &c] {
        router.wait_for("three members", |view| view["members"].as_array().unwrap().len() == 3).await;
        assert_eq!(opens(router).await, 200);
    }
    let revoked = json!({"revoked": "2026-01-01T00:00:00Z"});
    // Who is no member closes nothing.
    write_keys(&paths[4], &[("aaaaaaaa", KEY, json!({})), ("bbbbbbbb", NARROW, revoked.clone())]);

    write_keys(&paths[0], &[("aaaaaaaa", KEY, revoked), ("bbbbbbbb", NARROW, json!({}))]);
    let written = std::time::Instant::now();
    for router in [&a, &b, &c] {
        eventually("the key to be closed", async || opens(router).await == 401).await;
    }
    assert!(written.elapsed() < std::time::Duration::from_secs(2), "{:?}", written.elapsed());
    assert_eq!(opens(&stranger).await, 200, "nor is it told anything");

    // Who said it first is gone; files that say otherwise open nothing; a newcomer is told by the others.
    a.node.shutdown().await;
    let before = files_read(&b).await;
    write_keys(&paths[1], &[("aaaaaaaa", KEY, json!({"models": ["m"]})), ("bbbbbbbb", NARROW, json!({}))]);
    let d = Router::start(&yaml(3, 1, "ours")).await;
    eventually("the newcomer to hear of it", async || opens(&d).await == 401).await;
    eventually("the file that says otherwise to be read", async || files_read(&b).await > before).await;
    for router in [&b, &c, &d] {
        assert_eq!(opens(router).await, 401);
        let bearer = format!("Bearer {NARROW}");
        let headers = [("authorization", bearer.as_str())];
        let other = status(router, "/v1/chat/completions", &hello("m", false), &headers).await.0;
        assert_eq!(other, 200, "the other key is as good as before");
    }
}
