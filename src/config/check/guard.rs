//! The keys of `router` that protect backends.

use super::Check;
use crate::config::file::{BreakerFile, RouterFile};
use crate::config::path::Path;
use llm_router_logic::guard::breaker::BreakerPolicy;
use llm_router_logic::guard::policy::GuardPolicy;

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

    /// A share in percent.
    pub(super) fn percent(&mut self, at: &Path, value: Option<u8>, default: u8) -> u8 {
        let value = value.unwrap_or(default);
        if value > 100 {
            self.findings.problem(at, format!("must be from 0 to 100, is `{value}`"));
        }
        value
    }
}
