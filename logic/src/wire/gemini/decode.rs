//! A `generateContent` request into the neutral one. Field names are taken in camelCase and in snake_case,
//! as Google's own servers do.

mod parts;

use super::schema::to_json_schema;
use crate::fault::ApiError;
use crate::wire::chat::{Chat, Format, Reasoning, Role, Set, Tool, ToolChoice, Turn};
use crate::wire::json::Node;
use crate::wire::openai::decode::number;
use parts::Calls;
use serde_json::Value;

const KNOWN: [&str; 9] = [
    "contents",
    "systemInstruction",
    "system_instruction",
    "tools",
    "toolConfig",
    "tool_config",
    "generationConfig",
    "generation_config",
    "model",
];

const CONFIG_KNOWN: [&str; 31] = [
    "temperature",
    "topP",
    "top_p",
    "topK",
    "top_k",
    "candidateCount",
    "candidate_count",
    "maxOutputTokens",
    "max_output_tokens",
    "stopSequences",
    "stop_sequences",
    "seed",
    "presencePenalty",
    "presence_penalty",
    "frequencyPenalty",
    "frequency_penalty",
    "responseLogprobs",
    "response_logprobs",
    "logprobs",
    "responseMimeType",
    "response_mime_type",
    "responseSchema",
    "response_schema",
    "responseJsonSchema",
    "response_json_schema",
    "_responseJsonSchema",
    "thinkingConfig",
    "thinking_config",
    "responseModalities",
    "response_modalities",
    "mediaResolution",
];

/// Decodes a whole request body.
pub(in crate::wire) fn chat(body: &Value, stream: bool) -> Result<Chat, ApiError> {
    let body = &Node::root(body);
    if let Some(cached) = body.any(["cachedContent", "cached_content"]) {
        return Err(cached.error("is known to one provider only; send the content itself"));
    }
    let mut chat = Chat { stream, unknown: body.unknown(&KNOWN), ..Chat::default() };
    if let Some(config) = body.any(["generationConfig", "generation_config"]) {
        generation_config(&config, &mut chat)?;
    }
    for node in body.get("tools").map(|tools| tools.array()).transpose()?.unwrap_or_default() {
        tools(&node, &mut chat)?;
    }
    if let Some(config) = body.any(["toolConfig", "tool_config"])
        && let Some(calling) = config.any(["functionCallingConfig", "function_calling_config"])
    {
        tool_choice(&calling, &mut chat)?;
    }
    let mut calls = Calls::default();
    if let Some(system) = body.any(["systemInstruction", "system_instruction"]) {
        let parts = calls.parts(&system)?;
        chat.turns.push(Turn { role: Role::System, parts, path: system.path });
    }
    for content in body.need("contents")?.array()? {
        let role = match content.get("role") {
            None => Role::User,
            Some(role) => match role.str()? {
                "user" | "function" => Role::User,
                "model" => Role::Assistant,
                _ => return Err(role.error("must be `user` or `model`")),
            },
        };
        let parts = calls.parts(&content)?;
        chat.turns.push(Turn { role, parts, path: content.path });
    }
    Ok(chat)
}

fn set<'a, T>(
    node: Option<Node<'a>>,
    read: impl Fn(&Node<'a>) -> Result<T, ApiError>,
) -> Result<Option<Set<T>>, ApiError> {
    let Some(node) = node else { return Ok(None) };
    Ok(Some(Set { value: read(&node)?, path: node.path }))
}

fn generation_config(config: &Node<'_>, chat: &mut Chat) -> Result<(), ApiError> {
    chat.unknown.extend(config.unknown(&CONFIG_KNOWN));
    if let Some(modalities) = config.any(["responseModalities", "response_modalities"]) {
        for modality in modalities.array()? {
            if !modality.str()?.eq_ignore_ascii_case("text") {
                return Err(modality.error("must be `TEXT` for the backend that serves this model"));
            }
        }
    }
    chat.temperature = config.get("temperature").map(|node| number(&node)).transpose()?;
    chat.top_p = config.any(["topP", "top_p"]).map(|node| number(&node)).transpose()?;
    chat.top_k = set(config.any(["topK", "top_k"]), Node::u32)?;
    chat.count = set(config.any(["candidateCount", "candidate_count"]), Node::u32)?;
    chat.max_tokens =
        config.any(["maxOutputTokens", "max_output_tokens"]).map(|node| node.u32()).transpose()?;
    chat.stop = set(config.any(["stopSequences", "stop_sequences"]), Node::strings)?;
    chat.seed = set(config.get("seed"), Node::i64)?;
    chat.presence_penalty = set(config.any(["presencePenalty", "presence_penalty"]), number)?;
    chat.frequency_penalty = set(config.any(["frequencyPenalty", "frequency_penalty"]), number)?;
    if let Some(wanted) = config.any(["responseLogprobs", "response_logprobs"])
        && wanted.bool()?
    {
        let top = config.get("logprobs").map(|node| node.u32()).transpose()?.unwrap_or(0);
        chat.logprobs = Some(Set { value: top, path: wanted.path });
    }
    chat.format = format(config)?;
    if let Some(thinking) = config.any(["thinkingConfig", "thinking_config"]) {
        chat.reasoning = reasoning(&thinking)?;
    }
    Ok(())
}

