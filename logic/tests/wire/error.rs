//! Errors across dialects.

use llm_router_logic::backend::Kind;
use llm_router_logic::fault::{ApiError, ErrorKind, Fault, UpstreamError};
use llm_router_logic::wire::{
    Dialect, Inbound, Operation, client_error, corrected_status, encode, encode_error, estimate_count,
    inspect, read_error,
};
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn the_error_of_every_upstream_is_read() {
    let read = |kind, body: Value| read_error(kind, body.to_string().as_bytes());
    let openai =
        read(Kind::OpenAi, json!({"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}));
    assert_eq!(
        openai,
        UpstreamError {
            kind: Some("t".into()),
            code: Some("c".into()),
            message: "m".into(),
            param: Some("p".into())
        }
    );
    let llama = read(
        Kind::Llama,
        json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
    );
    assert_eq!((llama.kind.as_deref(), llama.code.as_deref()), (Some("unavailable_error"), Some("503")));
    let anthropic = read(
        Kind::Anthropic,
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}),
    );
    assert_eq!((anthropic.kind.as_deref(), anthropic.message.as_str()), (Some("overloaded_error"), "m"));
    let gemini = json!({"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}});
    assert_eq!(read(Kind::Gemini, gemini.clone()).kind.as_deref(), Some("RESOURCE_EXHAUSTED"));
    assert_eq!(read(Kind::Gemini, json!([gemini])).message, "m");
    assert_eq!(read(Kind::OpenAi, json!({"error": "plain"})).message, "plain");
    assert_eq!(read(Kind::OpenAi, json!({"detail": "Not Found"})).message, "Not Found");
}

#[test]
fn a_body_that_is_no_error_object_becomes_bounded_text() {
    assert_eq!(read_error(Kind::OpenAi, b" <h1>Bad gateway</h1>\n").message, "<h1>Bad gateway</h1>");
    assert_eq!(read_error(Kind::OpenAi, b"").message, "");
    assert!(read_error(Kind::OpenAi, "é".repeat(90_000).as_bytes()).message.len() < 2100);
}

#[test]
fn every_dialect_has_its_own_error_shape() {
    let error = ApiError::new(ErrorKind::NotFound, "no `m`").with_code("model_not_found").with_param("model");
    let told = |dialect| serde_json::from_slice::<Value>(&encode_error(dialect, &error)).unwrap();
    assert_eq!(
        told(Dialect::OpenAi),
        json!({"error": {
            "message": "no `m`", "type": "invalid_request_error", "param": "model", "code": "model_not_found",
        }})
    );
    assert_eq!(
        told(Dialect::Anthropic),
        json!({"type": "error", "error": {"type": "not_found_error", "message": "no `m`"}, "request_id": null})
    );
    assert_eq!(
        told(Dialect::Gemini),
        json!({"error": {"code": 404, "message": "no `m`", "status": "NOT_FOUND"}})
    );
}

#[test]
fn faults_map_to_statuses_by_one_table() {
    let status = |status: u16| Fault::Status {
        status,
        retry_after: Some(Duration::from_secs(9)),
        error: UpstreamError { message: "m".into(), param: Some("p".into()), ..UpstreamError::default() },
    };
    for (from, to, kind) in [
        (400, 400, ErrorKind::InvalidRequest),
        (401, 401, ErrorKind::Authentication),
        (403, 403, ErrorKind::Permission),
        (404, 404, ErrorKind::NotFound),
        (413, 413, ErrorKind::TooLarge),
        (422, 422, ErrorKind::InvalidRequest),
        (429, 429, ErrorKind::RateLimit),
        (500, 502, ErrorKind::Upstream),
        (501, 400, ErrorKind::InvalidRequest),
        (503, 503, ErrorKind::Unavailable),
        (504, 504, ErrorKind::Timeout),
        (529, 503, ErrorKind::Unavailable),
    ] {
        let told = client_error(&status(from));
        assert_eq!((told.status, told.kind), (to, kind), "{from}");
        let waits = matches!(to, 429 | 503).then_some(Duration::from_secs(9));
        assert_eq!(told.retry_after, waits, "{from}");
        assert_eq!(told.param.as_deref(), Some("p"));
    }
    assert_eq!(client_error(&Fault::Connect("refused".into())).status, 502);
    assert_eq!(client_error(&Fault::Deadline).status, 504);
    assert_eq!(client_error(&Fault::IdleTimeout(Duration::from_secs(1))).status, 504);
    assert_eq!(client_error(&Fault::Broken("cut".into())).status, 502);
}

#[test]
fn a_feature_llama_lacks_is_not_taken_for_ill_health() {
    let error = |message: &str| UpstreamError { message: message.into(), ..UpstreamError::default() };
    let image = error("image input is not supported - hint: if this is unexpected, provide the mmproj");
    assert_eq!(corrected_status(Kind::Llama, 500, &image), 501);
    let syntax = error("[json.exception.parse_error.101] parse error at line 1");
    assert_eq!(corrected_status(Kind::Llama, 500, &syntax), 400);
    assert_eq!(corrected_status(Kind::Llama, 500, &error("out of memory")), 500);
    assert_eq!(corrected_status(Kind::OpenAi, 500, &image), 500);
}

#[test]
fn a_count_that_no_backend_can_give_is_estimated() {
    let body = br#"{"model":"m","messages":[{"role":"user","content":"twelve bytes"}]}"#;
    let inbound = Inbound::new(Dialect::Anthropic, Operation::CountTokens, body);
    let inspected = inspect(&inbound).unwrap();
    let refused = encode(&inbound, &inspected, Kind::OpenAi, "m").unwrap_err();
    let estimate = |operation, failure: &ApiError| estimate_count(operation, inspected.text_bytes, failure);
    assert_eq!(estimate(Operation::CountTokens, &refused).unwrap(), br#"{"input_tokens":3}"#);
    assert_eq!(estimate(Operation::Chat, &refused), None);
    let no_route = ApiError::new(ErrorKind::NotFound, "no such route");
    assert!(estimate(Operation::CountTokens, &no_route).is_some());
    assert_eq!(estimate(Operation::CountTokens, &no_route.with_code("model_not_found")), None);
}
