//! Webhooks through real sockets: receivers that are slow, fail, hang, redirect and close.

use crate::fixture::{Router, cluster, eventually, fast, file, hello, provider, settings, upstream};
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use llm_router::config;
use llm_router_logic::backend::Kind;
use llm_router_logic::webhook::{key_id, signature};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SECRET: &str = "a-secret-of-these-tests";

/// A receiver of events on a port of its own.
#[derive(Clone)]
struct Receiver {
    url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    /// Statuses of the next answers; 200 afterwards.
    next: Arc<Mutex<Vec<u16>>>,
}

#[derive(Clone)]
struct Heard {
    status: u16,
    signed: bool,
    id: String,
    body: Value,
}

impl Receiver {
    async fn start(next: &[u16]) -> Self {
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let next = Arc::new(Mutex::new(next.iter().rev().copied().collect::<Vec<u16>>()));
        let (told, statuses) = (Arc::clone(&heard), Arc::clone(&next));
        let take = async move |headers: http::HeaderMap, body: String| {
            let header =
                |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            let stamp = header("x-llm-router-timestamp").parse().unwrap();
            let wanted = format!("v1={}", signature(SECRET.as_bytes(), stamp, body.as_bytes()));
            let status = statuses.lock().unwrap().pop().unwrap_or(200);
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(header("x-llm-router-event"), body["event"]);
            let signed = header("x-llm-router-signature") == wanted
                && header("x-llm-router-key-id") == key_id(SECRET.as_bytes());
            let id = header("x-llm-router-event-id");
            assert_eq!(id, body["id"]);
            told.lock().unwrap().push(Heard { status, signed, id, body });
            Response::builder()
                .status(status)
                .header("location", "/elsewhere")
                .header("retry-after", "0")
                .body(Body::empty())
                .unwrap()
        };
        let elsewhere = async || -> &'static str { panic!("a redirect was followed") };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events?token=t0k3n", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .route("/events", post(take))
            .route("/elsewhere", post(elsewhere).get(elsewhere));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, heard, next }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    fn taken(&self, event: &str) -> Vec<Value> {
        let taken =
            self.heard().into_iter().filter(|heard| heard.status == 200 && heard.body["event"] == event);
        taken.map(|heard| heard.body).collect()
    }

    async fn wait_for(&self, event: &str) -> Value {
        eventually(event, async || !self.taken(event).is_empty()).await;
        self.taken(event).remove(0)
    }
}

fn webhook(name: &str, url: &str, more: &str) -> String {
    format!("  - {{name: {name}, url: \"{url}\", secret: {SECRET}{more}}}\n")
}

