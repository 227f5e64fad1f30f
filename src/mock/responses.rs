//! OpenAI's responses API, as far as text, JSON and function calls go; nothing is stored.

use super::app::{App, unix_now};
use super::error;
use super::gate::Call;
use super::generation::{self, Summary, Usage, Voice};
use super::openai::{asked_model, bad, chosen_tool, content_text, count, flag, join_prompt, wanted_json};
use super::text::{Ask, Finish, hash, mix};
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use llm_router_logic::fault::ApiError;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Request fields that a response repeats, with what it says where the request is silent.
const ECHOED: [(&str, &str); 11] = [
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("previous_response_id", "null"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", r#""auto""#),
    ("tools", "[]"),
    ("top_p", "1.0"),
];

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/responses", post(respond))
}

async fn respond(State(app): State<Arc<App>>, Extension(call): Extension<Call>) -> Response {
    match read(&app, &call) {
        Ok((ask, echo)) => {
            let voice = ResponseVoice::new(&app, &ask, echo);
            generation::respond(&app, &ask, voice, call.twist).await
        }
        Err(refused) => error::respond(app.config.kind, &refused),
    }
}

fn read(app: &App, call: &Call) -> Result<(Ask, Map<String, Value>), ApiError> {
    let body = call.json()?;
    let model = asked_model(app, body)?;
    let (mut system, mut rest) = (Vec::new(), Vec::new());
    if let Some(instructions) = body.get("instructions").and_then(Value::as_str) {
        system.push(instructions.to_owned());
    }
    let mut answered = false;
    match body.get("input") {
        Some(Value::String(text)) => rest.push(text.clone()),
        Some(Value::Array(items)) if !items.is_empty() => {
            for item in items {
                answered = item.get("type").and_then(Value::as_str) == Some("function_call_output");
                let said = if answered { item.get("output") } else { item.get("content") };
                let text = content_text(said.unwrap_or(&Value::Null));
                match item.get("role").and_then(Value::as_str) {
                    Some("system" | "developer") => system.push(text),
                    _ => rest.push(text),
                }
            }
        }
        Some(_) => return Err(bad("input", "`input` must be a text or a list of items")),
        None => return Err(bad("input", "missing required parameter: `input`")),
    }
    let prompt = join_prompt(system, rest);
    let call = chosen_tool(app.config.kind, body, &prompt, answered);
    let ask = Ask {
        model,
        prompt,
        max_tokens: count(body, "max_output_tokens")?,
        stream: flag(body, "stream")?,
        call,
        json: wanted_json(body.pointer("/text/format")),
    };
    let echo = ECHOED.iter().map(|(field, silent)| {
        let stated = body.get(*field).filter(|value| !value.is_null()).cloned();
        ((*field).to_owned(), stated.unwrap_or_else(|| serde_json::from_str(silent).unwrap_or(Value::Null)))
    });
    Ok((ask, echo.collect()))
}

struct ResponseVoice {
    id: String,
    item_id: String,
    call_id: String,
    model: String,
    created: u64,
    tool: Option<String>,
    echo: Map<String, Value>,
    text: String,
    sequence: u64,
}

impl ResponseVoice {
    fn new(app: &App, ask: &Ask, echo: Map<String, Value>) -> Self {
        let unique = format!("{:016x}{:08x}", mix(hash(&ask.prompt)), app.next_id());
        Self {
            id: format!("resp_{unique}"),
            item_id: format!("{}_{unique}", if ask.call.is_some() { "fc" } else { "msg" }),
            call_id: format!("call_{unique}"),
            model: ask.model.clone(),
            created: unix_now(),
            tool: ask.call.as_ref().map(|tool| tool.name.clone()),
            echo,
            text: String::new(),
            sequence: 0,
        }
    }

    fn event(&mut self, name: &str, mut data: Value, out: &mut Vec<u8>) {
        data["type"] = json!(name);
        data["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        out.extend_from_slice(format!("event: {name}\ndata: {data}\n\n").as_bytes());
    }

    fn response(&self, status: &str, output: &Value, usage: Option<Usage>) -> Value {
        let incomplete = status == "incomplete";
        let mut response = json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "model": self.model, "output": output, "error": null,
            "incomplete_details": if incomplete { json!({"reason": "max_output_tokens"}) } else { Value::Null },
            "store": false, "truncation": "disabled", "background": false,
        });
        for (field, value) in &self.echo {
            response[field] = value.clone();
        }
        if let Some(usage) = usage {
            response["usage"] = json!({
                "input_tokens": usage.input, "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.written},
                "output_tokens": usage.output, "output_tokens_details": {"reasoning_tokens": usage.reasoning},
                "total_tokens": usage.input + usage.output,
            });
        }
        response
    }

    fn part(text: &str) -> Value {
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    }

    fn item(&self, status: &str, text: &str, begun: bool) -> Value {
        match &self.tool {
            Some(name) => json!({
                "type": "function_call", "id": self.item_id, "call_id": self.call_id, "status": status,
                "name": name, "arguments": text,
            }),
            None => json!({
                "type": "message", "id": self.item_id, "status": status, "role": "assistant",
                "content": if begun { json!([Self::part(text)]) } else { json!([]) },
            }),
        }
    }
}

fn status(finish: Finish) -> &'static str {
    if finish == Finish::Length { "incomplete" } else { "completed" }
}

impl Voice for ResponseVoice {
    fn open(&mut self, _usage: Option<Usage>, out: &mut Vec<u8>) {
        let response = self.response("in_progress", &json!([]), None);
        self.event("response.created", json!({ "response": response }), out);
        self.event("response.in_progress", json!({ "response": response }), out);
        let item = self.item("in_progress", "", false);
        self.event("response.output_item.added", json!({"output_index": 0, "item": item}), out);
        if self.tool.is_none() {
            let place = json!({"item_id": self.item_id, "output_index": 0, "content_index": 0, "part": Self::part("")});
            self.event("response.content_part.added", place, out);
        }
    }

    fn piece(&mut self, piece: &str, _so_far: Option<Usage>, out: &mut Vec<u8>) {
        self.text.push_str(piece);
        let mut place = json!({"item_id": self.item_id, "output_index": 0, "delta": piece});
        if self.tool.is_some() {
            return self.event("response.function_call_arguments.delta", place, out);
        }
        place["content_index"] = json!(0);
        place["logprobs"] = json!([]);
        self.event("response.output_text.delta", place, out);
    }

    fn close(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        let text = std::mem::take(&mut self.text);
        let place = json!({"item_id": self.item_id, "output_index": 0});
        if let Some(name) = &self.tool {
            let mut done = place;
            done["arguments"] = json!(text);
            done["name"] = json!(name);
            self.event("response.function_call_arguments.done", done, out);
        } else {
            let mut done = place;
            done["content_index"] = json!(0);
            let mut text_done = done.clone();
            text_done["text"] = json!(text);
            text_done["logprobs"] = json!([]);
            self.event("response.output_text.done", text_done, out);
            done["part"] = Self::part(&text);
            self.event("response.content_part.done", done, out);
        }
        let status = status(summary.finish);
        let item = self.item(status, &text, true);
        self.event("response.output_item.done", json!({"output_index": 0, "item": item}), out);
        let response = self.response(status, &json!([item]), summary.usage);
        let last = if status == "incomplete" { "response.incomplete" } else { "response.completed" };
        self.event(last, json!({ "response": response }), out);
    }

    fn whole(&mut self, text: &str, summary: &Summary) -> Value {
        let status = status(summary.finish);
        let item = self.item(status, text, true);
        self.response(status, &json!([item]), summary.usage)
    }
}
