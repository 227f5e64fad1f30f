//! The neutral request as a chat completions body, for OpenAI itself, for what speaks its dialect and for
//! llama.cpp.

use crate::backend::Kind;
use crate::fault::{ApiError, ErrorKind};
use crate::wire::chat::{
    Chat, Content, Format, Part, Reasoning, Role, Source, Tool, ToolChoice, effort_of, url_of,
};
use serde_json::{Map, Value, json};

/// Refuses a feature, naming the client's field.
pub(in crate::wire) fn refuse(path: &str, what: &str) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, format!("`{path}` {what}")).with_param(path)
}

/// Encodes a whole request; appends to `dropped` what was left out.
pub(in crate::wire) fn chat(
    chat: &Chat,
    kind: Kind,
    model: &str,
    dropped: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let llama = kind == Kind::Llama;
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(model));
    let mut messages = Messages { llama, out: Vec::new(), dropped };
    for turn in &chat.turns {
        match turn.role {
            Role::System => messages.system(&turn.parts)?,
            Role::User => messages.user(&turn.parts)?,
            Role::Assistant => messages.assistant(&turn.parts)?,
        }
    }
    body.insert("messages".to_owned(), Value::Array(messages.out));
    tools(chat, llama, &mut body);
    if let Some(parallel) = &chat.parallel_tools
        && !chat.tools.is_empty()
    {
        body.insert("parallel_tool_calls".to_owned(), json!(parallel.value));
    }
    if let Some(max_tokens) = chat.max_tokens {
        let key = if llama { "max_tokens" } else { "max_completion_tokens" };
        body.insert(key.to_owned(), json!(max_tokens));
    }
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(key.to_owned(), value);
        }
    };
    put("temperature", chat.temperature.clone());
    put("top_p", chat.top_p.clone());
    match &chat.top_k {
        Some(top_k) if llama => put("top_k", Some(json!(top_k.value))),
        Some(top_k) => dropped.push(top_k.path.clone()),
        None => {}
    }
    match &chat.stop {
        // OpenAI takes at most four.
        Some(stop) if stop.value.len() > 4 && !llama => {
            return Err(refuse(
                &stop.path,
                "may hold at most 4 sequences for the backend that serves this model",
            ));
        }
        Some(stop) if !stop.value.is_empty() => put("stop", Some(json!(stop.value))),
        _ => {}
    }
    put("seed", chat.seed.as_ref().map(|seed| json!(seed.value)));
    put("n", chat.count.as_ref().map(|count| json!(count.value)));
    put("frequency_penalty", chat.frequency_penalty.as_ref().map(|penalty| penalty.value.clone()));
    put("presence_penalty", chat.presence_penalty.as_ref().map(|penalty| penalty.value.clone()));
    if let Some(logprobs) = &chat.logprobs {
        put("logprobs", Some(json!(true)));
        put("top_logprobs", (logprobs.value > 0).then(|| json!(logprobs.value)));
    }
    put("response_format", chat.format.as_ref().map(|format| response_format(&format.value)));
    match &chat.reasoning {
        // llama.cpp thinks as its chat template says, or not at all.
        Some(reasoning) if llama => match reasoning.value {
            Reasoning::Off => put("chat_template_kwargs", Some(json!({"enable_thinking": false}))),
            _ => dropped.push(reasoning.path.clone()),
        },
        Some(reasoning) => match &reasoning.value {
            Reasoning::Off => put("reasoning_effort", Some(json!("none"))),
            Reasoning::Effort(word) => put("reasoning_effort", Some(json!(word))),
            Reasoning::Budget(budget) => put("reasoning_effort", Some(json!(effort_of(*budget)))),
            Reasoning::Adaptive => {}
        },
        None => {}
    }
    match &chat.user {
        Some(user) if !llama => put("user", Some(json!(user.value))),
        _ => {}
    }
    Ok(Value::Object(body))
}

fn tools(chat: &Chat, llama: bool, body: &mut Map<String, Value>) {
    if chat.tools.is_empty() {
        return;
    }
    // llama.cpp ignores a `tool_choice` object: the same is said by offering one tool and requiring it.
    let only = match &chat.tool_choice {
        Some(ToolChoice::Named(name)) if llama => Some(name.as_str()),
        _ => None,
    };
    let offered = chat.tools.iter().filter(|tool| only.is_none_or(|name| tool.name == name));
    body.insert("tools".to_owned(), offered.map(tool_definition).collect());
    let choice = match &chat.tool_choice {
        None => return,
        Some(ToolChoice::Auto) => json!("auto"),
        Some(ToolChoice::None) => json!("none"),
        Some(ToolChoice::Required) => json!("required"),
        Some(ToolChoice::Named(_)) if llama => json!("required"),
        Some(ToolChoice::Named(name)) => json!({"type": "function", "function": {"name": name}}),
    };
    body.insert("tool_choice".to_owned(), choice);
}

fn tool_definition(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), json!(description));
    }
    if let Some(parameters) = &tool.parameters {
        function.insert("parameters".to_owned(), parameters.clone());
    }
    if let Some(strict) = tool.strict {
        function.insert("strict".to_owned(), json!(strict));
    }
    json!({"type": "function", "function": function})
}

