//! The command line: what was asked for, as values.
//!
//! Owns the flags and what `check`, `schema` and `certs` print. Never starts a node: `main` hands each command
//! to its owner.

pub(crate) mod examples;

use crate::certs::{self, CertsError};
use crate::config;
use crate::keys::KeysCommand;
use crate::ledger::LedgerCommand;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use llm_router_logic::backend::Kind;
use llm_router_logic::route::Strategy;
use llm_router_logic::sim::{Choice, Trouble, UnknownChoice};
use secrecy::SecretString;
use serde_json::json;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
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
    #[command(after_help = examples::SERVE)]
    Serve(ConfigFile),
    /// Run three regions with simulated clusters and providers in this process
    #[command(after_help = examples::DEMO)]
    Demo(Demo),
    /// Check a configuration: every problem with its path, exit code 64; 0 when it is good
    #[command(after_help = examples::CHECK)]
    Check(CheckOptions),
    /// Say who would serve a request, and why, without sending it
    #[command(after_help = examples::EXPLAIN)]
    Explain(ExplainOptions),
    /// Say what each strategy would have cost on a recorded trace
    #[command(after_help = examples::REPLAY)]
    Replay(ReplayOptions),
    /// Run a simulated upstream
    #[command(after_help = examples::MOCK)]
    Mock(Mock),
    /// Run beside a llama-server: verify signatures, forward, serve its figures
    #[command(after_help = examples::SIDECAR)]
    Sidecar(ConfigFile),
    /// Make, list and revoke the keys clients carry
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Report, check and compare what requests have cost
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Print the JSON Schema of the configuration
    #[command(after_help = examples::SCHEMA)]
    Schema,
    /// Make the certificates routers prove themselves to each other with
    #[command(subcommand)]
    Certs(Certs),
    /// Print what a shell needs to complete commands, options and words
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// Shell to complete in
        shell: Shell,
    },
}

/// What `certs` makes.
#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Make a cluster's certificate authority: `ca.pem` and `ca.key`
    #[command(after_help = examples::CERTS_INIT)]
    Init {
        /// Directory to make it in
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Cluster it is for, `gossip.clusterId` of its nodes
        #[arg(long, value_name = "NAME", default_value = "llm-router")]
        cluster_id: String,
        /// Print the paths as JSON
        #[arg(long)]
        json: bool,
    },
    /// Issue or renew a node's certificate: `NODE.pem` and `NODE.key`, with `ca.pem` beside them
    #[command(after_help = examples::CERTS_ISSUE)]
    Issue {
        /// Directory of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The node's `node.name`
        #[arg(long, value_name = "NAME")]
        node: String,
        /// Days it holds
        #[arg(long, value_name = "N", default_value_t = certs::NODE_DAYS)]
        days: u32,
        /// DNS name the node is reached at too; may be given more than once
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// Address the node is reached at too; may be given more than once
        #[arg(long, value_name = "IP")]
        ip: Vec<IpAddr>,
        /// Directory to write to; default: the authority's
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print the paths as JSON
        #[arg(long)]
        json: bool,
    },
}

/// The file a command works on.
#[derive(Args, Debug)]
pub struct ConfigFile {
    /// YAML file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Options of `check`.
#[derive(Args, Debug)]
pub struct CheckOptions {
    /// YAML file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON: `ok`, `summary`, `problems` and `warnings`, each with `path`, `message` and `line`
    #[arg(long)]
    pub json: bool,
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
    /// Password that the pages ask for; better from the environment than on the command line
    #[arg(long, env = "LLM_ROUTER_DEMO_PASSWORD", hide_env_values = true)]
    pub password: Option<SecretString>,
}

/// Options of `explain`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["config", "url"])))]
pub struct ExplainOptions {
    /// YAML file: looks at its backends once and decides as a node that has just started would
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Admin listener of a running node, for example `http://127.0.0.1:9090`: decides on its view
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The request's JSON body as a client would send it; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub request: PathBuf,
    /// The route it would be sent to, for example `/v1/messages`; guessed from the body otherwise
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Decide by this strategy instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub strategy: Option<Strategy>,
    /// Do not look at the backends: decide on the file alone
    #[arg(long, conflicts_with = "url")]
    pub no_probe: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The node's admin token
    #[arg(long, value_name = "TOKEN", env = "LLM_ROUTER_ADMIN_TOKEN", hide_env_values = true)]
    pub token: Option<SecretString>,
}

/// Options of `replay`.
#[derive(Args, Debug)]
pub struct ReplayOptions {
    /// YAML file; its section `simulation` says how fast the backends are
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Trace in the format of Azure's LLM inference traces: TIMESTAMP,ContextTokens,GeneratedTokens
    #[arg(long, value_name = "CSV")]
    pub trace: PathBuf,
    /// One strategy or baseline by name, or `all`
    #[arg(long, value_name = "NAME", default_value = "all", value_parser = choice)]
    strategy: AllOr,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Draw the results as SVG: cost against attainment, and times to first token
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Seed of the providers' latencies and of ties
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Time to first token that counts as attained; `router.sloTtftMs` otherwise
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    slo_ttft_ms: Option<u64>,
    /// What befalls a backend: WHOM=WHAT@FROM..TO, for example `openai=outage@10m..15m`; may be repeated
    #[arg(long = "trouble", value_name = "TROUBLE", value_parser = crate::replay::trouble)]
    pub troubles: Vec<Trouble>,
}

impl ReplayOptions {
    /// The strategy asked for; `None` = all.
    pub fn strategy(&self) -> Option<Choice> {
        self.strategy.0
    }

