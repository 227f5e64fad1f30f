//! What the key of a request costs: `cargo bench -p llm-router-logic --bench cache_key`.
//!
//! Aim: at most 20 µs for a request of 2 kB, which is what the response cache adds to one that takes part.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use llm_router_logic::cache_key::{Circle, cache_key, fingerprint};
use llm_router_logic::wire::{Dialect, Inbound, Operation, inspect};

/// Bytes of prompt text.
const SIZES: [usize; 3] = [200, 2_000, 100_000];

fn main() {
    divan::main();
}

/// A chat request with `bytes` of prompt in messages of some 500 bytes.
fn body(bytes: usize) -> String {
    let text = "tell me something about it ".repeat(18);
    let messages: Vec<String> = (0..bytes.div_ceil(500))
        .map(|nth| {
            format!("{{\"role\": \"user\", \"content\": \"{nth} {}\"}}", &text[..text.len().min(bytes)])
        })
        .collect();
    format!("{{\"model\": \"m\", \"temperature\": 0, \"messages\": [{}]}}", messages.join(", "))
}

#[divan::bench(args = SIZES)]
fn key(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = body(bytes);
    let inbound = Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes());
    let Ok(inspected) = inspect(&inbound) else { return };
    let circle =
        Circle { among: vec!["tenant".into(), "team".into(), "[]".into()], class: vec!["hybrid".into()] };
    bencher
        .counter(BytesCount::new(body.len()))
        .bench(|| cache_key(black_box(&inbound), &inspected, &circle, false));
}

#[divan::bench(args = SIZES)]
fn mark(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = body(bytes);
    let inbound = Inbound::new(Dialect::OpenAi, Operation::Chat, body.as_bytes());
    bencher.counter(BytesCount::new(body.len())).bench(|| fingerprint(black_box(&inbound)));
}
