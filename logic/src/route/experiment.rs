//! A/B experiments: which arm a request is in.
//!
//! Owns the assignment, which depends on nothing but the names in the configuration and the request's
//! key: every node gives the same answer, before and after a restart. Never sees what came of an arm.
//!
//! Each arm draws an exponential variable from the hash of experiment, arm and key, and the smallest
//! per weight wins (weighted rendezvous hashing). So a key only moves to an arm that gained weight, or
//! away from one that lost it.

use crate::ids::BackendId;
use crate::request::Request;
use crate::route::Strategy;
use serde::{Deserialize, Serialize};

/// What of a request decides its arm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The tenant that asks.
    Tenant,
    /// The session: `x-llm-router-session`, else what the body names as its user.
    Session,
    /// The user named in the body (OpenAI `user`, Anthropic `metadata.user_id`).
    User,
    /// The value of a request header, by its name in lower case.
    Header(String),
}

/// One way of treating a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Unique in its experiment.
    pub name: String,
    /// Its share is its weight among all weights, in millionths of whatever unit they are given in.
    pub weight: u64,
    /// What is done to the request.
    pub change: Change,
}

/// What an arm does to a request; nothing for an arm that is the control.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The model asked for instead.
    pub model: Option<String>,
    /// The backend tried first.
    pub backend: Option<BackendId>,
    /// The strategy applied.
    pub strategy: Option<Strategy>,
}

/// Which requests take part; an empty list lets all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scope {
    /// Models as clients name them; `auto` for requests that leave the choice to the router.
    pub models: Vec<String>,
    /// Tenants.
    pub tenants: Vec<String>,
}

/// One experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Unique; goes into the hash, so that two experiments split the same keys independently.
    pub name: String,
    /// What decides the arm.
    pub key: Key,
    /// The arms, at least one of them with a weight.
    pub arms: Vec<Arm>,
    /// Which requests take part.
    pub scope: Scope,
}

/// What an experiment may look at in a request.
pub struct Subject<'r> {
    /// The model asked for, or `auto`.
    pub model: &'r str,
    /// The tenant, where one is known.
    pub tenant: Option<&'r str>,
    /// The session.
    pub session: Option<&'r str>,
    /// The user named in the body.
    pub user: Option<&'r str>,
    /// A request header by its name in lower case.
    pub header: &'r dyn Fn(&str) -> Option<&'r str>,
}

/// The arm a request is in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assignment<'e> {
    /// The experiment.
    pub experiment: &'e Experiment,
    /// Its arm.
    pub arm: &'e Arm,
}

/// The arms of all `experiments` that `request` takes part in, in their order.
///
/// A request without the key takes part in none that needs it. Neither does one that already says what an
/// arm would change: it names its own backend or strategy, or an earlier experiment set it.
pub fn assign<'e>(
    experiments: &'e [Experiment],
    subject: &Subject<'_>,
    request: &Request,
) -> Vec<Assignment<'e>> {
    let mut backend = request.hints.backend.is_some();
    let mut strategy = request.hints.strategy.is_some();
    let mut model = false;
    let mut assigned = Vec::new();
    for experiment in experiments {
        let changes = |part: fn(&Change) -> bool| experiment.arms.iter().any(|arm| part(&arm.change));
        let of_backend = changes(|change| change.backend.is_some());
        let of_strategy = changes(|change| change.strategy.is_some());
        let of_model = changes(|change| change.model.is_some());
        let settled = (of_backend && backend) || (of_strategy && strategy) || (of_model && model);
        if settled || !experiment.concerns(subject) {
            continue;
        }
        let Some(arm) = experiment.key.of(subject).and_then(|key| experiment.arm_of(key)) else { continue };
        (backend, strategy, model) = (backend || of_backend, strategy || of_strategy, model || of_model);
        assigned.push(Assignment { experiment, arm });
    }
    assigned
}

impl Key {
    fn of<'r>(&self, subject: &Subject<'r>) -> Option<&'r str> {
        match self {
            Self::Tenant => subject.tenant,
            Self::Session => subject.session,
            Self::User => subject.user,
            Self::Header(name) => (subject.header)(name),
        }
        .filter(|key| !key.is_empty())
    }
}

impl Experiment {
    fn concerns(&self, subject: &Subject<'_>) -> bool {
        self.scope.covers(subject.model, subject.tenant)
    }

    /// The arm of `key`; `None` where no arm has a weight.
    pub fn arm_of(&self, key: &str) -> Option<&Arm> {
        let weighted = self.arms.iter().filter(|arm| arm.weight > 0);
        let drawn = weighted.map(|arm| (arm, exponential(hash(&[&self.name, &arm.name, key]))));
        drawn
            .min_by(|(one, e), (other, f)| {
                (u128::from(*e) * u128::from(other.weight)).cmp(&(u128::from(*f) * u128::from(one.weight)))
            })
            .map(|(arm, _)| arm)
    }
}

impl Scope {
    /// Whether a request of `tenant` for `model` takes part.
    pub fn covers(&self, model: &str, tenant: Option<&str>) -> bool {
        let allows = |list: &[String], one: Option<&str>| {
            list.is_empty() || one.is_some_and(|one| list.iter().any(|listed| listed == one))
        };
        allows(&self.models, Some(model)) && allows(&self.tenants, tenant)
    }
}

impl Change {
    /// Does it to `request`.
    pub fn apply(&self, request: &mut Request) {
        if let Some(model) = &self.model {
            request.model = Some(model.as_str().into());
        }
        if let Some(backend) = &self.backend {
            request.hints.backend = Some(backend.clone());
        }
        if let Some(strategy) = self.strategy {
            request.hints.strategy = Some(strategy);
        }
    }
}

/// FNV-1a (64 bits) over the parts with a zero byte after each, then SplitMix64's output function, since
/// FNV's upper bits mix badly. Part of the contract with the operator: changing it moves every key.
pub fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut z = fnv;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// −log₂ of `hash` ÷ 2⁶⁴ in 2⁻³² units: an exponential variable of a uniform one. In integers, so that
/// machines with other mathematics libraries agree to the last bit.
fn exponential(hash: u64) -> u64 {
    let uniform = hash.max(1);
    let zeros = uniform.leading_zeros();
    let mut mantissa = uniform << zeros;
    let mut fraction: u64 = 0;
    for _ in 0..32 {
        // The square of a number from 1 to 2 (63 bits after the point): at 2 or more, the next digit is 1.
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        fraction <<= 1;
        if square >> 64 == 0 {
            mantissa = square as u64;
        } else {
            fraction |= 1;
            mantissa = (square >> 1) as u64;
        }
    }
    ((u64::from(zeros) + 1) << 32) - fraction
}

#[cfg(test)]
#[path = "experiment_tests.rs"]
mod tests;
