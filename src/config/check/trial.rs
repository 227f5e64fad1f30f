//! The lists `experiments` and `shadows`.

use super::Check;
use crate::config::decode::nearest;
use crate::config::file::{ArmFile, ExperimentFile, ScopeFile, ShadowFile};
use crate::config::path::Path;
use crate::config::settings::{Backend, Shadow};
use llm_router_logic::ids::BackendId;
use llm_router_logic::route::Strategy;
use llm_router_logic::route::experiment::{Arm, Change, Experiment, Key, Scope};
use std::collections::BTreeSet;

/// Most experiments, arms of one, and shadows: each is a metric label and is looked at per request.
const EXPERIMENTS_MAX: usize = 16;
const ARMS_MAX: usize = 16;
const SHADOWS_MAX: usize = 8;
/// Weights are kept in millionths.
const WEIGHT_UNIT: f64 = 1e6;
const WEIGHT_MAX: f64 = 1e9;
/// Copies of one shadow at once.
const CONCURRENT_DEFAULT: u32 = 4;
const CONCURRENT_MAX: u32 = 256;
/// What copies may cost, in parts of what clients' requests cost.
const SPEND_SHARE_DEFAULT: f64 = 0.05;

impl Check<'_> {
    pub(super) fn experiments(
        &mut self,
        files: Option<Vec<Option<ExperimentFile>>>,
        backends: &[Backend],
    ) -> Vec<Experiment> {
        let at = Path::default().key("experiments");
        let files = files.unwrap_or_default();
        if files.len() > EXPERIMENTS_MAX {
            self.findings.problem(&at, format!("more than {EXPERIMENTS_MAX} experiments"));
        }
        let mut names = BTreeSet::new();
        let mut experiments = Vec::new();
        for (index, file) in files.into_iter().enumerate() {
            let at = at.index(index);
            match file {
                Some(file) => experiments.extend(self.experiment(&at, file, backends, &mut names)),
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        experiments
    }

    fn experiment(
        &mut self,
        at: &Path,
        file: ExperimentFile,
        backends: &[Backend],
        names: &mut BTreeSet<String>,
    ) -> Option<Experiment> {
        let name = self.only_name(&at.key("name"), file.name, "small-model", names);
        let key_at = at.key("key");
        let key = self.required(&key_at, file.key, "session").and_then(|word| self.trial_key(&key_at, &word));
        let arms_at = at.key("arms");
        let files = self.required(&arms_at, file.arms, "[{name: control, weight: 90}, …]");
        let files = files.unwrap_or_default();
        if files.len() > ARMS_MAX {
            self.findings.problem(&arms_at, format!("more than {ARMS_MAX} arms"));
        }
        let mut arm_names = BTreeSet::new();
        let mut arms = Vec::new();
        for (index, file) in files.into_iter().enumerate() {
            let at = arms_at.index(index);
            match file {
                Some(file) => arms.extend(self.arm(&at, file, backends, &mut arm_names)),
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        if !arms.is_empty() && arms.iter().all(|arm| arm.weight == 0) {
            self.findings.problem(&arms_at, "no arm has a weight above 0, so no request is in any");
        }
        let scope = self.scope(&at.key("when"), file.when);
        Some(Experiment { name: name?, key: key?, arms, scope })
    }

    fn trial_key(&mut self, at: &Path, word: &str) -> Option<Key> {
        match word {
            "tenant" => Some(Key::Tenant),
            "session" => Some(Key::Session),
            "user" => Some(Key::User),
            word => match word.strip_prefix("header:").map(str::trim) {
                Some(header) if http::HeaderName::try_from(header).is_ok() => {
                    Some(Key::Header(header.to_ascii_lowercase()))
                }
                _ => {
                    let message =
                        format!("expected `tenant`, `session`, `user` or `header:NAME`, found `{word}`");
                    self.findings.problem(at, message);
                    None
                }
            },
        }
    }

    fn arm(
        &mut self,
        at: &Path,
        file: ArmFile,
        backends: &[Backend],
        names: &mut BTreeSet<String>,
    ) -> Option<Arm> {
        let name = self.only_name(&at.key("name"), file.name, "control", names);
        let weight_at = at.key("weight");
        let weight = self.required(&weight_at, file.weight, "50");
        let weight = weight.filter(|weight| {
            let sane = (0.0..=WEIGHT_MAX).contains(weight);
            if !sane {
                self.findings.problem(&weight_at, format!("must be from 0 to 10^9, is `{weight}`"));
            }
            sane
        });
        let change = Change {
            model: self.known_model(&at.key("model"), file.model, backends),
            backend: self.known_backend(&at.key("backend"), file.backend, backends),
            strategy: file.strategy.and_then(|word| {
                let words = Strategy::ALL.map(|strategy| (strategy.as_str(), strategy));
                let known = words.iter().any(|(known, _)| *known == word);
                let strategy = self.one_of(&at.key("strategy"), "strategy", &word, words);
                known.then_some(strategy)
            }),
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        let weight = (weight? * WEIGHT_UNIT).round() as u64;
        Some(Arm { name: name?, weight, change })
    }

    fn scope(&mut self, at: &Path, file: Option<ScopeFile>) -> Scope {
        let file = file.unwrap_or_default();
        let mut words = |key: &str, list| {
            self.texts(&at.key(key), list).into_iter().map(|(_, word)| word).collect::<Vec<_>>()
        };
        Scope { models: words("models", file.models), tenants: words("tenants", file.tenants) }
    }

    pub(super) fn shadows(
        &mut self,
        files: Option<Vec<Option<ShadowFile>>>,
        backends: &[Backend],
    ) -> Vec<Shadow> {
        let at = Path::default().key("shadows");
        let files = files.unwrap_or_default();
        if files.len() > SHADOWS_MAX {
            self.findings.problem(&at, format!("more than {SHADOWS_MAX} shadows"));
        }
        let mut names = BTreeSet::new();
        let mut shadows = Vec::new();
        for (index, file) in files.into_iter().enumerate() {
            let at = at.index(index);
            match file {
                Some(file) => shadows.extend(self.shadow(&at, file, backends, &mut names)),
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        shadows
    }

    fn shadow(
        &mut self,
        at: &Path,
        file: ShadowFile,
        backends: &[Backend],
        names: &mut BTreeSet<String>,
    ) -> Option<Shadow> {
        let name = self.only_name(&at.key("name"), file.name, "next-model", names);
        let share = self.required(&at.key("share"), file.share, "0.01");
        let share = self.part(&at.key("share"), share.unwrap_or(0.0), 1.0);
        if file.backend.is_none() && file.model.is_none() {
            self.findings.problem(at, "needs a `backend` or a `model` that copies are sent to");
        }
        let concurrent =
            self.count(&at.key("maxConcurrent"), file.max_concurrent).unwrap_or(CONCURRENT_DEFAULT);
        if concurrent > CONCURRENT_MAX {
            self.findings.problem(&at.key("maxConcurrent"), format!("must be at most {CONCURRENT_MAX}"));
        }
        let spend = file.max_spend_share.unwrap_or(SPEND_SHARE_DEFAULT);
        Some(Shadow {
            share,
            backend: self.known_backend(&at.key("backend"), file.backend, backends),
            model: self.known_model(&at.key("model"), file.model, backends),
            scope: self.scope(&at.key("when"), file.when),
            max_concurrent: concurrent,
            max_spend_share: self.part(&at.key("maxSpendShare"), spend, 1_000.0),
            name: name?,
        })
    }

    fn part(&mut self, at: &Path, value: f64, most: f64) -> f64 {
        if !(0.0..=most).contains(&value) {
            self.findings.problem(at, format!("must be from 0 to {most}, is `{value}`"));
        }
        value
    }

    /// A name that is no other's in its list.
    fn only_name(
        &mut self,
        at: &Path,
        name: Option<String>,
        example: &str,
        names: &mut BTreeSet<String>,
    ) -> Option<String> {
        let name = self.required(at, name, example)?;
        self.name(at, &name);
        if !names.insert(name.clone()) {
            self.findings.problem(at, format!("`{name}` is given twice (give each its own name)"));
        }
        Some(name)
    }

    fn known_backend(&mut self, at: &Path, name: Option<String>, backends: &[Backend]) -> Option<BackendId> {
        let name = name?;
        let id = BackendId::new(&name);
        if !backends.iter().any(|backend| backend.spec.id == id) {
            let known: Vec<&str> = backends.iter().map(|backend| backend.spec.id.as_str()).collect();
            let cure = match nearest(&name, known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "name a cluster or an enabled provider".to_owned(),
            };
            self.findings.problem(at, format!("there is no backend `{name}` ({cure})"));
        }
        Some(id)
    }

    /// A model that somebody is known to serve; clusters may tell of more once they are asked.
    fn known_model(&mut self, at: &Path, name: Option<String>, backends: &[Backend]) -> Option<String> {
        let name = name?;
        let serves = |backend: &Backend| {
            let models = &backend.spec.models;
            models.is_empty()
                || models.iter().any(|model| *model.name == *name || model.aliases.contains(&name))
        };
        if !backends.iter().any(serves) {
            self.findings.problem(at, format!("no backend serves `{name}` (add it to one's `models`)"));
        }
        Some(name)
    }
}
