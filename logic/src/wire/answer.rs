//! The neutral answer: what every dialect's stream says, event by event, and the whole answer that the
//! events add up to.
//!
//! Readers of upstream bytes produce [`Event`]s, for whole bodies as well as for streams; writers for the
//! client consume them, or the [`Answer`] they were gathered into.

use crate::cost::usage::Usage;
use serde_json::Value;

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model was done.
    Stop,
    /// A stop sequence was met, named where the dialect names it.
    StopSequence(Option<String>),
    /// The token bound was met.
    Length,
    /// The model waits for tool results.
    ToolCalls,
    /// A filter, or the model itself, refused.
    Filter,
    /// The turn is to be sent back to go on (Anthropic's `pause_turn`).
    Pause,
}

/// One step of an answer. `choice` is the index among several answers (`n`), `call` the ordinal of a tool
/// call within its choice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The upstream's own id of the answer.
    Start { id: Option<String> },
    /// Visible text.
    Text { choice: u32, text: String },
    /// A refusal in the model's words.
    Refusal { choice: u32, text: String },
    /// Reasoning ("thinking") text.
    Reasoning { choice: u32, text: String },
    /// The proof that the preceding reasoning is the model's own.
    Signature { choice: u32, signature: String },
    /// Reasoning that the provider encrypted.
    Redacted { choice: u32, data: String },
    /// A tool call begins.
    ToolCall { choice: u32, call: u32, id: Option<String>, name: String, signature: Option<String> },
    /// More of a tool call's arguments (JSON text).
    Arguments { choice: u32, call: u32, text: String },
    /// A citation of the preceding text, in Anthropic's shape.
    Citation { choice: u32, citation: Value },
    /// Log probabilities of the preceding text, one entry per token, in OpenAI's shape.
    Logprobs { choice: u32, content: Vec<Value> },
    /// A choice ended.
    Finish { choice: u32, finish: Finish },
    /// Token counts so far; later ones replace earlier ones.
    Usage(Usage),
}

impl Event {
    /// Whether the event carries something the client reads as the answer itself.
    pub(crate) fn is_content(&self) -> bool {
        match self {
            Self::Text { text, .. }
            | Self::Refusal { text, .. }
            | Self::Reasoning { text, .. }
            | Self::Arguments { text, .. } => !text.is_empty(),
            Self::ToolCall { .. } | Self::Redacted { .. } => true,
            Self::Start { .. }
            | Self::Signature { .. }
            | Self::Citation { .. }
            | Self::Logprobs { .. }
            | Self::Finish { .. }
            | Self::Usage(_) => false,
        }
    }
}

/// One piece of a choice, in the order the model made them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Block {
    /// Visible text with its citations.
    Text { text: String, citations: Vec<Value> },
    /// A refusal.
    Refusal(String),
    /// Reasoning.
    Reasoning { text: String, signature: Option<String> },
    /// Encrypted reasoning.
    Redacted(String),
    /// A tool call.
    ToolCall { call: u32, id: Option<String>, name: String, arguments: String, signature: Option<String> },
}

/// One of the answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Choice {
    pub(crate) index: u32,
    pub(crate) blocks: Vec<Block>,
    pub(crate) logprobs: Vec<Value>,
    pub(crate) finish: Option<Finish>,
}

impl Choice {
    /// All visible text; `None` where there is none.
    pub(crate) fn text(&self) -> Option<String> {
        let texts = self.blocks.iter().filter_map(|block| match block {
            Block::Text { text, .. } => Some(text.as_str()),
            _ => None,
        });
        gather(texts)
    }

    /// All reasoning text.
    pub(crate) fn reasoning(&self) -> Option<String> {
        let texts = self.blocks.iter().filter_map(|block| match block {
            Block::Reasoning { text, .. } if !text.is_empty() => Some(text.as_str()),
            _ => None,
        });
        gather(texts)
    }

    /// The refusal.
    pub(crate) fn refusal(&self) -> Option<String> {
        let texts = self.blocks.iter().filter_map(|block| match block {
            Block::Refusal(text) => Some(text.as_str()),
            _ => None,
        });
        gather(texts)
    }
}

fn gather<'a>(mut texts: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut all = texts.next()?.to_owned();
    texts.for_each(|text| all.push_str(text));
    Some(all)
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) id: Option<String>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Option<Usage>,
    bytes: usize,
}

impl Answer {
    /// Adds an event. Returns the bytes held so far, for the caller's bound.
    pub(crate) fn add(&mut self, event: Event) -> usize {
        match event {
            Event::Start { id } => self.id = self.id.take().or(id),
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Text { choice, text } => {
                self.bytes += text.len();
                match self.blocks(choice).last_mut() {
                    Some(Block::Text { text: held, .. }) => held.push_str(&text),
                    _ => self.block(choice, Block::Text { text, citations: Vec::new() }),
                }
            }
            Event::Refusal { choice, text } => {
                self.bytes += text.len();
                match self.blocks(choice).last_mut() {
                    Some(Block::Refusal(held)) => held.push_str(&text),
                    _ => self.block(choice, Block::Refusal(text)),
                }
            }
            Event::Reasoning { choice, text } => {
                self.bytes += text.len();
                match self.blocks(choice).last_mut() {
                    Some(Block::Reasoning { text: held, signature: None }) => held.push_str(&text),
                    _ => self.block(choice, Block::Reasoning { text, signature: None }),
                }
            }
            Event::Signature { choice, signature } => {
                self.bytes += signature.len();
                match self.blocks(choice).last_mut() {
                    Some(Block::Reasoning { signature: held @ None, .. }) => *held = Some(signature),
                    _ => {
                        let block = Block::Reasoning { text: String::new(), signature: Some(signature) };
                        self.block(choice, block);
                    }
                }
            }
            Event::Redacted { choice, data } => {
                self.bytes += data.len();
                self.block(choice, Block::Redacted(data));
            }
            Event::ToolCall { choice, call, id, name, signature } => {
                self.bytes += name.len() + signature.as_ref().map_or(0, String::len);
                self.block(choice, Block::ToolCall { call, id, name, arguments: String::new(), signature });
            }
            Event::Arguments { choice, call: wanted, text } => {
                self.bytes += text.len();
                let held = self.blocks(choice).iter_mut().rev().find_map(|block| match block {
                    Block::ToolCall { call, arguments, .. } if *call == wanted => Some(arguments),
                    _ => None,
                });
                if let Some(held) = held {
                    held.push_str(&text);
                }
            }
            Event::Citation { choice, citation } => {
                self.bytes += 256;
                if let Some(Block::Text { citations, .. }) = self.blocks(choice).last_mut() {
                    citations.push(citation);
                }
            }
            Event::Logprobs { choice, content } => {
                self.bytes += content.len() * 256;
                self.choice(choice).logprobs.extend(content);
            }
            Event::Finish { choice, finish } => self.choice(choice).finish = Some(finish),
        }
        // What an empty block or choice costs in memory is counted too, so that many are bounded.
        self.bytes += 64;
        self.bytes
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let at = match self.choices.binary_search_by_key(&index, |choice| choice.index) {
            Ok(at) => at,
            Err(at) => {
                self.choices.insert(at, Choice { index, ..Choice::default() });
                at
            }
        };
        &mut self.choices[at]
    }

    fn blocks(&mut self, choice: u32) -> &mut Vec<Block> {
        &mut self.choice(choice).blocks
    }

    fn block(&mut self, choice: u32, block: Block) {
        self.blocks(choice).push(block);
    }
}
