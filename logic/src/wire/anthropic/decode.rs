//! A messages request into the neutral one.

use crate::fault::ApiError;
use crate::wire::chat::{Chat, Content, Format, Part, Reasoning, Role, Set, Source, Tool, ToolChoice, Turn};
use crate::wire::json::Node;
use crate::wire::openai::decode::{number, set};
use serde_json::Value;

const KNOWN: [&str; 15] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "metadata",
    "stop_sequences",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
];

/// Fields that change what the answer is, which no other dialect can honour.
const REFUSED: [&str; 2] = ["container", "mcp_servers"];

/// Decodes a whole request body.
pub(in crate::wire) fn chat(body: &Value) -> Result<Chat, ApiError> {
    let body = &Node::root(body);
    if let Some(refused) = REFUSED.iter().find_map(|key| body.get(key)) {
        return Err(
            refused.error("cannot be translated for the backend that serves this model; leave it out")
        );
    }
    let mut chat = Chat {
        max_tokens: body.get("max_tokens").map(|node| node.u32()).transpose()?,
        temperature: body.get("temperature").map(|node| number(&node)).transpose()?,
        top_p: body.get("top_p").map(|node| number(&node)).transpose()?,
        top_k: set(body, "top_k", Node::u32)?,
        stop: set(body, "stop_sequences", Node::strings)?,
        format: format(body)?,
        reasoning: reasoning(body)?,
        stream: body.get("stream").map(|node| node.bool()).transpose()?.unwrap_or(false),
        unknown: body.unknown(&[&KNOWN[..], &REFUSED[..]].concat()),
        ..Chat::default()
    };
    if let Some(metadata) = body.get("metadata") {
        chat.user = set(&metadata, "user_id", Node::string)?;
    }
    for node in body.get("tools").map(|tools| tools.array()).transpose()?.unwrap_or_default() {
        chat.tools.push(tool(&node)?);
    }
    if let Some(choice) = body.get("tool_choice") {
        tool_choice(&choice, &mut chat)?;
    }
    if let Some(system) = body.get("system") {
        let turn = Turn { role: Role::System, parts: content(&system)?, path: system.path };
        chat.turns.push(turn);
    }
    for message in body.need("messages")?.array()? {
        let role = message.need("role")?;
        let role = match role.str()? {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(role.error("must be `user` or `assistant`")),
        };
        let parts = content(&message.need("content")?)?;
        chat.turns.push(Turn { role, parts, path: message.path });
    }
    Ok(chat)
}

fn format(body: &Node<'_>) -> Result<Option<Set<Format>>, ApiError> {
    let config = body.get("output_config").and_then(|config| config.get("format"));
    let Some(node) = config.or_else(|| body.get("output_format")) else {
        return Ok(None);
    };
    let kind = node.need("type")?;
    if kind.str()? != "json_schema" {
        return Err(kind.error("must be `json_schema`"));
    }
    let schema = Value::Object(node.need("schema")?.object()?.clone());
    // Anthropic always holds the model to the schema.
    let value = Format::Schema { name: "output".to_owned(), description: None, strict: Some(true), schema };
    Ok(Some(Set { value, path: node.path }))
}

fn reasoning(body: &Node<'_>) -> Result<Option<Set<Reasoning>>, ApiError> {
    let effort = body.get("output_config").and_then(|config| config.get("effort"));
    let thinking = body.get("thinking");
    let kind = thinking.as_ref().map(|thinking| thinking.need("type")).transpose()?;
    let value = match (&kind, &effort) {
        (Some(kind), _) if kind.value == "disabled" => Reasoning::Off,
        (Some(kind), _) if kind.value == "enabled" => {
            let budget = thinking.as_ref().map(|thinking| thinking.need("budget_tokens")).transpose()?;
            Reasoning::Budget(budget.map(|budget| budget.u32()).transpose()?.unwrap_or(0))
        }
        (Some(kind), _) if kind.value != "adaptive" => {
            return Err(kind.error("must be `enabled`, `disabled` or `adaptive`"));
        }
        (_, Some(effort)) => crate::wire::openai::decode::effort(effort)?,
        (Some(_), None) => Reasoning::Adaptive,
        (None, None) => return Ok(None),
    };
    let path = thinking.or(effort).map(|node| node.path).unwrap_or_default();
    Ok(Some(Set { value, path }))
}

