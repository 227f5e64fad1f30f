use super::*;
use proptest::prelude::*;

const SECRET: &[u8] = b"test-secret";
const NOW: u64 = 1_700_000_000;
const BODY: &[u8] = br#"{"model":"tiny","messages":[]}"#;

fn verify(now: u64, timestamp: &str, signature: &str, auth_type: Option<&str>) -> Result<(), SignError> {
    verify_v1(SECRET, now, timestamp, signature, auth_type, "POST", "/v1/chat/completions", BODY)
}

/// Computed with Python's `hmac.new(secret, timestamp + method + path + body, hashlib.sha256)`.
#[test]
fn signatures_equal_those_computed_elsewhere() {
    assert_eq!(
        sign_v1(SECRET, NOW, "POST", "/v1/chat/completions", BODY),
        "c6320fa4a7cdd8af5e5a6e55fc8cec16a08cdcf1e98a1467dc85579d5755d663"
    );
    assert_eq!(
        sign_v1(b"", 0, "GET", "/health", b""),
        "6d0384e8a94847aa9604c1f3544053e273e789522a0b3114ec8ea3eec4ba64cb"
    );
    assert_eq!(
        sign_v1(&[b'k'; 200], NOW, "POST", "/v1/embeddings", "{\"input\":\"grüße\"}".as_bytes()),
        "1bb35c56c17b11fac8628e725fa5ee02e83e9880cd0110311cc6b497d7cae5c6"
    );
}

#[test]
fn the_window_is_three_hundred_seconds_either_way() {
    let signature = sign_v1(SECRET, NOW, "POST", "/v1/chat/completions", BODY);
    for now in [NOW - 300, NOW, NOW + 300] {
        assert_eq!(verify(now, "1700000000", &signature, Some("hmac-sha256")), Ok(()));
    }
    for now in [NOW - 301, NOW + 301, 0, u64::MAX] {
        assert_eq!(verify(now, "1700000000", &signature, None), Err(SignError::Stale));
    }
}

#[test]
fn each_malformed_part_has_its_own_error() {
    let good = sign_v1(SECRET, NOW, "POST", "/v1/chat/completions", BODY);
    assert_eq!(verify(NOW, "1700000000", &good, Some("bearer")), Err(SignError::AuthType));
    for timestamp in ["", "+1700000000", " 1700000000", "1700000000.0", "x", "99999999999999999999999"] {
        assert_eq!(verify(NOW, timestamp, &good, None), Err(SignError::Timestamp), "{timestamp:?}");
    }
    for signature in ["", "abc", &good.to_uppercase(), &good[1..], &format!("{good}0"), &"é".repeat(32)] {
        assert_eq!(
            verify(NOW, "1700000000", signature, None),
            Err(SignError::SignatureForm),
            "{signature:?}"
        );
    }
    assert_eq!(verify(NOW, "1700000000", &"0".repeat(64), None), Err(SignError::Mismatch));
    assert_eq!(verify(NOW, "01700000000", &good, None), Err(SignError::Mismatch));
}

#[test]
fn a_signature_passes_once_until_it_is_stale_by_itself() {
    let mut guard = ReplayGuard::new(10);
    let signature = sign_v1(SECRET, NOW, "POST", "/", b"");
    assert!(guard.first_use(&signature, NOW));
    assert!(!guard.first_use(&signature, NOW));
    assert!(!guard.first_use(&signature, NOW + 2 * WINDOW_SECS));
    assert_eq!(guard.len(), 1);
    let other = sign_v1(SECRET, NOW + 1, "POST", "/", b"");
    assert!(guard.first_use(&other, NOW + 2 * WINDOW_SECS + 1));
    assert_eq!(guard.len(), 1, "the first one is forgotten");
}

#[test]
fn a_full_guard_refuses_until_something_expires() {
    let mut guard = ReplayGuard::new(2);
    let signature = |n: u64| sign_v1(SECRET, n, "POST", "/", b"");
    assert!(guard.first_use(&signature(1), NOW));
    assert!(guard.first_use(&signature(2), NOW + 10));
    assert!(!guard.first_use(&signature(3), NOW + 20));
    assert!(!guard.first_use(&signature(1), NOW + 20), "what it holds stays refused");
    assert!(guard.first_use(&signature(3), NOW + 2 * WINDOW_SECS + 1));
    assert_eq!(guard.len(), 2);
}

#[test]
fn what_is_no_signature_is_not_remembered() {
    let mut guard = ReplayGuard::new(2);
    assert!(!guard.first_use("not hex", NOW));
    assert!(guard.is_empty());
}

proptest! {
    #[test]
    fn what_was_signed_verifies_and_any_change_does_not(
        secret in proptest::collection::vec(any::<u8>(), 0..80),
        body in proptest::collection::vec(any::<u8>(), 0..200),
        path in "/[a-z0-9/]{0,30}",
        flip in any::<prop::sample::Index>(),
    ) {
        let timestamp = NOW.to_string();
        let check = |secret: &[u8], path: &str, body: &[u8], signature: &str| {
            verify_v1(secret, NOW, &timestamp, signature, Some(AUTH_TYPE), "POST", path, body)
        };
        let signature = sign_v1(&secret, NOW, "POST", &path, &body);
        prop_assert_eq!(check(&secret, &path, &body, &signature), Ok(()));
        prop_assert_eq!(check(&secret, &format!("{path}x"), &body, &signature), Err(SignError::Mismatch));
        let mut changed = body.clone();
        changed.push(0);
        prop_assert_eq!(check(&secret, &path, &changed, &signature), Err(SignError::Mismatch));
        let mut forged = signature.clone().into_bytes();
        let at = flip.index(forged.len());
        forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
        let forged = String::from_utf8(forged).unwrap();
        prop_assert_eq!(check(&secret, &path, &body, &forged), Err(SignError::Mismatch));
    }

    #[test]
    fn no_header_makes_it_panic(timestamp in ".*", signature in ".*", auth_type in proptest::option::of(".*")) {
        prop_assert!(verify(NOW, &timestamp, &signature, auth_type.as_deref()).is_err());
    }

    #[test]
    fn a_guard_never_holds_more_than_its_bound(uses in proptest::collection::vec((0u64..50, 0u64..400), 0..200)) {
        let mut guard = ReplayGuard::new(8);
        let mut now = NOW;
        for (which, passed) in uses {
            now += passed;
            guard.first_use(&sign_v1(SECRET, which, "", "", b""), now);
            prop_assert!(guard.len() <= 8);
            prop_assert_eq!(guard.seen.len(), guard.by_expiry.len());
        }
    }
}
