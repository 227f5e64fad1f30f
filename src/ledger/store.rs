//! The open ledger: batches in, as transactions that are durable when they return.

use super::{failure, schema};
use llm_router_actors::ports::{LedgerError, LedgerStore, Tended};
use llm_router_logic::cost::day;
use llm_router_logic::cost::entry::{Basis, Charge, Entry, Flags, Intent, MachineTime, Outcome};
use llm_router_logic::money::Money;
use rusqlite::{Connection, OpenFlags, Row, Transaction, TransactionBehavior, params};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a writer waits for another process that writes, such as a backup.
const BUSY: Duration = Duration::from_secs(5);
/// The log is folded into the file at this many pages of 4 KiB.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Attempts deleted by one transaction, so that nobody waits long behind it.
const DELETED_AT_ONCE: i64 = 2_000;
/// Price tables remembered as written; then they are looked up again.
const TABLES_KNOWN_MAX: usize = 4_096;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Attempts older than this go.
    pub(super) retention: Duration,
    /// And the oldest beyond this size.
    pub(super) max_bytes: u64,
}

/// An open ledger.
pub(super) struct Store {
    connection: Connection,
    path: PathBuf,
    bounds: Bounds,
    known: HashSet<(u64, String, String)>,
}

impl Store {
    /// Opens or makes the file at `path`.
    pub(super) fn open(path: &Path, bounds: Bounds) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        // Before the first table: freed pages go back to the disk when old rows are deleted.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
        connection.set_prepared_statement_cache_capacity(32);
        schema::prepare(&mut connection)?;
        Ok(Self { connection, path: path.to_owned(), bounds, known: HashSet::new() })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Writes all of `batch`, or nothing.
    pub(super) fn write(&mut self, batch: &[Entry]) -> rusqlite::Result<()> {
        if self.known.len() > TABLES_KNOWN_MAX {
            self.known.clear();
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut days = Days::default();
        for entry in batch {
            match entry {
                Entry::Intent(intent) => write_intent(&transaction, intent, &mut self.known)?,
                Entry::Charge(charge) => write_charge(&transaction, charge, &mut days)?,
                Entry::Machine(time) => write_machine(&transaction, time)?,
            }
        }
        days.write(&transaction)?;
        let committed = transaction.commit();
        if committed.is_err() {
            // What was thought to be written may be gone with the transaction.
            self.known.clear();
        }
        committed
    }

    fn bytes(&self) -> u64 {
        let size = |suffix: &str| {
            let mut path = self.path.clone().into_os_string();
            path.push(suffix);
            std::fs::metadata(path).map_or(0, |file| file.len())
        };
        size("") + size("-wal")
    }

    /// Bytes in use: pages that were freed wait in the file for new rows.
    fn used(&self) -> rusqlite::Result<u64> {
        let read = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = read("page_count")?.saturating_sub(read("freelist_count")?);
        Ok(pages.unsigned_abs().saturating_mul(read("page_size")?.unsigned_abs()))
    }

    /// Deletes the settled attempts below `id`, at most so many as one transaction may.
    fn delete_below(&mut self, id: i64) -> rusqlite::Result<u64> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut deleted: BTreeMap<Group, i64> = BTreeMap::new();
        {
            let mut statement = transaction.prepare_cached(
                "SELECT i.id, s.at_ms, i.tenant, i.key, i.experiment, i.region, i.backend, i.model, i.external
                 FROM intents i JOIN settlements s ON s.intent = i.id WHERE i.id < ?1 ORDER BY i.id LIMIT ?2",
            )?;
            let rows = statement.query_map(params![id, DELETED_AT_ONCE], |row| {
                let at_ms = row.get::<_, i64>("at_ms")?.unsigned_abs();
                Ok((row.get::<_, i64>("id")?, Group::from_row(row, at_ms)?))
            })?;
            let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let mut delete_charge =
                transaction.prepare_cached("DELETE FROM settlements WHERE intent = ?1")?;
            let mut delete_intent = transaction.prepare_cached("DELETE FROM intents WHERE id = ?1")?;
            for (id, group) in rows {
                delete_charge.execute([id])?;
                delete_intent.execute([id])?;
                *deleted.entry(group).or_default() += 1;
            }
            // The sums stay; that some of their rows are gone is noted, for who compares the two.
            let mut note = transaction.prepare_cached(
                "UPDATE days SET deleted = deleted + ?9 WHERE day = ?1 AND tenant = ?2 AND key = ?3 AND experiment = ?4
                 AND region = ?5 AND backend = ?6 AND model = ?7 AND external = ?8",
            )?;
            for (group, count) in &deleted {
                note.execute(params![
                    group.day,
                    group.tenant,
                    group.key,
                    group.experiment,
                    group.region,
                    group.backend,
                    group.model,
                    group.external,
                    count
                ])?;
            }
        }
        transaction.commit()?;
        Ok(deleted.values().sum::<i64>().unsigned_abs())
    }