fn response_format(format: &Format) -> Value {
    match format {
        Format::Json => json!({"type": "json_object"}),
        Format::Schema { name, description, strict, schema } => {
            let mut object = Map::new();
            object.insert("name".to_owned(), json!(name));
            if let Some(description) = description {
                object.insert("description".to_owned(), json!(description));
            }
            object.insert("schema".to_owned(), schema.clone());
            if let Some(strict) = strict {
                object.insert("strict".to_owned(), json!(strict));
            }
            json!({"type": "json_schema", "json_schema": object})
        }
    }
}

struct Messages<'a> {
    llama: bool,
    out: Vec<Value>,
    dropped: &'a mut Vec<String>,
}

impl Messages<'_> {
    fn system(&mut self, parts: &[Part]) -> Result<(), ApiError> {
        let content = self.text_only(parts)?;
        self.out.push(json!({"role": "system", "content": content}));
        Ok(())
    }

    /// Tool results become messages of their own, before what the user says with them.
    fn user(&mut self, parts: &[Part]) -> Result<(), ApiError> {
        let mut said = Vec::new();
        for part in parts {
            let Content::ToolResult { id, parts: result, is_error } = &part.content else {
                said.push(self.user_part(part)?);
                continue;
            };
            self.note_cache(part);
            if *is_error {
                self.dropped.push(format!("{}.is_error", part.path));
            }
            // A tool message holds text only, so images follow in the user's words.
            let (texts, others): (Vec<&Part>, Vec<&Part>) =
                result.iter().partition(|part| matches!(part.content, Content::Text(_)));
            let texts: Vec<Part> = texts.into_iter().cloned().collect();
            let content = self.text_only(&texts)?;
            self.out.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
            for other in others {
                said.push(self.user_part(other)?);
            }
        }
        if !said.is_empty() {
            self.out.push(json!({"role": "user", "content": joined(said)}));
        }
        Ok(())
    }

    fn user_part(&mut self, part: &Part) -> Result<Value, ApiError> {
        self.note_cache(part);
        match &part.content {
            Content::Text(text) => Ok(json!({"type": "text", "text": text})),
            Content::Image { source, detail } => {
                let mut image = json!({"url": url_of(source)});
                if let Some(detail) = detail {
                    image["detail"] = json!(detail);
                }
                Ok(json!({"type": "image_url", "image_url": image}))
            }
            Content::Document { source: source @ Source::Base64 { .. }, name } if !self.llama => {
                let name = name.as_deref().unwrap_or("document");
                Ok(json!({"type": "file", "file": {"filename": name, "file_data": url_of(source)}}))
            }
            _ => Err(refuse(&part.path, "cannot be sent to the backend that serves this model")),
        }
    }

    fn assistant(&mut self, parts: &[Part]) -> Result<(), ApiError> {
        let (mut said, mut calls, mut reasoning) = (Vec::new(), Vec::new(), String::new());
        for part in parts {
            self.note_cache(part);
            match &part.content {
                Content::Text(text) => said.push(json!({"type": "text", "text": text})),
                Content::Refusal(text) => said.push(json!({"type": "refusal", "refusal": text})),
                Content::ToolCall { id, name, arguments, .. } => {
                    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
                    calls.push(json!({
                        "id": id, "type": "function",
                        "function": {"name": name, "arguments": arguments},
                    }));
                }
                Content::Reasoning { text, .. } if self.llama => reasoning.push_str(text),
                Content::Reasoning { .. } | Content::Redacted(_) => self.dropped.push(part.path.clone()),
                Content::Image { .. } | Content::Document { .. } | Content::ToolResult { .. } => {
                    return Err(refuse(&part.path, "cannot be part of an assistant's message"));
                }
            }
        }
        let mut message = Map::new();
        message.insert("role".to_owned(), json!("assistant"));
        if !said.is_empty() {
            message.insert("content".to_owned(), joined(said));
        } else if calls.is_empty() {
            message.insert("content".to_owned(), json!(""));
        } else {
            message.insert("content".to_owned(), Value::Null);
        }
        if !reasoning.is_empty() {
            message.insert("reasoning_content".to_owned(), json!(reasoning));
        }
        if !calls.is_empty() {
            message.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        self.out.push(Value::Object(message));
        Ok(())
    }

    fn text_only(&mut self, parts: &[Part]) -> Result<Value, ApiError> {
        let mut texts = Vec::new();
        for part in parts {
            self.note_cache(part);
            let Content::Text(text) = &part.content else {
                return Err(refuse(&part.path, "must be text for the backend that serves this model"));
            };
            texts.push(json!({"type": "text", "text": text}));
        }
        Ok(joined(texts))
    }

    fn note_cache(&mut self, part: &Part) {
        if part.cache.is_some() {
            self.dropped.push(format!("{}.cache_control", part.path));
        }
    }
}

/// One text part as a plain string, which every server of this dialect takes; more as an array.
fn joined(parts: Vec<Value>) -> Value {
    match parts.as_slice() {
        [] => json!(""),
        [one] if one.get("type") == Some(&json!("text")) => one["text"].clone(),
        _ => Value::Array(parts),
    }
}
