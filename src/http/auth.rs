//! Who a client is: the key it carries, looked up before anything of its body is read.
//!
//! Owns where each dialect carries a key, the keyring in force, and what a client without a good key is
//! told. A key is never logged, never kept and never sent on.

use super::App;
use crate::config::{Access, Backend, Config, Quota};
use crate::keys::file::Record;
use crate::keys::revocation::Revocations;
use crate::keys::{self, KeyRefused, Keyring};
use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use llm_router_actors::Handle;
use llm_router_logic::fault::{ApiError, ErrorKind};
use llm_router_logic::gossip::fact::Topic;
use llm_router_logic::gossip::quota::Revoked;
use llm_router_logic::ids::TenantId;
use llm_router_logic::tenant::Principal;
use llm_router_logic::webhook::Told;
use llm_router_logic::wire::Dialect;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// The tenant of the page's playground, for who has its password.
pub(super) const PLAYGROUND: &str = "playground";
/// How often the file of keys is looked at.
const FILE_INTERVAL: Duration = Duration::from_millis(250);
/// Longest key looked up.
const KEY_BYTES_MAX: usize = 512;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// The keys a node accepts.
pub struct Auth {
    /// `None` = no key is asked for.
    ring: ArcSwap<Option<Keyring>>,
    settings: Mutex<Settings>,
    /// Secret of hashes that are in no file.
    own_secret: Zeroizing<[u8; 32]>,
    handle: Handle,
}

#[derive(Default)]
struct Settings {
    access: Access,
    quota: Quota,
    backends: Vec<Backend>,
    seen: Option<Stamp>,
    /// What was last read from the file of keys.
    records: Vec<Record>,
    revocations: Revocations,
    /// Keys whose revocation was noticed; `None` before the first reading, of which nothing is news.
    noticed: Option<BTreeSet<u64>>,
    /// Parts of the list of revoked keys that peers are told.
    told: usize,
}

/// What tells one version of the file of keys from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    target: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
}

impl Auth {
    /// The keys of `config`, its file of keys read, and the budgets and limits that follow from them told to the
    /// quota. `random` keys the hashes of keys that are in no file.
    pub fn new(config: &Config, random: [u64; 4], handle: Handle) -> Self {
        let mut own_secret = Zeroizing::new([0; 32]);
        for (bytes, word) in own_secret.chunks_exact_mut(8).zip(random) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let auth = Self {
            ring: ArcSwap::from_pointee(None),
            settings: Mutex::new(Settings::default()),
            own_secret,
            handle,
        };
        auth.reconfigure(config);
        auth
    }

