//! `llm-router ledger`: what it is asked for, and its answers on standard output.

use super::read::{Filter, Grouping, Reader};
use super::report::{Report, unreadable};
use super::{export, reconcile, verify};
use crate::cli::{EXIT_USAGE, examples};
use crate::config;
use clap::{Args, Subcommand};
use llm_router_logic::cost::day;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Largest export read.
const EXPORT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What `ledger` does.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Say who spent what: by tenant, model, backend, region, day, key or experiment
    #[command(after_help = examples::LEDGER_REPORT)]
    Report(ReportOptions),
    /// Check that a ledger is whole: its file, its settlements, its charges, its sums
    #[command(after_help = examples::LEDGER_VERIFY)]
    Verify(VerifyOptions),
    /// Compare a ledger with a provider's usage export; exit code 1 where they differ
    #[command(after_help = examples::LEDGER_RECONCILE)]
    Reconcile(ReconcileOptions),
}

/// Which ledgers are read.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["config", "ledger"])))]
struct Ledgers {
    /// YAML file of a node whose `ledger.path` is read; more than one puts a fleet's ledgers together
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// The ledger's own file, where the configuration is not at hand
    #[arg(long, value_name = "FILE")]
    ledger: Vec<PathBuf>,
}

/// Options of `ledger report`.
#[derive(Args, Debug)]
pub struct ReportOptions {
    #[command(flatten)]
    ledgers: Ledgers,
    /// What rows are put together by; several with commas between
    #[arg(long, value_name = "WORDS", value_delimiter = ',', default_value = "backend,model", value_parser = grouping)]
    by: Vec<Grouping>,
    /// First day, `YYYY-MM-DD` in UTC
    #[arg(long, value_name = "DAY", value_parser = a_day)]
    from: Option<String>,
    /// Last day, included
    #[arg(long, value_name = "DAY", value_parser = a_day)]
    to: Option<String>,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Options of `ledger verify`.
#[derive(Args, Debug)]
pub struct VerifyOptions {
    #[command(flatten)]
    ledgers: Ledgers,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Options of `ledger reconcile`.
#[derive(Args, Debug)]
pub struct ReconcileOptions {
    /// The provider's export: JSON pages of its usage or cost API, or CSV; docs/LEDGER.md lists them
    export: PathBuf,
    #[command(flatten)]
    ledgers: Ledgers,
    /// The provider's name in the configuration; all external ones otherwise
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Share two figures may differ by and still agree, for example 0.01
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    tolerance: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn grouping(word: &str) -> Result<Grouping, String> {
    Grouping::ALL.into_iter().find(|grouping| grouping.as_str() == word).ok_or_else(|| {
        let words: Vec<&str> = Grouping::ALL.iter().map(|grouping| grouping.as_str()).collect();
        format!("expected one of {}", words.join(", "))
    })
}

fn a_day(text: &str) -> Result<String, String> {
    if day::is_day(text) { Ok(text.to_owned()) } else { Err("expected a day such as 2026-11-23".to_owned()) }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 to 1".to_owned()),
    }
}

impl Ledgers {
    /// The files asked for.
    fn paths(&self) -> Result<Vec<PathBuf>, ExitCode> {
        let mut paths = self.ledger.clone();
        for file in &self.config {
            let loaded =
                config::load(file, &config::process_env).map_err(|problems| crate::cli::refuse(&problems))?;
            match loaded.config.ledger {
                Some(ledger) => paths.push(ledger.path),
                None => {
                    complain(&format!("`{}` has no section `ledger`: nothing was kept", file.display()));
                    return Err(ExitCode::from(EXIT_USAGE));
                }
            }
        }
        Ok(paths)
    }
}

/// Runs `ledger`: 0 where all is well, 1 where a ledger cannot be read, is not whole or disagrees, 64 for
/// bad usage.
pub fn run(command: &LedgerCommand) -> ExitCode {
    match command {
        LedgerCommand::Report(options) => report(options),
        LedgerCommand::Verify(options) => verify_all(options),
        LedgerCommand::Reconcile(options) => reconcile_with(options),
    }
}

fn report(options: &ReportOptions) -> ExitCode {
    let paths = match options.ledgers.paths() {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let filter = Filter { from: options.from.clone(), to: options.to.clone() };
    let report = match Report::read(&paths, options.by.clone(), &filter) {
        Ok(report) => report,
        Err(why) => return failed(&why),
    };
    let text = if options.json {
        format!("{:#}\n", report.json())
    } else if options.csv {
        report.csv()
    } else {
        report.table()
    };
    print(&text)
}

fn verify_all(options: &VerifyOptions) -> ExitCode {
    let paths = match options.ledgers.paths() {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let mut whole = true;
    let mut found = Vec::new();
    for path in &paths {
        let findings = match Reader::open(path).and_then(|reader| verify::verify(&reader)) {
            Ok(findings) => findings,
            Err(error) => return failed(&unreadable(path, &error)),
        };
        whole &= findings.count == 0;
        found.push((path, findings));
    }
    let text = if options.json {
        let ledgers = found.iter().map(|(path, findings)| {
            json!({
                "ledger": path.display().to_string(), "whole": findings.count == 0, "settled": findings.settled,
                "open": findings.open, "charges_recomputed": findings.recomputed, "problems": findings.count,
                "first_problems": findings.problems,
            })
        });
        format!("{:#}\n", json!({"whole": whole, "ledgers": ledgers.collect::<Vec<_>>()}))
    } else {
        let lines = found.iter().map(|(path, findings)| {
            let verdict =
                if findings.count == 0 { "ok".to_owned() } else { format!("{} problems", findings.count) };
            let mut text = format!(
                "{}: {verdict}, {} attempts settled, {} open, {} charges computed again\n",
                path.display(),
                findings.settled,
                findings.open,
                findings.recomputed
            );
            for problem in &findings.problems {
                text += &format!("  {problem}\n");
            }
            text
        });
        lines.collect()
    };
    let printed = print(&text);
    if whole { printed } else { ExitCode::FAILURE }
}

fn reconcile_with(options: &ReconcileOptions) -> ExitCode {
    let text = match read_export(&options.export) {
        Ok(text) => text,
        Err(why) => return failed(&why),
    };
    let export = match export::read(&text) {
        Ok(export) => export,
        Err(error) => {
            complain(&format!("`{}`: {error}", options.export.display()));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let paths = match options.ledgers.paths() {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let mut rows = super::read::Rows::new();
    for path in &paths {
        let read = Reader::open(path).and_then(|reader| reader.external_rows(options.backend.as_deref()));
        match read {
            Ok(found) => {
                for (names, sums) in found {
                    let entry = rows.entry(names).or_default();
                    *entry = entry.merge(&sums);
                }
            }
            Err(error) => return failed(&unreadable(path, &error)),
        }
    }
    let comparison = reconcile::compare(&rows, &export, options.tolerance);
    let text = if options.json { format!("{:#}\n", comparison.json()) } else { comparison.table() };
    let printed = print(&text);
    if comparison.agrees() { printed } else { ExitCode::FAILURE }
}

fn read_export(path: &Path) -> Result<String, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("cannot read `{}`: {why}", path.display());
    let size = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if size > EXPORT_BYTES_MAX {
        return Err(cannot(&format!("larger than {EXPORT_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| cannot(&error))
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(why: &str) {
    // A closed standard error leaves nobody to tell; the exit code still says it.
    let _ = writeln!(std::io::stderr().lock(), "{why}");
}

fn failed(why: &str) -> ExitCode {
    complain(why);
    ExitCode::FAILURE
}
