//! The neutral request as a messages body.

use crate::fault::ApiError;
use crate::wire::chat::{Chat, Content, Format, Part, Reasoning, Role, Source, Tool, ToolChoice, budget_of};
use crate::wire::gemini::SIGNATURE_MARK;
use crate::wire::openai::encode::refuse;
use serde_json::{Map, Value, json};

/// The output bound where the client gave none: the field is required, and every model allows this much.
const MAX_TOKENS_DEFAULT: u32 = 4096;

/// The smallest thinking budget Anthropic accepts.
const THINKING_BUDGET_MIN: u32 = 1024;

/// Encodes a whole request; appends to `dropped` what was left out.
pub(in crate::wire) fn chat(chat: &Chat, model: &str, dropped: &mut Vec<String>) -> Result<Value, ApiError> {
    if let Some(count) = chat.count.as_ref().filter(|count| count.value != 1) {
        return Err(refuse(&count.path, "must be 1 for the backend that serves this model"));
    }
    if let Some(logprobs) = &chat.logprobs {
        return Err(refuse(&logprobs.path, "cannot be had from the backend that serves this model"));
    }
    dropped.extend(chat.seed.iter().map(|seed| seed.path.clone()));
    let penalties = chat.frequency_penalty.iter().chain(&chat.presence_penalty);
    dropped.extend(penalties.filter(|set| set.value.as_f64() != Some(0.0)).map(|set| set.path.clone()));

    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("model", json!(model));
    let thinking = thinking(chat, dropped);
    let max_tokens = match (&thinking, chat.max_tokens) {
        (_, Some(max_tokens)) => max_tokens,
        (Some(Thinking::Budget(budget)), None) => budget + MAX_TOKENS_DEFAULT,
        (_, None) => MAX_TOKENS_DEFAULT,
    };
    put("max_tokens", json!(max_tokens));
    let (system, messages) = messages(chat, dropped)?;
    if let Some(system) = system {
        put("system", system);
    }
    put("messages", Value::Array(messages));
    if !chat.tools.is_empty() {
        put("tools", chat.tools.iter().map(tool).collect());
    }
    let thinks = matches!(thinking, Some(Thinking::Budget(_) | Thinking::Adaptive));
    if let Some(choice) = tool_choice(chat) {
        put("tool_choice", choice);
    }
    match chat.temperature.as_ref().and_then(Value::as_f64) {
        // Thinking allows the default temperature only.
        Some(temperature) if thinks && temperature != 1.0 => dropped.push("temperature".to_owned()),
        // OpenAI's range ends at 2, Anthropic's at 1; Anthropic's own compatibility layer caps.
        Some(temperature) if temperature > 1.0 => {
            dropped.push("temperature".to_owned());
            put("temperature", json!(1));
        }
        Some(_) => {
            put("temperature", json!(chat.temperature));
        }
        None => {}
    }
    if let Some(top_p) = &chat.top_p {
        put("top_p", top_p.clone());
    }
    match &chat.top_k {
        Some(top_k) if thinks => dropped.push(top_k.path.clone()),
        Some(top_k) => {
            put("top_k", json!(top_k.value));
        }
        None => {}
    }
    if let Some(stop) = chat.stop.as_ref().filter(|stop| !stop.value.is_empty()) {
        put("stop_sequences", json!(stop.value));
    }
    if let Some(thinking) = thinking {
        put(
            "thinking",
            match thinking {
                Thinking::Off => json!({"type": "disabled"}),
                Thinking::Adaptive => json!({"type": "adaptive"}),
                Thinking::Budget(budget) => json!({"type": "enabled", "budget_tokens": budget}),
            },
        );
    }
    if let Some(format) = &chat.format {
        match &format.value {
            Format::Schema { schema, .. } => {
                put("output_config", json!({"format": {"type": "json_schema", "schema": schema}}));
            }
            Format::Json => {
                return Err(refuse(
                    &format.path,
                    "must name a JSON schema for the backend that serves this model: it has no plain JSON mode",
                ));
            }
        }
    }
    if let Some(user) = &chat.user {
        put("metadata", json!({"user_id": user.value}));
    }
    Ok(Value::Object(body))
}

enum Thinking {
    Off,
    Budget(u32),
    Adaptive,
}

/// Thinking as far as the rest of the request allows it.
fn thinking(chat: &Chat, dropped: &mut Vec<String>) -> Option<Thinking> {
    let set = chat.reasoning.as_ref()?;
    let budget = match &set.value {
        Reasoning::Off => return Some(Thinking::Off),
        Reasoning::Adaptive => return Some(Thinking::Adaptive),
        Reasoning::Effort(word) => budget_of(word)?,
        Reasoning::Budget(budget) => *budget,
    };
    // The budget is part of the output bound and must leave room for the answer.
    let budget = chat.max_tokens.map_or(budget, |max| budget.min(max.saturating_sub(max / 4 + 1)));
    let forced = matches!(chat.tool_choice, Some(ToolChoice::Required | ToolChoice::Named(_)));
    if budget < THINKING_BUDGET_MIN || forced || continues_without_thinking(chat) {
        dropped.push(set.path.clone());
        return None;
    }
    Some(Thinking::Budget(budget))
}

/// Whether the conversation ends in tool results whose calls came without signed thinking: Anthropic
/// refuses to think in the middle of such a turn.
fn continues_without_thinking(chat: &Chat) -> bool {
    let is_result = |part: &Part| matches!(part.content, Content::ToolResult { .. });
    if !chat.turns.last().is_some_and(|turn| turn.parts.iter().any(is_result)) {
        return false;
    }
    let caller = chat.turns.iter().rev().find(|turn| turn.role == Role::Assistant);
    !caller.is_some_and(|turn| {
        turn.parts.iter().any(|part| match &part.content {
            Content::Reasoning { signature, .. } => {
                signature.as_ref().is_some_and(|signature| !signature.starts_with(SIGNATURE_MARK))
            }
            Content::Redacted(_) => true,
            _ => false,
        })
    })
}

