//! What clients send: no body makes `inspect` or `encode` panic, for any dialect, operation and backend,
//! and what is sent upstream is whole JSON that names the backend's own model.

use super::Choice;
use llm_router_logic::backend::Kind;
use llm_router_logic::wire::{Dialect, Inbound, encode, inspect};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

const MODEL: &str = "models-own-name";

/// Holds one input against what the module promises.
pub fn run(input: &[u8]) {
    let Some((choice, body)) = Choice::split(input) else { return };
    let inbound = if choice.dialect == Dialect::Gemini {
        Inbound::gemini(choice.operation, body, "asked", choice.client_streams, !choice.extra)
    } else {
        Inbound::new(choice.dialect, choice.operation, body)
    };
    let inspected = match inspect(&inbound) {
        Ok(inspected) => inspected,
        Err(refused) => {
            assert!((400..500).contains(&refused.status), "a body is the client's mistake: {refused:?}");
            return;
        }
    };
    assert!(inspected.text_bytes <= body.len().saturating_mul(3), "more text than there are bytes");
    match encode(&inbound, &inspected, choice.kind, MODEL) {
        Ok(encoded) => {
            assert!(encoded.path.starts_with('/'), "{}", encoded.path);
            // Values by their grammar only: what passes through is not ours to judge.
            let sent: BTreeMap<String, &RawValue> =
                serde_json::from_slice(&encoded.body).expect("what is sent is a JSON object");
            if choice.kind == Kind::Gemini {
                assert!(encoded.path.contains(MODEL), "{}", encoded.path);
            } else {
                assert_eq!(sent["model"].get(), format!("\"{MODEL}\""));
            }
            if let Some(echo) = encoded.echo {
                serde_json::from_str::<Value>(&echo).expect("what is echoed is JSON");
            }
        }
        Err(refused) => {
            assert!((400..600).contains(&refused.status), "{refused:?}");
            assert!(!refused.message.is_empty());
        }
    }
}
