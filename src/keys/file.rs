//! The file of keys: YAML or JSON, `{"keys": [{"id", "hash", "tenant", …}]}`.
//!
//! Owns its format, reading it whole or not at all, and writing it in one step, so that a running router
//! never sees half of it. It holds hashes only; it is still written for its owner alone.

use crate::config::{Budget, Grant, Share};
use jiff::Timestamp;
use llm_router_actors::quota::LimitSpec;
use llm_router_logic::api_key::Digest;
use llm_router_logic::ids::{KeyId, TenantId};
use llm_router_logic::route::Strategy;
use llm_router_logic::tenant::Allowed;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest file read: some 20,000 keys.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longest tenant name.
const TENANT_CHARS_MAX: usize = 64;

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be opened, read or written.
    #[error("cannot {0} `{1}`: {2}")]
    Io(&'static str, PathBuf, std::io::Error),
    /// It is not what it should be.
    #[error("`{0}` is no file of keys: {1}")]
    Format(PathBuf, String),
}

/// One key as the file has it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The part of the key that is no secret.
    pub id: KeyId,
    /// Its keyed hash.
    pub digest: Digest,
    /// Whose it is and what it may do.
    pub grant: Grant,
    /// Unix seconds before which it opens nothing.
    pub not_before: Option<u64>,
    /// Unix seconds from which on it opens nothing.
    pub expires: Option<u64>,
    /// Unix seconds at which it was revoked.
    pub revoked: Option<u64>,
}

/// The whole file as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Every key, oldest first.
    pub keys: Vec<KeyEntry>,
}

/// One key as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyEntry {
    /// The part of the key that is no secret.
    pub id: String,
    /// HMAC-SHA256 of the key under `auth.secret`, as 64 hex digits.
    pub hash: String,
    /// Who pays.
    pub tenant: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// It opens nothing before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// It opens nothing from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// The key it took the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Models it may use; absent = all its tenant may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Backends it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<String>>,
    /// Strategies it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategies: Option<Vec<Strategy>>,
    /// What it may spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetEntry>,
    /// How much it may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsEntry>,
}

/// A key's budget as it is written; the words are those of the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetEntry {
    /// USD per period.
    pub usd: f64,
    /// `day`, `week` or `month`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<String>,
    /// IANA name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// `soft` or `hard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// `external` or `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<String>,
}

impl BudgetEntry {
    /// The budget it means.
    ///
    /// # Errors
    /// The word that is wrong.
    pub fn budget(&self) -> Result<Budget, String> {
        let Self { usd, period, time_zone, mode, counts } = self;
        let words = [period, time_zone, mode, counts].map(Option::as_deref);
        Budget::read(*usd, words[0], words[1], words[2], words[3])
            .map_err(|(key, why)| format!("`budget.{key}` {why}"))
    }
}

/// A key's limits as they are written.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsEntry {
    /// Requests in any minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens in any minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
}

impl KeyEntry {
    /// Whether a router would take it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.record().map(drop)
    }

    fn record(&self) -> Result<Record, String> {
        let id = &self.id;
        let is_name = |text: &str| {
            (1..=TENANT_CHARS_MAX).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if !is_name(id) {
            return Err(format!("`{id}` is no key id"));
        }
        if !is_name(&self.tenant) {
            return Err(format!("key `{id}`: `{}` is no tenant name", self.tenant));
        }
        let digest = Digest::from_hex(&self.hash)
            .ok_or_else(|| format!("key `{id}`: `hash` is not 64 lower-case hex digits"))?;
        let budget = self.budget.as_ref().map(BudgetEntry::budget).transpose();
        let limits = self.limits.unwrap_or_default();
        let share = Share {
            budget: budget.map_err(|why| format!("key `{id}`: {why}"))?,
            limits: LimitSpec {
                requests_per_minute: limits.requests_per_minute,
                tokens_per_minute: limits.tokens_per_minute,
                concurrent: limits.max_concurrent,
            },
        };
        let seconds = |time: Option<Timestamp>| time.map(|time| u64::try_from(time.as_second()).unwrap_or(0));
        Ok(Record {
            id: KeyId::new(id),
            digest,
            grant: Grant {
                tenant: TenantId::new(&self.tenant),
                allowed: Allowed {
                    models: self.models.clone(),
                    backends: self.backends.clone(),
                    strategies: self.strategies.clone(),
                },
                share,
            },
            not_before: seconds(self.not_before),
            expires: seconds(self.expires),
            revoked: seconds(self.revoked),
        })
    }
}

/// The keys of the file at `path`; none where there is no file.
///
/// # Errors
/// Where it cannot be read or one entry is wrong: then none of its keys is used.
pub fn read(path: &Path) -> Result<Vec<Record>, KeyFileError> {
    let file = load(path)?;
    let wrong = |why| KeyFileError::Format(path.to_owned(), why);
    let records: Vec<Record> =
        file.keys.iter().map(KeyEntry::record).collect::<Result<_, _>>().map_err(wrong)?;
    let mut ids: Vec<&KeyId> = records.iter().map(|record| &record.id).collect();
    ids.sort();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(wrong(format!("two keys have the id `{}`", pair[0]))),
        None => Ok(records),
    }
}

/// The file at `path` as it is written; an empty one where there is none.
///
/// # Errors
/// Where it cannot be read.
pub fn load(path: &Path) -> Result<KeyFile, KeyFileError> {
    let failed = |error| KeyFileError::Io("read", path.to_owned(), error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(KeyFile::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    let wrong = |why: String| KeyFileError::Format(path.to_owned(), why);
    if text.len() as u64 > BYTES_MAX {
        return Err(wrong(format!("it is larger than {BYTES_MAX} bytes")));
    }
    if text.trim().is_empty() {
        return Ok(KeyFile::default());
    }
    serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// Reads the file at `path`, lets `change` change it and writes it back; nobody else does meanwhile.
///
/// # Errors
/// Where it cannot be read or written, or `change` refuses; the file is then as it was.
pub fn update<T, E: From<KeyFileError>>(
    path: &Path,
    change: impl FnOnce(&mut KeyFile) -> Result<T, E>,
) -> Result<T, E> {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let lock_path = beside(".lock");
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |error| KeyFileError::Io(what, path, error)
    };
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed("open", &lock_path))?;
    lock.lock().map_err(failed("lock", &lock_path))?;
    let mut file = load(path)?;
    let result = change(&mut file)?;
    let text = serde_json::to_string_pretty(&file)
        .map_err(|error| KeyFileError::Format(path.to_owned(), error.to_string()))?;
    let draft = beside(".draft");
    let write = || {
        let mut out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()?;
        std::fs::rename(&draft, path)
    };
    write().map_err(failed("write", path))?;
    Ok(result)
}
