//! Headers of signed requests, of both versions: none makes a verifier panic, none that was not made with the secret
//! passes, and what was made with it passes.

use llm_router_logic::sign::{SignError, sign_v1, v2, verify_v1};

const SECRET: &[u8] = b"the shared secret";
const NOW: u64 = 1_700_000_000;

/// Holds one input against what the module promises: seven lines of a head, then the body.
pub fn run(input: &[u8]) {
    let mut parts = input.splitn(8, |byte| *byte == b'\n').map(String::from_utf8_lossy);
    let mut next = || parts.next().unwrap_or_default();
    let (timestamp, nonce, key_id, signature) = (next(), next(), next(), next());
    let (method, path, query, body) = (next(), next(), next(), next());
    let body = body.as_bytes();

    let verify = |timestamp: &str, signature: &str| {
        verify_v1(SECRET, NOW, timestamp, signature, Some("hmac-sha256"), &method, &path, body)
    };
    assert_ne!(verify(&timestamp, &signature), Ok(()), "v1 let a forged signature pass");
    let made = sign_v1(SECRET, NOW, &method, &path, body);
    assert_eq!(verify(&NOW.to_string(), &made), Ok(()));

    let request = v2::Request { method: &method, path: &path, query: &query, body };
    let claim = v2::Claim { timestamp: &timestamp, nonce: &nonce, key_id: &key_id, signature: &signature };
    let forged = v2::verify(|_| Some(SECRET), NOW, claim, request);
    assert!(forged.is_err(), "v2 let a forged signature pass");
    let made = v2::sign(SECRET, request, NOW, &nonce, &key_id);
    let claim = v2::Claim { timestamp: "1700000000", signature: &made, ..claim };
    match v2::verify(|_| Some(SECRET), NOW, claim, request) {
        Ok(()) => assert_eq!(v2::verify(|_| None, NOW, claim, request), Err(SignError::UnknownKey)),
        Err(refused) => assert!(matches!(refused, SignError::Nonce | SignError::KeyIdForm), "{refused}"),
    }
}