    fn keep_within_bounds(&mut self, now_unix_ms: u64) -> rusqlite::Result<Tended> {
        let oldest = now_unix_ms.saturating_sub(llm_router_logic::time::millis(self.bounds.retention));
        // Ids rise with time: those of attempts begun before then are below this one.
        let aged: Option<i64> = self.connection.query_row(
            "SELECT max(intent) + 1 FROM settlements WHERE at_ms < ?1",
            [signed(oldest)],
            |row| row.get(0),
        )?;
        let mut deleted = 0;
        if let Some(aged) = aged {
            // The whole of what has aged since the last time, in bites.
            loop {
                let bite = self.delete_below(aged)?;
                deleted += bite;
                if bite < DELETED_AT_ONCE.unsigned_abs() {
                    break;
                }
            }
        }
        if deleted > 0 {
            self.give_back()?;
        }
        // Size: a bite at a time, until it fits or nothing settled is left.
        while self.used()? > self.bounds.max_bytes {
            let bite = self.delete_below(i64::MAX)?;
            deleted += bite;
            self.give_back()?;
            if bite == 0 {
                break;
            }
        }
        Ok(Tended { bytes: self.bytes(), deleted })
    }

    /// Returns freed pages to the file system.
    fn give_back(&self) -> rusqlite::Result<()> {
        {
            // Each step frees one page.
            let mut vacuum = self.connection.prepare("PRAGMA incremental_vacuum")?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
        }
        self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
    }
}

impl LedgerStore for Store {
    fn commit(&mut self, batch: &[Entry]) -> Result<(), LedgerError> {
        self.write(batch).map_err(|error| failure(&self.path, &error))
    }

    fn tend(&mut self, now_unix_ms: u64) -> Result<Tended, LedgerError> {
        self.keep_within_bounds(now_unix_ms).map_err(|error| failure(&self.path, &error))
    }
}

/// SQLite's integers have a sign and 63 bits; beyond 9.2 million dollars an amount stops there.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn pico(money: Money) -> i64 {
    i64::try_from(money.pico()).unwrap_or(if money < Money::ZERO { i64::MIN } else { i64::MAX })
}

/// The text of a price table's hash.
pub(super) fn table_text(table: u64) -> String {
    format!("{table:016x}")
}

fn write_intent(
    transaction: &Transaction<'_>,
    intent: &Intent,
    known: &mut HashSet<(u64, String, String)>,
) -> rusqlite::Result<()> {
    let (basis, table, per_1k) = match &intent.basis {
        Basis::Unpriced => ("unpriced", None, None),
        Basis::Free => ("free", None, None),
        Basis::Machine(per_1k) => ("machine", None, Some(pico(*per_1k))),
        Basis::Listed(price) => ("listed", Some(price), None),
    };
    if let Some(price) = table {
        let name = (price.table, intent.backend.clone(), intent.model.clone());
        if !known.contains(&name) {
            let text = super::price::write(price).to_string();
            let mut insert =
                transaction.prepare_cached("INSERT OR IGNORE INTO prices VALUES (?1, ?2, ?3, ?4, ?5)")?;
            let hash = table_text(price.table);
            insert.execute(params![hash, intent.backend, intent.model, signed(intent.at_ms), text])?;
            known.insert(name);
        }
    }
    let mut insert = transaction.prepare_cached(
        "INSERT OR IGNORE INTO intents VALUES
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, 0)",
    )?;
    insert.execute(params![
        intent.id,
        intent.request,
        intent.attempt,
        signed(intent.at_ms),
        intent.node,
        intent.region,
        intent.tenant,
        intent.key,
        intent.experiment,
        intent.asked,
        intent.backend,
        intent.model,
        intent.external,
        intent.stream,
        intent.input_tokens,
        intent.output_tokens,
        basis,
        table.map(|price| table_text(price.table)),
        per_1k,
    ])?;
    Ok(())
}

