//! The program: reads the command line and hands each command to its owner.

#![forbid(unsafe_code)]

use llm_router::cli::{self, Command};
use llm_router::config::watch::Watcher;
use llm_router::mock::{self, Faults, MockConfig};
use llm_router::{config, demo, explain, hardening, keys, ledger, node, replay, sidecar, telemetry};
use secrecy::ExposeSecret;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let command = match cli::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    match command {
        Command::Check(options) => return cli::check(&options),
        Command::Schema => return cli::schema(),
        Command::Completions { shell } => return cli::completions(shell),
        Command::Certs(command) => return cli::certs(command),
        Command::Keys(command) => return keys::run(&command),
        Command::Ledger(command) => return ledger::run(&command),
        Command::Replay(options) => return replay::run(&options),
        Command::Demo(_) | Command::Explain(_) => telemetry::start("warn"),
        Command::Serve(_) | Command::Mock(_) | Command::Sidecar(_) => telemetry::start("info"),
    }
    hardening::keep_memory_private();
    // One TLS implementation for the whole process; it fails only where there already is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(command)),
        Err(error) => failed(&error),
    }
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Serve(file) => serve(&file.config).await,
        Command::Mock(options) => run_mock(options).await,
        Command::Sidecar(file) => run_sidecar(&file.config).await,
        Command::Demo(options) => match demo::run(&options).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
        Command::Explain(options) => explain::run(&options).await,
        // Answered before the runtime was made.
        Command::Check(_)
        | Command::Schema
        | Command::Completions { .. }
        | Command::Certs(_)
        | Command::Keys(_)
        | Command::Ledger(_)
        | Command::Replay(_) => ExitCode::SUCCESS,
    }
}

async fn serve(path: &Path) -> ExitCode {
    let watcher = match Watcher::new(path) {
        Ok(watcher) => watcher,
        Err(error) => return failed(&error),
    };
    let loaded = match config::load(path, &config::process_env) {
        Ok(loaded) => loaded,
        Err(problems) => return cli::refuse(&problems),
    };
    telemetry::configure(loaded.config.telemetry.log_format);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match node::serve(path, loaded.config, watcher).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run_sidecar(path: &Path) -> ExitCode {
    let (config, warnings) = match config::load_sidecar(path) {
        Ok(loaded) => loaded,
        Err(problems) => return cli::refuse(&problems),
    };
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let signal = node::stop_signal();
    let stopped = async {
        // Not within the macro: where its level is off, it would not be waited for.
        let signal = signal.await;
        tracing::info!(signal, "stopping");
    };
    match sidecar::serve(config, stopped).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run_mock(options: cli::Mock) -> ExitCode {
    let faults = match options.faults.as_deref().map_or_else(|| Ok(Faults::none()), Faults::load) {
        Ok(faults) => faults,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(cli::EXIT_USAGE);
        }
    };
    let mut config = MockConfig::new(options.kind);
    config.models = options.models;
    config.ttft = Duration::from_millis(options.ttft_ms);
    config.tokens_per_second = options.tokens_per_second;
    config.slots = options.slots as usize;
    config.api_key = options.api_key.map(|key| key.expose_secret().to_owned());
    let signal = node::stop_signal();
    let mock = match mock::start(options.listen, config, faults).await {
        Ok(mock) => mock,
        Err(error) => return failed(&error),
    };
    tracing::info!(addr = %mock.addr(), kind = options.kind.as_str(), "mock is listening");
    let signal = signal.await;
    tracing::info!(signal, "stopping");
    mock.shutdown().await;
    ExitCode::SUCCESS
}

/// Exit code 1: a failed start, said once.
fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    // The alternate form of an `anyhow` error tells its causes.
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}
