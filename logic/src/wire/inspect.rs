//! What routing must know of a request, read without parsing more of it than needed, and the strict checks
//! that keep a broken request from costing an attempt.

use super::json::{Shallow, elements, string_bytes};
use super::{Dialect, Inbound, Inspected, Operation};
use crate::capability::{CHAT, COMPLETION, EMBEDDING, JSON, TOOLS, VISION};
use crate::fault::{ApiError, ErrorKind};

/// Reads what routing must know, without a full parse where that can be avoided.
///
/// # Errors
/// A body that is not what the dialect allows: an [`ApiError`] naming the field.
pub fn inspect(inbound: &Inbound<'_>) -> Result<Inspected, ApiError> {
    let body = std::str::from_utf8(inbound.body)
        .map_err(|_| ApiError::new(ErrorKind::InvalidRequest, "the request body is not UTF-8"))?;
    let members = Shallow::read(body).map_err(|error| {
        ApiError::new(ErrorKind::InvalidRequest, format!("the request body is not a JSON object: {error}"))
    })?;
    match inbound.dialect {
        Dialect::OpenAi => openai(inbound.operation, &members),
        Dialect::Anthropic | Dialect::Gemini => {
            let text = "this dialect is not served yet";
            Err(ApiError::new(ErrorKind::InvalidRequest, text))
        }
    }
}

fn wrong(path: &str, what: &str) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, format!("`{path}` {what}")).with_param(path)
}

fn string(members: &Shallow<'_>, key: &str) -> Result<Option<String>, ApiError> {
    let Some(text) = members.get(key) else {
        return Ok(None);
    };
    serde_json::from_str(text).map(Some).map_err(|_| wrong(key, "must be a string"))
}

fn model(members: &Shallow<'_>) -> Result<Option<String>, ApiError> {
    Ok(string(members, "model")?.filter(|model| !model.is_empty()))
}

fn boolean(members: &Shallow<'_>, key: &str, path: &str) -> Result<bool, ApiError> {
    match members.get(key) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(wrong(path, "must be true or false")),
    }
}

fn tokens(members: &Shallow<'_>, key: &str) -> Result<Option<u32>, ApiError> {
    let Some(text) = members.get(key) else {
        return Ok(None);
    };
    match serde_json::from_str::<f64>(text) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        Ok(number) if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) => {
            Ok(Some(number as u32))
        }
        _ => Err(wrong(key, "must be a whole number that is not negative")),
    }
}

fn object<'a>(text: &'a str, path: &str) -> Result<Shallow<'a>, ApiError> {
    Shallow::read(text).map_err(|error| {
        if text.starts_with('{') {
            wrong(path, &format!("is not valid: {error}"))
        } else {
            wrong(path, "must be an object")
        }
    })
}

fn openai(operation: Operation, members: &Shallow<'_>) -> Result<Inspected, ApiError> {
    let mut found =
        Inspected { model: model(members)?, session: string(members, "user")?, ..Inspected::default() };
    match operation {
        Operation::Embedding => {
            found.needs.insert(EMBEDDING);
            found.text_bytes = input_bytes(members, "input")?;
            return Ok(found);
        }
        Operation::Completion => {
            found.needs.insert(COMPLETION);
            found.text_bytes = input_bytes(members, "prompt")?;
            found.max_output_tokens = tokens(members, "max_tokens")?;
        }
        _ => {
            found.needs.insert(CHAT);
            let max_completion = tokens(members, "max_completion_tokens")?;
            found.max_output_tokens = max_completion.or(tokens(members, "max_tokens")?);
            openai_messages(members, &mut found)?;
            if let Some(format) = members.get("response_format") {
                let kind = string(&object(format, "response_format")?, "type")?;
                if kind.is_some_and(|kind| kind != "text") {
                    found.needs.insert(JSON);
                }
            }
            if members.get("tools").is_some_and(|tools| tools.trim_start_matches('[').trim_start() != "]") {
                found.needs.insert(TOOLS);
            }
        }
    }
    found.stream = boolean(members, "stream", "stream")?;
    if let Some(options) = members.get("stream_options") {
        let options = object(options, "stream_options")?;
        found.include_usage = boolean(&options, "include_usage", "stream_options.include_usage")?;
    }
    Ok(found)
}

/// Bytes of an `input` or `prompt`: a string, strings, tokens or arrays of tokens. A token counts as four
/// bytes, its usual length in English text.
fn input_bytes(members: &Shallow<'_>, key: &str) -> Result<usize, ApiError> {
    let shape = "must be a string, an array of strings or an array of tokens, and not empty";
    let text = members.get(key).ok_or_else(|| wrong(key, "is missing"))?;
    if text.starts_with('"') {
        return Ok(string_bytes(text));
    }
    let inputs = elements(text).filter(|inputs| !inputs.is_empty()).ok_or_else(|| wrong(key, shape))?;
    let mut bytes = 0;
    for (index, input) in inputs.iter().enumerate() {
        let input = input.get();
        bytes += match input.as_bytes().first() {
            Some(b'"') => string_bytes(input),
            Some(b'0'..=b'9') => 4,
            Some(b'[') => 4 * elements(input).map_or(0, |tokens| tokens.len()),
            _ => return Err(wrong(&format!("{key}[{index}]"), "must be a string or tokens")),
        };
    }
    Ok(bytes)
}

fn openai_messages(members: &Shallow<'_>, found: &mut Inspected) -> Result<(), ApiError> {
    let text = members.get("messages").ok_or_else(|| wrong("messages", "is missing"))?;
    let messages = elements(text).ok_or_else(|| wrong("messages", "must be an array"))?;
    if messages.is_empty() {
        return Err(wrong("messages", "must not be empty"));
    }
    for (index, message) in messages.iter().enumerate() {
        let path = format!("messages[{index}]");
        let message = object(message.get(), &path)?;
        let role = message.get("role").ok_or_else(|| wrong(&format!("{path}.role"), "is missing"))?;
        if !role.starts_with('"') {
            return Err(wrong(&format!("{path}.role"), "must be a string"));
        }
        if let Some(content) = message.get("content") {
            content_bytes(content, &format!("{path}.content"), found)?;
        }
        if let Some(calls) = message.get("tool_calls") {
            // Names and arguments of past calls are prompt text too; their JSON frame is small.
            found.text_bytes += calls.len();
        }
    }
    if let Some(tools) = members.get("tools") {
        found.text_bytes += tools.len();
    }
    Ok(())
}

/// A message's content: a string, or parts with `text`.
fn content_bytes(content: &str, path: &str, found: &mut Inspected) -> Result<(), ApiError> {
    if content.starts_with('"') {
        found.text_bytes += string_bytes(content);
        return Ok(());
    }
    let parts = elements(content).ok_or_else(|| wrong(path, "must be a string or an array of parts"))?;
    for (index, part) in parts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let part = object(part.get(), &path)?;
        if let Some(text) = part.get("text") {
            found.text_bytes += string_bytes(text);
        }
        if matches!(part.get("type"), Some("\"image_url\"" | "\"image\"" | "\"input_image\"")) {
            found.needs.insert(VISION);
        }
    }
    Ok(())
}
