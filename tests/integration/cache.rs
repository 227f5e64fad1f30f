//! The response cache through real sockets, beside the mocks' own books.

use crate::fixture::{
    DEADLINE, Router, eventually, fast, file, header, hello, json_body, provider, upstream,
};
use futures_util::future::join_all;
use llm_router::mock::{Action, Faults, Mock};
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::time::Duration;

const MODEL: &str = "gpt";

/// A node with a cache over one OpenAI mock.
async fn cached(more: &str) -> (Mock, Router) {
    let mock = upstream(fast(Kind::OpenAi, MODEL)).await;
    let router = Router::start(&file(more, "", &provider("p1", &mock, MODEL))).await;
    (mock, router)
}

/// A request whose answer is not drawn at random.
pub(crate) fn asking(text: &str, stream: bool) -> Value {
    json!({"model": MODEL, "temperature": 0, "stream": stream, "messages": [{"role": "user", "content": text}]})
}

/// The word for what the cache did, the status and the body.
pub(crate) async fn told(response: reqwest::Response) -> (String, u16, String) {
    let word = header(&response, "x-llm-router-cache").to_owned();
    (word, response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn an_equal_request_gets_the_same_answer_at_no_cost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.sqlite");
    let more = format!("cache: {{}}\nledger: {{path: \"{}\", commitTimeout: 60s}}", path.display());
    let (mock, router) = cached(&more).await;
    for stream in [false, true] {
        let first = router.chat(asking("once", stream), &[]).await;
        let decision = header(&first, "x-llm-router-decision").to_owned();
        let first = told(first).await;
        assert_eq!((first.0.as_str(), first.1), ("miss", 200));
        let mut other = asking("once", stream);
        other["user"] = json!("somebody else");
        let again = router.chat(other, &[]).await;
        assert_eq!(header(&again, "x-llm-router-cost-usd"), "0");
        assert_eq!(header(&again, "x-llm-router-backend"), "p1");
        assert_eq!(header(&again, "x-llm-router-reason"), "cached");
        assert!(header(&again, "age").parse::<u64>().unwrap() < 60);
        let kind = if stream { "text/event-stream" } else { "application/json" };
        assert_eq!(header(&again, "content-type"), kind);
        let record = header(&again, "x-llm-router-decision").to_owned();
        let record = router.admin(&format!("/admin/decisions/{record}")).await;
        assert_eq!((&record["answered_from"], &record["answer_of"]), (&json!("cache"), &json!(decision)));
        assert_eq!((&record["cached"], &record["cost_usd"]), (&json!(true), &json!(0.0)));
        let again = told(again).await;
        assert_eq!(again, ("hit".to_owned(), 200, first.2));
    }
    assert_eq!(mock.books().received, 2, "one generation each for the stream and the whole");

    let spend = async || router.admin("/admin/spend").await["total"].clone();
    eventually("all four to be booked", async || spend().await["requests"] == 4).await;
    router.node.handle().journal().unwrap().flush(DEADLINE).await.unwrap();
    let ledger = rusqlite::Connection::open(&path).unwrap();
    let sums = "SELECT count(*), sum(cost_pico), sum(input_tokens + output_tokens), min(backend), \
                sum(external_usd), min(raw_usage) FROM requests WHERE cached = 1";
    let hits: (i64, i64, i64, String, f64, String) = ledger
        .query_row(sums, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })
        .unwrap();
    assert_eq!((hits.0, hits.1, hits.2, hits.3.as_str()), (2, 0, 0, "(cache)"));
    // What they spared is what the two generations cost, at $1 and $2 per million tokens.
    let cost: i64 = ledger.query_row("SELECT sum(cost_pico) FROM requests", [], |row| row.get(0)).unwrap();
    assert_eq!((hits.4 * 1e12).round() as i64, cost);
    assert!(hits.5.contains("\"output\":12"), "{}", hits.5);
    assert_eq!(llm_router::ledger::verify(&path).unwrap(), Vec::<String>::new());
    let saved = router.metric("llm_router_cache_saved_usd_total").await.unwrap();
    assert_eq!((saved * 1e12).round() as i64, cost);
    assert_eq!(router.metric("llm_router_cache_requests_total{result=\"hit\"}").await, Some(2.0));
    assert_eq!(router.metric("llm_router_cache_entries").await, Some(2.0));
    assert!(router.metric("llm_router_cache_bytes").await.unwrap() > 2048.0);
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_hundred_equal_requests_at_once_are_one_generation() {
    for stream in [false, true] {
        let (mock, router) = cached("cache: {}").await;
        let answers =
            join_all((0..100).map(|_| async { told(router.chat(asking("all", stream), &[]).await).await }))
                .await;
        assert_eq!(mock.books().received, 1, "stream: {stream}");
        assert_eq!(answers.iter().filter(|answer| answer.0 == "miss").count(), 1);
        assert_eq!(answers.iter().filter(|answer| answer.0 == "hit").count(), 99);
        assert!(answers.iter().all(|answer| answer.1 == 200 && answer.2 == answers[0].2));
        router.node.shutdown().await;
    }
}

#[tokio::test]
async fn every_dialect_has_its_own_answers() {
    let mock = upstream(fast(Kind::OpenAi, MODEL)).await;
    let embeds =
        provider("p1", &mock, MODEL).replace("defaultModel", "capabilities: [chat, embedding], defaultModel");
    let router = Router::start(&file("cache: {}", "", &embeds)).await;
    let turn = json!([{"role": "user", "content": "hi"}]);
    let gemini = json!({"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"temperature": 0}});
    let at = |path: &str| format!("/v1beta/models/{MODEL}:{path}");
    let bodies: [(String, Value); 8] = [
        ("/v1/chat/completions".into(), asking("hi", false)),
        ("/v1/messages".into(), json!({"model": MODEL, "max_tokens": 9, "temperature": 0, "messages": turn})),
        (
            "/v1/messages".into(),
            json!({"model": MODEL, "max_tokens": 9, "temperature": 0, "stream": true, "messages": turn}),
        ),
        ("/v1/responses".into(), json!({"model": MODEL, "temperature": 0, "stream": true, "input": "hi"})),
        ("/v1/embeddings".into(), json!({"model": MODEL, "input": "hi"})),
        (at("generateContent"), gemini.clone()),
        (at("streamGenerateContent"), gemini.clone()),
        (at("streamGenerateContent?alt=sse"), gemini),
    ];
    for (nth, (path, body)) in bodies.into_iter().enumerate() {
        let mut answers = Vec::new();
        for word in ["miss", "hit"] {
            let request = router.client.post(format!("{}{path}", router.url)).body(body.to_string());
            let answer = told(request.send().await.unwrap()).await;
            assert_eq!((answer.0.as_str(), answer.1), (word, 200), "{path}: {}", answer.2);
            answers.push(answer.2);
        }
        assert_eq!(answers[0], answers[1], "{path}");
        assert_eq!(mock.books().received, nth as u64 + 1, "{path}");
    }
    router.node.shutdown().await;
}

#[tokio::test]
async fn what_differs_in_meaning_or_is_drawn_at_random_is_generated() {
    let (mock, router) = cached("cache: {}").await;
    assert_eq!(told(router.chat(asking("a", false), &[]).await).await.0, "miss");
    for (name, value) in [("max_tokens", json!(5)), ("seed", json!(1)), ("model", json!("auto"))] {
        let mut other = asking("a", false);
        other[name] = value;
        assert_eq!(told(router.chat(other, &[]).await).await.0, "miss", "{name}");
    }
    assert_eq!(
        told(router.chat(asking("a", false), &[("x-llm-router-backend", "p1")]).await).await.0,
        "miss"
    );
    assert_eq!(
        told(router.chat(asking("a", false), &[("x-llm-router-strategy", "cost")]).await).await.0,
        "miss"
    );
    assert_eq!(mock.books().received, 6);
    for _ in 0..2 {
        assert_eq!(told(router.chat(hello(MODEL, false), &[]).await).await.0, "off", "no temperature");
    }
    let on = [("x-llm-router-cache", "on")];
    for word in ["miss", "hit"] {
        assert_eq!(told(router.chat(hello(MODEL, false), &on).await).await.0, word, "opted in");
    }
    assert_eq!(mock.books().received, 9);
    assert_eq!(router.metric("llm_router_cache_requests_total{result=\"sampled\"}").await, Some(2.0));
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_client_may_leave_the_cache_out() {
    let (mock, router) = cached("cache: {}").await;
    let ask = async |headers: &[(&str, &str)]| told(router.chat(asking("a", false), headers).await).await.0;
    assert_eq!(ask(&[]).await, "miss");
    for headers in [[("cache-control", "no-store")], [("x-llm-router-cache", "off")]] {
        assert_eq!(ask(&headers).await, "off", "{headers:?}");
    }
    for headers in [[("cache-control", "no-cache")], [("x-llm-router-cache", "refresh")]] {
        assert_eq!(ask(&headers).await, "miss", "{headers:?}");
    }
    assert_eq!(ask(&[("cache-control", "max-age=60")]).await, "hit");
    assert_eq!(mock.books().received, 5);
    let refused = router.chat(asking("a", false), &[("x-llm-router-cache", "maybe")]).await;
    assert_eq!(
        (refused.status().as_u16(), json_body(refused).await["error"]["param"].clone()),
        (400, json!("x-llm-router-cache"))
    );
    router.node.shutdown().await;
}

#[tokio::test]
async fn tenants_and_keys_with_other_rights_never_share_an_answer() {
    let keys = [
        ("a1", "team-a", "a-key-of-these-tests-1", ""),
        ("a2", "team-a", "a-key-of-these-tests-2", ""),
        ("a3", "team-a", "a-key-of-these-tests-3", ", strategies: [hybrid, cost]"),
        ("b1", "team-b", "a-key-of-these-tests-4", ""),
    ];
    let list: Vec<_> = keys
        .iter()
        .map(|(id, tenant, key, more)| format!("{{id: {id}, tenant: {tenant}, key: {key}{more}}}"))
        .collect();
    let auth = format!("auth: {{keys: [{}]}}", list.join(", "));
    for (scope, words) in [
        ("tenant", ["miss", "hit", "miss", "miss"]),
        ("key", ["miss", "miss", "miss", "miss"]),
        ("all", ["miss", "hit", "miss", "hit"]),
    ] {
        let (_mock, router) = cached(&format!("{auth}\ncache: {{scope: {scope}}}")).await;
        for ((id, _, key, _), word) in keys.iter().zip(words) {
            let bearer = format!("Bearer {key}");
            let answer = told(router.chat(asking("a", false), &[("authorization", &bearer)]).await).await;
            assert_eq!((answer.0.as_str(), answer.1), (word, 200), "{scope} {id}");
        }
        router.node.shutdown().await;
    }
}

#[tokio::test]
async fn only_whole_answers_are_kept_and_a_failure_is_nobody_elses() {
    let (mock, router) = cached("cache: {}").await;
    mock.set_faults(Faults::always(Action::Cut { after_tokens: 5 }).unwrap());
    let cut = told(router.chat(asking("a", true), &[]).await).await;
    assert!(cut.2.contains("backend_stream_broken"), "{}", cut.2);
    mock.set_faults(Faults::always(Action::Status { code: 400, retry_after: None, body: None }).unwrap());
    assert_eq!(told(router.chat(asking("a", false), &[]).await).await.1, 400);
    mock.set_faults(Faults::none());
    for word in ["miss", "hit"] {
        let whole = told(router.chat(asking("a", true), &[]).await).await;
        assert_eq!(whole.0, word);
        assert!(whole.2.ends_with("[DONE]\n\n") && !whole.2.contains("error"));
        assert_eq!(told(router.chat(asking("a", false), &[]).await).await.0, word);
    }
    router.node.shutdown().await;
}

#[tokio::test]
async fn answers_expire_and_make_room_and_outlive_a_reload() {
    let (mock, router) = cached("cache: {ttl: 400ms}").await;
    assert_eq!(told(router.chat(asking("a", false), &[]).await).await.0, "miss");
    eventually("the answer to expire", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        told(router.chat(asking("a", false), &[]).await).await.0 == "miss"
    })
    .await;
    assert_eq!(mock.books().received, 2);
    router.node.shutdown().await;

    let (mock, router) = cached("cache: {maxBytes: 20000, maxEntryBytes: 5000}").await;
    for nth in 0..40 {
        assert_eq!(told(router.chat(asking(&format!("{nth}"), false), &[]).await).await.0, "miss");
    }
    eventually("room to be made", async || {
        told(router.chat(asking("the last", false), &[]).await).await;
        router.metric("llm_router_cache_evicted_total").await.unwrap() > 10.0
            && router.metric("llm_router_cache_bytes").await.unwrap() <= 20_000.0
    })
    .await;
    let large = told(router.chat(asking(&"x".repeat(6_000), false), &[]).await).await;
    assert_eq!((large.0.as_str(), large.1), ("off", 200), "too large a request");

    let received = mock.books().received;
    assert_eq!(told(router.chat(asking("kept", false), &[]).await).await.0, "miss");
    let yaml = file("cache: {maxBytes: 20000, maxEntryBytes: 5000}", "", &provider("p1", &mock, MODEL));
    router.node.reconfigure(crate::fixture::settings(&yaml)).await.unwrap();
    assert_eq!(told(router.chat(asking("kept", false), &[]).await).await.0, "hit");
    let without = file("", "", &provider("p1", &mock, MODEL));
    router.node.reconfigure(crate::fixture::settings(&without)).await.unwrap();
    assert_eq!(told(router.chat(asking("kept", false), &[]).await).await.0, "", "switched off");
    assert_eq!(mock.books().received, received + 2);
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_hit_counts_as_a_request_and_needs_no_budget() {
    let key = "a-key-of-these-tests-1";
    let auth = format!(
        "auth: {{keys: [{{id: k, tenant: team, key: {key}, limits: {{requestsPerMinute: 12}}}}]}}\n\
         tenants: [{{name: team, budget: {{usd: 0.00012}}}}]\ncache: {{}}"
    );
    let (mock, router) = cached(&auth).await;
    eventually("the quota to be shared out", async || {
        let limits = router.admin("/admin/limits").await;
        limits["budgets"][0]["here"]["allowed_usd"].as_f64().unwrap_or(0.0) > 0.0
    })
    .await;
    let ask = async |text: &str| {
        let mut body = asking(text, false);
        body["max_tokens"] = json!(12);
        router.chat(body, &[("authorization", &format!("Bearer {key}"))]).await
    };
    // Each generation sets aside and costs some $0.00004.
    let mut generated = 0;
    while ask(&format!("{generated}")).await.status() == 200 {
        generated += 1;
        assert!(generated < 10, "the budget does not end");
    }
    let hit = ask("0").await;
    assert_eq!(
        (hit.status().as_u16(), header(&hit, "x-llm-router-cache")),
        (200, "hit"),
        "no budget is asked"
    );
    let mut last = 200;
    for _ in 0..14 {
        last = ask("0").await.status().as_u16();
    }
    assert_eq!(last, 429, "hits count against the rate");
    assert_eq!(mock.books().requests, generated);
    router.node.shutdown().await;
}
