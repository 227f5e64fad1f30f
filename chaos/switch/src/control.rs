//! The Unix socket over which the rules change: one JSON object a line, one answer a line.
//!
//! `{"set": [{"from": "a", "to": "*", "delay_us": 40000, "loss": 0.05}]}` is answered `{"ok": true}`, `{"stats": true}` with
//! the counters of all links, and what is wrong with `{"error": "…"}`.

use crate::packets::Network;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Callers at once; beyond them the oldest is let go.
const CALLERS_MAX: usize = 16;
/// Bytes of a line that has not ended yet.
const LINE_MAX: usize = 1 << 20;

struct Caller {
    stream: UnixStream,
    line: Vec<u8>,
}

/// The socket and who has called.
pub(crate) struct Control {
    listener: UnixListener,
    callers: Vec<Caller>,
}

impl Control {
    /// Listens at `path`, in the place of a socket somebody left there.
    ///
    /// # Errors
    /// If nobody may listen there.
    pub(crate) fn listen(path: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, callers: Vec::new() })
    }

    /// What to watch for callers and their lines.
    pub(crate) fn files(&self) -> Vec<RawFd> {
        let callers = self.callers.iter().map(|caller| caller.stream.as_raw_fd());
        std::iter::once(self.listener.as_raw_fd()).chain(callers).collect()
    }

    /// Takes new callers in, carries out what they want and lets go of those who left.
    pub(crate) fn serve(&mut self, network: &mut Network) {
        if let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            if self.callers.len() == CALLERS_MAX {
                self.callers.remove(0);
            }
            self.callers.push(Caller { stream, line: Vec::new() });
        }
        self.callers.retain_mut(|caller| caller.serve(network));
    }
}

impl Caller {
    /// Whether it is still there.
    fn serve(&mut self, network: &mut Network) -> bool {
        let mut piece = [0; 16_384];
        match self.stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(length) => self.line.extend_from_slice(&piece[..length]),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let mut answer =
                answer(&line, network).unwrap_or_else(|error| json!({"error": error})).to_string();
            answer.push('\n');
            // An answer fits the socket's buffer; who reads none of them is let go.
            if self.stream.write_all(answer.as_bytes()).is_err() {
                return false;
            }
        }
        self.line.len() <= LINE_MAX
    }
}

fn answer(line: &[u8], network: &mut Network) -> Result<Value, String> {
    let wanted: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if wanted["stats"] == Value::Bool(true) {
        return Ok(json!({"links": network.told()}));
    }
    let changes = wanted["set"].as_array().ok_or("expected `set` or `stats`")?;
    for change in changes {
        network.change(change.as_object().ok_or("a change is an object")?)?;
    }
    Ok(json!({"ok": true}))
}
