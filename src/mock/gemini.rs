//! Gemini's dialect: generateContent, its stream as SSE or as one growing JSON array, token counts,
//! embeddings and the model list, under `/v1beta` and `/v1`.

use super::app::App;
use super::gate::Call;
use super::generation::{self, Summary, Usage, Voice};
use super::openai::{TOOL_WORD, content_text, join_prompt};
use super::text::{Ask, Finish, Tool, hash, input_tokens, mix};
use super::{embedding, error};
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use http::StatusCode;
use llm_router_logic::fault::{ApiError, ErrorKind};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<App>> {
    let mut routes = Router::new();
    for version in ["v1beta", "v1"] {
        routes = routes
            .route(&format!("/{version}/models"), get(models))
            .route(&format!("/{version}/models/{{call}}"), get(model).post(dispatch));
    }
    routes
}

/// The model in a path such as `/v1beta/models/NAME:generateContent`.
pub(crate) fn model_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v1beta/models/").or_else(|| path.strip_prefix("/v1/models/"))?;
    Some(rest.rsplit_once(':').map_or(rest, |(model, _)| model))
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let list: Vec<Value> = app.models().iter().map(|name| model_object(&app, name)).collect();
    error::json_response(StatusCode::OK, &json!({ "models": list }))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    if app.serves(&name) {
        error::json_response(StatusCode::OK, &model_object(&app, &name))
    } else {
        error::respond(app.config.kind, &unknown_model(&name))
    }
}

fn model_object(app: &App, name: &str) -> Value {
    let embeds = name.contains("embedding");
    let methods = if embeds {
        json!(["embedContent", "batchEmbedContents"])
    } else {
        json!(["generateContent", "countTokens"])
    };
    json!({
        "name": format!("models/{name}"), "baseModelId": name, "version": "001", "displayName": name,
        "description": "a mock", "inputTokenLimit": app.config.context_window, "outputTokenLimit": 8_192,
        "supportedGenerationMethods": methods,
    })
}

fn unknown_model(name: &str) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("models/{name} is not found or does not support this method"))
}

async fn dispatch(
    State(app): State<Arc<App>>,
    Path(target): Path<String>,
    RawQuery(query): RawQuery,
    Extension(call): Extension<Call>,
) -> Response {
    let kind = app.config.kind;
    let Some((model, method)) = target.rsplit_once(':') else {
        return error::respond(kind, &ApiError::new(ErrorKind::NotFound, format!("no method in `{target}`")));
    };
    if !app.serves(model) {
        return error::respond(kind, &unknown_model(model));
    }
    let answer = match method {
        "generateContent" => return generate(&app, &call, model, None).await,
        "streamGenerateContent" => {
            let sse = query.unwrap_or_default().split('&').any(|pair| pair == "alt=sse");
            return generate(&app, &call, model, Some(sse)).await;
        }
        "countTokens" => count_tokens(&app, &call, model),
        "embedContent" => embed(&app, &call, model).await,
        "batchEmbedContents" => embed_batch(&app, &call, model).await,
        _ => Err(ApiError::new(ErrorKind::NotFound, format!("no such method: `{method}`"))),
    };
    match answer {
        Ok(body) => error::json_response(StatusCode::OK, &body),
        Err(refused) => error::respond(kind, &refused),
    }
}

async fn generate(app: &Arc<App>, call: &Call, model: &str, sse: Option<bool>) -> Response {
    match call.json().and_then(|body| read(body, model, sse.is_some())) {
        Ok(ask) => {
            let voice = ContentVoice::new(app, &ask, sse.unwrap_or(false));
            generation::respond(app, &ask, voice, call.twist).await
        }
        Err(refused) => error::respond(app.config.kind, &refused),
    }
}

