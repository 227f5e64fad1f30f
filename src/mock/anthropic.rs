//! Anthropic's dialect: messages, token counting and the model list.

use super::app::App;
use super::error;
use super::gate::Call;
use super::generation::{self, Summary, Usage, Voice};
use super::openai::{TOOL_WORD, content_text, join_prompt};
use super::text::{Ask, Finish, Tool, hash, input_tokens, mix};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::StatusCode;
use llm_router_logic::fault::{ApiError, ErrorKind};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
}

async fn messages(State(app): State<Arc<App>>, Extension(call): Extension<Call>) -> Response {
    match read(&app, &call, true) {
        Ok(ask) => {
            let voice = MessageVoice::new(&app, &ask);
            generation::respond(&app, &ask, voice, call.twist).await
        }
        Err(refused) => error::respond(app.config.kind, &refused),
    }
}

pub(super) async fn count_tokens(State(app): State<Arc<App>>, Extension(call): Extension<Call>) -> Response {
    match read(&app, &call, false) {
        Ok(ask) => error::json_response(StatusCode::OK, &json!({"input_tokens": input_tokens(&ask.prompt)})),
        Err(refused) => error::respond(app.config.kind, &refused),
    }
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let models = app.models();
    let list: Vec<Value> = models.iter().map(|id| model_object(&app, id)).collect();
    let body = json!({"data": list, "has_more": false, "first_id": models.first(), "last_id": models.last()});
    error::json_response(StatusCode::OK, &body)
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    if app.serves(&id) {
        error::json_response(StatusCode::OK, &model_object(&app, &id))
    } else {
        error::respond(app.config.kind, &ApiError::new(ErrorKind::NotFound, format!("model: {id}")))
    }
}

fn model_object(app: &App, id: &str) -> Value {
    json!({
        "type": "model", "id": id, "display_name": id, "created_at": "2025-10-15T00:00:00Z",
        "max_input_tokens": app.config.context_window, "max_tokens": 8_192, "capabilities": null,
    })
}

fn bad(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, why)
}

fn read(app: &App, call: &Call, generates: bool) -> Result<Ask, ApiError> {
    let body = call.json()?;
    let model = match body.get("model") {
        Some(Value::String(model)) if !model.is_empty() => model.clone(),
        Some(_) => return Err(bad("model: Input should be a valid string")),
        None => return Err(bad("model: Field required")),
    };
    if !app.serves(&model) {
        return Err(ApiError::new(ErrorKind::NotFound, format!("model: {model}")));
    }
    let max_tokens = match body.get("max_tokens") {
        None if generates => return Err(bad("max_tokens: Field required")),
        None => None,
        Some(max) => match max.as_u64() {
            Some(max) if max > 0 => Some(max),
            _ => return Err(bad("max_tokens: must be an integer of at least 1")),
        },
    };
    let messages = match body.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(_) => return Err(bad("messages: at least one message is required")),
        None => return Err(bad("messages: Field required")),
    };
    let mut rest = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        if !matches!(message.get("role").and_then(Value::as_str), Some("user" | "assistant")) {
            return Err(bad(format!("messages.{n}.role: must be `user` or `assistant`")));
        }
        match message.get("content") {
            Some(content @ (Value::String(_) | Value::Array(_))) => rest.push(block_text(content)),
            _ => {
                return Err(bad(format!("messages.{n}.content: must be a text or a list of blocks")));
            }
        }
    }
    let stream = match body.get("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(stream)) => *stream,
        Some(_) => return Err(bad("stream: must be true or false")),
    };
    let system = vec![content_text(body.get("system").unwrap_or(&Value::Null))];
    let prompt = join_prompt(system, rest);
    let answered = messages.last().is_some_and(has_tool_result);
    let call = chosen_tool(body, &prompt, answered);
    let format = body.pointer("/output_config/format").or_else(|| body.get("output_format"));
    let json = format.map(|format| format.get("schema").cloned().unwrap_or(json!({"type": "object"})));
    Ok(Ask { model, prompt, max_tokens, stream, call, json })
}