fn format(config: &Node<'_>) -> Result<Option<Set<Format>>, ApiError> {
    let named =
        |schema| Format::Schema { name: "response".to_owned(), description: None, strict: None, schema };
    let json_schema = config
        .any(["responseJsonSchema", "response_json_schema"])
        .or_else(|| config.get("_responseJsonSchema"));
    if let Some(schema) = json_schema {
        schema.object()?;
        return Ok(Some(Set { value: named(schema.value.clone()), path: schema.path }));
    }
    if let Some(schema) = config.any(["responseSchema", "response_schema"]) {
        schema.object()?;
        return Ok(Some(Set { value: named(to_json_schema(schema.value)), path: schema.path }));
    }
    let Some(mime) = config.any(["responseMimeType", "response_mime_type"]) else {
        return Ok(None);
    };
    match mime.str()? {
        "text/plain" => Ok(None),
        "application/json" => Ok(Some(Set { value: Format::Json, path: mime.path })),
        _ => {
            Err(mime
                .error("must be `text/plain` or `application/json` for the backend that serves this model"))
        }
    }
}

fn reasoning(thinking: &Node<'_>) -> Result<Option<Set<Reasoning>>, ApiError> {
    if let Some(level) = thinking.any(["thinkingLevel", "thinking_level"]) {
        let word = level.str()?.to_ascii_lowercase();
        return Ok(Some(Set { value: Reasoning::Effort(word), path: level.path }));
    }
    let Some(budget) = thinking.any(["thinkingBudget", "thinking_budget"]) else {
        return Ok(None);
    };
    let value = match budget.i64()? {
        0 => Reasoning::Off,
        number if number < 0 => Reasoning::Adaptive,
        _ => Reasoning::Budget(budget.u32()?),
    };
    Ok(Some(Set { value, path: budget.path }))
}

fn tools(node: &Node<'_>, chat: &mut Chat) -> Result<(), ApiError> {
    if let Some(other) = node.unknown(&["functionDeclarations", "function_declarations"]).first() {
        let key = other.rsplit('.').next().unwrap_or(other);
        let other = node.need(key)?;
        return Err(other.error("cannot be used with the backend that serves this model"));
    }
    let declarations = node.any(["functionDeclarations", "function_declarations"]);
    for declaration in declarations.map(|node| node.array()).transpose()?.unwrap_or_default() {
        let json_schema = declaration.any(["parametersJsonSchema", "parameters_json_schema"]);
        let parameters = match json_schema {
            Some(schema) => Some(schema.value.clone()),
            None => declaration.get("parameters").map(|schema| to_json_schema(schema.value)),
        };
        chat.tools.push(Tool {
            name: declaration.need("name")?.string()?,
            description: declaration.get("description").map(|text| text.string()).transpose()?,
            parameters,
            strict: None,
            cache: None,
            path: declaration.path,
        });
    }
    Ok(())
}

fn tool_choice(calling: &Node<'_>, chat: &mut Chat) -> Result<(), ApiError> {
    let Some(mode) = calling.get("mode") else {
        return Ok(());
    };
    let allowed = calling.any(["allowedFunctionNames", "allowed_function_names"]);
    let allowed = allowed.map(|names| names.strings()).transpose()?.unwrap_or_default();
    chat.tool_choice = Some(match mode.str()?.to_ascii_uppercase().as_str() {
        "AUTO" | "VALIDATED" | "MODE_UNSPECIFIED" => ToolChoice::Auto,
        "NONE" => ToolChoice::None,
        "ANY" => match allowed.as_slice() {
            [] => ToolChoice::Required,
            [one] => ToolChoice::Named(one.clone()),
            several => {
                // No other dialect can name several, but all can be offered only these.
                chat.tools.retain(|tool| several.contains(&tool.name));
                ToolChoice::Required
            }
        },
        _ => return Err(mode.error("must be `AUTO`, `ANY`, `NONE` or `VALIDATED`")),
    });
    Ok(())
}
