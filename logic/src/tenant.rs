//! Who asks, and what they may ask for.
//!
//! Owns the [`Principal`] that authentication makes of a key and everything later goes by: the plan
//! ([`Rights`]), the books and the quota (tenant and key). Never sees the key itself.

use crate::backend::ServedModel;
use crate::ids::{BackendId, KeyId, TenantId};
use crate::route::Strategy;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The tenant of requests that carry no key where none is asked for.
pub const ANONYMOUS: &str = "anonymous";

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// Who pays.
    pub tenant: TenantId,
    /// By which key; `None` where no key was asked for.
    pub key: Option<KeyId>,
    /// What may be asked for.
    pub rights: Arc<Rights>,
}

impl Default for Principal {
    fn default() -> Self {
        Self::of(TenantId::new(ANONYMOUS))
    }
}

impl Principal {
    /// `tenant` without a key and without bounds.
    pub fn of(tenant: TenantId) -> Self {
        Self { tenant, key: None, rights: Arc::default() }
    }
}

/// One list of what is allowed; `None` = everything. In `models` and `backends` a final `*` stands for
/// any ending.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allowed {
    /// Models, by name or alias.
    pub models: Option<Vec<String>>,
    /// Backends, by name.
    pub backends: Option<Vec<String>>,
    /// Strategies; the first is taken where the configured one is not among them.
    pub strategies: Option<Vec<Strategy>>,
}

impl Allowed {
    /// Whether nothing is forbidden.
    pub fn is_everything(&self) -> bool {
        self.models.is_none() && self.backends.is_none() && self.strategies.is_none()
    }
}

/// What a principal may ask for: what its key *and* its tenant allow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rights(Vec<Allowed>);

impl Rights {
    /// What every one of `lists` allows.
    pub fn new(lists: impl IntoIterator<Item = Allowed>) -> Self {
        Self(lists.into_iter().filter(|list| !list.is_everything()).collect())
    }

    /// Whether `model` may be used: each list has its name or one of its aliases.
    pub fn allow_model(&self, model: &ServedModel) -> bool {
        self.0.iter().filter_map(|list| list.models.as_deref()).all(|patterns| {
            std::iter::once(&*model.name)
                .chain(model.aliases.iter().map(String::as_str))
                .any(|name| patterns.iter().any(|pattern| matches(pattern, name)))
        })
    }

    /// Whether `backend` may be used.
    pub fn allow_backend(&self, backend: &BackendId) -> bool {
        let lists = self.0.iter().filter_map(|list| list.backends.as_deref());
        lists.into_iter().all(|patterns| patterns.iter().any(|pattern| matches(pattern, backend.as_str())))
    }

    /// Whether `strategy` may be used.
    pub fn allow_strategy(&self, strategy: Strategy) -> bool {
        self.0.iter().filter_map(|list| list.strategies.as_deref()).all(|list| list.contains(&strategy))
    }

    /// The strategy where the request names none: the configured one, else the first allowed; `None`
    /// where the lists allow none in common.
    pub fn strategy_instead_of(&self, configured: Strategy) -> Option<Strategy> {
        if self.allow_strategy(configured) {
            return Some(configured);
        }
        let mut listed = self.0.iter().filter_map(|list| list.strategies.as_deref()).flatten();
        listed.find(|strategy| self.allow_strategy(**strategy)).copied()
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(patterns: &[&str]) -> Allowed {
        let models = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        Allowed { models: Some(models), ..Allowed::default() }
    }

    #[test]
    fn a_model_is_allowed_by_its_name_an_alias_or_a_beginning() {
        let model = ServedModel { aliases: vec!["fast".into()], ..ServedModel::named("gpt-4o-mini") };
        for (patterns, allowed) in [
            (vec!["gpt-4o-mini"], true),
            (vec!["fast"], true),
            (vec!["gpt-4*"], true),
            (vec!["gpt-4"], false),
        ] {
            assert_eq!(Rights::new([models(&patterns)]).allow_model(&model), allowed, "{patterns:?}");
        }
        assert!(!Rights::new([models(&[])]).allow_model(&model), "an empty list allows nothing");
        assert!(Rights::default().allow_model(&model), "no list allows everything");
    }

    #[test]
    fn a_key_cannot_have_more_than_its_tenant() {
        let rights = Rights::new([models(&["a", "b"]), models(&["b", "c"])]);
        let allowed = ["a", "b", "c"].map(|name| rights.allow_model(&ServedModel::named(name)));
        assert_eq!(allowed, [false, true, false]);
    }

    #[test]
    fn the_first_allowed_strategy_stands_in_for_the_configured_one() {
        let list =
            |strategies: &[Strategy]| Allowed { strategies: Some(strategies.to_vec()), ..Allowed::default() };
        let rights = Rights::new([list(&[Strategy::Cost, Strategy::Latency]), list(&[Strategy::Latency])]);
        assert_eq!(rights.strategy_instead_of(Strategy::Hybrid), Some(Strategy::Latency));
        let rights = Rights::new([list(&[Strategy::Cost]), list(&[Strategy::Latency])]);
        assert_eq!(rights.strategy_instead_of(Strategy::Hybrid), None);
    }
}
