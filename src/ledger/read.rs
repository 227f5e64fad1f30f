//! Reading a ledger, also while a router writes it: sums by what one asks for.

use super::store::signed;
use llm_router_actors::ports::Spent;
use llm_router_logic::cost::day;
use llm_router_logic::money::Money;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How long a reader waits where the file is being recovered.
const BUSY: Duration = Duration::from_secs(5);

/// What rows are put together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grouping {
    /// The day, in UTC.
    Day,
    /// Who pays.
    Tenant,
    /// The key used.
    Key,
    /// The region of the router.
    Region,
    /// The backend.
    Backend,
    /// The model asked of it.
    Model,
    /// The arm of an experiment.
    Experiment,
}

impl Grouping {
    /// All, by the order of the columns in a report.
    pub(super) const ALL: [Self; 7] =
        [Self::Day, Self::Tenant, Self::Key, Self::Region, Self::Backend, Self::Model, Self::Experiment];

    /// The word for it, which is also the column's name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Region => "region",
            Self::Backend => "backend",
            Self::Model => "model",
            Self::Experiment => "experiment",
        }
    }
}

/// Which days are read; both ends belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// The first day.
    pub from: Option<String>,
    /// The last day.
    pub to: Option<String>,
}

/// Sums of attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Requests that ended.
    pub requests: u64,
    /// Attempts made for them.
    pub attempts: u64,
    /// Requests not answered in full.
    pub errors: u64,
    /// Attempts whose tokens are estimated.
    pub estimated: u64,
    /// Attempts without a known price.
    pub unpriced: u64,
    /// Input tokens read from a cache, which `input_tokens` includes.
    pub cached_tokens: u64,
    /// Input tokens of all classes.
    pub input_tokens: u64,
    /// Output tokens of all classes.
    pub output_tokens: u64,
    /// What they cost.
    pub cost: Money,
    /// Of that, at our own clusters.
    pub machine_cost: Money,
    /// What they would have cost at the best external alternative, where there was one.
    pub external: Money,
    /// That less their cost, idle hours not counted.
    pub gross: Money,
}

impl Sums {
    /// Both together.
    #[must_use]
    pub(super) fn merge(mut self, other: &Self) -> Self {
        self.requests += other.requests;
        self.attempts += other.attempts;
        self.errors += other.errors;
        self.estimated += other.estimated;
        self.unpriced += other.unpriced;
        self.cached_tokens += other.cached_tokens;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cost += other.cost;
        self.machine_cost += other.machine_cost;
        self.external += other.external;
        self.gross += other.gross;
        self
    }
}

/// Rows by the values they are grouped by.
pub(super) type Rows = BTreeMap<Vec<String>, Sums>;
/// A machine's paid time (milliseconds) and cost, by day and cluster.
pub(super) type Machines = BTreeMap<(String, String), (u64, Money)>;

/// A ledger open for reading.
#[derive(Debug)]
pub(super) struct Reader {
    connection: Connection,
}

