//! From the file's text to a tree of values.
//!
//! Owns the YAML parser's limits. Never quotes a value in a message: it may be a secret.

use crate::config::path::Path;
use crate::config::problem::{Findings, Problems};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use std::fmt;

/// Largest file read.
pub(super) const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Deepest nesting; the file's own format needs 6.
const DEPTH_MAX: usize = 32;
/// Most values, with anchors and aliases written out.
const VALUES_MAX: usize = 100_000;

/// Most text, with anchors and aliases written out.
const TEXT_BYTES_MAX: usize = 4 * FILE_BYTES_MAX;

/// Parses `text`; its lines and the keys given twice go to `findings`.
pub(super) fn parse(text: &str, findings: &mut Findings) -> Result<Value, Problems> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Problems::of_file(format!("the file is larger than {FILE_BYTES_MAX} bytes")));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: VALUES_MAX, max_documents: 1, max_total_scalar_bytes: TEXT_BYTES_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: VALUES_MAX },
        // Passed on to the visitor below, which says where they are.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        // A `.nan` becomes a string, refused where a number is expected, instead of nothing at all.
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
        // Only `true` and `false` are booleans before it is known that a boolean is expected.
        strict_booleans: true,
        with_snippet: false,
    };
    let root: Spanned<Node> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| Problems::of_file(syntax(&error)))?;
    let tree = planted(&Path::default(), root.value, findings);
    match tree {
        Value::Object(_) => Ok(tree),
        Value::Null => {
            Err(Problems::of_file("the file is empty (see config/llama-local.yaml for a small one)"))
        }
        _ => Err(Problems::of_file("expected a mapping of sections such as `server:` and `clusters:`")),
    }
}

/// The parser's message with its place; it never shows the text itself, which may hold a secret.
fn syntax(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    // The parser wraps this error in others; its words name types of its own.
    if message.contains("budget breached") {
        return "the file has more than one document, or is too large or too deeply nested for a configuration".into();
    }
    match error.location() {
        Some(place) if !message.contains("line ") => {
            format!("not valid YAML at line {}, column {}: {message}", place.line(), place.column())
        }
        _ => format!("not valid YAML: {message}"),
    }
}

/// One value as parsed, with the lines of what is in it.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    /// Keys in the file's order, repeated ones included.
    Mapping(Vec<(Spanned<String>, Spanned<Node>)>),
}

/// `node` as a [`Value`]; its lines and repeated keys go to `findings`.
fn planted(at: &Path, node: Node, findings: &mut Findings) -> Value {
    match node {
        Node::Scalar(value) => value,
        Node::List(nodes) => {
            let mut values = Vec::with_capacity(nodes.len());
            for (index, node) in nodes.into_iter().enumerate() {
                let at = at.index(index);
                findings.line(&at, node.referenced.line());
                values.push(planted(&at, node.value, findings));
            }
            Value::Array(values)
        }
        Node::Mapping(nodes) => {
            let mut values = Map::new();
            for (key, node) in nodes {
                let at = at.key(&key.value);
                findings.line(&at, key.referenced.line());
                let value = planted(&at, node.value, findings);
                if values.insert(key.value, value).is_some() {
                    findings.problem(&at, "this key is given more than once (keep one of them)");
                }
            }
            Value::Object(values)
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> de::Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Scalar((value as f64).into()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Scalar((value as f64).into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut mapping: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(entry) = mapping.next_entry()? {
            nodes.push(entry);
        }
        Ok(Node::Mapping(nodes))
    }
}
