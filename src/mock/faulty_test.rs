//! Each fault as a client sees it.

use super::testing::*;
use super::{Action, Faults};
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

fn words(lines: &[String]) -> usize {
    let content = |line: &&String| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty())
    };
    lines.iter().filter(|line| *line != "[DONE]").filter(content).count()
}

#[tokio::test]
async fn a_status_has_the_dialects_shape_or_the_body_of_the_rule() {
    let rules = r#"[{match: {nth: 1}, action: {status: {code: 529, retryAfter: 1500ms}}},
        {action: {status: {code: 500, body: "plain words"}}}]"#;
    let mock = faulty(Kind::Anthropic, rules).await;
    let body = json!({"model": "c", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    let response = send(&mock, "/v1/messages", &body).await.unwrap();
    assert_eq!(response.status(), 529);
    assert_eq!(response.headers()["retry-after"], "2");
    let text = response.text().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["error"]["type"], "overloaded_error");
    assert_eq!(post(&mock, "/v1/messages", &body).await, (500, json!("plain words")));
    assert_eq!((mock.books().faults, mock.books().errors), (2, 2));
}

#[tokio::test]
async fn a_hanging_request_ends_when_its_client_leaves() {
    let mock = faulty(Kind::OpenAi, "[{action: hang}]").await;
    let request = tokio::spawn({
        let url = format!("{}{CHAT}", mock.url());
        client().post(url).body(openai_chat("hi", false).to_string()).send()
    });
    eventually(Duration::from_secs(2), "it hangs", || mock.books().faults == 1).await;
    assert!(!request.is_finished());
    request.abort();
    eventually(Duration::from_millis(100), "it is counted", || mock.books().cancelled == 1).await;
}

#[tokio::test]
async fn a_cut_stream_breaks_after_its_tokens_and_a_clean_end_does_not_break() {
    let rules = "[{match: {contains: sever}, action: {cut: {afterTokens: 3}}}, {action: {cleanEnd: {afterTokens: 4}}}]";
    for kind in [Kind::OpenAi, Kind::Llama] {
        let mock = faulty(kind, rules).await;
        let (lines, whole) = events(send(&mock, CHAT, &openai_chat("sever it", true)).await.unwrap()).await;
        assert_eq!((words(&lines), whole), (3, false), "{kind:?}");
        let (lines, whole) = events(send(&mock, CHAT, &openai_chat("end it", true)).await.unwrap()).await;
        assert_eq!((words(&lines), whole), (4, true), "{kind:?}");
        assert!(lines.iter().all(|line| line != "[DONE]" && !line.contains("\"stop\"")));
        let books = mock.books();
        assert_eq!((books.requests, books.broken, books.unfinished_output_tokens), (0, 2, 7), "{books:?}");
        // A plain answer is cut in the middle of its bytes.
        let response = send(&mock, CHAT, &openai_chat("sever it", false)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.text().await.is_err());
    }
}

#[tokio::test]
async fn a_stalled_stream_falls_silent_and_keeps_its_slot() {
    let mock = faulty(Kind::OpenAi, "[{action: {stall: {afterTokens: 2}}}]").await;
    let response = send(&mock, CHAT, &openai_chat("hi", true)).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(200), events(response));
    assert!(silent.await.is_err(), "the stream must neither end nor break");
    // The time-out dropped the response: the client has left.
    eventually(Duration::from_millis(100), "the slot is free", || mock.books().in_flight == 0).await;
    assert_eq!((mock.books().cancelled, mock.books().unfinished_output_tokens), (1, 2));
}

#[tokio::test]
async fn wrong_usage_is_stated_and_the_books_keep_the_truth() {
    let rules =
        "[{match: {nth: 1}, action: {wrongUsage: {factor: 3}}}, {action: {wrongUsage: {missing: true}}}]";
    let mock = faulty(Kind::OpenAi, rules).await;
    let (_, body) = post(&mock, CHAT, &openai_chat("hi", false)).await;
    assert_eq!(body["usage"]["completion_tokens"], 36);
    let (_, body) = post(&mock, CHAT, &openai_chat("hi", false)).await;
    assert!(body.get("usage").is_none());
    assert_eq!((mock.books().requests, mock.books().output_tokens), (2, 24));
}

