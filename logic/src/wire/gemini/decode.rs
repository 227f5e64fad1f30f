//! A `generateContent` request into the neutral one. Field names are taken in camelCase and in snake_case,
//! as Google's own servers do.

use super::schema::to_json_schema;
use super::{ANTHROPIC_MARK, SIGNATURE_MARK};
use crate::fault::ApiError;
use crate::wire::chat::{Chat, Content, Format, Part, Reasoning, Role, Set, Source, Tool, ToolChoice, Turn};
use crate::wire::json::Node;
use crate::wire::openai::decode::number;
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
    let mut chat = Chat {
        stream,
        unknown: body.unknown(&KNOWN),
        ..Chat::default()
    };
    if let Some(config) = body.any(["generationConfig", "generation_config"]) {
        generation_config(&config, &mut chat)?;
    }
    for node in body
        .get("tools")
        .map(|tools| tools.array())
        .transpose()?
        .unwrap_or_default()
    {
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
        chat.turns.push(Turn {
            role: Role::System,
            parts,
            path: system.path,
        });
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
        chat.turns.push(Turn {
            role,
            parts,
            path: content.path,
        });
    }
    Ok(chat)
}

fn set<'a, T>(
    node: Option<Node<'a>>,
    read: impl Fn(&Node<'a>) -> Result<T, ApiError>,
) -> Result<Option<Set<T>>, ApiError> {
    let Some(node) = node else { return Ok(None) };
    Ok(Some(Set {
        value: read(&node)?,
        path: node.path,
    }))
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
    chat.top_p = config
        .any(["topP", "top_p"])
        .map(|node| number(&node))
        .transpose()?;
    chat.top_k = set(config.any(["topK", "top_k"]), Node::u32)?;
    chat.count = set(config.any(["candidateCount", "candidate_count"]), |node| {
        node.u32()
    })?;
    chat.max_tokens = config
        .any(["maxOutputTokens", "max_output_tokens"])
        .map(|node| node.u32())
        .transpose()?;
    chat.stop = set(config.any(["stopSequences", "stop_sequences"]), |node| {
        node.strings()
    })?;
    chat.seed = set(config.get("seed"), Node::i64)?;
    chat.presence_penalty = set(config.any(["presencePenalty", "presence_penalty"]), number)?;
    chat.frequency_penalty = set(config.any(["frequencyPenalty", "frequency_penalty"]), number)?;
    if let Some(wanted) = config.any(["responseLogprobs", "response_logprobs"])
        && wanted.bool()?
    {
        let top = config
            .get("logprobs")
            .map(|node| node.u32())
            .transpose()?
            .unwrap_or(0);
        chat.logprobs = Some(Set {
            value: top,
            path: wanted.path,
        });
    }
    chat.format = format(config)?;
    if let Some(thinking) = config.any(["thinkingConfig", "thinking_config"]) {
        chat.reasoning = reasoning(&thinking)?;
    }
    Ok(())
}

fn format(config: &Node<'_>) -> Result<Option<Set<Format>>, ApiError> {
    let named = |schema| Format::Schema {
        name: "response".to_owned(),
        description: None,
        strict: None,
        schema,
    };
    let json_schema = config
        .any(["responseJsonSchema", "response_json_schema"])
        .or_else(|| config.get("_responseJsonSchema"));
    if let Some(schema) = json_schema {
        schema.object()?;
        return Ok(Some(Set {
            value: named(schema.value.clone()),
            path: schema.path,
        }));
    }
    if let Some(schema) = config.any(["responseSchema", "response_schema"]) {
        schema.object()?;
        return Ok(Some(Set {
            value: named(to_json_schema(schema.value)),
            path: schema.path,
        }));
    }
    let Some(mime) = config.any(["responseMimeType", "response_mime_type"]) else {
        return Ok(None);
    };
    match mime.str()? {
        "text/plain" => Ok(None),
        "application/json" => Ok(Some(Set {
            value: Format::Json,
            path: mime.path,
        })),
        _ => {
            Err(mime
                .error("must be `text/plain` or `application/json` for the backend that serves this model"))
        }
    }
}

