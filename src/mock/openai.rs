//! OpenAI's dialect: chat completions, text completions and the model list. llama-server speaks it
//! too, with habits of its own: see `llama`.

mod voice;

use super::app::App;
use super::gate::Call;
use super::generation;
use super::text::{Ask, Tool};
use super::{embedding, error};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::StatusCode;
use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind};
use serde_json::{Value, json};
use std::sync::Arc;
use voice::{ChatVoice, TextVoice};

/// Word in a prompt that makes a mock call the first tool it is offered.
pub(crate) const TOOL_WORD: &str = "use_tool";
/// A creation date for models: theirs is of no meaning here.
const MODEL_CREATED: u64 = 1_715_367_049;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(complete))
        .route("/v1/embeddings", post(embedding::openai))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
}

pub(crate) async fn chat(State(app): State<Arc<App>>, Extension(call): Extension<Call>) -> Response {
    match read_chat(&app, &call) {
        Ok((ask, include_usage)) => {
            let voice = ChatVoice::new(&app, &ask, include_usage);
            generation::respond(&app, &ask, voice, call.twist).await
        }
        Err(refused) => error::respond(app.config.kind, &refused),
    }
}

pub(crate) async fn complete(State(app): State<Arc<App>>, Extension(call): Extension<Call>) -> Response {
    match read_completion(&app, &call) {
        Ok((ask, include_usage)) => {
            let voice = TextVoice::new(&app, &ask, include_usage);
            generation::respond(&app, &ask, voice, call.twist).await
        }
        Err(refused) => error::respond(app.config.kind, &refused),
    }
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let list: Vec<Value> = app.models().iter().map(|id| model_object(id)).collect();
    error::json_response(StatusCode::OK, &json!({"object": "list", "data": list}))
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    match known_model(&app, &id) {
        Ok(id) => error::json_response(StatusCode::OK, &model_object(&id)),
        Err(refused) => error::respond(app.config.kind, &refused),
    }
}

fn model_object(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": MODEL_CREATED, "owned_by": "mock"})
}

pub(crate) fn bad(param: &'static str, why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, why).with_param(param)
}

fn known_model(app: &App, model: &str) -> Result<String, ApiError> {
    if app.serves(model) {
        return Ok(model.to_owned());
    }
    let why = format!("the model `{model}` does not exist or you do not have access to it");
    Err(ApiError::new(ErrorKind::NotFound, why).with_code("model_not_found").with_param("model"))
}

/// The model a request will be answered by: llama-server serves its one model whatever was asked.
pub(crate) fn asked_model(app: &App, body: &Value) -> Result<String, ApiError> {
    if app.config.kind == Kind::Llama {
        return Ok(app.models().swap_remove(0));
    }
    match body.get("model") {
        Some(Value::String(model)) if !model.is_empty() => known_model(app, model),
        Some(_) => Err(bad("model", "`model` must be a text that is not empty")),
        None => Err(bad("model", "you must provide a `model` parameter")),
    }
}

pub(crate) fn flag(body: &Value, field: &'static str) -> Result<bool, ApiError> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(bad(field, format!("`{field}` must be true or false"))),
    }
}

/// A positive integer.
pub(crate) fn count(body: &Value, field: &'static str) -> Result<Option<u64>, ApiError> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(count) if count > 0 => Ok(Some(count)),
            _ => Err(bad(field, format!("`{field}` must be an integer of at least 1"))),
        },
    }
}

fn one_choice(body: &Value) -> Result<(), ApiError> {
    match count(body, "n")? {
        None | Some(1) => Ok(()),
        Some(_) => Err(bad("n", "this mock answers one choice per request")),
    }
}

fn usage_wanted(body: &Value, stream: bool) -> Result<bool, ApiError> {
    match body.get("stream_options") {
        None | Some(Value::Null) => Ok(false),
        Some(_) if !stream => Err(bad("stream_options", "`stream_options` needs `stream: true`")),
        Some(options) => flag(options, "include_usage"),
    }
}

