//! What the router decides, with no clock, no I/O and no randomness of its own.
//!
//! Every function here takes time, random draws and facts as arguments and returns a value, so that
//! production, replay, demo and simulation run the very same code. See `docs/ARCHITECTURE.md`.

#![forbid(unsafe_code)]

pub mod api_key;
pub mod backend;
pub mod cache_key;
pub mod capability;
pub mod cost;
pub mod fault;
pub mod gossip;
pub mod guard;
pub mod ids;
pub mod money;
pub mod report;
pub mod request;
pub mod route;
pub mod sign;
pub mod sim;
pub mod spot;
pub mod standing;
pub mod tenant;
pub mod time;
pub mod view;
pub mod warmth;
pub mod webhook;
pub mod wire;
