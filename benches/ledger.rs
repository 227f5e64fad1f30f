//! A ledger of a million attempts: how long a start over it takes after a crash, a report, a check, and what
//! its bounds delete.
//!
//! `cargo bench --bench ledger`, with `LEDGER_ROWS` for another number.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for a person")]

use llm_router::ledger::{SqliteLedger, verify};
use llm_router_actors::ports::{LedgerStorage, LedgerStore};
use llm_router_logic::cost::entry::{Basis, Charge, Entry, Flags, Intent, Outcome};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Attempts in the file.
const ROWS: i64 = 1_000_000;
/// Of these, under way when the router died; many more than run at once on one node.
const OPEN: i64 = 10_000;
/// How many days they are of.
const DAYS: u64 = 30;
const DAY_MS: u64 = 86_400_000;
/// When the last was made.
const END_MS: u64 = 20_780 * DAY_MS + DAY_MS / 2;
/// What a start may take.
const LIMIT: Duration = Duration::from_secs(2);

fn attempt(id: i64, rows: i64) -> (Entry, Entry) {
    let nth = id.unsigned_abs();
    let at_ms = END_MS - (rows - id).unsigned_abs() * (DAYS * DAY_MS) / rows.unsigned_abs();
    let external = !nth.is_multiple_of(3);
    let usage = Usage { input: 100 + nth % 900, output: 20 + nth % 400, ..Usage::default() };
    let per_1k = Money::from_pico(2_000_000_000);
    let intent = Intent {
        id,
        request: format!("d-{nth:016x}"),
        attempt: 1,
        at_ms,
        node: "node-a".into(),
        region: "us-west-2".into(),
        tenant: format!("tenant-{}", nth % 50),
        key: format!("key-{}", nth % 200),
        experiment: String::new(),
        asked: "auto".into(),
        backend: format!("backend-{}", nth % 9),
        model: format!("model-{}", nth % 12),
        external,
        stream: nth.is_multiple_of(2),
        input_tokens: 500,
        output_tokens: 200,
        basis: Basis::Machine(per_1k),
    };
    let cost = intent.basis.charge(&usage, false);
    let charge = Charge {
        intent: id,
        at_ms: at_ms + 900,
        outcome: Outcome::Served,
        status: 200,
        fault: String::new(),
        is_last: true,
        usage,
        raw_usage: Some(format!(
            "{{\"prompt_tokens\":{},\"completion_tokens\":{}}}",
            usage.input, usage.output
        )),
        cost,
        external_cost: cost,
        flags: Flags::default(),
        ttft_ms: Some(300),
        duration_ms: 900,
    };
    (Entry::Intent(Box::new(intent)), Entry::Charge(Box::new(charge)))
}

fn ledger(path: &Path, retention: Duration, max_bytes: u64) -> SqliteLedger {
    SqliteLedger::new(path.to_owned(), retention, max_bytes)
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = act();
    println!("{what}: {:.2?}", started.elapsed());
    done
}

fn build(store: &mut dyn LedgerStore, rows: i64) {
    let mut batch = Vec::new();
    for id in 1..=rows {
        let (intent, charge) = attempt(id, rows);
        batch.push(intent);
        if id <= rows - OPEN.min(rows / 2) {
            batch.push(charge);
        }
        if batch.len() >= 4_000 || id == rows {
            store.commit(&batch).unwrap();
            batch.clear();
        }
    }
}

/// Copies the file and its log as they are, as a crash leaves them.
fn crash(path: &Path, to: &Path) -> PathBuf {
    for suffix in ["", "-wal"] {
        let of = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        std::fs::copy(of(path), of(to)).unwrap();
    }
    to.to_owned()
}

fn main() {
    // `cargo test --benches` asks every target for its tests; there are none here.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let rows = std::env::var("LEDGER_ROWS").map_or(ROWS, |rows| rows.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.sqlite");
    let whole = |path: &Path| ledger(path, Duration::from_secs(90 * 86_400), u64::MAX);
    let mut open = whole(&path).open(END_MS, true).unwrap();
    timed(&format!("{rows} attempts written"), || build(open.store.as_mut(), rows));
    let died = crash(&path, &directory.path().join("died.sqlite"));
    drop(open);

    let started = Instant::now();
    let opened = whole(&died).open(END_MS + 60_000, true).unwrap();
    let took = started.elapsed();
    println!(
        "start after a crash: {took:.2?}, {} attempts settled by estimate, {} days taken over ({})",
        opened.recovered,
        opened.days.len(),
        if took <= LIMIT { "within 2 s" } else { "TOO LONG" }
    );
    drop(opened);
    let opened = timed("start after a clean end", || whole(&died).open(END_MS + 60_000, true).unwrap());
    drop(opened);
    timed("spend since half a day ago", || whole(&died).spent_since(END_MS - DAY_MS / 2 + 1).unwrap());
    let problems = timed("verify", || verify(&died).unwrap());
    println!("  {} problems", problems.len());
    let size = std::fs::metadata(&died).unwrap().len();
    println!("file: {:.0} MB, {} bytes an attempt", size as f64 / 1e6, size / rows.unsigned_abs());

    let mut store =
        ledger(&died, Duration::from_secs(29 * 86_400), u64::MAX).open(END_MS, true).unwrap().store;
    let tended = timed("a day's attempts deleted by age", || store.tend(END_MS).unwrap());
    println!("  {} deleted", tended.deleted);
    let mut store =
        ledger(&died, Duration::from_secs(90 * 86_400), size / 2).open(END_MS, true).unwrap().store;
    let tended = timed("half of the file deleted by size", || store.tend(END_MS).unwrap());
    println!("  {} deleted, {:.0} MB left", tended.deleted, tended.bytes as f64 / 1e6);
}
