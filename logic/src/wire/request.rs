//! The upstream request for a client's request: passed through where the dialects are the same, translated
//! otherwise.

use super::json::{Shallow, Splice, parse, quote};
use super::{Dialect, Encoded, Inbound, Inspected, Operation, anthropic, gemini, llama, openai, proof};
use crate::backend::Kind;
use crate::fault::{ApiError, ErrorKind};
use serde_json::{Value, json};
use std::sync::Arc;

/// Left-out fields that are listed with their exact place.
const DROPPED_EXACT_MAX: usize = 8;
/// Left-out fields that are listed at all.
const DROPPED_MAX: usize = 32;
/// Bytes of one left-out field's path that are told.
const DROPPED_BYTES_MAX: usize = 96;

/// Makes the upstream request for a backend of `kind` that knows the model as `model`.
///
/// # Errors
/// What the target cannot do: an [`ApiError`] naming the field.
pub fn encode(
    inbound: &Inbound<'_>,
    inspected: &Inspected,
    kind: Kind,
    model: &str,
) -> Result<Encoded, ApiError> {
    let body = std::str::from_utf8(inbound.body)
        .map_err(|_| ApiError::new(ErrorKind::InvalidRequest, "the request body is not UTF-8"))?;
    let mut encoded = encode_body(inbound, body, inspected, kind, model)?;
    encoded.dropped = tidy(encoded.dropped);
    Ok(encoded)
}

/// Shortens a list of left-out fields to what fits a response header: one entry for the same field of many
/// messages, and no more text than a client could want.
fn tidy(dropped: Vec<String>) -> Vec<String> {
    if dropped.len() <= DROPPED_EXACT_MAX && dropped.iter().all(|path| path.len() <= DROPPED_BYTES_MAX) {
        return dropped;
    }
    let mut kept: Vec<String> = Vec::new();
    for path in dropped {
        let mut general = String::new();
        let mut in_index = false;
        for c in path.chars() {
            in_index &= c != ']';
            if !in_index && general.len() < DROPPED_BYTES_MAX {
                general.push(c);
            }
            in_index |= c == '[';
        }
        if kept.len() < DROPPED_MAX && !kept.contains(&general) {
            kept.push(general);
        }
    }
    kept
}

fn encode_body(
    inbound: &Inbound<'_>,
    body: &str,
    inspected: &Inspected,
    kind: Kind,
    model: &str,
) -> Result<Encoded, ApiError> {
    match (inbound.dialect, kind) {
        (Dialect::OpenAi, Kind::Llama) if inbound.operation == Operation::Responses => {
            translate(inbound, body, inspected, kind, model)
        }
        (Dialect::OpenAi, Kind::OpenAi | Kind::Llama) => {
            pass_openai(inbound.operation, body, inspected, kind, model)
        }
        (Dialect::Anthropic, Kind::Anthropic) => pass_anthropic(inbound.operation, body, inspected, model),
        // llama.cpp counts in Anthropic's own dialect.
        (Dialect::Anthropic, Kind::Llama) if inbound.operation == Operation::CountTokens => {
            let passed = pass_anthropic(inbound.operation, body, inspected, model)?;
            Ok(Encoded { headers: Vec::new(), ..passed })
        }
        (Dialect::Gemini, Kind::Gemini) => pass_gemini(body, inspected, model),
        _ => translate(inbound, body, inspected, kind, model),
    }
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, format!("the request body is not valid JSON: {error}"))
}

fn pass_openai(
    operation: Operation,
    body: &str,
    inspected: &Inspected,
    kind: Kind,
    model: &str,
) -> Result<Encoded, ApiError> {
    let members = Shallow::read(body).map_err(|error| not_json(&error))?;
    let mut splice = Splice::default();
    splice.set(body, &members, "model", quote(model));
    let mut streams = inspected.stream;
    let mut dropped = Vec::new();
    if operation == Operation::Chat && kind == Kind::OpenAi {
        dropped = proof::drop_from_chat(body, &members, &mut splice);
    }
    let path = match operation {
        Operation::Embedding => {
            streams = false;
            "/v1/embeddings"
        }
        Operation::Chat | Operation::Completion => {
            if kind == Kind::Llama {
                streams = true;
                llama::splice(body, &members, &mut splice)?;
            } else if inspected.stream && !inspected.include_usage {
                ask_usage(body, &members, &mut splice)?;
            }
            if operation == Operation::Chat { "/v1/chat/completions" } else { "/v1/completions" }
        }
        Operation::Responses => "/v1/responses",
        Operation::CountTokens => return Err(unsupported(operation)),
    };
    Ok(Encoded {
        path: path.to_owned(),
        body: splice.apply(body),
        headers: Vec::new(),
        streams,
        dropped,
        echo: None,
    })
}

fn pass_anthropic(
    operation: Operation,
    body: &str,
    inspected: &Inspected,
    model: &str,
) -> Result<Encoded, ApiError> {
    let members = Shallow::read(body).map_err(|error| not_json(&error))?;
    let mut splice = Splice::default();
    splice.set(body, &members, "model", quote(model));
    let dropped = proof::drop_from_messages(body, &members, &mut splice);
    let path = if operation == Operation::CountTokens { "/v1/messages/count_tokens" } else { "/v1/messages" };
    Ok(Encoded {
        path: path.to_owned(),
        body: splice.apply(body),
        headers: vec![anthropic::version_header()],
        streams: inspected.stream,
        dropped,
        echo: None,
    })
}

