use super::*;

#[test]
fn the_signed_path_is_the_one_sent_upstream_without_its_query() {
    assert_eq!(path_of("http://127.0.0.1:1/llm/v1/chat/completions"), "/llm/v1/chat/completions");
    assert_eq!(
        path_of("https://h/v1beta/models/m:streamGenerateContent?alt=sse"),
        "/v1beta/models/m:streamGenerateContent"
    );
    assert_eq!(path_of("http://h"), "/");
}

#[test]
fn retry_after_takes_seconds_and_ignores_what_is_no_wait() {
    let with = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        retry_after(&headers)
    };
    assert_eq!(with("7"), Some(Duration::from_secs(7)));
    assert_eq!(with("0.5"), Some(Duration::from_millis(500)));
    assert_eq!(with("-1"), None);
    assert_eq!(with("NaN"), None);
    assert_eq!(with("1e30"), Some(Duration::from_secs(86_400)));
    assert_eq!(retry_after(&HeaderMap::new()), None);
}

#[test]
fn a_key_header_is_marked_sensitive() {
    let key = SecretString::from("sk-very-secret");
    for kind in [Kind::OpenAi, Kind::Anthropic, Kind::Gemini, Kind::Llama] {
        let (_, value) = api_key_header(kind, &key);
        assert!(!format!("{value:?}").contains("very-secret"));
    }
}

#[test]
fn a_nonce_of_blanks_tells_equal_bodies_apart_and_changes_no_json() {
    let nonce = |draw| blank_nonce(draw).collect::<Vec<u8>>();
    let draws = [0, 1, 2, 1 << 63, u64::MAX];
    let nonces: std::collections::BTreeSet<_> = draws.into_iter().map(nonce).collect();
    assert_eq!(nonces.len(), draws.len());
    for blanks in nonces {
        let body = [br#"{"a":" "}"#.as_slice(), &blanks].concat();
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read, serde_json::json!({"a": " "}));
    }
}
