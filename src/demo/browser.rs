//! Opens the page in the desktop's browser, where there is a desktop. Never fails: the address has been
//! printed.

use std::process::{Command, Stdio};

/// Asks the desktop to open `url`.
pub(super) fn open(url: &str) {
    let desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let opener = match (cfg!(target_os = "macos"), desktop) {
        (true, _) => "open",
        (false, true) => "xdg-open",
        (false, false) => return,
    };
    let mut command = Command::new(opener);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // Waited for on a thread of its own, so that it leaves no zombie and holds nothing up.
        Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
        Err(error) => tracing::debug!(%error, opener, "cannot open a browser"),
    }
}
