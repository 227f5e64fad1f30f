//! HMAC: how a router signs requests towards a cluster and how a sidecar verifies them.
//!
//! Two versions stand side by side: v1 here, the format of the system this one replaces, and [`v2`], which signs more.
//!
//! Of v1 signed are, without separators: timestamp, method, URL path as sent upstream, raw body. The query
//! is not signed. A signature is valid for five minutes around its timestamp; within them a
//! [`ReplayGuard`] lets each signature through once.

pub mod v2;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::{BTreeSet, HashSet};

/// Header with the Unix time in seconds, decimal.
pub const TIMESTAMP_HEADER: &str = "X-Timestamp";
/// Header with the lower-case hex HMAC-SHA256.
pub const SIGNATURE_HEADER: &str = "X-Signature";
/// Header naming the scheme.
pub const AUTH_TYPE_HEADER: &str = "X-Auth-Type";
/// The value of [`AUTH_TYPE_HEADER`].
pub const AUTH_TYPE: &str = "hmac-sha256";
/// How far a timestamp may lie from the verifier's clock, in seconds, either way.
pub const WINDOW_SECS: u64 = 300;

/// Bytes of an HMAC-SHA256.
const MAC_BYTES: usize = 32;

/// Why a signed request is refused: always a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// `X-Auth-Type` is there and names something else.
    #[error("`X-Auth-Type` is neither `hmac-sha256` nor `hmac-sha256-v2`")]
    AuthType,
    /// `X-Auth-Type` names v1, or nothing, where v2 is demanded.
    #[error("HMAC v1 is not accepted here: sign with `hmac-sha256-v2` (`authType: hmac_v2` at the router)")]
    Version,
    /// `X-Nonce` is missing or has another form.
    #[error("`X-Nonce` is not 16 to 64 letters, digits, `-` and `_`")]
    Nonce,
    /// `X-Key-Id` is missing or has another form.
    #[error("`X-Key-Id` is not 1 to 64 letters, digits, `-`, `_` and `.`")]
    KeyIdForm,
    /// `X-Key-Id` names no secret known here.
    #[error("`X-Key-Id` names no secret known here; compare the shared secrets and `keyId`")]
    UnknownKey,
    /// `X-Timestamp` is not a decimal number of seconds.
    #[error("`X-Timestamp` is not a Unix time in seconds")]
    Timestamp,
    /// `X-Timestamp` is too far from this clock.
    #[error("`X-Timestamp` is more than 300 s away from this clock; compare the clocks of both machines")]
    Stale,
    /// `X-Signature` is not 64 lower-case hex digits.
    #[error("`X-Signature` is not 64 lower-case hex digits")]
    SignatureForm,
    /// The signature is not that of this request under this secret.
    #[error("`X-Signature` does not match the request; compare the shared secrets")]
    Mismatch,
    /// The signature was used before.
    #[error("`X-Signature` was used before")]
    Replayed,
}

/// The signature of a request: 64 lower-case hex digits.
pub fn sign_v1(secret: &[u8], timestamp: u64, method: &str, path: &str, body: &[u8]) -> String {
    hex(&mac_v1(secret, &timestamp.to_string(), method, path, body).finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0xf] {
            hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    hex
}

/// `X-Timestamp` in seconds.
fn timestamp(header: &str) -> Result<u64, SignError> {
    let decimal = !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit());
    header.parse().ok().filter(|_| decimal).ok_or(SignError::Timestamp)
}

/// Verifies a signature in constant time.
///
/// An absent `X-Auth-Type` is accepted: the scheme is then known from configuration.
///
/// # Errors
/// [`SignError`]; [`SignError::Replayed`] never comes from here but from the caller's [`ReplayGuard`].
#[expect(clippy::too_many_arguments, reason = "one argument for each signed or checked part of a request")]
pub fn verify_v1(
    secret: &[u8],
    now_unix: u64,
    timestamp_header: &str,
    signature_header: &str,
    auth_type_header: Option<&str>,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(), SignError> {
    if auth_type_header.is_some_and(|auth_type| auth_type != AUTH_TYPE) {
        return Err(SignError::AuthType);
    }
    let timestamp = timestamp(timestamp_header)?;
    if now_unix.abs_diff(timestamp) > WINDOW_SECS {
        return Err(SignError::Stale);
    }
    let signature = unhex(signature_header).ok_or(SignError::SignatureForm)?;
    // The header's own text is signed, so that `007` and `7` are different timestamps.
    mac_v1(secret, timestamp_header, method, path, body)
        .verify_slice(&signature)
        .map_err(|_| SignError::Mismatch)
}

fn mac_v1(secret: &[u8], timestamp: &str, method: &str, path: &str, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = keyed(secret);
    mac.update(timestamp.as_bytes());
    mac.update(method.as_bytes());
    mac.update(path.as_bytes());
    mac.update(body);
    mac
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length, the error type is a trait's")]
fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length")
}

fn unhex(text: &str) -> Option<[u8; MAC_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != MAC_BYTES * 2 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; MAC_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Remembers the signatures seen, each until it is stale by itself.
///
/// Bounded: when it is full of signatures that are not stale yet, a new one is refused (closed), since
/// forgetting one would open it to replay. The bound is the number of requests a verifier can take in
/// the time a signature stays valid.
#[derive(Clone, Debug)]
pub struct ReplayGuard {
    capacity: usize,
    seen: HashSet<[u8; MAC_BYTES]>,
    by_expiry: BTreeSet<(u64, [u8; MAC_BYTES])>,
}

impl ReplayGuard {
    /// A guard that remembers up to `capacity` signatures (about 150 bytes each).
    pub fn new(capacity: usize) -> Self {
        Self { capacity, seen: HashSet::new(), by_expiry: BTreeSet::new() }
    }

    /// Whether `signature`, already verified, is used for the first time; remembers it if so. `false`
    /// also when the guard is full or the signature is no signature.
    pub fn first_use(&mut self, signature: &str, now_unix: u64) -> bool {
        unhex(signature).is_some_and(|signature| self.remember(signature, now_unix))
    }

    /// The same of anything that stands for one request.
    fn remember(&mut self, signature: [u8; MAC_BYTES], now_unix: u64) -> bool {
        while let Some((expiry, oldest)) = self.by_expiry.first().copied() {
            if expiry >= now_unix {
                break;
            }
            self.by_expiry.pop_first();
            self.seen.remove(&oldest);
        }
        if self.seen.len() >= self.capacity || !self.seen.insert(signature) {
            return false;
        }
        // Its timestamp may lie up to one window ahead of now, and it stays valid one window past that.
        self.by_expiry.insert((now_unix.saturating_add(2 * WINDOW_SECS), signature));
        true
    }

    /// Signatures remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

#[cfg(test)]
#[path = "sign_tests.rs"]
mod tests;
