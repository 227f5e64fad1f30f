//! A responses request into the neutral one, and the parts of it that the answer repeats.

use crate::fault::ApiError;
use crate::wire::chat::{Chat, Content, Format, Part, Role, Set, ToolChoice, Turn};
use crate::wire::json::Node;
use crate::wire::openai::decode::{
    arguments_text, choice_word, effort, function, json_schema, number, set, source,
};
use serde_json::{Map, Value, json};

const KNOWN: [&str; 19] = [
    "model",
    "input",
    "instructions",
    "max_output_tokens",
    "temperature",
    "top_p",
    "top_logprobs",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "user",
    "metadata",
    "store",
    "include",
    "background",
];

/// Decodes a whole request body.
pub(in crate::wire) fn chat(body: &Value) -> Result<Chat, ApiError> {
    let body = &Node::root(body);
    let mut chat = Chat {
        max_tokens: body.get("max_output_tokens").map(|node| node.u32()).transpose()?,
        temperature: body.get("temperature").map(|node| number(&node)).transpose()?,
        top_p: body.get("top_p").map(|node| number(&node)).transpose()?,
        logprobs: logprobs(body)?,
        format: format(body)?,
        parallel_tools: set(body, "parallel_tool_calls", Node::bool)?,
        user: set(body, "user", Node::string)?,
        stream: body.get("stream").map(|node| node.bool()).transpose()?.unwrap_or(false),
        unknown: body.unknown(&KNOWN),
        ..Chat::default()
    };
    if let Some(reasoning) = body.get("reasoning") {
        chat.reasoning = set(&reasoning, "effort", effort)?;
    }
    for node in body.get("tools").map(|tools| tools.array()).transpose()?.unwrap_or_default() {
        let kind = node.need("type")?;
        if kind.str()? != "function" {
            return Err(kind.error("must be `function` for the backend that serves this model"));
        }
        chat.tools.push(function(&node)?);
    }
    chat.tool_choice = body.get("tool_choice").map(|node| tool_choice(&node)).transpose()?;
    if let Some(instructions) = body.get("instructions") {
        let part = Part::new(Content::Text(instructions.string()?), instructions.path.clone());
        chat.turns.push(Turn { role: Role::System, parts: vec![part], path: instructions.path });
    }
    let input = body.need("input")?;
    if let Value::String(text) = input.value {
        let part = Part::new(Content::Text(text.clone()), input.path.clone());
        chat.turns.push(Turn { role: Role::User, parts: vec![part], path: input.path });
        return Ok(chat);
    }
    for node in input.array()? {
        let turn = item(&node)?;
        match chat.turns.last_mut() {
            // Text, reasoning and calls of one answer are items of their own here, one message elsewhere.
            Some(last) if last.role == Role::Assistant && turn.role == Role::Assistant => {
                last.parts.extend(turn.parts);
            }
            _ => chat.turns.push(turn),
        }
    }
    Ok(chat)
}

/// The request's settings that the answer repeats.
pub(in crate::wire) fn echo(body: &Value) -> Value {
    let defaults = [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("temperature", json!(1.0)),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", json!(1.0)),
        ("truncation", json!("disabled")),
    ];
    let mut echo = Map::new();
    for (key, default) in defaults {
        let given = body.get(key).filter(|given| !given.is_null());
        echo.insert(key.to_owned(), given.cloned().unwrap_or(default));
    }
    Value::Object(echo)
}

/// Log probabilities are asked for by `include`.
fn logprobs(body: &Node<'_>) -> Result<Option<Set<u32>>, ApiError> {
    let included = body.get("include").map(|include| include.strings()).transpose()?.unwrap_or_default();
    let wanted = included.iter().any(|name| name == "message.output_text.logprobs");
    let top = body.get("top_logprobs").map(|node| node.u32()).transpose()?;
    Ok((wanted || top.is_some_and(|top| top > 0))
        .then(|| Set { value: top.unwrap_or(0), path: body.path_of("include") }))
}

fn format(body: &Node<'_>) -> Result<Option<Set<Format>>, ApiError> {
    let Some(node) = body.get("text").and_then(|text| text.get("format")) else {
        return Ok(None);
    };
    let kind = node.need("type")?;
    let value = match kind.str()? {
        "text" => return Ok(None),
        "json_object" => Format::Json,
        "json_schema" => json_schema(&node)?,
        _ => return Err(kind.error("must be `text`, `json_object` or `json_schema`")),
    };
    Ok(Some(Set { value, path: node.path }))
}

