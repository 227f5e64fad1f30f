//! API keys: who they belong to, what they may do, and until when.
//!
//! Owns the [`Keyring`], an immutable set that requests look a key up in, and its making from the
//! configuration and the file of keys ([`file`]). A key's text is never stored, logged or compared: only its keyed hash is.

mod command;
pub mod file;
pub mod revocation;

pub use command::{KeysCommand, run};

use crate::config::{Access, Grant, Keys};
use file::{KeyFileError, Record};
use llm_router_logic::api_key::Digest;
use llm_router_logic::ids::{KeyId, TenantId};
use llm_router_logic::tenant::{Allowed, Principal, Rights};
use secrecy::ExposeSecret;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Why a key opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRefused {
    /// Nobody has it.
    Unknown,
    /// Its time has not come.
    NotYet,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl KeyRefused {
    /// One word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotYet => "not_yet",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Every key there is, by its hash.
#[derive(Default)]
pub struct Keyring {
    secret: Zeroizing<Vec<u8>>,
    by_digest: HashMap<Digest, Entry>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.len()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    digest: Digest,
    principal: Arc<Principal>,
    not_before: Option<u64>,
    expires: Option<u64>,
    revoked: bool,
}

impl Keyring {
    /// The keys of the configuration and of the file's `records`. `fallback_secret` is the secret of the
    /// hashes where the configuration has none: no file can hold hashes under it.
    pub fn new(access: &Access, records: &[Record], fallback_secret: &[u8]) -> Self {
        let Some(keys) = &access.keys else { return Self::default() };
        let secret = keys
            .secret
            .as_ref()
            .map_or_else(|| fallback_secret.to_vec(), |secret| secret.expose_secret().as_bytes().to_vec());
        let secret = Zeroizing::new(secret);
        let tenants: BTreeMap<&TenantId, &Allowed> =
            access.tenants.iter().map(|tenant| (&tenant.id, &tenant.allowed)).collect();
        let principal = |id: &KeyId, grant: &Grant| {
            let of_tenant = tenants.get(&grant.tenant).map(|allowed| (*allowed).clone());
            Arc::new(Principal {
                tenant: grant.tenant.clone(),
                key: Some(id.clone()),
                rights: Arc::new(Rights::new(of_tenant.into_iter().chain([grant.allowed.clone()]))),
            })
        };
        let mut by_digest = HashMap::new();
        for key in &keys.fixed {
            let digest = Digest::of(&secret, key.key.expose_secret().as_bytes());
            let principal = principal(&key.id, &key.grant);
            by_digest
                .insert(digest, Entry { digest, principal, not_before: None, expires: None, revoked: false });
        }
        for record in records {
            let entry = Entry {
                digest: record.digest,
                principal: principal(&record.id, &record.grant),
                not_before: record.not_before,
                expires: record.expires,
                revoked: record.revoked.is_some(),
            };
            by_digest.insert(record.digest, entry);
        }
        Self { secret, by_digest }
    }

    /// Closes the keys with these tags, whatever else is said of them.
    pub fn revoke(&mut self, tags: &BTreeSet<u64>) {
        self.by_digest.values_mut().for_each(|entry| entry.revoked |= tags.contains(&entry.digest.tag()));
    }

    /// Every key's tag and owner.
    pub fn tags(&self) -> impl Iterator<Item = (u64, &Principal)> {
        self.by_digest.values().map(|entry| (entry.digest.tag(), &*entry.principal))
    }

    /// How many keys there are, revoked and expired ones included.
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Who `key` belongs to at `now`, in Unix seconds. Whether a key is known cannot be told from the
    /// time this takes: what is looked up is a hash nobody without the server's secret can aim at.
    ///
    /// # Errors
    /// [`KeyRefused`] where it opens nothing.
    pub fn principal(&self, key: &[u8], now: u64) -> Result<&Arc<Principal>, KeyRefused> {
        let digest = Digest::of(&self.secret, key);
        let entry = self.by_digest.get(&digest).ok_or(KeyRefused::Unknown)?;
        if !bool::from(entry.digest.as_bytes().ct_eq(digest.as_bytes())) {
            return Err(KeyRefused::Unknown);
        }
        if entry.revoked {
            return Err(KeyRefused::Revoked);
        }
        if entry.not_before.is_some_and(|from| now < from) {
            return Err(KeyRefused::NotYet);
        }
        if entry.expires.is_some_and(|until| now >= until) {
            return Err(KeyRefused::Expired);
        }
        Ok(&entry.principal)
    }
}

/// Reads the file of keys that `keys` names; none where it names none.
///
/// # Errors
/// [`KeyFileError`] where the file is there and cannot be used; a file that is not there has no keys.
pub fn read(keys: &Keys) -> Result<Vec<Record>, KeyFileError> {
    match &keys.file {
        Some(path) => file::read(path),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
#[path = "keys/keys_test.rs"]
mod tests;