/// Gemini names the model in the path, and `alt=sse` is asked for whatever the client wants.
fn pass_gemini(body: &str, inspected: &Inspected, model: &str) -> Result<Encoded, ApiError> {
    let members = Shallow::read(body).map_err(|error| not_json(&error))?;
    let mut splice = Splice::default();
    let dropped = proof::drop_from_contents(body, &members, &mut splice);
    Ok(Encoded {
        path: gemini::path(model, inspected.stream),
        body: splice.apply(body),
        headers: Vec::new(),
        streams: inspected.stream,
        dropped,
        echo: None,
    })
}

/// Sets `stream_options.include_usage`, keeping what else the client set there.
fn ask_usage(body: &str, members: &Shallow<'_>, splice: &mut Splice) -> Result<(), ApiError> {
    let Some(options) = members.get("stream_options") else {
        splice.set(body, members, "stream_options", r#"{"include_usage":true}"#.to_owned());
        return Ok(());
    };
    let inner = Shallow::read(options).map_err(|_| {
        ApiError::new(ErrorKind::InvalidRequest, "`stream_options` must be an object")
            .with_param("stream_options")
    })?;
    match inner.raw("include_usage") {
        Some(old) => splice.replace(body, old, "true".to_owned()),
        None => splice.insert(body, options, "include_usage", "true"),
    }
    Ok(())
}

fn translate(
    inbound: &Inbound<'_>,
    body: &str,
    inspected: &Inspected,
    kind: Kind,
    model: &str,
) -> Result<Encoded, ApiError> {
    let value = parse(body).map_err(|error| not_json(&error))?;
    if inbound.operation == Operation::Embedding && kind == Kind::Gemini {
        return gemini::embedding::encode(&value, inspected, model);
    }
    let chat = match (inbound.dialect, inbound.operation) {
        (Dialect::OpenAi, Operation::Chat) => openai::decode::chat(&value)?,
        (Dialect::OpenAi, Operation::Responses) => openai::responses::decode::chat(&value)?,
        (Dialect::Anthropic, Operation::CountTokens) if kind != Kind::Gemini => {
            return Err(unsupported(inbound.operation));
        }
        (Dialect::Anthropic, Operation::Chat | Operation::CountTokens) => anthropic::decode::chat(&value)?,
        (Dialect::Gemini, Operation::Chat) => gemini::decode::chat(&value, inspected.stream)?,
        (_, operation) => return Err(unsupported(operation)),
    };
    let mut dropped = chat.unknown.clone();
    let mut streams = inspected.stream;
    let (path, body, headers) = match kind {
        Kind::OpenAi | Kind::Llama => {
            streams |= kind == Kind::Llama;
            let mut body = openai::encode::chat(&chat, kind, model, &mut dropped)?;
            if streams {
                body["stream"] = json!(true);
                body["stream_options"] = json!({"include_usage": true});
            }
            ("/v1/chat/completions".to_owned(), body, Vec::new())
        }
        Kind::Anthropic => {
            let mut body = anthropic::encode::chat(&chat, model, &mut dropped)?;
            if streams {
                body["stream"] = json!(true);
            }
            ("/v1/messages".to_owned(), body, vec![anthropic::version_header()])
        }
        Kind::Gemini => {
            let body = gemini::encode::chat(&chat, &mut dropped)?;
            if inbound.operation == Operation::CountTokens {
                return Ok(gemini::embedding::encode_count(body, model, dropped));
            }
            (gemini::path(model, streams), body, Vec::new())
        }
    };
    let echo = (inbound.operation == Operation::Responses)
        .then(|| Arc::from(openai::responses::decode::echo(&value).to_string()));
    Ok(Encoded { path, body: Value::to_string(&body).into_bytes(), headers, streams, dropped, echo })
}

fn unsupported(operation: Operation) -> ApiError {
    let what = match operation {
        Operation::Chat => "chat",
        Operation::Completion => "legacy completions",
        Operation::Embedding => "embeddings",
        Operation::Responses => "responses",
        Operation::CountTokens => "token counting",
    };
    let text = format!("the backend that serves this model has no {what}; choose another `model`");
    ApiError::new(ErrorKind::InvalidRequest, text).with_param("model").with_code("operation_not_supported")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_dropped_fields_is_told_by_field_and_not_by_place() {
        let few = vec!["messages[1].name".to_owned(), "seed".to_owned()];
        assert_eq!(tidy(few.clone()), few);
        let many = (0..500).map(|at| format!("messages[{at}].content[{at}].cache_control"));
        assert_eq!(tidy(many.collect()), ["messages[].content[].cache_control"]);
        let hostile = (0..500).map(|at| format!("{at}{}", "x".repeat(5000)));
        let told = tidy(hostile.collect());
        assert!(told.len() == DROPPED_MAX && told.iter().all(|path| path.len() <= DROPPED_BYTES_MAX));
    }
}
