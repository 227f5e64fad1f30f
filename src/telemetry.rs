//! Logs: to standard error, human or JSON, at the level of `LOG_LEVEL`.

mod line;
pub(crate) mod scope;

use crate::config::LogFormat;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What the libraries below say is of use to their authors only.
const QUIET: &str =
    "ractor=warn,chitchat=warn,hyper=warn,reqwest=warn,rustls=warn,h2=warn,tonic=warn,opentelemetry=off";

/// Starts logging. `LOG_LEVEL` is a level (`debug`) or a filter (`info,llm_router::relay=debug`),
/// `default` where it is unset or unreadable; `LOG_FORMAT=json` writes one JSON object a line.
pub fn start(default: &str) {
    let level = std::env::var("LOG_LEVEL").unwrap_or_default();
    let wanted = if level.is_empty() { default } else { level.as_str() };
    let filter = EnvFilter::try_new(format!("{QUIET},{}", wanted.to_ascii_lowercase()))
        .or_else(|_| EnvFilter::try_new(format!("{QUIET},{default}")))
        .unwrap_or_default();
    if std::env::var("LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json")) {
        line::write_as(LogFormat::Json);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal()).event_format(line::Lines);
    // A second start, as in tests, keeps the first one's settings.
    let _ = builder.try_init();
}

/// From now on lines are written as the configuration says.
pub fn configure(format: LogFormat) {
    line::write_as(format);
}
