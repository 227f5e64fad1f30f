//! The decision: which backends may serve a request, in which order, and why.

pub mod affinity;
mod amount;
pub mod eligible;
pub mod experiment;
pub mod explain;
mod few;
pub mod network;
mod order;
pub mod plan;
pub mod prepared;
mod relayed;
pub mod score;
pub mod shortlist;
pub mod step;
pub mod strategy;
mod table;
pub mod terms;
pub mod total;
pub mod unit_costs;
pub mod wanted;

pub use eligible::Refusal;
pub use explain::{Explanation, RefusalNote, explain};
pub use plan::{Loads, LocalLoad, Plan, plan};
pub use prepared::PreparedView;
pub use step::Step;
pub use strategy::{CostBasis, Policy, Reason, Slo, Strategy, UnknownStrategy};
