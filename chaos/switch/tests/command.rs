//! The program as it is called.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_llm-router-chaos-switch")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn bad_usage_ends_with_64_and_says_how_to_call_it() {
    let (code, error) = run(&["--socket"]);
    assert_eq!(code, Some(64));
    assert!(error.starts_with("usage: "), "{error}");
}

#[test]
fn a_namespace_that_is_not_there_is_named() {
    let (code, error) = run(&["--socket", "unused", "--port", "a=/nowhere/a,wan0,10.77.1.0/24"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot make device `wan0` in `/nowhere/a`"), "{error}");
}
