//! Where messages to an actor go, across its restarts.

use arc_swap::ArcSwapOption;
use ractor::{ActorRef, Message};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Messages that may wait in one mailbox. ractor's mailboxes are unbounded, so the bound is here.
const MAILBOX_BOUND: usize = 10_000;

/// The current incarnation of an actor. Each incarnation moves in as it starts, before anything can
/// answer it; senders notice nothing but that messages to a dead actor are lost, which every protocol here
/// allows.
#[derive(Debug)]
pub(crate) struct Address<M> {
    current: Arc<ArcSwapOption<ActorRef<M>>>,
    waiting: Arc<AtomicUsize>,
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { current: Arc::clone(&self.current), waiting: Arc::clone(&self.waiting) }
    }
}

impl<M: Message> Address<M> {
    /// An address nobody lives at yet.
    pub(crate) fn vacant() -> Self {
        Self { current: Arc::new(ArcSwapOption::empty()), waiting: Arc::new(AtomicUsize::new(0)) }
    }

    /// A new incarnation moves in, with an empty mailbox.
    pub(crate) fn occupy(&self, actor: ActorRef<M>) {
        self.waiting.store(0, Ordering::Relaxed);
        self.current.store(Some(Arc::new(actor)));
    }

    /// The current incarnation.
    pub(crate) fn actor(&self) -> Option<Arc<ActorRef<M>>> {
        self.current.load_full()
    }

    /// Sends without waiting. `false` where nobody lives here or the mailbox is full: the message is
    /// dropped.
    pub(crate) fn send(&self, message: M) -> bool {
        let Some(actor) = self.current.load_full() else {
            return false;
        };
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAILBOX_BOUND || actor.cast(message).is_err() {
            self.received();
            return false;
        }
        true
    }

    /// The actor took one message out; it calls this once per message received.
    pub(crate) fn received(&self) {
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
}
