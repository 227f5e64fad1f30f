//! Who may pass: a signature of either version with a memory against replay, or a certificate that the listener
//! verified.

use crate::config::{HmacKey, SidecarAuth};
use crate::tls::Certified;
use http::request::Parts;
use llm_router_logic::sign::{
    AUTH_TYPE, AUTH_TYPE_HEADER, ReplayGuard, SIGNATURE_HEADER, SignError, TIMESTAMP_HEADER, v2, verify_v1,
};
use secrecy::ExposeSecret;
use std::sync::{Mutex, PoisonError};

/// Signatures remembered: 300 requests/s over the ten minutes a signature can be valid, some 30 MB.
const SIGNATURES_MAX: usize = 200_000;

/// Verifies requests.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    demand: Demand,
    seen: Mutex<ReplayGuard>,
}

#[derive(Debug)]
enum Demand {
    Certificate,
    Hmac { v1: bool, keys: Vec<HmacKey> },
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the request is not signed: send `X-Timestamp`, `X-Signature` and `X-Auth-Type`")]
    Unsigned,
    #[error("a client certificate is needed here (`authType: mtls` at the router)")]
    Uncertified,
    #[error(transparent)]
    Wrong(#[from] SignError),
}

impl Denied {
    /// One word for the error's `code` and the metric label `why`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Uncertified => "uncertified",
            Self::Wrong(SignError::Version) => "version",
            Self::Wrong(SignError::UnknownKey) => "unknown_key",
            Self::Wrong(SignError::Stale) => "stale",
            Self::Wrong(SignError::Mismatch) => "bad_signature",
            Self::Wrong(SignError::Replayed) => "replayed",
            Self::Wrong(
                SignError::AuthType
                | SignError::Timestamp
                | SignError::SignatureForm
                | SignError::Nonce
                | SignError::KeyIdForm,
            ) => "malformed",
        }
    }
}

impl Gatekeeper {
    /// `None` where nothing is demanded.
    pub(crate) fn new(auth: &SidecarAuth) -> Option<Self> {
        let demand = match auth {
            SidecarAuth::None => return None,
            SidecarAuth::Certificate => Demand::Certificate,
            SidecarAuth::Hmac { v1, keys } => Demand::Hmac { v1: *v1, keys: keys.clone() },
        };
        Some(Self { demand, seen: Mutex::new(ReplayGuard::new(SIGNATURES_MAX)) })
    }

    /// Turns away what shows nothing at all, before anything of its body is read.
    pub(crate) fn glance(&self, head: &Parts) -> Result<(), Denied> {
        let is_signed =
            || head.headers.contains_key(TIMESTAMP_HEADER) && head.headers.contains_key(SIGNATURE_HEADER);
        match self.demand {
            Demand::Certificate if head.extensions.get::<Certified>().is_none() => Err(Denied::Uncertified),
            Demand::Hmac { .. } if !is_signed() => Err(Denied::Unsigned),
            _ => Ok(()),
        }
    }

