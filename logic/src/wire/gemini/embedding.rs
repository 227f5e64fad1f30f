//! OpenAI embeddings and Anthropic token counts from Gemini's `batchEmbedContents` and `countTokens`.

use super::escape;
use crate::fault::ApiError;
use crate::wire::json::Node;
use crate::wire::openai::encode::refuse;
use crate::wire::reply::ReplyError;
use crate::wire::{Encoded, Exchange, Inspected};
use serde_json::{Value, json};
use std::sync::Arc;

fn resource(model: &str) -> String {
    format!("models/{}", model.strip_prefix("models/").unwrap_or(model))
}

fn encoded(model: &str, call: &str, body: &Value, dropped: Vec<String>, echo: Option<Arc<str>>) -> Encoded {
    let model = model.strip_prefix("models/").unwrap_or(model);
    Encoded {
        path: format!("/v1beta/models/{}:{call}", escape(model)),
        body: body.to_string().into_bytes(),
        headers: Vec::new(),
        streams: false,
        dropped,
        echo,
    }
}

/// The request for the vectors of an OpenAI embeddings request.
pub(in crate::wire) fn encode(body: &Value, inspected: &Inspected, model: &str) -> Result<Encoded, ApiError> {
    let body = &Node::root(body);
    let input = body.need("input")?;
    let texts = input
        .strings()
        .map_err(|_| refuse(&input.path, "must be text for the backend that serves this model"))?;
    let dimensions = body.get("dimensions").map(|node| node.u32()).transpose()?;
    let base64 = match body.get("encoding_format") {
        None => false,
        Some(format) => match format.str()? {
            "float" => false,
            "base64" => true,
            _ => return Err(format.error("must be `float` or `base64`")),
        },
    };
    let requests: Vec<Value> = texts
        .iter()
        .map(|text| {
            let mut request = json!({"model": resource(model), "content": {"parts": [{"text": text}]}});
            if let Some(dimensions) = dimensions {
                request["outputDimensionality"] = json!(dimensions);
            }
            request
        })
        .collect();
    let dropped = body.unknown(&["model", "input", "dimensions", "encoding_format"]);
    // Gemini tells no token count here; a token is about four bytes of English text.
    let echo = json!({"base64": base64, "tokens": inspected.text_bytes.div_ceil(4)});
    let echo = Some(Arc::from(echo.to_string()));
    Ok(encoded(model, "batchEmbedContents", &json!({"requests": requests}), dropped, echo))
}

/// Gemini's vectors as an OpenAI answer.
pub(in crate::wire) fn write(answer: &Value, exchange: &Exchange) -> Result<Value, ReplyError> {
    let Some(embeddings) = answer.get("embeddings").and_then(Value::as_array) else {
        return Err(ReplyError::Malformed("the answer has no `embeddings`".to_owned()));
    };
    let echo: Value =
        exchange.echo.as_deref().and_then(|echo| serde_json::from_str(echo).ok()).unwrap_or(Value::Null);
    let base64 = echo["base64"] == true;
    let mut data = Vec::new();
    for (index, embedding) in embeddings.iter().enumerate() {
        let Some(values) = embedding.get("values").and_then(Value::as_array) else {
            return Err(ReplyError::Malformed(format!("`embeddings[{index}]` has no `values`")));
        };
        let vector = if base64 { json!(base64_floats(values)) } else { json!(values) };
        data.push(json!({"object": "embedding", "index": index, "embedding": vector}));
    }
    let counted = answer.pointer("/usageMetadata/promptTokenCount").and_then(Value::as_u64);
    let tokens = counted.or_else(|| echo["tokens"].as_u64()).unwrap_or(0);
    Ok(json!({
        "object": "list",
        "data": data,
        "model": exchange.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }))
}

/// Floats as OpenAI packs them: 32 bit, little-endian, base64 (RFC 4648).
fn base64_floats(values: &[Value]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    #[expect(clippy::cast_possible_truncation, reason = "vectors are 32 bit floats by the format")]
    let bytes: Vec<u8> =
        values.iter().flat_map(|value| (value.as_f64().unwrap_or(0.0) as f32).to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= group.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// The request that counts the tokens of an already encoded `generateContent` body.
pub(in crate::wire) fn encode_count(mut request: Value, model: &str, dropped: Vec<String>) -> Encoded {
    request["model"] = json!(resource(model));
    encoded(model, "countTokens", &json!({"generateContentRequest": request}), dropped, None)
}

/// Gemini's count as Anthropic's.
pub(in crate::wire) fn write_count(answer: &Value) -> Result<Value, ReplyError> {
    match answer.get("totalTokens").and_then(Value::as_u64) {
        Some(tokens) => Ok(json!({"input_tokens": tokens})),
        None => Err(ReplyError::Malformed("the answer has no `totalTokens`".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_packed_little_endian_with_padding() {
        // 1.0f32 is 00 00 80 3f.
        assert_eq!(base64_floats(&[json!(1.0)]), "AACAPw==");
        assert_eq!(base64_floats(&[json!(1.0), json!(-2)]), "AACAPwAAAMA=");
        assert_eq!(base64_floats(&[json!(1), json!(1), json!(1)]), "AACAPwAAgD8AAIA/");
    }
}
