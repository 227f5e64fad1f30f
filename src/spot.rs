//! Files that tell the price of a cluster's hour now and when its machine is taken away.
//!
//! Whatever watches the cloud (a sidecar at the instance's metadata, a script) writes the file; this looks at
//! it four times a second and says what changed, here and to all peers. A file that is not there says
//! nothing; one that cannot be read is reported once and changes nothing.

use arc_swap::ArcSwap;
use llm_router_actors::Handle;
use llm_router_actors::handle::Word;
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use llm_router_logic::time::millis;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::task::AbortOnDropHandle;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Most bytes of one file.
const BYTES_MAX: u64 = 64 * 1024;

/// The file as it is written: ours, or what AWS tells of a spot instance
/// (`{"action": "terminate", "time": "2026-11-23T17:00:00Z"}`).
#[derive(Debug, Default, Deserialize)]
struct NoticeFile {
    /// USD per hour of the whole cluster.
    #[serde(alias = "costPerHour")]
    cost_per_hour: Option<f64>,
    /// RFC 3339.
    #[serde(alias = "preemptAt", alias = "time")]
    preempt_at: Option<String>,
}

/// What a file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    price: Option<Money>,
    preemption: Option<u64>,
}

/// Watches the notice files of a node until it is dropped.
#[derive(Debug)]
pub struct Notices {
    files: Arc<ArcSwap<Vec<(BackendId, PathBuf)>>>,
    _task: AbortOnDropHandle<()>,
}

impl Notices {
    /// Watches `files`, and says to `handle` what they say.
    pub fn watch(handle: Handle, files: Vec<(BackendId, PathBuf)>) -> Self {
        let files = Arc::new(ArcSwap::from_pointee(files));
        let watched = Arc::clone(&files);
        let task = tokio::spawn(async move {
            let mut seen = BTreeMap::new();
            loop {
                let files = watched.load_full();
                if !files.is_empty() {
                    let looked = tokio::task::spawn_blocking(move || look(&files, seen)).await;
                    // Only a panic could fail it; then everything is read anew.
                    let (now, words) = looked.unwrap_or_default();
                    seen = now;
                    for (backend, word) in words {
                        handle.say(&backend, word);
                    }
                } else {
                    seen = BTreeMap::new();
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { files, _task: AbortOnDropHandle::new(task) }
    }

    /// Watches other files from now on.
    pub fn rewatch(&self, files: Vec<(BackendId, PathBuf)>) {
        self.files.store(Arc::new(files));
    }
}

/// What was seen of one file.
#[derive(Debug, Default)]
struct Seen {
    stamp: Option<(SystemTime, u64)>,
    said: Said,
}

type AllSeen = BTreeMap<BackendId, Seen>;

/// Reads what changed; the words are what differs from the last reading.
fn look(files: &[(BackendId, PathBuf)], mut before: AllSeen) -> (AllSeen, Vec<(BackendId, Word)>) {
    let (mut now, mut words) = (AllSeen::new(), Vec::new());
    for (backend, path) in files {
        let mut seen = before.remove(backend).unwrap_or_default();
        let metadata = path.metadata().ok();
        let stamp = metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())));
        if stamp != seen.stamp {
            seen.stamp = stamp;
            let said = if stamp.is_some() { read(path) } else { Ok(Said::default()) };
            match said {
                Ok(said) => {
                    if said.price != seen.said.price {
                        words.push((backend.clone(), Word::Price(said.price)));
                    }
                    if said.preemption != seen.said.preemption {
                        words.push((backend.clone(), Word::Preemption(said.preemption)));
                    }
                    seen.said = said;
                }
                Err(why) => {
                    tracing::warn!(%backend, file = %path.display(), why, "cannot read a notice file, what it said before holds");
                }
            }
        }
        now.insert(backend.clone(), seen);
    }
    (now, words)
}

fn read(path: &Path) -> Result<Said, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    parse(&text)
}

fn parse(text: &str) -> Result<Said, String> {
    if text.trim().is_empty() {
        return Ok(Said::default());
    }
    let file: NoticeFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let price = match file.cost_per_hour {
        None => None,
        Some(usd) => {
            let price = Money::from_usd(usd).filter(|price| *price >= Money::ZERO);
            Some(price.ok_or_else(|| format!("`cost_per_hour` is no amount of dollars: `{usd}`"))?)
        }
    };
    let preemption = match file.preempt_at {
        None => None,
        Some(text) => {
            let at = humantime::parse_rfc3339_weak(&text)
                .map_err(|_| format!("`{text}` is no time such as `2026-11-23T17:00:00Z`"))?;
            Some(millis(at.duration_since(UNIX_EPOCH).unwrap_or_default()))
        }
    };
    Ok(Said { price, preemption })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_and_awss_notices_are_read() {
        let price = Money::from_usd(0.03);
        assert_eq!(parse(r#"{"cost_per_hour": 0.03}"#), Ok(Said { price, preemption: None }));
        let aws = r#"{"action": "terminate", "time": "1970-01-01T00:01:00Z"}"#;
        assert_eq!(parse(aws), Ok(Said { price: None, preemption: Some(60_000) }));
        let both = r#"{"costPerHour": 0.03, "preemptAt": "1970-01-01T00:00:01.500Z"}"#;
        assert_eq!(parse(both), Ok(Said { price, preemption: Some(1_500) }));
        assert_eq!(parse(" \n"), Ok(Said::default()));
        for bad in ["[1]", "{", r#"{"cost_per_hour": -1}"#, r#"{"time": "soon"}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_changes_are_said_and_a_file_that_goes_takes_its_word_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spot.json");
        let files = [(BackendId::new("gpu"), path.clone())];
        let (seen, words) = look(&files, AllSeen::new());
        assert_eq!(words, [], "no file is no word");
        std::fs::write(&path, r#"{"cost_per_hour": 0.5}"#).unwrap();
        let (seen, words) = look(&files, seen);
        assert_eq!(words, [("gpu".into(), Word::Price(Money::from_usd(0.5)))]);
        std::fs::write(&path, r#"{"cost_per_hour": 0.5, "time": "1970-01-01T00:00:09Z"}"#).unwrap();
        let (seen, words) = look(&files, seen);
        assert_eq!(words, [("gpu".into(), Word::Preemption(Some(9_000)))]);
        std::fs::write(&path, "not a notice").unwrap();
        let (seen, words) = look(&files, seen);
        assert_eq!(words, [], "what it said before holds");
        std::fs::remove_file(&path).unwrap();
        let (_, words) = look(&files, seen);
        assert_eq!(words, [("gpu".into(), Word::Price(None)), ("gpu".into(), Word::Preemption(None))]);
    }
}
