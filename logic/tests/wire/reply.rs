//! What a `Reply` promises besides its translation: when content counts as sent, what a failure looks
//! like to the client, and that odd framing and sizes are survived.

use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::wire::{Dialect, Exchange, Operation, Reply, ReplyError};
use serde_json::{Value, json};

fn exchange(dialect: Dialect, kind: Kind, stream: bool) -> Exchange {
    Exchange {
        dialect,
        operation: Operation::Chat,
        client_streams: stream,
        include_usage: false,
        kind,
        upstream_streams: stream || kind == Kind::Llama,
        model: "shown".to_owned(),
        response_id: "r1".to_owned(),
        created: 1,
        json_array: false,
        echo: None,
    }
}

fn chunk(delta: &Value, finish: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    format!(
        "data: {}\n\n",
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]})
    )
}

const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";

fn text(out: &[u8]) -> String {
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn nothing_is_sent_before_the_first_content() {
    for (dialect, kind) in
        [(Dialect::OpenAi, Kind::Llama), (Dialect::Anthropic, Kind::OpenAi), (Dialect::Gemini, Kind::OpenAi)]
    {
        let mut reply = Reply::new(exchange(dialect, kind, true));
        let mut out = Vec::new();
        reply.push(b": keep-alive\n\n", &mut out).unwrap();
        reply.push(chunk(&json!({"role": "assistant", "content": ""}), None).as_bytes(), &mut out).unwrap();
        assert!(out.is_empty() && !reply.has_content(), "{dialect:?}: a role is no content");
        reply.push(chunk(&json!({"content": "a"}), None).as_bytes(), &mut out).unwrap();
        assert!(!out.is_empty() && reply.has_content(), "{dialect:?}");
        assert_eq!(reply.output_events(), 1);
        assert!(!reply.is_complete());
    }
}

#[test]
fn a_forwarded_stream_keeps_every_byte_of_its_data() {
    let mut reply = Reply::new(exchange(Dialect::OpenAi, Kind::OpenAi, true));
    let odd = r#"data: { "x_new":1.50, "choices":[{"index":0,"delta":{"content":"\u00e9"},"finish_reason":"stop"}] ,"choices2":[]}"#;
    let mut out = Vec::new();
    reply
        .push(format!("{odd}\r\n\r\n: ping\r\n\r\n{USAGE}data: [DONE]\r\n\r\n").as_bytes(), &mut out)
        .unwrap();
    reply.finish(&mut out).unwrap();
    assert_eq!(text(&out), format!("{odd}\n\ndata: [DONE]\n\n"), "the usage chunk is ours and hidden");
    assert_eq!(reply.usage().unwrap().output, 2);
    assert!(reply.is_complete());
}

#[test]
fn a_stream_in_place_of_the_body_asked_for_is_put_together() {
    let whole = |operation, kind, dialect, stream: &str| {
        let asked = Exchange { operation, upstream_streams: false, ..exchange(dialect, kind, false) };
        let mut reply = Reply::new(asked);
        let mut out = Vec::new();
        reply.push(stream.as_bytes(), &mut out)?;
        reply.finish(&mut out)?;
        Ok::<Value, ReplyError>(serde_json::from_slice(&out).expect("the client gets one body"))
    };
    let chat = chunk(&json!({"content": "a"}), None) + &chunk(&json!({"content": "b"}), Some("stop"));
    let body =
        whole(Operation::Chat, Kind::OpenAi, Dialect::OpenAi, &format!("{chat}{USAGE}data: [DONE]\n\n"));
    assert_eq!(body.as_ref().unwrap()["choices"][0]["message"]["content"], "ab");
    assert_eq!(body.unwrap()["usage"]["completion_tokens"], 2);

    let legacy = "data: {\"choices\":[{\"index\":0,\"text\":\"ab\",\"finish_reason\":\"stop\"}]}\n\n";
    let body = whole(Operation::Completion, Kind::Llama, Dialect::OpenAi, legacy);
    assert_eq!(body.unwrap()["choices"][0]["text"], "ab");

    let gemini = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"ab\"}]},\"finishReason\":\"STOP\"}]}\n\n";
    let body = whole(Operation::Chat, Kind::Gemini, Dialect::Gemini, gemini);
    assert_eq!(body.unwrap()["candidates"][0]["content"]["parts"][0]["text"], "ab");

    let responses = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{}}\n\n";
    let refused = whole(Operation::Responses, Kind::OpenAi, Dialect::OpenAi, responses);
    assert!(matches!(refused, Err(ReplyError::Malformed(_))), "{refused:?}");
}

