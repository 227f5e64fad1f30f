use super::read::{Filter, Grouping, Reader, Sums};
use super::report::Report;
use super::{SqliteLedger, export, reconcile, verify};
use llm_router_actors::ports::{LedgerError, LedgerStorage};
use llm_router_logic::cost::day;
use llm_router_logic::cost::entry::{Basis, Charge, Entry, Flags, Intent, MachineTime, Outcome};
use llm_router_logic::cost::price::TokenPrice;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;
use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// 2026-11-23, noon.
const NOON: u64 = 1_795_392_000_000 + 43_200_000;
const DAY_MS: u64 = 86_400_000;

fn ledger(path: &Path) -> SqliteLedger {
    SqliteLedger::new(path.to_owned(), Duration::from_secs(90 * 24 * 3600), 1 << 30)
}

fn price() -> TokenPrice {
    TokenPrice { table: 0xABCD, ..TokenPrice::flat(Money::from_pico(150_000), Money::from_pico(600_000)) }
}

fn intent(id: i64, at_ms: u64) -> Intent {
    Intent {
        id,
        request: format!("d-{id}"),
        attempt: 1,
        at_ms,
        node: "n".into(),
        region: "r".into(),
        tenant: if id % 2 == 0 { "even" } else { "odd" }.into(),
        key: String::new(),
        experiment: String::new(),
        asked: "auto".into(),
        backend: "openai".into(),
        model: "gpt".into(),
        external: true,
        stream: true,
        input_tokens: 100,
        output_tokens: 10,
        basis: Basis::Listed(Box::new(price())),
    }
}

fn charge(intent: i64, at_ms: u64, usage: Usage) -> Charge {
    Charge {
        intent,
        at_ms,
        outcome: Outcome::Served,
        status: 200,
        fault: String::new(),
        is_last: true,
        usage,
        raw_usage: Some("{\"prompt_tokens\":7}".into()),
        cost: Some(price().charge(&usage, false)),
        external_cost: Some(Money::from_pico(10_000_000)),
        flags: Flags::default(),
        ttft_ms: Some(5),
        duration_ms: 9,
    }
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input, output, ..Usage::default() }
}

fn pair(id: i64, at_ms: u64) -> [Entry; 2] {
    let charge = charge(id, at_ms, usage(7, 3));
    [Entry::Intent(Box::new(intent(id, at_ms))), Entry::Charge(Box::new(charge))]
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.sqlite");
    (directory, path)
}

fn total(path: &Path) -> Sums {
    let rows = Reader::open(path).unwrap().rows(&[], &Filter::default()).unwrap();
    rows.values().fold(Sums::default(), Sums::merge)
}

fn problems(path: &Path) -> Vec<String> {
    verify::verify(&Reader::open(path).unwrap()).unwrap().problems
}

