//! `llm-router ledger verify`: whether a ledger is whole and adds up.

use super::read::Reader;
use super::recover::basis;
use llm_router_logic::cost::entry::{Basis, Flags};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;

/// Problems told one by one; beyond, only their number.
const TOLD_MAX: usize = 20;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Settled attempts looked at.
    pub(super) settled: u64,
    /// Attempts under way, or left by a crash and not yet resolved.
    pub(super) open: u64,
    /// Charges computed again from the prices kept.
    pub(super) recomputed: u64,
    /// What is wrong, in words; at most [`TOLD_MAX`].
    pub(super) problems: Vec<String>,
    /// How many problems there are.
    pub(super) count: u64,
}

impl Findings {
    fn problem(&mut self, text: String) {
        self.count += 1;
        if self.problems.len() < TOLD_MAX {
            self.problems.push(text);
        }
    }
}

/// Looks at all of a ledger, as of one moment.
///
/// # Errors
/// In SQLite's words.
pub(super) fn verify(reader: &Reader) -> rusqlite::Result<Findings> {
    let connection = reader.connection();
    let mut findings = Findings::default();
    // One transaction, so that a router at work does not change what is compared.
    connection.execute_batch("BEGIN")?;
    let mut integrity = connection.prepare("PRAGMA integrity_check(20)")?;
    let lines =
        integrity.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    for line in lines.into_iter().filter(|line| line != "ok") {
        findings.problem(format!("SQLite's integrity check says: {line}"));
    }
    for (sql, what) in [
        (
            "SELECT s.intent FROM settlements s LEFT JOIN intents i ON i.id = s.intent WHERE i.id IS NULL",
            "is settled without an intent",
        ),
        (
            "SELECT i.id FROM intents i LEFT JOIN settlements s ON s.intent = i.id WHERE i.settled <> (s.intent IS NOT NULL)",
            "says the opposite of its settlement about being settled",
        ),
        (
            "SELECT min(id) FROM intents GROUP BY request, attempt HAVING count(*) > 1",
            "shares its request and number with another attempt",
        ),
    ] {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            findings.problem(format!("attempt {} {what}", row.get::<_, i64>(0)?));
        }
    }
    findings.open = connection
        .query_row("SELECT count(*) FROM intents WHERE settled = 0", [], |row| row.get::<_, i64>(0))?
        .unsigned_abs();
    charges(reader, &mut findings)?;
    days(reader, &mut findings)?;
    connection.execute_batch("COMMIT")?;
    Ok(findings)
}

/// Each charge again, by the price its intent names.
fn charges(reader: &Reader, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut statement = reader.connection().prepare(
        "SELECT i.id, i.basis, i.machine_pico_per_1k, p.price, i.price_table, s.flags, s.cost_pico,
         s.input, s.cached_read, s.cache_write, s.cache_write_1h, s.output, s.reasoning, s.image
         FROM settlements s JOIN intents i ON i.id = s.intent LEFT JOIN prices p
         ON p.price_table = i.price_table AND p.backend = i.backend AND p.model = i.model",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        findings.settled += 1;
        let id: i64 = row.get(0)?;
        let word: String = row.get(1)?;
        let kept = basis(&word, row.get(2)?, row.get::<_, Option<String>>(3)?.as_deref());
        if word == "listed" && kept == Basis::Unpriced {
            let table: String = row.get(4)?;
            findings.problem(format!("attempt {id} was charged by table {table}, whose price is not kept"));
            continue;
        }
        let flags = Flags::from_bits(row.get(5)?);
        let class = |column: usize| row.get::<_, i64>(column).map(i64::unsigned_abs);
        let usage = Usage {
            input: class(7)?,
            cached_read: class(8)?,
            cache_write: class(9)?,
            cache_write_1h: class(10)?,
            output: class(11)?,
            reasoning: class(12)?,
            image: class(13)?,
        };
        let charged = row.get::<_, Option<i64>>(6)?.map(|pico| Money::from_pico(pico.into()));
        // No tokens cost nothing, whatever they would have cost: an unpriced backend that was never reached.
        let expected = if flags.contains(Flags::CACHED) || usage == Usage::default() {
            Some(Money::ZERO)
        } else {
            kept.charge(&usage, flags.contains(Flags::BATCH))
        };
        findings.recomputed += 1;
        if charged != expected {
            let told =
                |money: Option<Money>| money.map_or("no price".to_owned(), |money| format!("${money}"));
            findings.problem(format!(
                "attempt {id} is charged {}, its tokens and price make {}",
                told(charged),
                told(expected)
            ));
        }
    }
    Ok(())
}

/// Daily sums against their rows, where none of these was deleted.
fn days(reader: &Reader, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut statement = reader.connection().prepare(
        "SELECT d.day, d.backend, d.model, d.tenant, d.attempts, d.deleted, coalesce(r.attempts, 0),
         d.input + d.cached_read + d.cache_write + d.cache_write_1h, coalesce(r.input, 0),
         d.output + d.reasoning + d.image, coalesce(r.output, 0), d.cost_pico, coalesce(r.cost, 0)
         FROM days d LEFT JOIN (
             SELECT date(s.at_ms / 1000, 'unixepoch') AS day, i.tenant, i.key, i.experiment, i.region, i.backend,
             i.model, i.external, count(*) AS attempts,
             sum(s.input + s.cached_read + s.cache_write + s.cache_write_1h) AS input,
             sum(s.output + s.reasoning + s.image) AS output, sum(coalesce(s.cost_pico, 0)) AS cost
             FROM settlements s JOIN intents i ON i.id = s.intent GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
         ) r USING (day, tenant, key, experiment, region, backend, model, external)",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (attempts, deleted, found): (i64, i64, i64) = (row.get(4)?, row.get(5)?, row.get(6)?);
        let named = format!(
            "{} backend `{}` model `{}` tenant `{}`",
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, String>(3)?
        );
        if attempts != found + deleted {
            findings.problem(format!(
                "{named}: the daily sum counts {attempts} attempts, there are {found} and {deleted} deleted"
            ));
        }
        for (what, sum, rows) in [("input tokens", 7, 8), ("output tokens", 9, 10), ("pico-dollars", 11, 12)]
        {
            let (sum, rows): (i64, i64) = (row.get(sum)?, row.get(rows)?);
            if deleted == 0 && sum != rows {
                findings.problem(format!("{named}: the daily sum has {sum} {what}, its rows {rows}"));
            }
        }
    }
    Ok(())
}
