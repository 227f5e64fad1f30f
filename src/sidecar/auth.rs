//! Who may pass: HMAC v1 with a memory against replay.

use http::{HeaderMap, Method};
use llm_router_logic::sign::{
    AUTH_TYPE_HEADER, ReplayGuard, SIGNATURE_HEADER, SignError, TIMESTAMP_HEADER, verify_v1,
};
use secrecy::{ExposeSecret, SecretString};
use std::sync::{Mutex, PoisonError};

/// Signatures remembered: 300 requests/s over the ten minutes a signature can be valid, some 30 MB.
const SIGNATURES_MAX: usize = 200_000;

/// Verifies requests against one shared secret.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    secret: SecretString,
    seen: Mutex<ReplayGuard>,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the request is not signed: send `X-Timestamp`, `X-Signature` and `X-Auth-Type: hmac-sha256`")]
    Unsigned,
    #[error(transparent)]
    Wrong(#[from] SignError),
}

impl Denied {
    /// One word for the error's `code` and the metric label `why`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Wrong(SignError::AuthType | SignError::Timestamp | SignError::SignatureForm) => "malformed",
            Self::Wrong(SignError::Stale) => "stale",
            Self::Wrong(SignError::Mismatch) => "bad_signature",
            Self::Wrong(SignError::Replayed) => "replayed",
        }
    }
}

impl Gatekeeper {
    pub(crate) fn new(secret: SecretString) -> Self {
        Self { secret, seen: Mutex::new(ReplayGuard::new(SIGNATURES_MAX)) }
    }

    /// Lets a request pass or says why not. A GET or HEAD may come twice with one signature: it changes
    /// nothing, and routers that look in the same second send the very same one.
    pub(crate) fn verify(
        &self,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
        body: &[u8],
        now_unix: u64,
    ) -> Result<(), Denied> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(timestamp), Some(signature)) = (text(TIMESTAMP_HEADER), text(SIGNATURE_HEADER)) else {
            return Err(Denied::Unsigned);
        };
        let (secret, auth_type) = (self.secret.expose_secret().as_bytes(), text(AUTH_TYPE_HEADER));
        verify_v1(secret, now_unix, timestamp, signature, auth_type, method.as_str(), path, body)?;
        if method.is_safe() || self.is_first(signature, now_unix) {
            Ok(())
        } else {
            Err(SignError::Replayed.into())
        }
    }

    fn is_first(&self, signature: &str, now_unix: u64) -> bool {
        // A panic inside the guard would leave it complete or one signature short: still worth asking.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).first_use(signature, now_unix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_router_logic::sign::sign_v1;

    const NOW: u64 = 1_700_000_000;

    fn headers(timestamp: u64, method: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TIMESTAMP_HEADER, timestamp.into());
        let signature = sign_v1(b"secret", timestamp, method, "/p", b"body");
        headers.insert(SIGNATURE_HEADER, signature.parse().unwrap());
        headers
    }

    fn keeper() -> Gatekeeper {
        Gatekeeper::new("secret".into())
    }

    #[test]
    fn a_post_passes_once_and_a_get_again() {
        let keeper = keeper();
        let verify =
            |method: &Method| keeper.verify(&headers(NOW, method.as_str()), method, "/p", b"body", NOW);
        assert_eq!(verify(&Method::POST), Ok(()));
        assert_eq!(verify(&Method::POST).unwrap_err().label(), "replayed");
        assert_eq!(verify(&Method::GET), Ok(()));
        assert_eq!(verify(&Method::GET), Ok(()));
    }

    #[test]
    fn each_refusal_has_its_word() {
        let keeper = keeper();
        let label = |headers: &HeaderMap, body: &[u8]| {
            keeper.verify(headers, &Method::POST, "/p", body, NOW).unwrap_err().label()
        };
        assert_eq!(label(&HeaderMap::new(), b"body"), "unsigned");
        assert_eq!(label(&headers(NOW - 301, "POST"), b"body"), "stale");
        assert_eq!(label(&headers(NOW, "POST"), b"another body"), "bad_signature");
        let mut other_type = headers(NOW, "POST");
        other_type.insert(AUTH_TYPE_HEADER, "md5".parse().unwrap());
        assert_eq!(label(&other_type, b"body"), "malformed");
    }
}
