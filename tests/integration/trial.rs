//! Experiments and shadow copies through real nodes.

use crate::fixture::{Router, cluster, eventually, fast, file, header, hello, provider, upstream};
use llm_router::mock::Faults;
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::time::Duration;

const SHARED: &str = "shared";

/// `hello` by `user`.
fn by(user: &str, stream: bool) -> Value {
    let mut body = hello(SHARED, stream);
    body["user"] = json!(user);
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arms_are_kept_over_nodes_and_restarts_and_shown_everywhere() {
    let (a, b) = (upstream(fast(Kind::OpenAi, SHARED)).await, upstream(fast(Kind::OpenAi, SHARED)).await);
    let experiments = "router: {stickinessWindow: 0s}\nexperiments:\n  - {name: place, key: user, arms: \
        [{name: control, weight: 50, backend: a}, {name: other, weight: 50, backend: b}]}\n  \
        - {name: far, key: \"header:X-Group\", arms: [{name: all, weight: 1, strategy: latency}]}";
    let providers = provider("a", &a, SHARED) + &provider("b", &b, SHARED);
    let yaml = file(experiments, "", &providers);
    let mut seen: Vec<String> = Vec::new();
    for _restart in 0..2 {
        let router = Router::start(&yaml).await;
        let mut arms = Vec::new();
        for n in 0..16 {
            let response = router.chat(by(&format!("user-{n}"), n % 2 == 0), &[]).await;
            let arm = header(&response, "x-llm-router-experiment").to_owned();
            let backend = if arm == "place=control" { "a" } else { "b" };
            assert_eq!(header(&response, "x-llm-router-backend"), backend, "{arm}");
            response.text().await.unwrap();
            arms.push(arm);
        }
        assert!(arms.iter().any(|arm| arm == "place=control") && arms.iter().any(|arm| arm == "place=other"));
        if !seen.is_empty() {
            assert_eq!(seen, arms, "another process gives the same arms");
        }
        let served = arms.iter().filter(|arm| *arm == "place=other").count();
        seen = arms;
        let series =
            "llm_router_experiment_requests_total{arm=\"other\",experiment=\"place\",outcome=\"served\"}";
        assert_eq!(router.metric(series).await, Some(served as f64));
        let decisions = router.admin("/admin/decisions?limit=1").await;
        assert_eq!(decisions["decisions"][0]["experiments"][0], seen[15]);
        // No key, no arm; the client's own choice stands.
        let anonymous = router.chat(hello(SHARED, false), &[("x-group", "7")]).await;
        assert_eq!(header(&anonymous, "x-llm-router-experiment"), "far=all");
        let pinned = router.chat(by("user-1", false), &[("x-llm-router-backend", "a")]).await;
        assert_eq!(
            (header(&pinned, "x-llm-router-experiment"), header(&pinned, "x-llm-router-backend")),
            ("", "a")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_arm_that_cannot_serve_costs_no_client_its_answer() {
    let (a, b) = (upstream(fast(Kind::OpenAi, SHARED)).await, upstream(fast(Kind::OpenAi, SHARED)).await);

    let experiments =
        "experiments:\n  - {name: place, key: user, arms: [{name: ill, weight: 1, backend: b}]}";
    let providers = provider("a", &a, SHARED) + &provider("b", &b, SHARED);
    let router = Router::start(&file(experiments, "", &providers)).await;
    drop(b);
    for n in 0..6 {
        let response = router.chat(by(&format!("user-{n}"), false), &[]).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-llm-router-backend"), "a");
        assert_eq!(header(&response, "x-llm-router-experiment"), "place=ill");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shadow_copies_never_reach_nor_delay_a_client_and_are_booked_apart() {
    let main = upstream(fast(Kind::OpenAi, SHARED)).await;
    let mut slow = fast(Kind::OpenAi, "next");
    slow.ttft = Duration::from_millis(1_500);
    let next = upstream(slow).await;
    let shadows = "shadows:\n  - {name: trial, share: 1.0, backend: next, model: next, maxSpendShare: 100.0}";
    let providers = provider("main", &main, SHARED) + &provider("next", &next, "next");
    let router = Router::start(&file(shadows, "", &providers)).await;
    // The first spends nothing yet that copies could be measured against.
    let first = router.chat(hello(SHARED, false), &[]).await;
    assert_eq!(header(&first, "x-llm-router-backend"), "main");
    let over = "llm_router_shadow_requests_total{outcome=\"over_spend\",shadow=\"trial\"}";
    eventually("the first copy to be refused", async || router.metric(over).await == Some(1.0)).await;
    eventually("the books", async || {
        router.admin("/admin/spend").await["total"]["cost_usd"].as_f64().unwrap() > 0.0
    })
    .await;
    let started = std::time::Instant::now();
    let second = router.chat(hello(SHARED, true), &[]).await;
    assert_eq!(header(&second, "x-llm-router-backend"), "main");
    let text = second.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n") && started.elapsed() < Duration::from_millis(1_400));
    let served = "llm_router_shadow_requests_total{outcome=\"served\",shadow=\"trial\"}";
    eventually("the copy", async || router.metric(served).await == Some(1.0)).await;
    assert_eq!(next.books().requests, 1);
    eventually("the books", async || {
        let spend = router.admin("/admin/spend").await;
        (&spend["total"]["requests"], &spend["shadow"]["requests"]) == (&json!(2), &json!(1))
    })
    .await;
    assert!(router.metric("llm_router_shadow_spend_usd_total{shadow=\"trial\"}").await.unwrap() > 0.0);
    let decisions = router.admin("/admin/decisions").await;
    let copy = &decisions["decisions"][0];
    assert_eq!(
        (&copy["shadow"], &copy["backend"], &copy["outcome"]),
        (&json!("trial"), &json!("next"), &json!("served"))
    );
    let original = copy["shadow_of"].as_str().unwrap();
    assert_eq!(router.admin(&format!("/admin/decisions/{original}")).await["backend"], "main");
    // The page lists what clients asked for, and counts it alone.
    let page =
        router.client.get(format!("{}/ui/data", router.url)).send().await.unwrap().bytes().await.unwrap();
    let page: Value = serde_json::from_slice(&page).unwrap();
    let listed: Vec<_> = page["decisions"].as_array().unwrap().iter().map(|one| &one["backend"]).collect();
    assert_eq!(listed, [&json!("main"), &json!("main")]);
    assert_eq!(page["totals"]["requests"], json!(2));
    assert_eq!(router.metric("llm_router_requests_total{cluster=\"next\",status=\"200\"}").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_copies_touch_nothing_and_a_stopping_node_ends_them() {
    let main = upstream(fast(Kind::OpenAi, SHARED)).await;
    let mut mock = fast(Kind::Llama, SHARED);
    mock.slots = 4;
    let own = upstream(mock).await;
    let shadows = "router: {routingStrategy: external_first}\nshadows:\n  \
        - {name: trial, share: 1.0, backend: own, maxSpendShare: 1000.0, maxConcurrent: 64}";
    let yaml = file(shadows, &cluster("own", &own, 0.0001), &provider("main", &main, SHARED));
    let router = Router::start(&yaml).await;
    router.chat(hello(SHARED, false), &[]).await;
    eventually("the books", async || {
        router.admin("/admin/spend").await["total"]["cost_usd"].as_f64().unwrap() > 0.0
    })
    .await;
    own.set_faults(Faults::parse("- match: {path: /v1/chat/*}\n  action: {status: {code: 500}}\n").unwrap());
    let failed = "llm_router_shadow_requests_total{outcome=\"failed\",shadow=\"trial\"}";
    eventually("many failed copies", async || {
        assert_eq!(router.chat(hello(SHARED, false), &[]).await.status(), 200);
        router.metric(failed).await.unwrap_or(0.0) >= 8.0
    })
    .await;
    let open = router.metric("llm_router_backend_breaker_open{backend=\"own\"}").await;
    assert_eq!(open, Some(0.0), "copies say nothing of a backend's health");
    assert_eq!(router.view().await["backends"][0]["own"]["health"], "healthy");
    router.node.shutdown().await;
}