#[tokio::test]
async fn what_happens_to_backends_and_requests_is_told_signed_and_without_any_text_of_theirs() {
    let receiver = Receiver::start(&[500, 302]).await;
    let llama = upstream(fast(Kind::Llama, "m")).await;
    let hooks = webhook("ops", &receiver.url, ", events: [decision, backend, breaker]");
    let more = format!("router: {{healthCheckInterval: 2s}}\nwebhooks:\n{hooks}");
    let router = Router::start(&file(&more, &cluster("c1", &llama, 0.05), "")).await;
    let response = router.chat(hello("m", false), &[]).await;
    let id = response.headers()["x-llm-router-decision"].to_str().unwrap().to_owned();
    let event = receiver.wait_for("decision").await;
    let data = &event["data"];
    assert_eq!(
        (&data["id"], &data["backend"], &data["outcome"]),
        (&id.into(), &"c1".into(), &"served".into())
    );
    assert_eq!((&data["status"], &data["attempts"][0]["failed"]), (&200.into(), &false.into()));
    assert!(data["output_tokens"].as_u64().unwrap() > 0 && data["cost_usd"].as_f64().unwrap() > 0.0);
    // Refused, redirected, taken: one event under one id, and each try signed anew.
    let tries = receiver.heard();
    assert_eq!(tries.iter().map(|heard| heard.status).collect::<Vec<_>>(), [500, 302, 200]);
    assert!(tries.iter().all(|heard| heard.signed && heard.id == tries[0].id));
    assert!(tries.iter().all(|heard| !heard.body.to_string().contains("hello there")));

    // A long name of a model is a text of the client's too.
    let _ = router.chat(hello(&"secret ".repeat(100), false), &[]).await;
    eventually("the second decision", async || receiver.taken("decision").len() == 2).await;
    assert!(receiver.taken("decision")[1]["data"]["model"].as_str().unwrap().len() <= 128);

    llama.shutdown().await;
    for _ in 0..6 {
        let _ = router.chat(hello("m", false), &[]).await;
    }
    let down = receiver.wait_for("backend.down").await;
    assert_eq!((&down["data"]["backend"], &down["data"]["health"]), (&"c1".into(), &"unhealthy".into()));
    let delivered = "llm_router_webhook_deliveries_total{endpoint=\"ops\",result=\"delivered\"}";
    assert!(router.metric(delivered).await.unwrap() >= 3.0);
    assert_eq!(router.metric("llm_router_webhook_retries_total{endpoint=\"ops\"}").await, Some(2.0));
    let metrics = router.client.get(format!("{}/metrics", router.url)).send().await.unwrap();
    assert!(!metrics.text().await.unwrap().contains("t0k3n"), "an address is no label");
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_budgets_marks_are_told_once_each_with_the_ids_that_follow_from_them() {
    let receiver = Receiver::start(&[]).await;
    let openai = upstream(fast(Kind::OpenAi, "gpt")).await;
    let more = format!(
        "auth: {{keys: [{{id: k, tenant: team, key: a-key-of-these-tests-1}}]}}\n\
         tenants: [{{name: team, budget: {{usd: 0.001}}}}]\nwebhooks:\n{}",
        webhook("ops", &receiver.url, "")
    );
    let router = Router::start(&file(&more, "", &provider("p1", &openai, "gpt"))).await;
    let ask = async || {
        let body = serde_json::json!({"model": "gpt", "max_tokens": 12, "messages": [{"role": "user", "content": "hi"}]});
        router.chat(body, &[("authorization", "Bearer a-key-of-these-tests-1")]).await.status().as_u16()
    };
    eventually("the budget to be used up", async || ask().await == 429).await;
    eventually("the first marks", async || receiver.taken("budget.warning").len() >= 2).await;
    let told = receiver.taken("budget.warning");
    let marks: Vec<u64> = told.iter().map(|event| event["data"]["percent"].as_u64().unwrap()).collect();
    assert!(marks.starts_with(&[50, 80]), "{marks:?}");
    assert!(told[0]["id"] != told[1]["id"] && told[0]["data"]["scope"] == "tenant:team");
    assert!(told.iter().all(|event| event["data"]["limit_usd"] == 0.001));
    assert!(receiver.taken("decision").is_empty(), "decisions must be asked for");
    router.node.shutdown().await;
}

#[tokio::test]
async fn endpoints_that_hang_or_hang_up_hold_up_no_request_and_no_other_endpoint() {
    let well = Receiver::start(&[]).await;
    // One accepts and never answers, one closes at once, one is not there.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = |listener: &TcpListener| format!("http://{}/", listener.local_addr().unwrap());
    let urls = [url(&hanging), url(&closing), "http://127.0.0.1:9/".to_owned(), url(&slow)];
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = hanging.accept().await {
            held.push(stream);
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = closing.accept().await {
            drop(stream);
        }
    });
    // Takes each event, a fifth of a second late.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = slow.accept().await {
            let mut bytes = [0; 8192];
            let _ = stream.read(&mut bytes).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    });
    let names = ["hanging", "closing", "absent", "slow"];
    let mut hooks = webhook("well", &well.url, ", events: [decision]");
    for (name, url) in names.iter().zip(&urls) {
        hooks += &webhook(name, url, ", events: [decision], maxQueued: 5, timeout: 300ms");
    }
    let llama = upstream(fast(Kind::Llama, "m")).await;
    let router = Router::start(&file(&format!("webhooks:\n{hooks}"), &cluster("c1", &llama, 0.05), "")).await;
    let started = std::time::Instant::now();
    for _ in 0..40 {
        assert_eq!(router.chat(hello("m", false), &[]).await.status(), 200);
    }
    let took = started.elapsed();
    // Had they waited for one that hangs, it would have been 300 ms each.
    assert!(took < Duration::from_secs(10), "40 requests took {took:?}");
    eventually("the good endpoint to hear of all", async || well.taken("decision").len() == 40).await;
    for name in names {
        let of = |what: &str| format!("llm_router_webhook_{what}{{endpoint=\"{name}\"}}");
        assert!(router.metric(&of("queue_depth")).await.unwrap() <= 6.0, "{name}");
        assert!(router.metric(&of("dropped_total")).await.unwrap() >= 20.0, "{name}");
    }
    let delivered = "llm_router_webhook_deliveries_total{endpoint=\"slow\",result=\"delivered\"}";
    eventually("the slow one to take some", async || router.metric(delivered).await.unwrap() >= 3.0).await;
    // A reload: one endpoint less, and its figures with it; one more.
    let other = Receiver::start(&[]).await;
    let hooks = webhook("well", &well.url, ", events: [decision]")
        + &webhook("other", &other.url, ", events: [decision]");
    let reloaded = file(&format!("webhooks:\n{hooks}"), &cluster("c1", &llama, 0.05), "");
    router.node.reconfigure(settings(&reloaded)).await.unwrap();
    router.chat(hello("m", false), &[]).await;
    eventually("both to hear of it", async || {
        well.taken("decision").len() == 41 && other.taken("decision").len() == 1
    })
    .await;
    assert_eq!(router.metric("llm_router_webhook_queue_depth{endpoint=\"hanging\"}").await, None);
    router.node.shutdown().await;
}

