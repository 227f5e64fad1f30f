//! The neutral request as a `generateContent` body.

use super::SIGNATURE_MARK;
use crate::fault::ApiError;
use crate::wire::chat::{Chat, Content, Format, Part, Reasoning, Role, Source, Tool, ToolChoice, budget_of};
use crate::wire::openai::encode::refuse;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Stop sequences Gemini takes at most.
const STOP_MAX: usize = 5;

/// Encodes a whole request; appends to `dropped` what was left out.
pub(in crate::wire) fn chat(chat: &Chat, dropped: &mut Vec<String>) -> Result<Value, ApiError> {
    let names = chat.tool_names();
    let mut system: Vec<Value> = Vec::new();
    let mut contents: Vec<(Role, Vec<Value>)> = Vec::new();
    for turn in &chat.turns {
        let mut parts = Parts { names: &names, out: Vec::new(), signature: None, dropped };
        for part in &turn.parts {
            parts.add(part, turn.role)?;
        }
        parts.end();
        let mut out = parts.out;
        if turn.role == Role::System {
            if !contents.is_empty() {
                // Only the start of the conversation has a place for it.
                dropped.push(format!("{}.role", turn.path));
            }
            system.append(&mut out);
        } else if !out.is_empty() {
            match contents.last_mut() {
                Some((role, held)) if *role == turn.role => held.append(&mut out),
                _ => contents.push((turn.role, out)),
            }
        }
    }
    let mut body = Map::new();
    if !system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({"parts": system}));
    }
    let contents: Vec<Value> = contents
        .into_iter()
        .map(|(role, parts)| json!({"role": if role == Role::User { "user" } else { "model" }, "parts": parts}))
        .collect();
    body.insert("contents".to_owned(), Value::Array(contents));
    if !chat.tools.is_empty() {
        let declarations: Vec<Value> = chat.tools.iter().map(|tool| declaration(tool, dropped)).collect();
        body.insert("tools".to_owned(), json!([{"functionDeclarations": declarations}]));
        if let Some(choice) = &chat.tool_choice {
            let config = match choice {
                ToolChoice::Auto => json!({"mode": "AUTO"}),
                ToolChoice::None => json!({"mode": "NONE"}),
                ToolChoice::Required => json!({"mode": "ANY"}),
                ToolChoice::Named(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
            };
            body.insert("toolConfig".to_owned(), json!({"functionCallingConfig": config}));
        }
        // Gemini has no switch for it.
        dropped.extend(chat.parallel_tools.iter().filter(|set| !set.value).map(|set| set.path.clone()));
    }
    let config = generation_config(chat, dropped)?;
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(config));
    }
    dropped.extend(chat.user.iter().map(|user| user.path.clone()));
    Ok(Value::Object(body))
}

fn generation_config(chat: &Chat, dropped: &mut Vec<String>) -> Result<Map<String, Value>, ApiError> {
    let mut config = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(key.to_owned(), value);
        }
    };
    put("temperature", chat.temperature.clone());
    put("topP", chat.top_p.clone());
    put("topK", chat.top_k.as_ref().map(|top_k| json!(top_k.value)));
    put("maxOutputTokens", chat.max_tokens.map(|max| json!(max)));
    match &chat.stop {
        Some(stop) if stop.value.len() > STOP_MAX => {
            let what =
                format!("may hold at most {STOP_MAX} sequences for the backend that serves this model");
            return Err(refuse(&stop.path, &what));
        }
        Some(stop) if !stop.value.is_empty() => put("stopSequences", Some(json!(stop.value))),
        _ => {}
    }
    put("candidateCount", chat.count.as_ref().map(|count| json!(count.value)));
    match &chat.seed {
        Some(seed) if i32::try_from(seed.value).is_err() => dropped.push(seed.path.clone()),
        seed => put("seed", seed.as_ref().map(|seed| json!(seed.value))),
    }
    put("frequencyPenalty", chat.frequency_penalty.as_ref().map(|penalty| penalty.value.clone()));
    put("presencePenalty", chat.presence_penalty.as_ref().map(|penalty| penalty.value.clone()));
    if let Some(logprobs) = &chat.logprobs {
        put("responseLogprobs", Some(json!(true)));
        put("logprobs", (logprobs.value > 0).then(|| json!(logprobs.value)));
    }
    match chat.format.as_ref().map(|format| &format.value) {
        Some(Format::Json) => put("responseMimeType", Some(json!("application/json"))),
        Some(Format::Schema { schema, .. }) => {
            put("responseMimeType", Some(json!("application/json")));
            put("responseJsonSchema", Some(schema.clone()));
        }
        None => {}
    }
    if let Some(reasoning) = &chat.reasoning {
        let thinking = match &reasoning.value {
            Reasoning::Off => json!({"thinkingBudget": 0}),
            Reasoning::Effort(word) => json!({"thinkingBudget": budget_of(word)}),
            Reasoning::Budget(budget) => json!({"includeThoughts": true, "thinkingBudget": budget}),
            Reasoning::Adaptive => json!({"includeThoughts": true, "thinkingBudget": -1}),
        };
        put("thinkingConfig", Some(thinking));
    }
    Ok(config)
}

