//! Properties of every translator: no input makes one panic, and no text is lost.

use super::{cases, wire_bytes};
use llm_router_logic::backend::Kind;
use llm_router_logic::wire::{Dialect, Exchange, Inbound, Operation, Reply, encode, inspect, sse};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::OnceLock;

const KINDS: [Kind; 4] = [Kind::OpenAi, Kind::Anthropic, Kind::Gemini, Kind::Llama];
const DIALECTS: [Dialect; 3] = [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini];

/// Requests and answers of the golden cases: what mutations start from.
#[derive(Default)]
struct Seeds {
    requests: Vec<(Dialect, Operation, Value)>,
    answers: Vec<(Kind, Value)>,
}

fn seeds() -> &'static Seeds {
    static SEEDS: OnceLock<Seeds> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let mut seeds = Seeds::default();
        for (_, _, case) in cases() {
            seeds.requests.extend(case.request.map(|request| (case.client, case.operation, request)));
            seeds.answers.extend(case.receives.map(|receives| (case.backend, receives)));
        }
        seeds
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{1,9}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Replaces one node, found by walking along `path`, by `with`, or removes it.
fn mutate(value: &mut Value, path: &[usize], with: Option<Value>) {
    let Some((first, rest)) = path.split_first() else {
        *value = with.unwrap_or(Value::Null);
        return;
    };
    match value {
        Value::Array(values) if !values.is_empty() => {
            let at = first % values.len();
            if rest.is_empty() && with.is_none() {
                values.remove(at);
            } else {
                mutate(&mut values[at], rest, with);
            }
        }
        Value::Object(members) if !members.is_empty() => {
            let key = members.keys().nth(first % members.len()).unwrap().clone();
            if rest.is_empty() && with.is_none() {
                members.shift_remove(&key);
            } else {
                mutate(members.get_mut(&key).unwrap(), rest, with);
            }
        }
        other => *other = with.unwrap_or(Value::Null),
    }
}

fn exchange(dialect: Dialect, operation: Operation, kind: Kind, stream: bool) -> Exchange {
    Exchange {
        dialect,
        operation,
        client_streams: stream,
        include_usage: true,
        kind,
        upstream_streams: true,
        model: "m".to_owned(),
        response_id: "r".to_owned(),
        created: 1,
        json_array: dialect == Dialect::Gemini && operation == Operation::Chat && kind == Kind::Anthropic,
        echo: None,
    }
}

/// The upstream's stream of some text deltas, each preceded by thinking where the dialect has it.
fn upstream(kind: Kind, thoughts: &[String], texts: &[String], arguments: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut tell = |value: Value| sse::write_event(None, &value.to_string(), &mut out);
    match kind {
        Kind::OpenAi | Kind::Llama => {
            let mut chunk = |delta: Value, finish: Value| {
                tell(json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}));
            };
            thoughts.iter().for_each(|text| chunk(json!({"reasoning_content": text}), Value::Null));
            texts.iter().for_each(|text| chunk(json!({"content": text}), Value::Null));
            let function = json!({"name": "f", "arguments": arguments});
            chunk(json!({"tool_calls": [{"index": 0, "id": "c1", "function": function}]}), Value::Null);
            chunk(json!({}), json!("tool_calls"));
        }
        Kind::Anthropic => {
            tell(json!({"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 1}}}));
            let mut block = |start: Value, deltas: Vec<Value>| {
                tell(json!({"type": "content_block_start", "index": 0, "content_block": start}));
                for delta in deltas {
                    tell(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
                }
                tell(json!({"type": "content_block_stop", "index": 0}));
            };
            let of = |kind: &str, key: &str, texts: &[String]| {
                texts.iter().map(|text| json!({"type": kind, key: text})).collect::<Vec<_>>()
            };
            block(json!({"type": "thinking", "thinking": ""}), of("thinking_delta", "thinking", thoughts));
            block(json!({"type": "text", "text": ""}), of("text_delta", "text", texts));
            let pieces: Vec<String> = arguments.chars().map(String::from).collect();
            let start = json!({"type": "tool_use", "id": "c1", "name": "f", "input": {}});
            block(start, of("input_json_delta", "partial_json", &pieces));
            tell(
                json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}}),
            );
            tell(json!({"type": "message_stop"}));
        }
        Kind::Gemini => {
            let mut chunk = |part: Value, finish: Value| {
                tell(json!({"candidates": [{"content": {"parts": [part]}, "finishReason": finish}]}));
            };
            thoughts.iter().for_each(|text| chunk(json!({"text": text, "thought": true}), Value::Null));
            texts.iter().for_each(|text| chunk(json!({"text": text}), Value::Null));
            let args: Value = serde_json::from_str(arguments).unwrap();
            chunk(json!({"functionCall": {"name": "f", "args": args}}), json!("STOP"));
        }
    }
    out
}