fn write_charge(transaction: &Transaction<'_>, charge: &Charge, days: &mut Days) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT OR IGNORE INTO settlements
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19
         WHERE EXISTS (SELECT 1 FROM intents WHERE id = ?1)",
    )?;
    let usage = &charge.usage;
    let inserted = insert.execute(params![
        charge.intent,
        signed(charge.at_ms),
        charge.outcome.as_str(),
        charge.status,
        charge.fault,
        charge.is_last,
        signed(usage.input),
        signed(usage.cached_read),
        signed(usage.cache_write),
        signed(usage.cache_write_1h),
        signed(usage.output),
        signed(usage.reasoning),
        signed(usage.image),
        charge.cost.map(pico),
        charge.external_cost.map(pico),
        charge.flags.bits(),
        charge.ttft_ms.map(signed),
        signed(charge.duration_ms),
        charge.raw_usage,
    ])?;
    transaction.prepare_cached("UPDATE intents SET settled = 1 WHERE id = ?1")?.execute([charge.intent])?;
    // There already: this batch was written before, and so were its sums.
    if inserted == 0 {
        return Ok(());
    }
    let mut select = transaction.prepare_cached(
        "SELECT tenant, key, experiment, region, backend, model, external FROM intents WHERE id = ?1",
    )?;
    let group = select.query_row([charge.intent], |row| Group::from_row(row, charge.at_ms))?;
    days.add(group, charge);
    Ok(())
}

fn write_machine(transaction: &Transaction<'_>, time: &MachineTime) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO machines VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
         SET millis = millis + excluded.millis, cost_pico = cost_pico + excluded.cost_pico",
    )?;
    upsert.execute(params![day::of(time.at_ms), time.cluster, signed(time.millis), pico(time.cost)])?;
    Ok(())
}

/// What daily sums are grouped by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    day: String,
    tenant: String,
    key: String,
    experiment: String,
    region: String,
    backend: String,
    model: String,
    external: bool,
}

impl Group {
    /// The group of an attempt settled at `at_ms`, from the columns of its intent.
    fn from_row(row: &Row<'_>, at_ms: u64) -> rusqlite::Result<Self> {
        Ok(Self {
            day: day::of(at_ms),
            tenant: row.get("tenant")?,
            key: row.get("key")?,
            experiment: row.get("experiment")?,
            region: row.get("region")?,
            backend: row.get("backend")?,
            model: row.get("model")?,
            external: row.get("external")?,
        })
    }
}

/// Sums of one batch, in the order of the columns: requests, attempts, errors, estimated, unpriced, the
/// seven classes, cost, external, gross.
#[derive(Default)]
struct Days(BTreeMap<Group, [i64; 15]>);

impl Days {
    fn add(&mut self, group: Group, charge: &Charge) {
        let usage = &charge.usage;
        let failed = charge.is_last && charge.outcome != Outcome::Served;
        // What was tried for nothing is paid for and saves nothing.
        let gross = charge.cost.zip(charge.external_cost).map(|(cost, external)| external - cost);
        let added = [
            i64::from(charge.is_last),
            1,
            i64::from(failed),
            i64::from(charge.flags.contains(Flags::ESTIMATED)),
            i64::from(charge.flags.contains(Flags::UNPRICED)),
            signed(usage.input),
            signed(usage.cached_read),
            signed(usage.cache_write),
            signed(usage.cache_write_1h),
            signed(usage.output),
            signed(usage.reasoning),
            signed(usage.image),
            charge.cost.map_or(0, pico),
            charge.external_cost.map_or(0, pico),
            gross.map_or(0, pico),
        ];
        let sums = self.0.entry(group).or_default();
        for (sum, added) in sums.iter_mut().zip(added) {
            *sum = sum.saturating_add(added);
        }
    }

    fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut upsert = transaction.prepare_cached(
            "INSERT INTO days VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, 0)
             ON CONFLICT DO UPDATE SET
             requests = requests + excluded.requests, attempts = attempts + excluded.attempts,
             errors = errors + excluded.errors, estimated = estimated + excluded.estimated,
             unpriced = unpriced + excluded.unpriced, input = input + excluded.input,
             cached_read = cached_read + excluded.cached_read, cache_write = cache_write + excluded.cache_write,
             cache_write_1h = cache_write_1h + excluded.cache_write_1h, output = output + excluded.output,
             reasoning = reasoning + excluded.reasoning, image = image + excluded.image,
             cost_pico = cost_pico + excluded.cost_pico, external_pico = external_pico + excluded.external_pico,
             gross_pico = gross_pico + excluded.gross_pico",
        )?;
        for (group, sums) in &self.0 {
            let Group { day, tenant, key, experiment, region, backend, model, external } = group;
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = sums;
            upsert.execute(params![
                day, tenant, key, experiment, region, backend, model, external, a, b, c, d, e, f, g, h, i, j,
                k, l, m, n, o
            ])?;
        }
        Ok(())
    }
}
