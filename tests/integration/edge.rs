//! The HTTP edge: routes, streaming, bounds, timeouts.

use crate::fixture::{Router, cluster, events, fast, file, header, hello, json_body, provider, upstream};
use futures_util::StreamExt;
use llm_router_logic::backend::Kind;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_plain_chat_tells_its_decision_in_headers_and_its_usage_in_the_body() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let router = Router::start(&file("", &cluster("c1", &llama, 0.05), "")).await;
    let response = router.chat(hello("tiny", false), &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-llm-router-backend"), "c1");
    assert_eq!(header(&response, "x-llm-router-reason"), "hybrid_cluster");
    assert_eq!(header(&response, "x-llm-router-attempts"), "1");
    assert!(header(&response, "x-llm-router-cost-usd").parse::<f64>().unwrap() > 0.0);
    let decision = header(&response, "x-llm-router-decision").to_owned();
    let body = json_body(response).await;
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["usage"]["completion_tokens"], 12);
    let record = router.admin(&format!("/admin/decisions/{decision}")).await;
    assert_eq!(record["backend"], "c1");
    assert_eq!(record["outcome"], "served");
    assert_eq!(record["usage"]["output"], 12);
}

#[tokio::test]
async fn a_stream_is_flushed_event_by_event_and_ends_with_done() {
    let mut slow = fast(Kind::Llama, "tiny");
    slow.tokens_per_second = 20.0;
    slow.output_tokens = 10;
    let llama = upstream(slow).await;
    let router = Router::start(&file("router: {calibrateThroughput: false}", "", &provider_of(&llama))).await;
    let response = router.chat(hello("tiny", true), &[]).await;
    assert_eq!(header(&response, "content-type"), "text/event-stream");
    let (mut stream, started) = (response.bytes_stream(), Instant::now());
    let (mut text, mut arrivals) = (String::new(), Vec::new());
    while let Some(chunk) = stream.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        arrivals.push(started.elapsed());
    }
    let events = events(&text);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    // Ten tokens at 20 a second take half a second: buffered to the end they would come at once.
    assert!(arrivals.len() >= 8, "{} chunks", arrivals.len());
    let spread = *arrivals.last().unwrap() - arrivals[0];
    assert!(spread > Duration::from_millis(300), "all within {spread:?}");
    // The usage chunk the router asked for is hidden from a client that did not.
    assert!(!text.contains("\"usage\":{"), "{text}");
}

/// A llama mock spoken to as an OpenAI-compatible provider.
fn provider_of(mock: &llm_router::mock::Mock) -> String {
    provider("p1", mock, "tiny")
}

#[tokio::test]
async fn a_model_nobody_serves_is_a_404_in_the_clients_dialect() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let router = Router::start(&file("", &cluster("c1", &llama, 0.05), "")).await;
    let response = router.chat(hello("gpt-17", false), &[]).await;
    assert_eq!(response.status(), 404);
    let body = json_body(response).await;
    assert_eq!(body["error"]["code"], "model_not_found");
    assert_eq!(body["error"]["param"], "model");
    assert_eq!(llama.books().received, 1, "only the calibration reached the backend");
}

#[tokio::test]
async fn models_lists_only_what_a_healthy_backend_can_serve() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let gone = upstream(fast(Kind::Llama, "big")).await;
    let clusters = cluster("c1", &llama, 0.05) + &cluster("c2", &gone, 0.05);
    let router = Router::start(&file("router: {healthCheckInterval: 2s}", &clusters, "")).await;
    let list = async || {
        let body =
            json_body(router.client.get(format!("{}/v1/models", router.url)).send().await.unwrap()).await;
        body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(list().await, ["big", "tiny"]);
    drop(gone);
    crate::fixture::eventually("the dead cluster's model to go", async || list().await == ["tiny"]).await;
    let shown = router.client.get(format!("{}/v1/models/big", router.url)).send().await.unwrap();
    assert_eq!(shown.status(), 404);
}

#[tokio::test]
async fn bad_requests_are_named_and_reach_no_backend() {
    let openai = upstream(fast(Kind::OpenAi, "gpt")).await;
    let yaml =
        file("", "", &provider("p1", &openai, "gpt")).replace("port: 0}", "port: 0, maxBodyBytes: 1000}");
    let router = Router::start(&yaml).await;
    let post = async |body: String, headers: &[(&'static str, &'static str)]| {
        let mut request = router.client.post(format!("{}/v1/chat/completions", router.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), json_body(response).await)
    };
    let good = hello("gpt", false).to_string();
    for (body, param) in [
        ("not json".to_owned(), None),
        ("[]".to_owned(), None),
        (json!({"model": "gpt"}).to_string(), Some("messages")),
    ] {
        let (status, answer) = post(body.clone(), &[]).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        if let Some(param) = param {
            assert_eq!(answer["error"]["param"], param);
        }
    }
    let (status, _) = post(good.replace("hello there", &"x".repeat(2_000)), &[]).await;
    assert_eq!(status, 413);
    for (name, value) in [
        ("x-llm-router-strategy", "cheapest"),
        ("x-llm-router-deadline-ms", "soon"),
        ("x-llm-router-max-cost-usd", "-1"),
    ] {
        let (status, answer) = post(good.clone(), &[(name, value)]).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(name)));
    }
    assert_eq!(openai.books().received, 0);
}

