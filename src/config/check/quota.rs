//! Budgets and limits, and the section `quota`.

use super::Check;
use crate::config::file::{BudgetFile, LimitsFile, QuotaFile};
use crate::config::path::Path;
use crate::config::settings::{Access, Budget, BudgetPeriod, Quota, Share};
use llm_router_actors::quota::{LimitSpec, Mode};
use llm_router_logic::ids::NodeId;
use llm_router_logic::money::Money;

/// Above this the sums of a period might not fit the counters of the request path.
const BUDGET_USD_MAX: f64 = 1_000_000.0;

impl Check<'_> {
    pub(super) fn quota(&mut self, file: Option<QuotaFile>, monthly: Option<Money>, gossips: bool) -> Quota {
        let at = Path::default().key("quota");
        let file = file.unwrap_or_default();
        let mut nodes = Vec::new();
        for (at, name) in self.texts(&at.key("nodes"), file.nodes) {
            self.name(&at, &name);
            nodes.push(NodeId::new(name));
        }
        nodes.sort();
        nodes.dedup();
        let mut share = self.share(&at, file.budget, file.limits);
        if let Some(limit) = monthly {
            if limit.as_usd() > BUDGET_USD_MAX {
                let at = Path::default().key("router").key("monthlyAPIBudget");
                self.findings.problem(&at, format!("must be at most {BUDGET_USD_MAX} USD"));
            }
            match &share.budget {
                Some(_) => self.findings.problem(
                    &at.key("budget"),
                    "stands beside `router.monthlyAPIBudget`, which means the same (give one of them)",
                ),
                None => {
                    share.budget = Some(Budget {
                        limit,
                        period: BudgetPeriod::Month,
                        time_zone: "UTC".to_owned(),
                        mode: Mode::Soft,
                        counts_clusters: false,
                    });
                }
            }
        }
        let state_file = file.state_file.filter(|path| !path.is_empty()).map(|path| self.file_path(&path));
        let quota = Quota { nodes, state_file, share };
        if share_is_hard(&quota.share) {
            self.hard_needs(&at.key("budget"), &quota, gossips);
        }
        quota
    }

    /// What hard budgets of keys and tenants need of the section `quota`.
    pub(super) fn hard_budgets(&mut self, access: &Access, quota: &Quota, gossips: bool) {
        if let Some(index) = access.tenants.iter().position(|tenant| share_is_hard(&tenant.share)) {
            let at = Path::default().key("tenants").index(index).key("budget");
            self.hard_needs(&at, quota, gossips);
        }
        let fixed = access.keys.iter().flat_map(|keys| &keys.fixed);
        if let Some(index) = fixed.into_iter().position(|key| share_is_hard(&key.grant.share)) {
            let at = Path::default().key("auth").key("keys").index(index).key("budget");
            self.hard_needs(&at, quota, gossips);
        }
    }

    fn hard_needs(&mut self, at: &Path, quota: &Quota, gossips: bool) {
        let at = at.key("mode");
        if quota.state_file.is_none() {
            let text = "`hard` needs `quota.stateFile`: what was spent must outlive a restart";
            self.findings.problem(&at, text);
        } else if gossips && quota.nodes.is_empty() {
            let text = "`hard` needs `quota.nodes`: the names of all routers that share the budget";
            self.findings.problem(&at, text);
        }
    }

    pub(super) fn share(
        &mut self,
        at: &Path,
        budget: Option<BudgetFile>,
        limits: Option<LimitsFile>,
    ) -> Share {
        let limits_at = at.key("limits");
        let limits = limits.unwrap_or_default();
        Share {
            budget: budget.and_then(|budget| self.budget(&at.key("budget"), &budget)),
            limits: LimitSpec {
                requests_per_minute: self
                    .count(&limits_at.key("requestsPerMinute"), limits.requests_per_minute),
                tokens_per_minute: self.count(&limits_at.key("tokensPerMinute"), limits.tokens_per_minute),
                concurrent: self.count(&limits_at.key("maxConcurrent"), limits.max_concurrent),
            },
        }
    }

    fn budget(&mut self, at: &Path, file: &BudgetFile) -> Option<Budget> {
        self.required(&at.key("usd"), file.usd, "100");
        match Budget::read(
            file.usd?,
            file.period.as_deref(),
            file.time_zone.as_deref(),
            file.mode.as_deref(),
            file.counts.as_deref(),
        ) {
            Ok(budget) => Some(budget),
            Err((key, why)) => {
                self.findings.problem(&at.key(key), why);
                None
            }
        }
    }
}

fn share_is_hard(share: &Share) -> bool {
    share.budget.as_ref().is_some_and(|budget| budget.mode == Mode::Hard)
}

impl Budget {
    /// A budget from its words, as the configuration and the file of keys write them.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub fn read(
        usd: f64,
        period: Option<&str>,
        time_zone: Option<&str>,
        mode: Option<&str>,
        counts: Option<&str>,
    ) -> Result<Self, (&'static str, String)> {
        let limit = Money::from_usd(usd).filter(|_| (0.0..=BUDGET_USD_MAX).contains(&usd));
        let limit =
            limit.ok_or_else(|| ("usd", format!("must be from 0 to {BUDGET_USD_MAX} USD, is `{usd}`")))?;
        let period = match period.unwrap_or("month") {
            "day" => BudgetPeriod::Day,
            "week" => BudgetPeriod::Week,
            "month" => BudgetPeriod::Month,
            other => return Err(("period", format!("expected `day`, `week` or `month`, found `{other}`"))),
        };
        let time_zone = time_zone.unwrap_or("UTC").to_owned();
        if jiff::tz::TimeZone::get(&time_zone).is_err() {
            let text = format!("`{time_zone}` is no time zone (give an IANA name such as `Europe/Berlin`)");
            return Err(("timeZone", text));
        }
        let mode = match mode.unwrap_or("soft") {
            "soft" => Mode::Soft,
            "hard" => Mode::Hard,
            other => return Err(("mode", format!("expected `soft` or `hard`, found `{other}`"))),
        };
        let counts_clusters = match counts.unwrap_or("external") {
            "external" => false,
            "all" => true,
            other => return Err(("counts", format!("expected `external` or `all`, found `{other}`"))),
        };
        Ok(Self { limit, period, time_zone, mode, counts_clusters })
    }
}
