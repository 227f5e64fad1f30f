//! From the file's text to a tree of values with the environment filled in.
//!
//! Owns the YAML parser's limits and `${NAME}`. Never quotes a value in a message: it may be a secret.

use crate::config::Env;
use crate::config::path::Path;
use crate::config::problem::{Findings, Problems};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use std::collections::BTreeSet;
use std::fmt;

/// Largest file read.
pub(super) const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Deepest nesting; the file's own format needs 6.
const DEPTH_MAX: usize = 32;
/// Most values, with anchors and aliases written out.
const VALUES_MAX: usize = 100_000;

/// Parses `text`; its lines and the keys given twice go to `findings`.
pub(super) fn parse(text: &str, findings: &mut Findings) -> Result<Value, Problems> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Problems::of_file(format!(
            "the file is larger than {FILE_BYTES_MAX} bytes"
        )));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: VALUES_MAX, max_documents: 1 },
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
        Value::Null => Err(Problems::of_file(
            "the file is empty (see config/llama-local.yaml for a small one)",
        )),
        _ => Err(Problems::of_file(
            "expected a mapping of sections such as `server:` and `clusters:`",
        )),
    }
}

/// The parser's message with its place; it never shows the text itself, which may hold a secret.
fn syntax(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    match error.location() {
        Some(place) if !message.contains("line ") => {
            format!(
                "not valid YAML at line {}, column {}: {message}",
                place.line(),
                place.column()
            )
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

/// Fills in `${NAME}` and `${NAME:-default}` everywhere in `tree`; `$${` stands for `${`. What is
/// switched off by `enabled: false`, and the sections in `unused`, may lack their variables.
///
/// Returns the places whose text came from the environment: their values are never shown.
pub(super) fn substitute(
    tree: &mut Value,
    env: &Env<'_>,
    unused: &[&str],
    findings: &mut Findings,
) -> BTreeSet<Path> {
    let mut substitution = Substitution {
        env,
        findings,
        places: BTreeSet::new(),
    };
    if let Value::Object(sections) = tree {
        for (name, section) in sections {
            let needed = !unused.contains(&name.as_str());
            substitution.walk(&Path::default().key(name), section, needed);
        }
    }
    substitution.places
}

struct Substitution<'a, 'e> {
    env: &'a Env<'e>,
    findings: &'a mut Findings,
    places: BTreeSet<Path>,
}

impl Substitution<'_, '_> {
    fn walk(&mut self, at: &Path, value: &mut Value, needed: bool) {
        match value {
            Value::String(text) if text.contains("${") => match fill_in(text, self.env) {
                Ok(filled) => {
                    *text = filled;
                    self.places.insert(at.clone());
                }
                Err(message) => {
                    if needed {
                        self.findings.problem(at, message);
                    }
                    *value = Value::Null;
                }
            },
            Value::Array(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    self.walk(&at.index(index), value, needed);
                }
            }
            Value::Object(values) => {
                if let Some(enabled) = values.get_mut("enabled") {
                    self.walk(&at.key("enabled"), enabled, needed);
                }
                let off = values.get("enabled").is_some_and(is_false);
                for (key, value) in values {
                    self.walk(&at.key(key), value, needed && !off);
                }
            }
            _ => {}
        }
    }
}

fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
        || value
            .as_str()
            .is_some_and(|word| matches!(word, "false" | "no" | "off"))
}

fn fill_in(text: &str, env: &Env<'_>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(escaped) = before.strip_suffix('$') {
            filled.push_str(escaped);
            filled.push_str("${");
            rest = &reference[2..];
            continue;
        }
        filled.push_str(before);
        let Some((inside, after)) = reference[2..].split_once('}') else {
            return Err("`${` has no closing `}` (write `$${` for a literal one)".to_owned());
        };
        filled.push_str(&look_up(inside, env)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// `NAME` or `NAME:-default`; as in a shell, the default also stands in for an empty variable.
fn look_up(reference: &str, env: &Env<'_>) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err("expected `${NAME}` or `${NAME:-default}` (write `$${` for a literal `${`)".to_owned());
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "environment variable `{name}` is not set (set it, or write `${{{name}:-default}}`)"
        )),
    }
}
