//! Sending: one queue and one task per address, which keeps a connection to it.
//!
//! Lost when idle: the task ends and the next frame makes another. A peer that cannot be reached costs a
//! call now and then; what is for it meanwhile is dropped, since the next round of gossip makes up for it.

use super::{Proven, Shared, inbound};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quinn::ConnectionError;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

/// Frames waiting for one address.
const QUEUE_MAX: usize = 32;
/// Of these, frames waiting for its first connection: older gossip is soon worth nothing.
const WAITING_MAX: usize = 8;
/// Addresses sent to at once.
const LINKS_MAX: usize = 1024;
/// A link without a frame for this long ends. A large cluster asks a peer about every ten seconds.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Longest call: some round trips over a lossy line.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that is silent is called again this often, while the call before may still be under way: the first
/// packets of a call are resent ever less often, so it alone would find the end of a partition late.
const CALL_EVERY: Duration = Duration::from_secs(1);
/// Calls of one address under way at once.
const CALLS_MAX: usize = 2;
/// Pause after the first refused call, doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// A peer that comes back must be found within a second or two.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A connection this old was not refused.
const SETTLED: Duration = Duration::from_secs(2);
/// Longest wait for a connection that takes no more.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// What a peer is called in TLS: a node is known by its certificate's URI, so any name does.
const SERVER_NAME: &str = "llm-router";

/// Every address this node sends to.
#[derive(Clone)]
pub(super) struct Links {
    shared: Arc<Shared>,
    open: Arc<Mutex<HashMap<SocketAddr, Mouth>>>,
}

/// A link's two entrances.
struct Mouth {
    frames: mpsc::Sender<Bytes>,
    /// The newest connection the peer itself made.
    offers: watch::Sender<Option<Proven>>,
}

impl Links {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: Arc::default() }
    }

    /// Sends a frame, or counts it as dropped.
    pub(super) fn send(&self, to: SocketAddr, frame: Vec<u8>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mouth) = self.mouth(&mut open, to) else { return };
        if mouth.frames.try_send(frame.into()).is_err() {
            self.shared.count("queue_full");
        }
    }

    /// Lets what is sent to a caller go back on the connection it made.
    pub(super) fn offer(&self, proven: &Proven) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mouth) = self.mouth(&mut open, proven.connection.remote_address()) {
            mouth.offers.send_replace(Some(proven.clone()));
        }
    }

    /// The newest connection made from an address.
    #[cfg(test)]
    pub(super) fn offered(&self, from: SocketAddr) -> Option<Proven> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&from).and_then(|mouth| mouth.offers.borrow().clone())
    }

    /// The link to an address, made where there is none.
    fn mouth<'a>(&self, open: &'a mut HashMap<SocketAddr, Mouth>, to: SocketAddr) -> Option<&'a Mouth> {
        if open.get(&to).is_none_or(|mouth| mouth.frames.is_closed()) {
            if open.len() >= LINKS_MAX {
                self.shared.count("too_many_peers");
                return None;
            }
            let (frames, queue) = mpsc::channel(QUEUE_MAX);
            let (offers, offered) = watch::channel(None);
            open.insert(to, Mouth { frames, offers });
            let (links, link) = (self.clone(), Link::new(Arc::clone(&self.shared), to));
            tokio::spawn(async move { link.run(links, queue, offered).await });
        }
        open.get(&to)
    }

    /// Forgets a link nobody used. `false` where a frame came in the meantime.
    fn close(&self, to: SocketAddr, queue: &mut mpsc::Receiver<Bytes>) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = queue.is_empty();
        if unused {
            queue.close();
            open.remove(&to);
        }
        unused
    }
}

/// One address: its connection and how to get one.
struct Link {
    shared: Arc<Shared>,
    to: SocketAddr,
    current: Option<Proven>,
    calls: FuturesUnordered<BoxFuture<'static, Called>>,
    waiting: VecDeque<Bytes>,
    failures: u32,
    call_again_at: Instant,
}

impl Link {
    fn new(shared: Arc<Shared>, to: SocketAddr) -> Self {
        Self {
            shared,
            to,
            current: None,
            calls: FuturesUnordered::new(),
            waiting: VecDeque::new(),
            failures: 0,
            call_again_at: Instant::now(),
        }
    }

