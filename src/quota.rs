//! What the quota of a node is told to keep, and where it is noted over a restart.
//!
//! Owns the scopes that follow from configuration and keys, the calendars of budgets, and the state file. How
//! limits are shared is `llm_router_actors::quota`'s.

use crate::config::{Backend, Budget, BudgetPeriod, Quota, Share};
use crate::keys::file::Record;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use llm_router_actors::ports::QuotaStore;
use llm_router_actors::quota::{
    ACCOUNT, BudgetSpec, Calendar, Kept, LimitSpec, Period, QuotaSpec, ScopeSpec,
};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

/// Every scope, in the order of importance: the fleet, provider accounts, tenants, keys in the order they are
/// given.
pub fn spec(
    quota: &Quota,
    access: &crate::config::Access,
    records: &[Record],
    backends: &[Backend],
) -> QuotaSpec {
    let mut scopes = Vec::new();
    let mut add = |name: String, share: &Share| {
        if share.budget.is_some() || !share.limits.is_none() {
            let budget = share.budget.as_ref().map(budget_spec);
            scopes.push(ScopeSpec { name: Arc::from(name), budget, limits: share.limits });
        }
    };
    add("fleet".to_owned(), &quota.share);
    for backend in backends {
        if let Some(limit) = backend.spec.rate_limit {
            let limits = LimitSpec {
                requests_per_minute: limit.requests_per_minute,
                tokens_per_minute: limit.tokens_per_minute,
                concurrent: None,
            };
            add(format!("{ACCOUNT}{}", backend.spec.id), &Share { budget: None, limits });
        }
    }
    for tenant in &access.tenants {
        add(format!("tenant:{}", tenant.id), &tenant.share);
    }
    for key in access.keys.iter().flat_map(|keys| &keys.fixed) {
        add(format!("key:{}", key.id), &key.grant.share);
    }
    for record in records.iter().filter(|record| record.revoked.is_none()) {
        add(format!("key:{}", record.id), &record.grant.share);
    }
    QuotaSpec { nodes: quota.nodes.clone(), scopes }
}

fn budget_spec(budget: &Budget) -> BudgetSpec {
    // Checked when it was read; a zone that is gone from the system since is taken for UTC.
    let zone = TimeZone::get(&budget.time_zone).unwrap_or(TimeZone::UTC);
    let kind = budget.period;
    BudgetSpec {
        limit: budget.limit,
        mode: budget.mode,
        counts_clusters: budget.counts_clusters,
        period: match kind {
            BudgetPeriod::Day => "day",
            BudgetPeriod::Week => "week",
            BudgetPeriod::Month => "month",
        },
        calendar: Calendar(Arc::new(move |unix| period_at(kind, &zone, unix))),
    }
}

/// The period that `unix` seconds lie in, from midnight to midnight of `zone`. Its id is the day it begins on,
/// counted from 1970.
fn period_at(kind: BudgetPeriod, zone: &TimeZone, unix: u64) -> Period {
    let now = i64::try_from(unix).ok().and_then(|unix| Timestamp::from_second(unix).ok()).unwrap_or_default();
    let today = now.to_zoned_datetime(zone.clone()).date();
    let (first, next) = match kind {
        BudgetPeriod::Day => (today, today.checked_add(1.day())),
        BudgetPeriod::Week => {
            let monday = today.checked_sub(i64::from(today.weekday().since(Weekday::Monday)).days());
            let monday = monday.unwrap_or(today);
            (monday, monday.checked_add(7.days()))
        }
        BudgetPeriod::Month => (today.first_of_month(), today.first_of_month().checked_add(1.month())),
    };
    let midnight = |date: Date| {
        let midnight = date.to_zoned_datetime(zone.clone()).ok()?;
        u64::try_from(midnight.timestamp().as_second()).ok()
    };
    let epoch = Date::constant(1970, 1, 1);
    let id = first.since(epoch).map_or(0, |since| since.get_days());
    Period {
        id: u32::try_from(id).unwrap_or(0),
        starts: midnight(first).unwrap_or(0),
        ends: next.ok().and_then(midnight).unwrap_or(u64::MAX),
    }
}

/// Notes budgets in a file.
pub struct StateFile {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Note {
    scope: String,
    period: u32,
    committed_pico_usd: i64,
}

impl StateFile {
    /// The file at `path`; it need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl QuotaStore for StateFile {
    fn load(&self) -> Vec<Kept> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "cannot read what was spent before");
                return Vec::new();
            }
        };
        match serde_json::from_str::<Vec<Note>>(&text) {
            Ok(notes) => notes
                .into_iter()
                .map(|note| Kept {
                    scope: note.scope,
                    period: note.period,
                    committed: note.committed_pico_usd,
                })
                .collect(),
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "cannot read what was spent before");
                Vec::new()
            }
        }
    }

    fn save(&self, kept: Vec<Kept>) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let path = self.path.clone();
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || {
                write(&path, &kept).inspect_err(|error| {
                    tracing::error!(file = %path.display(), %error, "cannot note what is spent: hard budgets stop");
                })
            });
            matches!(written.await, Ok(Ok(())))
        })
    }
}

