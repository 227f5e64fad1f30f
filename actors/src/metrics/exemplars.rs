//! The last traced request of each histogram bucket, for OpenMetrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Series that are remembered; those of more are not.
const SERIES_MAX: usize = 1_024;

/// One traced request.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Its trace, in hexadecimal.
    pub trace_id: String,
    /// What was measured.
    pub value: f64,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
}

/// Of each series, the newest few.
#[derive(Clone, Debug, Default)]
pub struct Exemplars {
    series: Arc<Mutex<BTreeMap<Key, Vec<Exemplar>>>>,
}

/// Exemplars kept of one series: one per bucket at most is shown.
const KEPT: usize = 16;

/// A histogram's name and the values of its labels.
type Key = (&'static str, String);

impl Exemplars {
    /// `value` was measured of the request of `trace_id`; `label` is the histogram's only label.
    pub fn note(&self, histogram: &'static str, label: &str, exemplar: Exemplar) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (histogram, label.to_owned());
        if series.len() >= SERIES_MAX && !series.contains_key(&key) {
            return;
        }
        let known = series.entry(key).or_default();
        if known.len() >= KEPT {
            known.remove(0);
        }
        known.push(exemplar);
    }

    /// The newest of `histogram` and `label` above `least` and up to `most`.
    pub(super) fn within(&self, histogram: &str, label: &str, least: f64, most: f64) -> Option<Exemplar> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, known) = series.iter().find(|((name, of), _)| *name == histogram && of == label)?;
        known.iter().rev().find(|one| one.value > least && one.value <= most).cloned()
    }
}
