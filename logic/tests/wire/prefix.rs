//! How a prompt begins, in every dialect.

use llm_router_logic::wire::{Dialect, Inbound, Operation, PREFIX_BYTES, inspect};
use serde_json::{Value, json};

fn of(dialect: Dialect, operation: Operation, body: &Value) -> Option<u64> {
    let body = body.to_string();
    inspect(&Inbound::new(dialect, operation, body.as_bytes())).unwrap().prefix.hash()
}

fn chat(messages: &Value) -> Option<u64> {
    of(Dialect::OpenAi, Operation::Chat, &json!({"model": "m", "messages": messages}))
}

#[test]
fn a_long_system_prompt_is_what_requests_have_in_common() {
    let system = "You answer briefly. ".repeat(40);
    let ask = |question: &str| {
        chat(&json!([{"role": "system", "content": system}, {"role": "user", "content": question}]))
    };
    assert!(ask("one").is_some());
    assert_eq!(ask("one"), ask("two"));
    let other = system.replace("briefly", "at length");
    assert_ne!(
        ask("one"),
        chat(&json!([{"role": "system", "content": other}, {"role": "user", "content": "one"}]))
    );
    let late = format!("{}but politely", &system[..PREFIX_BYTES]);
    assert_eq!(
        ask("one"),
        chat(&json!([{"role": "system", "content": late}, {"role": "user", "content": "x"}]))
    );
}

#[test]
fn a_conversation_keeps_its_beginning_while_it_grows() {
    let first = json!([{"role": "user", "content": "Hello"}]);
    let later = json!([
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "How are you?"}
    ]);
    assert_eq!(chat(&first), chat(&later));
    assert_ne!(chat(&first), chat(&json!([{"role": "user", "content": "Goodbye"}])));
    assert_eq!(chat(&json!([{"role": "user", "content": []}])), None);
}

#[test]
fn every_dialect_has_a_beginning() {
    let text = "Once upon a time";
    let anthropic = |system: &str, ask: &str| {
        let body = json!({"model": "m", "max_tokens": 9, "system": system, "messages": [{"role": "user", "content": ask}]});
        of(Dialect::Anthropic, Operation::Chat, &body)
    };
    assert_eq!(anthropic(text, "a"), anthropic(text, "a"));
    assert_ne!(anthropic(text, "a"), anthropic("Never", "a"));
    let responses = |input: &str| {
        of(
            Dialect::OpenAi,
            Operation::Responses,
            &json!({"model": "m", "instructions": text, "input": input}),
        )
    };
    assert!(responses("a").is_some() && responses("a") != responses("b"));
    let completion =
        |prompt: &str| of(Dialect::OpenAi, Operation::Completion, &json!({"model": "m", "prompt": prompt}));
    assert!(completion(text).is_some() && completion(text) != completion("Twice"));
    let gemini = |ask: &str| {
        let body = json!({"systemInstruction": {"parts": [{"text": text}]}, "contents": [{"parts": [{"text": ask}]}]});
        let body = body.to_string();
        inspect(&Inbound::gemini(Operation::Chat, body.as_bytes(), "m", false, false)).unwrap().prefix.hash()
    };
    assert!(gemini("a").is_some() && gemini("a") != gemini("b"));
}
