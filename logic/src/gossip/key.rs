//! Names of facts.
