//! Who may serve a request, and the first reason against everyone else.

use serde::Serialize;

/// Why a backend may not serve a request now.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Refusal {
    /// It does not serve the model asked for.
    ModelNotServed,
}
