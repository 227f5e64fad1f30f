//! Bytes of a fact.
