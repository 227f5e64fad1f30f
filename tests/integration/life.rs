//! Reload and shutdown: nothing that runs is cut.

use crate::fixture::{Router, cluster, eventually, fast, file, header, hello, provider, settings, upstream};
use futures_util::StreamExt;
use llm_router_logic::backend::Kind;
use std::time::Duration;

const SHARED: &str = "shared";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_effect_without_dropping_a_stream() {
    let mut slow = fast(Kind::Llama, SHARED);
    slow.tokens_per_second = 20.0;
    slow.output_tokens = 30;
    let old = upstream(slow).await;
    let new = upstream(fast(Kind::OpenAi, SHARED)).await;
    let more = "router: {routingStrategy: cluster_first}";
    let router = Router::start(&file(more, &cluster("old", &old, 0.05), "")).await;
    let running = router.chat(hello(SHARED, true), &[]).await;
    assert_eq!(header(&running, "x-llm-router-backend"), "old");
    // The cluster the stream runs on is gone from the new file.
    router.node.reconfigure(settings(&file(more, "", &provider("new", &new, SHARED)))).await.unwrap();
    eventually("the new backend to be used", async || {
        let response = router.chat(hello(SHARED, false), &[]).await;
        header(&response, "x-llm-router-backend") == "new"
    })
    .await;
    let text = running.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n") && !text.contains("error"), "{text}");
    assert_eq!(old.books().requests, 2, "the calibration and the whole stream");
    let view = router.view().await;
    assert_eq!(view["backends"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_lets_running_streams_end_and_takes_no_new_request() {
    let mut slow = fast(Kind::OpenAi, SHARED);
    slow.tokens_per_second = 20.0;
    slow.output_tokens = 30;
    let mock = upstream(slow).await;
    let router = Router::start(&file("", "", &provider("p", &mock, SHARED))).await;
    let mut stream = router.chat(hello(SHARED, true), &[]).await.bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    let Router { node, url, .. } = router;
    let stopping = tokio::spawn(node.shutdown());
    let fresh = reqwest::Client::builder().no_proxy().build().unwrap();
    eventually("new connections to be refused", async || {
        fresh.get(format!("{url}/livez")).send().await.is_err()
    })
    .await;
    assert!(!stopping.is_finished(), "the stream still runs");
    let mut text = String::from_utf8(first.to_vec()).unwrap();
    while let Some(chunk) = stream.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    tokio::time::timeout(Duration::from_secs(10), stopping).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smart_mocking_reaches_no_configured_address() {
    // Nothing listens on these addresses, and the key is nobody's.
    let clusters = "  - {name: c1, endpoint: \"http://127.0.0.1:9\", region: r, provider: aws, costPerHour: 1.0, authType: none}\n";
    let providers = "  - {name: p1, type: claude, enabled: true, apiKey: k, baseURL: \"http://127.0.0.1:9\", defaultModel: claude-3-haiku}\n";
    let more = "router: {enableSmartMocking: true, mockClusterLatency: 5, mockClusterCost: 0.0002}";
    let router = Router::start(&file(more, clusters, providers)).await;
    let response = router.chat(hello("claude-3-haiku", false), &[]).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-llm-router-backend")), (200, "p1"));
    let auto = router.chat(hello("auto", false), &[]).await;
    assert_eq!(header(&auto, "x-llm-router-backend"), "c1");
    let per_1k = router
        .metric("llm_router_cluster_cost_per_1k_tokens{cluster=\"c1\",provider=\"aws\",region=\"r\"}")
        .await;
    assert!(per_1k.is_none_or(|cost| (cost - 0.0002).abs() < 0.0001), "{per_1k:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_cluster_is_known_long_before_three_slow_health_intervals_are_over() {
    let llama = upstream(fast(Kind::Llama, SHARED)).await;
    let spare = upstream(fast(Kind::OpenAi, SHARED)).await;
    let yaml = file(
        "router: {routingStrategy: cluster_first, healthCheckInterval: 30s}",
        &cluster("c1", &llama, 0.05),
        &provider("p1", &spare, SHARED),
    );
    let router = Router::start(&yaml).await;
    drop(llama);
    // The failing request is what makes the router look; the looks that follow come quickly.
    assert_eq!(header(&router.chat(hello(SHARED, false), &[]).await, "x-llm-router-backend"), "p1");
    router
        .wait_for("the cluster to be unhealthy", |view| view["backends"][0]["own"]["health"] == "unhealthy")
        .await;
}
