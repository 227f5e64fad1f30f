//! How a prompt begins, as one number: what requests have in common that a server need read only once.
//!
//! Taken while the body is inspected, from the bytes as they are written there: the same client writes the
//! same text the same way.

use crate::route::affinity;

/// Bytes of the beginning: about the tokens from which on reading them again costs more than a look-up.
pub const PREFIX_BYTES: usize = 512;

/// The system prompt and the messages up to the first of the user, at most [`PREFIX_BYTES`] of it. What
/// follows is left out, so that a conversation keeps its beginning while it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    hash: u64,
    bytes: usize,
    closed: bool,
}

impl Prefix {
    /// Takes the next text of the prompt.
    pub(super) fn take(&mut self, text: &str) {
        let left = PREFIX_BYTES - self.bytes;
        if self.closed || left == 0 {
            return;
        }
        let bytes = text.as_bytes();
        let bytes = &bytes[..bytes.len().min(left)];
        self.hash = affinity::extend(self.hash, bytes);
        self.bytes += bytes.len();
    }

    /// What comes now is no beginning any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// The hash; `None` of a prompt without text.
    pub fn hash(&self) -> Option<u64> {
        (self.bytes > 0).then_some(self.hash)
    }
}
