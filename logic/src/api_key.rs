//! The form of an API key and what is stored of it.
//!
//! A key reads `lr-ID-SECRET`: eight characters that name it and 32 that are secret, each one of 32
//! letters and digits, so 160 random bits. Stored is its HMAC-SHA256 under a secret of the server: a
//! stolen file of keys opens nothing and, without that secret, cannot even be searched by guessing.

use crate::ids::KeyId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// What every key of ours starts with.
const PREFIX: &str = "lr-";
/// Digits and lower-case letters without the four that are easily misread.
const ALPHABET: [u8; 32] = *b"23456789abcdefghijkmnpqrstuvwxyz";
const ID_CHARS: usize = 8;
const SECRET_CHARS: usize = 32;
/// Random bytes a new key takes, one per character.
pub const RANDOM_BYTES: usize = ID_CHARS + SECRET_CHARS;

/// A key's keyed hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The hash of `key` under the server's `secret`.
    pub fn of(secret: &[u8], key: &[u8]) -> Self {
        // HMAC takes a secret of any length.
        match Hmac::<Sha256>::new_from_slice(secret) {
            Ok(mac) => Self(mac.chain_update(key).finalize().into_bytes().into()),
            Err(_) => Self([0; 32]),
        }
    }

    /// The hash from 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .bytes()
            .map(|byte| match byte {
                b'0'..=b'9' => Some(byte - b'0'),
                b'a'..=b'f' => Some(byte - b'a' + 10),
                _ => None,
            })
            .collect::<Option<_>>()?;
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Some(Self(bytes))
    }

    /// What names it among routers: 64 bits that follow from it and that it does not follow from.
    pub fn tag(&self) -> u64 {
        let digest = Sha256::new().chain_update(b"llm-router revoked key\n").chain_update(self.0).finalize();
        digest.iter().take(8).fold(0, |tag, byte| tag << 8 | u64::from(*byte))
    }

    /// Its bytes, for a comparison in constant time.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

/// A new key from `random` bytes: its id and its whole text, which is shown once and never stored.
pub fn new_key(random: &[u8; RANDOM_BYTES]) -> (KeyId, String) {
    // 256 is a multiple of 32: every character is equally likely.
    let text: String = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    let (id, secret) = text.split_at(ID_CHARS);
    (KeyId::new(id), format!("{PREFIX}{id}-{secret}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_has_160_secret_bits_and_names_itself() {
        let mut random = [0_u8; RANDOM_BYTES];
        random.iter_mut().enumerate().for_each(|(at, byte)| *byte = u8::try_from(at * 7 % 256).unwrap());
        let (id, key) = new_key(&random);
        let parts: Vec<&str> = key.split('-').collect();
        assert_eq!(parts[0], "lr");
        assert_eq!(parts[1], id.as_str());
        assert_eq!(parts[2].len() * 5, 160);
        let (_, other) = new_key(&random.map(|byte| byte ^ 1));
        assert_ne!(key, other);
    }

    #[test]
    fn the_hash_depends_on_key_and_secret_and_survives_its_text() {
        let digest = Digest::of(b"secret", b"lr-a-b");
        assert_ne!(digest, Digest::of(b"secret", b"lr-a-c"));
        assert_ne!(digest, Digest::of(b"other", b"lr-a-b"));
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        // The first test case of RFC 4231.
        let rfc = Digest::of(&[0x0b; 20], b"Hi There");
        assert!(rfc.to_string().starts_with("b0344c61d8db38535ca8afceaf0bf12b"), "{rfc}");
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in ["", "zz", &"0".repeat(63), &"0".repeat(66), &"A".repeat(64), &"é".repeat(32)] {
            assert_eq!(Digest::from_hex(text), None, "{text}");
        }
    }
}
