//! What is wrong with a file, said so that a person can mend it: the path, the fact, the cure.

use crate::config::path::Path;
use std::collections::BTreeMap;
use std::fmt;

/// One thing that keeps a file from being used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where, for example `clusters[2].costPerHour`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
    /// The line of the file, where one is known: the key's own, or that of what it is missing in.
    pub line: Option<u64>,
}

/// One thing that is used differently from what its author may expect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// Where, as in [`Problem::path`].
    pub path: String,
    /// What the router does instead.
    pub message: String,
    /// The line of the file, as in [`Problem::line`].
    pub line: Option<u64>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        located(f, &self.path, &self.message, self.line)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        located(f, &self.path, &self.message, self.line)
    }
}

/// `path: message [line 7]`.
fn located(f: &mut fmt::Formatter<'_>, path: &str, message: &str, line: Option<u64>) -> fmt::Result {
    if !path.is_empty() {
        write!(f, "{path}: ")?;
    }
    f.write_str(message)?;
    line.map_or(Ok(()), |line| write!(f, " [line {line}]"))
}

/// All problems of one file, never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// A file that cannot be read at all.
    pub(crate) fn of_file(message: impl Into<String>) -> Self {
        Self(vec![Problem { path: String::new(), message: message.into(), line: None }])
    }

    /// Each problem, in the order of the paths.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// What has been found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<(Path, String)>,
    warnings: Vec<(Path, String)>,
    lines: BTreeMap<Path, u64>,
}

impl Findings {
    /// Records what is wrong at `path`, unless something is already known to be wrong there or around
    /// it: what follows from that would only distract.
    pub(super) fn problem(&mut self, path: &Path, message: impl Into<String>) {
        if self.sound(path) {
            self.problems.push((path.clone(), message.into()));
        }
    }

    /// Records what is used differently from what the author may expect.
    pub(super) fn warning(&mut self, path: &Path, message: impl Into<String>) {
        self.warnings.push((path.clone(), message.into()));
    }

    /// Records the line of the key or list element at `path`.
    pub(super) fn line(&mut self, path: &Path, line: u64) {
        self.lines.insert(path.clone(), line);
    }

    /// Whether nothing is known to be wrong at `path` or around it.
    pub(super) fn sound(&self, path: &Path) -> bool {
        !self.problems.iter().any(|(known, _)| known.contains(path))
    }

    /// The warnings where there is no problem, in the order of their paths.
    pub(super) fn conclude(mut self) -> Result<Vec<Warning>, Problems> {
        self.problems.sort();
        self.warnings.sort();
        let line = |path: &Path| path.upwards().find_map(|place| self.lines.get(&place).copied());
        if self.problems.is_empty() {
            let warnings = self.warnings.into_iter();
            return Ok(warnings
                .map(|(path, message)| Warning { path: path.to_string(), message, line: line(&path) })
                .collect());
        }
        let problems = self.problems.into_iter();
        Err(Problems(
            problems
                .map(|(path, message)| Problem { path: path.to_string(), message, line: line(&path) })
                .collect(),
        ))
    }
}