/// All text, all thinking and all tool arguments in a client's answer.
fn told(exchange: &Exchange, out: &[u8]) -> (String, String, String) {
    let values: Vec<Value> = if exchange.client_streams && !exchange.json_array {
        let mut events = Vec::new();
        sse::Reader::default().push(out, &mut events).unwrap();
        events.into_iter().filter_map(|event| serde_json::from_str(&event.data).ok()).collect()
    } else {
        match serde_json::from_slice(out).unwrap() {
            Value::Array(values) => values,
            one => vec![one],
        }
    };
    let mut told = (String::new(), String::new(), String::new());
    let add = |held: &mut String, value: Option<&Value>| {
        held.push_str(value.and_then(Value::as_str).unwrap_or_default());
    };
    for value in &values {
        for choice in value["choices"].as_array().into_iter().flatten() {
            let message = choice.get("delta").or(choice.get("message")).unwrap();
            add(&mut told.0, message.get("content"));
            add(&mut told.1, message.get("reasoning_content"));
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                add(&mut told.2, call.pointer("/function/arguments"));
            }
        }
        for block in value["content"].as_array().into_iter().flatten() {
            add(&mut told.0, block.get("text"));
            add(&mut told.1, block.get("thinking"));
            told.2.push_str(&block.get("input").map(Value::to_string).unwrap_or_default());
        }
        if value["type"] == "content_block_delta" {
            add(&mut told.0, value.pointer("/delta/text"));
            add(&mut told.1, value.pointer("/delta/thinking"));
            add(&mut told.2, value.pointer("/delta/partial_json"));
        }
        for part in
            value.pointer("/candidates/0/content/parts").and_then(Value::as_array).into_iter().flatten()
        {
            let held = if part["thought"] == true { &mut told.1 } else { &mut told.0 };
            add(held, part.get("text"));
            told.2.push_str(&part.pointer("/functionCall/args").map(Value::to_string).unwrap_or_default());
        }
        match value["type"].as_str() {
            Some("response.output_text.delta") => add(&mut told.0, value.get("delta")),
            Some("response.reasoning_summary_text.delta") => add(&mut told.1, value.get("delta")),
            Some("response.function_call_arguments.delta") => add(&mut told.2, value.get("delta")),
            _ => {}
        }
        for item in value["output"].as_array().into_iter().flatten() {
            add(&mut told.0, item.pointer("/content/0/text"));
            add(&mut told.1, item.pointer("/summary/0/text"));
            add(&mut told.2, item.get("arguments"));
        }
    }
    told
}

/// Every string in a value, at any depth.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        Value::Object(members) => members.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

