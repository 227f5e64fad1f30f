//! Strategies through the real edge: who is chosen, why, and what it says.

use crate::fixture::{Router, cluster, eventually, fast, file, header, hello, provider, upstream};
use llm_router_logic::backend::Kind;
use std::sync::Arc;
use std::time::Duration;

const SHARED: &str = "shared";

#[tokio::test]
async fn each_strategy_chooses_as_promised_and_says_so() {
    let llama = upstream(fast(Kind::Llama, SHARED)).await;
    let openai = upstream(fast(Kind::OpenAi, SHARED)).await;
    // At about 2,000 tokens/s an hour at $0.05 costs far less than the provider's list price.
    let yaml = file("", &cluster("own", &llama, 0.05), &provider("api", &openai, SHARED));
    let router = Router::start(&yaml).await;
    for (strategy, backend, reason) in [
        ("hybrid", "own", "hybrid_cluster"),
        ("cost", "own", "lowest_cost"),
        ("cluster_first", "own", "cluster_first"),
        ("external_first", "api", "external_first"),
    ] {
        let response = router.chat(hello(SHARED, false), &[("x-llm-router-strategy", strategy)]).await;
        assert_eq!(header(&response, "x-llm-router-backend"), backend, "{strategy}");
        assert_eq!(header(&response, "x-llm-router-reason"), reason, "{strategy}");
    }
    let response = router.chat(hello(SHARED, true), &[("x-llm-router-strategy", "latency")]).await;
    assert_eq!(header(&response, "x-llm-router-reason"), "lowest_latency");
    let pinned = router.chat(hello(SHARED, false), &[("x-llm-router-backend", "api")]).await;
    assert_eq!(header(&pinned, "x-llm-router-backend"), "api");
    let series =
        "llm_router_routing_decisions_total{reason=\"external_first\",target=\"api\",type=\"external\"}";
    assert_eq!(router.metric(series).await, Some(1.0));
}

#[tokio::test]
async fn a_model_name_no_backend_shares_goes_only_where_it_is_served() {
    let tiny = upstream(fast(Kind::Llama, "tiny")).await;
    let gpt = upstream(fast(Kind::OpenAi, "gpt")).await;
    let router = Router::start(&file("", &cluster("own", &tiny, 0.05), &provider("api", &gpt, "gpt"))).await;
    assert_eq!(header(&router.chat(hello("gpt", false), &[]).await, "x-llm-router-backend"), "api");
    assert_eq!(header(&router.chat(hello("tiny", false), &[]).await, "x-llm-router-backend"), "own");
    let auto = router.chat(hello("auto", false), &[]).await;
    assert_eq!(header(&auto, "x-llm-router-backend"), "own", "auto leaves the choice to the strategy");
    let images = serde_json::json!({"model": "tiny", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}]});
    let refused = router.chat(images, &[]).await;
    assert_eq!(refused.status(), 400, "the only backend of that model cannot see");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_flight_is_held_to_the_slots_and_the_rest_waits_here() {
    let mut two = fast(Kind::Llama, SHARED);
    two.slots = 2;
    two.tokens_per_second = 60.0;
    let llama = upstream(two).await;
    let router = Arc::new(Router::start(&file("", &cluster("own", &llama, 0.05), "")).await);
    let asks: Vec<_> = (0..8)
        .map(|_| {
            let router = Arc::clone(&router);
            tokio::spawn(async move { router.chat(hello(SHARED, true), &[]).await.text().await.unwrap() })
        })
        .collect();
    eventually("the queue to be seen", async || {
        router.metric("llm_router_backend_queue_depth{backend=\"own\"}").await.unwrap_or(0.0) >= 4.0
    })
    .await;
    for ask in asks {
        assert!(ask.await.unwrap().ends_with("data: [DONE]\n\n"));
    }
    let books = llama.books();
    assert_eq!(
        (books.peak_in_flight, books.peak_queued),
        (2, 0),
        "the queue is the router's, not the backend's"
    );
}

#[tokio::test]
async fn a_session_stays_with_its_backend_while_the_window_lasts() {
    let a = upstream(fast(Kind::OpenAi, SHARED)).await;
    let b = upstream(fast(Kind::OpenAi, SHARED)).await;
    let providers = provider("a", &a, SHARED) + &provider("b", &b, SHARED);
    let yaml = file("router: {routingStrategy: cost, stickinessWindow: 60s}", "", &providers);
    let router = Router::start(&yaml).await;
    let session = [("x-llm-router-session", "s-1")];
    let first = router.chat(hello(SHARED, false), &session).await;
    let home = header(&first, "x-llm-router-backend").to_owned();
    for _ in 0..6 {
        let next = router.chat(hello(SHARED, false), &session).await;
        assert_eq!(header(&next, "x-llm-router-backend"), home);
        assert_eq!(header(&next, "x-llm-router-reason"), "sticky");
    }
}

#[tokio::test]
async fn a_providers_rate_limit_is_kept_and_overflows_elsewhere() {
    let small = upstream(fast(Kind::OpenAi, SHARED)).await;
    let large = upstream(fast(Kind::OpenAi, SHARED)).await;
    let limited = provider("small", &small, SHARED)
        .replace("apiKey:", "rateLimit: {requestsPerMinute: 6, burstMultiplier: 1.0}, apiKey:")
        .replace("input: 1.0", "input: 0.5");
    let yaml = file("router: {routingStrategy: cost}", "", &(limited + &provider("large", &large, SHARED)));
    let router = Router::start(&yaml).await;
    for _ in 0..20 {
        assert_eq!(router.chat(hello(SHARED, false), &[]).await.status(), 200);
    }
    let (small, large) = (small.books().requests, large.books().requests);
    assert_eq!(small + large, 20);
    assert!((1..=7).contains(&small), "{small} of 20 went to the provider limited to 6 a minute");
}

#[tokio::test]
async fn a_deadline_bounds_the_whole_request() {
    let mut slow = fast(Kind::OpenAi, SHARED);
    slow.ttft = Duration::from_secs(30);
    let mock = upstream(slow).await;
    let router = Router::start(&file("", "", &provider("p", &mock, SHARED))).await;
    let started = std::time::Instant::now();
    let response = router.chat(hello(SHARED, true), &[("x-llm-router-deadline-ms", "300")]).await;
    assert_eq!(response.status(), 504);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn predicted_tokens_are_learnt_from_what_the_backend_reports() {
    let mock = upstream(fast(Kind::OpenAi, SHARED)).await;
    let router = Router::start(&file("", "", &provider("p", &mock, SHARED))).await;
    for nth in 1..=30 {
        let text = "some words of a prompt ".repeat(nth * 3);
        let body = serde_json::json!({"model": SHARED, "messages": [{"role": "user", "content": text}]});
        assert_eq!(router.chat(body, &[]).await.status(), 200);
    }
    let latest = &router.admin("/admin/decisions?limit=1").await["decisions"][0];
    let (predicted, told) =
        (latest["predicted_input_tokens"].as_f64().unwrap(), latest["usage"]["input"].as_f64().unwrap());
    assert!((predicted / told - 1.0).abs() < 0.05, "predicted {predicted}, told {told}");
    // Every answer of this mock has twelve tokens; the estimate is a bucket of about a tenth.
    let output = latest["predicted_output_tokens"].as_u64().unwrap();
    assert!((11..=14).contains(&output), "{output}");
}
