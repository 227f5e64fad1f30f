//! Restart backoff.
