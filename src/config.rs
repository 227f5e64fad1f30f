//! Configuration: from a YAML file to settings that are known to be usable, or to the whole list of
//! what is wrong with the file.
//!
//! Owns the file's format, its checks, its JSON Schema and the watch on the file. Never opens a
//! listener, never applies a change to a running node and never keeps a file's text.

mod problem;
mod settings;
pub mod watch;

pub use problem::{Problem, Problems, Warning};
pub use settings::{
    Admin, Auth, Backend, Config, Connection, Demo, Gossip, Node, Server, SidecarConfig, SmartMocking,
    Timeouts,
};

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
    let _ = (path, env);
    Err(Problems::of_file("cannot load"))
}

/// Checks the text of a router node's file; relative paths in it are relative to `directory`.
///
/// # Errors
/// Everything that is wrong with the text, each with its path.
pub fn load_str(text: &str, directory: &Path, env: &Env<'_>) -> Result<Loaded, Problems> {
    let _ = (text, directory, env);
    Err(Problems::of_file("cannot load"))
}

/// Reads and checks the file of a sidecar; `${NAME}` is taken from the process's environment.
///
/// # Errors
/// Everything that is wrong with the file, each with its path.
pub fn load_sidecar(path: &Path) -> Result<(SidecarConfig, Vec<Warning>), Problems> {
    let _ = path;
    Err(Problems::of_file("cannot load"))
}

/// The process's own environment, for [`load`].
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads a duration in Go's syntax, for example `1m30s`, `1.5h` or `500ms`.
///
/// # Errors
/// What is wrong with the text, for a person.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    Err(format!("`{text}` is no duration"))
}

/// The JSON Schema of a router node's file.
pub fn schema() -> serde_json::Value {
    serde_json::Value::Bool(true)
}
