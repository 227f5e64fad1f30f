//! Usage as providers state it: figures that others recorded from their APIs (Gemini: took for a fixture), read into our
//! classes.
//!
//! What proves the reading is each provider's own sum: the classes of one answer together are its total.

use llm_router_logic::backend::Kind;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::wire::{Dialect, Exchange, Operation, Reply};
use serde_json::{Value, json};

/// The usage read of a whole answer.
fn read(kind: Kind, dialect: Dialect, operation: Operation, body: &Value) -> Usage {
    let mut reply = Reply::new(Exchange {
        dialect,
        operation,
        client_streams: false,
        include_usage: false,
        kind,
        upstream_streams: false,
        model: "shown".to_owned(),
        response_id: "r1".to_owned(),
        created: 1,
        json_array: false,
        echo: None,
    });
    let mut out = Vec::new();
    reply.push(body.to_string().as_bytes(), &mut out).unwrap();
    reply.finish(&mut out).unwrap();
    reply.usage().unwrap()
}

fn all(usage: &Usage) -> u64 {
    usage.total_input() + usage.total_output()
}

#[test]
fn openai_counts_cached_and_reasoning_tokens_within_its_sums() {
    // gpt-5.5-2026-04-23, chat completions; its recorder was billed for 3,619 tokens in and 8,110 out.
    let chat = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3619, "completion_tokens": 8110, "total_tokens": 11729,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 2560, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}},
    });
    let usage = read(Kind::OpenAi, Dialect::OpenAi, Operation::Chat, &chat);
    assert_eq!(usage, Usage { input: 3619, output: 5550, reasoning: 2560, ..Usage::default() });
    assert_eq!(all(&usage), 11729);

    // gpt-4.1-2025-04-14, responses (coder/aibridge, fixture `cached_input_tokens`).
    let response = json!({
        "id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": [
            {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "annotations": [], "text": "a"}]}],
        "usage": {"input_tokens": 12033, "input_tokens_details": {"cached_tokens": 11904},
            "output_tokens": 44, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 12077},
    });
    let usage = read(Kind::OpenAi, Dialect::OpenAi, Operation::Responses, &response);
    assert_eq!(usage, Usage { input: 129, cached_read: 11904, output: 44, ..Usage::default() });
    assert_eq!(all(&usage), 12077);
}

#[test]
fn anthropic_counts_what_it_read_from_and_wrote_to_its_cache_beside_its_input() {
    // Recorded by Claude Code on 2026-04-10.
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 3, "cache_creation_input_tokens": 4673, "cache_read_input_tokens": 11367,
            "output_tokens": 80, "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
            "service_tier": "standard",
            "cache_creation": {"ephemeral_1h_input_tokens": 4673, "ephemeral_5m_input_tokens": 0}},
    });
    let usage = read(Kind::Anthropic, Dialect::Anthropic, Operation::Chat, &message);
    let wanted = Usage { input: 3, cached_read: 11367, cache_write_1h: 4673, output: 80, ..Usage::default() };
    assert_eq!(usage, wanted);
    assert_eq!(all(&usage), 3 + 4673 + 11367 + 80);
}

#[test]
fn gemini_counts_cached_tokens_within_its_prompt_and_thoughts_beside_its_answer() {
    let answer = json!({
        "candidates": [{"content": {"parts": [{"text": "a"}], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 3104, "candidatesTokenCount": 912, "totalTokenCount": 5210,
            "cachedContentTokenCount": 2048,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 2846}, {"modality": "DOCUMENT", "tokenCount": 258}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 2048}],
            "thoughtsTokenCount": 1194},
    });
    let usage = read(Kind::Gemini, Dialect::Gemini, Operation::Chat, &answer);
    let wanted = Usage { input: 1056, cached_read: 2048, output: 912, reasoning: 1194, ..Usage::default() };
    assert_eq!(usage, wanted);
    assert_eq!(all(&usage), 5210);
}