#[tokio::test]
async fn a_burst_refuses_its_count_and_then_lets_through() {
    let mock = faulty(Kind::Gemini, "[{times: 1, action: {burst429: {count: 2, retryAfter: 3}}}]").await;
    let body = json!({"contents": [{"parts": [{"text": "hi"}]}]});
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = send(&mock, "/v1/models/g:generateContent", &body).await.unwrap();
        let wait = response.headers().get("retry-after").map(|wait| wait.to_str().unwrap().to_owned());
        seen.push((response.status().as_u16(), wait));
    }
    assert_eq!(seen, [(429, Some("3".into())), (429, Some("3".into())), (200, None)]);
}

#[tokio::test]
async fn malformed_answers_and_errors_behind_200_keep_the_content_type() {
    for (kind, path) in [(Kind::OpenAi, CHAT), (Kind::Gemini, "/v1/models/g:streamGenerateContent")] {
        let mock = faulty(kind, "[{match: {nth: 1}, action: malformed}, {action: errorBody200}]").await;
        let mut body = openai_chat("hi", true);
        body["contents"] = json!([]);
        let (lines, whole) = events(send(&mock, path, &body).await.unwrap()).await;
        assert!(whole && serde_json::from_str::<Value>(&lines[0]).is_err());
        let response = send(&mock, path, &body).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        let (lines, _) = events(response).await;
        assert!(serde_json::from_str::<Value>(&lines[0]).unwrap()["error"].is_object());
    }
    let mock = faulty(Kind::OpenAi, "[{match: {nth: 1}, action: malformed}, {action: errorBody200}]").await;
    let (status, body) = post(&mock, CHAT, &openai_chat("hi", false)).await;
    assert!(status == 200 && body.is_string());
    let (status, body) = post(&mock, CHAT, &openai_chat("hi", false)).await;
    assert!(status == 200 && body["error"].is_object());
}

#[tokio::test]
async fn a_disconnect_closes_without_an_answer() {
    let mock = faulty(Kind::OpenAi, "[{times: 1, action: disconnect}]").await;
    assert!(send(&mock, CHAT, &openai_chat("hi", false)).await.is_err());
    assert_eq!(post(&mock, CHAT, &openai_chat("hi", false)).await.0, 200);
}

#[tokio::test]
async fn unhealthy_fails_probes_and_spares_inference() {
    let mock = faulty(Kind::Llama, "[{action: unhealthy}]").await;
    for path in ["/health", "/v1/models", "/props", "/slots", "/metrics"] {
        assert_eq!(get(&mock, path).await.0, 503, "{path}");
    }
    assert_eq!(post(&mock, CHAT, &openai_chat("hi", false)).await.0, 200);
}

#[tokio::test]
async fn a_slow_answer_waits_for_its_first_token() {
    let mock = faulty(Kind::OpenAi, "[{action: {slow: {ttft: 80ms, tokensPerSecond: 1000}}}]").await;
    let begun = tokio::time::Instant::now();
    post(&mock, CHAT, &openai_chat("hi", false)).await;
    assert!(begun.elapsed() >= Duration::from_millis(91), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn rules_are_replaced_live_and_bad_ones_change_nothing() {
    let mock = faulty(Kind::OpenAi, "[{action: {status: {code: 500}}}]").await;
    let (status, body) = post(&mock, "/mock/faults", &json!([{"action": "explode"}])).await;
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains("rules[0].action"), "{body}");
    assert_eq!(post(&mock, CHAT, &openai_chat("hi", false)).await.0, 500);
    let (_, shown) = get(&mock, "/mock/faults").await;
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["fired"], json!([1]));
    assert_eq!(post(&mock, "/mock/faults", &json!([])).await.0, 200);
    assert_eq!(post(&mock, CHAT, &openai_chat("hi", false)).await.0, 200);
    mock.set_faults(Faults::always(Action::Status { code: 418, retry_after: None, body: None }).unwrap());
    assert_eq!(post(&mock, CHAT, &openai_chat("hi", false)).await.0, 418);
}