fn declaration(tool: &Tool, dropped: &mut Vec<String>) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(tool.name));
    // Gemini requires a description.
    object.insert("description".to_owned(), json!(tool.description.as_deref().unwrap_or(&tool.name)));
    if let Some(parameters) = &tool.parameters {
        object.insert("parametersJsonSchema".to_owned(), parameters.clone());
    }
    if tool.strict == Some(true) {
        dropped.push(format!("{}.strict", tool.path));
    }
    if tool.cache.is_some() {
        dropped.push(format!("{}.cache_control", tool.path));
    }
    Value::Object(object)
}

struct Parts<'a> {
    names: &'a HashMap<&'a str, &'a str>,
    out: Vec<Value>,
    /// A signature that belongs to the next function call, or to a part of its own.
    signature: Option<String>,
    dropped: &'a mut Vec<String>,
}

impl Parts<'_> {
    fn add(&mut self, part: &Part, role: Role) -> Result<(), ApiError> {
        if part.cache.is_some() {
            self.dropped.push(format!("{}.cache_control", part.path));
        }
        if role == Role::System && !matches!(part.content, Content::Text(_)) {
            return Err(refuse(&part.path, "must be text in a system message"));
        }
        if !matches!(part.content, Content::ToolCall { .. }) {
            self.end();
        }
        match &part.content {
            Content::Text(text) | Content::Refusal(text) if text.is_empty() => {}
            Content::Text(text) | Content::Refusal(text) => self.out.push(json!({"text": text})),
            Content::Image { source, .. } | Content::Document { source, .. } => self.out.push(binary(source)),
            Content::Reasoning { text, signature } => {
                match signature.as_deref().and_then(|signature| signature.strip_prefix(SIGNATURE_MARK)) {
                    Some(signature) if text.is_empty() => self.signature = Some(signature.to_owned()),
                    Some(signature) => {
                        self.out.push(json!({"text": text, "thought": true, "thoughtSignature": signature}));
                    }
                    None => self.dropped.push(part.path.clone()),
                }
            }
            Content::Redacted(_) => self.dropped.push(part.path.clone()),
            Content::ToolCall { id, name, arguments, signature } => {
                let args: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
                let mut call = json!({"functionCall": {"id": id, "name": name, "args": args}});
                if let Some(signature) = signature.clone().or(self.signature.take()) {
                    call["thoughtSignature"] = json!(signature);
                }
                self.out.push(call);
            }
            Content::ToolResult { id, parts, is_error } => self.result(part, id, parts, *is_error)?,
        }
        Ok(())
    }

    /// Writes a signature that no call followed.
    fn end(&mut self) {
        if let Some(signature) = self.signature.take() {
            self.out.push(json!({"text": "", "thoughtSignature": signature}));
        }
    }

    fn result(&mut self, part: &Part, id: &str, parts: &[Part], is_error: bool) -> Result<(), ApiError> {
        let Some(name) = self.names.get(id) else {
            return Err(refuse(
                &part.path,
                &format!("answers the call `{id}`, which no earlier message made"),
            ));
        };
        let (mut text, mut others) = (String::new(), Vec::new());
        for part in parts {
            match &part.content {
                Content::Text(piece) => {
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text.push_str(piece);
                }
                Content::Image { source, .. } | Content::Document { source, .. } => {
                    others.push(binary(source));
                }
                _ => return Err(refuse(&part.path, "cannot be part of a tool result")),
            }
        }
        // The result must be an object; the keys for one that is not are Gemini's own convention.
        let response = match serde_json::from_str(&text) {
            Ok(Value::Object(object)) if !is_error => Value::Object(object),
            _ if is_error => json!({"error": text}),
            _ => json!({"output": text}),
        };
        self.out.push(json!({"functionResponse": {"id": id, "name": name, "response": response}}));
        self.out.append(&mut others);
        Ok(())
    }
}

fn binary(source: &Source) -> Value {
    match source {
        Source::Base64 { media_type, data } => json!({"inlineData": {"mimeType": media_type, "data": data}}),
        Source::Url(url) => {
            let path = url.split(['?', '#']).next().unwrap_or(url).to_ascii_lowercase();
            let types = [
                (".png", "image/png"),
                (".jpg", "image/jpeg"),
                (".jpeg", "image/jpeg"),
                (".webp", "image/webp"),
                (".gif", "image/gif"),
                (".pdf", "application/pdf"),
            ];
            match types.iter().find(|(end, _)| path.ends_with(end)) {
                Some((_, media_type)) => json!({"fileData": {"mimeType": media_type, "fileUri": url}}),
                None => json!({"fileData": {"fileUri": url}}),
            }
        }
    }
}
