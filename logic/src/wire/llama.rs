//! llama.cpp's habits within OpenAI's dialect.
//!
//! It is always asked for a stream, because it notices a client that left a stream within milliseconds but
//! lets a non-streamed answer run to its end. It ignores a `tool_choice` object, so the same is said by
//! offering only the named tool and requiring a call.

use super::json::{Shallow, Splice, elements, parse, quote};
use crate::fault::{ApiError, ErrorKind};
use serde_json::Value;
use serde_json::value::RawValue;

/// Splices llama.cpp's needs into a chat or completion body.
pub(super) fn splice(body: &str, members: &Shallow<'_>, splice: &mut Splice) -> Result<(), ApiError> {
    splice.set(body, members, "stream", "true".to_owned());
    // Not for the client to decide here: without it llama.cpp tells no usage.
    splice.set(body, members, "stream_options", r#"{"include_usage":true}"#.to_owned());
    let Some(choice) = members.get("tool_choice").filter(|choice| choice.starts_with('{')) else {
        return Ok(());
    };
    let named = parse(choice).ok();
    let name = named.as_ref().and_then(|choice| choice.pointer("/function/name")).and_then(Value::as_str);
    let tools = members.get("tools");
    let chosen = name.and_then(|name| tool_named(tools?, name));
    let (Some(tools), Some(chosen)) = (tools, chosen) else {
        let text = "`tool_choice` must name one of `tools`";
        return Err(ApiError::new(ErrorKind::InvalidRequest, text).with_param("tool_choice"));
    };
    splice.replace(body, tools, format!("[{chosen}]"));
    splice.replace(body, choice, quote("required"));
    Ok(())
}

fn tool_named<'a>(tools: &'a str, name: &str) -> Option<&'a str> {
    elements(tools)?.into_iter().map(RawValue::get).find(|tool| {
        let tool = parse(tool).ok();
        tool.as_ref().and_then(|tool| tool.pointer("/function/name")).and_then(Value::as_str) == Some(name)
    })
}