/// Text of a message's blocks, the results of tools included.
fn block_text(content: &Value) -> String {
    let Value::Array(blocks) = content else {
        return content_text(content);
    };
    let texts = blocks.iter().map(|block| match block.get("type").and_then(Value::as_str) {
        Some("tool_result") => content_text(block.get("content").unwrap_or(&Value::Null)),
        _ => block.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
    });
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

fn has_tool_result(message: &Value) -> bool {
    let blocks = message.get("content").and_then(Value::as_array);
    blocks.into_iter().flatten().any(|block| block.get("type").and_then(Value::as_str) == Some("tool_result"))
}

fn chosen_tool(body: &Value, prompt: &str, answered: bool) -> Option<Tool> {
    let tools = body.get("tools")?.as_array()?;
    let choice = body.get("tool_choice").unwrap_or(&Value::Null);
    let named = choice.get("name").and_then(Value::as_str);
    let wanted = match choice.get("type").and_then(Value::as_str) {
        Some("none") => return None,
        Some("any" | "tool") => true,
        _ => prompt.contains(TOOL_WORD) && !answered,
    };
    let name_of = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
    let tool = tools.iter().find(|tool| named.is_none() || name_of(tool).as_deref() == named);
    tool.filter(|_| wanted).map(|tool| Tool {
        name: name_of(tool).unwrap_or_default(),
        parameters: tool.get("input_schema").cloned().unwrap_or(Value::Null),
    })
}

/// `message_start` to `message_stop`.
struct MessageVoice {
    id: String,
    model: String,
    tool: Option<String>,
    tool_id: String,
}

impl MessageVoice {
    fn new(app: &App, ask: &Ask) -> Self {
        let seed = mix(hash(&ask.prompt));
        Self {
            id: format!("msg_{seed:016x}{:08x}", app.next_id()),
            model: ask.model.clone(),
            tool: ask.call.as_ref().map(|tool| tool.name.clone()),
            tool_id: format!("toolu_{seed:016x}"),
        }
    }

    fn message(&self, content: &Value, stop_reason: Option<&str>, usage: Option<Usage>) -> Value {
        let mut message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model,
            "content": content, "stop_reason": stop_reason, "stop_sequence": null,
            "stop_details": null, "container": null,
        });
        if let Some(usage) = usage {
            message["usage"] = json!({
                "input_tokens": usage.input - usage.cached - usage.written, "output_tokens": usage.output,
                "cache_creation_input_tokens": usage.written, "cache_read_input_tokens": usage.cached,
                "cache_creation": {"ephemeral_5m_input_tokens": usage.written, "ephemeral_1h_input_tokens": 0},
                "inference_geo": null, "output_tokens_details": thinking(usage), "server_tool_use": null,
                "service_tier": "standard",
            });
        }
        message
    }

    fn tool_block(&self, name: &str, input: &Value) -> Value {
        json!({"type": "tool_use", "id": self.tool_id, "name": name, "input": input, "caller": {"type": "direct"}})
    }
}

fn thinking(usage: Usage) -> Value {
    if usage.reasoning == 0 { Value::Null } else { json!({"thinking_tokens": usage.reasoning}) }
}

fn stop_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::ToolCall => "tool_use",
    }
}

fn event(name: &str, mut data: Value, out: &mut Vec<u8>) {
    data["type"] = json!(name);
    out.extend_from_slice(format!("event: {name}\ndata: {data}\n\n").as_bytes());
}

impl Voice for MessageVoice {
    fn open(&mut self, usage: Option<Usage>, out: &mut Vec<u8>) {
        // Real streams state one output token here and the true count in `message_delta`.
        let usage = usage.map(|usage| Usage { output: 1, reasoning: 0, ..usage });
        event("message_start", json!({"message": self.message(&json!([]), None, usage)}), out);
        let block = match &self.tool {
            Some(name) => self.tool_block(name, &json!({})),
            None => json!({"type": "text", "text": "", "citations": null}),
        };
        event("content_block_start", json!({"index": 0, "content_block": block}), out);
        event("ping", json!({}), out);
    }

    fn piece(&mut self, piece: &str, _so_far: Option<Usage>, out: &mut Vec<u8>) {
        let delta = match &self.tool {
            Some(_) => json!({"type": "input_json_delta", "partial_json": piece}),
            None => json!({"type": "text_delta", "text": piece}),
        };
        event("content_block_delta", json!({"index": 0, "delta": delta}), out);
    }

    fn close(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        event("content_block_stop", json!({"index": 0}), out);
        let delta = json!({
            "stop_reason": stop_reason(summary.finish), "stop_sequence": null,
            "stop_details": null, "container": null,
        });
        let mut end = json!({ "delta": delta });
        if let Some(usage) = summary.usage {
            end["usage"] = json!({
                "input_tokens": usage.input - usage.cached - usage.written, "output_tokens": usage.output,
                "cache_creation_input_tokens": usage.written, "cache_read_input_tokens": usage.cached,
                "output_tokens_details": thinking(usage), "server_tool_use": null,
            });
            if usage.twice {
                event("message_delta", end.clone(), out);
            }
        }
        event("message_delta", end, out);
        event("message_stop", json!({}), out);
    }

    fn whole(&mut self, text: &str, summary: &Summary) -> Value {
        let block = match &self.tool {
            // Arguments cut by `max_tokens` are no JSON; the vendor then leaves the input empty.
            Some(name) => self.tool_block(name, &serde_json::from_str(text).unwrap_or_else(|_| json!({}))),
            None => json!({"type": "text", "text": text, "citations": null}),
        };
        self.message(&json!([block]), Some(stop_reason(summary.finish)), summary.usage)
    }
}
