//! The sections about who may ask: `auth` and `tenants`.

use super::Check;
use super::address::is_loopback_host;
use crate::config::file::{AuthFile, AuthKeysFile, FixedKeyFile, ServerFile, TenantFile};
use crate::config::path::Path;
use crate::config::settings::{Access, FixedKey, Grant, Keys, Tenant};
use llm_router_logic::ids::{KeyId, TenantId};
use llm_router_logic::route::Strategy;
use llm_router_logic::tenant::Allowed;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;

/// The fewest characters of a secret that cannot be guessed: 128 bits at eight bits each.
const SECRET_CHARS_MIN: usize = 16;
/// Tenant of a fixed key that names none.
const DEFAULT_TENANT: &str = "default";

impl Check<'_> {
    pub(super) fn access(
        &mut self,
        auth: Option<AuthFile>,
        tenants: Option<Vec<Option<TenantFile>>>,
        server: Option<&ServerFile>,
    ) -> Access {
        let at = Path::default().key("auth");
        let host = server.and_then(|server| server.host.as_deref());
        let is_public = host.is_some_and(|host| !is_loopback_host(host));
        let keys = match auth {
            Some(AuthFile::Keys(file)) => self.keys(&at, file),
            Some(AuthFile::None) => {
                if is_public {
                    self.findings.warning(
                        &at,
                        "`none`: whoever reaches this address can spend your money (put a gateway before it)",
                    );
                }
                None
            }
            None => {
                if let Some(host) = host.filter(|_| is_public) {
                    self.findings.problem(
                        &at,
                        format!(
                            "missing: `server.host` `{host}` is not loopback, and clients would need no key (give \
                             `auth.keysFile` or `auth.keys`, or say `auth: none`)"
                        ),
                    );
                }
                None
            }
        };
        Access { keys, tenants: self.tenants(tenants.unwrap_or_default()) }
    }

    fn keys(&mut self, at: &Path, file: AuthKeysFile) -> Option<Keys> {
        let secret_at = at.key("secret");
        let read_well = ["keysFile", "keys"].iter().all(|key| self.findings.sound(&at.key(key)));
        if read_well && file.keys_file.is_none() && file.keys.is_none() {
            self.findings.problem(at, "names no key (give `keysFile` or `keys`, or say `auth: none`)");
        }
        let secret = self.long_secret(&secret_at, file.secret);
        if file.keys_file.is_some() && secret.is_none() {
            let what = "${LLM_ROUTER_AUTH_SECRET}";
            self.needed_by("keysFile", &secret_at, secret.as_ref(), what);
        }
        let keys_at = at.key("keys");
        let mut fixed: Vec<FixedKey> = Vec::new();
        for (index, key) in file.keys.unwrap_or_default().into_iter().enumerate() {
            let at = keys_at.index(index);
            let Some(key) = self.fixed_key(&at, key.unwrap_or_default()) else { continue };
            if fixed.iter().any(|other| other.id == key.id) {
                self.findings.problem(&at.key("id"), format!("two keys are named `{}`", key.id));
            }
            fixed.push(key);
        }
        let metrics_token = self.long_secret(&at.key("metricsToken"), file.metrics_token);
        Some(Keys {
            secret,
            file: file.keys_file.filter(|path| !path.is_empty()).map(|path| self.file_path(&path)),
            fixed,
            metrics_token,
            open_metrics: file.open_metrics.unwrap_or(false),
        })
    }

    fn fixed_key(&mut self, at: &Path, file: FixedKeyFile) -> Option<FixedKey> {
        let key_at = at.key("key");
        let tenant = self.name_or(&at.key("tenant"), file.tenant, DEFAULT_TENANT);
        let id = self.name_or(&at.key("id"), file.id, &tenant);
        let allowed = self.allowed(at, file.models, file.backends, file.strategies);
        let share = self.share(at, file.budget, file.limits);
        let key = self.required(&key_at, file.key, "${LLM_ROUTER_API_KEY}");
        let key = self.long_secret(&key_at, key)?;
        Some(FixedKey {
            id: KeyId::new(id),
            key,
            grant: Grant { tenant: TenantId::new(tenant), allowed, share },
        })
    }

    pub(super) fn long_secret(&mut self, at: &Path, secret: Option<SecretString>) -> Option<SecretString> {
        let secret = self.secret(at, secret)?;
        if secret.expose_secret().len() < SECRET_CHARS_MIN {
            self.findings.problem(
                at,
                format!(
                    "is too short to be safe: at least {SECRET_CHARS_MIN} characters (`openssl rand -hex 32`)"
                ),
            );
        }
        Some(secret)
    }

    fn tenants(&mut self, files: Vec<Option<TenantFile>>) -> Vec<Tenant> {
        let list_at = Path::default().key("tenants");
        let mut names = BTreeSet::new();
        let mut tenants = Vec::new();
        for (index, file) in files.into_iter().enumerate() {
            let at = list_at.index(index);
            let file = file.unwrap_or_default();
            let Some(name) = self.required(&at.key("name"), file.name, "team-a") else { continue };
            self.name(&at.key("name"), &name);
            if !names.insert(name.clone()) {
                self.findings.problem(&at.key("name"), format!("two tenants are named `{name}`"));
            }
            let allowed = self.allowed(&at, file.models, file.backends, file.strategies);
            let share = self.share(&at, file.budget, file.limits);
            tenants.push(Tenant { id: TenantId::new(name), allowed, share });
        }
        tenants
    }

    fn allowed(
        &mut self,
        at: &Path,
        models: Option<Vec<Option<String>>>,
        backends: Option<Vec<Option<String>>>,
        strategies: Option<Vec<Option<String>>>,
    ) -> Allowed {
        let mut patterns = |key: &str, list: Option<Vec<Option<String>>>| {
            let list = list?;
            Some(self.texts(&at.key(key), Some(list)).into_iter().map(|(_, text)| text).collect())
        };
        let (models, backends) = (patterns("models", models), patterns("backends", backends));
        let strategies = strategies.map(|list| {
            let mut known = Vec::new();
            for (at, word) in self.texts(&at.key("strategies"), Some(list)) {
                match word.parse::<Strategy>() {
                    Ok(strategy) => known.push(strategy),
                    Err(error) => self.findings.problem(&at, error.to_string()),
                }
            }
            known
        });
        Allowed { models, backends, strategies }
    }
}
