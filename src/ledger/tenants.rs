//! The ledger by tenant, for the page: what each has used and what it came to, over all days kept.

use super::failure;
use super::read::{Filter, Grouping, Reader};
use llm_router_actors::ports::LedgerError;
use llm_router_logic::money::Money;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What one tenant's requests came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSums {
    /// Who pays.
    pub tenant: String,
    /// Requests that ended.
    pub requests: u64,
    /// Of these, not answered in full.
    pub errors: u64,
    /// Input tokens of all classes.
    pub input_tokens: u64,
    /// Output tokens of all classes.
    pub output_tokens: u64,
    /// What they cost.
    pub cost_usd: Money,
    /// What they would have cost at the best external alternative, less their cost; idle hours not counted.
    pub gross_savings_usd: Money,
}

/// The sums of the at most `max` tenants that cost most in the ledger at `path`, the dearest first. Reads a
/// file: not for an asynchronous task.
///
/// # Errors
/// Why it cannot be read.
pub fn by_tenant(path: &Path, max: usize) -> Result<Vec<TenantSums>, LedgerError> {
    let rows = Reader::open(path).and_then(|reader| reader.rows(&[Grouping::Tenant], &Filter::default()));
    let rows = rows.map_err(|error| failure(path, &error))?;
    let mut all: Vec<TenantSums> = rows
        .into_iter()
        .map(|(names, sums)| TenantSums {
            tenant: names.into_iter().next().unwrap_or_default(),
            requests: sums.requests,
            errors: sums.errors,
            input_tokens: sums.input_tokens,
            output_tokens: sums.output_tokens,
            cost_usd: sums.cost,
            gross_savings_usd: sums.gross,
        })
        .collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.cost_usd));
    all.truncate(max);
    Ok(all)
}