#[test]
fn what_is_written_is_there_and_adds_up() {
    let (_directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    let entries: Vec<Entry> = (1..=10).flat_map(|id| pair(id, NOON)).collect();
    store.commit(&entries).unwrap();
    let sums = total(&path);
    assert_eq!((sums.requests, sums.attempts, sums.errors), (10, 10, 0));
    assert_eq!((sums.input_tokens, sums.output_tokens), (70, 30));
    assert_eq!(sums.cost, Money::from_pico(10 * (7 * 150_000 + 3 * 600_000)));
    assert_eq!(sums.gross, Money::from_pico(10 * (10_000_000 - 2_850_000)));
    assert_eq!(problems(&path), Vec::<String>::new());
    let by_tenant = Reader::open(&path).unwrap().rows(&[Grouping::Tenant], &Filter::default()).unwrap();
    let shown = super::by_tenant(&path, 10).unwrap();
    assert_eq!(shown.iter().map(|one| one.requests).sum::<u64>(), total(&path).requests);
    assert_eq!(shown.iter().map(|one| one.cost_usd).sum::<Money>(), total(&path).cost);
    assert_eq!(shown.len(), by_tenant.len());
    assert!(super::by_tenant(&path, 0).unwrap().is_empty());
    assert_eq!(by_tenant[&vec!["odd".to_owned()]].requests, 5);
    // As a person with sqlite3 sees it.
    let view: (String, String, f64, bool, String) = Connection::open(&path)
        .unwrap()
        .query_row(
            "SELECT at, outcome, cost_usd, estimated, raw_usage FROM requests WHERE id = 3",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .unwrap();
    assert_eq!(view.0, "2026-11-23T12:00:00.000Z");
    assert_eq!((view.1.as_str(), view.2, view.3), ("served", 0.00000285, false));
    assert_eq!(view.4, "{\"prompt_tokens\":7}");
}

#[test]
fn an_attempt_at_an_unpriced_backend_that_was_never_reached_costs_nothing_and_adds_up() {
    let (_directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    let never = Usage::default();
    let intent = Intent { basis: Basis::Unpriced, ..intent(1, NOON) };
    let charge = Charge { outcome: Outcome::Failed, cost: Some(Money::ZERO), ..charge(1, NOON, never) };
    store.commit(&[Entry::Intent(Box::new(intent)), Entry::Charge(Box::new(charge))]).unwrap();
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[test]
fn a_batch_written_twice_counts_once() {
    let (_directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    let entries: Vec<Entry> = (1..=5).flat_map(|id| pair(id, NOON)).collect();
    store.commit(&entries).unwrap();
    store.commit(&entries).unwrap();
    assert_eq!(total(&path).requests, 5);
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[test]
fn what_a_crash_left_open_is_settled_once_and_flagged() {
    let (_directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    let mut entries = Vec::from(pair(1, NOON));
    entries.extend((2..=3).map(|id| Entry::Intent(Box::new(intent(id, NOON)))));
    store.commit(&entries).unwrap();
    drop(store);
    assert_eq!(ledger(&path).open(NOON, false).unwrap().recovered, 0, "not asked to");
    let opened = ledger(&path).open(NOON + 1_000, true).unwrap();
    assert_eq!((opened.recovered, opened.last_id), (2, 3));
    drop(opened);
    assert_eq!(ledger(&path).open(NOON + 2_000, true).unwrap().recovered, 0);
    let sums = total(&path);
    assert_eq!((sums.requests, sums.errors, sums.estimated), (3, 2, 2));
    assert_eq!(sums.input_tokens, 7 + 2 * 100, "charged as predicted");
    assert_eq!(problems(&path), Vec::<String>::new());
    let recovered: i64 = Connection::open(&path)
        .unwrap()
        .query_row(
            "SELECT count(*) FROM requests WHERE recovered AND estimated AND outcome = 'unknown'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(recovered, 2);
}

#[test]
fn a_torn_log_loses_nothing_that_was_committed_before_the_tear() {
    let (directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    for id in 1..=20 {
        store.commit(&pair(id, NOON)).unwrap();
    }
    // A copy of the files as a crash leaves them: the log not folded in, its end torn off or garbage.
    let wal = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    let whole = std::fs::read(wal(&path)).unwrap();
    assert!(whole.len() > 8_192);
    let mut garbage = whole.clone();
    garbage.extend_from_slice(&[0xA5; 5_000]);
    for (name, bytes, least) in
        [("torn", &whole[..whole.len() - 1_000], 19), ("garbage", garbage.as_slice(), 20)]
    {
        let copy = directory.path().join(name);
        std::fs::copy(&path, &copy).unwrap();
        std::fs::write(wal(&copy), bytes).unwrap();
        drop(ledger(&copy).open(NOON, true).unwrap());
        assert!(total(&copy).requests >= least, "{name}: {}", total(&copy).requests);
        assert_eq!(problems(&copy), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn old_attempts_go_and_their_sums_stay() {
    let (_directory, path) = scratch();
    let bounded = SqliteLedger::new(path.clone(), Duration::from_secs(7 * 24 * 3600), 1 << 30);
    let mut store = bounded.open(NOON, true).unwrap().store;
    let entries: Vec<Entry> = (1..=10).flat_map(|id| pair(id, NOON + id.unsigned_abs() * DAY_MS)).collect();
    store.commit(&entries).unwrap();
    let tended = store.tend(NOON + 12 * DAY_MS).unwrap();
    assert_eq!(tended.deleted, 4, "those of the days 1 to 4 are older than a week");
    let rows: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM settlements", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 6);
    assert_eq!((total(&path).requests, total(&path).input_tokens), (10, 70));
    assert_eq!(problems(&path), Vec::<String>::new());
}

#[test]
fn a_ledger_stays_within_its_size() {
    let (_directory, path) = scratch();
    let bounded = SqliteLedger::new(path.clone(), Duration::from_secs(7 * 24 * 3600), 2 << 20);
    let mut store = bounded.open(NOON, true).unwrap().store;
    let entries: Vec<Entry> = (1..=20_000).flat_map(|id| pair(id, NOON)).collect();
    store.commit(&entries).unwrap();
    let tended = store.tend(NOON).unwrap();
    assert!((1_000..19_000).contains(&tended.deleted), "no more than must be: {tended:?}");
    assert_eq!(total(&path).requests, 20_000);
    assert_eq!(problems(&path), Vec::<String>::new());
    // What is still open is never deleted.
    store.commit(&[Entry::Intent(Box::new(intent(30_000, NOON)))]).unwrap();
    store.tend(NOON + 100 * DAY_MS).unwrap();
    drop(store);
    assert_eq!(bounded.open(NOON, true).unwrap().recovered, 1);
}

#[test]
fn spend_since_a_moment_is_exact_within_its_day() {
    let (_directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    let times = [NOON - 1, NOON, NOON + 1, NOON + DAY_MS, NOON - 3 * DAY_MS];
    let entries: Vec<Entry> = times.iter().zip(1..).flat_map(|(at, id)| pair(id, *at)).collect();
    store.commit(&entries).unwrap();
    let one = Money::from_pico(2_850_000);
    let spent = ledger(&path).spent_since(NOON).unwrap();
    assert_eq!((spent.total, spent.external), (one.times(3), one.times(3)));
    assert_eq!(spent.tenants["even"], one.times(2));
    assert_eq!(ledger(&path).spent_since(0).unwrap().total, one.times(5));
    assert!(ledger(Path::new("/nowhere/at/all")).spent_since(0).is_err());
}

#[test]
fn a_wrong_ledger_is_found_out() {
    for (change, told) in [
        ("DELETE FROM intents WHERE id = 2", "settled without an intent"),
        ("UPDATE settlements SET cost_pico = cost_pico + 1 WHERE intent = 2", "its tokens and price make"),
        ("UPDATE settlements SET input = input + 1 WHERE intent = 2", "its tokens and price make"),
        ("DELETE FROM settlements WHERE intent = 2", "the opposite of its settlement"),
        ("UPDATE days SET cost_pico = cost_pico - 1", "pico-dollars"),
        ("DELETE FROM prices", "whose price is not kept"),
        ("UPDATE intents SET request = 'd-1' WHERE id = 2", "shares its request"),
    ] {
        let (_directory, path) = scratch();
        let mut store = ledger(&path).open(NOON, true).unwrap().store;
        store.commit(&(1..=4).flat_map(|id| pair(id, NOON)).collect::<Vec<_>>()).unwrap();
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!("PRAGMA foreign_keys = OFF; {change}"))
            .unwrap();
        let problems = problems(&path);
        assert!(problems.iter().any(|problem| problem.contains(told)), "{change}: {problems:?}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_told_as_such() {
    let (directory, path) = scratch();
    let missing = directory.path().join("no/such/place.sqlite");
    assert!(matches!(ledger(&missing).open(NOON, true), Err(LedgerError::ReadOnly { .. })));
    drop(ledger(&path).open(NOON, true).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let newer = ledger(&path).open(NOON, true).err().unwrap().to_string();
    assert!(newer.contains("version 99"), "{newer}");
    let garbage = directory.path().join("garbage");
    std::fs::File::create(&garbage).unwrap().write_all(&[7; 9_000]).unwrap();
    assert!(matches!(ledger(&garbage).open(NOON, true), Err(LedgerError::Broken { .. })));
}

#[test]
fn the_report_tells_gross_and_net_apart() {
    let (directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    let mut on_machine = intent(2, NOON);
    (on_machine.backend, on_machine.external) = ("c1".into(), false);
    on_machine.basis = Basis::Machine(Money::from_pico(1_000_000));
    let mut charged = charge(2, NOON, usage(0, 3));
    (charged.cost, charged.external_cost) =
        (Some(Money::from_pico(3_000)), Some(Money::from_pico(1_800_000)));
    let hour = MachineTime {
        at_ms: NOON,
        cluster: "c1".into(),
        millis: 3_600_000,
        cost: Money::from_pico(1_000_000),
    };
    let mut entries = Vec::from(pair(1, NOON));
    entries.extend([
        Entry::Intent(Box::new(on_machine)),
        Entry::Charge(Box::new(charged)),
        Entry::Machine(hour.clone()),
    ]);
    store.commit(&entries).unwrap();
    let other = directory.path().join("other.sqlite");
    // Another node of the fleet saw the same machine for a shorter time: it is paid for once.
    let shorter = MachineTime { millis: 1, cost: Money::from_pico(1), ..hour };
    ledger(&other).open(NOON, true).unwrap().store.commit(&[Entry::Machine(shorter)]).unwrap();

    let read = |by: &[Grouping]| {
        Report::read(&[path.clone(), other.clone()], by.to_vec(), &Filter::default()).unwrap()
    };
    let report = read(&[Grouping::Day]).json();
    let pico = |value: &serde_json::Value| (value.as_f64().unwrap() * 1e12).round() as i64;
    let gross = 10_000_000 - 2_850_000 + 1_800_000 - 3_000;
    assert_eq!(pico(&report["total"]["gross_savings_usd"]), gross);
    assert_eq!(pico(&report["total"]["idle_usd"]), 1_000_000 - 3_000);
    assert_eq!(pico(&report["total"]["net_savings_usd"]), gross - 997_000);
    assert_eq!(report["rows"][0]["day"], "2026-11-23");
    assert_eq!(pico(&report["rows"][0]["net_savings_usd"]), gross - 997_000);
    assert_eq!(report["total"]["cost_pico_usd"], json!(2_853_000));
    assert_eq!(report["total"]["requests"], json!(2));

    let by_day = read(&[Grouping::Day]);
    let csv = by_day.csv();
    let (head, row) = (csv.lines().next().unwrap(), csv.lines().nth(1).unwrap());
    assert!(head.ends_with(",gross_savings_usd,idle_usd,net_savings_usd"), "{head}");
    assert!(
        row.ends_with(&format!(
            ",{},{},{}",
            Money::from_pico(gross.into()),
            Money::from_pico(997_000),
            Money::from_pico((gross - 997_000).into())
        )),
        "{row}"
    );
    assert!(by_day.table().contains("net saving $"), "{}", by_day.table());

    let by_backend = read(&[Grouping::Backend, Grouping::Model]);
    assert_eq!(
        by_backend.csv(),
        "backend,model,requests,attempts,errors,estimated,unpriced,input_tokens,cached_tokens,output_tokens,cost_usd,machine_cost_usd,external_equivalent_usd,gross_savings_usd\n\
         c1,gpt,1,1,0,0,0,0,0,3,0.000000003,0.000000003,0.0000018,0.000001797\n\
         openai,gpt,1,1,0,0,0,7,0,3,0.00000285,0,0.00001,0.00000715\n"
    );
    let table = by_backend.table();
    assert!(table.contains("net savings") && table.contains("c1 1.00 h"), "{table}");
    let missing = Report::read(&[directory.path().join("none")], vec![], &Filter::default()).unwrap_err();
    assert!(missing.contains("cannot read ledger"), "{missing}");
}

#[test]
fn a_ledger_is_compared_with_what_its_provider_says() {
    let (_directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    store.commit(&(1..=100).flat_map(|id| pair(id, NOON)).collect::<Vec<_>>()).unwrap();
    // A day the export says nothing of.
    store.commit(&pair(1_000, NOON + DAY_MS)).unwrap();
    let rows = Reader::open(&path).unwrap().external_rows(Some("openai")).unwrap();
    let compare = |text: &str, tolerance| reconcile::compare(&rows, &export::read(text).unwrap(), tolerance);
    let good = "day,model,requests,input_tokens,output_tokens,cost_usd\n2026-11-23,gpt-2026-01-31,100,700,300,0.000285\n";
    assert!(compare(good, 0.0).agrees(), "{}", compare(good, 0.0).table());
    let short = good.replace(",700,", ",693,");
    assert!(compare(&short, 0.02).agrees());
    let comparison = compare(&short, 0.001);
    assert!(!comparison.agrees());
    assert_eq!(comparison.json()["differences"][0]["difference"], json!(7));
    assert!(comparison.table().contains("BEYOND"));
    let unknown = "day,model,input_tokens\n2026-11-23,gpt,700\n2026-11-23,other,5\n";
    assert!(!compare(unknown, 0.01).agrees(), "what the ledger never saw is a difference");
    let costs = r#"{"data":[{"start_time":1795392000,"results":[{"amount":{"value":0.000285}}]}]}"#;
    assert!(compare(costs, 0.0).agrees(), "costs alone, not told by model");
    assert!(Reader::open(&path).unwrap().external_rows(Some("another")).unwrap().is_empty());
}

#[test]
fn a_reader_works_while_the_ledger_is_written() {
    let (_directory, path) = scratch();
    let mut store = ledger(&path).open(NOON, true).unwrap().store;
    let reader = Reader::open(&path).unwrap();
    for id in 1..=50 {
        store.commit(&pair(id, NOON)).unwrap();
        let rows = reader.rows(&[], &Filter::default()).unwrap();
        assert_eq!(rows[&Vec::new()].requests, id.unsigned_abs());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// Whatever is written, in whatever batches, with whatever batches repeated and whatever crashes between:
    /// each attempt counts once, and every sum is that of its rows.
    #[test]
    fn any_history_adds_up(
        attempts in proptest::collection::vec((0u64..5, 0u64..2_000, 0u64..2_000, any::<bool>()), 1..60),
        batch in 1usize..9, repeated in any::<bool>(), crash_every in 2usize..9,
    ) {
        let (_directory, path) = scratch();
        let mut entries = Vec::new();
        let mut expected = Sums::default();
        for (index, (day, input, output, settled)) in attempts.iter().enumerate() {
            let id = i64::try_from(index).unwrap() + 1;
            let at = NOON + day * DAY_MS;
            entries.push(Entry::Intent(Box::new(intent(id, at))));
            let usage = if *settled { usage(*input, *output) } else { usage(100, 10) };
            if *settled {
                entries.push(Entry::Charge(Box::new(charge(id, at, usage))));
            }
            expected.requests += 1;
            expected.input_tokens += usage.total_input();
            expected.output_tokens += usage.total_output();
            expected.cost += price().charge(&usage, false);
        }
        // A crash settles what is open, so a charge that comes after it would be one too many: an intent
        // and its charge stay in one batch, as one that dies takes both or neither.
        let mut store = ledger(&path).open(NOON, true).unwrap().store;
        let mut pairs: Vec<Vec<Entry>> = Vec::new();
        for entry in entries {
            match (&entry, pairs.last_mut()) {
                (Entry::Charge(_), Some(last)) => last.push(entry),
                _ => pairs.push(vec![entry]),
            }
        }
        for (number, batch) in pairs.chunks(batch).enumerate() {
            let batch = batch.concat();
            store.commit(&batch).unwrap();
            if repeated {
                store.commit(&batch).unwrap();
            }
            if number % crash_every == 0 {
                drop(store);
                store = ledger(&path).open(NOON, true).unwrap().store;
            }
        }
        drop(store);
        drop(ledger(&path).open(NOON, true).unwrap());
        let sums = total(&path);
        prop_assert_eq!(sums.requests, expected.requests);
        prop_assert_eq!(sums.input_tokens, expected.input_tokens);
        prop_assert_eq!(sums.output_tokens, expected.output_tokens);
        prop_assert_eq!(sums.cost, expected.cost);
        prop_assert_eq!(problems(&path), Vec::<String>::new());
        let days = Reader::open(&path).unwrap().rows(&[Grouping::Day], &Filter::default()).unwrap();
        prop_assert!(days.keys().all(|names| day::is_day(&names[0])));
    }

    /// Sums may be put together in any order.
    #[test]
    fn merging_sums_has_no_order(figures in proptest::collection::vec((0u64..1_000, -1_000i128..1_000), 1..20), at in 0usize..20) {
        let sums: Vec<Sums> = figures
            .iter()
            .map(|(count, pico)| Sums { requests: *count, cost: Money::from_pico(*pico), ..Sums::default() })
            .collect();
        let all = |sums: &[Sums]| sums.iter().fold(Sums::default(), Sums::merge);
        let (left, right) = sums.split_at(at.min(sums.len()));
        prop_assert_eq!(all(&sums), all(right).merge(&all(left)));
    }
}