fn tool(tool: &Tool) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        object.insert("description".to_owned(), json!(description));
    }
    let mut schema = tool.parameters.clone().unwrap_or_else(|| json!({}));
    if let Value::Object(members) = &mut schema
        && !members.contains_key("type")
    {
        members.insert("type".to_owned(), json!("object"));
    }
    object.insert("input_schema".to_owned(), schema);
    if tool.strict == Some(true) {
        object.insert("strict".to_owned(), json!(true));
    }
    if let Some(cache) = &tool.cache {
        object.insert("cache_control".to_owned(), cache.clone());
    }
    Value::Object(object)
}

fn tool_choice(chat: &Chat) -> Option<Value> {
    if chat.tools.is_empty() {
        return None;
    }
    let one_at_a_time = chat.parallel_tools.as_ref().is_some_and(|parallel| !parallel.value);
    let mut choice = match &chat.tool_choice {
        None if !one_at_a_time => return None,
        None | Some(ToolChoice::Auto) => json!({"type": "auto"}),
        Some(ToolChoice::None) => return Some(json!({"type": "none"})),
        Some(ToolChoice::Required) => json!({"type": "any"}),
        Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
    };
    if one_at_a_time {
        choice["disable_parallel_tool_use"] = json!(true);
    }
    Some(choice)
}

/// The system prompt and the messages. Turns of the same role in a row become one message, so that all
/// results of parallel tool calls stand together as Anthropic asks.
fn messages(chat: &Chat, dropped: &mut Vec<String>) -> Result<(Option<Value>, Vec<Value>), ApiError> {
    let mut system: Vec<Value> = Vec::new();
    let mut messages: Vec<(Role, Vec<Value>)> = Vec::new();
    for turn in &chat.turns {
        if turn.role == Role::System {
            if !messages.is_empty() {
                // Only the start of the conversation has a place for it.
                dropped.push(format!("{}.role", turn.path));
            }
            for part in &turn.parts {
                let Content::Text(_) = &part.content else {
                    return Err(refuse(&part.path, "must be text in a system message"));
                };
                system.extend(block(part, dropped)?);
            }
            continue;
        }
        let mut blocks = Vec::new();
        for part in &turn.parts {
            blocks.extend(block(part, dropped)?);
        }
        if blocks.is_empty() {
            continue;
        }
        match messages.last_mut() {
            Some((role, held)) if *role == turn.role => held.append(&mut blocks),
            _ => messages.push((turn.role, blocks)),
        }
    }
    let messages = messages
        .into_iter()
        .map(|(role, blocks)| {
            let role = if role == Role::User { "user" } else { "assistant" };
            json!({"role": role, "content": plain(blocks)})
        })
        .collect();
    Ok(((!system.is_empty()).then(|| plain(system)), messages))
}

/// One text block without marks as a plain string.
fn plain(blocks: Vec<Value>) -> Value {
    match blocks.as_slice() {
        [one] if one["type"] == "text" && one.as_object().is_some_and(|members| members.len() == 2) => {
            one["text"].clone()
        }
        _ => Value::Array(blocks),
    }
}

/// A part as a content block; `None` for empty text, which Anthropic refuses.
fn block(part: &Part, dropped: &mut Vec<String>) -> Result<Option<Value>, ApiError> {
    let mut object = match &part.content {
        Content::Text(text) | Content::Refusal(text) if text.is_empty() => return Ok(None),
        Content::Text(text) | Content::Refusal(text) => json!({"type": "text", "text": text}),
        Content::Image { source, .. } => json!({"type": "image", "source": source_object(source)}),
        Content::Document { source, name } => document(part, source, name.as_deref())?,
        Content::Reasoning { text, signature: Some(signature) } if !signature.starts_with(SIGNATURE_MARK) => {
            json!({"type": "thinking", "thinking": text, "signature": signature})
        }
        Content::Reasoning { .. } => {
            // Anthropic refuses thinking without its own proof.
            dropped.push(part.path.clone());
            return Ok(None);
        }
        Content::Redacted(data) => json!({"type": "redacted_thinking", "data": data}),
        Content::ToolCall { id, name, arguments, .. } => {
            let input = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
            json!({"type": "tool_use", "id": tool_id(id), "name": name, "input": input})
        }
        Content::ToolResult { id, parts, is_error } => {
            let mut inner = Vec::new();
            for part in parts {
                inner.extend(block(part, dropped)?);
            }
            let mut result = json!({"type": "tool_result", "tool_use_id": tool_id(id)});
            if !inner.is_empty() {
                result["content"] = plain(inner);
            }
            if *is_error {
                result["is_error"] = json!(true);
            }
            result
        }
    };
    if let Some(cache) = &part.cache {
        object["cache_control"] = cache.clone();
    }
    Ok(Some(object))
}

fn source_object(source: &Source) -> Value {
    match source {
        Source::Url(url) => json!({"type": "url", "url": url}),
        Source::Base64 { media_type, data } => {
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
    }
}

fn document(part: &Part, source: &Source, name: Option<&str>) -> Result<Value, ApiError> {
    if let Source::Base64 { media_type, .. } = source
        && media_type != "application/pdf"
    {
        return Err(refuse(&part.path, "must be a PDF for the backend that serves this model"));
    }
    let mut document = json!({"type": "document", "source": source_object(source)});
    if let Some(name) = name {
        document["title"] = json!(name);
    }
    Ok(document)
}

/// A call id in the alphabet Anthropic allows (`^[a-zA-Z0-9_-]+$`).
fn tool_id(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect()
}