#[tokio::test]
async fn health_ready_and_live_tell_the_truth() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let router =
        Router::start(&file("router: {healthCheckInterval: 2s}", &cluster("c1", &llama, 0.05), "")).await;
    let get = async |path: &str| {
        let response = router.client.get(format!("{}{path}", router.url)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, text) = get("/health").await;
    let health: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, health["status"].as_str(), health["healthy_clusters"].as_u64()),
        (200, Some("healthy"), Some(1))
    );
    assert_eq!(health["timestamp"].as_str().unwrap().len(), "2026-11-23T12:00:00Z".len());
    assert_eq!(get("/readyz").await.0, 200);
    drop(llama);
    crate::fixture::eventually("the node to notice that nothing is left", async || {
        get("/readyz").await.0 == 503 && get("/health").await.0 == 503
    })
    .await;
    assert_eq!(get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_head_that_never_ends_and_an_idle_connection_are_closed() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let yaml = file("", &cluster("c1", &llama, 0.05), "")
        .replace("port: 0}", "port: 0, headerTimeout: 300ms, idleTimeout: 3s}");
    let router = Router::start(&yaml).await;
    let closed_after = async |first: &[u8]| {
        let mut stream = TcpStream::connect(router.node.addr()).await.unwrap();
        let started = Instant::now();
        stream.write_all(first).await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        (started.elapsed(), String::from_utf8_lossy(&rest).into_owned())
    };
    let (half_head, _) = closed_after(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n").await;
    assert!(half_head >= Duration::from_millis(300) && half_head < Duration::from_secs(3), "{half_head:?}");
    let (idle, answer) = closed_after(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(idle >= Duration::from_secs(3), "{idle:?}");
}

#[tokio::test]
async fn admin_needs_its_token() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let router = Router::start(&file("", &cluster("c1", &llama, 0.05), "")).await;
    let url = format!("http://{}/admin/view", router.node.admin_addr().unwrap());
    assert_eq!(router.client.get(&url).send().await.unwrap().status(), 401);
    assert_eq!(router.client.get(&url).bearer_auth("wrong").send().await.unwrap().status(), 401);
    let on_public =
        router.client.get(format!("{}/admin/view", router.url)).bearer_auth(crate::fixture::TOKEN);
    assert_eq!(on_public.send().await.unwrap().status(), 404, "the public listener has no admin routes");
}

#[tokio::test]
async fn the_demos_password_guards_the_page_and_its_limit_the_address() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let demo = "demo: {enabled: true, password: opensesame, sessionTimeout: 1h, rateLimitPerIP: 5}";
    let router = Router::start(&file(demo, &cluster("c1", &llama, 0.05), "")).await;
    let data = format!("{}/ui/data", router.url);
    let login = async |password: &str| {
        let body = json!({"password": password}).to_string();
        router.client.post(format!("{}/api/auth", router.url)).body(body).send().await.unwrap()
    };
    assert_eq!(router.client.get(&data).send().await.unwrap().status(), 401);
    assert_eq!(login("sesame").await.status(), 401);
    let welcome = login("opensesame").await;
    assert_eq!(welcome.status(), 200);
    let cookie = header(&welcome, "set-cookie").split(';').next().unwrap().to_owned();
    assert!(header(&welcome, "set-cookie").contains("HttpOnly"));
    assert_eq!(router.client.get(&data).header("cookie", cookie).send().await.unwrap().status(), 200);
    let forged = format!("llm_router_session={}", "0".repeat(32));
    assert_eq!(router.client.get(&data).header("cookie", forged).send().await.unwrap().status(), 401);
    let statuses = futures_util::future::join_all((0..6).map(|_| login("sesame"))).await;
    assert_eq!(
        statuses.iter().filter(|answer| answer.status() == 429).count(),
        3,
        "five a minute, two were used"
    );
}

#[tokio::test]
async fn models_are_listed_in_the_dialect_of_the_client_that_asks() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let router = Router::start(&file("", &cluster("c1", &llama, 0.05), "")).await;
    let get = async |path: &str, header: &str| {
        let mut request = router.client.get(format!("{}{path}", router.url));
        if !header.is_empty() {
            request = request.header(header, "x");
        }
        json_body(request.send().await.unwrap()).await
    };
    assert_eq!(get("/v1/models", "").await["data"][0]["owned_by"], "c1");
    assert_eq!(get("/v1/models", "anthropic-version").await["data"][0]["type"], "model");
    assert_eq!(get("/v1/models", "x-goog-api-key").await["models"][0]["name"], "models/tiny");
    assert_eq!(get("/v1beta/models", "").await["models"][0]["name"], "models/tiny");
    assert_eq!(get("/v1beta/models/tiny", "").await["name"], "models/tiny");
    assert_eq!(get("/v1/models/none", "anthropic-version").await["error"]["type"], "not_found_error");
}
