//! Golden cases of the wire dialects.
//!
//! Each file under `golden/<client>-<backend>/` is one exchange, as a review reads it: what the client
//! sends (`request`), what the backend must then be sent (`sends`), what the backend answers (`receives`,
//! a body, or a list of stream events) and what the client must then get (`answers`). Either half may be
//! absent. Streams are fed whole and byte by byte; both must give the same.
//!
//! `BLESS=1 cargo test -p llm-router-logic --test wire` rewrites the expected halves: review the diff.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of a test may fail it")]

#[path = "wire/error.rs"]
mod error;
#[path = "wire/pass.rs"]
mod pass;
#[path = "wire/prefix.rs"]
mod prefix;
#[path = "wire/property.rs"]
mod property;
#[path = "wire/reply.rs"]
mod reply;
#[path = "wire/usage.rs"]
mod usage;

use llm_router_logic::backend::Kind;
use llm_router_logic::wire::{
    Dialect, Encoded, Exchange, Inbound, Inspected, Operation, Reply, ReplyError, encode, inspect, sse,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case shows.
    #[expect(dead_code, reason = "for the reader")]
    about: String,
    client: Dialect,
    backend: Kind,
    #[serde(default = "chat")]
    operation: Operation,
    /// The name the backend knows the model by.
    model: String,
    /// Gemini's routes name the model and the stream.
    path: Option<PathCase>,
    request: Option<Value>,
    sends: Option<Value>,
    receives: Option<Value>,
    answers: Option<Value>,
    usage: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathCase {
    model: String,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    sse: bool,
}

fn chat() -> Operation {
    Operation::Chat
}

fn case_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            case_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
}

fn json_text(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(bytes)))
}

/// What the backend is sent, or the refusal.
fn sends(encoded: &Encoded) -> Value {
    let mut sends = json!({"path": encoded.path});
    if !encoded.headers.is_empty() {
        let headers: Map<String, Value> =
            encoded.headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        sends["headers"] = Value::Object(headers);
    }
    sends["streams"] = json!(encoded.streams);
    if !encoded.dropped.is_empty() {
        sends["dropped"] = json!(encoded.dropped);
    }
    sends["body"] = json_text(&encoded.body);
    sends
}

/// The backend's bytes for a body or a list of events.
fn wire_bytes(receives: &Value) -> Vec<u8> {
    let Value::Array(events) = receives else {
        return receives.to_string().into_bytes();
    };
    let mut bytes = Vec::new();
    for event in events {
        match event {
            Value::String(text) => sse::write_event(None, text, &mut bytes),
            _ if event.get("event").is_some() => {
                let name = event["event"].as_str();
                sse::write_event(name, &event["data"].to_string(), &mut bytes);
            }
            data => sse::write_event(None, &data.to_string(), &mut bytes),
        }
    }
    bytes
}

/// The client's bytes as a body or a list of events.
fn read_answer(bytes: &[u8], stream: bool) -> Value {
    if !stream {
        return json_text(bytes);
    }
    let mut events = Vec::new();
    sse::Reader::default().push(bytes, &mut events).unwrap();
    let values = events.into_iter().map(|event| {
        let data = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
        match event.name {
            Some(name) => json!({"event": name, "data": data}),
            None => data,
        }
    });
    values.collect()
}

fn reply_error(error: &ReplyError) -> Value {
    match error {
        ReplyError::Upstream { status, error } => json!({"fails": {
            "upstream_status": status, "message": error.message, "type": error.kind, "code": error.code,
        }}),
        ReplyError::Incomplete(why) => json!({"fails": {"incomplete": why}}),
        ReplyError::Malformed(why) => json!({"fails": {"malformed": why}}),
    }
}

