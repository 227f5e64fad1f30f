//! How a request to a cluster is signed, in either version.

use crate::config::HmacKey;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use llm_router_logic::sign;
use secrecy::{ExposeSecret, SecretString};
use std::time::{SystemTime, UNIX_EPOCH};

/// Adds the headers of HMAC v1, and returns the body that was signed.
pub(super) fn sign_v1(
    headers: &mut HeaderMap,
    secret: &SecretString,
    method: &Method,
    url: &str,
    mut body: Bytes,
    draw: u64,
) -> Bytes {
    // The path as sent upstream, without the query: the original's format.
    let (path, _) = target_of(url);
    if !body.is_empty() {
        body = made_unique(&body, draw);
    }
    let (secret, timestamp) = (secret.expose_secret().as_bytes(), unix_now());
    let signature = sign::sign_v1(secret, timestamp, method.as_str(), path, &body);
    headers.insert(sign::TIMESTAMP_HEADER, HeaderValue::from(timestamp));
    headers.insert(sign::AUTH_TYPE_HEADER, HeaderValue::from_static(sign::AUTH_TYPE));
    insert(headers, sign::SIGNATURE_HEADER, &signature);
    body
}

/// Adds the headers of HMAC v2; `draws` make the nonce.
pub(super) fn sign_v2(
    headers: &mut HeaderMap,
    key: &HmacKey,
    method: &Method,
    url: &str,
    body: &[u8],
    draws: [u64; 2],
) {
    let (path, query) = target_of(url);
    let nonce = format!("{:016x}{:016x}", draws[0], draws[1]);
    let (secret, timestamp) = (key.secret.expose_secret().as_bytes(), unix_now());
    let request = sign::v2::Request { method: method.as_str(), path, query, body };
    let signature = sign::v2::sign(secret, request, timestamp, &nonce, &key.id);
    headers.insert(sign::TIMESTAMP_HEADER, HeaderValue::from(timestamp));
    headers.insert(sign::AUTH_TYPE_HEADER, HeaderValue::from_static(sign::v2::AUTH_TYPE));
    insert(headers, sign::v2::NONCE_HEADER, &nonce);
    insert(headers, sign::v2::KEY_ID_HEADER, &key.id);
    insert(headers, sign::SIGNATURE_HEADER, &signature);
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // All of these are made of an alphabet that headers may have.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The JSON body followed by white space that spells `draw`.
///
/// HMAC v1 has no nonce: two equal requests in one second would carry one signature, and a verifier
/// that refuses replays, as our sidecar does, would refuse the second.
pub(super) fn made_unique(body: &[u8], draw: u64) -> Bytes {
    let mut unique = Vec::with_capacity(body.len() + u64::BITS as usize);
    unique.extend_from_slice(body);
    unique.extend((0..u64::BITS).map(|bit| if draw >> bit & 1 == 0 { b' ' } else { b'\t' }));
    unique.into()
}

/// Path and query of an absolute URL, the query without its `?`.
pub(super) fn target_of(url: &str) -> (&str, &str) {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let target = url[after_scheme..].find(['/', '?']).map_or("/", |at| &url[after_scheme + at..]);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (if path.is_empty() { "/" } else { path }, query)
}