/// The text of a message's content: a text, or the text parts of a list.
pub(crate) fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// System text first, then the rest, joined by newlines: the same in every dialect.
pub(crate) fn join_prompt(system: Vec<String>, rest: Vec<String>) -> String {
    let texts = system.into_iter().chain(rest);
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

fn read_chat(app: &App, call: &Call) -> Result<(Ask, bool), ApiError> {
    let body = call.json()?;
    let model = asked_model(app, body)?;
    let messages = match body.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(_) => {
            return Err(bad("messages", "`messages` must be a list with at least one message"));
        }
        None => return Err(bad("messages", "missing required parameter: `messages`")),
    };
    let (mut system, mut rest) = (Vec::new(), Vec::new());
    for (n, message) in messages.iter().enumerate() {
        let text = content_text(message.get("content").unwrap_or(&Value::Null));
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => system.push(text),
            Some("user" | "assistant" | "tool" | "function") => rest.push(text),
            _ => {
                return Err(bad("messages", format!("`messages[{n}].role` is missing or unknown")));
            }
        }
    }
    one_choice(body)?;
    let stream = flag(body, "stream")?;
    let include_usage = usage_wanted(body, stream)?;
    let max_tokens = match count(body, "max_completion_tokens")? {
        Some(max) => Some(max),
        None => count(body, "max_tokens")?,
    };
    let last_role = messages.last().and_then(|message| message.get("role")).and_then(Value::as_str);
    let prompt = join_prompt(system, rest);
    let call = chosen_tool(app.config.kind, body, &prompt, last_role == Some("tool"));
    Ok((
        Ask { model, prompt, max_tokens, stream, call, json: wanted_json(body.get("response_format")) },
        include_usage,
    ))
}

fn read_completion(app: &App, call: &Call) -> Result<(Ask, bool), ApiError> {
    let body = call.json()?;
    let model = asked_model(app, body)?;
    let prompt = match body.get("prompt") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(texts)) if texts.len() == 1 && texts[0].is_string() => content_text(&texts[0]),
        Some(_) => return Err(bad("prompt", "this mock takes one text as `prompt`")),
        None => return Err(bad("prompt", "missing required parameter: `prompt`")),
    };
    one_choice(body)?;
    let stream = flag(body, "stream")?;
    let include_usage = usage_wanted(body, stream)?;
    let max_tokens = count(body, "max_tokens")?;
    Ok((Ask { model, prompt, max_tokens, stream, ..Ask::default() }, include_usage))
}

/// The tool to call: the one `tool_choice` names, else the first where a call is required or the
/// prompt asks for one and no tool has answered yet.
pub(crate) fn chosen_tool(kind: Kind, body: &Value, prompt: &str, answered: bool) -> Option<Tool> {
    let tools = body.get("tools")?.as_array()?;
    let choice = body.get("tool_choice").unwrap_or(&Value::Null);
    // The chat form wraps name and parameters in `function`, the responses form has them plainly.
    let function = |tool: &Value| tool.get("function").unwrap_or(tool).clone();
    let name_of = |tool: &Value| function(tool).get("name").and_then(Value::as_str).map(str::to_owned);
    // llama-server ignores an object here.
    let named = if kind == Kind::Llama { None } else { name_of(choice) };
    let wanted = match choice.as_str() {
        Some("none") => return None,
        Some("required") => true,
        _ => named.is_some() || (prompt.contains(TOOL_WORD) && !answered),
    };
    let tool = tools.iter().find(|tool| match &named {
        Some(_) => name_of(tool) == named,
        None => name_of(tool).is_some(),
    });
    tool.filter(|_| wanted).map(|tool| Tool {
        name: name_of(tool).unwrap_or_default(),
        parameters: function(tool).get("parameters").cloned().unwrap_or(Value::Null),
    })
}

/// The schema `response_format` (or the responses form's `text.format`) asks for.
pub(crate) fn wanted_json(format: Option<&Value>) -> Option<Value> {
    let format = format?;
    match format.get("type")?.as_str()? {
        "json_object" => Some(format.get("schema").cloned().unwrap_or(json!({"type": "object"}))),
        "json_schema" => {
            let schema = format.pointer("/json_schema/schema").or_else(|| format.get("schema"));
            Some(schema.cloned().unwrap_or(json!({"type": "object"})))
        }
        _ => None,
    }
}
