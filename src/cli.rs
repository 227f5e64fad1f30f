//! The command line: what was asked for, as values.
//!
//! Owns the flags and what `check` and `schema` print. Never starts a node: `main` hands each command
//! to its owner.

use crate::config;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use llm_router_logic::backend::Kind;
use secrecy::SecretString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Exit code of bad usage and of a bad configuration (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

#[derive(Debug, Parser)]
#[command(
    name = "llm-router",
    version,
    about = "Routes each LLM request to the best backend over three clouds, on live cost, queue, latency and health",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the router is asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one router node
    Serve(ConfigFile),
    /// Run three regions with simulated clusters and providers in this process
    Demo(Demo),
    /// Check a configuration: every problem with its path, exit code 64; 0 when it is good
    Check(ConfigFile),
    /// Run a simulated upstream
    Mock(Mock),
    /// Run beside a llama-server: verify signatures, forward, serve its figures
    Sidecar(ConfigFile),
    /// Print the JSON Schema of the configuration
    Schema,
}

/// The file a command works on.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// YAML file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Options of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// Port of the first region; the next two take the ports after it
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(..=65533))]
    pub port: u16,
    /// Stop after this long, for example `60s`
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Do not open the page in a browser
    #[arg(long)]
    pub no_open: bool,
}

/// Options of `mock`.
#[derive(Args, Debug)]
pub struct Mock {
    /// Which server to stand in for: openai, anthropic, gemini or llama
    #[arg(long, value_parser = kind)]
    pub kind: Kind,
    /// Address to listen on
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// YAML file of faults to show
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// Time to first token, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub ttft_ms: u64,
    /// Tokens per second of one answer
    #[arg(long, value_name = "N", default_value_t = 50.0, value_parser = positive)]
    pub tokens_per_second: f64,
    /// Requests at once; the others wait
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: u32,
    /// Model served; may be given more than once
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,
    /// Key to demand of clients
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<SecretString>,
}

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text)
}

fn kind(word: &str) -> Result<Kind, String> {
    [Kind::OpenAi, Kind::Anthropic, Kind::Gemini, Kind::Llama]
        .into_iter()
        .find(|kind| kind.as_str() == word)
        .ok_or_else(|| "expected `openai`, `anthropic`, `gemini` or `llama`".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// Reads the process's arguments.
///
/// # Errors
/// The exit code where there is nothing to run: 64 for bad usage, 0 after `--help` and `--version`.
/// The text for a person has been printed then.
pub fn parse() -> Result<Command, ExitCode> {
    match Cli::try_parse() {
        Ok(cli) => Ok(cli.command),
        Err(error) => {
            // A closed standard output or error leaves nobody to tell.
            let _ = error.print();
            Err(exit_code(error.kind()))
        }
    }
}

fn exit_code(kind: ErrorKind) -> ExitCode {
    match kind {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_USAGE),
    }
}

/// Runs `check`: `ok: …` on standard output and warnings on standard error, or every problem on
/// standard error and exit code 64.
pub fn check(path: &Path) -> ExitCode {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    report(config::load(path, &config::process_env), &mut out, &mut err)
}

fn report(
    outcome: Result<config::Loaded, config::Problems>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> ExitCode {
    // A closed standard output or error leaves nobody to tell; the exit code still says it.
    match outcome {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                let _ = writeln!(err, "warning: {warning}");
            }
            let (clusters, providers) = loaded.config.counts();
            let _ = writeln!(out, "ok: {clusters} clusters, {providers} providers");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            let _ = writeln!(err, "{problems}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Runs `schema`: the JSON Schema of the configuration on standard output.
pub fn schema() -> ExitCode {
    match writeln!(std::io::stdout().lock(), "{:#}", config::schema()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
