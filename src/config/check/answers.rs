//! The sections on answers that are given again.

use super::Check;
use crate::config::file::{CacheFile, IdempotencyFile, RedisFile};
use crate::config::path::Path;
use crate::config::settings::{Cache, CacheScope, Idempotency, Redis};
use secrecy::ExposeSecret;
use std::time::Duration;

/// Longest key that may be configured: more than any header needs.
const KEY_BYTES_MAX: usize = 4096;
/// A shorter time would forget an answer before its client can ask again.
const TTL_LEAST: Duration = Duration::from_millis(1);

/// A shorter secret can be guessed.
const SECRET_CHARS_LEAST: usize = 16;
const LOOKUP: Duration = Duration::from_millis(3);
/// A timer has whole milliseconds.
const LOOKUP_LEAST: Duration = Duration::from_millis(1);
/// With the timer's own millisecond, 5 ms.
const LOOKUP_MOST: Duration = Duration::from_millis(4);
const CACHE_TTL: Duration = Duration::from_secs(5 * 60);
const CACHE_BYTES: usize = 256 * 1024 * 1024;
const CACHE_ENTRY_BYTES: usize = 1024 * 1024;

impl Check<'_> {
    pub(super) fn cache(&mut self, file: CacheFile) -> Option<Cache> {
        let at = Path::default().key("cache");
        let scope = match file.scope.as_deref() {
            None | Some("tenant") => CacheScope::Tenant,
            Some("key") => CacheScope::Key,
            Some("all") => CacheScope::All,
            Some(other) => {
                let why = format!("expected `tenant`, `key` or `all`, found `{other}`");
                self.findings.problem(&at.key("scope"), why);
                CacheScope::Tenant
            }
        };
        let settings = Cache {
            ttl: self.duration(&at.key("ttl"), file.ttl, CACHE_TTL, TTL_LEAST),
            max_bytes: self.bytes(&at.key("maxBytes"), file.max_bytes, CACHE_BYTES),
            max_entry_bytes: self.bytes(&at.key("maxEntryBytes"), file.max_entry_bytes, CACHE_ENTRY_BYTES),
            include_sampled: file.include_sampled.unwrap_or(false),
            scope,
            redis: file.redis.and_then(|redis| self.redis(&at.key("redis"), redis)),
        };
        if settings.max_entry_bytes > settings.max_bytes {
            self.findings.problem(
                &at.key("maxEntryBytes"),
                format!("is more than all may have together, `maxBytes` of `{}`", settings.max_bytes),
            );
        }
        file.enabled.unwrap_or(true).then_some(settings)
    }

    fn redis(&mut self, at: &Path, file: RedisFile) -> Option<Redis> {
        let url = self.required(&at.key("url"), file.url, "redis://127.0.0.1:6379/0");
        let url = url.filter(|url| {
            let good = redis::Client::open(url.expose_secret()).is_ok()
                && url.expose_secret().starts_with("redis://");
            if !good {
                self.findings.problem(
                    &at.key("url"),
                    "is no address of a Redis (for example `redis://:${REDIS_PASSWORD}@127.0.0.1:6379/0`)",
                );
            }
            good
        });
        let secret = self.secret(&at.key("secret"), file.secret);
        let secret = self.required(&at.key("secret"), secret, "${REDIS_SECRET}");
        if secret.as_ref().is_some_and(|secret| secret.expose_secret().len() < SECRET_CHARS_LEAST) {
            self.findings
                .problem(&at.key("secret"), format!("must have at least {SECRET_CHARS_LEAST} characters"));
        }
        let key_prefix = self.name_or(&at.key("keyPrefix"), file.key_prefix, "llm-router");
        let lookup_timeout =
            self.duration(&at.key("lookupTimeout"), file.lookup_timeout, LOOKUP, LOOKUP_LEAST);
        if lookup_timeout > LOOKUP_MOST {
            let why = format!("must be at most `{LOOKUP_MOST:?}`, is `{lookup_timeout:?}`");
            self.findings.problem(&at.key("lookupTimeout"), why);
        }
        Some(Redis { url: url?, secret: secret?, key_prefix, lookup_timeout })
    }

    pub(super) fn idempotency(&mut self, file: &IdempotencyFile) -> Idempotency {
        let at = Path::default().key("idempotency");
        let usual = Idempotency::default();
        let settings = Idempotency {
            ttl: self.duration(&at.key("ttl"), file.ttl, usual.ttl, TTL_LEAST),
            max_entries: self
                .count(&at.key("maxEntries"), file.max_entries)
                .map_or(usual.max_entries, |count| count as usize),
            max_bytes: self.bytes(&at.key("maxBytes"), file.max_bytes, usual.max_bytes),
            max_entry_bytes: self.bytes(
                &at.key("maxEntryBytes"),
                file.max_entry_bytes,
                usual.max_entry_bytes,
            ),
            max_key_bytes: self.bytes(&at.key("maxKeyBytes"), file.max_key_bytes, usual.max_key_bytes),
        };
        if settings.max_key_bytes > KEY_BYTES_MAX {
            let is = settings.max_key_bytes;
            self.findings
                .problem(&at.key("maxKeyBytes"), format!("must be at most {KEY_BYTES_MAX}, is `{is}`"));
        }
        settings
    }

    /// A size of at least one byte.
    fn bytes(&mut self, at: &Path, value: Option<usize>, default: usize) -> usize {
        if value == Some(0) {
            self.findings.problem(at, "must be at least 1 byte (leave the key out for the default)");
        }
        value.unwrap_or(default)
    }
}
