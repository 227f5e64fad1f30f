//! Router.

pub mod cli;
pub mod config;
