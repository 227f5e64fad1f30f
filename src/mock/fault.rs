//! Fault rules: which requests go wrong, how often, and in which way. Read from YAML or JSON, see
//! `docs/MOCK.md`.

mod check;

use super::text::mix;
use check::{check, invalid};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A set of rules with the counters that go with them.
#[derive(Debug, Default)]
pub struct Faults {
    seed: u64,
    rules: Vec<Rule>,
    progress: Mutex<Vec<Progress>>,
}

/// One rule: the first of a set that fires decides what happens to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Which requests; all inference requests where nothing is stated.
    #[serde(default)]
    pub r#match: Match,
    /// Fires at most this often; always where not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Fires with this probability, drawn from the set's seed; 1 where not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What happens.
    pub action: Action,
}

/// Which requests a rule is about. Stated fields must all agree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// Exact path, or a prefix followed by `*`. Not stated: every inference route, or for `unhealthy`
    /// every health, model list and statistics route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The model asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Text anywhere in the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Only the n-th request (from 1) that the fields above match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Only each n-th request that the fields above match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
}

/// What happens to a request whose rule fires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Action {
    /// Answers with an error status, in the dialect's shape unless `body` is given.
    Status {
        /// The status, 400 to 599.
        code: u16,
        /// Sent as `Retry-After`, rounded up to seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<Wait>,
        /// The body instead of the dialect's: text as it is, anything else as JSON.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Value>,
    },
    /// Never answers, not even headers, until the client leaves.
    Hang,
    /// Answers at another pace.
    Slow {
        /// Time to the first token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttft: Option<Wait>,
        /// Tokens per second.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_per_second: Option<f64>,
    },
    /// Cuts the connection after so many tokens.
    Cut {
        /// Tokens sent before.
        after_tokens: u64,
    },
    /// Ends the body in good form but without finish reason or end marker, as llama-server does on
    /// SIGTERM.
    CleanEnd {
        /// Tokens sent before.
        after_tokens: u64,
    },
    /// Falls silent after so many tokens and keeps the connection.
    Stall {
        /// Tokens sent before.
        after_tokens: u64,
    },
    /// States a wrong usage; the books keep the truth. Exactly one of the two fields.
    WrongUsage {
        /// Multiplies both counts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        factor: Option<f64>,
        /// Leaves the usage out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing: Option<bool>,
    },
    /// States usage by class; the counts themselves stay true.
    UsageClasses {
        /// Share of the input that was read from a cache.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cached: Option<f64>,
        /// Share of the input that was written to one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        written: Option<f64>,
        /// Share of the output that was reasoning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reasoning: Option<f64>,
        /// States it twice at the end of a stream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        twice: Option<bool>,
    },
    /// Answers 429 to this and the following matching requests, `count` in all.
    Burst429 {
        /// Requests refused in a row.
        count: u64,
        /// Sent as `Retry-After`, rounded up to seconds; one second where not stated.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<Wait>,
    },
    /// Answers 200 with bytes that are no JSON.
    Malformed,
    /// Answers 200 with an error object.
    ErrorBody200,
    /// Closes the connection without a byte of an answer.
    Disconnect,
    /// Health, model list and statistics routes answer 503; inference goes on.
    Unhealthy,
}

/// A duration in a fault file: `"800ms"`, `"2s"`, `"1m"`, or a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait(pub Duration);

/// Why a set of rules was refused.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// The file could not be read.
    #[error("cannot read fault file `{file}`: {source}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Neither YAML nor JSON.
    #[error("fault rules are neither YAML nor JSON: {0}")]
    Syntax(String),
    /// A value that cannot be, with its path.
    #[error("fault rules: `{path}`: {problem}")]
    Invalid {
        /// Where, for example `rules[2].action.cut.afterTokens`.
        path: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// What a rule makes of an answer that is produced after all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Twist {
    pub(crate) ttft: Option<Duration>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) ending: Option<(Ending, u64)>,
    pub(crate) usage: UsageTwist,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Cut,
    Clean,
    Stall,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum UsageTwist {
    #[default]
    True,
    Missing,
    Factor(f64),
    Classes {
        cached: f64,
        written: f64,
        reasoning: f64,
        twice: bool,
    },
}

/// A request as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) path: &'a str,
    /// Whether it asks for an answer, as opposed to health, models or statistics.
    pub(crate) inference: bool,
    pub(crate) model: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    matched: u64,
    fired: u64,
    /// Requests a burst still refuses.
    burst_left: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    /// Seed of the probabilities.
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    rules: Vec<Rule>,
}

impl Faults {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// Checks rules made in code.
    ///
    /// # Errors
    /// [`FaultsError::Invalid`] with the path of the value.
    pub fn new(seed: u64, rules: Vec<Rule>) -> Result<Self, FaultsError> {
        check(&rules)?;
        let progress = Mutex::new(vec![Progress::default(); rules.len()]);
        Ok(Self { seed, rules, progress })
    }

