//! What a request costs: prices, usage and the unit cost of our own machines.

pub mod day;
pub mod entry;
pub mod estimate;
pub mod price;
pub mod savings;
pub mod shape;
pub mod unit;
pub mod usage;
