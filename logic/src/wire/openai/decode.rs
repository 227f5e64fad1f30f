//! A chat completions request into the neutral one.

use crate::fault::ApiError;
use crate::wire::chat::{
    Chat, Content, Format, Part, Reasoning, Role, Set, Source, Tool, ToolChoice, Turn, data_url,
};
use crate::wire::json::Node;
use serde_json::Value;

/// Fields that are translated, or that only concern the exchange with this router.
const KNOWN: [&str; 22] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "n",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
    "response_format",
    "reasoning_effort",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "user",
    "modalities",
];

/// Fields that change what the answer is, which no other dialect can honour.
const REFUSED: [&str; 4] = ["functions", "function_call", "audio", "web_search_options"];

/// A member read by `read`, with its path.
pub(in crate::wire) fn set<'a, T>(
    body: &Node<'a>,
    key: &str,
    read: impl Fn(&Node<'a>) -> Result<T, ApiError>,
) -> Result<Option<Set<T>>, ApiError> {
    let Some(node) = body.get(key) else {
        return Ok(None);
    };
    Ok(Some(Set { value: read(&node)?, path: node.path }))
}

/// A number kept as it was written.
pub(in crate::wire) fn number(node: &Node<'_>) -> Result<Value, ApiError> {
    node.f64()?;
    Ok(node.value.clone())
}

/// Decodes a whole request body.
pub(in crate::wire) fn chat(body: &Value) -> Result<Chat, ApiError> {
    let body = &Node::root(body);
    if let Some(refused) = REFUSED.iter().find_map(|key| body.get(key)) {
        return Err(
            refused.error("cannot be translated for the backend that serves this model; leave it out")
        );
    }
    if let Some(modalities) = body.get("modalities") {
        for modality in modalities.array()? {
            if modality.str()? != "text" {
                return Err(modality.error("must be `text` for the backend that serves this model"));
            }
        }
    }
    let mut chat = Chat {
        max_tokens: match body.get("max_completion_tokens").or_else(|| body.get("max_tokens")) {
            Some(node) => Some(node.u32()?),
            None => None,
        },
        temperature: body.get("temperature").map(|node| number(&node)).transpose()?,
        top_p: body.get("top_p").map(|node| number(&node)).transpose()?,
        stop: set(body, "stop", Node::strings)?,
        seed: set(body, "seed", Node::i64)?,
        count: set(body, "n", Node::u32)?,
        frequency_penalty: set(body, "frequency_penalty", number)?,
        presence_penalty: set(body, "presence_penalty", number)?,
        logprobs: logprobs(body)?,
        format: format(body)?,
        reasoning: set(body, "reasoning_effort", effort)?,
        parallel_tools: set(body, "parallel_tool_calls", Node::bool)?,
        user: set(body, "user", Node::string)?,
        stream: body.get("stream").map(|node| node.bool()).transpose()?.unwrap_or(false),
        unknown: body.unknown(&[&KNOWN[..], &REFUSED[..]].concat()),
        ..Chat::default()
    };
    if let Some(tools) = body.get("tools") {
        for node in tools.array()? {
            chat.tools.push(tool(&node)?);
        }
    }
    chat.tool_choice = body.get("tool_choice").map(|node| tool_choice(&node)).transpose()?;
    for message in body.need("messages")?.array()? {
        let turn = message_turn(&message, &mut chat.unknown)?;
        chat.turns.push(turn);
    }
    Ok(chat)
}

/// An effort word.
pub(in crate::wire) fn effort(node: &Node<'_>) -> Result<Reasoning, ApiError> {
    Ok(match node.str()? {
        "none" => Reasoning::Off,
        word @ ("minimal" | "low" | "medium" | "high" | "xhigh") => Reasoning::Effort(word.to_owned()),
        "max" => Reasoning::Effort("xhigh".to_owned()),
        _ => return Err(node.error("must be one of `none`, `minimal`, `low`, `medium`, `high`, `xhigh`")),
    })
}

fn logprobs(body: &Node<'_>) -> Result<Option<Set<u32>>, ApiError> {
    let wanted = body.get("logprobs").map(|node| node.bool()).transpose()?.unwrap_or(false);
    let top = body.get("top_logprobs").map(|node| node.u32()).transpose()?;
    Ok(wanted.then(|| Set { value: top.unwrap_or(0), path: body.path_of("logprobs") }))
}