fn answer(exchange: &Exchange, bytes: &[u8], chunk: usize) -> (Value, Option<Value>) {
    let mut reply = Reply::new(exchange.clone());
    let mut out = Vec::new();
    let pushed = bytes.chunks(chunk).try_for_each(|chunk| reply.push(chunk, &mut out));
    let ended = pushed.and_then(|()| reply.finish(&mut out));
    let usage = reply.usage().map(|usage| serde_json::to_value(usage).unwrap());
    let stream = exchange.client_streams && !exchange.json_array;
    match ended {
        Ok(()) => {
            assert!(reply.is_complete(), "a finished reply must be complete");
            (read_answer(&out, stream), usage)
        }
        Err(error) => {
            let mut told = reply_error(&error);
            if !out.is_empty() {
                told["after"] = read_answer(&out, stream);
            }
            (told, usage)
        }
    }
}

/// Both halves as they are now.
fn run(case: &Case) -> (Option<Value>, Option<Value>, Option<Value>) {
    let body = case.request.as_ref().map(|request| request.to_string().into_bytes());
    let body = body.unwrap_or_else(|| b"{}".to_vec());
    let inbound = match &case.path {
        Some(path) => Inbound::gemini(case.operation, &body, &path.model, path.stream, path.sse),
        None => Inbound::new(case.client, case.operation, &body),
    };
    let refused = |error: llm_router_logic::fault::ApiError| json!({"refuses": {"status": error.status, "param": error.param, "message": error.message}});
    let mut inspected = Inspected::default();
    let mut encoded = None;
    let mut sent = None;
    if case.request.is_some() {
        match inspect(&inbound) {
            Err(error) => sent = Some(refused(error)),
            Ok(found) => {
                inspected = found;
                match encode(&inbound, &inspected, case.backend, &case.model) {
                    Err(error) => sent = Some(refused(error)),
                    Ok(made) => {
                        sent = Some(sends(&made));
                        encoded = Some(made);
                    }
                }
            }
        }
    }
    let Some(receives) = &case.receives else {
        return (sent, None, None);
    };
    let encoded = encoded.expect("an answer needs a request that is not refused");
    let exchange =
        Exchange::new(&inbound, &inspected, &encoded, case.backend, &case.model, "r1", 1_700_000_000);
    let bytes = wire_bytes(receives);
    let whole = answer(&exchange, &bytes, bytes.len().max(1));
    assert_eq!(whole, answer(&exchange, &bytes, 1), "byte by byte must give the same");
    assert_eq!(whole, answer(&exchange, &bytes, 7), "any chunking must give the same");
    (sent, Some(whole.0), whole.1)
}

/// Every golden case with its name and file.
fn cases() -> Vec<(String, PathBuf, Case)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files = Vec::new();
    case_files(&root, &mut files);
    files.sort();
    let read = |file: PathBuf| {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, file, case)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn every_golden_case_translates_as_written() {
    let files = cases();
    assert!(files.len() >= 150, "only {} cases found", files.len());
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for (name, file, case) in files {
        let result = std::panic::catch_unwind(|| run(&case));
        let Ok((sends, answers, usage)) = result else {
            wrong.push(format!("{name}: panicked, see above"));
            continue;
        };
        if bless {
            let text = std::fs::read_to_string(&file).unwrap();
            let mut value: Value = serde_json::from_str(&text).unwrap();
            for (key, now) in [("sends", sends), ("answers", answers), ("usage", usage)] {
                let receives = value.as_object_mut().unwrap().shift_remove("receives");
                value.as_object_mut().unwrap().shift_remove(key);
                if key == "sends" {
                    now.into_iter().for_each(|now| value[key] = now);
                    receives.into_iter().for_each(|receives| value["receives"] = receives);
                } else {
                    receives.into_iter().for_each(|receives| value["receives"] = receives);
                    now.into_iter().for_each(|now| value[key] = now);
                }
            }
            let mut text = serde_json::to_string_pretty(&value).unwrap();
            text.push('\n');
            std::fs::write(&file, text).unwrap();
            continue;
        }
        for (half, now, expected) in [
            ("sends", &sends, &case.sends),
            ("answers", &answers, &case.answers),
            ("usage", &usage, &case.usage),
        ] {
            if now != expected {
                let pretty = |value: &Option<Value>| serde_json::to_string_pretty(value).unwrap();
                wrong.push(format!(
                    "{name}: `{half}` is\n{}\nbut must be\n{}",
                    pretty(now),
                    pretty(expected)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}
