//! HMAC v2: as v1, but everything that names a request is signed, unambiguously, and each signature is of one
//! request only.
//!
//! Signed are eight lines, each ended by a line feed: the words `llm-router-hmac-v2`, method, path, query
//! (without `?`; empty where there is none), the lower-case hex SHA-256 of the raw body, timestamp, nonce and
//! key id. A signature is valid for five minutes around its timestamp; within them a [`ReplayGuard`] lets each
//! nonce of a key through once, whatever is asked with it.

use super::{MAC_BYTES, ReplayGuard, SignError, WINDOW_SECS, hex, keyed, unhex};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// The value of [`AUTH_TYPE_HEADER`](super::AUTH_TYPE_HEADER).
pub const AUTH_TYPE: &str = "hmac-sha256-v2";
/// Header with what makes the request unlike every other: 16 to 64 letters, digits, `-` and `_`.
pub const NONCE_HEADER: &str = "X-Nonce";
/// Header that says which secret signed: at most 64 letters, digits, `-`, `_` and `.`.
pub const KEY_ID_HEADER: &str = "X-Key-Id";
/// First of the signed lines.
const CONTEXT: &str = "llm-router-hmac-v2";
/// Digits of a key id that is derived from its secret.
const DERIVED_DIGITS: usize = 8;

/// What is signed of a request, as it stands in its head and body.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, in capitals.
    pub method: &'a str,
    /// The path as sent, still percent-encoded.
    pub path: &'a str,
    /// The query as sent, without its `?`; empty where there is none.
    pub query: &'a str,
    /// The raw body.
    pub body: &'a [u8],
}

/// The headers of a signature, as they were sent.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// `X-Timestamp`.
    pub timestamp: &'a str,
    /// `X-Nonce`.
    pub nonce: &'a str,
    /// `X-Key-Id`.
    pub key_id: &'a str,
    /// `X-Signature`.
    pub signature: &'a str,
}

/// The signature of a request: 64 lower-case hex digits.
pub fn sign(secret: &[u8], request: Request<'_>, timestamp: u64, nonce: &str, key_id: &str) -> String {
    hex(&mac(secret, request, &timestamp.to_string(), nonce, key_id).finalize().into_bytes())
}

/// Verifies a claim in constant time. `secret_of` gives the secret of a key id; two are known while one replaces
/// the other.
///
/// # Errors
/// [`SignError`]; [`SignError::Replayed`] never comes from here but from [`is_first`].
pub fn verify<'s>(
    secret_of: impl FnOnce(&str) -> Option<&'s [u8]>,
    now_unix: u64,
    claim: Claim<'_>,
    request: Request<'_>,
) -> Result<(), SignError> {
    let timestamp = super::timestamp(claim.timestamp)?;
    if !is_nonce(claim.nonce) {
        return Err(SignError::Nonce);
    }
    if !is_key_id(claim.key_id) {
        return Err(SignError::KeyIdForm);
    }
    let signature = unhex(claim.signature).ok_or(SignError::SignatureForm)?;
    if now_unix.abs_diff(timestamp) > WINDOW_SECS {
        return Err(SignError::Stale);
    }
    let secret = secret_of(claim.key_id).ok_or(SignError::UnknownKey)?;
    mac(secret, request, claim.timestamp, claim.nonce, claim.key_id)
        .verify_slice(&signature)
        .map_err(|_| SignError::Mismatch)
}

/// Whether a verified claim's nonce is used for the first time with its key; `seen` remembers it then.
pub fn is_first(seen: &mut ReplayGuard, claim: Claim<'_>, now_unix: u64) -> bool {
    let mut used = Sha256::new();
    for part in [claim.key_id, "\n", claim.nonce] {
        used.update(part);
    }
    seen.remember(used.finalize().into(), now_unix)
}

/// The key id of a secret for which none is configured: eight hex digits that both sides derive from it.
pub fn derived_key_id(secret: &[u8]) -> String {
    let mut mac = keyed(secret);
    mac.update(b"llm-router-hmac-key-id");
    let mut id = hex(&mac.finalize().into_bytes());
    id.truncate(DERIVED_DIGITS);
    id
}

/// Whether `text` may name a key.
pub fn is_key_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_nonce(text: &str) -> bool {
    (16..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn mac(secret: &[u8], request: Request<'_>, timestamp: &str, nonce: &str, key_id: &str) -> Hmac<Sha256> {
    let body: [u8; MAC_BYTES] = Sha256::digest(request.body).into();
    let mut mac = keyed(secret);
    // None of the parts can hold a line feed: of a head it would end the line, and the rest is of our alphabet.
    let lines = [CONTEXT, request.method, request.path, request.query, &hex(&body), timestamp, nonce, key_id];
    for line in lines {
        mac.update(line.as_bytes());
        mac.update(b"\n");
    }
    mac
}

#[cfg(test)]
#[path = "v2_tests.rs"]
mod tests;