    /// One rule that fires on every inference request.
    ///
    /// # Errors
    /// [`FaultsError::Invalid`] with the path of the value.
    pub fn always(action: Action) -> Result<Self, FaultsError> {
        Self::new(0, vec![Rule { r#match: Match::default(), times: None, probability: None, action }])
    }

    /// Reads rules from YAML or JSON: a list, or an object with `rules` and a `seed`.
    ///
    /// # Errors
    /// Bad syntax with its line, or a bad value with its path.
    pub fn parse(text: &str) -> Result<Self, FaultsError> {
        let value: Value =
            serde_saphyr::from_str(text).map_err(|error| FaultsError::Syntax(error.to_string()))?;
        Self::from_value(value)
    }

    pub(crate) fn from_value(value: Value) -> Result<Self, FaultsError> {
        let document = match value {
            Value::Null => Value::Object(serde_json::Map::new()),
            Value::Array(rules) => serde_json::json!({ "rules": rules }),
            other => other,
        };
        let document: Document = serde_path_to_error::deserialize(document.into_deserializer())
            .map_err(|error| invalid(error.path().to_string(), error.inner().to_string()))?;
        Self::new(document.seed, document.rules)
    }

    /// Reads rules from a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and where the file cannot be read.
    pub fn load(file: &Path) -> Result<Self, FaultsError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| FaultsError::Unreadable { file: file.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// The rules as they would be written, with how often each fired.
    pub(crate) fn show(&self) -> Value {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let fired: Vec<u64> = progress.iter().map(|p| p.fired).collect();
        serde_json::json!({"seed": self.seed, "rules": self.rules, "fired": fired})
    }

    /// The action for this request, if a rule fires; moves the counters.
    pub(crate) fn choose(&self, asked: &Asked<'_>) -> Option<Action> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let numbered = (0_u64..).zip(&self.rules).zip(progress.iter_mut());
        for ((number, rule), progress) in numbered {
            if rule.is_about(asked) && rule.fires(progress, self.seed ^ mix(number)) {
                return Some(rule.action.clone());
            }
        }
        None
    }
}

impl Rule {
    fn is_about(&self, asked: &Asked<'_>) -> bool {
        let fits_path = match &self.r#match.path {
            Some(path) => match path.strip_suffix('*') {
                Some(prefix) => asked.path.starts_with(prefix),
                None => asked.path == path,
            },
            None => asked.inference != matches!(self.action, Action::Unhealthy),
        };
        let fits_model = self.r#match.model.as_deref().is_none_or(|model| asked.model == Some(model));
        let fits_text =
            self.r#match.contains.as_deref().is_none_or(|text| holds(asked.body, text.as_bytes()));
        fits_path && fits_model && fits_text
    }

    fn fires(&self, progress: &mut Progress, seed: u64) -> bool {
        progress.matched += 1;
        if progress.burst_left > 0 {
            progress.burst_left -= 1;
            return true;
        }
        let in_turn = self.r#match.nth.is_none_or(|nth| progress.matched == nth)
            && self.r#match.every.is_none_or(|every| progress.matched.is_multiple_of(every));
        let left = self.times.is_none_or(|times| progress.fired < times);
        let drawn = self.probability.is_none_or(|p| {
            // 53 random bits make a float in [0, 1).
            let draw = (mix(seed.wrapping_add(progress.matched)) >> 11) as f64 / (1_u64 << 53) as f64;
            draw < p
        });
        if !(in_turn && left && drawn) {
            return false;
        }
        progress.fired += 1;
        if let Action::Burst429 { count, .. } = self.action {
            progress.burst_left = count - 1;
        }
        true
    }
}

impl Action {
    /// How the answer is changed, for actions that change one.
    pub(crate) fn twist(&self) -> Option<Twist> {
        let plain = Twist::default();
        Some(match self {
            Self::Slow { ttft, tokens_per_second } => {
                Twist { ttft: ttft.map(|wait| wait.0), tokens_per_second: *tokens_per_second, ..plain }
            }
            Self::Cut { after_tokens } => Twist { ending: Some((Ending::Cut, *after_tokens)), ..plain },
            Self::CleanEnd { after_tokens } => {
                Twist { ending: Some((Ending::Clean, *after_tokens)), ..plain }
            }
            Self::Stall { after_tokens } => Twist { ending: Some((Ending::Stall, *after_tokens)), ..plain },
            Self::WrongUsage { factor: Some(factor), .. } => {
                Twist { usage: UsageTwist::Factor(*factor), ..plain }
            }
            Self::WrongUsage { factor: None, .. } => Twist { usage: UsageTwist::Missing, ..plain },
            Self::UsageClasses { cached, written, reasoning, twice } => Twist {
                usage: UsageTwist::Classes {
                    cached: cached.unwrap_or(0.0),
                    written: written.unwrap_or(0.0),
                    reasoning: reasoning.unwrap_or(0.0),
                    twice: twice.unwrap_or(false),
                },
                ..plain
            },
            _ => return None,
        })
    }
}

fn holds(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
#[path = "fault/fault_test.rs"]
mod tests;
