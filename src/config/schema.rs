//! The JSON Schema of the file, and what it says about keys.

use crate::config::file::File;
use crate::config::path::{Path, Step};
use serde_json::Value;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| schemars::schema_for!(File).to_value());

/// The JSON Schema (draft 2020-12) of a router node's or a sidecar's file.
pub fn schema() -> Value {
    SCHEMA.clone()
}

/// The keys a mapping at `path` may have, accepted but not honoured ones left out.
pub(super) fn keys_at(path: &Path) -> Vec<String> {
    let mut keys: Vec<String> =
        places(path).into_iter().flat_map(properties).map(|(key, _)| key.clone()).collect();
    keys.sort();
    keys
}

/// Whether only a mapping may stand at `path`.
pub(super) fn is_mapping(path: &Path) -> bool {
    let places = places(path);
    let has = |keyword: &str| places.iter().any(|place| place.get(keyword).is_some());
    has("properties") && !has("items")
}

/// The schemas of what may stand at `path`.
fn places(path: &Path) -> Vec<&'static Value> {
    let mut places = vec![&*SCHEMA];
    for step in path.steps() {
        places =
            places.into_iter().flat_map(alternatives).filter_map(|schema| inside(schema, step)).collect();
    }
    places.into_iter().flat_map(alternatives).collect()
}

/// The sections and lists whose mappings have `key`, for example `clusters[]`.
pub(super) fn sections_with(key: &str) -> Vec<String> {
    let has = |schemas: Vec<&'static Value>| {
        schemas.into_iter().flat_map(properties).any(|(known, _)| known == key)
    };
    let mut sections = Vec::new();
    for (section, schema) in properties(&SCHEMA) {
        let mappings = alternatives(schema);
        let elements =
            mappings.iter().filter_map(|schema| schema.get("items")).flat_map(alternatives).collect();
        if has(elements) {
            sections.push(format!("{section}[]"));
        } else if has(mappings) {
            sections.push(section.clone());
        }
    }
    sections
}

/// What `schema` stands for: itself, what it refers to, or each thing it may be.
fn alternatives(schema: &'static Value) -> Vec<&'static Value> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = name.strip_prefix('#').and_then(|pointer| SCHEMA.pointer(pointer));
        return target.map(alternatives).unwrap_or_default();
    }
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(each) => each.iter().flat_map(alternatives).collect(),
        None => vec![schema],
    }
}

fn inside(schema: &'static Value, step: &Step) -> Option<&'static Value> {
    match step {
        Step::Key(key) => schema.get("properties")?.get(key.as_str()),
        Step::Index(_) => schema.get("items"),
    }
}

fn properties(schema: &'static Value) -> impl Iterator<Item = (&'static String, &'static Value)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .filter(|(_, schema)| schema.get("deprecated") != Some(&Value::Bool(true)))
}
