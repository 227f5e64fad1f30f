//! `llm-router replay`: what each strategy would have cost on a recorded trace.
//!
//! Reads the trace and the configuration, lets `logic::sim` replay it in virtual time and prints the
//! results. Sends nothing anywhere, and needs no secret: those of the configuration may be unset.

mod plot;
mod trouble;

pub(crate) use trouble::trouble;

use crate::cli::{self, ReplayOptions};
use crate::config::{self, Config};
use indicatif::{ProgressBar, ProgressStyle};
use llm_router_logic::sim::{
    Arrival, Backend, Choice, Replayed, Scene, Summary, TraceReader, clairvoyant_bound, replay,
};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Longest line of a trace.
const LINE_BYTES_MAX: usize = 4_096;
/// Most requests of a trace: they are kept in 16 bytes each.
const REQUESTS_MAX: usize = 10_000_000;
/// What stands for a secret that is not set.
const NO_SECRET: &str = "replay-sends-nothing-and-needs-no-secret";

/// What `--json` prints.
#[derive(Serialize)]
struct Results {
    results: Vec<Summary>,
}

/// Runs the command and prints the results.
pub fn run(options: &ReplayOptions) -> ExitCode {
    let loaded = match config::load(&options.config, &env) {
        Ok(loaded) => loaded,
        Err(problems) => return cli::refuse(&problems),
    };
    let scene = scene(&loaded.config, options);
    let read = scene.check().map_err(|error| error.to_string()).and_then(|()| trace(&options.trace));
    let trace = match read {
        Ok(trace) => trace,
        Err(why) => {
            // A closed standard error leaves nobody to tell; the exit code still says it.
            let _ = writeln!(std::io::stderr().lock(), "{why}");
            return ExitCode::from(cli::EXIT_USAGE);
        }
    };
    let results = results(&scene, &trace, options.strategy());
    if let Some(path) = &options.plot
        && let Err(why) =
            plot::svg(&results).and_then(|svg| std::fs::write(path, svg).map_err(|error| error.to_string()))
    {
        // As above.
        let _ = writeln!(std::io::stderr().lock(), "cannot draw `{}`: {why}", path.display());
        return ExitCode::FAILURE;
    }
    let text = if options.json {
        match serde_json::to_string(&Results { results }) {
            Ok(text) => text + "\n",
            Err(_) => return ExitCode::FAILURE,
        }
    } else {
        table(&results, &scene, &trace, &loaded.config)
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The process's environment; secrets that are not set are made up, since none is ever sent.
fn env(name: &str) -> Option<String> {
    let secret = || ["KEY", "SECRET", "TOKEN", "PASSWORD"].iter().any(|word| name.ends_with(word));
    config::process_env(name).or_else(|| secret().then(|| NO_SECRET.to_owned()))
}

fn scene(config: &Config, options: &ReplayOptions) -> Scene {
    let mut policy = config.policy.clone();
    if let Some(target) = options.slo_ttft() {
        policy.slo.ttft = target;
    }
    let simulated = config.backends.iter().zip(&config.simulation.backends);
    Scene {
        backends: simulated
            .map(|(backend, simulated)| Backend {
                spec: Arc::clone(&backend.spec),
                behaviour: simulated.behaviour,
            })
            .collect(),
        region: config.node.region.clone(),
        slo_ttft: policy.slo.ttft,
        policy,
        staleness: config.simulation.staleness,
        deadline: config.timeouts.total,
        probe_interval: config.health_check_interval,
        troubles: options.troubles.clone(),
        seed: options.seed,
    }
}

/// Replays each strategy asked for and sums them up against one bound.
fn results(scene: &Scene, trace: &[Arrival], strategy: Option<Choice>) -> Vec<Summary> {
    let choices = strategy.map_or_else(|| Choice::ALL.to_vec(), |choice| vec![choice]);
    // Drawn on a terminal only.
    let progress = ProgressBar::new(choices.len() as u64 + 1);
    if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {msg}, {eta} left") {
        progress.set_style(style);
    }
    let replayed: Vec<Replayed> = choices
        .iter()
        .map(|choice| {
            progress.set_message(choice.to_string());
            let replayed = replay(scene, trace, *choice);
            progress.inc(1);
            replayed
        })
        .collect();
    progress.set_message("the bound");
    let bound = clairvoyant_bound(scene, trace, &replayed);
    progress.finish_and_clear();
    replayed.iter().map(|replayed| replayed.summary(&bound, scene.slo_ttft)).collect()
}

/// Reads a trace line by line.
fn trace(path: &Path) -> Result<Vec<Arrival>, String> {
    let named = |why: &dyn std::fmt::Display| format!("`{}`: {why}", path.display());
    let file = File::open(path).map_err(|error| named(&format!("cannot read: {error}")))?;
    let arrivals = arrivals(&mut BufReader::new(file), REQUESTS_MAX).map_err(|why| named(&why))?;
    if arrivals.is_empty() {
        return Err(named(&"holds no request"));
    }
    Ok(arrivals)
}

fn arrivals(source: &mut impl BufRead, most: usize) -> Result<Vec<Arrival>, String> {
    let mut reader = TraceReader::default();
    let mut arrivals = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let number = reader.lines() + 1;
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = source.by_ref().take(limit).read_until(b'\n', &mut line);
        match read.map_err(|error| format!("cannot read line {number}: {error}"))? {
            0 => return Ok(arrivals),
            bytes if bytes > LINE_BYTES_MAX => {
                return Err(format!("line {number}: is longer than {LINE_BYTES_MAX} bytes"));
            }
            _ => {}
        }
        let text = std::str::from_utf8(&line).map_err(|_| format!("line {number}: is not UTF-8"))?;
        if let Some(arrival) = reader.line(text).map_err(|error| error.to_string())? {
            if arrivals.len() >= most {
                return Err(format!("line {number}: more than {most} requests (split the trace)"));
            }
            arrivals.push(arrival);
        }
    }
}

