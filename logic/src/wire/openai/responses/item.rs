//! One item of a response's output while it is being made.

use serde_json::{Value, json};

/// The item in the making.
#[derive(Debug)]
pub(super) enum Open {
    /// A message: its whole parts, and the open one.
    Message {
        parts: Vec<Value>,
        text: Option<Text>,
    },
    Reasoning {
        text: String,
        signature: Option<String>,
    },
    Call {
        call: u32,
        id: String,
        name: String,
        arguments: String,
        signature: Option<String>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) refusal: bool,
    pub(super) text: String,
    pub(super) annotations: Vec<Value>,
    pub(super) logprobs: Vec<Value>,
}

impl Text {
    /// The part as it is so far.
    pub(super) fn part(&self) -> Value {
        if self.refusal {
            return json!({"type": "refusal", "refusal": self.text});
        }
        json!({
            "type": "output_text", "text": self.text,
            "annotations": self.annotations, "logprobs": self.logprobs,
        })
    }
}

impl Open {
    /// What ids of such items begin with.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            Self::Message { .. } => "msg",
            Self::Reasoning { .. } => "rs",
            Self::Call { .. } => "fc",
        }
    }

    /// The item as it is so far.
    pub(super) fn item(&self, id: &str, status: &str) -> Value {
        match self {
            Self::Message { parts, .. } => json!({
                "id": id, "type": "message", "role": "assistant", "status": status, "content": parts,
            }),
            Self::Reasoning { text, signature } => {
                let mut summary = Vec::new();
                if !text.is_empty() {
                    summary.push(json!({"type": "summary_text", "text": text}));
                }
                let mut item = json!({"id": id, "type": "reasoning", "summary": summary});
                if let Some(signature) = signature {
                    item["encrypted_content"] = json!(signature);
                }
                item
            }
            Self::Call { id: call_id, name, arguments, signature, .. } => {
                let mut item = json!({
                    "id": id, "type": "function_call", "status": status,
                    "call_id": call_id, "name": name, "arguments": arguments,
                });
                if let Some(signature) = signature {
                    item["thought_signature"] = json!(signature);
                }
                item
            }
        }
    }
}
