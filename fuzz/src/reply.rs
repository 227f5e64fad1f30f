//! What backends answer: no bytes make `Reply` panic, for any pair of dialects; any chunking gives the
//! client the same; and what the client is sent is whole events or whole JSON, also after a failure.

use super::Choice;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::wire::{Dialect, Exchange, Operation, Reply, ReplyError, sse};
use serde_json::value::RawValue;

fn answer(exchange: &Exchange, bytes: &[u8], piece: usize) -> (Vec<u8>, Option<ReplyError>) {
    let mut reply = Reply::new(exchange.clone());
    let mut out = Vec::new();
    let ended = bytes
        .chunks(piece.max(1))
        .try_for_each(|bytes| reply.push(bytes, &mut out))
        .and_then(|()| reply.finish(&mut out));
    let error = ended.err();
    if error.is_some() && !out.is_empty() {
        reply.fail(&ApiError::new(ErrorKind::Upstream, "the backend failed"), &mut out);
    }
    (out, error)
}

/// JSON by its grammar: half a surrogate pair that a backend escaped is passed on as it came.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok()
}

/// Fails where a client's SDK would: an event or a body that is no JSON.
fn check(exchange: &Exchange, out: &[u8]) {
    if out.is_empty() {
        return;
    }
    if !exchange.client_streams || exchange.json_array {
        assert!(is_json(out), "the client gets no JSON: {}", String::from_utf8_lossy(out));
        return;
    }
    let mut events = Vec::new();
    let mut reader = sse::Reader::default();
    reader.push(out, &mut events).expect("the client gets events of a bearable size");
    assert_eq!(reader.finish(), None, "the client's stream ends within an event");
    for event in events {
        assert!(
            event.data == "[DONE]" || is_json(event.data.as_bytes()),
            "the client gets an event that is no JSON: {}",
            event.data
        );
    }
}

/// Holds one input against what the module promises.
pub fn run(input: &[u8]) {
    let Some((choice, bytes)) = Choice::split(input) else { return };
    // Vectors and counts are never streamed.
    let streamable = !matches!(choice.operation, Operation::Embedding | Operation::CountTokens);
    let client_streams = choice.client_streams && streamable;
    let exchange = Exchange {
        dialect: choice.dialect,
        operation: choice.operation,
        client_streams,
        include_usage: choice.extra,
        kind: choice.kind,
        // A client's stream is always asked for as one.
        upstream_streams: (choice.upstream_streams || client_streams) && streamable,
        model: "asked".to_owned(),
        response_id: "r1".to_owned(),
        created: 1_700_000_000,
        json_array: choice.extra && client_streams && choice.dialect == Dialect::Gemini,
        echo: None,
    };
    let (out, error) = answer(&exchange, bytes, bytes.len());
    check(&exchange, &out);
    let pieces = answer(&exchange, bytes, choice.piece);
    assert_eq!(error, pieces.1, "{exchange:?}: in pieces of {} bytes", choice.piece);
    assert_eq!(
        String::from_utf8_lossy(&out),
        String::from_utf8_lossy(&pieces.0),
        "{exchange:?}: in pieces of {} bytes",
        choice.piece
    );
}