fn format(body: &Node<'_>) -> Result<Option<Set<Format>>, ApiError> {
    let Some(node) = body.get("response_format") else {
        return Ok(None);
    };
    let kind = node.need("type")?;
    let value = match kind.str()? {
        "text" => return Ok(None),
        "json_object" => Format::Json,
        "json_schema" => {
            let schema = node.need("json_schema")?;
            json_schema(&schema)?
        }
        _ => return Err(kind.error("must be `text`, `json_object` or `json_schema`")),
    };
    Ok(Some(Set { value, path: node.path }))
}

/// The object that names a schema, in chat completions and, flattened, in responses.
pub(in crate::wire) fn json_schema(node: &Node<'_>) -> Result<Format, ApiError> {
    Ok(Format::Schema {
        name: node.need("name")?.string()?,
        description: node.get("description").map(|text| text.string()).transpose()?,
        strict: node.get("strict").map(|strict| strict.bool()).transpose()?,
        schema: match node.get("schema") {
            Some(schema) => Value::Object(schema.object()?.clone()),
            None => serde_json::json!({"type": "object"}),
        },
    })
}

fn tool(node: &Node<'_>) -> Result<Tool, ApiError> {
    let kind = node.need("type")?;
    if kind.str()? != "function" {
        return Err(kind.error("must be `function` for the backend that serves this model"));
    }
    function(&node.need("function")?)
}

/// A function definition, in chat completions and, flattened, in responses.
pub(in crate::wire) fn function(node: &Node<'_>) -> Result<Tool, ApiError> {
    Ok(Tool {
        name: node.need("name")?.string()?,
        description: node.get("description").map(|text| text.string()).transpose()?,
        parameters: node
            .get("parameters")
            .map(|schema| schema.object().map(|object| Value::Object(object.clone())))
            .transpose()?,
        strict: node.get("strict").map(|strict| strict.bool()).transpose()?,
        cache: node.value.get("cache_control").cloned(),
        path: node.path.clone(),
    })
}

fn tool_choice(node: &Node<'_>) -> Result<ToolChoice, ApiError> {
    if let Value::String(word) = node.value {
        return choice_word(node, word);
    }
    let kind = node.need("type")?;
    match kind.str()? {
        "function" => Ok(ToolChoice::Named(node.need("function")?.need("name")?.string()?)),
        _ => Err(kind.error("must be `function` for the backend that serves this model")),
    }
}

/// The words of `tool_choice`, the same in chat completions and responses.
pub(in crate::wire) fn choice_word(node: &Node<'_>, word: &str) -> Result<ToolChoice, ApiError> {
    match word {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        "required" => Ok(ToolChoice::Required),
        _ => Err(node.error("must be `auto`, `none`, `required` or an object that names a tool")),
    }
}

fn message_turn(message: &Node<'_>, unknown: &mut Vec<String>) -> Result<Turn, ApiError> {
    message.object()?;
    let role_node = message.need("role")?;
    let (role, parts) = match role_node.str()? {
        "system" | "developer" => (Role::System, content(&message.need("content")?)?),
        "user" => (Role::User, content(&message.need("content")?)?),
        "assistant" => (Role::Assistant, assistant(message)?),
        "tool" => {
            let result = Content::ToolResult {
                id: message.need("tool_call_id")?.string()?,
                parts: content(&message.need("content")?)?,
                is_error: false,
            };
            let cache = message.value.get("cache_control").filter(|mark| !mark.is_null()).cloned();
            (Role::User, vec![Part { content: result, cache, path: message.path.clone() }])
        }
        "function" => return Err(role_node.error("cannot be `function` here; use `tool` and `tool_call_id`")),
        _ => return Err(role_node.error("must be `system`, `developer`, `user`, `assistant` or `tool`")),
    };
    unknown.extend(message.unknown(&[
        "role",
        "content",
        "tool_calls",
        "tool_call_id",
        "refusal",
        "reasoning_content",
        "reasoning",
        "thinking_blocks",
        "annotations",
        "cache_control",
        "audio",
        "function_call",
    ]));
    Ok(Turn { role, parts, path: message.path.clone() })
}

