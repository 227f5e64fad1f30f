//! What a client gets when a backend fails, before and after the first content byte.

use crate::fixture::{
    Router, cluster, events, eventually, fast, file, header, hello, json_body, provider, upstream,
};
use llm_router::mock::{Action, Faults, Wait};
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SHARED: &str = "shared";

/// A dear and a cheap provider of the same model: on cost the cheap one is first.
async fn pair(more: &str) -> (llm_router::mock::Mock, llm_router::mock::Mock, Router) {
    let cheap = upstream(fast(Kind::OpenAi, SHARED)).await;
    let dear = upstream(fast(Kind::OpenAi, SHARED)).await;
    let providers = provider("cheap", &cheap, SHARED)
        + &provider("dear", &dear, SHARED).replace("input: 1.0", "input: 9.0");
    let router = Router::start(&file(more, "", &providers)).await;
    (cheap, dear, router)
}

#[tokio::test]
async fn a_failure_before_the_first_byte_falls_back_to_the_next_backend() {
    for action in [
        Action::Status { code: 500, retry_after: None, body: None },
        Action::Status { code: 429, retry_after: Some(Wait(Duration::from_secs(1))), body: None },
        Action::Disconnect,
        Action::ErrorBody200,
        Action::Malformed,
    ] {
        for stream in [false, true] {
            let (cheap, dear, router) = pair("router: {routingStrategy: cost}").await;
            cheap.set_faults(Faults::always(action.clone()).unwrap());
            let response = router.chat(hello(SHARED, stream), &[]).await;
            assert_eq!(response.status(), 200, "{action:?}");
            assert_eq!(header(&response, "x-llm-router-backend"), "dear", "{action:?}");
            assert_eq!(header(&response, "x-llm-router-attempts"), "2", "{action:?}");
            let text = response.text().await.unwrap();
            assert!(!text.contains("error"), "{action:?}: {text}");
            assert_eq!(dear.books().requests, 1, "{action:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_hangs_is_left_after_the_first_byte_timeout() {
    let timeouts = "router: {routingStrategy: cost}\ntimeouts: {firstByte: 300ms, wholeAnswer: 900ms}";
    // A plain answer's first byte comes with its last: it is given its own time.
    for (stream, patience) in [(true, 300), (false, 900)] {
        let (cheap, _dear, router) = pair(timeouts).await;
        cheap.set_faults(Faults::always(Action::Hang).unwrap());
        let started = Instant::now();
        let response = router.chat(hello(SHARED, stream), &[]).await;
        assert_eq!(header(&response, "x-llm-router-backend"), "dear");
        assert!(started.elapsed() >= Duration::from_millis(patience));
    }
}

#[tokio::test]
async fn a_plain_answer_cut_in_the_middle_is_served_whole_by_the_next_backend() {
    let llama = upstream(fast(Kind::Llama, SHARED)).await;
    let spare = upstream(fast(Kind::OpenAi, SHARED)).await;
    let yaml = file(
        "router: {routingStrategy: cluster_first}",
        &cluster("c1", &llama, 0.05),
        &provider("p1", &spare, SHARED),
    );
    let router = Router::start(&yaml).await;
    llama.set_faults(Faults::always(Action::Cut { after_tokens: 4 }).unwrap());
    let response = router.chat(hello(SHARED, false), &[]).await;
    assert_eq!(header(&response, "x-llm-router-backend"), "p1");
    assert_eq!(header(&response, "x-llm-router-reason"), "external_fallback");
    let body = json_body(response).await;
    assert_eq!(body["usage"]["completion_tokens"], 12);
}

#[tokio::test]
async fn a_stream_cut_after_its_first_byte_ends_with_a_typed_error_event() {
    for action in [Action::Cut { after_tokens: 4 }, Action::CleanEnd { after_tokens: 4 }] {
        let (cheap, dear, router) = pair("router: {routingStrategy: cost}").await;
        cheap.set_faults(Faults::always(action.clone()).unwrap());
        let text = router.chat(hello(SHARED, true), &[]).await.text().await.unwrap();
        let events = events(&text);
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{action:?}");
        let error: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
        assert_eq!(error["error"]["type"], "server_error", "{action:?}: {text}");
        assert!(error["error"]["message"].as_str().unwrap().contains("`cheap`"), "{text}");
        assert_eq!(dear.books().received, 0, "no second backend may continue a begun stream");
        let spend = router.admin("/admin/spend").await;
        assert!(spend["total"].is_object());
        eventually("the failed stream to be booked", async || {
            router.admin("/admin/spend").await["total"]["errors"] == 1
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_with_a_typed_error_event() {
    let (cheap, _dear, router) = pair("router: {routingStrategy: cost}\ntimeouts: {idle: 300ms}").await;
    cheap.set_faults(Faults::always(Action::Stall { after_tokens: 3 }).unwrap());
    let text = router.chat(hello(SHARED, true), &[]).await.text().await.unwrap();
    assert!(text.contains("timeout_error"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test]
async fn the_clients_own_mistake_is_told_and_not_retried() {
    let (cheap, dear, router) = pair("router: {routingStrategy: cost}").await;
    cheap.set_faults(
        Faults::always(Action::Status {
            code: 422,
            retry_after: None,
            body: Some(json!({"error": {"message": "temperature is too high", "type": "invalid_request_error", "param": "temperature", "code": null}})),
        })
        .unwrap(),
    );
    let response = router.chat(hello(SHARED, false), &[]).await;
    assert_eq!(response.status(), 422);
    assert_eq!(json_body(response).await["error"]["param"], "temperature");
    assert_eq!(dear.books().received, 0);
}

#[tokio::test]
async fn retry_after_keeps_the_backend_closed_for_as_long_as_it_asked() {
    let (cheap, _dear, router) = pair("router: {routingStrategy: cost}").await;
    cheap.set_faults(
        Faults::always(Action::Burst429 { count: 1, retry_after: Some(Wait(Duration::from_secs(2))) })
            .unwrap(),
    );
    let started = Instant::now();
    assert_eq!(header(&router.chat(hello(SHARED, false), &[]).await, "x-llm-router-backend"), "dear");
    cheap.set_faults(Faults::none());
    let second = router.chat(hello(SHARED, false), &[]).await;
    assert_eq!(header(&second, "x-llm-router-attempts"), "1", "the closed backend is not even tried");
    assert_eq!(header(&second, "x-llm-router-backend"), "dear");
    eventually("the backend to be used again", async || {
        header(&router.chat(hello(SHARED, false), &[]).await, "x-llm-router-backend") == "cheap"
    })
    .await;
    assert!(started.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn when_every_backend_fails_the_client_is_told_which_and_how() {
    let (cheap, dear, router) = pair("router: {routingStrategy: cost}").await;
    for mock in [&cheap, &dear] {
        mock.set_faults(Faults::always(Action::Status { code: 503, retry_after: None, body: None }).unwrap());
    }
    let response = router.chat(hello(SHARED, true), &[]).await;
    assert_eq!(response.status(), 503);
    assert!(header(&response, "retry-after").parse::<u32>().unwrap() >= 1);
    let decision = header(&response, "x-llm-router-decision").to_owned();
    let record = router.admin(&format!("/admin/decisions/{decision}")).await;
    let attempts = record["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|attempt| attempt["fault"].as_str().unwrap().contains("503")), "{record:#}");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream_within_a_second() {
    for (kind, stream) in
        [(Kind::OpenAi, true), (Kind::OpenAi, false), (Kind::Llama, true), (Kind::Llama, false)]
    {
        let mut slow = fast(kind, SHARED);
        slow.tokens_per_second = 5.0;
        slow.output_tokens = 200;
        let mock = upstream(slow).await;
        let yaml = if kind == Kind::Llama {
            file("router: {calibrateThroughput: false}", &cluster("c1", &mock, 0.05), "")
        } else {
            file("", "", &provider("p1", &mock, SHARED))
        };
        let router = Router::start_unready(&yaml).await;
        router.wait_for("health", |view| view["backends"][0]["own"]["health"] == "healthy").await;
        let asking = tokio::spawn({
            let (client, url) = (router.client.clone(), format!("{}/v1/chat/completions", router.url));
            async move {
                let response = client.post(url).body(hello(SHARED, stream).to_string()).send().await.unwrap();
                response.text().await.unwrap()
            }
        });
        eventually("the request to run", async || mock.books().in_flight == 1).await;
        let left = Instant::now();
        asking.abort();
        eventually("the upstream to be cancelled", async || mock.books().cancelled == 1).await;
        assert!(left.elapsed() < Duration::from_secs(1), "{kind:?} stream={stream}: {:?}", left.elapsed());
        eventually("the cancelled request to be booked", async || {
            router.metric("llm_router_cancelled_requests_total").await == Some(1.0)
        })
        .await;
    }
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_by_comments_that_do_not_count_as_progress() {
    let (cheap, _dear, router) =
        pair("router: {routingStrategy: cost}\ntimeouts: {idle: 2s, keepAlive: 200ms}").await;
    cheap.set_faults(Faults::always(Action::Stall { after_tokens: 3 }).unwrap());
    let started = Instant::now();
    let text = router.chat(hello(SHARED, true), &[]).await.text().await.unwrap();
    let comments = text.matches(": keep-alive\n\n").count();
    assert!((3..=10).contains(&comments), "{comments} comments in {text}");
    assert!(text.contains("timeout_error"), "the comments must not keep a dead answer alive: {text}");
    assert!(started.elapsed() >= Duration::from_secs(2));
}
