//! `Idempotency-Key` through real sockets: one generation in the mocks' own books, whatever repeats.

use crate::fixture::{
    DEADLINE, Router, events, eventually, fast, file, header, hello, json_body, provider, upstream,
};
use futures_util::StreamExt;
use futures_util::future::join_all;
use llm_router::mock::{Action, Faults, Mock};
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::time::Duration;

const MODEL: &str = "gpt";
const KEYED: &[(&str, &str)] = &[("idempotency-key", "order-4711")];

/// A node over one OpenAI mock that takes some 400 ms for an answer of forty tokens.
async fn slow(more: &str) -> (Mock, Router) {
    let mut config = fast(Kind::OpenAi, MODEL);
    config.output_tokens = 40;
    config.tokens_per_second = 100.0;
    let mock = upstream(config).await;
    let router = Router::start(&file(more, "", &provider("p1", &mock, MODEL))).await;
    (mock, router)
}

/// What a client keeps of an answer.
async fn told(response: reqwest::Response) -> (u16, String, String) {
    let kind = header(&response, "content-type").to_owned();
    (response.status().as_u16(), kind, response.text().await.unwrap())
}

#[tokio::test]
async fn a_repeat_gets_the_kept_answer_plain_and_streamed_and_is_billed_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.sqlite");
    let ledger = format!("ledger: {{path: \"{}\", commitTimeout: 60s}}", path.display());
    let (mock, router) = slow(&ledger).await;
    for (nth, stream) in [false, true].into_iter().enumerate() {
        let key = [("idempotency-key", ["plain", "streamed"][nth])];
        let first = router.chat(hello(MODEL, stream), &key).await;
        assert_eq!(header(&first, "idempotent-replayed"), "");
        let decision = header(&first, "x-llm-router-decision").to_owned();
        let first = told(first).await;
        assert_eq!(first.0, 200);
        for _ in 0..3 {
            let again = router.chat(hello(MODEL, stream), &key).await;
            assert_eq!(header(&again, "idempotent-replayed"), "true");
            assert_eq!(header(&again, "x-llm-router-cost-usd"), "0");
            assert_eq!(header(&again, "x-llm-router-backend"), "p1");
            assert!(header(&again, "age").parse::<u64>().unwrap() < 60);
            let own = header(&again, "x-llm-router-decision").to_owned();
            assert_ne!(own, decision);
            let record = router.admin(&format!("/admin/decisions/{own}")).await;
            assert_eq!(record["answered_from"], "idempotency_key");
            assert_eq!(record["answer_of"], decision);
            assert_eq!(told(again).await, first, "byte by byte the same");
        }
        assert_eq!(mock.books().received, nth as u64 + 1);
        if stream {
            assert_eq!(events(&first.2).last().unwrap(), "[DONE]");
        }
    }
    let asked = "llm_router_idempotent_requests_total{result=\"replayed\"}";
    assert_eq!(router.metric(asked).await, Some(6.0));
    assert_eq!(router.metric("llm_router_idempotency_keys").await, Some(2.0));
    let spend = || async { router.admin("/admin/spend").await["total"].clone() };
    eventually("all eight to be booked", async || spend().await["requests"] == 8).await;
    router.node.handle().journal().unwrap().flush(DEADLINE).await.unwrap();
    let rows = rusqlite::Connection::open(&path).unwrap();
    let cached: (i64, i64) = rows
        .query_row("SELECT count(*), sum(cost_pico) FROM requests WHERE cached = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(cached, (6, 0), "six rows of repeats that cost nothing");
    let tokens: i64 =
        rows.query_row("SELECT sum(output_tokens) FROM requests", [], |row| row.get(0)).unwrap();
    assert_eq!(u64::try_from(tokens).unwrap(), mock.books().output_tokens);
    router.node.shutdown().await;
}

#[tokio::test]
async fn fifty_at_once_under_one_key_are_one_generation() {
    for stream in [false, true] {
        let (mock, router) = slow("").await;
        let answers = (0..50).map(|_| async {
            let response = router.chat(hello(MODEL, stream), KEYED).await;
            (header(&response, "idempotent-replayed").to_owned(), told(response).await)
        });
        let answers = join_all(answers).await;
        assert_eq!(mock.books().received, 1, "stream: {stream}");
        assert_eq!(answers.iter().filter(|(replayed, _)| replayed.is_empty()).count(), 1);
        for (_, answer) in &answers {
            assert_eq!(answer, &answers[0].1);
            assert_eq!(answer.0, 200);
        }
        router.node.shutdown().await;
    }
}

