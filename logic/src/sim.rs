//! Replaying a trace of requests in virtual time: the same decisions over modelled backends.
//!
//! ```text
//! trace → arrival → choose (the very `plan`, or a baseline) → door (rate limit, slots, queue)
//!       → machine or provider model → first token → end → facts → next decisions
//! ```
//! Owns the models and the event queue. Never reads a clock or a file: time is virtual, randomness comes
//! from a seed, and the same arguments give the same result. What is modelled and what is left out is
//! told in `docs/REPLAY.md`.

mod bound;
mod choice;
mod cluster;
mod door;
mod guarded;
mod model;
mod random;
mod replay;
mod summary;
mod trace;
mod trouble;

pub use bound::{Bound, clairvoyant_bound};
pub use choice::{Choice, UnknownChoice};
pub use model::{Backend, Behaviour, Machine, ModelError, Provider, Scene};
pub use replay::{Replayed, replay};
pub use summary::{Millis, Summary};
pub use trace::{Arrival, TraceError, TraceReader};
pub use trouble::{Kind as TroubleKind, Trouble, Whom};
