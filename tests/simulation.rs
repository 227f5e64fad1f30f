//! N real routers in one process, in virtual time, by seed.
//!
//! Real actors, real chitchat, the real relay and policy; only the network, the clock, the upstreams
//! and the clients are simulated. The same seed gives the same history; every history is held against
//! the invariants of [`checks`]. `SIM_SEEDS=FROM..TO cargo test --release sim` runs other seeds than the
//! ones below; a seed that fails prints the one command that runs it alone.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/fleet.rs"]
mod fleet;
#[path = "simulation/history.rs"]
mod history;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/randomness.rs"]
mod randomness;
#[path = "simulation/relays.rs"]
mod relays;
#[path = "simulation/schedule.rs"]
mod schedule;
#[path = "simulation/sim.rs"]
mod sim;
