//! Mistakes put at every place of the samples, hostile files, and files at random.

use super::*;

#[test]
fn bombs_of_aliases_and_nesting_are_refused_in_time() {
    let mut aliases = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let last = level - 1;
        aliases += &format!(
            "b{level}: &a{level} [*a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}]\n"
        );
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(5_000));
    let deep = format!("a: {}1{}", "[".repeat(5_000), "]".repeat(5_000));
    for (what, text) in [("aliases", aliases), ("long", long), ("deep", deep)] {
        let started = std::time::Instant::now();
        let problem = only_problem(&text);
        assert!(
            problem.contains("limit exceeded") || problem.contains("too deeply nested"),
            "{what}: {problem}"
        );
        assert!(started.elapsed() < Duration::from_secs(20), "{what} took {:?}", started.elapsed());
    }
}

#[test]
fn more_wrong_values_than_can_be_told_still_end() {
    let text = format!("clusters: [{}]", "7, ".repeat(10_000));
    assert!(problems(&text, &empty).len() >= 100);
}

/// Calls `change` with every place in `tree` and what is there.
fn each_place(at: &path::Path, value: &Value, change: &mut impl FnMut(&path::Path, &Value)) {
    change(at, value);
    match value {
        Value::Object(keys) => keys.iter().for_each(|(key, value)| each_place(&at.key(key), value, change)),
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(index, value)| each_place(&at.index(index), value, change));
        }
        _ => {}
    }
}

/// The problems of `tree` with `value` put at `path`; JSON is YAML.
fn problems_with(tree: &Value, path: &path::Path, value: Value) -> Vec<String> {
    let mut tree = tree.clone();
    *path.find(&mut tree).unwrap() = value;
    problems(&tree.to_string(), &full)
}

#[test]
fn a_wrong_type_anywhere_is_reported_there_and_nowhere_else() {
    for text in [SEED, EXAMPLE] {
        let tree = tree::parse(text, &mut Findings::default()).unwrap();
        let mut places = 0;
        each_place(&path::Path::default(), &tree, &mut |at, value| {
            let is_name_of_model = at.to_string().contains("models[") && value.is_string();
            let switched_off = at.to_string().starts_with("externalProviders[2]");
            // Without an identity, gossip beyond loopback is a problem as well.
            let decides_on_others = at.to_string() == "gossip.identity";
            if at.steps().is_empty() || is_name_of_model || decides_on_others {
                return;
            }
            places += 1;
            let found = problems_with(&tree, at, serde_json::json!([[true]]));
            let expected = format!("{at}");
            let inside = |line: &String| line.starts_with(&expected);
            assert!(!found.is_empty() && found.iter().all(inside), "{at}: {found:#?}");
            if !value.is_array() && !switched_off {
                assert_eq!(found.len(), 1, "{at}: {found:#?}");
            }
        });
        assert!(places > 60, "{places}");
    }
}

#[test]
fn an_unknown_key_in_any_mapping_is_reported_there_and_nowhere_else() {
    for text in [SEED, EXAMPLE] {
        let tree = tree::parse(text, &mut Findings::default()).unwrap();
        each_place(&path::Path::default(), &tree, &mut |at, value| {
            if let Value::Object(keys) = value {
                let mut keys = keys.clone();
                keys.insert("qqqqqq".to_owned(), Value::Bool(true));
                let found = problems_with(&tree, at, Value::Object(keys));
                assert_eq!(found.len(), 1, "{at}: {found:#?}");
                assert!(
                    found[0].starts_with(&format!("{}: unknown key (known here: ", at.key("qqqqqq"))),
                    "{found:?}"
                );
            }
        });
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_loading_panic(text in "[a-z0-9:{}\\[\\]&*!|>'\"#%@,.$ \n-]{0,200}") {
        let _ = load_str(&text, Path::new("."), &empty);
        let _ = load_sidecar_str(&text, Path::new("."), &empty);
    }

    #[test]
    fn no_value_anywhere_makes_loading_panic(place in 0_usize..200, text in "\\PC{0,40}", number in proptest::num::f64::ANY) {
        let tree = tree::parse(EXAMPLE, &mut Findings::default()).unwrap();
        let mut places = Vec::new();
        each_place(&path::Path::default(), &tree, &mut |at, _| places.push(at.clone()));
        let at = &places[place % places.len()];
        for value in [Value::from(text.clone()), Value::from(number), Value::from(i64::MIN), Value::Null] {
            let _ = problems_with(&tree, at, value);
        }
    }
}