fn tool(node: &Node<'_>) -> Result<Tool, ApiError> {
    if let Some(kind) = node.get("type")
        && kind.str()? != "custom"
    {
        return Err(kind.error("must be `custom` for the backend that serves this model"));
    }
    Ok(Tool {
        name: node.need("name")?.string()?,
        description: node.get("description").map(|text| text.string()).transpose()?,
        parameters: Some(Value::Object(node.need("input_schema")?.object()?.clone())),
        strict: node.get("strict").map(|strict| strict.bool()).transpose()?,
        cache: node.get("cache_control").map(|mark| mark.value.clone()),
        path: node.path.clone(),
    })
}

fn tool_choice(node: &Node<'_>, chat: &mut Chat) -> Result<(), ApiError> {
    let kind = node.need("type")?;
    chat.tool_choice = Some(match kind.str()? {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(node.need("name")?.string()?),
        _ => return Err(kind.error("must be `auto`, `any`, `tool` or `none`")),
    });
    chat.parallel_tools = set(node, "disable_parallel_tool_use", |disable| Ok(!disable.bool()?))?;
    Ok(())
}

fn content(node: &Node<'_>) -> Result<Vec<Part>, ApiError> {
    if let Value::String(text) = node.value {
        return Ok(vec![Part::new(Content::Text(text.clone()), node.path.clone())]);
    }
    node.array()?.iter().map(block).collect()
}

fn block(node: &Node<'_>) -> Result<Part, ApiError> {
    let kind = node.need("type")?;
    let content = match kind.str()? {
        "text" => Content::Text(node.need("text")?.string()?),
        "image" => Content::Image { source: source(&node.need("source")?)?, detail: None },
        "document" => document(node)?,
        "thinking" => Content::Reasoning {
            text: node.need("thinking")?.string()?,
            signature: match node.get("signature") {
                Some(signature) => Some(signature.string()?).filter(|signature| !signature.is_empty()),
                None => None,
            },
        },
        "redacted_thinking" => Content::Redacted(node.need("data")?.string()?),
        "tool_use" => {
            let input = node.need("input")?;
            input.object()?;
            Content::ToolCall {
                id: node.need("id")?.string()?,
                name: node.need("name")?.string()?,
                arguments: input.value.to_string(),
                signature: None,
            }
        }
        "tool_result" => Content::ToolResult {
            id: node.need("tool_use_id")?.string()?,
            parts: node.get("content").map(|inner| content(&inner)).transpose()?.unwrap_or_default(),
            is_error: node.get("is_error").map(|flag| flag.bool()).transpose()?.unwrap_or(false),
        },
        _ => return Err(kind.error("names a block that the backend that serves this model cannot take")),
    };
    Ok(Part {
        content,
        cache: node.get("cache_control").map(|mark| mark.value.clone()),
        path: node.path.clone(),
    })
}

fn document(node: &Node<'_>) -> Result<Content, ApiError> {
    let from = node.need("source")?;
    if from.need("type")?.str()? == "text" {
        return Ok(Content::Text(from.need("data")?.string()?));
    }
    let name = node.get("title").map(|title| title.string()).transpose()?;
    Ok(Content::Document { source: source(&from)?, name })
}

fn source(node: &Node<'_>) -> Result<Source, ApiError> {
    let kind = node.need("type")?;
    match kind.str()? {
        "base64" => Ok(Source::Base64 {
            media_type: node.need("media_type")?.string()?,
            data: node.need("data")?.string()?,
        }),
        "url" => Ok(Source::Url(node.need("url")?.string()?)),
        _ => Err(kind.error("must be `base64` or `url` for the backend that serves this model")),
    }
}