fn tool_choice(node: &Node<'_>) -> Result<ToolChoice, ApiError> {
    if let Value::String(word) = node.value {
        return choice_word(node, word);
    }
    let kind = node.need("type")?;
    match kind.str()? {
        "function" => Ok(ToolChoice::Named(node.need("name")?.string()?)),
        _ => Err(kind.error("must be `function` for the backend that serves this model")),
    }
}

fn item(node: &Node<'_>) -> Result<Turn, ApiError> {
    let kind = node.get("type").map(|kind| kind.str()).transpose()?.unwrap_or("message");
    let (role, parts) = match kind {
        "message" => message(node)?,
        "function_call" => {
            let content = Content::ToolCall {
                id: node.need("call_id")?.string()?,
                name: node.need("name")?.string()?,
                arguments: arguments_text(&node.need("arguments")?)?,
                signature: node.get("thought_signature").map(|signature| signature.string()).transpose()?,
            };
            (Role::Assistant, vec![Part::new(content, node.path.clone())])
        }
        "function_call_output" => {
            let output = node.need("output")?;
            let content = Content::ToolResult {
                id: node.need("call_id")?.string()?,
                parts: content(&output)?,
                is_error: false,
            };
            (Role::User, vec![Part::new(content, node.path.clone())])
        }
        "reasoning" => (Role::Assistant, vec![Part::new(reasoning(node)?, node.path.clone())]),
        "item_reference" => {
            return Err(
                node.error("refers to a stored item, but nothing is stored here; send the item itself")
            );
        }
        _ => {
            return Err(node.need("type")?.error(
                "must be `message`, `function_call`, `function_call_output` or `reasoning` for the backend that \
                 serves this model",
            ));
        }
    };
    Ok(Turn { role, parts, path: node.path.clone() })
}

fn message(node: &Node<'_>) -> Result<(Role, Vec<Part>), ApiError> {
    let role = node.need("role")?;
    let role = match role.str()? {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" | "developer" => Role::System,
        _ => return Err(role.error("must be `user`, `assistant`, `system` or `developer`")),
    };
    Ok((role, content(&node.need("content")?)?))
}

fn content(node: &Node<'_>) -> Result<Vec<Part>, ApiError> {
    if let Value::String(text) = node.value {
        return Ok(vec![Part::new(Content::Text(text.clone()), node.path.clone())]);
    }
    node.array()?.iter().map(part).collect()
}

fn part(node: &Node<'_>) -> Result<Part, ApiError> {
    if let Some(id) = node.get("file_id") {
        return Err(id.error("is known to one provider only; send the content itself"));
    }
    let kind = node.need("type")?;
    let content = match kind.str()? {
        "input_text" | "output_text" | "text" => Content::Text(node.need("text")?.string()?),
        "refusal" => Content::Refusal(node.need("refusal")?.string()?),
        "input_image" => Content::Image {
            source: source(&node.need("image_url")?)?,
            detail: node.get("detail").map(|detail| detail.string()).transpose()?,
        },
        "input_file" => {
            let file = node.get("file_data").or_else(|| node.get("file_url"));
            let file = file.ok_or_else(|| node.error("must hold `file_data` or `file_url`"))?;
            let name = node.get("filename").map(|name| name.string()).transpose()?;
            Content::Document { source: source(&file)?, name }
        }
        _ => {
            return Err(kind.error(
                "must be `input_text`, `output_text`, `input_image`, `input_file` or `refusal` for the backend \
                 that serves this model",
            ));
        }
    };
    Ok(Part::new(content, node.path.clone()))
}

/// Reasoning as this router wrote it: the text in `summary`, the signature in `encrypted_content`.
fn reasoning(node: &Node<'_>) -> Result<Content, ApiError> {
    let mut text = String::new();
    for part in node.get("summary").map(|summary| summary.array()).transpose()?.unwrap_or_default() {
        text.push_str(part.need("text")?.str()?);
    }
    let signature = node.get("encrypted_content").map(|signature| signature.string()).transpose()?;
    Ok(Content::Reasoning { text, signature })
}