fn count_tokens(app: &App, call: &Call, model: &str) -> Result<Value, ApiError> {
    let body = call.json()?;
    // Either `contents`, or a whole request to be counted.
    let ask = read(body.get("generateContentRequest").unwrap_or(body), model, false)?;
    tracing::trace!(model, kind = app.config.kind.as_str(), "counted tokens");
    let tokens = input_tokens(&ask.prompt);
    Ok(json!({"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}))
}

async fn embed(app: &Arc<App>, call: &Call, model: &str) -> Result<Value, ApiError> {
    let (text, dimensions) = embedding_input(app, call.json()?)?;
    let tokens = embedding::take_turn(app, call, model, std::slice::from_ref(&text)).await?;
    let mut answer = json!({"embedding": {"values": embedding::vector(&text, dimensions)}});
    if let Some(tokens) = tokens {
        answer["usageMetadata"] = json!({"promptTokenCount": tokens});
    }
    Ok(answer)
}

async fn embed_batch(app: &Arc<App>, call: &Call, model: &str) -> Result<Value, ApiError> {
    let requests = call.json()?.get("requests").and_then(Value::as_array);
    let Some(requests) = requests.filter(|requests| !requests.is_empty()) else {
        return Err(bad("requests", "must be a list with at least one request"));
    };
    let inputs: Vec<(String, usize)> =
        requests.iter().map(|request| embedding_input(app, request)).collect::<Result<_, _>>()?;
    let texts: Vec<String> = inputs.iter().map(|(text, _)| text.clone()).collect();
    let tokens = embedding::take_turn(app, call, model, &texts).await?;
    let vectors: Vec<Value> =
        inputs.iter().map(|(text, size)| json!({"values": embedding::vector(text, *size)})).collect();
    let mut answer = json!({ "embeddings": vectors });
    if let Some(tokens) = tokens {
        answer["usageMetadata"] = json!({"promptTokenCount": tokens});
    }
    Ok(answer)
}

fn embedding_input(app: &App, request: &Value) -> Result<(String, usize), ApiError> {
    if !app.config.embeddings {
        return Err(embedding::not_served(app.config.kind));
    }
    let text = match request.get("content") {
        Some(content) => parts_text(content)?,
        None => return Err(bad("content", "is required")),
    };
    let size = match request.get("outputDimensionality").map(Value::as_u64) {
        None => app.config.embedding_dimensions,
        Some(Some(size @ 1..=4_096)) => size as usize,
        Some(_) => return Err(bad("outputDimensionality", "must be between 1 and 4096")),
    };
    Ok((text, size))
}

fn bad(field: &str, why: &str) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, format!("* {field}: {why}"))
}

/// The text of a Content object: its text parts and what functions answered.
fn parts_text(content: &Value) -> Result<String, ApiError> {
    let parts = match content.get("parts") {
        Some(Value::Array(parts)) => parts.as_slice(),
        // The official clients may send a single part bare.
        Some(part @ Value::Object(_)) => std::slice::from_ref(part),
        _ => return Err(bad("contents.parts", "must not be empty")),
    };
    let texts = parts.iter().map(|part| match part.get("functionResponse") {
        Some(result) => result.get("response").map(Value::to_string).unwrap_or_default(),
        None => content_text(part.get("text").unwrap_or(&Value::Null)),
    });
    Ok(texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n"))
}

fn read(body: &Value, model: &str, stream: bool) -> Result<Ask, ApiError> {
    let contents = match body.get("contents") {
        Some(Value::Array(contents)) if !contents.is_empty() => contents,
        _ => {
            return Err(bad("GenerateContentRequest.contents", "contents is not specified"));
        }
    };
    let mut rest = Vec::new();
    for content in contents {
        if !matches!(content.get("role").and_then(Value::as_str), None | Some("user" | "model" | "function"))
        {
            return Err(bad("contents.role", "use a valid role: user, model"));
        }
        rest.push(parts_text(content)?);
    }
    let system = body.get("systemInstruction").or_else(|| body.get("system_instruction"));
    let system = system.map(parts_text).transpose()?.into_iter().collect();
    let prompt = join_prompt(system, rest);
    let config =
        body.get("generationConfig").or_else(|| body.get("generation_config")).unwrap_or(&Value::Null);
    let max_tokens = match config.get("maxOutputTokens") {
        None | Some(Value::Null) => None,
        Some(max) => match max.as_u64() {
            Some(max) if max > 0 => Some(max),
            _ => return Err(bad("generation_config.max_output_tokens", "must be positive")),
        },
    };
    let answered = contents.last().is_some_and(has_function_response);
    let call = chosen_tool(body, &prompt, answered);
    let wants_json = config.get("responseMimeType").and_then(Value::as_str) == Some("application/json");
    let schema = config.get("responseJsonSchema").or_else(|| config.get("responseSchema"));
    let json = wants_json.then(|| schema.cloned().unwrap_or(json!({"type": "object"})));
    Ok(Ask { model: model.to_owned(), prompt, max_tokens, stream, call, json })
}

fn has_function_response(content: &Value) -> bool {
    let parts = content.get("parts").and_then(Value::as_array);
    parts.into_iter().flatten().any(|part| part.get("functionResponse").is_some())
}

fn chosen_tool(body: &Value, prompt: &str, answered: bool) -> Option<Tool> {
    let declared = |tool: &Value| tool.get("functionDeclarations").and_then(Value::as_array).cloned();
    let functions: Vec<Value> =
        body.get("tools")?.as_array()?.iter().filter_map(declared).flatten().collect();
    let config = body.pointer("/toolConfig/functionCallingConfig").unwrap_or(&Value::Null);
    let wanted = match config.get("mode").and_then(Value::as_str) {
        Some("NONE") => return None,
        Some("ANY") => true,
        _ => prompt.contains(TOOL_WORD) && !answered,
    };
    let allowed = config.get("allowedFunctionNames").and_then(Value::as_array);
    let is_allowed =
        |name: &Value| allowed.is_none_or(|allowed| allowed.is_empty() || allowed.contains(name));
    let function = functions.iter().find(|function| function.get("name").is_some_and(is_allowed));
    function.filter(|_| wanted).map(|function| Tool {
        name: function.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        parameters: function
            .get("parametersJsonSchema")
            // The API takes both spellings, and the official Python client sends this one.
            .or_else(|| function.get("parameters_json_schema"))
            .or_else(|| function.get("parameters"))
            .cloned()
            .unwrap_or(Value::Null),
    })
}

/// Chunks that are each a whole GenerateContentResponse.
struct ContentVoice {
    id: String,
    model: String,
    tool: Option<String>,
    /// Arguments collected so far: this dialect sends a call in one piece.
    arguments: String,
    sse: bool,
    begun: bool,
}

impl ContentVoice {
    fn new(app: &App, ask: &Ask, sse: bool) -> Self {
        Self {
            id: format!("{:016x}{:08x}", mix(hash(&ask.prompt)), app.next_id()),
            model: ask.model.clone(),
            tool: ask.call.as_ref().map(|tool| tool.name.clone()),
            arguments: String::new(),
            sse,
            begun: false,
        }
    }

    fn response(&self, parts: &Value, finish: Option<Finish>, usage: Option<Usage>) -> Value {
        let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
        if let Some(finish) = finish {
            candidate["finishReason"] = json!(if finish == Finish::Length { "MAX_TOKENS" } else { "STOP" });
        }
        let mut response =
            json!({"candidates": [candidate], "modelVersion": self.model, "responseId": self.id});
        if let Some(usage) = usage {
            response["usageMetadata"] = json!({
                "promptTokenCount": usage.input, "candidatesTokenCount": usage.output - usage.reasoning,
                "totalTokenCount": usage.input + usage.output,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input}],
            });
            let parts = &mut response["usageMetadata"];
            if usage.cached > 0 {
                parts["cachedContentTokenCount"] = json!(usage.cached);
            }
            if usage.reasoning > 0 {
                parts["thoughtsTokenCount"] = json!(usage.reasoning);
            }
        }
        response
    }

    fn send(&mut self, response: &Value, out: &mut Vec<u8>) {
        let frame = match (self.sse, self.begun) {
            (true, _) => format!("data: {response}\r\n\r\n"),
            (false, false) => format!("[{response}"),
            (false, true) => format!("\n,\r\n{response}"),
        };
        self.begun = true;
        out.extend_from_slice(frame.as_bytes());
    }

    fn call_part(&self, name: &str, arguments: &str) -> Value {
        // Arguments cut by the token limit are no JSON; the call then has none.
        let args = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
        json!([{"functionCall": {"name": name, "args": args}}])
    }
}

impl Voice for ContentVoice {
    fn stream_type(&self) -> &'static str {
        if self.sse { "text/event-stream" } else { "application/json" }
    }

    fn open(&mut self, _usage: Option<Usage>, _out: &mut Vec<u8>) {}

    fn piece(&mut self, piece: &str, so_far: Option<Usage>, out: &mut Vec<u8>) {
        if self.tool.is_some() {
            self.arguments.push_str(piece);
            return;
        }
        let response = self.response(&json!([{ "text": piece }]), None, so_far);
        self.send(&response, out);
    }

    fn close(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        let parts = match &self.tool {
            Some(name) => self.call_part(name, &self.arguments),
            None => json!([{"text": ""}]),
        };
        let response = self.response(&parts, Some(summary.finish), summary.usage);
        self.send(&response, out);
        if !self.sse {
            out.extend_from_slice(b"\n]");
        }
    }

    fn whole(&mut self, text: &str, summary: &Summary) -> Value {
        let parts = match &self.tool {
            Some(name) => self.call_part(name, text),
            None => json!([{ "text": text }]),
        };
        self.response(&parts, Some(summary.finish), summary.usage)
    }
}
