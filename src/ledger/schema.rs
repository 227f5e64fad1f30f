//! The tables and views of a ledger, as a person with sqlite3 finds them.

use llm_router_logic::cost::entry::Flags;
use rusqlite::Connection;

/// The version of the tables below, kept in `PRAGMA user_version`.
pub(super) const VERSION: i64 = 1;

/// The tables. Amounts are whole pico-dollars (10⁻¹² USD), times Unix milliseconds.
const TABLES: &str = "
CREATE TABLE intents (
    id INTEGER PRIMARY KEY,
    request TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    experiment TEXT NOT NULL,
    asked TEXT NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    external INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    predicted_input INTEGER NOT NULL,
    predicted_output INTEGER NOT NULL,
    basis TEXT NOT NULL,
    price_table TEXT,
    machine_pico_per_1k INTEGER,
    settled INTEGER NOT NULL
) STRICT;
CREATE INDEX unsettled ON intents(id) WHERE settled = 0;

CREATE TABLE settlements (
    intent INTEGER PRIMARY KEY REFERENCES intents(id),
    at_ms INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER NOT NULL,
    fault TEXT NOT NULL,
    last INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cached_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    cache_write_1h INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    image INTEGER NOT NULL,
    cost_pico INTEGER,
    external_pico INTEGER,
    flags INTEGER NOT NULL,
    ttft_ms INTEGER,
    duration_ms INTEGER NOT NULL,
    raw_usage TEXT
) STRICT;
CREATE INDEX settlements_at ON settlements(at_ms);

CREATE TABLE prices (
    price_table TEXT NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    price TEXT NOT NULL,
    PRIMARY KEY (price_table, backend, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE days (
    day TEXT NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    experiment TEXT NOT NULL,
    region TEXT NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    external INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cached_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    cache_write_1h INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    image INTEGER NOT NULL,
    cost_pico INTEGER NOT NULL,
    external_pico INTEGER NOT NULL,
    gross_pico INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    PRIMARY KEY (day, tenant, key, experiment, region, backend, model, external)
) STRICT, WITHOUT ROWID;

CREATE TABLE machines (
    day TEXT NOT NULL,
    cluster TEXT NOT NULL,
    millis INTEGER NOT NULL,
    cost_pico INTEGER NOT NULL,
    PRIMARY KEY (day, cluster)
) STRICT, WITHOUT ROWID;
";

/// What people read. Made anew at each opening, so that a new version may change it.
fn views() -> String {
    let flags: Vec<String> =
        Flags::all().map(|(flag, word)| format!("s.flags & {} <> 0 AS {word}", flag.bits())).collect();
    format!(
        "DROP VIEW IF EXISTS requests;
DROP VIEW IF EXISTS daily;
DROP VIEW IF EXISTS machine_days;
CREATE VIEW requests AS SELECT
    i.id, i.request, i.attempt, strftime('%Y-%m-%dT%H:%M:%fZ', i.at_ms / 1000.0, 'unixepoch') AS at,
    i.node, i.region, i.tenant, i.key, i.experiment, i.asked, i.backend, i.model, i.external, i.stream,
    coalesce(s.outcome, 'running') AS outcome, s.status, s.fault, s.last,
    s.input, s.cached_read, s.cache_write + s.cache_write_1h AS cache_write, s.output, s.reasoning, s.image,
    s.input + s.cached_read + s.cache_write + s.cache_write_1h AS input_tokens,
    s.output + s.reasoning + s.image AS output_tokens,
    s.cost_pico / 1e12 AS cost_usd, s.cost_pico, s.external_pico / 1e12 AS external_usd,
    {},
    i.basis, i.price_table, s.ttft_ms, s.duration_ms, s.raw_usage
FROM intents i LEFT JOIN settlements s ON s.intent = i.id;
CREATE VIEW daily AS SELECT
    day, tenant, key, experiment, region, backend, model, external, requests, attempts, errors, estimated,
    unpriced, input + cached_read + cache_write + cache_write_1h AS input_tokens,
    output + reasoning + image AS output_tokens, cost_pico / 1e12 AS cost_usd,
    external_pico / 1e12 AS external_usd, gross_pico / 1e12 AS gross_savings_usd
FROM days;
CREATE VIEW machine_days AS SELECT
    day, cluster, millis / 3600000.0 AS hours, cost_pico / 1e12 AS cost_usd FROM machines;",
        flags.join(", ")
    )
}

/// Makes the tables where there are none and the views as of this version.
///
/// # Errors
/// In SQLite's words; a ledger of a newer version is refused.
pub(super) fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > VERSION {
        let why = format!(
            "its tables are of version {version}, this program knows {VERSION}: use the newer program"
        );
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_SCHEMA),
            Some(why),
        ));
    }
    if version == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.execute_batch(&views())?;
    transaction.commit()
}
