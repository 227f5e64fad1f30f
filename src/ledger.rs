//! The ledger on disk: one SQLite file that a person may open with sqlite3 while the router runs.
//!
//! Owns the file, its tables, their bounds, and the commands that read it. It implements the storage
//! that the actors' ledger asks for; what an attempt is charged is decided elsewhere. docs/LEDGER.md
//! describes the tables.

mod command;
mod export;
mod kept;
mod price;
mod read;
mod reconcile;
mod recover;
mod report;
mod schema;
mod store;
mod tenants;
mod verify;

#[cfg(test)]
mod tests;

pub use command::{LedgerCommand, run};
pub use tenants::{TenantSums, by_tenant};

use read::Reader;

use llm_router_actors::ports::{LedgerError, LedgerStorage, OpenLedger, Spent};
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::{Bounds, Store};

/// A ledger's file and what is kept in it.
#[derive(Clone, Debug)]
pub struct SqliteLedger {
    path: PathBuf,
    bounds: Bounds,
}

impl SqliteLedger {
    /// The ledger at `path`; attempts older than `retention`, or the oldest beyond `max_bytes` of
    /// file, are deleted, their daily sums kept.
    pub fn new(path: PathBuf, retention: Duration, max_bytes: u64) -> Self {
        Self { path, bounds: Bounds { retention, max_bytes } }
    }
}

/// What is wrong with the ledger at `path`, in words; nothing where it is whole and adds up.
///
/// # Errors
/// Why it cannot be read.
pub fn verify(path: &Path) -> Result<Vec<String>, LedgerError> {
    let findings = Reader::open(path).and_then(|reader| verify::verify(&reader));
    findings.map(|findings| findings.problems).map_err(|error| failure(path, &error))
}

impl LedgerStorage for SqliteLedger {
    fn open(&self, now_unix_ms: u64, recover: bool) -> Result<OpenLedger, LedgerError> {
        let open = || {
            let mut store = Store::open(&self.path, self.bounds)?;
            let recovered = if recover { recover::settle_the_unsettled(&mut store, now_unix_ms)? } else { 0 };
            let last_id =
                store
                    .connection()
                    .query_row("SELECT coalesce(max(id), 0) FROM intents", [], |row| row.get(0))?;
            let days = if recover { kept::days(&store, now_unix_ms)? } else { Vec::new() };
            Ok(OpenLedger { store: Box::new(store), last_id, recovered, days })
        };
        open().map_err(|error| failure(&self.path, &error))
    }

    fn spent_since(&self, unix_ms: u64) -> Result<Spent, LedgerError> {
        Reader::open(&self.path)
            .and_then(|reader| reader.spent_since(unix_ms))
            .map_err(|error| failure(&self.path, &error))
    }
}

/// What SQLite says, by what a person can do about it.
fn failure(path: &Path, error: &rusqlite::Error) -> LedgerError {
    use rusqlite::ErrorCode;
    let (file, why) = (path.display().to_string(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => LedgerError::Full { file, why },
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            LedgerError::ReadOnly { file, why }
        }
        _ => LedgerError::Broken { file, why },
    }
}
