//! Guards through the real edge: what is taken out, what is tried all the same, and what the record says.

use crate::fixture::{Router, cluster, eventually, fast, file, header, hello, json_body, provider, upstream};
use llm_router::mock::{Action, Faults, Mock};
use llm_router_logic::backend::Kind;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    let providers = provider("bad", &bad, SHARED)
        + &provider("good", &good, SHARED).replace("output: 2.0", "output: 20.0");
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
    let providers = provider("bad", &bad, SHARED)
        + &provider("good", &good, SHARED).replace("output: 2.0", "output: 20.0");
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

/// A llama-server of one place that takes a second for an answer.
async fn slow() -> Mock {
    let mut config = fast(Kind::Llama, SHARED);
    config.slots = 1;
    config.tokens_per_second = 12.0;
    upstream(config).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_full_the_client_is_told_at_once_when_to_come_again() {
    let mock = slow().await;
    let yaml =
        file("router: {maxQueueDepth: 2, calibrateThroughput: false}", &cluster("own", &mock, 0.05), "");
    let router = Arc::new(Router::start_unready(&yaml).await);
    router.wait_for("health", |view| view["backends"][0]["own"]["health"] == "healthy").await;
    assert_eq!(
        router.chat(hello(SHARED, false), &[]).await.status(),
        200,
        "it learns how long a place is held"
    );
    let asks: Vec<_> = (0..3)
        .map(|_| {
            let router = Arc::clone(&router);
            tokio::spawn(async move { router.chat(hello(SHARED, false), &[]).await.status() })
        })
        .collect();
    eventually("one to run and two to wait", async || {
        router.metric("llm_router_queue_waiting").await == Some(2.0)
    })
    .await;

    let asked = Instant::now();
    let refused = router.chat(hello(SHARED, false), &[]).await;
    assert_eq!(refused.status(), 503);
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((2..=4).contains(&wait), "three answers of a second each are ahead of it, told {wait}");
    let record = record(&router, &refused).await;
    assert!(record["passed_over"][0]["why"].as_str().unwrap().contains("queue is full"), "{record:#}");
    assert!(record["duration_ms"].as_u64().unwrap() < 50, "{record:#}");
    assert_eq!(json_body(refused).await["error"]["code"], "overloaded");

    // Its deadline is before the end of the one that runs and the two that wait.
    let late = router.chat(hello(SHARED, false), &[("x-llm-router-deadline-ms", "900")]).await;
    assert_eq!(late.status(), 503);
    assert!(asked.elapsed() < Duration::from_millis(800), "neither waited");
    for ask in asks {
        assert_eq!(ask.await.unwrap(), 200);
    }
    let books = mock.books();
    assert_eq!((books.peak_in_flight, books.peak_queued), (1, 0));
    let full = "llm_router_queue_refused_total{backend=\"own\",why=\"queue_full\"}";
    assert_eq!(router.metric(full).await, Some(1.0));
}

#[tokio::test]
async fn a_503_with_retry_after_closes_only_its_model() {
    let mut config = fast(Kind::OpenAi, SHARED);
    config.models = vec!["m1".to_owned(), "m2".to_owned()];
    let mock = upstream(config).await;
    let row = provider("p", &mock, "m1")
        .replace("models: [", "models: [{name: m2, price: {input: 1.0, output: 2.0}}, ");
    let router = Router::start(&file("", "", &row)).await;
    mock.set_faults(
        Faults::parse("[{match: {model: m1}, times: 1, action: {status: {code: 503, retryAfter: 30}}}]")
            .unwrap(),
    );
    assert_eq!(router.chat(hello("m1", false), &[]).await.status(), 503);
    let again = router.chat(hello("m1", false), &[]).await;
    assert_eq!(again.status(), 503);
    let wait: u64 = header(&again, "retry-after").parse().unwrap();
    assert!((28..=30).contains(&wait), "{wait}");
    assert_eq!(router.chat(hello("m2", false), &[]).await.status(), 200);
    assert_eq!(mock.books().received, 2, "the closed model is not even tried");
    let view = router.wait_for("the closed model to be seen", |view| breaker(view, 0)["model"] == "m1").await;
    assert!(breaker(&view, 0)["closed_for_ms"].as_u64().unwrap() > 20_000, "{view:#}");
}

#[tokio::test]
async fn a_429_closes_the_account_or_only_the_model_where_the_operator_says_so() {
    for (scope, expected) in [("", 503), ("rateLimit: {scope: model}, ", 200)] {
        let mut config = fast(Kind::OpenAi, SHARED);
        config.models = vec!["m1".to_owned(), "m2".to_owned()];
        let mock = upstream(config).await;
        let row = provider("p", &mock, "m1").replace(
            "models: [",
            &format!("{scope}models: [{{name: m2, price: {{input: 1.0, output: 2.0}}}}, "),
        );
        let router = Router::start(&file("", "", &row)).await;
        mock.set_faults(
            Faults::parse("[{match: {model: m1}, times: 1, action: {status: {code: 429, retryAfter: 30}}}]")
                .unwrap(),
        );
        assert_eq!(router.chat(hello("m1", false), &[]).await.status(), 429);
        assert_eq!(router.chat(hello("m2", false), &[]).await.status(), expected, "{scope}");
    }
}

#[tokio::test]
async fn a_cluster_that_comes_back_is_given_its_places_one_after_another() {
    let mut config = fast(Kind::Llama, SHARED);
    config.slots = 8;
    let mock = upstream(config).await;
    let yaml = file("router: {slowStart: 20s, healthCheckInterval: 2s}", &cluster("own", &mock, 0.05), "");
    let router = Router::start(&yaml).await;
    let limit = "llm_router_backend_limit{backend=\"own\"}";
    assert_eq!(router.metric(limit).await, Some(8.0), "a node's own start is no return");
    mock.set_faults(Faults::always(Action::Unhealthy).unwrap());
    router.wait_for("ill health", |view| view["backends"][0]["own"]["health"] == "unhealthy").await;
    mock.set_faults(Faults::none());
    router.wait_for("good health", |view| view["backends"][0]["own"]["health"] == "healthy").await;
    let returned = router.metric(limit).await.unwrap();
    assert!(returned <= 3.0, "{returned} of 8 places at once");
    assert_eq!(router.chat(hello(SHARED, false), &[]).await.status(), 200);
}
