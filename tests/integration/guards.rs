//! Guards through the real edge: what is taken out, what is tried all the same, and what the record says.

use crate::fixture::{Router, eventually, fast, file, header, hello, json_body, provider, upstream};
use llm_router::mock::{Action, Faults, Mock};
use llm_router_logic::backend::Kind;
use serde_json::Value;

const SHARED: &str = "shared";

/// Answers every request with a 500, or works.
fn fail(mock: &Mock, failing: bool) {
    let action = Action::Status { code: 500, retry_after: None, body: None };
    mock.set_faults(if failing { Faults::always(action).unwrap() } else { Faults::none() });
}

/// The decision record of a response.
async fn record(router: &Router, response: &reqwest::Response) -> Value {
    router.admin(&format!("/admin/decisions/{}", header(response, "x-llm-router-decision"))).await
}

/// The breaker of `SHARED` at backend `at`, as the view has it.
fn breaker(view: &Value, at: usize) -> &Value {
    &view["backends"][at]["own"]["guards"][0]
}

#[tokio::test]
async fn a_backend_failing_under_load_is_taken_out_and_the_record_says_why() {
    let (bad, good) =
        (upstream(fast(Kind::OpenAi, SHARED)).await, upstream(fast(Kind::OpenAi, SHARED)).await);
    let providers =
        provider("bad", &bad, SHARED) + &provider("good", &good, SHARED).replace("input: 1.0", "input: 9.0");
    let router = Router::start(&file(
        "router: {routingStrategy: cost, breaker: {open: 1h, openMax: 1h}}",
        "",
        &providers,
    ))
    .await;
    fail(&bad, true);
    let mut attempts = Vec::new();
    for _ in 0..5 {
        let response = router.chat(hello(SHARED, false), &[]).await;
        assert_eq!(response.status(), 200, "clients do not notice");
        attempts.push(header(&response, "x-llm-router-attempts").to_owned());
    }
    assert_eq!(attempts, ["2"; 5], "the breaker opens at the fifth failure in a row and not before");
    let view = router.wait_for("the breaker to open", |view| breaker(view, 0)["breaker"] == "open").await;
    assert_eq!(breaker(&view, 0)["why"], "5 failures in a row");

    let after = router.chat(hello(SHARED, false), &[]).await;
    assert_eq!(header(&after, "x-llm-router-attempts"), "1", "it is not tried any more");
    let record = record(&router, &after).await;
    let refused = record["refused"].to_string();
    assert!(refused.contains("breaker_open") && refused.contains("\"failures\":5"), "{record:#}");
    assert_eq!(bad.books().received, 5);
    assert_eq!(router.metric("llm_router_backend_breaker_open{backend=\"bad\"}").await, Some(1.0));
}

#[tokio::test]
async fn beyond_the_retry_budget_the_first_error_is_told() {
    let (bad, good) =
        (upstream(fast(Kind::OpenAi, SHARED)).await, upstream(fast(Kind::OpenAi, SHARED)).await);
    let providers =
        provider("bad", &bad, SHARED) + &provider("good", &good, SHARED).replace("input: 1.0", "input: 9.0");
    let settings = "router: {routingStrategy: cost, breaker: {failuresInARow: 1000, minRequests: 1000}, retries: {perSecond: 0.5}}";
    let router = Router::start(&file(settings, "", &providers)).await;
    fail(&bad, true);
    let mut statuses = Vec::new();
    let mut refused = None;
    for _ in 0..12 {
        let response = router.chat(hello(SHARED, false), &[]).await;
        statuses.push(response.status().as_u16());
        if response.status() != 200 {
            refused = Some(response);
        }
    }
    // Five from the half a second over ten seconds, and a fifth of the twelve requests themselves.
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((5..=7).contains(&served), "{statuses:?}");
    let refused = refused.unwrap();
    assert_eq!(refused.status(), 502);
    let record = record(&router, &refused).await;
    assert_eq!(record["stopped"], "retry_budget", "{record:#}");
    assert_eq!(record["attempts"].as_array().unwrap().len(), 1);
    let error = json_body(refused).await;
    assert_eq!(error["error"]["code"], "retry_budget_exhausted", "{error}");
    assert_eq!(good.books().received as usize, served);
    let stopped = router.metric("llm_router_retries_stopped_total{why=\"retry_budget\"}").await;
    assert_eq!(stopped, Some((12 - served) as f64));
    assert_eq!(router.metric("llm_router_retries_total{backend=\"good\"}").await, Some(served as f64));
}

#[tokio::test]
async fn with_every_breaker_open_half_of_the_pool_is_tried_all_the_same() {
    let mocks = [upstream(fast(Kind::OpenAi, SHARED)).await, upstream(fast(Kind::OpenAi, SHARED)).await];
    let providers = provider("a", &mocks[0], SHARED) + &provider("b", &mocks[1], SHARED);
    let router = Router::start(&file("router: {breaker: {open: 1h, openMax: 1h}}", "", &providers)).await;
    mocks.iter().for_each(|mock| fail(mock, true));
    for _ in 0..5 {
        assert_eq!(router.chat(hello(SHARED, false), &[]).await.status(), 502, "both are tried and fail");
    }
    let open = |view: &Value| (0..2).all(|at| breaker(view, at)["breaker"] == "open");
    router.wait_for("both breakers to open", open).await;
    mocks.iter().for_each(|mock| fail(mock, false));
    let response = router.chat(hello(SHARED, false), &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-llm-router-reason"), "least_bad");
    let record = record(&router, &response).await;
    assert_eq!(record["ejection"], serde_json::json!({"serving": 2, "ejected": 2, "readmitted": 1}));
    assert_eq!(record["candidates"].as_array().unwrap().len(), 1, "{record:#}");
    assert_eq!(record["candidates"][0]["ejected_for"]["why"], "breaker_open");
    eventually("the attempt to be counted", async || {
        let mut counted = 0.0;
        for backend in ["a", "b"] {
            let series = format!("llm_router_least_bad_attempts_total{{backend=\"{backend}\"}}");
            counted += router.metric(&series).await.unwrap_or(0.0);
        }
        counted >= 1.0
    })
    .await;
}
