//! The section `ledger`.

use super::Check;
use crate::config::file::LedgerFile;
use crate::config::path::Path;
use crate::config::settings::Ledger;
use llm_router_actors::ledger::{JournalSettings, Posture};
use std::time::Duration;

const RETENTION_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3600);
/// A budget of a month starts from the rows of its first day.
const RETENTION_LEAST: Duration = Duration::from_secs(3600);
const BYTES_DEFAULT: u64 = 4 * 1024 * 1024 * 1024;
/// Less does not hold the tables and a log.
const BYTES_LEAST: u64 = 4 * 1024 * 1024;
const PATIENCE_DEFAULT: Duration = Duration::from_secs(5);

impl Check<'_> {
    pub(super) fn ledger(&mut self, file: LedgerFile) -> Option<Ledger> {
        let at = Path::default().key("ledger");
        let path = self.required(&at.key("path"), file.path, "/var/lib/llm-router/ledger.sqlite");
        if path.as_deref().is_some_and(|path| path.trim().is_empty()) {
            self.findings.problem(&at.key("path"), "is empty (name a file)");
        }
        let retention =
            self.duration(&at.key("retention"), file.retention, RETENTION_DEFAULT, RETENTION_LEAST);
        let max_bytes = file.max_bytes.unwrap_or(BYTES_DEFAULT);
        if max_bytes < BYTES_LEAST {
            self.findings.problem(
                &at.key("maxBytes"),
                format!("must be at least {BYTES_LEAST} bytes, is `{max_bytes}`"),
            );
        }
        let patience = self.timeout(&at.key("commitTimeout"), file.commit_timeout, PATIENCE_DEFAULT);
        let posture = match file.posture.as_deref() {
            None | Some("degraded") => Posture::Degraded,
            Some("closed") => Posture::Closed,
            Some("open") => Posture::Open,
            Some("observe") => Posture::Observe,
            Some(other) => {
                let why = format!("expected `closed`, `degraded`, `open` or `observe`, found `{other}`");
                self.findings.problem(&at.key("posture"), why);
                Posture::Degraded
            }
        };
        let path = self.file_path(&path?);
        Some(Ledger { path, retention, max_bytes, journal: JournalSettings { posture, patience } })
    }
}
