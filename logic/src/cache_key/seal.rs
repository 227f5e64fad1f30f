//! How an answer is kept where others can write too: under a name that tells nothing, sealed to its key.
//!
//! Both are HMAC-SHA256 with a secret of the routers. A value is the version, the seal over key and payload, and
//! the payload; one that was changed, forged, cut, moved to another key or written by another version does not
//! open.

use super::Digest256;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The first byte of a value.
const VERSION: u8 = 1;
const SEAL_BYTES: usize = 32;
/// What a sealed value has besides its payload, in bytes.
pub const SEALED_EXTRA: usize = 1 + SEAL_BYTES;

/// Seals and opens values.
#[derive(Clone)]
pub struct Seal(Hmac<Sha256>);

impl Seal {
    /// Under `secret`.
    pub fn new(secret: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    fn mac(&self, what: &[u8], key: &Digest256) -> Hmac<Sha256> {
        self.0.clone().chain_update(what).chain_update(key)
    }

    /// The name of `key`, in hex: without the secret it cannot be told from a request.
    pub fn name(&self, key: &Digest256) -> String {
        let name = self.mac(b"name", key).finalize().into_bytes();
        name.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `payload` sealed to `key`.
    pub fn close(&self, key: &Digest256, payload: &[u8]) -> Vec<u8> {
        let seal =
            self.mac(b"value", key).chain_update([VERSION]).chain_update(payload).finalize().into_bytes();
        let mut value = Vec::with_capacity(SEALED_EXTRA + payload.len());
        value.push(VERSION);
        value.extend_from_slice(&seal);
        value.extend_from_slice(payload);
        value
    }

    /// The payload of a value that was sealed to `key`.
    pub fn open<'v>(&self, key: &Digest256, value: &'v [u8]) -> Option<&'v [u8]> {
        let (version, rest) = value.split_first()?;
        let (seal, payload) = rest.split_at_checked(SEAL_BYTES)?;
        let mac = self.mac(b"value", key).chain_update([*version]).chain_update(payload);
        (*version == VERSION && mac.verify_slice(seal).is_ok()).then_some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_opens_with_its_own_key_and_secret_alone() {
        let seal = Seal::new(b"a secret of the tests").unwrap();
        let value = seal.close(&[1; 32], b"hello");
        assert_eq!(seal.open(&[1; 32], &value), Some(&b"hello"[..]));
        assert_eq!(seal.open(&[2; 32], &value), None, "moved to another key");
        let other = Seal::new(b"another secret").unwrap();
        assert_eq!(other.open(&[1; 32], &value), None);
        assert_ne!(other.name(&[1; 32]), seal.name(&[1; 32]));
        assert_eq!(seal.name(&[1; 32]).len(), 64);
        assert_eq!(seal.open(&[1; 32], b""), None);
    }

    proptest! {
        #[test]
        fn whatever_is_changed_does_not_open(
            payload in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let seal = Seal::new(b"a secret of the tests").unwrap();
            let key = [7; 32];
            let value = seal.close(&key, &payload);
            let mut changed = value.clone();
            changed[at.index(value.len())] ^= 1 << bit;
            prop_assert_eq!(seal.open(&key, &changed), None);
            prop_assert_eq!(seal.open(&key, &value[..at.index(value.len())]), None);
        }
    }
}