#[test]
fn a_forwarded_body_keeps_every_byte() {
    let body = "{ \"choices\":[{\"message\":{\"content\":\"x\"}}],\n \"big\": 1e400, \"usage\":{\"prompt_tokens\":3, \"completion_tokens\":2.0e0}}\n";
    let mut reply = Reply::new(exchange(Dialect::OpenAi, Kind::OpenAi, false));
    let mut out = Vec::new();
    reply.push(body.as_bytes(), &mut out).unwrap();
    assert!(out.is_empty());
    reply.finish(&mut out).unwrap();
    assert_eq!(text(&out), body);
    assert_eq!(reply.usage().unwrap().input, 3);
}

#[test]
fn multi_line_data_and_all_line_ends_are_read() {
    for end in ["\n", "\r\n", "\r"] {
        let stream = "event: x\ndata: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n";
        let mut reply = Reply::new(exchange(Dialect::OpenAi, Kind::Llama, false));
        let mut out = Vec::new();
        reply.push(stream.replace('\n', end).as_bytes(), &mut out).unwrap();
        reply.finish(&mut out).unwrap();
        let body: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(body["choices"][0]["message"]["content"], "hi", "{end:?}");
    }
}

#[test]
fn a_character_split_over_chunks_arrives_whole() {
    let stream = chunk(&json!({"content": "🦙é"}), Some("stop"));
    let mut reply = Reply::new(exchange(Dialect::Anthropic, Kind::OpenAi, true));
    let mut out = Vec::new();
    for byte in stream.as_bytes() {
        reply.push(std::slice::from_ref(byte), &mut out).unwrap();
    }
    reply.finish(&mut out).unwrap();
    assert!(text(&out).contains("\"text\":\"🦙é\""));
}

#[test]
fn an_event_of_four_megabytes_passes_and_one_over_the_bound_fails() {
    let large = "z".repeat(4 * 1024 * 1024);
    let mut reply = Reply::new(exchange(Dialect::Anthropic, Kind::Llama, true));
    let mut out = Vec::new();
    reply.push(chunk(&json!({"content": large}), Some("stop")).as_bytes(), &mut out).unwrap();
    reply.finish(&mut out).unwrap();
    assert!(text(&out).contains(&large));

    let mut reply = Reply::new(exchange(Dialect::OpenAi, Kind::Llama, true));
    let line = format!("data: {}", "z".repeat(64 * 1024));
    let failed = (0..200).find_map(|_| reply.push(line.as_bytes(), &mut Vec::new()).err());
    assert!(matches!(failed, Some(ReplyError::Malformed(_))), "{failed:?}");
}

#[test]
fn a_body_over_the_bound_fails() {
    let mut reply = Reply::new(exchange(Dialect::OpenAi, Kind::OpenAi, false));
    let part = vec![b' '; 1024 * 1024];
    let mut out = Vec::new();
    reply.push(b"{", &mut out).unwrap();
    let failed = (0..80).find_map(|_| reply.push(&part, &mut out).err());
    assert!(matches!(failed, Some(ReplyError::Malformed(_))), "{failed:?}");
}

#[test]
fn html_and_truncated_json_are_told_apart_from_an_answer() {
    for (body, stream) in [("<html>nginx</html>", true), ("<html>nginx</html>", false), ("\"text\"", false)] {
        let mut reply = Reply::new(exchange(Dialect::OpenAi, Kind::OpenAi, stream));
        let mut out = Vec::new();
        reply.push(body.as_bytes(), &mut out).unwrap();
        assert!(matches!(reply.finish(&mut out), Err(ReplyError::Malformed(_))), "{body}");
        assert!(out.is_empty());
    }
    for stream in [true, false] {
        let mut reply = Reply::new(exchange(Dialect::Anthropic, Kind::Anthropic, stream));
        reply.push(b"{\"content\":[{\"type\":\"te", &mut Vec::new()).unwrap();
        assert!(matches!(reply.finish(&mut Vec::new()), Err(ReplyError::Incomplete(_))));
    }
    let mut empty = Reply::new(exchange(Dialect::OpenAi, Kind::OpenAi, true));
    empty.push(b"\n\n", &mut Vec::new()).unwrap();
    assert!(matches!(empty.finish(&mut Vec::new()), Err(ReplyError::Incomplete(_))));
    let mut only_done = Reply::new(exchange(Dialect::OpenAi, Kind::OpenAi, true));
    assert!(matches!(only_done.push(b"data: [DONE]\n\n", &mut Vec::new()), Err(ReplyError::Incomplete(_))));
}

