//! When a cluster is there at all: `scaleToZero` and `spot`.

use super::Check;
use crate::config::file::{ScaleToZeroFile, SpotFile};
use crate::config::path::Path;
use crate::config::settings::WakeHook;
use llm_router_logic::money::Money;
use llm_router_logic::warmth::ScaleToZero;
use reqwest::Url;
use std::path::PathBuf;
use std::time::Duration;

/// Shorter than this, demand would be told by a handful of requests and fall to nothing between two.
const WINDOW_LEAST: Duration = Duration::from_secs(5);
const WINDOW_DEFAULT: Duration = Duration::from_secs(60);
/// No machine takes longer to come; a client does not wait longer either.
const COLD_START_MAX: Duration = Duration::from_secs(3_600);

impl Check<'_> {
    pub(super) fn scale_to_zero(
        &mut self,
        at: &Path,
        file: Option<ScaleToZeroFile>,
        knows_models: bool,
    ) -> (Option<ScaleToZero>, Option<WakeHook>) {
        let Some(file) = file else { return (None, None) };
        let cold_start_at = at.key("coldStart");
        let cold_start = self.required(&cold_start_at, file.cold_start, "90s");
        let cold_start =
            self.duration(&cold_start_at, cold_start, Duration::from_secs(90), Duration::from_millis(1));
        if cold_start > COLD_START_MAX {
            self.findings.problem(&cold_start_at, format!("must be at most `{COLD_START_MAX:?}`"));
        }
        let demand_window =
            self.duration(&at.key("demandWindow"), file.demand_window, WINDOW_DEFAULT, WINDOW_LEAST);
        let wake_at_requests = self.count(&at.key("wakeAtRequests"), file.wake_at_requests).unwrap_or(1);
        let saving = self.dollars(&at.key("wakeAtSavingUsd"), file.wake_at_saving_usd);
        let speed_at = at.key("tokensPerSecond");
        if let Some(speed) = file.tokens_per_second.filter(|speed| !speed.is_finite() || *speed <= 0.0) {
            self.findings.problem(&speed_at, format!("must be a number above 0, is `{speed}`"));
        }
        if !knows_models {
            self.findings.warning(
                at,
                "nobody knows what it serves before it was warm once: name its `models`, or no request wants it",
            );
        }
        let secret_at = at.key("wakeSecret");
        let secret = self.secret(&secret_at, file.wake_secret);
        let hook = match file.wake_url {
            Some(url) => self.hook_url(&at.key("wakeUrl"), &url).map(|url| WakeHook { url, secret }),
            None => {
                if secret.is_some() {
                    self.findings.warning(&secret_at, "not used: there is no `wakeUrl`");
                }
                None
            }
        };
        let settings = ScaleToZero {
            cold_start,
            demand_window,
            wake_at_requests,
            wake_at_saving: saving.unwrap_or(Money::ZERO),
            tokens_per_second: file.tokens_per_second,
        };
        (Some(settings), hook)
    }

    /// An address that is called as it is written.
    pub(super) fn hook_url(&mut self, at: &Path, text: &str) -> Option<String> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty())
        });
        let Some(url) = url else {
            let message = "expected an address such as `https://host/path`";
            self.findings.problem(at, message);
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() {
            self.findings
                .problem(at, "an address may not hold a user or password (use the secret beside it)");
            return None;
        }
        Some(url.to_string())
    }

    pub(super) fn spot(&mut self, at: &Path, file: Option<SpotFile>) -> Option<PathBuf> {
        let notice = self.required(&at.key("noticeFile"), file?.notice_file, "spot/aws-us-west-2.json")?;
        // It need not be there: no file is no notice.
        Some(self.file_path(&notice))
    }
}
