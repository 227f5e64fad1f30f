//! Which requests ask for the same answer, and whose answer may be given again.
//!
//! Owns two digests of a request: its [`fingerprint`], by which a repeat under the same idempotency key is
//! known, and its [`cache_key`], by which an answer is found again. Never sees the time or a stored answer.
//!
//! A key names everything the answer may depend on: who asks and what they may use, the route, whether it is
//! streamed, the model, who may serve it, and the body in its canonical form. Members that change nothing about
//! the answer are left out of it: names of users and metadata, and those that say what holds without them.

mod canonical;
#[cfg(test)]
#[path = "cache_key/proof.rs"]
mod proof;
mod seal;

use crate::request::ANY_MODEL;
use crate::wire::json::{Shallow, elements};
use crate::wire::{Dialect, Inbound, Inspected, Operation};
use canonical::NotJson;
pub use seal::{SEALED_EXTRA, Seal};
use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Digest256 = [u8; 32];

/// Part of every digest: a change of what a key covers changes this, so that no older answer is found.
const VERSION: &str = "llm-router answer 1";

/// Members of a body that say who asks, not what.
const ABOUT_THE_ASKER: [&str; 6] =
    ["user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "labels"];

/// Members by which a provider does more than answer: it searches, calls, keeps state.
const EFFECTS: [&str; 4] = ["mcp_servers", "container", "web_search_options", "background"];

/// Why an answer to a request is neither kept nor looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncacheable {
    /// The answer is drawn at random: no `temperature` of 0.
    Sampled,
    /// The provider does something besides answering: runs a tool of its own, stores the answer.
    Effects,
    /// It costs nothing anyway.
    Free,
    /// No two readers need understand it alike.
    Ambiguous,
}

impl Uncacheable {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sampled => "sampled",
            Self::Effects => "effects",
            Self::Free => "free",
            Self::Ambiguous => "ambiguous",
        }
    }
}

impl From<NotJson> for Uncacheable {
    fn from(NotJson: NotJson) -> Self {
        Self::Ambiguous
    }
}

/// What an answer depends on besides the request itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circle {
    /// Among whom an answer is shared, for example the tenant. Every word counts.
    pub among: Vec<String>,
    /// Who may serve it: the strategy, the backend asked for, capabilities, arms of experiments.
    pub class: Vec<String>,
}

/// A digest of the route and the whole body, the same for bodies that mean the same.
pub fn fingerprint(inbound: &Inbound<'_>) -> Digest256 {
    let mut hash = opened(inbound);
    let mut whole = hash.clone();
    let body = std::str::from_utf8(inbound.body).ok();
    match body.and_then(|body| canonical::value(&mut whole, body, false).ok()) {
        Some(()) => whole.finalize().into(),
        None => {
            hash.update(inbound.body);
            hash.finalize().into()
        }
    }
}

/// A digest of `words`, none of which runs into the next.
pub fn digest_of(words: &[&str]) -> Digest256 {
    let mut hash = Sha256::new();
    words.iter().for_each(|word| canonical::text(&mut hash, b'n', word));
    hash.finalize().into()
}

/// A digest of everything the answer to a request depends on. `sampled` = answers drawn at random count too.
///
/// # Errors
/// Why its answer must not be given again.
pub fn cache_key(
    inbound: &Inbound<'_>,
    inspected: &Inspected,
    circle: &Circle,
    sampled: bool,
) -> Result<Digest256, Uncacheable> {
    if inbound.operation == Operation::CountTokens {
        return Err(Uncacheable::Free);
    }
    let body = std::str::from_utf8(inbound.body).map_err(|_| Uncacheable::Ambiguous)?;
    let body = Shallow::read(body.trim_ascii()).map_err(|_| Uncacheable::Ambiguous)?;
    if has_effects(&body) {
        return Err(Uncacheable::Effects);
    }
    if !sampled && inbound.operation != Operation::Embedding && !is_deterministic(inbound.dialect, &body) {
        return Err(Uncacheable::Sampled);
    }
    let mut hash = opened(inbound);
    for words in [&circle.among, &circle.class] {
        hash.update((words.len() as u64).to_be_bytes());
        words.iter().for_each(|word| canonical::text(&mut hash, b'c', word));
    }
    let model = inspected.model.as_deref().filter(|model| !model.is_empty()).unwrap_or(ANY_MODEL);
    canonical::text(&mut hash, b'm', model);
    hash.update([u8::from(inspected.stream), u8::from(inspected.include_usage)]);
    let says_nothing = |name: &str, json: &str| match name {
        "model" => true,
        "stream" => true,
        "stream_options" => !inspected.stream,
        "store" => json == "false",
        "n" => canonical::number(json) == "1e0",
        _ => json == "null" || ABOUT_THE_ASKER.contains(&name),
    };
    let members = body.members().filter(|(name, json)| !says_nothing(name, json));
    canonical::members(&mut hash, members, false)?;
    Ok(hash.finalize().into())
}

/// The beginning of a digest: the route.
fn opened(inbound: &Inbound<'_>) -> Sha256 {
    let mut hash = Sha256::new();
    canonical::text(&mut hash, b'v', VERSION);
    hash.update([
        match inbound.dialect {
            Dialect::OpenAi => 0,
            Dialect::Anthropic => 1,
            Dialect::Gemini => 2,
        },
        match inbound.operation {
            Operation::Chat => 0,
            Operation::Completion => 1,
            Operation::Embedding => 2,
            Operation::Responses => 3,
            Operation::CountTokens => 4,
        },
        u8::from(inbound.path_stream),
        u8::from(inbound.json_array),
    ]);
    let model = inbound.path_model.map(|model| model.strip_prefix("models/").unwrap_or(model));
    canonical::text(&mut hash, b'p', model.unwrap_or_default());
    hash
}

/// Whether the body asks for the likeliest answer: a temperature of 0.
fn is_deterministic(dialect: Dialect, body: &Shallow<'_>) -> bool {
    let zero = |json: &str| canonical::number(json) == "0";
    if dialect == Dialect::Gemini {
        let config = body.get("generationConfig").or_else(|| body.get("generation_config"));
        let config = config.and_then(|config| Shallow::read(config).ok());
        return config.is_some_and(|config| config.get("temperature").is_some_and(zero));
    }
    body.get("temperature").is_some_and(zero)
}

/// Whether the provider would do more than answer. A tool that the client runs itself has no effect here: the
/// answer only names it.
fn has_effects(body: &Shallow<'_>) -> bool {
    let says_no = |json: &str| matches!(json, "false" | "[]" | "{}");
    let asked = |name: &str| body.get(name).is_some_and(|json| !says_no(json));
    if EFFECTS.into_iter().any(asked) || asked("store") {
        return true;
    }
    let Some(tools) = body.get("tools") else { return false };
    let Some(tools) = elements(tools) else { return true };
    tools.iter().any(|tool| Shallow::read(tool.get()).map_or(true, |tool| !is_the_clients(&tool)))
}

/// Whether a tool is run by the client: OpenAI's and Anthropic's say so by their type, Gemini's are declarations
/// alone.
fn is_the_clients(tool: &Shallow<'_>) -> bool {
    match tool.get("type") {
        Some(kind) => matches!(kind, "\"function\"" | "\"custom\""),
        None if tool.get("name").is_some() => true,
        None => tool.members().all(|(name, json)| {
            json == "null" || matches!(name, "functionDeclarations" | "function_declarations")
        }),
    }
}
