//! Embeddings in the dialects that have them: unit vectors that depend on the text alone.

use super::app::App;
use super::gate::Call;
use super::generation::{Timings, Usage};
use super::text::{hash, input_tokens, mix};
use super::{error, openai};
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Longest vector a request may ask for.
const DIMENSIONS_MAX: u64 = 4_096;
/// Most inputs of one request, OpenAI's own limit.
const INPUTS_MAX: usize = 2_048;

/// `POST /v1/embeddings`.
pub(crate) async fn openai(State(app): State<Arc<App>>, Extension(call): Extension<Call>) -> Response {
    match embed(&app, &call).await {
        Ok(body) => error::json_response(StatusCode::OK, &body),
        Err(refused) => error::respond(app.config.kind, &refused),
    }
}

async fn embed(app: &Arc<App>, call: &Call) -> Result<Value, ApiError> {
    if !app.config.embeddings {
        return Err(not_served(app.config.kind));
    }
    let body = call.json()?;
    let model = openai::asked_model(app, body)?;
    let inputs = match body.get("input") {
        Some(input) => inputs(input)?,
        None => return Err(openai::bad("input", "missing required parameter: `input`")),
    };
    let dimensions = match openai::count(body, "dimensions")? {
        Some(asked) if asked > DIMENSIONS_MAX => {
            return Err(openai::bad("dimensions", format!("`dimensions` is at most {DIMENSIONS_MAX}")));
        }
        Some(asked) => asked as usize,
        None => app.config.embedding_dimensions,
    };
    let base64 = match body.get("encoding_format").and_then(Value::as_str) {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(openai::bad("encoding_format", "`encoding_format` is `float` or `base64`"));
        }
    };
    let tokens = take_turn(app, call, &model, &inputs).await?;
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = vector(text, dimensions);
            let embedding = if base64 { json!(encode(&vector)) } else { json!(vector) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let mut answer = json!({"object": "list", "model": model, "data": data});
    if let Some(tokens) = tokens {
        answer["usage"] = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    }
    Ok(answer)
}

/// Waits for a slot and the time to the first token, and writes the books. Returns the tokens to state.
pub(crate) async fn take_turn(
    app: &Arc<App>,
    call: &Call,
    model: &str,
    inputs: &[String],
) -> Result<Option<u64>, ApiError> {
    let tokens = inputs.iter().map(|text| input_tokens(text)).sum();
    let Ok(ticket) = app.enter(model, tokens).await else {
        return Err(ApiError::new(ErrorKind::RateLimit, "the queue is full, retry later"));
    };
    let time = call.twist.ttft.unwrap_or(app.speed().ttft);
    tokio::time::sleep(time).await;
    let stated = call.twist.usage.apply(Usage::plain(tokens, 0));
    ticket.complete(&Timings { input: tokens, output: 0, prompt: time, predicted: Duration::ZERO }, stated);
    Ok(stated.map(|usage| usage.input))
}

pub(crate) fn not_served(kind: Kind) -> ApiError {
    let mut refused = ApiError::new(ErrorKind::Internal, "this server does not serve embeddings");
    refused.status = if kind == Kind::Llama { 501 } else { 404 };
    refused
}

/// A text, a list of texts, a list of token numbers, or a list of such lists.
fn inputs(input: &Value) -> Result<Vec<String>, ApiError> {
    let bad = || openai::bad("input", "`input` must be a text, texts, token numbers or lists of them");
    let texts = match input {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) if items.first().is_some_and(Value::is_number) => vec![input.to_string()],
        Value::Array(items) if items.len() <= INPUTS_MAX => {
            let texts = items.iter().map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                Value::Array(_) => Ok(item.to_string()),
                _ => Err(bad()),
            });
            texts.collect::<Result<_, _>>()?
        }
        _ => return Err(bad()),
    };
    if texts.is_empty() || texts.iter().any(String::is_empty) { Err(bad()) } else { Ok(texts) }
}

/// The embedding of `text`: `dimensions` numbers with Euclidean length 1.
pub(crate) fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut state = hash(text);
    let raw: Vec<f64> = (0..dimensions.max(1))
        .map(|_| {
            state = mix(state);
            (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        })
        .collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
    raw.into_iter().map(|x| (x / length) as f32).collect()
}

/// Little-endian 32-bit floats in base64, as OpenAI's clients expect them.
fn encode(vector: &[f32]) -> String {
    STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_survive_base64() {
        let vector = vector("hello", 64);
        let length = vector.iter().map(|x| x * x).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        let bytes = STANDARD.decode(encode(&vector)).unwrap();
        let back: Vec<f32> =
            bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(back, vector);
    }

    #[test]
    fn every_form_of_input_is_read() {
        assert_eq!(inputs(&json!("a")).unwrap(), ["a"]);
        assert_eq!(inputs(&json!(["a", "b"])).unwrap(), ["a", "b"]);
        assert_eq!(inputs(&json!([1, 2])).unwrap(), ["[1,2]"]);
        assert_eq!(inputs(&json!([[1], [2, 3]])).unwrap(), ["[1]", "[2,3]"]);
        for bad in [json!([]), json!(""), json!({}), json!([true])] {
            assert!(inputs(&bad).is_err(), "{bad}");
        }
    }
}
