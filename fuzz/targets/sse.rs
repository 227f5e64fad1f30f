//! What `llm_router_fuzz::sse` promises, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| llm_router_fuzz::sse::run(input));
