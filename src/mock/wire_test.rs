//! The wire formats, slots and books, over real sockets.

use super::testing::*;
use super::{Mock, MockConfig, Speed, answer, input_tokens};
use llm_router_logic::backend::Kind;
use llm_router_logic::sign::sign_v1;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

const CHAT: &str = "/v1/chat/completions";

fn joined(events: &[Value], pointer: &str) -> String {
    events.iter().filter_map(|event| event.pointer(pointer).and_then(Value::as_str)).collect()
}

fn assert_books(mock: &Mock, requests: u64, input: u64, output: u64) {
    let books = mock.books();
    assert_eq!(
        (books.requests, books.input_tokens, books.output_tokens),
        (requests, input, output),
        "{books:?}"
    );
}

#[tokio::test]
async fn an_openai_answer_is_the_predicted_text_and_its_usage_is_in_the_books() {
    let mock = started(quick(Kind::OpenAi)).await;
    let (status, body) = post(&mock, CHAT, &openai_chat("hello there", false)).await;
    assert_eq!(status, 200);
    assert_eq!(body["choices"][0]["message"]["content"], answer("hello there", 12));
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["prompt_tokens"], input_tokens("hello there"));
    assert_eq!(body["usage"]["completion_tokens"], 12);
    assert_books(&mock, 1, 2, 12);
    assert_eq!(mock.books().by_model["gpt-4o-mini"].output_tokens, 12);
    let (_, text) = get(&mock, "/mock/books").await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["requests"], 1);
}

#[tokio::test]
async fn an_openai_stream_says_the_same_and_states_usage_only_when_asked() {
    let mock = started(quick(Kind::OpenAi)).await;
    let mut body = openai_chat("hello there", true);
    let plain = stream(&mock, CHAT, &body).await;
    assert_eq!(joined(&plain, "/choices/0/delta/content"), answer("hello there", 12));
    assert!(plain.iter().all(|event| event.get("usage").is_none()));
    assert_eq!(plain.last().unwrap()["choices"][0]["finish_reason"], "stop");
    body["stream_options"] = json!({"include_usage": true});
    body["max_tokens"] = json!(5);
    let (lines, whole) = events(send(&mock, CHAT, &body).await.unwrap()).await;
    assert!(whole);
    assert_eq!(lines.last().unwrap(), "[DONE]");
    let usage: Value = serde_json::from_str(&lines[lines.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 5);
    let last: Value = serde_json::from_str(&lines[lines.len() - 3]).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_books(&mock, 2, 4, 17);
}

#[tokio::test]
async fn completions_and_responses_answer_plain_and_streamed() {
    let mock = started(quick(Kind::OpenAi)).await;
    let mut body = json!({"model": "m", "prompt": "once"});
    let (_, whole) = post(&mock, "/v1/completions", &body).await;
    assert_eq!(whole["choices"][0]["text"], answer("once", 12));
    body["stream"] = json!(true);
    let chunks = stream(&mock, "/v1/completions", &body).await;
    assert_eq!(joined(&chunks, "/choices/0/text"), answer("once", 12));

    let mut body = json!({"model": "m", "input": "once", "instructions": "be brief"});
    let (_, whole) = post(&mock, "/v1/responses", &body).await;
    assert_eq!(whole["output"][0]["content"][0]["text"], answer("be brief\nonce", 12));
    body["stream"] = json!(true);
    let events = stream(&mock, "/v1/responses", &body).await;
    assert_eq!(joined(&events, "/delta"), answer("be brief\nonce", 12));
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    assert_eq!(events.last().unwrap()["response"]["usage"]["output_tokens"], 12);
    assert_eq!(mock.books().requests, 4);
}

#[tokio::test]
async fn anthropic_streams_its_events_in_order_and_the_same_text() {
    let mock = started(quick(Kind::Anthropic)).await;
    let mut body = json!({"model": "claude", "max_tokens": 100, "system": "be kind",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
    let (status, whole) = post(&mock, "/v1/messages", &body).await;
    assert_eq!((status, &whole["stop_reason"]), (200, &json!("end_turn")));
    assert_eq!(whole["content"][0]["text"], answer("be kind\nhi", 12));
    body["stream"] = json!(true);
    let events = stream(&mock, "/v1/messages", &body).await;
    let mut kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert_eq!(joined(&events, "/delta/text"), answer("be kind\nhi", 12));
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], 2);
    assert_eq!(events[events.len() - 2]["usage"]["output_tokens"], 12);
    assert_books(&mock, 2, 4, 24);
    body["stream"] = json!(false);
    let (_, counted) = post(&mock, "/v1/messages/count_tokens", &body).await;
    assert_eq!(counted, json!({"input_tokens": 2}));
    assert_eq!(mock.books().requests, 2, "counting is no request with usage");
}

#[tokio::test]
async fn gemini_answers_plain_as_sse_and_as_an_array_under_both_versions() {
    let mock = started(quick(Kind::Gemini)).await;
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "systemInstruction": {"parts": [{"text": "be kind"}]}});
    let expected = answer("be kind\nhi", 12);
    for version in ["v1", "v1beta"] {
        let path = format!("/{version}/models/gemini-x:generateContent");
        let (status, whole) = post(&mock, &path, &body).await;
        assert_eq!(status, 200);
        assert_eq!(whole["candidates"][0]["content"]["parts"][0]["text"], expected);
        assert_eq!(whole["candidates"][0]["finishReason"], "STOP");
        assert_eq!(whole["usageMetadata"]["totalTokenCount"], 14);
    }
    let path = "/v1beta/models/gemini-x:streamGenerateContent";
    let events = stream(&mock, &format!("{path}?alt=sse"), &body).await;
    assert_eq!(joined(&events, "/candidates/0/content/parts/0/text"), expected);
    assert_eq!(events.last().unwrap()["usageMetadata"]["candidatesTokenCount"], 12);
    let (_, array) = post(&mock, path, &body).await;
    assert_eq!(joined(array.as_array().unwrap(), "/candidates/0/content/parts/0/text"), expected);
    assert_eq!(mock.books().by_model["gemini-x"].requests, 4);
    let (_, counted) = post(&mock, "/v1beta/models/gemini-x:countTokens", &body).await;
    assert_eq!(counted["totalTokens"], 2);
}

