//! The schema and the manual against each other and the samples.

use super::*;

#[test]
fn the_schema_knows_every_key_of_the_samples_and_closes_every_mapping() {
    fn walk(at: &path::Path, value: &Value) {
        match value {
            Value::Object(keys) => {
                let known = schema::keys_at(at);
                for (key, value) in keys {
                    assert!(known.contains(key), "{at} has no `{key}`: {known:?}");
                    walk(&at.key(key), value);
                }
            }
            Value::Array(values) => {
                values.iter().enumerate().for_each(|(index, value)| walk(&at.index(index), value));
            }
            _ => {}
        }
    }
    for text in [SEED, EXAMPLE, LLAMA_LOCAL] {
        walk(&path::Path::default(), &tree::parse(text, &mut Findings::default()).unwrap());
    }
    let schema = schema();
    let mut mappings = vec![&schema];
    mappings.extend(schema["$defs"].as_object().unwrap().values());
    for mapping in mappings.into_iter().filter(|mapping| mapping.get("properties").is_some()) {
        assert_eq!(mapping["additionalProperties"], false, "{mapping}");
        for (key, property) in mapping["properties"].as_object().unwrap() {
            assert!(property.get("description").is_some(), "`{key}` has no description");
        }
    }
    assert_eq!(schema["properties"]["costOptimization"]["deprecated"], true);
}

#[test]
fn the_manual_has_every_key_with_its_own_description() {
    let manual = include_str!("../../../docs/CONFIG.md");
    let schema = schema();
    let mut mappings = vec![&schema];
    mappings.extend(schema["$defs"].as_object().unwrap().values());
    for mapping in mappings {
        for (key, property) in mapping["properties"].as_object().into_iter().flatten() {
            let description = property["description"].as_str().unwrap().replace('\n', " ");
            let row = manual.lines().any(|line| {
                line.starts_with(&format!("| `{key}` |")) && line.ends_with(&format!("| {description} |"))
            });
            assert!(row, "docs/CONFIG.md lacks: | `{key}` | … | {description} |");
        }
    }
}
