use super::*;
use serde_json::Value;

/// One event of each kind.
fn all() -> Vec<Told> {
    let backend = BackendId::new("gpu");
    vec![
        Told::Decision(Box::new(DecisionTold {
            id: "d-1".into(),
            unix_ms: 1,
            model: "m".into(),
            strategy: "hybrid",
            backend: Some(backend.clone()),
            backend_model: Some("m".into()),
            reason: Some("hybrid_cheapest"),
            outcome: "served",
            status: 200,
            attempts: vec![AttemptTold { backend: backend.clone(), model: "m".into(), failed: false }],
            ttft_ms: Some(10),
            duration_ms: 20,
            input_tokens: 3,
            output_tokens: 4,
            cost_usd: Some(Money::from_pico(1_000_000)),
            external_cost_usd: None,
        })),
        Told::BudgetWarning {
            scope: "tenant:a".into(),
            percent: 80,
            spent_usd: Money::from_pico(8),
            limit_usd: Money::from_pico(10),
            period_ends_unix: 1_800_000_000,
        },
        Told::Backend { backend: backend.clone(), health: Health::Unhealthy },
        Told::Backend { backend: backend.clone(), health: Health::Healthy },
        Told::Breaker { backend: backend.clone(), model: "m".into(), open: true, why: Some("5".into()) },
        Told::Breaker { backend: backend.clone(), model: "m".into(), open: false, why: None },
        Told::SpotNotice { backend: backend.clone(), at_unix_ms: 1_800_000_000_000 },
        Told::Wake { backend: backend.clone(), ready: false, ready_in_ms: 90_000 },
        Told::Wake { backend, ready: true, ready_in_ms: 0 },
        Told::KeyRevoked { key: KeyId::new("k1"), tenant: TenantId::new("a") },
    ]
}

fn event(told: Told, node: &str, draw: u64) -> Event {
    Event::new(told, (NodeId::new(node), Region::new("r")), "fleet", 1_700_000_000_123, [draw, draw])
}

#[test]
fn the_golden_signature_of_the_manual_is_ours() {
    let body = br#"{"version":1,"id":"evt_1"}"#;
    let signature = signature(b"a-secret-of-the-manual", 1_700_000_000, body);
    let manual = include_str!("../../docs/WEBHOOKS.md");
    assert!(manual.contains(&signature), "{signature}");
    assert!(manual.contains(&key_id(b"a-secret-of-the-manual")), "{}", key_id(b"a-secret-of-the-manual"));
}

#[test]
fn time_body_and_secret_are_all_signed() {
    let good = signature(b"s", 7, b"body");
    assert_eq!(good.len(), 64);
    for other in [signature(b"t", 7, b"body"), signature(b"s", 8, b"body"), signature(b"s", 7, b"bodY")] {
        assert_ne!(good, other);
    }
    // What joins the two cannot be moved into either.
    assert_ne!(signature(b"s", 1, b"2.x"), signature(b"s", 12, b".x"));
}

#[test]
fn every_kind_is_told_once_and_the_published_schema_knows_each_field() {
    let kinds: Vec<Kind> = all().iter().map(Told::kind).collect();
    assert_eq!(kinds, Kind::ALL);
    let schema: Value = serde_json::from_str(include_str!("../../docs/webhooks.schema.json")).unwrap();
    let keys = |value: &Value| -> Vec<String> {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    for told in all() {
        let event = event(told, "n", 1);
        let body: Value = serde_json::from_str(&event.body().unwrap()).unwrap();
        assert_eq!(keys(&schema["properties"]), keys(&body));
        assert_eq!(schema["properties"]["version"]["const"], body["version"]);
        let of_kind = &schema["$defs"][event.event];
        assert_eq!(keys(&of_kind["properties"]), keys(&body["data"]), "{}", event.event);
        assert_eq!(of_kind["required"].as_array().unwrap().len(), body["data"].as_object().unwrap().len());
    }
}

#[test]
fn what_every_router_of_a_fleet_tells_has_one_id_and_the_rest_its_own() {
    for told in all() {
        let shared = matches!(told.kind(), Kind::BudgetWarning | Kind::SpotNotice | Kind::KeyRevoked);
        let (one, other) = (event(told.clone(), "a", 1), event(told, "b", 2));
        assert_eq!(one.id == other.id, shared, "{}", one.event);
    }
    let mut ids = std::collections::BTreeSet::new();
    for (scope, percent, ends) in [("fleet", 50, 1), ("fleet", 80, 1), ("fleet", 50, 2), ("key:a", 50, 1)] {
        let told = Told::BudgetWarning {
            scope: scope.into(),
            percent,
            spent_usd: Money::from_pico(i128::from(percent)),
            limit_usd: Money::from_pico(100),
            period_ends_unix: ends,
        };
        assert!(ids.insert(event(told, "a", 1).id));
    }
}

#[test]
fn a_word_before_the_dot_means_all_that_share_it() {
    let meant = |word| Kind::ALL.into_iter().filter(|kind| kind.is_meant_by(word)).count();
    assert_eq!((meant("backend"), meant("backend.up"), meant("decision"), meant("back")), (2, 1, 1, 0));
}
