//! What `llm_router_fuzz::hmac` promises, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| llm_router_fuzz::hmac::run(input));
