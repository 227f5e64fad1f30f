//! What keeps secrets inside the process: no core dump, and no other process of the same user may read its memory.
//!
//! Keys, prompts and answers are in memory while they are used. A core dump would write them to a disk, where
//! nobody thinks of them.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Set to `on`, it leaves everything as the system has it, so that a debugger may attach.
const SWITCH: &str = "LLM_ROUTER_CORE_DUMPS";

/// Forbids core dumps of this process and reading its memory, unless `LLM_ROUTER_CORE_DUMPS=on`. What the system
/// refuses is said and no reason not to start.
pub fn keep_memory_private() {
    if std::env::var(SWITCH).is_ok_and(|word| word == "on") {
        tracing::warn!("core dumps are as the system allows them: `{SWITCH}=on`; they hold keys and prompts");
        return;
    }
    // The limit alone is not asked where the system pipes dumps to a program: not being dumpable is.
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "cannot forbid core dumps by their size");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "cannot make the process' memory private");
    }
}