fn assistant(message: &Node<'_>) -> Result<Vec<Part>, ApiError> {
    if let Some(legacy) = message.get("function_call").or_else(|| message.get("audio")) {
        return Err(legacy.error("cannot be translated for the backend that serves this model"));
    }
    let mut parts = Vec::new();
    if let Some(blocks) = message.get("thinking_blocks") {
        for block in blocks.array()? {
            parts.push(thinking_block(&block)?);
        }
    } else if let Some(text) = message.get("reasoning_content").or_else(|| message.get("reasoning"))
        && let Value::String(held) = text.value
    {
        parts.push(Part::new(Content::Reasoning { text: held.clone(), signature: None }, text.path));
    }
    if let Some(node) = message.get("content") {
        parts.extend(content(&node)?);
    }
    if let Some(refusal) = message.get("refusal") {
        parts.push(Part::new(Content::Refusal(refusal.string()?), refusal.path));
    }
    if let Some(calls) = message.get("tool_calls") {
        for call in calls.array()? {
            parts.push(tool_call(&call)?);
        }
    }
    Ok(parts)
}

/// A signed thinking block in the shape that LiteLLM made common for OpenAI clients of Anthropic.
fn thinking_block(block: &Node<'_>) -> Result<Part, ApiError> {
    let kind = block.need("type")?;
    let content = match kind.str()? {
        "thinking" => Content::Reasoning {
            text: block.need("thinking")?.string()?,
            signature: block.get("signature").map(|signature| signature.string()).transpose()?,
        },
        "redacted_thinking" => Content::Redacted(block.need("data")?.string()?),
        _ => return Err(kind.error("must be `thinking` or `redacted_thinking`")),
    };
    Ok(Part::new(content, block.path.clone()))
}

fn tool_call(call: &Node<'_>) -> Result<Part, ApiError> {
    if let Some(kind) = call.get("type")
        && kind.str()? != "function"
    {
        return Err(kind.error("must be `function` for the backend that serves this model"));
    }
    let function = call.need("function")?;
    let arguments = match function.get("arguments") {
        Some(arguments) => arguments_text(&arguments)?,
        None => String::new(),
    };
    let signature = call.value.pointer("/extra_content/google/thought_signature").and_then(Value::as_str);
    let content = Content::ToolCall {
        id: call.need("id")?.string()?,
        name: function.need("name")?.string()?,
        arguments,
        signature: signature.map(str::to_owned),
    };
    Ok(Part::new(content, call.path.clone()))
}

/// Arguments of a past call: the text of a JSON object, or nothing.
pub(in crate::wire) fn arguments_text(node: &Node<'_>) -> Result<String, ApiError> {
    let text = node.str()?;
    if !text.trim().is_empty() && !matches!(serde_json::from_str(text), Ok(Value::Object(_))) {
        return Err(node.error("must be the text of a JSON object"));
    }
    Ok(text.to_owned())
}

fn content(node: &Node<'_>) -> Result<Vec<Part>, ApiError> {
    if let Value::String(text) = node.value {
        return Ok(vec![Part::new(Content::Text(text.clone()), node.path.clone())]);
    }
    node.array()?.iter().map(part).collect()
}

fn part(node: &Node<'_>) -> Result<Part, ApiError> {
    let kind = node.need("type")?;
    let content = match kind.str()? {
        "text" => Content::Text(node.need("text")?.string()?),
        "refusal" => Content::Refusal(node.need("refusal")?.string()?),
        "image_url" => {
            let image = node.need("image_url")?;
            // Some clients send the URL itself in place of the object.
            let url = if image.value.is_string() { image.clone() } else { image.need("url")? };
            let detail = image.get("detail").map(|detail| detail.string()).transpose()?;
            Content::Image { source: source(&url)?, detail }
        }
        "file" => file(&node.need("file")?)?,
        _ => {
            return Err(
                kind.error("must be `text`, `image_url` or `file` for the backend that serves this model")
            );
        }
    };
    let cache = node.value.get("cache_control").filter(|mark| !mark.is_null()).cloned();
    Ok(Part { content, cache, path: node.path.clone() })
}

/// A file given by content; a file id is known to its provider only.
fn file(node: &Node<'_>) -> Result<Content, ApiError> {
    if let Some(id) = node.get("file_id") {
        return Err(id.error("is known to one provider only; send the content as `file_data`"));
    }
    Ok(Content::Document {
        source: source(&node.need("file_data")?)?,
        name: node.get("filename").map(|name| name.string()).transpose()?,
    })
}

/// A URL, or base64 content in a `data:` URL.
pub(in crate::wire) fn source(node: &Node<'_>) -> Result<Source, ApiError> {
    let url = node.str()?;
    if url.starts_with("data:") {
        return data_url(url).ok_or_else(|| node.error("must be a `data:` URL with base64 content"));
    }
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(node.error("must be an `https:` URL or a `data:` URL with base64 content"));
    }
    Ok(Source::Url(url.to_owned()))
}
