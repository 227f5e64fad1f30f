//! Unit cost of our own machines.
