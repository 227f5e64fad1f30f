//! HMAC v2 against its golden vector, changed requests, and replays.

use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_700_000_000;
const SECRET: &[u8] = b"correct horse battery staple";

fn request() -> Request<'static> {
    Request {
        method: "POST",
        path: "/v1/chat/completions",
        query: "trace=1&b=%20",
        body: br#"{"model":"tiny","messages":[]}"#,
    }
}

fn claim(signature: &str) -> Claim<'_> {
    Claim { timestamp: "1700000000", nonce: "0123456789abcdef0123456789abcdef", key_id: "2026-11", signature }
}

fn signature() -> String {
    sign(SECRET, request(), NOW, "0123456789abcdef0123456789abcdef", "2026-11")
}

fn check(claim: Claim<'_>, request: Request<'_>, now: u64) -> Result<(), SignError> {
    verify(|id| (id == "2026-11").then_some(SECRET), now, claim, request)
}

#[test]
fn the_golden_vector_holds() {
    let manual = include_str!("../../../docs/SIDECAR.md");
    assert!(manual.contains(&signature()), "docs/SIDECAR.md lacks {}", signature());
    assert!(manual.contains("correct horse battery staple"));
}

#[test]
fn every_signed_part_counts() {
    let signature = signature();
    let good = claim(&signature);
    assert_eq!(check(good, request(), NOW), Ok(()));
    for other in [
        Request { method: "PUT", ..request() },
        Request { path: "/v1/completions", ..request() },
        Request { query: "trace=2&b=%20", ..request() },
        Request { query: "", ..request() },
        Request { body: b"{}", ..request() },
        // What is one part cannot be moved into its neighbour.
        Request { path: "/v1/chat/completions\ntrace=1&b=%20", query: "", ..request() },
    ] {
        assert_eq!(check(good, other, NOW), Err(SignError::Mismatch), "{other:?}");
    }
    let again = Claim { nonce: "1123456789abcdef0123456789abcdef", ..good };
    assert_eq!(check(again, request(), NOW), Err(SignError::Mismatch));
    assert_eq!(check(Claim { timestamp: "1700000001", ..good }, request(), NOW), Err(SignError::Mismatch));
    assert_eq!(check(Claim { key_id: "2026-12", ..good }, request(), NOW), Err(SignError::UnknownKey));
    assert_eq!(verify(|_| Some(&b"other"[..]), NOW, good, request()), Err(SignError::Mismatch));
    assert_eq!(check(good, request(), NOW + WINDOW_SECS), Ok(()));
    assert_eq!(check(good, request(), NOW + WINDOW_SECS + 1), Err(SignError::Stale));
    assert_eq!(check(good, request(), NOW - WINDOW_SECS - 1), Err(SignError::Stale));
}

#[test]
fn what_has_the_wrong_form_is_named() {
    let signature = signature();
    let good = claim(&signature);
    let long = "x".repeat(65);
    for (bad, expected) in [
        (Claim { timestamp: "-1", ..good }, SignError::Timestamp),
        (Claim { timestamp: "+1700000000", ..good }, SignError::Timestamp),
        (Claim { timestamp: "99999999999999999999999", ..good }, SignError::Timestamp),
        (Claim { nonce: "short", ..good }, SignError::Nonce),
        (Claim { nonce: &long, ..good }, SignError::Nonce),
        (Claim { nonce: "0123456789abcdef\n", ..good }, SignError::Nonce),
        (Claim { key_id: "", ..good }, SignError::KeyIdForm),
        (Claim { key_id: "a b", ..good }, SignError::KeyIdForm),
        (Claim { signature: "00", ..good }, SignError::SignatureForm),
    ] {
        assert_eq!(check(bad, request(), NOW), Err(expected), "{bad:?}");
    }
}

#[test]
fn a_nonce_is_good_once_for_each_key_and_memory_is_bounded() {
    let mut seen = ReplayGuard::new(3);
    let signature = signature();
    let first = claim(&signature);
    assert!(is_first(&mut seen, first, NOW));
    assert!(!is_first(&mut seen, first, NOW + 10));
    assert!(is_first(&mut seen, Claim { key_id: "2026-12", ..first }, NOW));
    assert!(is_first(&mut seen, Claim { nonce: "another-nonce-0123", ..first }, NOW));
    assert!(!is_first(&mut seen, Claim { nonce: "one-more-nonce-0123", ..first }, NOW), "full means closed");
    assert_eq!(seen.len(), 3);
    // Once they are stale by themselves, they make room.
    assert!(is_first(&mut seen, Claim { nonce: "one-more-nonce-0123", ..first }, NOW + 2 * WINDOW_SECS + 1));
    assert_eq!(seen.len(), 1);
}

#[test]
fn a_derived_key_id_tells_secrets_apart_and_is_a_key_id() {
    let (one, other) = (derived_key_id(b"one"), derived_key_id(b"other"));
    assert_ne!(one, other);
    assert!(is_key_id(&one) && one.len() == 8);
    assert_eq!(one, derived_key_id(b"one"));
}

proptest! {
    #[test]
    fn only_the_same_request_under_the_same_secret_verifies(
        method in "[A-Z]{1,8}", path in "/[ -~]{0,40}", query in "[ -~]{0,40}",
        body in prop::collection::vec(any::<u8>(), 0..200), secret in prop::collection::vec(any::<u8>(), 1..80),
        flip in any::<prop::sample::Index>(),
    ) {
        let request = Request { method: &method, path: &path, query: &query, body: &body };
        let signature = sign(&secret, request, NOW, "nonce-nonce-nonce", "k");
        let claim = Claim { timestamp: "1700000000", nonce: "nonce-nonce-nonce", key_id: "k", signature: &signature };
        prop_assert_eq!(verify(|_| Some(&secret[..]), NOW, claim, request), Ok(()));
        if !body.is_empty() {
            let mut changed = body.clone();
            changed[flip.index(body.len())] ^= 1;
            let request = Request { body: &changed, ..request };
            prop_assert_eq!(verify(|_| Some(&secret[..]), NOW, claim, request), Err(SignError::Mismatch));
        }
    }

    #[test]
    fn no_headers_panic(timestamp in ".{0,30}", nonce in ".{0,70}", key_id in ".{0,70}", signature in ".{0,70}") {
        let claim = Claim { timestamp: &timestamp, nonce: &nonce, key_id: &key_id, signature: &signature };
        prop_assert!(verify(|_| Some(SECRET), NOW, claim, request()).is_err());
    }
}
