//! How OpenAI's answers are written, and where llama-server's differ.

use crate::mock::app::{App, unix_now};
use crate::mock::generation::{Summary, Usage, Voice};
use crate::mock::text::{Ask, Finish, hash, mix};
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};

/// What all chunks of an answer have in common.
#[derive(Debug)]
struct Envelope {
    id: String,
    created: u64,
    model: String,
    llama: bool,
    include_usage: bool,
}

impl Envelope {
    fn new(app: &App, ask: &Ask, prefix: &str, include_usage: bool) -> Self {
        Self {
            id: format!("{prefix}-{:016x}{:08x}", mix(hash(&ask.prompt)), app.next_id()),
            created: unix_now(),
            model: ask.model.clone(),
            llama: app.config.kind == Kind::Llama,
            include_usage,
        }
    }

    fn object(&self, object: &str, choices: &Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": if self.llama { "b0-mock" } else { "fp_mock" },
            "choices": choices,
        })
    }

    fn chunk(&self, object: &str, choices: &Value, out: &mut Vec<u8>) {
        let mut chunk = self.object(object, choices);
        if self.include_usage && !self.llama {
            chunk["usage"] = Value::Null;
        }
        event(&chunk, out);
    }

    /// Finish chunk, usage chunk where asked for, end marker.
    fn end(&self, object: &str, choice: &Value, summary: &Summary, out: &mut Vec<u8>) {
        let mut last = self.object(object, &json!([choice]));
        let usage = summary.usage.filter(|_| self.include_usage);
        if self.llama && usage.is_none() {
            last["timings"] = timings(summary);
        } else if self.include_usage && !self.llama {
            last["usage"] = Value::Null;
        }
        event(&last, out);
        if let Some(usage) = usage {
            let mut chunk = self.object(object, &json!([]));
            chunk["usage"] = usage_object(self.llama, usage);
            if self.llama {
                chunk["timings"] = timings(summary);
            }
            event(&chunk, out);
            if usage.twice {
                event(&chunk, out);
            }
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn whole(&self, object: &str, choice: &Value, summary: &Summary) -> Value {
        let mut answer = self.object(object, &json!([choice]));
        if let Some(usage) = summary.usage {
            answer["usage"] = usage_object(self.llama, usage);
        }
        if self.llama {
            answer["timings"] = timings(summary);
        } else {
            answer["service_tier"] = json!("default");
        }
        answer
    }
}

fn event(data: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("data: {data}\n\n").as_bytes());
}

fn usage_object(llama: bool, usage: Usage) -> Value {
    let mut object = json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
    });
    if !llama {
        object["prompt_tokens_details"] = json!({
            "cached_tokens": usage.cached, "cache_write_tokens": usage.written, "audio_tokens": 0,
        });
        object["completion_tokens_details"] = json!({
            "reasoning_tokens": usage.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        });
    }
    object
}

fn timings(summary: &Summary) -> Value {
    let timings = &summary.timings;
    let rate = |tokens: u64, seconds: f64| {
        if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
    };
    let (prompt, predicted) = (timings.prompt.as_secs_f64(), timings.predicted.as_secs_f64());
    json!({
        "cache_n": 0,
        "prompt_n": timings.input,
        "prompt_ms": prompt * 1e3,
        "prompt_per_token_ms": prompt * 1e3 / timings.input.max(1) as f64,
        "prompt_per_second": rate(timings.input, prompt),
        "predicted_n": timings.output,
        "predicted_ms": predicted * 1e3,
        "predicted_per_token_ms": predicted * 1e3 / timings.output.max(1) as f64,
        "predicted_per_second": rate(timings.output, predicted),
    })
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCall => "tool_calls",
    }
}

/// Chat completions.
pub(super) struct ChatVoice {
    envelope: Envelope,
    tool: Option<String>,
    call_id: String,
}

const CHAT_CHUNK: &str = "chat.completion.chunk";

