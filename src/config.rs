//! Configuration: from a YAML file to settings that are known to be usable, or to the whole list of
//! what is wrong with the file.
//!
//! The way of a file: `tree` parses the text, `environment` fills in `${NAME}`, `decode` finds unknown
//! keys and wrong types against the shapes in `file`, `check` judges what the values mean and makes the
//! `settings`. Problems of all steps are reported together.
//!
//! Owns the file's format, its checks, its JSON Schema and the watch on the file. Never opens a
//! listener, never applies a change to a running node and never keeps a file's text.

mod check;
mod decode;
mod duration;
mod environment;
mod file;
mod path;
mod problem;
mod schema;
mod settings;
#[cfg(test)]
mod tests;
mod tree;
pub mod watch;

pub use duration::parse_duration;
pub use problem::{Problem, Problems, Warning};
pub use schema::schema;
pub use settings::{
    Access, Admin, Auth, Backend, Budget, BudgetPeriod, Cache, CacheScope, Config, Connection, Demo, Export,
    ExportTls, FixedKey, Gossip, Grant, HmacKey, Idempotency, Keys, LogFormat, Node, Propagate, Protocol,
    Quota, Redis, Sampler, Server, Shadow, Share, SidecarAuth, SidecarConfig, Simulated, Simulation,
    SmartMocking, Telemetry, Tenant, Timeouts, Traces, WakeHook, Webhook,
};

use problem::Findings;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Environment look-up, an argument so that tests need not change the process's environment.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A usable configuration and what its author should know about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What is used differently from what the file's author may expect, in the order of the paths.
    pub warnings: Vec<Warning>,
}

/// Reads and checks the file of a router node.
///
/// # Errors
/// Everything that is wrong with the file, each with its path.
pub fn load(path: &Path, env: &Env<'_>) -> Result<Loaded, Problems> {
    load_str(&read(path)?, directory_of(path), env)
}

/// Checks the text of a router node's file; relative paths in it are relative to `directory`.
///
/// # Errors
/// Everything that is wrong with the text, each with its path.
pub fn load_str(text: &str, directory: &Path, env: &Env<'_>) -> Result<Loaded, Problems> {
    let mut findings = Findings::default();
    let mut tree = tree::parse(text, &mut findings)?;
    let substituted = environment::substitute(&mut tree, env, &[SIDECAR], &mut findings);
    let file = decode::decode(tree, &substituted, &mut findings);
    let config = file.map(|file| check::config(file, directory, env, &mut findings));
    let (config, warnings) = concluded(config, findings)?;
    Ok(Loaded { config, warnings })
}

/// Reads and checks the file of a sidecar; `${NAME}` is taken from the process's environment. The
/// sections of a router node may stand in the same file and are not read.
///
/// # Errors
/// Everything that is wrong with the file, each with its path.
pub fn load_sidecar(path: &Path) -> Result<(SidecarConfig, Vec<Warning>), Problems> {
    load_sidecar_str(&read(path)?, directory_of(path), &process_env)
}

/// Checks the text of a sidecar's file; relative paths in it are relative to `directory`.
///
/// # Errors
/// Everything that is wrong with the text, each with its path.
pub fn load_sidecar_str(
    text: &str,
    directory: &Path,
    env: &Env<'_>,
) -> Result<(SidecarConfig, Vec<Warning>), Problems> {
    let mut findings = Findings::default();
    let mut tree = tree::parse(text, &mut findings)?;
    if let Value::Object(sections) = &mut tree {
        let known = schema::keys_at(&path::Path::default());
        sections.retain(|name, _| name == SIDECAR || !known.contains(name));
    }
    let substituted = environment::substitute(&mut tree, env, &[], &mut findings);
    let file = decode::decode(tree, &substituted, &mut findings);
    let sidecar = file.and_then(|file| check::sidecar(file.sidecar, directory, env, &mut findings));
    concluded(sidecar, findings)
}

/// The settings where nothing is wrong. Without settings something is: the last message is for the day
/// a check forgets to record it.
fn concluded<T>(settings: Option<T>, findings: Findings) -> Result<(T, Vec<Warning>), Problems> {
    let warnings = findings.conclude()?;
    let settings = settings.ok_or_else(|| Problems::of_file("the file is not usable"))?;
    Ok((settings, warnings))
}

/// Whether the file is only a sidecar's: it has that section and no backend.
pub fn is_for_sidecar(path: &Path) -> bool {
    let Ok(text) = read(path) else {
        return false;
    };
    let tree = tree::parse(&text, &mut Findings::default());
    let has = |section: &str| tree.as_ref().is_ok_and(|tree| tree.get(section).is_some());
    has(SIDECAR) && !has("clusters") && !has("externalProviders")
}

/// The process's own environment, for [`load`].
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The section only `llm-router sidecar` reads.
const SIDECAR: &str = "sidecar";

fn read(path: &Path) -> Result<String, Problems> {
    let cannot =
        |why: &dyn std::fmt::Display| Problems::of_file(format!("cannot read `{}`: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
    // One byte more than allowed shows that there is too much, however much that is.
    let mut text = String::new();
    file.take(tree::FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(|error| cannot(&error))?;
    Ok(text)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
