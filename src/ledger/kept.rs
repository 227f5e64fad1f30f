//! What earlier runs came to on the last days, as a starting router goes on from it.

use super::store::Store;
use llm_router_logic::cost::day;
use llm_router_logic::cost::savings::{DAYS_KEPT, Day, Paid, Saved};
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use std::collections::BTreeMap;

const MS_PER_DAY: u64 = 86_400_000;
/// The number of a row's day since 1970-01-01.
const NUMBER: &str = "CAST(strftime('%s', day) AS INTEGER) / 86400";

/// The last days, today included, by number.
pub(super) fn days(store: &Store, now_unix_ms: u64) -> rusqlite::Result<Vec<(u32, Day)>> {
    let first = day::of(now_unix_ms.saturating_sub((DAYS_KEPT as u64 - 1) * MS_PER_DAY));
    let money = |row: &rusqlite::Row<'_>, column: usize| {
        row.get::<_, i64>(column).map(|pico| Money::from_pico(pico.into()))
    };
    let mut days: BTreeMap<u32, Day> = BTreeMap::new();
    let mut sums = store.connection().prepare(&format!(
        "SELECT {NUMBER}, sum(requests), sum(cost_pico), sum(external_pico), sum(external_pico - gross_pico),
         sum(CASE external WHEN 0 THEN cost_pico ELSE 0 END) FROM days WHERE day >= ?1 GROUP BY day"
    ))?;
    let mut rows = sums.query([&first])?;
    while let Some(row) = rows.next()? {
        days.entry(row.get(0)?).or_default().saved = Saved {
            requests: row.get::<_, i64>(1)?.unsigned_abs(),
            cost: money(row, 2)?,
            external: money(row, 3)?,
            compared: money(row, 4)?,
            charged: money(row, 5)?,
        };
    }
    let mut machines = store
        .connection()
        .prepare(&format!("SELECT {NUMBER}, cluster, millis, cost_pico FROM machines WHERE day >= ?1"))?;
    let mut rows = machines.query([&first])?;
    while let Some(row) = rows.next()? {
        let paid = Paid { millis: row.get::<_, i64>(2)?.unsigned_abs(), cost: money(row, 3)? };
        let day = days.entry(row.get(0)?).or_default();
        day.machines.insert(BackendId::new(row.get::<_, String>(1)?), paid);
    }
    Ok(days.into_iter().collect())
}
