//! What routing must know of a request, read without parsing more of it than needed, and the strict checks
//! that keep a broken request from costing an attempt.

use super::json::{Shallow, elements, is_depth_within};
use super::openai::responses::STATEFUL;
use super::{Dialect, Inbound, Inspected, Operation};
use crate::capability::{CHAT, COMPLETION, EMBEDDING, JSON, TOOLS, VISION};
use crate::fault::{ApiError, ErrorKind};
use serde_json::value::RawValue;

/// Levels of arrays and objects a body may have: what serde_json's full parse allows as well.
const DEPTH_MAX: usize = 127;

/// Reads what routing must know, without a full parse where that can be avoided.
///
/// # Errors
/// A body that is not what the dialect allows: an [`ApiError`] naming the field.
pub fn inspect(inbound: &Inbound<'_>) -> Result<Inspected, ApiError> {
    let body = std::str::from_utf8(inbound.body)
        .map_err(|_| ApiError::new(ErrorKind::InvalidRequest, "the request body is not UTF-8"))?;
    if !is_depth_within(body, DEPTH_MAX) {
        let text = format!("the request body is nested deeper than {DEPTH_MAX} levels");
        return Err(ApiError::new(ErrorKind::InvalidRequest, text));
    }
    let members = Shallow::read(body).map_err(|error| {
        ApiError::new(ErrorKind::InvalidRequest, format!("the request body is not a JSON object: {error}"))
    })?;
    match inbound.dialect {
        Dialect::OpenAi => openai(inbound.operation, &members),
        Dialect::Anthropic => anthropic(inbound.operation, &members),
        Dialect::Gemini => gemini(inbound, &members),
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
            input_text(members, "input", &mut found)?;
            return Ok(found);
        }
        Operation::Completion => {
            found.needs.insert(COMPLETION);
            input_text(members, "prompt", &mut found)?;
            found.prefix.take(members.get("prompt").unwrap_or_default());
            found.max_output_tokens = tokens(members, "max_tokens")?;
        }
        Operation::Responses => {
            responses(members, &mut found)?;
        }
        Operation::Chat | Operation::CountTokens => {
            found.needs.insert(CHAT);
            let max_completion = tokens(members, "max_completion_tokens")?;
            found.max_output_tokens = max_completion.or(tokens(members, "max_tokens")?);
            messages(members, "messages", "content", &mut found)?;
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

fn responses(members: &Shallow<'_>, found: &mut Inspected) -> Result<(), ApiError> {
    found.needs.insert(CHAT);
    for key in STATEFUL {
        if members.get(key).is_some_and(|value| value != "false") {
            let what = "needs state that is not stored here; send the whole conversation as `input`";
            return Err(wrong(key, what));
        }
    }
    found.max_output_tokens = tokens(members, "max_output_tokens")?;
    let instructions = string(members, "instructions")?;
    if let Some(text) = instructions {
        found.read_text(&text);
    }
    found.prefix.take(members.get("instructions").unwrap_or_default());
    let input = members.get("input").ok_or_else(|| wrong("input", "is missing"))?;
    if input.starts_with('"') {
        read(input, found);
    } else {
        let items = elements(input).filter(|items| !items.is_empty());
        let items =
            items.ok_or_else(|| wrong("input", "must be a string or an array of items, and not empty"))?;
        for (index, item) in items.iter().enumerate() {
            let path = format!("input[{index}]");
            let item = object(item.get(), &path)?;
            for key in ["content", "output"] {
                if let Some(content) = item.get(key) {
                    content_bytes(content, &format!("{path}.{key}"), found)?;
                }
            }
            if let Some(arguments) = item.get("arguments") {
                found.read_string(arguments);
            }
            if item.get("role") == Some("\"user\"") {
                found.prefix.close();
            }
        }
    }
    tools_bytes(members, found)?;
    if let Some(text) = members.get("text") {
        let format =
            object(text, "text")?.get("format").map(|format| object(format, "text.format")).transpose()?;
        if format.is_some_and(|format| format.get("type").is_some_and(|kind| kind != "\"text\"")) {
            found.needs.insert(JSON);
        }
    }
    Ok(())
}

fn anthropic(operation: Operation, members: &Shallow<'_>) -> Result<Inspected, ApiError> {
    let mut found = Inspected {
        model: model(members)?,
        max_output_tokens: tokens(members, "max_tokens")?,
        stream: operation != Operation::CountTokens && boolean(members, "stream", "stream")?,
        include_usage: true,
        ..Inspected::default()
    };
    found.needs.insert(CHAT);
    if operation == Operation::Chat && found.max_output_tokens.is_none() {
        return Err(wrong("max_tokens", "is missing"));
    }
    if let Some(metadata) = members.get("metadata") {
        let metadata = object(metadata, "metadata")?;
        found.session =
            string(&metadata, "user_id").map_err(|_| wrong("metadata.user_id", "must be a string"))?;
    }
    if let Some(system) = members.get("system") {
        content_bytes(system, "system", &mut found)?;
    }
    messages(members, "messages", "content", &mut found)?;
    let config = members.get("output_config").map(|config| object(config, "output_config")).transpose()?;
    if config.is_some_and(|config| config.get("format").is_some()) || members.get("output_format").is_some() {
        found.needs.insert(JSON);
    }
    Ok(found)
}

fn gemini(inbound: &Inbound<'_>, members: &Shallow<'_>) -> Result<Inspected, ApiError> {
    let asked = inbound.path_model.map(|model| model.strip_prefix("models/").unwrap_or(model).to_owned());
    let mut found = Inspected {
        model: asked.filter(|model| !model.is_empty()),
        stream: inbound.path_stream,
        include_usage: true,
        ..Inspected::default()
    };
    found.needs.insert(CHAT);
    let either = |keys: [&str; 2]| members.get(keys[0]).or_else(|| members.get(keys[1]));
    if let Some(system) = either(["systemInstruction", "system_instruction"]) {
        let system = object(system, "systemInstruction")?;
        if let Some(parts) = system.get("parts") {
            parts_bytes(parts, "systemInstruction.parts", &mut found)?;
        }
    }
    messages(members, "contents", "parts", &mut found)?;
    if let Some(config) = either(["generationConfig", "generation_config"]) {
        let config = object(config, "generationConfig")?;
        let bound = tokens(&config, "maxOutputTokens")?;
        found.max_output_tokens = bound.or(tokens(&config, "max_output_tokens")?);
        let mime = config.get("responseMimeType").or_else(|| config.get("response_mime_type"));
        if mime.is_some_and(|mime| mime != "\"text/plain\"") {
            found.needs.insert(JSON);
        }
    }
    Ok(found)
}

/// The text of an `input` or `prompt`: a string, strings, tokens or arrays of tokens. A token counts as a word of
/// four bytes, its usual length in English text.
fn input_text(members: &Shallow<'_>, key: &str, found: &mut Inspected) -> Result<(), ApiError> {
    let shape = "must be a string, an array of strings or an array of tokens, and not empty";
    let text = members.get(key).ok_or_else(|| wrong(key, "is missing"))?;
    if text.starts_with('"') {
        found.read_string(text);
        return Ok(());
    }
    let inputs = elements(text).filter(|inputs| !inputs.is_empty()).ok_or_else(|| wrong(key, shape))?;
    for (index, input) in inputs.iter().enumerate() {
        let input = input.get();
        match input.as_bytes().first() {
            Some(b'"') => found.read_string(input),
            Some(b'0'..=b'9') => found.read_tokens(1),
            Some(b'[') => found.read_tokens(elements(input).map_or(0, |tokens| tokens.len())),
            _ => return Err(wrong(&format!("{key}[{index}]"), "must be a string or tokens")),
        }
    }
    Ok(())
}

/// The messages of any dialect, and the tools, which are prompt text too.
fn messages(
    members: &Shallow<'_>,
    key: &str,
    content_key: &str,
    found: &mut Inspected,
) -> Result<(), ApiError> {
    let text = members.get(key).ok_or_else(|| wrong(key, "is missing"))?;
    let messages = elements(text).ok_or_else(|| wrong(key, "must be an array"))?;
    if messages.is_empty() {
        return Err(wrong(key, "must not be empty"));
    }
    for (index, message) in messages.iter().enumerate() {
        let path = format!("{key}[{index}]");
        let message = object(message.get(), &path)?;
        match message.get("role") {
            Some(role) if !role.starts_with('"') => {
                return Err(wrong(&format!("{path}.role"), "must be a string"));
            }
            // Gemini's role may be left out.
            None if content_key == "content" => return Err(wrong(&format!("{path}.role"), "is missing")),
            _ => {}
        }
        if let Some(content) = message.get(content_key) {
            let path = format!("{path}.{content_key}");
            if content_key == "parts" {
                parts_bytes(content, &path, found)?;
            } else {
                content_bytes(content, &path, found)?;
            }
        }
        // Gemini's user may go without a role.
        if message.get("role").is_none_or(|role| role == "\"user\"") {
            found.prefix.close();
        }
        if let Some(calls) = message.get("tool_calls") {
            // Names and arguments of past calls are prompt text too; their JSON frame is small.
            found.read_text(calls);
        }
    }
    tools_bytes(members, found)
}

/// Takes a string of the prompt.
fn read(text: &str, found: &mut Inspected) {
    found.read_string(text);
    found.prefix.take(text);
}

/// Tool definitions are prompt text too.
fn tools_bytes(members: &Shallow<'_>, found: &mut Inspected) -> Result<(), ApiError> {
    if let Some(tools) = members.get("tools") {
        let tools_list = elements(tools).ok_or_else(|| wrong("tools", "must be an array"))?;
        if !tools_list.is_empty() {
            found.read_text(tools);
            found.needs.insert(TOOLS);
        }
    }
    Ok(())
}

/// A message's content: a string, or parts.
fn content_bytes(content: &str, path: &str, found: &mut Inspected) -> Result<(), ApiError> {
    if content.starts_with('"') {
        read(content, found);
        return Ok(());
    }
    if !content.starts_with('[') {
        return Err(wrong(path, "must be a string or an array of parts"));
    }
    parts_bytes(content, path, found)
}

fn parts_bytes(parts: &str, path: &str, found: &mut Inspected) -> Result<(), ApiError> {
    let one = parts.starts_with('{').then(|| vec![parts]);
    let list = || elements(parts).map(|parts| parts.into_iter().map(RawValue::get).collect());
    let parts: Vec<&str> = one.or_else(list).ok_or_else(|| wrong(path, "must be an array of parts"))?;
    for (index, part) in parts.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let part = object(part, &path)?;
        for key in ["text", "thinking", "refusal"] {
            if let Some(text) = part.get(key) {
                read(text, found);
            }
        }
        for key in ["input", "functionCall", "functionResponse", "function_call", "function_response"] {
            if let Some(value) = part.get(key) {
                found.read_text(value);
            }
        }
        // Tool results hold content of their own.
        if part.get("type") == Some("\"tool_result\"")
            && let Some(inner) = part.get("content")
        {
            content_bytes(inner, &format!("{path}.content"), found)?;
        }
        let is_image = matches!(part.get("type"), Some("\"image_url\"" | "\"image\"" | "\"input_image\""));
        let data =
            ["inlineData", "inline_data", "fileData", "file_data"].iter().find_map(|key| part.get(key));
        if is_image || data.is_some_and(|data| data.contains("\"image/")) {
            found.needs.insert(VISION);
        }
    }
    Ok(())
}