/// Writes in one step, so that a crash leaves the old note or the new one.
fn write(path: &Path, kept: &[Kept]) -> std::io::Result<()> {
    let notes: Vec<Note> = kept
        .iter()
        .map(|kept| Note {
            scope: kept.scope.clone(),
            period: kept.period,
            committed_pico_usd: kept.committed,
        })
        .collect();
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let draft = PathBuf::from(draft);
    let mut file = std::fs::File::create(&draft)?;
    file.write_all(serde_json::to_string(&notes)?.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(kind: BudgetPeriod, zone: &str, time: &str) -> (u32, String) {
        let zone = TimeZone::get(zone).unwrap();
        let unix = time.parse::<Timestamp>().unwrap().as_second();
        let period = period_at(kind, &zone, u64::try_from(unix).unwrap());
        let ends = Timestamp::from_second(i64::try_from(period.ends).unwrap()).unwrap();
        (period.id, ends.to_string())
    }

    #[test]
    fn a_period_begins_at_midnight_of_its_time_zone() {
        let month = |zone, time| at(BudgetPeriod::Month, zone, time);
        assert_eq!(month("UTC", "2026-02-28T23:59:59Z").1, "2026-03-01T00:00:00Z");
        // In Berlin it is March already, and summer time begins within it.
        assert_eq!(month("Europe/Berlin", "2026-02-28T23:30:00Z").1, "2026-03-31T22:00:00Z");
        assert_ne!(month("UTC", "2026-02-28T23:30:00Z").0, month("Europe/Berlin", "2026-02-28T23:30:00Z").0);
        assert_eq!(
            at(BudgetPeriod::Day, "America/New_York", "2026-03-08T12:00:00Z").1,
            "2026-03-09T04:00:00Z"
        );
        // Sunday belongs to the week before.
        let week = |time| at(BudgetPeriod::Week, "UTC", time);
        assert_eq!(week("2026-11-22T23:59:59Z").1, "2026-11-23T00:00:00Z");
        assert_eq!(week("2026-11-23T00:00:00Z").1, "2026-11-30T00:00:00Z");
        assert_eq!(week("2026-11-23T00:00:00Z").0, week("2026-11-29T23:59:59Z").0);
    }

    /// Zones whose clocks jump at midnight, by half an hour, or over a whole day, among others.
    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Sao_Paulo",
        "America/Havana",
        "Africa/Cairo",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kolkata",
    ];

    proptest::proptest! {
        /// Whatever clocks do: every second lies in one period, periods follow each other without a gap, and
        /// each has an id of its own that grows.
        #[test]
        fn periods_follow_each_other_without_gap_or_overlap(
            zone in proptest::sample::select(&ZONES[..]),
            kind in proptest::sample::select(&[BudgetPeriod::Day, BudgetPeriod::Week, BudgetPeriod::Month][..]),
            unix in 86_400_u64 * 40..4_000_000_000,
        ) {
            let zone = TimeZone::get(zone).unwrap();
            let period = period_at(kind, &zone, unix);
            proptest::prop_assert!(period.starts <= unix && unix < period.ends, "{period:?}");
            proptest::prop_assert_eq!(period_at(kind, &zone, period.starts), period);
            proptest::prop_assert_eq!(period_at(kind, &zone, period.ends - 1), period);
            let next = period_at(kind, &zone, period.ends);
            proptest::prop_assert_eq!(next.starts, period.ends);
            proptest::prop_assert!(next.id > period.id);
            let hours = (period.ends - period.starts) / 3_600;
            let usual = match kind {
                BudgetPeriod::Day => 22..=50,
                BudgetPeriod::Week => 143..=170,
                BudgetPeriod::Month => 28 * 24 - 25..=31 * 24 + 2,
            };
            proptest::prop_assert!(usual.contains(&hours), "{hours} hours");
        }
    }

    #[tokio::test]
    async fn what_is_noted_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path().join("quota.json"));
        assert!(file.load().is_empty());
        let kept = vec![Kept { scope: "tenant:a".into(), period: 7, committed: 12_345 }];
        assert!(file.save(kept.clone()).await);
        assert_eq!(file.load(), kept);
        let nowhere = StateFile::new(directory.path().join("missing").join("quota.json"));
        assert!(!nowhere.save(kept).await);
    }
}