/// The results for a person.
fn table(results: &[Summary], scene: &Scene, trace: &[Arrival], config: &Config) -> String {
    let mut text = String::new();
    let secs = trace.last().map_or(0, |last| last.at.micros() / 1_000_000);
    let target_ms = scene.slo_ttft.as_millis();
    let requests = trace.len();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{requests} requests in {secs} s, first token due within {target_ms} ms\n");
    let _ = writeln!(
        text,
        "{:<15} {:>10} {:>10} {:>9} {:>7} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8}",
        "strategy",
        "cost $",
        "saving $",
        "captured",
        "SLO",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "own",
        "refused",
        "failed",
        "retries"
    );
    let millis = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
    for row in results {
        let captured = row.captured_saving.map_or_else(|| "-".to_owned(), |c| format!("{:.1} %", c * 100.0));
        let _ = writeln!(
            text,
            "{:<15} {:>10.4} {:>10.4} {:>9} {:>6.2}% {:>9} {:>8} {:>8} {:>7.1}% {:>8} {:>7} {:>8}",
            row.strategy,
            row.cost_usd.as_usd(),
            row.saving_vs_external_usd.as_usd(),
            captured,
            row.slo_attainment * 100.0,
            millis(row.ttft_ms.p50),
            millis(row.ttft_ms.p95),
            millis(row.ttft_ms.p99),
            row.at_clusters as f64 * 100.0 / requests.max(1) as f64,
            row.refused,
            row.failed_attempts,
            row.retries,
        );
    }
    if let Some(first) = results.first() {
        let external = first.cost_usd + first.saving_vs_external_usd;
        let _ = writeln!(
            text,
            "\nall at the cheapest provider: ${:.4}; no schedule whatever costs less than ${:.4}",
            external.as_usd(),
            first.bound_cost_usd.as_usd()
        );
    }
    let simulated = config.backends.iter().zip(&config.simulation.backends);
    let assumed: Vec<&str> = simulated
        .filter(|(_, simulated)| simulated.assumed)
        .map(|(backend, _)| backend.spec.id.as_str())
        .collect();
    if !assumed.is_empty() {
        let _ = writeln!(
            text,
            "speeds of {} are assumed: give them in the section `simulation`",
            assumed.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_bounded_and_its_mistakes_have_a_line() {
        let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        let row = "2023-11-16 18:15:46.68,374,44\n";
        let read = |text: &[u8], most| arrivals(&mut &*text, most);
        assert_eq!(read(format!("{header}{row}{row}").as_bytes(), 2).map(|all| all.len()), Ok(2));
        let error = read(format!("{header}{row}{row}").as_bytes(), 1).unwrap_err();
        assert!(error.starts_with("line 3: more than 1 requests"), "{error}");
        let long = format!("{header}{}", "x".repeat(10_000));
        assert!(read(long.as_bytes(), 9).unwrap_err().starts_with("line 2: is longer"), "unbounded");
        assert!(read(b"\xff\xfe", 9).unwrap_err().starts_with("line 1: is not UTF-8"), "bytes");
        assert!(read(b"a,b\n", 9).unwrap_err().contains("line 1: expected the header"), "header");
    }
}