#[tokio::test]
async fn each_dialect_calls_a_tool_when_told_to_and_once_only() {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let check = |arguments: &Value| assert!(arguments["city"].is_string(), "{arguments}");
    let mock = started(quick(Kind::OpenAi)).await;
    let mut body = openai_chat("please use_tool", true);
    body["tools"] = json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}}]);
    let chunks = stream(&mock, CHAT, &body).await;
    let name = "/choices/0/delta/tool_calls/0/function/name";
    assert_eq!(joined(&chunks, name), "weather");
    let arguments = joined(&chunks, "/choices/0/delta/tool_calls/0/function/arguments");
    check(&serde_json::from_str(&arguments).unwrap());
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    body["messages"].as_array_mut().unwrap().push(json!({"role": "tool", "content": "sun"}));
    let after = stream(&mock, CHAT, &body).await;
    assert_eq!(after.last().unwrap()["choices"][0]["finish_reason"], "stop", "the tool has answered");

    let mock = started(quick(Kind::Anthropic)).await;
    let mut body = json!({"model": "c", "max_tokens": 100, "tool_choice": {"type": "any"},
        "tools": [{"name": "weather", "input_schema": parameters}],
        "messages": [{"role": "user", "content": "hi"}]});
    let (_, whole) = post(&mock, "/v1/messages", &body).await;
    assert_eq!(
        (&whole["content"][0]["type"], &whole["stop_reason"]),
        (&json!("tool_use"), &json!("tool_use"))
    );
    check(&whole["content"][0]["input"]);
    body["stream"] = json!(true);
    let events = stream(&mock, "/v1/messages", &body).await;
    check(&serde_json::from_str(&joined(&events, "/delta/partial_json")).unwrap());

    let mock = started(quick(Kind::Gemini)).await;
    let body = json!({"contents": [{"parts": [{"text": "use_tool"}]}],
        "tools": [{"functionDeclarations": [{"name": "weather", "parametersJsonSchema": parameters}]}]});
    let events = stream(&mock, "/v1beta/models/g:streamGenerateContent?alt=sse", &body).await;
    let call = &events.last().unwrap()["candidates"][0]["content"]["parts"][0]["functionCall"];
    assert_eq!(call["name"], "weather");
    check(&call["args"]);
}