/// A conversation of a system prompt and turns in each dialect.
fn conversation(dialect: Dialect, system: &str, turns: &[String]) -> Value {
    let role = |at: usize, model: &'static str| if at.is_multiple_of(2) { "user" } else { model };
    let messages = |model| {
        let turns = turns.iter().enumerate();
        turns.map(|(at, text)| json!({"role": role(at, model), "content": text})).collect::<Vec<_>>()
    };
    match dialect {
        Dialect::OpenAi => {
            let mut all = vec![json!({"role": "system", "content": system})];
            all.extend(messages("assistant"));
            json!({"model": "m", "messages": all})
        }
        Dialect::Anthropic => {
            json!({"model": "m", "max_tokens": 9, "system": system, "messages": messages("assistant")})
        }
        Dialect::Gemini => {
            let contents: Vec<Value> = turns
                .iter()
                .enumerate()
                .map(|(at, text)| json!({"role": role(at, "model"), "parts": [{"text": text}]}))
                .collect();
            json!({"systemInstruction": {"parts": [{"text": system}]}, "contents": contents})
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_request_makes_a_translator_panic(
        seed in any::<prop::sample::Index>(),
        path in proptest::collection::vec(0usize..12, 0..7),
        with in proptest::option::of(any_json()),
    ) {
        let (dialect, operation, request) = seed.get(&seeds().requests);
        let mut request = request.clone();
        mutate(&mut request, &path, with);
        let body = request.to_string();
        let inbound = match dialect {
            Dialect::Gemini => Inbound::gemini(*operation, body.as_bytes(), "m", true, true),
            _ => Inbound::new(*dialect, *operation, body.as_bytes()),
        };
        // What routing refuses never reaches a translator, but a translator must stand on its own.
        let inspected = inspect(&inbound).unwrap_or_default();
        for kind in KINDS {
            match encode(&inbound, &inspected, kind, "x") {
                Ok(encoded) => prop_assert!(serde_json::from_slice::<Value>(&encoded.body).is_ok()),
                Err(error) => prop_assert_eq!(error.status, 400),
            }
        }
    }

    #[test]
    fn no_bytes_make_inspection_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in ".{0,60}") {
        for dialect in DIALECTS {
            let _ = inspect(&Inbound::new(dialect, Operation::Chat, &bytes));
            let _ = inspect(&Inbound::new(dialect, Operation::Chat, text.as_bytes()));
        }
    }

    #[test]
    fn no_answer_makes_a_translator_panic(
        seed in any::<prop::sample::Index>(),
        path in proptest::collection::vec(0usize..12, 0..8),
        with in proptest::option::of(any_json()),
        size in 1usize..60,
        stream in any::<bool>(),
    ) {
        let (kind, receives) = seed.get(&seeds().answers);
        let mut receives = receives.clone();
        mutate(&mut receives, &path, with);
        let bytes = wire_bytes(&receives);
        for dialect in DIALECTS {
            for operation in [Operation::Chat, Operation::Responses, Operation::Completion, Operation::Embedding] {
                let mut reply = Reply::new(exchange(dialect, operation, *kind, stream));
                let mut out = Vec::new();
                let pushed = bytes.chunks(size).try_for_each(|chunk| reply.push(chunk, &mut out));
                if pushed.and_then(|()| reply.finish(&mut out)).is_ok() {
                    prop_assert!(reply.is_complete());
                }
            }
        }
    }

    #[test]
    fn no_text_of_an_answer_is_lost(
        thoughts in proptest::collection::vec(".{1,9}", 0..3),
        texts in proptest::collection::vec("(?s).{1,20}", 1..5),
        argument in ".{0,20}",
        size in 1usize..200,
    ) {
        let arguments = json!({"a": argument}).to_string();
        for kind in KINDS {
            let bytes = upstream(kind, &thoughts, &texts, &arguments);
            for (dialect, operation) in [
                (Dialect::OpenAi, Operation::Chat),
                (Dialect::OpenAi, Operation::Responses),
                (Dialect::Anthropic, Operation::Chat),
                (Dialect::Gemini, Operation::Chat),
            ] {
                let own = operation == Operation::Responses && kind == Kind::OpenAi;
                for stream in [true, false] {
                    let exchange = exchange(dialect, operation, kind, stream);
                    let same = matches!(
                        (dialect, kind),
                        (Dialect::Anthropic, Kind::Anthropic) | (Dialect::Gemini, Kind::Gemini)
                    );
                    if own || same {
                        continue;
                    }
                    let mut reply = Reply::new(exchange.clone());
                    let mut out = Vec::new();
                    bytes.chunks(size).try_for_each(|chunk| reply.push(chunk, &mut out)).unwrap();
                    reply.finish(&mut out).unwrap();
                    let expected = (texts.concat(), thoughts.concat(), arguments.clone());
                    prop_assert_eq!(told(&exchange, &out), expected, "{:?} {:?} {}", kind, dialect, stream);
                }
            }
        }
    }

    #[test]
    fn no_text_of_a_request_is_lost(
        system in "(?s).{1,20}",
        turns in proptest::collection::vec("(?s).{1,20}", 1..6),
    ) {
        for dialect in DIALECTS {
            let body = conversation(dialect, &system, &turns).to_string();
            let inbound = match dialect {
                Dialect::Gemini => Inbound::gemini(Operation::Chat, body.as_bytes(), "m", false, false),
                _ => Inbound::new(dialect, Operation::Chat, body.as_bytes()),
            };
            let inspected = inspect(&inbound).unwrap();
            let bytes = system.len() + turns.iter().map(String::len).sum::<usize>();
            prop_assert_eq!(inspected.text_bytes, bytes);
            for kind in KINDS {
                let encoded = encode(&inbound, &inspected, kind, "x").unwrap();
                let sent: Value = serde_json::from_slice(&encoded.body).unwrap();
                let mut found = Vec::new();
                strings(&sent, &mut found);
                for text in turns.iter().chain([&system]) {
                    let at = found.iter().position(|sent| sent == text);
                    prop_assert!(at.is_some(), "{:?} is lost from {:?} to {:?}", text, dialect, kind);
                    found.remove(at.unwrap());
                }
            }
        }
    }
}
