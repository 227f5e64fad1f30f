//! A second attempt while the first is silent: only then, within its cap, with one answer.

use crate::fixture::{Router, eventually, fast, file, header, hello, provider, upstream};
use llm_router::mock::{Action, Faults, Mock, Wait};
use llm_router_logic::backend::Kind;
use serde_json::Value;
use std::time::{Duration, Instant};

const SHARED: &str = "shared";

/// A cheap and a dear provider that are both fast, and a router over them that has learnt so.
async fn pair(hedging: &str) -> (Mock, Mock, Router) {
    let (cheap, dear) =
        (upstream(fast(Kind::OpenAi, SHARED)).await, upstream(fast(Kind::OpenAi, SHARED)).await);
    let providers = provider("cheap", &cheap, SHARED)
        + &provider("dear", &dear, SHARED).replace("output: 2.0", "output: 20.0");
    let router = Router::start(&file(
        &format!("router: {{routingStrategy: cost, hedging: {{{hedging}}}}}"),
        "",
        &providers,
    ))
    .await;
    for stream in [true, false].repeat(5) {
        let response = router.chat(hello(SHARED, stream), &[]).await;
        assert_eq!(header(&response, "x-llm-router-backend"), "cheap");
        response.bytes().await.unwrap();
    }
    router.wait_for("its latency", |view| view["backends"][0]["own"]["latency_p95_ms"].is_number()).await;
    (cheap, dear, router)
}

fn silent(mock: &Mock) {
    let slow = Action::Slow { ttft: Some(Wait(Duration::from_secs(20))), tokens_per_second: None };
    mock.set_faults(Faults::always(slow).unwrap());
}

async fn latest(router: &Router) -> Value {
    router.admin("/admin/decisions?limit=1").await["decisions"][0].clone()
}

#[tokio::test]
async fn a_silent_backend_is_hedged_the_faster_one_answers_and_the_other_is_cancelled() {
    for stream in [true, false] {
        let (cheap, dear, router) = pair("enabled: true, maxSpendShare: 1.0").await;
        silent(&cheap);
        let started = Instant::now();
        let response = router.chat(hello(SHARED, stream), &[]).await;
        assert_eq!(header(&response, "x-llm-router-backend"), "dear", "stream={stream}");
        let text = response.text().await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "stream={stream}: {:?}", started.elapsed());
        assert!(!text.contains("error"), "{text}");
        assert_eq!(text.matches("data: [DONE]").count(), usize::from(stream), "one answer: {text}");
        eventually("the loser to be cancelled", async || cheap.books().cancelled == 1).await;
        assert_eq!((dear.books().requests, dear.books().received), (1, 1), "stream={stream}");

        eventually("the decision to be booked", async || latest(&router).await["backend"] == "dear").await;
        let record = latest(&router).await;
        let fared: Vec<(&str, &str)> = record["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| (attempt["backend"].as_str().unwrap(), attempt["hedge"].as_str().unwrap()))
            .collect();
        assert_eq!(fared, [("cheap", "lost"), ("dear", "won")], "{record:#}");
        let counted = |backend: &str, result: &str| {
            format!("llm_router_hedges_total{{backend=\"{backend}\",result=\"{result}\"}}")
        };
        assert_eq!(router.metric(&counted("dear", "won")).await, Some(1.0));
        assert_eq!(router.metric(&counted("cheap", "lost")).await, Some(1.0));
        let cost = router.metric("llm_router_hedge_cost_usd_total").await.unwrap();
        assert!(cost > 0.0, "the provider charges for the prompt it read");
        assert!(
            record["cost_usd"].as_f64().or(record["cost_usd"].as_str().and_then(|c| c.parse().ok())).unwrap()
                > cost
        );
    }
}

#[tokio::test]
async fn what_has_begun_is_not_hedged_and_off_is_off() {
    for (hedging, pace) in [("enabled: true, maxSpendShare: 1.0", true), ("enabled: false", false)] {
        let (cheap, dear, router) = pair(hedging).await;
        let slow = if pace {
            // The first token at once, the others over a second.
            Action::Slow { ttft: None, tokens_per_second: Some(12.0) }
        } else {
            Action::Slow { ttft: Some(Wait(Duration::from_millis(700))), tokens_per_second: None }
        };
        cheap.set_faults(Faults::always(slow).unwrap());
        let response = router.chat(hello(SHARED, true), &[]).await;
        assert_eq!(header(&response, "x-llm-router-backend"), "cheap", "{hedging}");
        assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
        assert_eq!(dear.books().received, 0, "{hedging}");
    }
}

#[tokio::test]
async fn hedges_cost_no_more_than_their_share() {
    let (cheap, dear, router) = pair("enabled: true").await;
    cheap.set_faults(
        Faults::always(Action::Slow {
            ttft: Some(Wait(Duration::from_millis(400))),
            tokens_per_second: None,
        })
        .unwrap(),
    );
    for _ in 0..4 {
        let response = router.chat(hello(SHARED, true), &[]).await;
        assert_eq!(header(&response, "x-llm-router-backend"), "cheap");
        response.bytes().await.unwrap();
    }
    assert_eq!(dear.books().received, 0, "ten small requests do not earn a hedge at two percent");
    let refused = "llm_router_hedges_refused_total{why=\"spend_share\"}";
    assert!(router.metric(refused).await.unwrap() >= 1.0);
}

#[tokio::test]
async fn a_hedge_that_fails_leaves_the_first_alone() {
    let (cheap, dear, router) = pair("enabled: true, maxSpendShare: 1.0").await;
    cheap.set_faults(
        Faults::always(Action::Slow {
            ttft: Some(Wait(Duration::from_millis(600))),
            tokens_per_second: None,
        })
        .unwrap(),
    );
    dear.set_faults(Faults::always(Action::Status { code: 500, retry_after: None, body: None }).unwrap());
    let response = router.chat(hello(SHARED, true), &[]).await;
    assert_eq!(header(&response, "x-llm-router-backend"), "cheap");
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    eventually("the decision to be booked", async || {
        latest(&router).await["attempts"].as_array().unwrap().len() == 2
    })
    .await;
    let record = latest(&router).await;
    assert_eq!(record["attempts"][0]["hedge"], "failed", "{record:#}");
    assert_eq!(record["attempts"][1]["hedge"], "alone");
    assert_eq!(record["outcome"], "served");
}
