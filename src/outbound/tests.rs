use super::*;

#[test]
fn what_is_signed_is_the_target_sent_upstream() {
    let target_of = signing::target_of;
    assert_eq!(target_of("http://127.0.0.1:1/llm/v1/chat/completions"), ("/llm/v1/chat/completions", ""));
    assert_eq!(
        target_of("https://h/v1beta/models/m:streamGenerateContent?alt=sse"),
        ("/v1beta/models/m:streamGenerateContent", "alt=sse")
    );
    assert_eq!(target_of("http://h"), ("/", ""));
    assert_eq!(target_of("http://h?a=b"), ("/", "a=b"));
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
fn equal_signed_bodies_are_made_different_and_stay_the_same_json() {
    let body = br#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let (one, two) = (signing::made_unique(body, 1), signing::made_unique(body, u64::MAX));
    assert_ne!(one, two);
    let parse = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(parse(&one), parse(body));
    assert_eq!(parse(&two), parse(body));
}
