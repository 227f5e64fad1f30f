//! From the file's shape to settings: what is missing, out of range, contradictory or not honoured.
//!
//! Every check goes on after a problem, so that all of them are reported together. A setting made after
//! a problem was found is never used: it only lets the other checks run.

mod access;
mod address;
mod answers;
mod backend;
mod edge;
mod guard;
mod ledger;
mod lifecycle;
mod model;
mod network;
mod prices;
mod quota;
mod router;
mod sidecar;
mod simulation;
mod telemetry;
mod tls;
mod trial;
mod webhook;

use crate::config::Env;
use crate::config::duration::Span;
use crate::config::file::{File, SidecarFile};
use crate::config::path::Path;
use crate::config::problem::Findings;
use crate::config::settings::{Config, SidecarConfig};
use llm_router_logic::money::Money;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

/// Longest name of a backend or a node.
const NAME_CHARS_MAX: usize = 64;
/// Largest request body where the file does not say: 32 MiB, some pictures in one request.
const BODY_BYTES_DEFAULT: usize = 32 * 1024 * 1024;
/// Largest request body that may be configured.
const BODY_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Factor on the machine price for what the machine does besides serving.
const OVERHEAD_FACTOR_DEFAULT: f64 = 1.1;
/// Place and cloud of a node or backend that has none.
const LOCAL: &str = "local";

/// What the checks share.
pub(super) struct Check<'a> {
    findings: &'a mut Findings,
    /// Relative paths in the file start here.
    directory: &'a FilePath,
    env: &'a Env<'a>,
}

/// Checks a router node's file.
pub(super) fn config(file: File, directory: &FilePath, env: &Env<'_>, findings: &mut Findings) -> Config {
    Check { findings, directory, env }.config(file)
}

/// Checks a sidecar's section; `None` only where a problem was found.
pub(super) fn sidecar(
    file: Option<SidecarFile>,
    directory: &FilePath,
    env: &Env<'_>,
    findings: &mut Findings,
) -> Option<SidecarConfig> {
    Check { findings, directory, env }.sidecar(file)
}

