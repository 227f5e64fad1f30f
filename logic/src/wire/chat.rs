//! The neutral chat request: what the dialects' requests have in common, and where each one's own
//! features go. Decoders fill it from a client's body, encoders write an upstream's body from it and say
//! which fields they had to leave out.

use serde_json::Value;
use std::collections::HashMap;

/// A chat request in no dialect. Sampling settings are `None` where the client gave none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chat {
    pub(crate) turns: Vec<Turn>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: Option<ToolChoice>,
    pub(crate) parallel_tools: Option<Set<bool>>,
    /// Bound on output tokens.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: Option<Value>,
    pub(crate) top_p: Option<Value>,
    pub(crate) top_k: Option<Set<u32>>,
    pub(crate) stop: Option<Set<Vec<String>>>,
    pub(crate) seed: Option<Set<i64>>,
    /// How many answers.
    pub(crate) count: Option<Set<u32>>,
    pub(crate) frequency_penalty: Option<Set<Value>>,
    pub(crate) presence_penalty: Option<Set<Value>>,
    /// Log probabilities of the tokens chosen, with this many alternatives each.
    pub(crate) logprobs: Option<Set<u32>>,
    pub(crate) format: Option<Set<Format>>,
    pub(crate) reasoning: Option<Set<Reasoning>>,
    /// The end user.
    pub(crate) user: Option<Set<String>>,
    pub(crate) stream: bool,
    /// Fields no other dialect has; every encoder reports them as left out.
    pub(crate) unknown: Vec<String>,
}

/// A setting with the path it was read from, so that a refusal can name the client's own field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Set<T> {
    pub(crate) value: T,
    pub(crate) path: String,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub(crate) role: Role,
    pub(crate) parts: Vec<Part>,
    /// Where it stood in the client's body.
    pub(crate) path: String,
}

/// A part of a message with what is the same for all kinds of parts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) content: Content,
    /// Anthropic's `cache_control`.
    pub(crate) cache: Option<Value>,
    /// Where it stood in the client's body.
    pub(crate) path: String,
}

/// What a part holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Text(String),
    Image {
        source: Source,
        /// OpenAI's `detail`.
        detail: Option<String>,
    },
    /// A document, for example a PDF.
    Document {
        source: Source,
        name: Option<String>,
    },
    Refusal(String),
    Reasoning {
        text: String,
        signature: Option<String>,
    },
    Redacted(String),
    ToolCall {
        id: String,
        name: String,
        /// JSON text of an object.
        arguments: String,
        signature: Option<String>,
    },
    ToolResult {
        id: String,
        parts: Vec<Part>,
        is_error: bool,
    },
}

/// Where binary content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Url(String),
    Base64 { media_type: String, data: String },
}

/// A tool definition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// JSON Schema of the arguments.
    pub(crate) parameters: Option<Value>,
    pub(crate) strict: Option<bool>,
    pub(crate) cache: Option<Value>,
    pub(crate) path: String,
}

/// Whether and which tool must be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    Auto,
    None,
    Required,
    Named(String),
}

/// What the text of the answer must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Format {
    /// Any JSON object.
    Json,
    /// JSON that satisfies a schema.
    Schema { name: String, description: Option<String>, strict: Option<bool>, schema: Value },
}

/// How much the model may think first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reasoning {
    Off,
    /// OpenAI's and Gemini's words, `minimal` to `xhigh`.
    Effort(String),
    /// A bound in tokens.
    Budget(u32),
    /// As much as the model sees fit.
    Adaptive,
}

/// Token budgets that stand for the effort words, as Google's own OpenAI-compatible endpoint maps them
/// (ai.google.dev/gemini-api/docs/openai, "Thinking").
const EFFORT_BUDGETS: [(&str, u32); 5] =
    [("minimal", 1024), ("low", 1024), ("medium", 8192), ("high", 24_576), ("xhigh", 24_576)];

/// The token budget of an effort word.
pub(crate) fn budget_of(effort: &str) -> Option<u32> {
    EFFORT_BUDGETS.iter().find(|(word, _)| *word == effort).map(|(_, budget)| *budget)
}

/// The effort word nearest to a token budget.
pub(crate) fn effort_of(budget: u32) -> &'static str {
    match budget {
        0..=4096 => "low",
        4097..=16_384 => "medium",
        _ => "high",
    }
}

impl Chat {
    /// Tool names by call id, for dialects whose results name the tool and not the call.
    pub(crate) fn tool_names(&self) -> HashMap<&str, &str> {
        let parts = self.turns.iter().flat_map(|turn| &turn.parts);
        parts
            .filter_map(|part| match &part.content {
                Content::ToolCall { id, name, .. } => Some((id.as_str(), name.as_str())),
                _ => None,
            })
            .collect()
    }
}

impl Part {
    /// A part without a cache mark.
    pub(crate) fn new(content: Content, path: impl Into<String>) -> Self {
        Self { content, cache: None, path: path.into() }
    }
}

/// Splits a `data:` URL with base64 content.
pub(crate) fn data_url(url: &str) -> Option<Source> {
    let (media_type, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
    let media_type = media_type.split(';').next().unwrap_or(media_type);
    Some(Source::Base64 { media_type: media_type.to_owned(), data: data.to_owned() })
}

/// An image or document reference as a URL, base64 content as a `data:` URL.
pub(crate) fn url_of(source: &Source) -> String {
    match source {
        Source::Url(url) => url.clone(),
        Source::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
    }
}
