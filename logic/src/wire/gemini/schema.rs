//! Gemini's own schema objects (an OpenAPI subset with upper-case types) as JSON Schema.

use serde_json::{Map, Value, json};

/// Keys whose numbers Gemini writes as text (int64 in its proto JSON).
const COUNTS: [&str; 6] =
    ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"];

/// Converts a schema at any depth.
pub(in crate::wire) fn to_json_schema(schema: &Value) -> Value {
    let Value::Object(members) = schema else {
        return schema.clone();
    };
    let mut out = Map::new();
    for (key, value) in members {
        match (key.as_str(), value) {
            // `nullable` becomes part of the type; the order hint has no counterpart but the order of keys.
            ("nullable" | "propertyOrdering", _) => {}
            ("type", Value::String(word)) => {
                out.insert("type".to_owned(), type_word(word, members));
            }
            ("properties" | "defs" | "$defs", Value::Object(inner)) => {
                let inner = inner.iter().map(|(name, schema)| (name.clone(), to_json_schema(schema)));
                out.insert(key.clone(), Value::Object(inner.collect()));
            }
            ("items" | "additionalProperties", inner) => {
                out.insert(key.clone(), to_json_schema(inner));
            }
            ("anyOf" | "prefixItems", Value::Array(inner)) => {
                out.insert(key.clone(), inner.iter().map(to_json_schema).collect());
            }
            (count, Value::String(number)) if COUNTS.contains(&count) => {
                let number = number.parse::<u64>().map_or_else(|_| value.clone(), |number| json!(number));
                out.insert(key.clone(), number);
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}

fn type_word(word: &str, members: &Map<String, Value>) -> Value {
    let word = word.to_ascii_lowercase();
    if members.get("nullable") == Some(&Value::Bool(true)) { json!([word, "null"]) } else { json!(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_types_and_nullable_become_json_schema() {
        let schema = json!({
            "type": "OBJECT",
            "properties": {
                "type": {"type": "STRING", "nullable": true, "description": "a property named type"},
                "tags": {"type": "ARRAY", "minItems": "1", "items": {"type": "STRING", "enum": ["A"]}},
            },
            "required": ["tags"],
            "propertyOrdering": ["tags", "type"],
        });
        assert_eq!(
            to_json_schema(&schema),
            json!({
                "type": "object",
                "properties": {
                    "type": {"type": ["string", "null"], "description": "a property named type"},
                    "tags": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": ["A"]}},
                },
                "required": ["tags"],
            })
        );
    }
}
