//! `${NAME}` in the file, filled in from the environment.
//!
//! Never quotes a value in a message: it may be a secret.

use crate::config::Env;
use crate::config::path::Path;
use crate::config::problem::Findings;
use serde_json::Value;
use std::collections::BTreeSet;

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
    let mut substitution = Substitution { env, findings, places: BTreeSet::new() };
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
    value == &Value::Bool(false) || value.as_str().is_some_and(|word| matches!(word, "false" | "no" | "off"))
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
        (None, None) => {
            Err(format!("environment variable `{name}` is not set (set it, or write `${{{name}:-default}}`)"))
        }
    }
}
