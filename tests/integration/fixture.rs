//! What every test here needs: upstreams, a node over them, a client, and waiting with a deadline.

use llm_router::config::{self, Config};
use llm_router::mock::{self, Faults, Mock, MockConfig};
use llm_router::node::Node;
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for a condition.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// The admin token of every node here.
pub(crate) const TOKEN: &str = "an-admin-token-of-the-tests";

/// A fast mock of `kind`.
pub(crate) fn fast(kind: Kind, model: &str) -> MockConfig {
    let mut config = MockConfig::new(kind);
    config.models = vec![model.to_owned()];
    config.ttft = Duration::from_millis(5);
    config.tokens_per_second = 2_000.0;
    config.output_tokens = 12;
    config
}

/// Starts a mock on a free port.
pub(crate) async fn upstream(config: MockConfig) -> Mock {
    // A second installation fails and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    mock::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), config, Faults::none()).await.unwrap()
}

/// YAML of a cluster behind `mock`.
pub(crate) fn cluster(name: &str, mock: &Mock, cost_per_hour: f64) -> String {
    format!(
        "  - {{name: {name}, endpoint: \"{}\", region: r1, provider: aws, costPerHour: {cost_per_hour}, authType: none}}\n",
        mock.url()
    )
}

/// YAML of an OpenAI provider behind `mock`, at $1 and $2 per million tokens.
pub(crate) fn provider(name: &str, mock: &Mock, model: &str) -> String {
    format!(
        "  - {{name: {name}, type: openai, enabled: true, apiKey: sk-test, baseURL: \"{}\", defaultModel: {model}, \
         models: [{{name: {model}, price: {{input: 1.0, output: 2.0}}}}]}}\n",
        mock.url()
    )
}

/// A whole file: loopback, port 0, an admin listener, probes every 2 s.
pub(crate) fn file(more: &str, clusters: &str, providers: &str) -> String {
    let section =
        |key: &str, rows: &str| if rows.is_empty() { String::new() } else { format!("{key}:\n{rows}") };
    format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: {{listen: \"127.0.0.1:0\", token: {TOKEN}}}\n{more}\n{}{}",
        section("clusters", clusters),
        section("externalProviders", providers)
    )
}

/// The settings of a file that must be good.
pub(crate) fn settings(yaml: &str) -> Config {
    match config::load_str(yaml, Path::new("."), &|_| None) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}\n{yaml}"),
    }
}

/// A running node and a client of it.
pub(crate) struct Router {
    pub(crate) node: Node,
    pub(crate) client: reqwest::Client,
    pub(crate) url: String,
}

impl Router {
    /// Starts a node from `yaml` and waits until it sees every cluster healthy with a known speed and
    /// every provider healthy.
    pub(crate) async fn start(yaml: &str) -> Self {
        let router = Self::start_unready(yaml).await;
        router
            .wait_for("all backends to be healthy", |view| {
                let backends = view["backends"].as_array().unwrap();
                backends.iter().all(|b| {
                    let own = &b["own"];
                    own["health"] == "healthy"
                        && (own["slots"].is_null() || own["tokens_per_second"].is_number())
                })
            })
            .await;
        router
    }

    /// Starts a node from `yaml` and waits for nothing.
    pub(crate) async fn start_unready(yaml: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let node = Node::start(settings(yaml)).await.unwrap();
        let url = format!("http://{}", node.addr());
        Self { node, client: reqwest::Client::builder().no_proxy().build().unwrap(), url }
    }

    /// `/admin/view`.
    pub(crate) async fn view(&self) -> Value {
        self.admin("/admin/view").await
    }

    /// Any admin route.
    pub(crate) async fn admin(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.node.admin_addr().unwrap());
        let response = self.client.get(url).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    /// Waits until the view satisfies `holds`.
    pub(crate) async fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let view = self.view().await;
            if holds(&view) {
                return view;
            }
            assert!(started.elapsed() < DEADLINE, "waited in vain for {what}: {view:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Posts a chat request.
    pub(crate) async fn chat(&self, body: Value, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = self
            .client
            .post(format!("{}/v1/chat/completions", self.url))
            .header("content-type", "application/json")
            .body(body.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// The value of a Prometheus series by its name and labels as written.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text =
            self.client.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap();
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line[series.len()..].trim().parse().ok()
    }
}

/// A one-message chat request.
pub(crate) fn hello(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello there"}]})
}

/// A response header as text.
pub(crate) fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// The JSON body of a response.
pub(crate) async fn json_body(response: reqwest::Response) -> Value {
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The `data:` payloads of a complete event stream.
pub(crate) fn events(text: &str) -> Vec<String> {
    text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// Waits until `holds`.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