impl Check<'_> {
    fn config(&mut self, file: File) -> Config {
        let root = Path::default();
        self.not_honoured(
            &root,
            &[
                ("metrics", file.metrics.is_some(), "`/metrics` is always served"),
                ("logging", file.logging.is_some(), "set `LOG_LEVEL` in the environment"),
                (
                    "costOptimization",
                    file.cost_optimization.is_some(),
                    "`router` holds the settings that decide on cost",
                ),
            ],
        );
        let named = file.node.as_ref().is_some_and(|node| node.name.is_some());
        let node = self.node(file.node);
        let heed_prices = file.gossip.as_ref().and_then(|gossip| gossip.heed_prices).unwrap_or(true);
        let heed_outages = file.gossip.as_ref().and_then(|gossip| gossip.heed_outages).unwrap_or(true);
        let gossip = self.gossip(file.gossip, &node, named);
        let router = self.router(&file.router.unwrap_or_default(), &node.cloud);
        let prices = self.prices(file.prices_file.as_deref());
        let clusters = file.clusters.unwrap_or_default();
        let providers = file.external_providers.unwrap_or_default();
        let mut backends = self.backends(clusters, providers, &node, &router, &prices);
        prices::stamp(&mut backends);
        let experiments = self.experiments(file.experiments, &backends);
        let shadows = self.shadows(file.shadows, &backends);
        let simulation = self.simulation(file.simulation, &backends);
        let quota = self.quota(file.quota, router.monthly_budget, gossip.is_some());
        let access = self.access(file.auth, file.tenants, file.server.as_ref());
        self.hard_budgets(&access, &quota, gossip.is_some());
        let webhooks = self.webhooks(file.webhooks);
        Config {
            quota,
            access,
            server: self.server(file.server.unwrap_or_default()),
            node,
            gossip,
            heed_prices,
            heed_outages,
            admin: file.admin.and_then(|admin| self.admin(admin)),
            policy: router.policy,
            stickiness_window: router.stickiness_window,
            health_check_interval: router.health_check_interval,
            metrics_update_interval: router.metrics_update_interval,
            calibrate_throughput: router.calibrate_throughput,
            timeouts: self.timeouts(&file.timeouts.unwrap_or_default()),
            backends,
            ledger: file.ledger.and_then(|ledger| self.ledger(ledger)),
            cache: file.cache.and_then(|cache| self.cache(cache)),
            idempotency: self.idempotency(&file.idempotency.unwrap_or_default()),
            experiments,
            shadows,
            webhooks,
            simulation,
            telemetry: self.telemetry(file.telemetry.unwrap_or_default()),
            smart_mocking: router.smart_mocking,
            demo: file.demo.and_then(|demo| self.demo(demo)),
        }
    }

    /// Names each key that is given but not honoured, with what to do instead.
    fn not_honoured(&mut self, at: &Path, keys: &[(&str, bool, &str)]) {
        for (key, given, instead) in keys {
            if *given {
                self.findings.warning(&at.key(key), format!("accepted but not honoured: {instead}"));
            }
        }
    }

    /// A value that must be there.
    fn required<T>(&mut self, at: &Path, value: Option<T>, example: &str) -> Option<T> {
        if value.is_none() {
            self.findings.problem(at, format!("missing (for example `{example}`)"));
        }
        value
    }

    /// A value that must be there because of another, for example `authType: hmac`.
    fn needed_by<T>(&mut self, cause: &str, at: &Path, value: Option<T>, example: &str) -> Option<T> {
        if value.is_none() {
            let key = at.parent_and_key().map_or("", |(_, key)| key).to_owned();
            self.findings.problem(at, format!("missing: `{cause}` needs `{key}` (for example `{example}`)"));
        }
        value
    }

    /// A duration of at least `least`.
    fn duration(&mut self, at: &Path, value: Option<Span>, default: Duration, least: Duration) -> Duration {
        let value = value.map_or(default, |Span(duration)| duration);
        if value < least {
            self.findings.problem(at, format!("must be at least `{least:?}`, is `{value:?}`"));
        }
        value
    }

    /// A timeout: above zero, since zero would end everything at once.
    fn timeout(&mut self, at: &Path, value: Option<Span>, default: Duration) -> Duration {
        self.duration(at, value, default, Duration::from_millis(1))
    }

    /// A factor of at least 1.
    fn factor(&mut self, at: &Path, value: Option<f64>, default: f64) -> f64 {
        let value = value.unwrap_or(default);
        if !value.is_finite() || value < 1.0 {
            self.findings.problem(at, format!("must be a number of at least 1, is `{value}`"));
        }
        value
    }

    /// A count of at least 1.
    fn count(&mut self, at: &Path, value: Option<u32>) -> Option<u32> {
        if value == Some(0) {
            self.findings.problem(at, "must be at least 1 (leave the key out for the default)");
        }
        value
    }

    /// An amount of dollars, zero included.
    fn dollars(&mut self, at: &Path, value: Option<f64>) -> Option<Money> {
        let usd = value?;
        let money = Money::from_usd(usd).filter(|money| *money >= Money::ZERO);
        if money.is_none() {
            self.findings.problem(at, format!("must be an amount of dollars from 0 to 10^12, is `{usd}`"));
        }
        money
    }

    /// The size of a body in bytes.
    fn body_bytes(&mut self, at: &Path, value: Option<usize>) -> usize {
        let value = value.unwrap_or(BODY_BYTES_DEFAULT);
        if !(1..=BODY_BYTES_MAX).contains(&value) {
            self.findings.problem(at, format!("must be from 1 to {BODY_BYTES_MAX} bytes, is `{value}`"));
        }
        value
    }

    /// A name that can stand in a metric label, a header and a gossip key.
    fn name(&mut self, at: &Path, name: &str) {
        let length = name.chars().count();
        if length == 0 || length > NAME_CHARS_MAX {
            self.findings.problem(at, format!("must have 1 to {NAME_CHARS_MAX} characters, has {length}"));
        } else if let Some(odd) = name.chars().find(|c| !may_stand_in_name(*c)) {
            self.findings.problem(
                at,
                format!(
                    "`{}` may not stand in a name (use letters, digits, `-`, `_` and `.`)",
                    odd.escape_default()
                ),
            );
        }
    }

    /// A name with a default.
    fn name_or(&mut self, at: &Path, name: Option<String>, default: &str) -> String {
        let name = name.unwrap_or_else(|| default.to_owned());
        self.name(at, &name);
        name
    }

    /// The texts of a list with their places.
    fn texts(&mut self, at: &Path, list: Option<Vec<Option<String>>>) -> Vec<(Path, String)> {
        let mut texts = Vec::new();
        for (index, text) in list.unwrap_or_default().into_iter().enumerate() {
            let at = at.index(index);
            match text.filter(|text| !text.trim().is_empty()) {
                Some(text) => texts.push((at, text)),
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        texts
    }

    /// A secret that is there and can stand in a header.
    fn secret(&mut self, at: &Path, secret: Option<SecretString>) -> Option<SecretString> {
        let secret = secret?;
        let text = secret.expose_secret();
        if text.is_empty() {
            self.findings.problem(at, "is empty (is its environment variable set?)");
        } else if !text.chars().all(|c| c.is_ascii_graphic() || c == ' ') || text.trim() != text {
            self.findings
                .problem(at, "holds characters a secret cannot have (line breaks, outer blanks, non-ASCII)");
        }
        Some(secret)
    }

    fn file_path(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// The host's name as a valid node name.
    fn host_name(&self) -> String {
        let name = (self.env)("HOSTNAME")
            .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
            .unwrap_or_default();
        let name: String = name
            .trim()
            .chars()
            .map(|c| if may_stand_in_name(c) { c } else { '-' })
            .take(NAME_CHARS_MAX)
            .collect();
        if name.is_empty() { LOCAL.to_owned() } else { name }
    }
}

fn may_stand_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}