#[tokio::test]
async fn json_mode_answers_json_in_each_dialect() {
    let parse = |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap();
    let mock = started(quick(Kind::OpenAi)).await;
    let mut body = openai_chat("hi", false);
    body["response_format"] = json!({"type": "json_object"});
    let (_, whole) = post(&mock, CHAT, &body).await;
    assert!(parse(&whole["choices"][0]["message"]["content"])["answer"].is_string());
    let mock = started(quick(Kind::Gemini)).await;
    let schema = json!({"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}});
    let body = json!({"contents": [{"parts": [{"text": "hi"}]}],
        "generationConfig": {"responseMimeType": "application/json", "responseSchema": schema}});
    let (_, whole) = post(&mock, "/v1beta/models/g:generateContent", &body).await;
    assert!(parse(&whole["candidates"][0]["content"]["parts"][0]["text"])["n"].is_u64());
}

#[tokio::test]
async fn a_wrong_key_is_refused_in_the_dialects_own_shape() {
    let shapes: [(Kind, &str, Value, &str, &str, &str); 4] = [
        (Kind::OpenAi, CHAT, openai_chat("hi", false), "authorization", "Bearer k", "/error/code"),
        (Kind::Llama, CHAT, openai_chat("hi", false), "authorization", "Bearer k", "/error/type"),
        (
            Kind::Anthropic,
            "/v1/messages",
            json!({"model": "c", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}),
            "x-api-key",
            "k",
            "/error/type",
        ),
        (
            Kind::Gemini,
            "/v1/models/g:generateContent",
            json!({"contents": [{"parts": [{"text": "hi"}]}]}),
            "x-goog-api-key",
            "k",
            "/error/status",
        ),
    ];
    let words = ["invalid_api_key", "authentication_error", "authentication_error", "UNAUTHENTICATED"];
    for ((kind, path, body, header, key, pointer), word) in shapes.into_iter().zip(words) {
        let mock = started(MockConfig { api_key: Some("k".into()), ..quick(kind) }).await;
        let (status, refused) = post(&mock, path, &body).await;
        assert_eq!((status, refused.pointer(pointer)), (401, Some(&json!(word))), "{kind:?}: {refused}");
        let request = client().post(format!("{}{path}", mock.url())).header(header, key);
        let request = request.header("anthropic-version", "2023-06-01").body(body.to_string());
        assert_eq!(request.send().await.unwrap().status(), 200, "{kind:?}");
        assert_eq!((mock.books().errors, mock.books().requests), (1, 1));
    }
}

#[tokio::test]
async fn bad_requests_and_unknown_models_are_told_from_each_other() {
    let mock = started(MockConfig { models: vec!["known".into()], ..quick(Kind::OpenAi) }).await;
    let (status, body) = post(&mock, CHAT, &openai_chat("hi", false)).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")));
    for bad in [
        json!({"model": "known"}),
        json!({"model": "known", "messages": []}),
        json!({"model": "known", "messages": [{"role": "king", "content": "hi"}]}),
        json!({"model": "known", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 0}),
        json!({"messages": [{"role": "user", "content": "hi"}]}),
        json!("text"),
    ] {
        let (status, body) = post(&mock, CHAT, &bad).await;
        assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")), "{bad}");
    }
    let mock = started(MockConfig { models: vec!["known".into()], ..quick(Kind::Anthropic) }).await;
    let (status, body) = post(&mock, "/v1/messages", &json!({"model": "known", "messages": []})).await;
    assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")));
    let (status, _) = post(&mock, "/v1/messages", &json!({"model": "other"})).await;
    assert_eq!(status, 404);
    let (status, body) = post(&mock, "/v1/nowhere", &json!({})).await;
    assert_eq!((status, &body["error"]["type"]), (404, &json!("not_found_error")));
}

#[tokio::test]
async fn a_llama_server_ignores_the_model_and_ends_with_timings() {
    let mock = started(MockConfig { models: vec!["tiny".into()], ..quick(Kind::Llama) }).await;
    let (_, whole) = post(&mock, CHAT, &openai_chat("hi", false)).await;
    assert_eq!(whole["model"], "tiny");
    assert_eq!(whole["timings"]["predicted_n"], 12);
    assert!(whole["choices"][0].get("logprobs").is_none());
    assert!(whole["choices"][0]["message"].get("refusal").is_none());
    let chunks = stream(&mock, CHAT, &openai_chat("hi", true)).await;
    assert_eq!(chunks.last().unwrap()["timings"]["predicted_n"], 12);
    let mut body = openai_chat("hi", true);
    body["stream_options"] = json!({"include_usage": true});
    let chunks = stream(&mock, CHAT, &body).await;
    let last = chunks.last().unwrap();
    assert_eq!(
        (&last["usage"]["completion_tokens"], &last["timings"]["predicted_n"]),
        (&json!(12), &json!(12))
    );
    let (_, refused) = post(&mock, CHAT, &openai_chat(&"x".repeat(20_000), false)).await;
    assert_eq!(refused["error"]["type"], "exceed_context_size_error");
    let (_, metrics) = get(&mock, "/metrics").await;
    assert!(metrics.contains("\nllamacpp:tokens_predicted_total 36\n"), "{metrics}");
}

#[tokio::test]
async fn a_queued_llama_request_gets_no_headers_until_a_slot_is_free() {
    let config = MockConfig { slots: 1, output_tokens: 1_000_000, ..quick(Kind::Llama) };
    let mock =
        started(MockConfig { ttft: Duration::from_millis(1), tokens_per_second: 200.0, ..config }).await;
    let first = send(&mock, CHAT, &openai_chat("first", true)).await.unwrap();
    let url = format!("{}{CHAT}", mock.url());
    let second = tokio::spawn(client().post(url).body(openai_chat("second", true).to_string()).send());
    eventually(Duration::from_secs(2), "the second is queued", || mock.books().queued == 1).await;
    let (_, slots) = get(&mock, "/slots").await;
    assert_eq!(serde_json::from_str::<Value>(&slots).unwrap()[0]["is_processing"], true);
    let (_, metrics) = get(&mock, "/metrics").await;
    assert!(metrics.contains("llamacpp:requests_deferred 1\n"), "{metrics}");
    assert!(!second.is_finished(), "no headers while queued");
    drop(first);
    let answered = tokio::time::timeout(Duration::from_secs(2), second).await.unwrap().unwrap().unwrap();
    assert_eq!(answered.status(), 200);
    let books = mock.books();
    assert_eq!((books.cancelled, books.in_flight, books.peak_in_flight), (1, 1, 1));
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_or_its_place_within_a_tenth_of_a_second() {
    for (kind, streams) in [(Kind::OpenAi, true), (Kind::OpenAi, false), (Kind::Llama, true)] {
        let config =
            MockConfig { slots: 1, output_tokens: 1_000_000, tokens_per_second: 50.0, ..quick(kind) };
        let mock = started(config).await;
        let post = || {
            let url = format!("{}{CHAT}", mock.url());
            tokio::spawn(client().post(url).body(openai_chat("long", streams).to_string()).send())
        };
        let running = post();
        eventually(Duration::from_secs(2), "it runs", || mock.books().in_flight == 1).await;
        let queued = post();
        eventually(Duration::from_secs(2), "it waits", || mock.books().queued == 1).await;
        queued.abort();
        eventually(Duration::from_millis(100), "the place is free", || mock.books().queued == 0).await;
        running.abort();
        let left = running.await;
        drop(left);
        eventually(Duration::from_millis(100), "the slot is free", || mock.books().in_flight == 0).await;
        let books = mock.books();
        assert_eq!((books.cancelled, books.requests, books.output_tokens), (2, 0, 0), "{kind:?}: {books:?}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses() {
    for (kind, expected) in [(Kind::Llama, 503), (Kind::OpenAi, 429)] {
        let config =
            MockConfig { slots: 1, queue_limit: Some(0), ttft: Duration::from_secs(60), ..quick(kind) };
        let mock = started(config).await;
        let url = format!("{}{CHAT}", mock.url());
        let running = tokio::spawn(client().post(url).body(openai_chat("a", false).to_string()).send());
        eventually(Duration::from_secs(2), "it runs", || mock.books().in_flight == 1).await;
        let refused = send(&mock, CHAT, &openai_chat("b", false)).await.unwrap();
        assert_eq!(refused.status().as_u16(), expected);
        assert_eq!(refused.headers()["retry-after"], "1");
        running.abort();
    }
}

#[tokio::test]
async fn the_pace_is_kept_and_can_be_changed() {
    let config =
        MockConfig { ttft: Duration::from_millis(60), tokens_per_second: 200.0, ..quick(Kind::OpenAi) };
    let mock = started(config).await;
    let begun = Instant::now();
    post(&mock, CHAT, &openai_chat("hi", false)).await;
    // 60 ms and 11 pauses of 5 ms.
    assert!(begun.elapsed() >= Duration::from_millis(115), "{:?}", begun.elapsed());
    // At this pace the answer would take an hour.
    mock.set_speed(Speed { ttft: Duration::from_secs(3_600), tokens_per_second: 1.0 });
    mock.set_speed(Speed { ttft: Duration::ZERO, tokens_per_second: 0.0 });
    let answer =
        tokio::time::timeout(Duration::from_secs(60), post(&mock, CHAT, &openai_chat("hi", false))).await;
    assert!(answer.is_ok(), "the new pace did not take hold");
    let (status, body) = post(&mock, "/mock/speed", &json!({"ttftMs": 7})).await;
    assert_eq!((status, &body["ttftMs"]), (200, &json!(7)));
}

#[tokio::test]
async fn a_loading_llama_server_says_so_on_every_route() {
    let mock = started(MockConfig { loading: Duration::from_secs(3_600), ..quick(Kind::Llama) }).await;
    for path in ["/health", "/props", "/v1/models"] {
        let (status, text) = get(&mock, path).await;
        assert_eq!(status, 503, "{path}");
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            body["error"],
            json!({"message": "Loading model", "type": "unavailable_error", "code": 503})
        );
    }
    let mock = started(MockConfig { loading: Duration::from_millis(50), ..quick(Kind::Llama) }).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while get(&mock, "/health").await.0 != 200 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (_, props) = get(&mock, "/props").await;
    let props: Value = serde_json::from_str(&props).unwrap();
    assert_eq!((&props["total_slots"], &props["model_alias"]), (&json!(4), &json!("tiny")));
    assert_eq!(props["default_generation_settings"]["n_ctx"], 4_096);
}

#[tokio::test]
async fn embeddings_come_as_floats_or_base64_and_count_their_input() {
    let mock = started(quick(Kind::OpenAi)).await;
    let mut body = json!({"model": "e", "input": ["eight ch", "eight ch"], "dimensions": 3});
    let (_, whole) = post(&mock, "/v1/embeddings", &body).await;
    assert_eq!(whole["data"][0]["embedding"].as_array().unwrap().len(), 3);
    assert_eq!(whole["data"][0]["embedding"], whole["data"][1]["embedding"]);
    body["encoding_format"] = json!("base64");
    let (_, whole) = post(&mock, "/v1/embeddings", &body).await;
    assert_eq!(whole["data"][1]["embedding"].as_str().unwrap().len(), 16);
    assert_books(&mock, 2, 8, 0);
    let mock = started(MockConfig { embeddings: false, ..quick(Kind::Llama) }).await;
    assert_eq!(post(&mock, "/v1/embeddings", &body).await.0, 501);
    let mock = started(quick(Kind::Gemini)).await;
    let content = json!({"content": {"parts": [{"text": "hi"}]}, "outputDimensionality": 4});
    let (_, one) = post(&mock, "/v1beta/models/g:embedContent", &content).await;
    assert_eq!(one["embedding"]["values"].as_array().unwrap().len(), 4);
    let (_, two) =
        post(&mock, "/v1beta/models/g:batchEmbedContents", &json!({"requests": [content, content]})).await;
    assert_eq!(two["embeddings"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn signed_requests_pass_and_others_do_not() {
    let mock = started(MockConfig { hmac_secret: Some("s3cret".into()), ..quick(Kind::Llama) }).await;
    let body = openai_chat("hi", false).to_string();
    let now = super::app::unix_now();
    let signed = |stamp: u64, secret: &[u8]| {
        client()
            .post(format!("{}{CHAT}", mock.url()))
            .header("X-Timestamp", stamp.to_string())
            .header("X-Signature", sign_v1(secret, stamp, "POST", CHAT, body.as_bytes()))
            .header("X-Auth-Type", "hmac-sha256")
            .body(body.clone())
            .send()
    };
    assert_eq!(signed(now, b"s3cret").await.unwrap().status(), 200);
    assert_eq!(signed(now, b"other").await.unwrap().status(), 401);
    assert_eq!(signed(now - 400, b"s3cret").await.unwrap().status(), 401);
    assert_eq!(post(&mock, CHAT, &openai_chat("hi", false)).await.0, 401);
    assert_eq!(get(&mock, "/health").await.0, 200);
}

#[tokio::test]
async fn dropping_a_mock_breaks_streams_and_shutting_down_finishes_them() {
    let config =
        MockConfig { tokens_per_second: 40.0, ttft: Duration::ZERO, ..MockConfig::new(Kind::OpenAi) };
    let mock = started(MockConfig { output_tokens: 1_000_000, ..config.clone() }).await;
    let response = send(&mock, CHAT, &openai_chat("hi", true)).await.unwrap();
    drop(mock);
    let (_, whole) = tokio::time::timeout(Duration::from_secs(2), events(response)).await.unwrap();
    assert!(!whole, "a killed server ends in bad form");
    let mock = started(MockConfig { output_tokens: 10, ..config }).await;
    let addr = mock.addr();
    let response = send(&mock, CHAT, &openai_chat("hi", true)).await.unwrap();
    let (_, (lines, whole)) = tokio::join!(mock.shutdown(), events(response));
    assert!(whole);
    assert_eq!(lines.last().unwrap(), "[DONE]");
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "nobody listens any more");
}
