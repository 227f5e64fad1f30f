//! State machines that protect a backend or a budget; each is told the time.

pub mod breaker;
pub mod concurrency;
pub mod ejection;
pub mod health;
pub mod hedge;
pub mod latency;
pub mod limit;
pub mod pace;
pub mod policy;
pub mod pool;
pub mod queue;
pub mod restart;
pub mod retry;
pub mod share;
mod slices;
pub mod warm_up;
pub mod window;