    /// Takes over new settings, reading the file of keys again.
    pub fn reconfigure(&self, config: &Config) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        *settings = Settings {
            seen: stamp(&config.access),
            access: config.access.clone(),
            quota: config.quota.clone(),
            backends: config.backends.clone(),
            records: std::mem::take(&mut settings.records),
            revocations: std::mem::take(&mut settings.revocations),
            noticed: settings.noticed.take(),
            told: settings.told,
        };
        self.read(&mut settings);
    }

    /// Reads the file of keys again wherever it changed, and hears which keys peers know to be revoked, until
    /// `stop`.
    pub async fn follow_file(&self, stop: CancellationToken) {
        let mut changes = self.handle.facts().changes(Topic::Revoked);
        loop {
            self.hear();
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = changes.changed() => continue,
                () = tokio::time::sleep(FILE_INTERVAL) => {}
            }
            let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
            let now = stamp(&settings.access);
            // A file that is gone is being replaced, or was removed by mistake: its keys hold on.
            if now.is_some() && now != settings.seen {
                settings.seen = now;
                self.read(&mut settings);
            }
        }
    }

    /// Closes what peers, dead ones included, know to be revoked.
    fn hear(&self) {
        let heard = self.handle.facts().heard::<Revoked>();
        if heard.is_empty() {
            return;
        }
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let own: BTreeSet<u64> =
            self.ring.load().iter().flat_map(Keyring::tags).map(|(tag, _)| tag).collect();
        let told = heard.into_iter().flat_map(|heard| heard.fact.keys);
        if settings.revocations.hear(told, &own) {
            self.put_in_force(&mut settings);
        }
    }

    /// A file that cannot be used changes nothing; at the start there is nothing, so no key of it opens.
    fn read(&self, settings: &mut Settings) {
        let reads = &self.handle.metrics().key_file_reads_total;
        match settings.access.keys.as_ref().map_or(Ok(Vec::new()), keys::read) {
            Ok(records) => {
                settings.records = records;
                reads.with_label_values(&["read"]).inc();
            }
            Err(error) => {
                tracing::error!(%error, "cannot read the file of keys, the keys in force stay");
                reads.with_label_values(&["refused"]).inc();
            }
        }
        let Settings { records, revocations, .. } = settings;
        revocations.read(records);
        self.put_in_force(settings);
        let Settings { access, quota, backends, records, .. } = settings;
        self.handle.quotas().configure(crate::quota::spec(quota, access, records, backends));
    }

    /// Makes the keys anew, closes the revoked ones, and tells of them.
    fn put_in_force(&self, settings: &mut Settings) {
        let Settings { access, records, revocations, noticed, told, .. } = settings;
        let mut ring = access.keys.is_some().then(|| Keyring::new(access, records, &*self.own_secret));
        if let Some(ring) = &mut ring {
            ring.revoke(revocations.tags());
            tracing::info!(keys = ring.len(), "the keys in force");
            let closed = ring.tags().filter(|(tag, _)| revocations.tags().contains(tag));
            let mut now = BTreeSet::new();
            for (tag, principal) in closed {
                now.insert(tag);
                if noticed.as_ref().is_some_and(|noticed| !noticed.contains(&tag)) {
                    let (key, tenant) = (principal.key.clone().unwrap_or_default(), principal.tenant.clone());
                    tracing::warn!(%key, %tenant, "a key was revoked");
                    self.handle.webhooks().tell(Told::KeyRevoked { key, tenant });
                }
            }
            noticed.get_or_insert_default().extend(now);
        }
        self.ring.store(Arc::new(ring));
        // The keys are closed here before anybody hears of it. What is refused is counted there.
        let facts = self.handle.facts();
        let parts = revocations.told(records);
        for (nth, part) in parts.iter().enumerate() {
            let _ = facts.publish(&nth.to_string(), part);
        }
        (parts.len()..*told).for_each(|nth| facts.withdraw(Topic::Revoked, &nth.to_string()));
        *told = parts.len();
    }

    /// Whether clients must carry a key.
    pub fn is_on(&self) -> bool {
        self.ring.load().is_some()
    }

    /// Whether `headers` may read the figures of `/metrics` on the API listener.
    pub(super) fn may_read_metrics(&self, headers: &HeaderMap) -> bool {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(keys) = &settings.access.keys else { return true };
        keys.open_metrics || keys.metrics_token.as_ref().is_some_and(|token| carries(headers, token))
    }

    /// Who sent `headers`.
    ///
    /// # Errors
    /// 401, in words for the client.
    fn principal(&self, dialect: Dialect, headers: &HeaderMap) -> Result<Arc<Principal>, ApiError> {
        let ring = self.ring.load();
        let Some(ring) = ring.as_ref() else {
            return Ok(Arc::default());
        };
        let Some(key) = presented(dialect, headers) else {
            return Err(self.refuse("missing", format!("send your API key in {}", carrier(dialect))));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        ring.principal(key, now).cloned().map_err(|refused| {
            let why = match refused {
                KeyRefused::Unknown => "this API key is not known here",
                KeyRefused::NotYet => "this API key is not valid yet",
                KeyRefused::Expired => "this API key has expired: ask for a new one",
                KeyRefused::Revoked => "this API key was revoked: ask for a new one",
            };
            self.refuse(refused.label(), why.to_owned())
        })
    }

    /// Whose good key `headers` carry, where they carry one. Nothing is refused, nothing counted.
    pub(super) fn known(&self, dialect: Dialect, headers: &HeaderMap) -> Option<Arc<Principal>> {
        let (ring, key) = (self.ring.load(), presented(dialect, headers)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        ring.as_ref().as_ref()?.principal(key, now).ok().cloned()
    }

    fn refuse(&self, why: &str, text: String) -> ApiError {
        self.handle.metrics().auth_refused_total.with_label_values(&[why]).inc();
        ApiError::new(ErrorKind::Authentication, text).with_code("invalid_api_key")
    }
}

/// Who asks: the owner of the key in `headers`, or of a session of the page; on the demo's stage anybody.
///
/// # Errors
/// 401 where a key is asked for and there is no good one.
pub(super) fn client(app: &App, dialect: Dialect, headers: &HeaderMap) -> Result<Arc<Principal>, ApiError> {
    if app.staged {
        // The demo's visitors need no key; those that its own load carries tell its tenants apart.
        let known = app.auth.known(dialect, headers);
        return Ok(known.unwrap_or_else(|| Arc::new(Principal::of(TenantId::new(PLAYGROUND)))));
    }
    let has_session = || app.sessions.as_ref().is_some_and(|sessions| sessions.is_open(headers));
    if app.auth.is_on() && presented(dialect, headers).is_none() && has_session() {
        return Ok(Arc::new(Principal::of(TenantId::new(PLAYGROUND))));
    }
    app.auth.principal(dialect, headers)
}

/// Whether `headers` carry `token` as a bearer token.
pub(super) fn carries(headers: &HeaderMap, token: &SecretString) -> bool {
    bearer(headers).is_some_and(|given| given.ct_eq(token.expose_secret().as_bytes()).into())
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The key in `headers`, where the dialect's clients put it before anywhere else.
fn presented(dialect: Dialect, headers: &HeaderMap) -> Option<&[u8]> {
    let header = |name: &HeaderName| headers.get(name).map(|value| value.as_bytes().trim_ascii());
    let places = match dialect {
        Dialect::OpenAi => [bearer(headers), header(&X_API_KEY), header(&X_GOOG_API_KEY)],
        Dialect::Anthropic => [header(&X_API_KEY), bearer(headers), header(&X_GOOG_API_KEY)],
        Dialect::Gemini => [header(&X_GOOG_API_KEY), bearer(headers), header(&X_API_KEY)],
    };
    places.into_iter().flatten().find(|key| (1..=KEY_BYTES_MAX).contains(&key.len()))
}

fn carrier(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAi => "`Authorization: Bearer KEY`",
        Dialect::Anthropic => "`x-api-key: KEY` or `Authorization: Bearer KEY`",
        Dialect::Gemini => "`x-goog-api-key: KEY`",
    }
}

fn stamp(access: &Access) -> Option<Stamp> {
    let target = access.keys.as_ref()?.file.as_ref()?.canonicalize().ok()?;
    let metadata = target.metadata().ok()?;
    Some(Stamp { target, modified: metadata.modified().ok(), length: metadata.len() })
}