#[tokio::test]
async fn an_actor_that_dies_and_a_stop_lose_no_event_of_an_endpoint_that_answers() {
    let receiver = Receiver::start(&[]).await;
    let llama = upstream(fast(Kind::Llama, "m")).await;
    let hooks = webhook("ops", &receiver.url, ", events: [decision]");
    let router = Router::start(&file(&format!("webhooks:\n{hooks}"), &cluster("c1", &llama, 0.05), "")).await;
    receiver.next.lock().unwrap().push(503);
    router.chat(hello("m", false), &[]).await;
    router.node.handle().poison(&llm_router_actors::handle::ActorName::Webhook);
    for _ in 0..5 {
        router.chat(hello("m", false), &[]).await;
    }
    eventually("all of them", async || receiver.taken("decision").len() == 6).await;
    assert!(router.metric("llm_router_actor_restarts_total{actor=\"webhook\"}").await.unwrap() >= 1.0);
    router.chat(hello("m", false), &[]).await;
    router.node.shutdown().await;
    assert_eq!(receiver.taken("decision").len(), 7, "what was left was told before the end");
}

#[test]
fn a_bad_webhook_is_refused_with_its_path() {
    let load = |rows: &str| {
        let yaml = format!(
            "webhooks: [{rows}]\nclusters: [{{name: a, endpoint: 'http://a', costPerHour: 1, region: r, provider: aws, authType: none}}]"
        );
        config::load_str(&yaml, Path::new("."), &|_| None).map_err(|problems| problems.to_string())
    };
    let good = "url: 'https://h.example/t0k3n', secret: 0123456789abcdef";
    for (row, refusal) in [
        ("{secret: 0123456789abcdef}", "webhooks[0].url: missing"),
        ("{url: 'https://h.example/'}", "webhooks[0].secret: missing"),
        ("{url: 'https://h.example/', secret: short}", "webhooks[0].secret: is too short"),
        ("{url: 'ftp://h', secret: 0123456789abcdef}", "webhooks[0].url: expected an address"),
        ("{url: 'https://u:p@h/', secret: 0123456789abcdef}", "webhooks[0].url: an address may not hold"),
        (
            &format!("{{{good}, events: [backend.dwn]}}"),
            "webhooks[0].events[0]: there is no event `backend.dwn` (did you mean `backend.down`?)",
        ),
        (&format!("{{{good}, sample: 1.5, events: [decision]}}"), "webhooks[0].sample: must be"),
        (&format!("{{{good}, timeout: 2m}}"), "webhooks[0].timeout: must be at most"),
        (&format!("{{{good}, maxQueued: 0}}"), "webhooks[0].maxQueued: must be at least 1"),
        (&format!("{{name: a, {good}}}, {{name: a, {good}}}"), "webhooks[1].name: two webhooks"),
    ] {
        let told = load(row).unwrap_err();
        assert!(told.starts_with(refusal), "{row}: {told}");
        assert!(!told.contains("0123456789abcdef"), "{told}");
    }
    let loaded = load(&format!("{{{good}}}, {{{good}}}")).unwrap();
    let names: Vec<&str> = loaded.config.webhooks.iter().map(|webhook| &*webhook.endpoint.name).collect();
    assert_eq!(names, ["h.example", "h.example-2"]);
    assert!(!format!("{:?}", loaded.config.webhooks).contains("0123456789abcdef"));
    let open = load("{url: 'http://h.example/', secret: 0123456789abcdef}").unwrap();
    assert!(open.warnings.iter().any(|warning| warning.path == "webhooks[0].url"));
}