fn reasoning(thinking: &Node<'_>) -> Result<Option<Set<Reasoning>>, ApiError> {
    if let Some(level) = thinking.any(["thinkingLevel", "thinking_level"]) {
        let word = level.str()?.to_ascii_lowercase();
        return Ok(Some(Set {
            value: Reasoning::Effort(word),
            path: level.path,
        }));
    }
    let Some(budget) = thinking.any(["thinkingBudget", "thinking_budget"]) else {
        return Ok(None);
    };
    let value = match budget.i64()? {
        0 => Reasoning::Off,
        number if number < 0 => Reasoning::Adaptive,
        _ => Reasoning::Budget(budget.u32()?),
    };
    Ok(Some(Set {
        value,
        path: budget.path,
    }))
}

fn tools(node: &Node<'_>, chat: &mut Chat) -> Result<(), ApiError> {
    if let Some(other) = node
        .unknown(&["functionDeclarations", "function_declarations"])
        .first()
    {
        let key = other.rsplit('.').next().unwrap_or(other);
        let other = node.need(key)?;
        return Err(other.error("cannot be used with the backend that serves this model"));
    }
    let declarations = node.any(["functionDeclarations", "function_declarations"]);
    for declaration in declarations
        .map(|node| node.array())
        .transpose()?
        .unwrap_or_default()
    {
        let json_schema = declaration.any(["parametersJsonSchema", "parameters_json_schema"]);
        let parameters = match json_schema {
            Some(schema) => Some(schema.value.clone()),
            None => declaration
                .get("parameters")
                .map(|schema| to_json_schema(schema.value)),
        };
        chat.tools.push(Tool {
            name: declaration.need("name")?.string()?,
            description: declaration
                .get("description")
                .map(|text| text.string())
                .transpose()?,
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
    let allowed = allowed
        .map(|names| names.strings())
        .transpose()?
        .unwrap_or_default();
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

/// Calls and results need not carry ids in this dialect: results answer the calls of their name in order.
#[derive(Default)]
struct Calls {
    made: u32,
    /// Name and id of calls that no result answered yet.
    open: Vec<(String, String)>,
}

impl Calls {
    fn parts(&mut self, content: &Node<'_>) -> Result<Vec<Part>, ApiError> {
        let mut parts = Vec::new();
        let nodes = match content.get("parts") {
            // A single part stands for a list of one, as in Google's own parsers.
            Some(one) if one.value.is_object() => vec![one],
            Some(list) => list.array()?,
            None => Vec::new(),
        };
        for node in nodes {
            self.part(&node, &mut parts)?;
        }
        Ok(parts)
    }

    fn part(&mut self, node: &Node<'_>, parts: &mut Vec<Part>) -> Result<(), ApiError> {
        node.object()?;
        let signature = node.any(["thoughtSignature", "thought_signature"]);
        let signature = signature.map(|signature| signature.string()).transpose()?;
        let mut push = |content| parts.push(Part::new(content, node.path.clone()));
        if let Some(call) = node.any(["functionCall", "function_call"]) {
            push(self.call(&call, signature)?);
            return Ok(());
        }
        let thought = node
            .get("thought")
            .map(|thought| thought.bool())
            .transpose()?
            .unwrap_or(false);
        let marked = signature.map(|signature| neutral_signature(&signature));
        if let Some(text) = node.get("text") {
            let text = text.string()?;
            if thought {
                push(Content::Reasoning {
                    text,
                    signature: marked,
                });
                return Ok(());
            }
            if !text.is_empty() || marked.is_none() {
                push(Content::Text(text));
            }
        } else if let Some(data) = node.any(["inlineData", "inline_data"]) {
            push(inline(&data)?);
        } else if let Some(file) = node.any(["fileData", "file_data"]) {
            push(file_data(&file)?);
        } else if let Some(response) = node.any(["functionResponse", "function_response"]) {
            push(self.response(&response)?);
        } else {
            return Err(node.error(
                "must hold `text`, `inlineData`, `fileData`, `functionCall` or `functionResponse` for the backend \
                 that serves this model",
            ));
        }
        if let Some(signature) = marked {
            push(Content::Reasoning {
                text: String::new(),
                signature: Some(signature),
            });
        }
        Ok(())
    }

    fn call(&mut self, call: &Node<'_>, signature: Option<String>) -> Result<Content, ApiError> {
        self.made += 1;
        let name = call.need("name")?.string()?;
        let id = match call.get("id") {
            Some(id) => id.string()?,
            None => format!("call_{}", self.made),
        };
        self.open.push((name.clone(), id.clone()));
        let arguments = match call.get("args") {
            Some(args) => {
                args.object()?;
                args.value.to_string()
            }
            None => "{}".to_owned(),
        };
        Ok(Content::ToolCall {
            id,
            name,
            arguments,
            signature,
        })
    }

    fn response(&mut self, node: &Node<'_>) -> Result<Content, ApiError> {
        let name = node.need("name")?.string()?;
        let id = node.get("id").map(|id| id.string()).transpose()?;
        let open = self.open.iter().position(|(of, open)| match &id {
            Some(id) => id == open,
            None => *of == name,
        });
        let id = match open {
            Some(at) => self.open.remove(at).1,
            None => {
                return Err(node.error("answers a call that no earlier part of `contents` made"));
            }
        };
        let response = node.need("response")?;
        let (text, is_error) = result_text(response.object()?, response.value);
        let mut parts = vec![Part::new(Content::Text(text), response.path)];
        for part in node
            .get("parts")
            .map(|parts| parts.array())
            .transpose()?
            .unwrap_or_default()
        {
            let data = part
                .any(["inlineData", "inline_data"])
                .ok_or_else(|| part.error("must hold `inlineData`"))?;
            parts.push(Part::new(inline(&data)?, part.path));
        }
        Ok(Content::ToolResult { id, parts, is_error })
    }
}

/// Google's convention: an object with the one key `output` (or `result`) or `error` stands for its value.
fn result_text(members: &serde_json::Map<String, Value>, whole: &Value) -> (String, bool) {
    let only = members.iter().next().filter(|_| members.len() == 1);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match only {
        Some((key, value)) if key == "output" || key == "result" => (text(value), false),
        Some((key, value)) if key == "error" => (text(value), true),
        _ => (whole.to_string(), false),
    }
}

/// A signature as other dialects carry it: Gemini's own marked, Anthropic's as it was.
fn neutral_signature(signature: &str) -> String {
    match signature.strip_prefix(ANTHROPIC_MARK) {
        // The SDKs write bytes in the URL-safe alphabet; Anthropic compares text.
        Some(own) => own.replace('-', "+").replace('_', "/"),
        None => format!("{SIGNATURE_MARK}{signature}"),
    }
}

fn inline(data: &Node<'_>) -> Result<Content, ApiError> {
    let mime = data
        .any(["mimeType", "mime_type"])
        .ok_or_else(|| data.error("must hold `mimeType`"))?;
    let media_type = mime.string()?;
    // Standard base64 is what other dialects take; some SDKs write the URL-safe alphabet.
    let content = data.need("data")?.str()?.replace('-', "+").replace('_', "/");
    binary(
        &mime,
        Source::Base64 {
            media_type: media_type.clone(),
            data: content,
        },
        &media_type,
    )
}

fn file_data(file: &Node<'_>) -> Result<Content, ApiError> {
    let uri = file
        .any(["fileUri", "file_uri"])
        .ok_or_else(|| file.error("must hold `fileUri`"))?;
    let url = uri.str()?;
    if !url.starts_with("https://") || url.starts_with("https://generativelanguage.googleapis.com/") {
        return Err(uri.error("is known to one provider only; send a public `https:` URL or `inlineData`"));
    }
    let mime = file.any(["mimeType", "mime_type"]);
    let media_type = mime.as_ref().map_or(Ok("image/*"), Node::str)?.to_owned();
    binary(
        &mime.unwrap_or_else(|| uri.clone()),
        Source::Url(url.to_owned()),
        &media_type,
    )
}

fn binary(mime: &Node<'_>, source: Source, media_type: &str) -> Result<Content, ApiError> {
    if media_type.starts_with("image/") {
        Ok(Content::Image { source, detail: None })
    } else if media_type == "application/pdf" {
        Ok(Content::Document { source, name: None })
    } else {
        Err(mime.error("must be an image type or `application/pdf` for the backend that serves this model"))
    }
}