impl Reader {
    /// Opens the file at `path`, which must exist.
    ///
    /// # Errors
    /// In SQLite's words.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = |name: &Path, flags| {
            let connection = Connection::open_with_flags(name, flags)?;
            connection.busy_timeout(BUSY)?;
            // Opening alone does not look at the file.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(Self { connection })
        };
        open(path, flags).or_else(|error: rusqlite::Error| match at_rest(path) {
            // On a read-only disk there is no place for a reader's marks; where nobody writes none is needed.
            Some(name) if is_refused(&error) => {
                open(Path::new(&name), flags | OpenFlags::SQLITE_OPEN_URI).map_err(|_| error)
            }
            _ => Err(error),
        })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Sums by `by`, in order.
    ///
    /// # Errors
    /// In SQLite's words.
    pub(super) fn rows(&self, by: &[Grouping], filter: &Filter) -> rusqlite::Result<Rows> {
        self.rows_where(by, filter, |_, _| true)
    }

    /// Sums by day and model of what external providers served: all of them, or `backend` alone.
    ///
    /// # Errors
    /// In SQLite's words.
    pub(super) fn external_rows(&self, backend: Option<&str>) -> rusqlite::Result<Rows> {
        self.rows_where(&[Grouping::Day, Grouping::Model], &Filter::default(), |name, external| {
            external && backend.is_none_or(|backend| backend == name)
        })
    }

    fn rows_where(
        &self,
        by: &[Grouping],
        filter: &Filter,
        keep: impl Fn(&str, bool) -> bool,
    ) -> rusqlite::Result<Rows> {
        let mut statement = self.connection.prepare(
            "SELECT day, tenant, key, region, backend, model, experiment, external,
             requests, attempts, errors, estimated, unpriced, cached_read,
             input + cached_read + cache_write + cache_write_1h, output + reasoning + image,
             cost_pico, external_pico, gross_pico FROM days WHERE day >= ?1 AND day <= ?2",
        )?;
        let from = filter.from.as_deref().unwrap_or("");
        let to = filter.to.as_deref().unwrap_or("9999-99-99");
        let mut found = statement.query(params![from, to])?;
        let mut rows = Rows::new();
        while let Some(row) = found.next()? {
            if !keep(&row.get::<_, String>(4)?, row.get(7)?) {
                continue;
            }
            let mut names = Vec::with_capacity(by.len());
            for grouping in by {
                let column = Grouping::ALL.iter().position(|known| known == grouping).unwrap_or(0);
                names.push(row.get::<_, String>(column)?);
            }
            let count = |column: usize| row.get::<_, i64>(column).map(i64::unsigned_abs);
            let money = |column: usize| row.get::<_, i64>(column).map(|pico| Money::from_pico(pico.into()));
            let external: bool = row.get(7)?;
            let cost = money(16)?;
            let sums = Sums {
                requests: count(8)?,
                attempts: count(9)?,
                errors: count(10)?,
                estimated: count(11)?,
                unpriced: count(12)?,
                cached_tokens: count(13)?,
                input_tokens: count(14)?,
                output_tokens: count(15)?,
                cost,
                machine_cost: if external { Money::ZERO } else { cost },
                external: money(17)?,
                gross: money(18)?,
            };
            let entry = rows.entry(names).or_default();
            *entry = entry.merge(&sums);
        }
        Ok(rows)
    }

    /// What machines of ours were paid for.
    ///
    /// # Errors
    /// In SQLite's words.
    pub(super) fn machines(&self, filter: &Filter) -> rusqlite::Result<Machines> {
        let mut statement = self
            .connection
            .prepare("SELECT day, cluster, millis, cost_pico FROM machines WHERE day >= ?1 AND day <= ?2")?;
        let from = filter.from.as_deref().unwrap_or("");
        let to = filter.to.as_deref().unwrap_or("9999-99-99");
        let found = statement.query_map(params![from, to], |row| {
            let paid = (row.get::<_, i64>(2)?.unsigned_abs(), Money::from_pico(row.get::<_, i64>(3)?.into()));
            Ok(((row.get(0)?, row.get(1)?), paid))
        })?;
        found.collect()
    }

    /// Money spent since `unix_ms`: what is left of its day row by row, the days after by their sums.
    /// Where rows of that first day were deleted already, all of the day counts: rather too much than
    /// too little.
    ///
    /// # Errors
    /// In SQLite's words.
    pub(super) fn spent_since(&self, unix_ms: u64) -> rusqlite::Result<Spent> {
        let (first, whole) = (day::of(unix_ms), day::of(day::next(unix_ms)));
        let deleted: i64 = self.connection.query_row(
            "SELECT coalesce(sum(deleted), 0) FROM days WHERE day = ?1",
            [&first],
            |row| row.get(0),
        )?;
        let mut spent = Spent::default();
        let days = if deleted > 0 { &first } else { &whole };
        let mut by_day = self.connection.prepare(
            "SELECT tenant, key, external, cost_pico FROM days WHERE day >= ?1 AND cost_pico <> 0",
        )?;
        let mut add = |row: &rusqlite::Row<'_>| -> rusqlite::Result<()> {
            let cost = Money::from_pico(row.get::<_, i64>(3)?.into());
            spent.total += cost;
            if row.get::<_, bool>(2)? {
                spent.external += cost;
            }
            *spent.tenants.entry(row.get(0)?).or_default() += cost;
            *spent.keys.entry(row.get(1)?).or_default() += cost;
            Ok(())
        };
        let mut found = by_day.query([days])?;
        while let Some(row) = found.next()? {
            add(row)?;
        }
        if deleted == 0 {
            let mut by_row = self.connection.prepare(
                "SELECT i.tenant, i.key, i.external, s.cost_pico FROM settlements s JOIN intents i ON i.id = s.intent
                 WHERE s.at_ms >= ?1 AND s.at_ms < ?2 AND s.cost_pico <> 0",
            )?;
            let mut found = by_row.query(params![signed(unix_ms), signed(day::next(unix_ms))])?;
            while let Some(row) = found.next()? {
                add(row)?;
            }
        }
        Ok(spent)
    }
}

/// Whether SQLite was not let do what a reader beside a writer needs.
fn is_refused(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
    )
}

/// The name that opens the file at `path` as one that nobody changes; `None` where its log holds something, or
/// there is no such file.
fn at_rest(path: &Path) -> Option<String> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let is_empty = std::fs::metadata(log).map_or(true, |log| log.len() == 0);
    let path = path.canonicalize().ok()?;
    let name = path.to_str()?.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    is_empty.then(|| format!("file:{name}?immutable=1"))
}
