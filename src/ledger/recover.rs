//! What an earlier run left unsettled: settled at the start, by estimate, and flagged.

use super::store::Store;
use llm_router_logic::cost::entry::{Basis, Charge, Entry, Flags, Outcome};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;
use rusqlite::params;

/// Intents settled by one transaction.
const AT_ONCE: u32 = 5_000;

/// Settles every intent that has no settlement, charging what was predicted of it: the router died
/// before it could know better. Returns how many there were.
pub(super) fn settle_the_unsettled(store: &mut Store, now_unix_ms: u64) -> rusqlite::Result<u64> {
    let mut settled = 0;
    loop {
        let charges = unsettled(store, now_unix_ms)?;
        if charges.is_empty() {
            return Ok(settled);
        }
        settled += charges.len() as u64;
        store.write(&charges)?;
    }
}

fn unsettled(store: &Store, now_unix_ms: u64) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = store.connection().prepare_cached(
        "SELECT i.id, i.at_ms, i.predicted_input, i.predicted_output, i.basis, i.machine_pico_per_1k, p.price
         FROM intents i LEFT JOIN prices p
         ON p.price_table = i.price_table AND p.backend = i.backend AND p.model = i.model
         WHERE i.settled = 0 ORDER BY i.id LIMIT ?1",
    )?;
    let rows = statement.query_map(params![AT_ONCE], |row| {
        let at_ms = row.get::<_, i64>(1)?.unsigned_abs();
        let usage = Usage {
            input: row.get::<_, u32>(2)?.into(),
            output: row.get::<_, u32>(3)?.into(),
            ..Usage::default()
        };
        let basis =
            basis(&row.get::<_, String>(4)?, row.get(5)?, row.get::<_, Option<String>>(6)?.as_deref());
        let cost = basis.charge(&usage, false);
        Ok(Entry::Charge(Box::new(Charge {
            intent: row.get(0)?,
            at_ms: now_unix_ms.max(at_ms),
            outcome: Outcome::Unknown,
            status: 0,
            fault: "router_died".to_owned(),
            is_last: true,
            usage,
            raw_usage: None,
            cost,
            external_cost: None,
            flags: Flags::ESTIMATED.with(Flags::RECOVERED).with_if(Flags::UNPRICED, cost.is_none()),
            ttft_ms: None,
            duration_ms: now_unix_ms.saturating_sub(at_ms),
        })))
    })?;
    rows.collect()
}

/// What an attempt was to be charged by, from its row.
pub(super) fn basis(word: &str, per_1k: Option<i64>, price: Option<&str>) -> Basis {
    match word {
        "free" => Basis::Free,
        "machine" => per_1k.map_or(Basis::Unpriced, |pico| Basis::Machine(Money::from_pico(pico.into()))),
        "listed" => {
            let price = price.and_then(super::price::read);
            price.map_or(Basis::Unpriced, |price| Basis::Listed(Box::new(price)))
        }
        _ => Basis::Unpriced,
    }
}