    async fn run(
        mut self,
        links: Links,
        mut queue: mpsc::Receiver<Bytes>,
        mut offered: watch::Receiver<Option<Proven>>,
    ) {
        let stop = self.shared.stop.clone();
        let mut idle_since = Instant::now();
        loop {
            tokio::select! {
                frame = queue.recv() => {
                    let Some(frame) = frame else { return };
                    idle_since = Instant::now();
                    self.take(frame).await;
                }
                Some(called) = self.calls.next() => self.called(called).await,
                changed = offered.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let newest = offered.borrow_and_update().clone();
                    self.adopt(newest).await;
                }
                () = tokio::time::sleep_until(idle_since + IDLE_MAX) => {
                    if links.close(self.to, &mut queue) {
                        return;
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    /// Sends a frame, keeps it for the connection to come, or drops it.
    async fn take(&mut self, frame: Bytes) {
        self.look_at_current();
        // A connection that is to be replaced is used until its successor is there.
        if self.current.as_ref().is_none_or(|proven| self.shared.is_stale(proven)) {
            self.call();
        }
        if let Some(proven) = &self.current {
            transmit(&self.shared, proven, &frame).await;
        } else if self.calls.is_empty() {
            self.shared.count("peer_unreachable");
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(frame);
        } else {
            self.shared.count("queue_full");
        }
    }

    /// Forgets a connection that is closed. One that ended at once was refused by the peer, which TLS 1.3
    /// tells a caller only after its own handshake is done: calling again has no hurry then.
    fn look_at_current(&mut self) {
        let Some(proven) = &self.current else { return };
        let settled = proven.since.elapsed() >= SETTLED;
        if settled {
            self.failures = 0;
        }
        if proven.connection.close_reason().is_some() {
            self.current = None;
            if !settled {
                self.failed();
            }
        }
    }

    fn failed(&mut self) {
        self.call_again_at = Instant::now() + backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
    }

    /// Calls the peer, unless that was begun or failed a moment ago.
    fn call(&mut self) {
        let now = Instant::now();
        if self.calls.len() < CALLS_MAX && now >= self.call_again_at {
            self.calls.push(call(Arc::clone(&self.shared), self.to).boxed());
            self.call_again_at = now + CALL_EVERY;
        }
    }

    async fn called(&mut self, called: Called) {
        match called {
            Called::Answered(proven) => {
                tokio::spawn(inbound::listen(Arc::clone(&self.shared), (*proven).clone()));
                self.adopt(Some(*proven)).await;
                return;
            }
            Called::Refused => self.failed(),
            // It was long enough under way.
            Called::Unanswered => {}
        }
        if self.calls.is_empty() && self.current.is_none() {
            for _ in self.waiting.drain(..) {
                self.shared.count("peer_unreachable");
            }
        }
    }

    /// Uses a new connection from now on. The newest is the best: a peer that was restarted makes one
    /// while the old one still seems to be open.
    async fn adopt(&mut self, proven: Option<Proven>) {
        let Some(proven) = proven else { return };
        for frame in std::mem::take(&mut self.waiting) {
            transmit(&self.shared, &proven, &frame).await;
        }
        self.current = Some(proven);
    }
}

/// What came of a call.
enum Called {
    /// A connection.
    Answered(Box<Proven>),
    /// One of the two would not talk to the other, or the call could not be begun.
    Refused,
    /// Nothing came back in time.
    Unanswered,
}

async fn call(shared: Arc<Shared>, to: SocketAddr) -> Called {
    let identity = *shared.identity.borrow();
    let client = shared.client.load().as_ref().clone();
    let connecting = match shared.endpoint.connect_with(client, to, SERVER_NAME) {
        Ok(connecting) => connecting,
        Err(error) => {
            tracing::debug!(%to, %error, "cannot call a gossip peer");
            return Called::Refused;
        }
    };
    match timeout(CALL_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => shared
            .prove(connection, identity)
            .map_or(Called::Refused, |proven| Called::Answered(Box::new(proven))),
        Ok(Err(error @ (ConnectionError::TimedOut | ConnectionError::Reset))) => {
            shared.refused(to, &error);
            Called::Unanswered
        }
        Ok(Err(error)) => {
            shared.refused(to, &error);
            Called::Refused
        }
        Err(_) => Called::Unanswered,
    }
}

/// One frame, one stream. What the connection does not take in time is dropped.
async fn transmit(shared: &Shared, proven: &Proven, frame: &Bytes) {
    let sent = timeout(SEND_TIMEOUT, async {
        let mut stream = proven.connection.open_uni().await.ok()?;
        stream.write_all(frame).await.ok()?;
        stream.finish().ok()
    });
    match sent.await {
        Ok(Some(())) => {
            shared.metrics.gossip_bytes_total.with_label_values(&["sent"]).inc_by(frame.len() as u64);
        }
        Ok(None) => shared.count("peer_unreachable"),
        Err(_) => shared.count("queue_full"),
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.min(8)).min(BACKOFF_MAX)
}
