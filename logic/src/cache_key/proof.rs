//! Requests that mean the same have the same key, and others have not.

use super::*;
use crate::wire::inspect;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn circle() -> Circle {
    Circle { among: vec!["tenant:a".into()], class: vec!["hybrid".into()] }
}

fn key_of(dialect: Dialect, operation: Operation, body: &str) -> Result<Digest256, Uncacheable> {
    let inbound = match dialect {
        Dialect::Gemini => Inbound::gemini(operation, body.as_bytes(), "m", false, false),
        _ => Inbound::new(dialect, operation, body.as_bytes()),
    };
    let inspected = inspect(&inbound).unwrap_or_else(|error| panic!("{}: {body}", error.message));
    cache_key(&inbound, &inspected, &circle(), false)
}

fn chat(body: &Value) -> Result<Digest256, Uncacheable> {
    key_of(Dialect::OpenAi, Operation::Chat, &body.to_string())
}

fn plain() -> Value {
    json!({"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]})
}

fn with(name: &str, value: Value) -> Value {
    let mut body = plain();
    body[name] = value;
    body
}

#[test]
fn members_that_do_not_bear_on_the_answer_do_not_bear_on_the_key() {
    let key = chat(&plain()).unwrap();
    for (name, value) in [
        ("user", json!("somebody")),
        ("metadata", json!({"a": "b"})),
        ("stream", json!(false)),
        ("stream", Value::Null),
        ("store", json!(false)),
        ("n", json!(1)),
        ("temperature", json!(0.0)),
        ("seed", Value::Null),
        ("stream_options", Value::Null),
        ("safety_identifier", json!("x")),
    ] {
        assert_eq!(chat(&with(name, value)).unwrap(), key, "{name}");
    }
    let auto = |model: Value| chat(&with("model", model)).unwrap();
    assert_eq!(auto(json!("auto")), auto(Value::Null));
    assert_ne!(auto(json!("auto")), key);
}

#[test]
fn every_other_member_does() {
    let mut keys = vec![chat(&plain()).unwrap()];
    for (name, value) in [
        ("model", json!("other")),
        ("stream", json!(true)),
        ("n", json!(2)),
        ("seed", json!(1)),
        ("max_tokens", json!(5)),
        ("top_p", json!(0.5)),
        ("messages", json!([{"role": "system", "content": "hi"}])),
        ("messages", json!([{"role": "user", "content": "hi "}])),
        ("messages", json!([{"role": "user", "content": "hi"}, {"role": "user", "content": "hi"}])),
        ("response_format", json!({"type": "json_object"})),
        ("something_new", json!(true)),
        ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ("tools", json!([{"type": "function", "function": {"name": "g"}}])),
    ] {
        keys.push(chat(&with(name, value)).unwrap());
    }
    let mut body = with("stream", json!(true));
    body["stream_options"] = json!({"include_usage": true});
    keys.push(chat(&body).unwrap());
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count, "two of these have the same key");
}

#[test]
fn who_asks_and_who_may_serve_is_part_of_the_key_and_words_do_not_run_together() {
    let body = plain().to_string();
    let inbound = Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes());
    let inspected = inspect(&inbound).unwrap();
    let key = |among: &[&str], class: &[&str]| {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let circle = Circle { among: words(among), class: words(class) };
        cache_key(&inbound, &inspected, &circle, false).unwrap()
    };
    let mut keys = vec![
        key(&["a"], &["hybrid"]),
        key(&["b"], &["hybrid"]),
        key(&["a"], &["cost"]),
        key(&["a", "hybrid"], &[]),
        key(&[], &["a", "hybrid"]),
        key(&["ahybrid"], &[]),
        key(&["a", ""], &["hybrid"]),
    ];
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 7);
}

#[test]
fn only_the_likeliest_answer_is_kept_in_every_dialect() {
    let sampled = Err(Uncacheable::Sampled);
    for temperature in [json!(1), json!(0.1), json!(1e-9), Value::Null] {
        assert_eq!(chat(&with("temperature", temperature.clone())), sampled, "{temperature}");
    }
    let anthropic = |more: &str| {
        let body = format!(
            "{{\"model\":\"m\",\"max_tokens\":5,\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{more}}}"
        );
        key_of(Dialect::Anthropic, Operation::Chat, &body)
    };
    assert_eq!(anthropic(""), sampled);
    assert!(anthropic(",\"temperature\":0").is_ok());
    let gemini = |config: &str| {
        let body = format!("{{\"contents\":[{{\"parts\":[{{\"text\":\"hi\"}}]}}]{config}}}");
        key_of(Dialect::Gemini, Operation::Chat, &body)
    };
    assert_eq!(gemini(""), sampled);
    assert_eq!(gemini(",\"temperature\":0"), sampled);
    assert!(gemini(",\"generationConfig\":{\"temperature\":0.0}").is_ok());
    assert!(gemini(",\"generation_config\":{\"temperature\":0}").is_ok());
    assert!(key_of(Dialect::OpenAi, Operation::Embedding, "{\"model\":\"m\",\"input\":\"hi\"}").is_ok());
    let count = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
    assert_eq!(key_of(Dialect::Anthropic, Operation::CountTokens, count), Err(Uncacheable::Free));

    let body = with("temperature", json!(1)).to_string();
    let inbound = Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes());
    assert!(cache_key(&inbound, &inspect(&inbound).unwrap(), &circle(), true).is_ok(), "opted in");
}