impl ChatVoice {
    pub(super) fn new(app: &App, ask: &Ask, include_usage: bool) -> Self {
        Self {
            envelope: Envelope::new(app, ask, "chatcmpl", include_usage),
            tool: ask.call.as_ref().map(|tool| tool.name.clone()),
            call_id: format!("call_{:016x}", mix(hash(&ask.prompt))),
        }
    }

    fn delta(&self, delta: &Value, out: &mut Vec<u8>) {
        let mut choice = json!({"index": 0, "delta": delta, "finish_reason": null});
        if !self.envelope.llama {
            choice["logprobs"] = Value::Null;
        }
        self.envelope.chunk(CHAT_CHUNK, &json!([choice]), out);
    }
}

impl Voice for ChatVoice {
    fn open(&mut self, _usage: Option<Usage>, out: &mut Vec<u8>) {
        let llama = self.envelope.llama;
        let mut delta = json!({"role": "assistant", "content": if llama { Value::Null } else { json!("") }});
        if !llama {
            delta["refusal"] = Value::Null;
        }
        if let Some(name) = &self.tool {
            delta["content"] = Value::Null;
            let function = json!({"name": name, "arguments": ""});
            delta["tool_calls"] =
                json!([{"index": 0, "id": self.call_id, "type": "function", "function": function}]);
        }
        self.delta(&delta, out);
    }

    fn piece(&mut self, piece: &str, _so_far: Option<Usage>, out: &mut Vec<u8>) {
        let delta = match &self.tool {
            Some(_) => json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}),
            None => json!({"content": piece}),
        };
        self.delta(&delta, out);
    }

    fn close(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        let mut choice = json!({"index": 0, "delta": {}, "finish_reason": finish_reason(summary.finish)});
        if !self.envelope.llama {
            choice["logprobs"] = Value::Null;
        }
        self.envelope.end(CHAT_CHUNK, &choice, summary, out);
    }

    fn whole(&mut self, text: &str, summary: &Summary) -> Value {
        let mut message = json!({"role": "assistant", "content": text});
        if let Some(name) = &self.tool {
            message["content"] = Value::Null;
            let function = json!({"name": name, "arguments": text});
            message["tool_calls"] = json!([{"id": self.call_id, "type": "function", "function": function}]);
        }
        let mut choice = json!({"index": 0, "finish_reason": finish_reason(summary.finish)});
        if !self.envelope.llama {
            message["refusal"] = Value::Null;
            message["annotations"] = json!([]);
            choice["logprobs"] = Value::Null;
        }
        choice["message"] = message;
        self.envelope.whole("chat.completion", &choice, summary)
    }
}

/// Text completions.
pub(super) struct TextVoice {
    envelope: Envelope,
}

const TEXT_OBJECT: &str = "text_completion";

impl TextVoice {
    pub(super) fn new(app: &App, ask: &Ask, include_usage: bool) -> Self {
        Self { envelope: Envelope::new(app, ask, "cmpl", include_usage) }
    }

    fn choice(text: &str, finish: Option<Finish>) -> Value {
        json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish.map(finish_reason)})
    }
}

impl Voice for TextVoice {
    fn open(&mut self, _usage: Option<Usage>, _out: &mut Vec<u8>) {}

    fn piece(&mut self, piece: &str, _so_far: Option<Usage>, out: &mut Vec<u8>) {
        self.envelope.chunk(TEXT_OBJECT, &json!([Self::choice(piece, None)]), out);
    }

    fn close(&mut self, summary: &Summary, out: &mut Vec<u8>) {
        self.envelope.end(TEXT_OBJECT, &Self::choice("", Some(summary.finish)), summary, out);
    }

    fn whole(&mut self, text: &str, summary: &Summary) -> Value {
        self.envelope.whole(TEXT_OBJECT, &Self::choice(text, Some(summary.finish)), summary)
    }
}