    /// Lets a request pass or says why not. Signed by v1, a GET or HEAD may come twice with one signature: it
    /// changes nothing, and routers that look in the same second send the very same one.
    pub(crate) fn verify(&self, head: &Parts, body: &[u8], now_unix: u64) -> Result<(), Denied> {
        let (v1, keys) = match &self.demand {
            Demand::Certificate if head.extensions.get::<Certified>().is_some() => return Ok(()),
            Demand::Certificate => return Err(Denied::Uncertified),
            Demand::Hmac { v1, keys } => (*v1, keys),
        };
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(timestamp), Some(signature)) = (text(TIMESTAMP_HEADER), text(SIGNATURE_HEADER)) else {
            return Err(Denied::Unsigned);
        };
        let (method, path) = (head.method.as_str(), head.uri.path());
        match text(AUTH_TYPE_HEADER) {
            Some(v2::AUTH_TYPE) => {
                let claim = v2::Claim {
                    timestamp,
                    nonce: text(v2::NONCE_HEADER).unwrap_or_default(),
                    key_id: text(v2::KEY_ID_HEADER).unwrap_or_default(),
                    signature,
                };
                let query = head.uri.query().unwrap_or_default();
                let request = v2::Request { method, path, query, body };
                let secret_of = |id: &str| {
                    keys.iter().find(|key| key.id == id).map(|key| key.secret.expose_secret().as_bytes())
                };
                v2::verify(secret_of, now_unix, claim, request)?;
                self.once(|seen| v2::is_first(seen, claim, now_unix))
            }
            None | Some(AUTH_TYPE) if !v1 => Err(SignError::Version.into()),
            auth_type => {
                // v1 names no key: each secret is tried, and the last one's refusal is told.
                let mut verified = Err(SignError::Mismatch);
                for key in keys {
                    let secret = key.secret.expose_secret().as_bytes();
                    verified =
                        verify_v1(secret, now_unix, timestamp, signature, auth_type, method, path, body);
                    if verified.is_ok() {
                        break;
                    }
                }
                verified?;
                if head.method.is_safe() {
                    return Ok(());
                }
                self.once(|seen| seen.first_use(signature, now_unix))
            }
        }
    }

    fn once(&self, is_first: impl FnOnce(&mut ReplayGuard) -> bool) -> Result<(), Denied> {
        // A panic inside the guard would leave it complete or one signature short: still worth asking.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if is_first(&mut seen) { Ok(()) } else { Err(SignError::Replayed.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request};
    use llm_router_logic::sign::sign_v1;

    const NOW: u64 = 1_700_000_000;

    fn keeper(v1: bool) -> Gatekeeper {
        let keys =
            ["secret", "before"].map(|secret| HmacKey::new(Some(format!("k-{secret}")), secret.into()));
        Gatekeeper::new(&SidecarAuth::Hmac { v1, keys: keys.into() }).unwrap()
    }

    fn head(method: &Method, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/p?a=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn v1(secret: &str, timestamp: u64, method: &Method) -> Parts {
        let signature = sign_v1(secret.as_bytes(), timestamp, method.as_str(), "/p", b"body");
        head(method, &[(TIMESTAMP_HEADER, &timestamp.to_string()), (SIGNATURE_HEADER, &signature)])
    }

    fn v2_of(secret: &str, key_id: &str, nonce: &str, body: &[u8]) -> Parts {
        let request = v2::Request { method: "GET", path: "/p", query: "a=1", body };
        let signature = v2::sign(secret.as_bytes(), request, NOW, nonce, key_id);
        head(
            &Method::GET,
            &[
                (TIMESTAMP_HEADER, &NOW.to_string()),
                (SIGNATURE_HEADER, &signature),
                (AUTH_TYPE_HEADER, v2::AUTH_TYPE),
                (v2::NONCE_HEADER, nonce),
                (v2::KEY_ID_HEADER, key_id),
            ],
        )
    }

    #[test]
    fn by_v1_a_post_passes_once_and_a_get_again_under_either_secret() {
        let keeper = keeper(true);
        for secret in ["secret", "before"] {
            let verify = |method: &Method| keeper.verify(&v1(secret, NOW, method), b"body", NOW);
            assert_eq!(verify(&Method::POST), Ok(()));
            assert_eq!(verify(&Method::POST).unwrap_err().label(), "replayed");
            assert_eq!(verify(&Method::GET), Ok(()));
            assert_eq!(verify(&Method::GET), Ok(()));
        }
    }

    #[test]
    fn by_v2_a_nonce_passes_once_whatever_comes_with_it() {
        let keeper = keeper(true);
        let label = |head: &Parts, body: &[u8]| keeper.verify(head, body, NOW).map_err(Denied::label);
        let first = v2_of("secret", "k-secret", "0123456789abcdef", b"");
        assert_eq!(label(&first, b""), Ok(()));
        assert_eq!(label(&first, b""), Err("replayed"));
        let same_nonce = v2_of("secret", "k-secret", "0123456789abcdef", b"other");
        assert_eq!(label(&same_nonce, b"other"), Err("replayed"));
        assert_eq!(label(&v2_of("before", "k-before", "0123456789abcdef", b""), b""), Ok(()));
        assert_eq!(label(&v2_of("before", "k-secret", "1123456789abcdef", b""), b""), Err("bad_signature"));
        assert_eq!(label(&v2_of("secret", "k-other", "2123456789abcdef", b""), b""), Err("unknown_key"));
        assert_eq!(label(&v2_of("secret", "k-secret", "short", b""), b""), Err("malformed"));
    }

    #[test]
    fn where_only_v2_will_do_v1_is_refused_by_name() {
        let keeper = keeper(false);
        let refused = keeper.verify(&v1("secret", NOW, &Method::POST), b"body", NOW).unwrap_err();
        assert_eq!(refused.label(), "version");
        assert!(refused.to_string().contains("hmac_v2"), "{refused}");
        let good = v2_of("secret", "k-secret", "0123456789abcdef", b"");
        assert_eq!(keeper.verify(&good, b"", NOW), Ok(()));
    }

    #[test]
    fn each_refusal_of_v1_has_its_word() {
        let keeper = keeper(true);
        let label = |head: &Parts, body: &[u8]| keeper.verify(head, body, NOW).unwrap_err().label();
        assert_eq!(label(&head(&Method::POST, &[]), b"body"), "unsigned");
        assert_eq!(label(&v1("secret", NOW - 301, &Method::POST), b"body"), "stale");
        assert_eq!(label(&v1("secret", NOW, &Method::POST), b"another body"), "bad_signature");
        let mut other_type = v1("secret", NOW, &Method::POST);
        other_type.headers.insert(AUTH_TYPE_HEADER, "md5".parse().unwrap());
        assert_eq!(label(&other_type, b"body"), "malformed");
    }

    #[test]
    fn a_certificate_is_what_the_listener_verified() {
        let keeper = Gatekeeper::new(&SidecarAuth::Certificate).unwrap();
        let mut head = v1("secret", NOW, &Method::POST);
        assert_eq!(keeper.verify(&head, b"body", NOW).unwrap_err().label(), "uncertified");
        head.extensions.insert(Certified { serial: "01".into() });
        assert_eq!(keeper.verify(&head, b"body", NOW), Ok(()));
        assert!(Gatekeeper::new(&SidecarAuth::None).is_none());
    }
}