#[test]
fn a_stream_without_its_last_blank_line_is_complete() {
    let mut reply = Reply::new(exchange(Dialect::Gemini, Kind::OpenAi, true));
    let mut out = Vec::new();
    reply.push(chunk(&json!({"content": "a"}), None).as_bytes(), &mut out).unwrap();
    reply.push(chunk(&json!({}), Some("stop")).trim_end().as_bytes(), &mut out).unwrap();
    reply.finish(&mut out).unwrap();
    assert!(text(&out).contains("\"finishReason\":\"STOP\""));
}

#[test]
fn a_server_that_omits_the_end_of_an_anthropic_stream_gets_it_added() {
    let mut reply = Reply::new(exchange(Dialect::Anthropic, Kind::Anthropic, true));
    let mut out = Vec::new();
    for event in [
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
    ] {
        reply
            .push(
                format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()).as_bytes(),
                &mut out,
            )
            .unwrap();
    }
    reply.finish(&mut out).unwrap();
    assert!(text(&out).ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));
}

#[test]
fn a_failure_after_content_is_a_typed_error_event_and_a_proper_end() {
    let error = ApiError::new(ErrorKind::Upstream, "it broke").with_code("backend_stream_broken");
    let failed = |dialect, operation, json_array| {
        let exchange = Exchange { operation, json_array, ..exchange(dialect, Kind::Llama, true) };
        let mut reply = Reply::new(exchange);
        let mut out = Vec::new();
        reply.push(chunk(&json!({"content": "a"}), None).as_bytes(), &mut out).unwrap();
        let before = out.len();
        reply.fail(&error, &mut out);
        let told = text(&out[before..]);
        reply.fail(&error, &mut out);
        assert_eq!(out.len(), before + told.len(), "an end is told once");
        (text(&out), told)
    };
    let (_, openai) = failed(Dialect::OpenAi, Operation::Chat, false);
    assert_eq!(
        openai,
        "data: {\"error\":{\"message\":\"it broke\",\"type\":\"server_error\",\"param\":null,\
         \"code\":\"backend_stream_broken\"}}\n\ndata: [DONE]\n\n"
    );
    let (_, anthropic) = failed(Dialect::Anthropic, Operation::Chat, false);
    assert!(
        anthropic.starts_with("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"")
    );
    let (_, gemini) = failed(Dialect::Gemini, Operation::Chat, false);
    assert!(gemini.starts_with("data: {\"error\":{\"code\":502,"));
    let (_, responses) = failed(Dialect::OpenAi, Operation::Responses, false);
    assert!(responses.contains("event: error\n") && responses.contains("\"status\":\"failed\""));
    let (array, _) = failed(Dialect::Gemini, Operation::Chat, true);
    let array: Value = serde_json::from_str(&array).unwrap();
    assert_eq!(array.as_array().unwrap().last().unwrap()["error"]["status"], "INTERNAL");
}

#[test]
fn content_is_read_before_a_gathered_body_is_sent() {
    let mut reply = Reply::new(exchange(Dialect::OpenAi, Kind::Llama, false));
    let mut out = Vec::new();
    reply.push(chunk(&json!({"content": "a"}), None).as_bytes(), &mut out).unwrap();
    assert!(reply.has_read_content() && !reply.has_content() && out.is_empty());
    reply.push(chunk(&json!({}), Some("stop")).as_bytes(), &mut out).unwrap();
    assert!(!reply.is_complete(), "usage is still to come");
    reply.push(USAGE.as_bytes(), &mut out).unwrap();
    assert!(reply.is_complete());
    reply.finish(&mut out).unwrap();
    assert!(reply.has_content());
}

#[test]
fn calls_under_one_index_are_told_apart_by_their_ids() {
    let call = |id: &str, name: &str| json!({"tool_calls": [{"index": 0, "id": id, "function": {"name": name, "arguments": "{}"}}]});
    let mut reply = Reply::new(exchange(Dialect::OpenAi, Kind::Llama, false));
    let mut out = Vec::new();
    reply.push(chunk(&call("a", "f"), None).as_bytes(), &mut out).unwrap();
    reply.push(chunk(&call("b", "g"), Some("tool_calls")).as_bytes(), &mut out).unwrap();
    reply.finish(&mut out).unwrap();
    let body: Value = serde_json::from_slice(&out).unwrap();
    let calls = body["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), calls[1]["function"]["name"].as_str()), (2, Some("g")));
}
