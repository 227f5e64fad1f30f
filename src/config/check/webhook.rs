//! The list `webhooks`.

use super::Check;
use super::address::is_loopback_host;
use crate::config::decode::nearest;
use crate::config::file::WebhookFile;
use crate::config::path::Path;
use crate::config::settings::Webhook;
use llm_router_actors::webhook::EndpointSpec;
use llm_router_logic::webhook::Kind;
use reqwest::Url;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Most endpoints: each has a task and metrics of its own.
const ENDPOINTS_MAX: usize = 16;
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// With the pauses between them some four minutes.
const ATTEMPTS_DEFAULT: u32 = 10;
const ATTEMPTS_MAX: u32 = 100;
const QUEUE_DEFAULT: u32 = 1_000;
const QUEUE_MAX: u32 = 100_000;

impl Check<'_> {
    pub(super) fn webhooks(&mut self, files: Option<Vec<Option<WebhookFile>>>) -> Vec<Webhook> {
        let at = Path::default().key("webhooks");
        let files = files.unwrap_or_default();
        if files.len() > ENDPOINTS_MAX {
            self.findings.problem(&at, format!("more than {ENDPOINTS_MAX} webhooks"));
        }
        let mut names = BTreeSet::new();
        let mut webhooks = Vec::new();
        for (index, file) in files.into_iter().enumerate() {
            let at = at.index(index);
            match file {
                Some(file) => webhooks.extend(self.webhook(&at, file, &mut names)),
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        webhooks
    }

    fn webhook(&mut self, at: &Path, file: WebhookFile, names: &mut BTreeSet<String>) -> Option<Webhook> {
        let url_at = at.key("url");
        let url = self.required(&url_at, file.url, "https://ops.example.com/llm-router");
        let url = url.and_then(|url| self.hook_url(&url_at, &url));
        let secret_at = at.key("secret");
        let secret = self.required(&secret_at, file.secret, "${WEBHOOK_SECRET}");
        let secret = self.long_secret(&secret_at, secret);
        let key_id = file.key_id.inspect(|id| self.name(&at.key("keyId"), id));
        let kinds = self.kinds(&at.key("events"), file.events);
        let sample_at = at.key("sample");
        let sample = file.sample.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&sample) {
            self.findings.problem(&sample_at, format!("must be a number from 0 to 1, is `{sample}`"));
        }
        if file.sample.is_some() && !kinds.contains(&Kind::Decision) {
            self.findings.warning(&sample_at, "not used: `events` does not name `decision`");
        }
        let timeout_at = at.key("timeout");
        let timeout = self.timeout(&timeout_at, file.timeout, TIMEOUT_DEFAULT);
        if timeout > TIMEOUT_MAX {
            self.findings.problem(&timeout_at, format!("must be at most `{TIMEOUT_MAX:?}`"));
        }
        let mut bounded = |key: &str, value: Option<u32>, default: u32, most: u32| {
            let at = at.key(key);
            let value = self.count(&at, value).unwrap_or(default);
            if value > most {
                self.findings.problem(&at, format!("must be at most {most}, is `{value}`"));
            }
            value
        };
        let attempts_max = bounded("maxAttempts", file.max_attempts, ATTEMPTS_DEFAULT, ATTEMPTS_MAX);
        let queue_max = bounded("maxQueued", file.max_queued, QUEUE_DEFAULT, QUEUE_MAX);
        let url = url?;
        let parsed = Url::parse(&url).ok();
        let host = parsed.as_ref().and_then(Url::host_str).unwrap_or_default().to_owned();
        if parsed.is_some_and(|url| url.scheme() == "http") && !is_loopback_host(&host) {
            self.findings.warning(&url_at, "`http`: whoever is on the way can read the events (use `https`)");
        }
        let name_at = at.key("name");
        let name = match file.name {
            Some(name) => {
                self.name(&name_at, &name);
                if names.contains(&name) {
                    self.findings.problem(&name_at, format!("two webhooks are named `{name}`"));
                }
                name
            }
            None => unnamed(&host, names),
        };
        names.insert(name.clone());
        let (name, queue_max) = (Arc::from(name), usize::try_from(queue_max).unwrap_or(usize::MAX));
        let endpoint = EndpointSpec { name, kinds, sample, queue_max, attempts_max, timeout };
        Some(Webhook { endpoint, url, secret: secret?, key_id })
    }

    fn kinds(&mut self, at: &Path, words: Option<Vec<Option<String>>>) -> Vec<Kind> {
        if words.is_none() {
            return Kind::ALL.into_iter().filter(|kind| *kind != Kind::Decision).collect();
        }
        let mut kinds = BTreeSet::new();
        for (at, word) in self.texts(at, words) {
            let meant: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.is_meant_by(&word)).collect();
            if meant.is_empty() {
                let known = Kind::ALL.map(Kind::as_str);
                let cure = match nearest(&word, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known: {}", known.join(", ")),
                };
                self.findings.problem(&at, format!("there is no event `{word}` ({cure})"));
            }
            kinds.extend(meant);
        }
        kinds.into_iter().collect()
    }
}

/// The host, as a name that nobody else has: never more of an address, which may hold a token.
fn unnamed(host: &str, names: &BTreeSet<String>) -> String {
    let plain: String =
        host.chars().map(|c| if super::may_stand_in_name(c) { c } else { '-' }).take(56).collect();
    let numbered = (2..=names.len() + 2).map(|nth| format!("{plain}-{nth}"));
    std::iter::once(plain.clone()).chain(numbered).find(|name| !names.contains(name)).unwrap_or(plain)
}
