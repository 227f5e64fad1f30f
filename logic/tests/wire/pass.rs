//! Same dialect in and out: only what must change is changed, to the byte.

use llm_router_logic::backend::Kind;
use llm_router_logic::capability::{JSON, TOOLS, VISION};
use llm_router_logic::wire::{Dialect, Encoded, Inbound, Inspected, Operation, encode, inspect};

fn pass(dialect: Dialect, operation: Operation, kind: Kind, body: &str) -> (Inspected, Encoded) {
    let inbound = Inbound::new(dialect, operation, body.as_bytes());
    let inspected = inspect(&inbound).unwrap();
    let encoded = encode(&inbound, &inspected, kind, "new\"name").unwrap();
    (inspected, encoded)
}

fn body_of(dialect: Dialect, operation: Operation, kind: Kind, body: &str) -> String {
    String::from_utf8(pass(dialect, operation, kind, body).1.body).unwrap()
}

#[test]
fn a_plain_body_changes_in_its_model_only() {
    let body = "{ \"zz\" : [1.50, 1e3, -0] ,\n\"model\":\t\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"\\u00e9\\/\"}],\"x\":{\"b\":1,\"a\":2} }";
    let expected = body.replace("\"a\",\"messages", "\"new\\\"name\",\"messages");
    assert_eq!(body_of(Dialect::OpenAi, Operation::Chat, Kind::OpenAi, body), expected);
}

#[test]
fn a_body_that_names_no_model_gets_one() {
    let body = r#"{"input":"x"}"#;
    let expected = r#"{"model":"new\"name","input":"x"}"#;
    assert_eq!(body_of(Dialect::OpenAi, Operation::Embedding, Kind::Llama, body), expected);
}

#[test]
fn a_stream_asks_for_usage_and_keeps_other_options() {
    let messages = r#""messages":[{"role":"user","content":"x"}]"#;
    for (options, expected) in [
        ("", r#"{"stream_options":{"include_usage":true},"#),
        (r#""stream_options":null,"#, r#"{"stream_options":{"include_usage":true},"#),
        (r#""stream_options":{},"#, r#"{"stream_options":{"include_usage":true},"#),
        (
            r#""stream_options":{"include_obfuscation":false},"#,
            r#"{"stream_options":{"include_usage":true,"include_obfuscation":false},"#,
        ),
        (r#""stream_options":{"include_usage":false},"#, r#"{"stream_options":{"include_usage":true},"#),
        (r#""stream_options":{"include_usage":true },"#, r#"{"stream_options":{"include_usage":true },"#),
    ] {
        let body = format!(r#"{{{options}"model":"a","stream":true,{messages}}}"#);
        let passed = body_of(Dialect::OpenAi, Operation::Chat, Kind::OpenAi, &body);
        assert!(passed.starts_with(expected), "{options}: {passed}");
        assert!(passed.ends_with(&format!(r#""stream":true,{messages}}}"#)), "{passed}");
    }
}

#[test]
fn llama_is_always_asked_for_a_stream() {
    let body = r#"{"model":"a","stream":false,"prompt":"x"}"#;
    let (inspected, encoded) = pass(Dialect::OpenAi, Operation::Completion, Kind::Llama, body);
    assert!(!inspected.stream && encoded.streams);
    let passed = String::from_utf8(encoded.body).unwrap();
    assert_eq!(
        passed,
        r#"{"stream_options":{"include_usage":true},"model":"new\"name","stream":true,"prompt":"x"}"#
    );
}

#[test]
fn llama_embeddings_are_never_streamed() {
    let (_, encoded) = pass(Dialect::OpenAi, Operation::Embedding, Kind::Llama, r#"{"input":["a"]}"#);
    assert!(!encoded.streams && encoded.path == "/v1/embeddings");
}

#[test]
fn a_named_tool_choice_that_names_no_tool_is_refused_for_llama() {
    let body = r#"{"messages":[{"role":"user","content":"x"}],"tools":[],"tool_choice":{"type":"function","function":{"name":"f"}}}"#;
    let inbound = Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes());
    let error = encode(&inbound, &inspect(&inbound).unwrap(), Kind::Llama, "m").unwrap_err();
    assert_eq!((error.status, error.param.as_deref()), (400, Some("tool_choice")));
}

#[test]
fn an_anthropic_body_changes_in_its_model_only() {
    let body = r#"{"model":"a","max_tokens":1,"messages":[{"role":"user","content":"x"}],"new_field":1.0}"#;
    let passed = body_of(Dialect::Anthropic, Operation::Chat, Kind::Anthropic, body);
    assert_eq!(passed, body.replace("\"a\"", "\"new\\\"name\""));
}

#[test]
fn a_gemini_body_is_sent_as_it_came() {
    let body = r#"{"contents":[{"parts":[{"text":"x"}]}],"x":1.0}"#;
    let inbound = Inbound::gemini(Operation::Chat, body.as_bytes(), "models/a", true, false);
    let inspected = inspect(&inbound).unwrap();
    let encoded = encode(&inbound, &inspected, Kind::Gemini, "tuned/x y").unwrap();
    assert_eq!((inspected.model.as_deref(), inspected.stream), (Some("a"), true));
    assert_eq!(encoded.body, body.as_bytes());
    assert_eq!(encoded.path, "/v1beta/models/tuned%2Fx%20y:streamGenerateContent?alt=sse");
}

#[test]
fn what_a_request_needs_is_read_without_its_images() {
    let body = format!(
        r#"{{"model":"a","messages":[{{"role":"user","content":[{{"type":"text","text":"h\u00e9"}},
        {{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}],
        "tools":[{{"type":"function"}}],"response_format":{{"type":"json_object"}},"max_tokens":7.0,"user":"u"}}"#,
        "A".repeat(9000)
    );
    let inspected = inspect(&Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes())).unwrap();
    for need in [VISION, TOOLS, JSON] {
        assert!(inspected.needs.contains(need), "{need}");
    }
    assert_eq!(inspected.text_bytes, 3 + r#"[{"type":"function"}]"#.len());
    assert_eq!((inspected.max_output_tokens, inspected.session.as_deref()), (Some(7), Some("u")));
}

#[test]
fn a_broken_body_is_refused_before_any_backend_sees_it() {
    let deep = format!(
        r#"{{"messages":[{{"role":"user","content":"x"}}],"x":{}{}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    for (body, param) in [
        ("", None),
        ("[]", None),
        ("{\"model\":\"a\"", None),
        ("{\"model\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]} trailing", None),
        ("{\"model\":\"a\",\"model\":\"b\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", None),
        ("{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"content\":\"y\"}]}", Some("messages[0]")),
        ("{\"model\":{},\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", Some("model")),
        ("{\"messages\":{}}", Some("messages")),
        ("{\"messages\":[5]}", Some("messages[0]")),
        ("{\"max_tokens\":-1,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", Some("max_tokens")),
        (deep.as_str(), None),
    ] {
        let error = inspect(&Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes())).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, param), "{body:.80}");
    }
    let invalid = inspect(&Inbound::new(Dialect::OpenAi, Operation::Chat, b"{\"model\":\"\xFF\"}"));
    assert_eq!(invalid.unwrap_err().status, 400);
}