    /// The target asked for.
    pub fn slo_ttft(&self) -> Option<Duration> {
        self.slo_ttft_ms.map(Duration::from_millis)
    }
}

/// A strategy or, for `None`, all.
#[derive(Clone, Copy, Debug)]
struct AllOr(Option<Choice>);

fn choice(word: &str) -> Result<AllOr, UnknownChoice> {
    if word == "all" { Ok(AllOr(None)) } else { word.parse().map(|choice| AllOr(Some(choice))) }
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
/// standard error and exit code 64. As JSON all of it goes to standard output. A file with nothing but a
/// sidecar's section is checked as such.
pub fn check(options: &CheckOptions) -> ExitCode {
    let path = &options.config;
    let checked = if config::is_for_sidecar(path) {
        config::load_sidecar(path)
            .map(|(sidecar, warnings)| (format!("sidecar `{}`", sidecar.name), warnings))
    } else {
        config::load(path, &config::process_env).map(|loaded| (summary(&loaded.config), loaded.warnings))
    };
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    if options.json {
        report_json(checked.as_ref(), &mut out)
    } else {
        report(checked.as_ref(), &mut out, &mut err)
    }
}

/// Prints the problems of a file on standard error, one a line; the exit code says the file is bad.
pub fn refuse(problems: &config::Problems) -> ExitCode {
    report(Err(problems), &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

fn summary(config: &config::Config) -> String {
    let (clusters, providers) = config.counts();
    format!("{clusters} clusters, {providers} providers")
}

fn report(
    checked: Result<&(String, Vec<config::Warning>), &config::Problems>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> ExitCode {
    // A closed standard output or error leaves nobody to tell; the exit code still says it.
    match checked {
        Ok((summary, warnings)) => {
            for warning in warnings {
                let _ = writeln!(err, "warning: {warning}");
            }
            let _ = writeln!(out, "ok: {summary}");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            let _ = writeln!(err, "{problems}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn report_json(
    checked: Result<&(String, Vec<config::Warning>), &config::Problems>,
    out: &mut impl Write,
) -> ExitCode {
    let told = |path: &str, message: &str, line: Option<u64>| json!({"path": path, "message": message, "line": line});
    let (report, code) = match checked {
        Ok((summary, warnings)) => {
            let warnings = warnings.iter().map(|warning| told(&warning.path, &warning.message, warning.line));
            let warnings: Vec<_> = warnings.collect();
            (json!({"ok": true, "summary": summary, "problems": [], "warnings": warnings}), ExitCode::SUCCESS)
        }
        Err(problems) => {
            let problems = problems.iter().map(|problem| told(&problem.path, &problem.message, problem.line));
            let problems: Vec<_> = problems.collect();
            (json!({"ok": false, "problems": problems, "warnings": []}), ExitCode::from(EXIT_USAGE))
        }
    };
    // A closed standard output leaves nobody to tell; the exit code still says it.
    let _ = writeln!(out, "{report:#}");
    code
}

/// Runs `completions`: the script of that shell on standard output.
pub fn completions(shell: Shell) -> ExitCode {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    match std::io::stdout().lock().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs `schema`: the JSON Schema of the configuration on standard output.
pub fn schema() -> ExitCode {
    match writeln!(std::io::stdout().lock(), "{:#}", config::schema()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs `certs`: the paths of what was made on standard output. Bad names and days exit with 64, files
/// that are in the way or cannot be written with 1.
pub fn certs(command: Certs) -> ExitCode {
    let mut next = String::new();
    let (made, json) = match command {
        Certs::Init { dir, cluster_id, json } => {
            let made = certs::init(&dir, &cluster_id);
            (made.map(|[cert, key]| vec![("ca", cert), ("caKey", key)]), json)
        }
        Certs::Issue { dir, node, days, dns, ip, out, json } => {
            if !dir.join("ca.pem").exists() {
                let dir = dir.display();
                next = format!("; make the cluster's authority first: `llm-router certs init --dir {dir}`");
            }
            let request = certs::Request { node, valid: certs::days(days), dns, ip };
            let made = certs::issue(&dir, &request, out.as_deref().unwrap_or(&dir));
            (made.map(|files| vec![("cert", files.cert), ("key", files.key), ("ca", files.ca)]), json)
        }
    };
    // A closed standard output or error leaves nobody to tell; the exit code still says it.
    match made {
        Ok(files) => {
            let mut out = std::io::stdout().lock();
            let files = files.into_iter().map(|(what, path)| (what.to_owned(), path.display().to_string()));
            if json {
                let _ = writeln!(out, "{:#}", serde_json::Value::from_iter(files));
            } else {
                for (what, path) in files {
                    let _ = writeln!(out, "{what}: {path}");
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "{error}{next}");
            match error {
                CertsError::Name(_) | CertsError::Dns(_) | CertsError::Days => ExitCode::from(EXIT_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use std::path::Path;

    fn command(line: &str) -> Result<Command, ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command).map_err(|error| error.kind())
    }

    #[test]
    fn every_command_of_the_surface_is_read() {
        assert!(
            matches!(command("llm-router serve --config a.yaml"), Ok(Command::Serve(file)) if file.config == Path::new("a.yaml"))
        );
        assert!(matches!(command("llm-router check --config a.yaml"), Ok(Command::Check(_))));
        assert!(matches!(command("llm-router sidecar --config a.yaml"), Ok(Command::Sidecar(_))));
        assert!(
            matches!(command("llm-router check --config a.yaml --json"), Ok(Command::Check(check)) if check.json)
        );
        assert!(matches!(command("llm-router schema"), Ok(Command::Schema)));
        for shell in Shell::value_variants() {
            assert!(command(&format!("llm-router completions {shell}")).is_ok(), "{shell}");
        }
        assert!(matches!(
            command("llm-router certs init --dir d"),
            Ok(Command::Certs(Certs::Init { cluster_id, .. })) if cluster_id == "llm-router"
        ));
        assert!(matches!(
            command("llm-router certs issue --dir d --node n --days 7 --dns a --dns b --ip 10.0.0.1 --out o --json"),
            Ok(Command::Certs(Certs::Issue { days: 7, dns, json: true, out: Some(_), .. })) if dns.len() == 2
        ));
        let Ok(Command::Demo(demo)) = command("llm-router demo --port 9000 --duration 1m30s --no-open")
        else {
            panic!("demo is not read");
        };
        assert_eq!((demo.port, demo.duration, demo.no_open), (9000, Some(Duration::from_secs(90)), true));
        let Ok(Command::Demo(demo)) = command("llm-router demo") else {
            panic!("demo is not read");
        };
        assert_eq!((demo.port, demo.duration, demo.no_open), (8080, None, false));
        let Ok(Command::Replay(replay)) = command(
            "llm-router replay --config a.yaml --trace t.csv --strategy round_robin --seed 7 --slo-ttft-ms 900",
        ) else {
            panic!("replay is not read");
        };
        assert_eq!((replay.strategy(), replay.seed), (Some(Choice::RoundRobin), 7));
        assert_eq!(replay.slo_ttft(), Some(Duration::from_millis(900)));
        let Ok(Command::Explain(explain)) = command(
            "llm-router explain --url http://127.0.0.1:9090 --request - --json --strategy slo --token t",
        ) else {
            panic!("explain is not read");
        };
        assert_eq!((explain.strategy, explain.json), (Some(Strategy::Slo), true));
        assert!(!format!("{explain:?}").contains("\"t\""), "the token is a secret");
        let Ok(Command::Mock(mock)) = command(
            "llm-router mock --kind anthropic --listen 127.0.0.1:0 --faults f.yaml --ttft-ms 5 --tokens-per-second 12.5 --slots 2 --model a --model b --api-key k",
        ) else {
            panic!("mock is not read");
        };
        assert_eq!((mock.kind, mock.ttft_ms, mock.slots), (Kind::Anthropic, 5, 2));
        assert_eq!((mock.tokens_per_second, mock.models.len()), (12.5, 2));
        assert!(mock.faults.is_some() && mock.listen.port() == 0);
        assert!(!format!("{mock:?}").contains("\"k\""), "the key is a secret");
        for kind in ["openai", "gemini", "llama"] {
            assert!(
                command(&format!("llm-router mock --kind {kind} --listen 127.0.0.1:0")).is_ok(),
                "{kind}"
            );
        }
    }

    #[test]
    fn bad_usage_exits_64_and_questions_exit_0() {
        for line in [
            "llm-router",
            "llm-router serve",
            "llm-router explode",
            "llm-router certs",
            "llm-router certs init",
            "llm-router certs issue --dir d",
            "llm-router certs issue --dir d --node n --ip here",
            "llm-router serve --config a --what",
            "llm-router demo --port 65534",
            "llm-router demo --duration 60",
            "llm-router mock --kind vllm --listen 127.0.0.1:0",
            "llm-router mock --kind llama --listen here",
            "llm-router mock --kind llama --listen 127.0.0.1:0 --tokens-per-second 0",
            "llm-router mock --kind llama --listen 127.0.0.1:0 --slots 0",
            "llm-router replay --config a.yaml",
            "llm-router replay --config a.yaml --trace t.csv --strategy best",
            "llm-router replay --config a.yaml --trace t.csv --slo-ttft-ms 0",
            "llm-router explain --request r.json",
            "llm-router explain --config a.yaml",
            "llm-router explain --config a.yaml --url http://a --request r.json",
            "llm-router explain --config a.yaml --request r.json --strategy cheapest",
        ] {
            let kind = command(line).err().unwrap_or_else(|| panic!("{line} is good"));
            assert_eq!(exit_code(kind), ExitCode::from(64), "{line}");
        }
        for line in ["llm-router --help", "llm-router --version", "llm-router serve --help"] {
            assert_eq!(exit_code(command(line).unwrap_err()), ExitCode::SUCCESS, "{line}");
        }
    }

    /// Each command a person can run, with the words before it.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name()).trim_start().to_owned();
        if !command.has_subcommands() {
            found.push((path, command.clone()));
            return;
        }
        command.get_subcommands().for_each(|inner| leaves(inner, &path, found));
    }

    #[test]
    fn the_help_of_every_command_has_examples_that_the_command_line_takes() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        assert!(found.len() > 15, "{}", found.len());
        for (path, command) in found {
            let help =
                command.get_after_help().unwrap_or_else(|| panic!("`{path}` has no examples")).to_string();
            let lines: Vec<&str> = help.lines().skip(1).collect();
            assert!(!lines.is_empty(), "`{path}` has no examples");
            for line in lines {
                // What stands before and behind the command is the shell's.
                let start = line.find("llm-router ").unwrap_or_else(|| panic!("{line}"));
                let words = line[start..].split(['|', '>']).next().unwrap_or_default();
                assert!(words.starts_with(&path), "{line} is no example of `{path}`");
                let read = Cli::try_parse_from(words.split_whitespace().map(|word| word.trim_matches('"')));
                assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
            }
        }
    }

    #[test]
    fn check_tells_what_it_found_and_says_it_by_its_exit_code() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let load = |text: &str| {
            config::load_str(text, Path::new("."), &|_| None)
                .map(|loaded| (summary(&loaded.config), loaded.warnings))
        };
        let good = "clusters: [{name: a, endpoint: 'http://a', costPerHour: 1}]";
        assert_eq!(report(load(good).as_ref(), &mut out, &mut err), ExitCode::SUCCESS);
        assert_eq!(String::from_utf8(out).unwrap(), "ok: 1 clusters, 0 providers\n");
        assert!(String::from_utf8(err).unwrap().starts_with("warning: server.host: "));

        let (mut out, mut err) = (Vec::new(), Vec::new());
        let bad = "clusters: [{name: a, costPerHour: -1}]\nfoo: 1";
        assert_eq!(report(load(bad).as_ref(), &mut out, &mut err), ExitCode::from(64));
        assert!(out.is_empty());
        let lines = String::from_utf8(err).unwrap();
        let paths: Vec<&str> = lines.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(paths, ["clusters[0].costPerHour", "clusters[0].endpoint", "foo"]);

        let mut out = Vec::new();
        assert_eq!(report_json(load(bad).as_ref(), &mut out), ExitCode::from(64));
        let told: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(told["ok"], false);
        assert_eq!(
            told["problems"][2],
            json!({"path": "foo", "message": told["problems"][2]["message"], "line": 2})
        );
        let mut out = Vec::new();
        assert_eq!(report_json(load(good).as_ref(), &mut out), ExitCode::SUCCESS);
        let told: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            (&told["summary"], &told["warnings"][0]["path"]),
            (&json!("1 clusters, 0 providers"), &json!("server.host"))
        );
    }
}
