//! What a fault file may say beyond its types: ranges, and how durations are written.

use super::{Action, FaultsError, Rule, Wait};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::time::Duration;

/// Most rules in one set: each request walks them all.
const RULES_MAX: usize = 1_000;

pub(super) fn invalid(path: impl Into<String>, problem: impl Into<String>) -> FaultsError {
    FaultsError::Invalid { path: path.into(), problem: problem.into() }
}

/// Values that have the right type and still make no sense.
pub(super) fn check(rules: &[Rule]) -> Result<(), FaultsError> {
    if rules.len() > RULES_MAX {
        return Err(invalid("rules", format!("{} rules, at most {RULES_MAX} are allowed", rules.len())));
    }
    for (n, rule) in rules.iter().enumerate() {
        let at = |field: &str| format!("rules[{n}].{field}");
        if rule.r#match.nth == Some(0) {
            return Err(invalid(at("match.nth"), "requests are counted from 1"));
        }
        if rule.r#match.every == Some(0) {
            return Err(invalid(at("match.every"), "must be at least 1"));
        }
        if rule.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err(invalid(at("probability"), "must be between 0 and 1"));
        }
        match &rule.action {
            Action::Status { code, .. } if !(400..=599).contains(code) => {
                return Err(invalid(
                    at("action.status.code"),
                    format!("`{code}` is not between 400 and 599"),
                ));
            }
            Action::Slow { ttft: None, tokens_per_second: None } => {
                return Err(invalid(at("action.slow"), "state `ttft`, `tokensPerSecond` or both"));
            }
            Action::Slow { tokens_per_second: Some(rate), .. } if !(*rate > 0.0 && rate.is_finite()) => {
                return Err(invalid(at("action.slow.tokensPerSecond"), "must be more than 0"));
            }
            Action::WrongUsage { factor, missing } if factor.is_some() == (*missing == Some(true)) => {
                return Err(invalid(at("action.wrongUsage"), "state either `factor` or `missing: true`"));
            }
            Action::WrongUsage { factor: Some(factor), .. } if !(*factor >= 0.0 && factor.is_finite()) => {
                return Err(invalid(at("action.wrongUsage.factor"), "must be 0 or more"));
            }
            Action::UsageClasses { cached, written, reasoning, .. }
                if [cached, written, reasoning]
                    .into_iter()
                    .flatten()
                    .any(|share| !(0.0..=1.0).contains(share)) =>
            {
                return Err(invalid(at("action.usageClasses"), "shares are from 0 to 1"));
            }
            Action::Burst429 { count: 0, .. } => {
                return Err(invalid(at("action.burst429.count"), "must be at least 1"));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Serialize for Wait {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let wait = match &value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => seconds(text.trim()),
            _ => None,
        };
        wait.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).map(Self).ok_or_else(|| {
            D::Error::custom(format!("`{value}` is no duration: write \"800ms\", \"2s\" or seconds"))
        })
    }
}

fn seconds(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    match unit.trim() {
        "ms" => Some(number / 1_000.0),
        "s" => Some(number),
        "m" => Some(number * 60.0),
        _ => None,
    }
}
