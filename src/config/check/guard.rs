//! The keys of `router` that protect backends.

use super::Check;
use crate::config::file::{BreakerFile, HedgingFile, RetriesFile, RouterFile};
use crate::config::path::Path;
use llm_router_logic::guard::breaker::BreakerPolicy;
use llm_router_logic::guard::hedge::HedgePolicy;
use llm_router_logic::guard::policy::GuardPolicy;
use llm_router_logic::guard::retry::RetryPolicy;

impl Check<'_> {
    /// `at` is the section `router`.
    pub(super) fn guards(&mut self, at: &Path, file: &RouterFile) -> GuardPolicy {
        let default = GuardPolicy::default();
        let percent = file.ejected_max_percent;
        GuardPolicy {
            breaker: self.breaker(&at.key("breaker"), file.breaker.unwrap_or_default()),
            ejected_max_percent: self.percent(
                &at.key("ejectedMaxPercent"),
                percent,
                default.ejected_max_percent,
            ),
            retries: self.retries(&at.key("retries"), file.retries.unwrap_or_default()),
            hedging: self.hedging(&at.key("hedging"), file.hedging.unwrap_or_default()),
            slow_start: file.slow_start.map_or(default.slow_start, |span| span.0),
            concurrency_max: self
                .count(&at.key("concurrencyMax"), file.concurrency_max)
                .unwrap_or(default.concurrency_max),
        }
    }

    fn breaker(&mut self, at: &Path, file: BreakerFile) -> BreakerPolicy {
        let default = BreakerPolicy::default();
        let open_first = self.timeout(&at.key("open"), file.open, default.open_first);
        let open_max = self.timeout(&at.key("openMax"), file.open_max, default.open_max.max(open_first));
        if open_max < open_first {
            self.findings.problem(&at.key("openMax"), format!("must be at least `open`, {open_first:?}"));
        }
        BreakerPolicy {
            consecutive_failures: self
                .count(&at.key("failuresInARow"), file.failures_in_a_row)
                .unwrap_or(default.consecutive_failures),
            min_success_percent: self.percent(
                &at.key("minSuccessPercent"),
                file.min_success_percent,
                default.min_success_percent,
            ),
            min_outcomes: self
                .count(&at.key("minRequests"), file.min_requests)
                .unwrap_or(default.min_outcomes),
            window: self.timeout(&at.key("window"), file.window, default.window),
            open_first,
            open_max,
        }
    }

    fn retries(&mut self, at: &Path, file: RetriesFile) -> RetryPolicy {
        let default = RetryPolicy::default();
        RetryPolicy {
            attempts_max: self
                .count(&at.key("attemptsMax"), file.attempts_max)
                .unwrap_or(default.attempts_max),
            percent: self.percent(&at.key("percent"), file.percent, default.percent),
            per_second: self.amount(&at.key("perSecond"), file.per_second, default.per_second),
        }
    }

    fn hedging(&mut self, at: &Path, file: HedgingFile) -> HedgePolicy {
        let default = HedgePolicy::default();
        let share_at = at.key("maxSpendShare");
        let max_spend_share = self.amount(&share_at, file.max_spend_share, default.max_spend_share);
        if max_spend_share > 1.0 {
            self.findings.problem(&share_at, format!("must be at most 1, is `{max_spend_share}`"));
        }
        HedgePolicy {
            enabled: file.enabled.unwrap_or(default.enabled),
            max_spend_share,
            min_delay: file.min_delay.map_or(default.min_delay, |span| span.0),
        }
    }

    /// A number that is not negative.
    fn amount(&mut self, at: &Path, value: Option<f64>, default: f64) -> f64 {
        let value = value.unwrap_or(default);
        if !value.is_finite() || value < 0.0 {
            self.findings.problem(at, format!("must be a number of at least 0, is `{value}`"));
        }
        value
    }

    /// A share in percent.
    pub(super) fn percent(&mut self, at: &Path, value: Option<u8>, default: u8) -> u8 {
        let value = value.unwrap_or(default);
        if value > 100 {
            self.findings.problem(at, format!("must be from 0 to 100, is `{value}`"));
        }
        value
    }
}
