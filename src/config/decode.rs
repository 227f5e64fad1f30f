//! From the tree to the file's shape, with every unknown key and every wrong type found at once.
//!
//! Serde stops at its first error. So an error is recorded at its place, the value there is taken out,
//! and the tree is read again, until it fits. Every key is optional in `file`, so what was taken out
//! leads to no second error here, and `Findings` drops what would follow from it later.

use crate::config::file::File;
use crate::config::path::Path;
use crate::config::problem::Findings;
use crate::config::schema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// After this many wrong values the rest is left for the next run.
const WRONG_VALUES_MAX: usize = 200;

/// Keys whose values are never shown.
const SECRET_KEYS: [&str; 10] = [
    "url",
    "apiKey",
    "sharedSecret",
    "password",
    "token",
    "upstreamApiKey",
    "secret",
    "key",
    "metricsToken",
    "wakeSecret",
];

/// Reads `tree`; `substituted` are the places whose text came from the environment. `None` where so much
/// is wrong that judging the rest would only mislead.
pub(super) fn decode(mut tree: Value, substituted: &BTreeSet<Path>, findings: &mut Findings) -> Option<File> {
    refuse_lists_for_mappings(&Path::default(), &mut tree, findings);
    for _ in 0..WRONG_VALUES_MAX {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&tree, &mut track);
        let mut ignored = |path: serde_ignored::Path<'_>| unknown.push(Path::from(&path));
        match File::deserialize(serde_ignored::Deserializer::new(tracked, &mut ignored)) {
            Ok(file) => {
                for path in &unknown {
                    findings.problem(path, unknown_key(path));
                }
                return Some(file);
            }
            Err(error) => {
                let at = Path::from(&track.path());
                let from_env = substituted.contains(&at);
                let Some(value) = at.find(&mut tree).filter(|value| !value.is_null()) else {
                    findings.problem(&at, error.to_string());
                    return None;
                };
                if let Some(meant) = meant(value, &error, from_env) {
                    *value = meant;
                    continue;
                }
                let secret = at.parent_and_key().is_some_and(|(_, key)| SECRET_KEYS.contains(&key));
                findings.problem(&at, wrong_value(value, &error, secret || from_env));
                *value = Value::Null;
            }
        }
    }
    None
}

/// Serde reads a list as a mapping's values in their order: nobody means that.
fn refuse_lists_for_mappings(at: &Path, value: &mut Value, findings: &mut Findings) {
    match value {
        Value::Array(_) if schema::is_mapping(at) => {
            findings.problem(at, "expected a mapping, found a list");
            *value = Value::Null;
        }
        Value::Array(values) => {
            for (index, value) in values.iter_mut().enumerate().filter(|(_, value)| holds_more(value)) {
                refuse_lists_for_mappings(&at.index(index), value, findings);
            }
        }
        Value::Object(values) => {
            for (key, value) in values.iter_mut().filter(|(_, value)| holds_more(value)) {
                refuse_lists_for_mappings(&at.key(key), value, findings);
            }
        }
        _ => {}
    }
}

fn holds_more(value: &Value) -> bool {
    value.is_array() || value.is_object()
}

/// What a text stands for where another type is expected: the environment holds only texts, and YAML
/// 1.1, which older files are written in, has more words for true and false.
fn meant(value: &Value, error: &serde_json::Error, from_env: bool) -> Option<Value> {
    let text = value.as_str()?;
    let boolean = match text {
        "true" | "yes" | "on" => Some(Value::Bool(true)),
        "false" | "no" | "off" => Some(Value::Bool(false)),
        _ => None,
    };
    if error.to_string().ends_with(", expected a boolean") {
        return boolean;
    }
    if !from_env {
        return None;
    }
    serde_json::from_str::<Value>(text).ok().filter(Value::is_number)
}

fn wrong_value(value: &Value, error: &serde_json::Error, hide: bool) -> String {
    let text = error.to_string();
    // The values serde quotes hold no `, expected ` of ours unless the author put it there; then only
    // the wording suffers, since the last one counts.
    let wanted = text.rsplit_once(", expected ").map_or("another value", |(_, wanted)| wanted);
    let wanted = match wanted {
        "a boolean" => "`true` or `false`",
        "a string" => "text",
        "a sequence" => "a list",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number",
        "f64" => "a number",
        wanted if wanted.starts_with("struct ") => "a mapping",
        wanted => wanted,
    };
    let found = match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(_) if hide => "another text (not shown)".to_owned(),
        _ if hide => "a number or a boolean (not shown)".to_owned(),
        Value::String(text) if text.chars().count() > 40 => "a long text".to_owned(),
        Value::String(text) => format!("`{text}`"),
        scalar => format!("`{scalar}`"),
    };
    let cure = match (wanted, value) {
        ("text", Value::Number(_) | Value::Bool(_)) => " (put it in quotes)",
        (wanted, Value::Number(_)) if wanted.starts_with("a duration") => " (add a unit)",
        _ => "",
    };
    format!("expected {wanted}, found {found}{cure}")
}

fn unknown_key(path: &Path) -> String {
    let Some((parent, key)) = path.parent_and_key() else {
        return "unknown key".to_owned();
    };
    let known = schema::keys_at(&parent);
    if let Some(meant) = nearest(key, known.iter().map(String::as_str)) {
        return format!("unknown key (did you mean `{meant}`?)");
    }
    let homes: Vec<String> =
        schema::sections_with(key).iter().map(|section| format!("`{section}`")).collect();
    match homes.as_slice() {
        [] => format!("unknown key (known here: {})", known.join(", ")),
        homes => format!("unknown key here (it belongs in {})", homes.join(" or ")),
    }
}

/// The word most like `word`, where it is like enough to have been meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['_', '-'], "");
    let word = plain(word);
    let tolerated = (word.chars().count() / 3).min(3);
    known
        .into_iter()
        .map(|candidate| (distance(&word, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, dropped, changed or swapped with their neighbour (the restricted
/// Damerau–Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_word_that_was_meant() {
        let known = ["costPerHour", "endpoint", "name", "capabilities"];
        for (word, meant) in [
            ("costPerHuor", Some("costPerHour")),
            ("cost_per_hour", Some("costPerHour")),
            ("endpiont", Some("endpoint")),
            ("Name", Some("name")),
            ("nme", Some("name")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn counts_single_slips() {
        for (a, b, slips) in [("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 1), ("abc", "xbcd", 2)] {
            assert_eq!(distance(a, b), slips, "{a} {b}");
            assert_eq!(distance(b, a), slips, "{b} {a}");
        }
    }
}
