//! What happened, in the order it happened. Checkers read nothing else.

use llm_router_logic::report::Health;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A client sends a request to a router.
    Sent { request: u64, node: usize, deadline_ms: u64 },
    /// A router sends a request to a backend.
    Attempt {
        attempt: u64,
        request: u64,
        node: usize,
        backend: usize,
        known_dead_ms: Option<u64>,
        trial: bool,
    },
    /// A router asks a peer to send a request on its behalf.
    Relayed { request: u64, from: usize, to: usize },
    /// A request ended for its client.
    Ended { request: u64, end: End, pieces: Vec<Piece> },
    /// A fault begins or ends.
    Fault(String),
    /// The last fault has ended.
    Healed,
    /// What one router believes: of itself, of the live members, of each backend by its own eyes, and
    /// what it has heard its peers say of them.
    View {
        node: usize,
        name: String,
        generation: u64,
        members: Vec<(String, u64)>,
        own: Vec<Health>,
        said: Vec<(String, usize, Health)>,
    },
    /// A total that a router has published, as a peer reads it.
    Total { node: usize, generation: u64, name: String, value: u64 },
}

/// How a request ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Complete, with its dialect's end mark.
    Complete,
    /// An error with a type and a message, before or within the answer.
    Refused(u16),
    /// The router was gone.
    RouterDown,
    /// The client left.
    Left,
    /// The body ended without an end mark or an error.
    Truncated,
    /// A body no client could read.
    Unreadable,
}

/// One piece of an answer's text: the `nth` that `attempt` produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) attempt: u64,
    pub(crate) nth: u64,
}

/// The record of one run.
#[derive(Clone)]
pub(crate) struct History {
    started: Instant,
    events: Arc<Mutex<Vec<(Duration, Event)>>>,
}

impl History {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), events: Arc::default() }
    }

    pub(crate) fn note(&self, event: Event) {
        self.events.lock().unwrap().push((self.started.elapsed(), event));
    }

    pub(crate) fn events(&self) -> Vec<(Duration, Event)> {
        self.events.lock().unwrap().clone()
    }
}

/// A number that two equal histories share (FNV-1a over their text).
pub(crate) fn fingerprint(events: &[(Duration, Event)]) -> u64 {
    let mut text = String::new();
    for event in events {
        writeln!(text, "{event:?}").expect("a string takes all text");
    }
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