#[test]
fn what_a_provider_does_besides_answering_is_never_given_again() {
    let effects = Err(Uncacheable::Effects);
    for (name, value) in [
        ("store", json!(true)),
        ("web_search_options", json!({"search_context_size": "low"})),
        ("mcp_servers", json!([{"url": "https://x"}])),
        ("tools", json!([{"type": "web_search_20250305", "name": "web_search"}])),
        ("tools", json!([{"type": "function", "function": {"name": "f"}}, {"type": "code_interpreter"}])),
        ("tools", json!([{"googleSearch": {}}])),
    ] {
        assert_eq!(chat(&with(name, value.clone())), effects, "{name} {value}");
    }
    for tools in [
        json!([]),
        json!([{"type": "function", "function": {"name": "f"}}]),
        json!([{"name": "f", "input_schema": {}}]),
        json!([{"type": "custom", "name": "f"}]),
        json!([{"functionDeclarations": [{"name": "f"}]}]),
    ] {
        assert!(chat(&with("tools", tools.clone())).is_ok(), "{tools}");
    }
}

#[test]
fn the_order_of_a_schemas_properties_is_part_of_its_meaning_and_no_other_order_is() {
    let of = |text: &str| key_of(Dialect::OpenAi, Operation::Chat, text).unwrap();
    let body = |schema: &str| {
        format!(
            "{{\"temperature\":0,\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"response_format\":{{\"type\":\"json_schema\",\"json_schema\":{schema}}}}}"
        )
    };
    let one =
        of(&body("{\"name\":\"s\",\"schema\":{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}}}}"));
    assert_eq!(
        of(&body("{\"schema\":{\"properties\":{\"a\":{},\"b\":{}},\"type\":\"object\"},\"name\":\"s\"}")),
        one
    );
    assert_ne!(
        of(&body("{\"name\":\"s\",\"schema\":{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{}}}}")),
        one
    );
}

#[test]
fn a_key_that_is_there_twice_has_no_meaning() {
    let body = "{\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":\"hi\",\"name\":\"a\",\"name\":\"b\"}]}";
    let inbound = Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes());
    assert_eq!(cache_key(&inbound, &Inspected::default(), &circle(), false), Err(Uncacheable::Ambiguous));
    assert_eq!(fingerprint(&inbound), fingerprint(&inbound), "and is still known again");
}

/// Any JSON of a few levels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1_000_000_i64..1_000_000).prop_map(|n| json!(n as f64 / 64.0)),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The same value written otherwise: white space, order of members, escapes, numbers.
fn otherwise(value: &Value, rng: &mut impl FnMut() -> u32, ordered: bool, out: &mut String) {
    let blank = |rng: &mut dyn FnMut() -> u32, out: &mut String| {
        out.push_str(["", " ", "\n", "\t "][rng() as usize % 4]);
    };
    blank(rng, out);
    match value {
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            if !ordered {
                let turn = rng() as usize % members.len().max(1);
                members.rotate_left(turn);
                if rng().is_multiple_of(2) {
                    members.reverse();
                }
            }
            out.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                blank(rng, out);
                escaped(name, rng, out);
                out.push(':');
                otherwise(value, rng, name == "properties", out);
            }
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                otherwise(value, rng, false, out);
            }
            out.push(']');
        }
        Value::String(text) => escaped(text, rng, out),
        Value::Number(number) => match (number.as_i64(), rng() % 3) {
            (Some(whole), 0) => out.push_str(&format!("{whole}.00")),
            (Some(whole), 1) if whole != 0 => out.push_str(&format!("{whole}0E-1")),
            _ => out.push_str(&number.to_string()),
        },
        other => out.push_str(&other.to_string()),
    }
    blank(rng, out);
}

fn escaped(text: &str, rng: &mut impl FnMut() -> u32, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if c < ' ' || c == '"' || c == '\\' || rng().is_multiple_of(4) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04X}"));
            }
        } else {
            out.push(c);
        }
    }
    out.push('"');
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equal_meaning_gives_equal_keys(extra in any_json(), content in ".{0,20}", seed in any::<u32>()) {
        let mut body = plain();
        body["messages"][0]["content"] = content.into();
        body["extra"] = extra;
        let mut state = seed | 1;
        let mut rng = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        let mut text = String::new();
        otherwise(&body, &mut rng, false, &mut text);
        let (inbound, other) = (body.to_string(), text);
        prop_assert_eq!(
            key_of(Dialect::OpenAi, Operation::Chat, &inbound).unwrap(),
            key_of(Dialect::OpenAi, Operation::Chat, &other).unwrap(),
            "{}\n{}", inbound, other
        );
        let print = |text: &str| fingerprint(&Inbound::new(Dialect::OpenAi, Operation::Chat, text.as_bytes()));
        prop_assert_eq!(print(&inbound), print(&other));
    }

    #[test]
    fn another_value_anywhere_gives_another_key(one in any_json(), other in any_json()) {
        let body = |value: &Value| with("extra", Value::Object(Map::from_iter([("v".to_owned(), value.clone())])));
        let keys = [chat(&body(&one)).unwrap(), chat(&body(&other)).unwrap()];
        let same = numbers_as_floats(&one) == numbers_as_floats(&other);
        prop_assert_eq!(keys[0] == keys[1], same, "{} {}", one, other);
    }
}

/// `1` and `1.0` are one number, which `serde_json` takes for two.
fn numbers_as_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => canonical::number(&number.to_string()).into(),
        Value::Array(values) => values.iter().map(numbers_as_floats).collect(),
        Value::Object(members) => {
            // Sorted, and marked so that no string is taken for a number.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.as_str());
            Value::Object(members.into_iter().map(|(k, v)| (k.clone(), numbers_as_floats(v))).collect())
        }
        Value::String(text) => format!("s{text}").into(),
        other => other.clone(),
    }
}