#[tokio::test]
async fn whoever_joins_a_stream_late_reads_it_from_its_beginning_and_then_live() {
    let (mock, router) = slow("").await;
    let mut first = router.chat(hello(MODEL, true), KEYED).await.bytes_stream();
    let mut read = Vec::new();
    while events(&String::from_utf8_lossy(&read)).len() < 5 {
        read.extend_from_slice(&first.next().await.unwrap().unwrap());
    }
    let mut second = router.chat(hello(MODEL, true), KEYED).await;
    assert_eq!(header(&second, "idempotent-replayed"), "true");
    let begun = second.chunk().await.unwrap().unwrap();
    assert_eq!(mock.books().requests, 0, "it still runs");
    let mut other = begun.to_vec();
    other.extend_from_slice(&second.bytes().await.unwrap());
    while let Some(chunk) = first.next().await {
        read.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(String::from_utf8(other).unwrap(), String::from_utf8(read).unwrap());
    assert_eq!(mock.books().received, 1);
    router.node.shutdown().await;
}

#[tokio::test]
async fn the_same_key_with_another_body_or_route_is_a_conflict_in_each_dialect() {
    let (mock, router) = slow("").await;
    assert_eq!(router.chat(hello(MODEL, false), KEYED).await.status(), 200);
    // White space and the order of members are no difference.
    let messages = "\"messages\": [{\"content\": \"hello there\", \"role\": \"user\"}]";
    let same = format!("{{{messages}, \"stream\": false,\n \"model\": \"{MODEL}\"}}");
    let post = async |path: &str, body: String| {
        let url = format!("{}{path}", router.url);
        router.client.post(url).header("idempotency-key", "order-4711").body(body).send().await.unwrap()
    };
    let again = post("/v1/chat/completions", same).await;
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replayed")), (200, "true"));

    let conflict = router.chat(hello(MODEL, true), KEYED).await;
    assert_eq!(conflict.status(), 409);
    let error = json_body(conflict).await["error"].clone();
    assert_eq!(error["code"], "idempotency_conflict");
    assert_eq!(
        (&error["type"], &error["param"]),
        (&json!("invalid_request_error"), &json!("idempotency-key"))
    );

    let anthropic = json!({"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    let conflict = post("/v1/messages", anthropic.to_string()).await;
    assert_eq!(conflict.status(), 409);
    assert_eq!(json_body(conflict).await["error"]["type"], "invalid_request_error");
    let gemini = json!({"contents": [{"parts": [{"text": "hi"}]}]}).to_string();
    let conflict = post(&format!("/v1beta/models/{MODEL}:generateContent"), gemini).await;
    assert_eq!(conflict.status(), 409);
    assert_eq!(json_body(conflict).await["error"]["code"], 409);
    assert_eq!(mock.books().received, 1);
    router.node.shutdown().await;
}

#[tokio::test]
async fn every_dialect_gets_its_own_answer_again() {
    let (mock, router) = slow("").await;
    let turn = json!([{"role": "user", "content": "hi"}]);
    let contents = json!({"contents": [{"parts": [{"text": "hi"}]}]});
    let bodies: [(String, Value); 6] = [
        ("/v1/messages".into(), json!({"model": MODEL, "max_tokens": 9, "messages": turn})),
        ("/v1/messages".into(), json!({"model": MODEL, "max_tokens": 9, "stream": true, "messages": turn})),
        ("/v1/responses".into(), json!({"model": MODEL, "stream": true, "input": "hi"})),
        (format!("/v1beta/models/{MODEL}:generateContent"), contents.clone()),
        (format!("/v1beta/models/{MODEL}:streamGenerateContent"), contents.clone()),
        (format!("/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"), contents),
    ];
    for (nth, (path, body)) in bodies.into_iter().enumerate() {
        let mut answers = Vec::new();
        for _ in 0..2 {
            let request = router.client.post(format!("{}{path}", router.url));
            let request = request.header("idempotency-key", format!("k{nth}")).body(body.to_string());
            answers.push(told(request.send().await.unwrap()).await);
        }
        assert_eq!(answers[0].0, 200, "{path}: {}", answers[0].2);
        assert_eq!(answers[0], answers[1], "{path}");
        assert_eq!(mock.books().received, nth as u64 + 1, "{path}");
    }
    router.node.shutdown().await;
}

#[tokio::test]
async fn nobody_meets_the_key_of_another_tenant_or_api_key() {
    let keys = [("a1", "team-a", "a-key-of-these-tests-1"), ("a2", "team-a", "a-key-of-these-tests-2")];
    let keys: Vec<_> = keys.into_iter().chain([("b1", "team-b", "a-key-of-these-tests-3")]).collect();
    let list: Vec<_> =
        keys.iter().map(|(id, tenant, key)| format!("{{id: {id}, tenant: {tenant}, key: {key}}}")).collect();
    let (mock, router) = slow(&format!("auth: {{keys: [{}], openMetrics: true}}", list.join(", "))).await;
    for (nth, (_, _, key)) in keys.iter().enumerate() {
        let bearer = format!("Bearer {key}");
        let headers = [KEYED[0], ("authorization", bearer.as_str())];
        // Even another body is no conflict: it is another key.
        let mut body = hello(MODEL, false);
        body["seed"] = json!(nth);
        for replayed in ["", "true"] {
            let response = router.chat(body.clone(), &headers).await;
            assert_eq!(
                (response.status().as_u16(), header(&response, "idempotent-replayed")),
                (200, replayed)
            );
        }
    }
    assert_eq!(mock.books().received, 3);
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_failure_is_told_to_all_who_wait_and_can_be_tried_again() {
    let (mock, router) = slow("").await;
    let broken = Action::Status { code: 400, retry_after: None, body: None };
    mock.set_faults(Faults::always(broken).unwrap());
    let answers =
        join_all((0..8).map(|_| async { told(router.chat(hello(MODEL, false), KEYED).await).await })).await;
    assert!(answers.iter().all(|answer| answer.0 == 400 && answer == &answers[0]), "{answers:?}");
    mock.set_faults(Faults::none());
    assert_eq!(router.chat(hello(MODEL, false), KEYED).await.status(), 200, "not remembered");

    // A stream that breaks off is told as it was, and not kept either.
    mock.set_faults(Faults::always(Action::Cut { after_tokens: 5 }).unwrap());
    let key = [("idempotency-key", "cut")];
    let cut = told(router.chat(hello(MODEL, true), &key).await).await;
    assert!(cut.2.contains("backend_stream_broken"), "{}", cut.2);
    mock.set_faults(Faults::none());
    let whole = router.chat(hello(MODEL, true), &key).await;
    assert_eq!(header(&whole, "idempotent-replayed"), "");
    assert!(!told(whole).await.2.contains("error"));
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_generation_lives_as_long_as_anybody_waits_for_it() {
    let (mock, router) = slow("").await;
    let mut first = router.chat(hello(MODEL, true), KEYED).await;
    first.chunk().await.unwrap().unwrap();
    let mut second = router.chat(hello(MODEL, true), KEYED).await;
    drop(first);
    let mut text = Vec::new();
    while let Some(chunk) = second.chunk().await.unwrap() {
        text.extend_from_slice(&chunk);
    }
    assert_eq!(events(&String::from_utf8(text).unwrap()).last().unwrap(), "[DONE]");
    assert_eq!((mock.books().received, mock.books().cancelled), (1, 0));

    let key = [("idempotency-key", "left alone")];
    let mut first = router.chat(hello(MODEL, true), &key).await;
    first.chunk().await.unwrap().unwrap();
    let second = router.chat(hello(MODEL, true), &key).await;
    drop((first, second));
    eventually("the abandoned generation to be cancelled", async || mock.books().cancelled == 1).await;
    let whole = router.chat(hello(MODEL, true), &key).await;
    assert_eq!(header(&whole, "idempotent-replayed"), "");
    assert!(whole.text().await.unwrap().ends_with("[DONE]\n\n"));
    router.node.shutdown().await;
}

#[tokio::test]
async fn keys_and_answers_are_bounded() {
    let bounds = "idempotency: {maxKeyBytes: 10, maxEntryBytes: 2000, ttl: 300ms}";
    let (mock, router) = slow(bounds).await;
    for (key, text) in [("12345678901", "longer than 10 bytes"), ("", "is empty")] {
        let refused = router.chat(hello(MODEL, false), &[("idempotency-key", key)]).await;
        assert_eq!(refused.status(), 400);
        let error = json_body(refused).await["error"].clone();
        assert!(error["message"].as_str().unwrap().contains(text), "{error}");
    }
    let key = [("idempotency-key", "k")];
    assert_eq!(router.chat(hello(MODEL, false), &key).await.status(), 200);
    eventually("the answer to expire", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let response = router.chat(hello(MODEL, false), &key).await;
        response.status() == 200 && header(&response, "idempotent-replayed").is_empty()
    })
    .await;
    assert_eq!(mock.books().received, 2);

    // A stream of forty events is larger: whole for its client, and never generated twice.
    let large = [("idempotency-key", "large")];
    let whole = router.chat(hello(MODEL, true), &large).await.text().await.unwrap();
    assert!(whole.len() > 2000 && whole.ends_with("[DONE]\n\n"));
    let refused = router.chat(hello(MODEL, true), &large).await;
    assert_eq!(refused.status(), 409);
    assert_eq!(json_body(refused).await["error"]["code"], "idempotency_spent");
    assert_eq!(mock.books().received, 3);
    router.node.shutdown().await;
}
