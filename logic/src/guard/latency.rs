//! Time to first token.
