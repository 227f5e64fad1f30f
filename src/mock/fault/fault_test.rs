use super::*;
use proptest::prelude::*;

const CHAT: Asked<'static> =
    Asked { path: "/v1/chat/completions", inference: true, model: Some("m"), body: br#"{"prompt":"boom"}"# };

fn pattern(faults: &Faults, requests: usize) -> Vec<bool> {
    (0..requests).map(|_| faults.choose(&CHAT).is_some()).collect()
}

fn rules(text: &str) -> Faults {
    Faults::parse(text).unwrap()
}

#[test]
fn every_action_can_be_written() {
    let faults = rules(
        r#"
seed: 7
rules:
  - match: {path: /v1/chat/*, model: m, contains: boom, nth: 2}
    times: 1
    probability: 0.5
    action: {status: {code: 500, retryAfter: 2, body: {a: 1}}}
  - action: hang
  - action: {slow: {ttft: 800ms, tokensPerSecond: 3}}
  - action: {cut: {afterTokens: 3}}
  - action: {cleanEnd: {afterTokens: 3}}
  - action: {stall: {afterTokens: 0}}
  - action: {wrongUsage: {factor: 2.5}}
  - action: {wrongUsage: {missing: true}}
  - action: {burst429: {count: 3, retryAfter: 1m}}
  - action: malformed
  - action: errorBody200
  - action: disconnect
  - action: unhealthy
"#,
    );
    assert_eq!(faults.seed, 7);
    assert_eq!(faults.rules.len(), 13);
    assert_eq!(faults.rules[2].action.twist().unwrap().ttft, Some(Duration::from_millis(800)));
    let again = Faults::from_value(serde_json::json!({"seed": 7, "rules": faults.rules})).unwrap();
    assert_eq!(again.rules, faults.rules, "what is shown can be sent back");
}

#[test]
fn json_and_bare_lists_are_read_too() {
    assert_eq!(rules(r#"[{"action": "hang"}]"#).rules.len(), 1);
    assert_eq!(rules(r#"{"rules": [{"action": {"status": {"code": 503}}}]}"#).rules.len(), 1);
    assert!(rules("rules: []").rules.is_empty());
}

#[test]
fn a_bad_value_is_named_with_its_path() {
    for (text, path, word) in [
        ("[{action: {cut: {afterTokens: x}}}]", "rules[0].action.cut.afterTokens", "u64"),
        ("[{action: {status: {code: 200}}}]", "rules[0].action.status.code", "400"),
        ("[{action: explode}]", "rules[0].action", "explode"),
        ("[{action: hang}, {action: hang, tims: 1}]", "rules[1]", "tims"),
        ("[{action: hang, match: {nth: 0}}]", "rules[0].match.nth", "1"),
        ("[{action: hang, probability: 1.5}]", "rules[0].probability", "between"),
        ("[{action: {wrongUsage: {}}}]", "rules[0].action.wrongUsage", "either"),
        ("[{action: {slow: {}}}]", "rules[0].action.slow", "ttft"),
        ("[{action: {slow: {ttft: soon}}}]", "rules[0].action.slow.ttft", "duration"),
    ] {
        let error = Faults::parse(text).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains(word), "{text}: {error}");
    }
    assert!(matches!(Faults::parse("[{"), Err(FaultsError::Syntax(_))));
    assert!(matches!(Faults::load(Path::new("/nowhere")), Err(FaultsError::Unreadable { .. })));
}

#[test]
fn nth_every_and_times_choose_the_right_requests() {
    let hits = |text: &str| {
        let seen = pattern(&rules(text), 6);
        seen.iter().enumerate().filter(|(_, hit)| **hit).map(|(n, _)| n + 1).collect::<Vec<_>>()
    };
    assert_eq!(hits("[{match: {nth: 3}, action: hang}]"), [3]);
    assert_eq!(hits("[{match: {every: 2}, action: hang}]"), [2, 4, 6]);
    assert_eq!(hits("[{times: 2, action: hang}]"), [1, 2]);
    assert_eq!(hits("[{match: {nth: 2}, action: {burst429: {count: 3}}}]"), [2, 3, 4]);
}

#[test]
fn only_matching_requests_are_hit() {
    assert!(rules("[{match: {model: other}, action: hang}]").choose(&CHAT).is_none());
    assert!(rules("[{match: {contains: boom}, action: hang}]").choose(&CHAT).is_some());
    assert!(rules("[{match: {contains: bang}, action: hang}]").choose(&CHAT).is_none());
    assert!(rules("[{match: {path: /v1/chat/completions}, action: hang}]").choose(&CHAT).is_some());
    assert!(rules("[{match: {path: /v1/*}, action: hang}]").choose(&CHAT).is_some());
    assert!(rules("[{match: {path: /v1}, action: hang}]").choose(&CHAT).is_none());
    let health = Asked { path: "/health", inference: false, model: None, body: b"" };
    assert!(rules("[{action: hang}]").choose(&health).is_none(), "probes are spared unless named");
    assert!(rules("[{action: unhealthy}]").choose(&health).is_some());
    assert!(rules("[{action: unhealthy}]").choose(&CHAT).is_none());
}

#[test]
fn the_first_rule_that_fires_wins() {
    let faults = rules("[{match: {nth: 2}, action: hang}, {action: malformed}]");
    assert_eq!(faults.choose(&CHAT), Some(Action::Malformed));
    assert_eq!(faults.choose(&CHAT), Some(Action::Hang));
}

proptest! {
    #[test]
    fn probability_follows_the_seed(seed in any::<u64>()) {
        let rule = Rule { r#match: Match::default(), times: None, probability: Some(0.3), action: Action::Hang };
        let one = pattern(&Faults::new(seed, vec![rule.clone()]).unwrap(), 2_000);
        let two = pattern(&Faults::new(seed, vec![rule]).unwrap(), 2_000);
        prop_assert_eq!(&one, &two);
        let share = one.iter().filter(|hit| **hit).count() as f64 / 2_000.0;
        prop_assert!((0.22..0.38).contains(&share), "{}", share);
    }
}
