//! When a configuration file should be read again: on SIGHUP and when the file changes.
//!
//! Owns the watch on the file's directory and the memory of which version was seen last. Never reads
//! the file's text: the node does, and a bad file changes nothing there.
//!
//! The directory is watched and not the file, since editors and Kubernetes replace a file by renaming
//! another over it or by turning a symbolic link. Whether an event meant our file is decided by
//! comparing the file's stamp, so that a busy directory triggers nothing; the same comparison every few
//! seconds stands in where the system reports no events (network drives, exhausted inotify watches).

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A file counts as written once its directory was quiet for this long.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// In a directory that is never quiet, the file is looked at this long after the first event.
const DEBOUNCE_MAX: Duration = Duration::from_secs(2);
/// How often the file is looked at without any event.
const POLL: Duration = Duration::from_secs(5);

/// Why a file should be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP: read it even if it did not change.
    Hangup,
    /// The file is another than before.
    Changed,
}

/// Waits for reasons to read one file again. It stops watching when dropped.
pub struct Watcher {
    path: PathBuf,
    seen: Option<Stamp>,
    events: Arc<Notify>,
    burst: Option<Burst>,
    next_poll: Instant,
    hangups: Hangups,
    /// Only kept alive; `None` where the system refused, and polling must do.
    _directory: Option<RecommendedWatcher>,
}

/// Events that have not been looked into yet.
#[derive(Clone, Copy)]
struct Burst {
    started: Instant,
    latest: Instant,
}

/// What tells one version of a file from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    target: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
}

impl Watcher {
    /// Watches `path`. Make it before reading the file the first time, so that no change between the
    /// two is missed.
    ///
    /// # Errors
    /// Where the process cannot listen for SIGHUP.
    pub fn new(path: &Path) -> std::io::Result<Self> {
        let events = Arc::new(Notify::new());
        let directory = watch_directory(path, Arc::clone(&events))
            .inspect_err(|error| {
                tracing::warn!(%error, path = %path.display(), "no file events: polling the file instead");
            })
            .ok();
        Ok(Self {
            path: path.to_owned(),
            seen: Stamp::of(path),
            events,
            burst: None,
            next_poll: Instant::now() + POLL,
            hangups: Hangups::listen()?,
            _directory: directory,
        })
    }

    /// Waits for the next reason. Dropping the future before it is ready loses nothing.
    pub async fn changed(&mut self) -> Trigger {
        loop {
            let look_at = self.burst.map_or(self.next_poll, Burst::settles_at);
            tokio::select! {
                () = self.hangups.next() => {
                    self.burst = None;
                    self.seen = Stamp::of(&self.path).or(self.seen.take());
                    return Trigger::Hangup;
                }
                () = self.events.notified() => {
                    let latest = Instant::now();
                    let started = self.burst.map_or(latest, |burst| burst.started);
                    self.burst = Some(Burst { started, latest });
                }
                () = sleep_until(look_at) => {
                    self.burst = None;
                    self.next_poll = Instant::now() + POLL;
                    // A file that is gone is most likely being replaced: its successor will differ.
                    if let Some(stamp) = Stamp::of(&self.path)
                        && self.seen.as_ref() != Some(&stamp)
                    {
                        self.seen = Some(stamp);
                        return Trigger::Changed;
                    }
                }
            }
        }
    }
}

impl Burst {
    fn settles_at(self) -> Instant {
        (self.latest + DEBOUNCE).min(self.started + DEBOUNCE_MAX)
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let target = path.canonicalize().ok()?;
        let metadata = target.metadata().ok()?;
        Some(Self { target, modified: metadata.modified().ok(), length: metadata.len() })
    }
}

fn watch_directory(path: &Path, events: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too; an error means events were lost, so look.
        if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
            events.notify_one();
        }
    })?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    // A link may point into another directory, where its target is edited in place.
    if let Some(target) = path.canonicalize().ok().as_deref().and_then(Path::parent)
        && directory.canonicalize().ok().as_deref() != Some(target)
    {
        watcher.watch(target, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// SIGHUP, on systems that have it.
struct Hangups {
    #[cfg(unix)]
    signals: tokio::signal::unix::Signal,
}

impl Hangups {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            signals: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if self.signals.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// A signal reaches every watcher of the process, so these tests run one at a time.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    async fn next(watcher: &mut Watcher) -> Option<Trigger> {
        tokio::time::timeout(DEADLINE, watcher.changed()).await.ok()
    }

    #[tokio::test]
    async fn an_edit_in_place_and_a_rename_over_the_file_are_each_told_once() {
        let _alone = ALONE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("router.yaml");
        fs::write(&path, "a: 1").unwrap();
        let mut watcher = Watcher::new(&path).unwrap();

        fs::write(&path, "a: 12").unwrap();
        assert_eq!(next(&mut watcher).await, Some(Trigger::Changed));

        let draft = directory.path().join(".router.yaml.swp");
        fs::write(&draft, "a: 123").unwrap();
        fs::rename(&draft, &path).unwrap();
        assert_eq!(next(&mut watcher).await, Some(Trigger::Changed));

        fs::write(directory.path().join("other.txt"), "noise").unwrap();
        let more = tokio::time::timeout(DEBOUNCE * 3, watcher.changed()).await;
        assert!(more.is_err(), "another file in the directory is no reason: {more:?}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_turned_kubernetes_link_is_told() {
        use std::os::unix::fs::symlink;
        let _alone = ALONE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        for version in ["..v1", "..v2"] {
            fs::create_dir(directory.path().join(version)).unwrap();
            fs::write(directory.path().join(version).join("router.yaml"), "a: 1").unwrap();
        }
        symlink("..v1", directory.path().join("..data")).unwrap();
        symlink("..data/router.yaml", directory.path().join("router.yaml")).unwrap();
        let mut watcher = Watcher::new(&directory.path().join("router.yaml")).unwrap();

        symlink("..v2", directory.path().join("..data_tmp")).unwrap();
        fs::rename(directory.path().join("..data_tmp"), directory.path().join("..data")).unwrap();
        assert_eq!(next(&mut watcher).await, Some(Trigger::Changed));
    }

    #[tokio::test]
    async fn a_deleted_file_is_no_reason_but_its_return_is() {
        let _alone = ALONE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("router.yaml");
        fs::write(&path, "a: 1").unwrap();
        let mut watcher = Watcher::new(&path).unwrap();

        fs::remove_file(&path).unwrap();
        let gone = tokio::time::timeout(DEBOUNCE * 3, watcher.changed()).await;
        assert!(gone.is_err(), "there is nothing to read: {gone:?}");
        fs::write(&path, "a: 2, b: 3").unwrap();
        assert_eq!(next(&mut watcher).await, Some(Trigger::Changed));
    }

    #[tokio::test]
    async fn a_wait_given_up_halfway_loses_no_change() {
        let _alone = ALONE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("router.yaml");
        fs::write(&path, "a: 1").unwrap();
        let mut watcher = Watcher::new(&path).unwrap();

        fs::write(&path, "a: 12").unwrap();
        let mut waits = 0;
        let deadline = Instant::now() + POLL / 2;
        let told = loop {
            waits += 1;
            match tokio::time::timeout(DEBOUNCE / 10, watcher.changed()).await {
                Ok(trigger) => break Some(trigger),
                Err(_) if Instant::now() > deadline => break None,
                Err(_) => {}
            }
        };
        assert_eq!(told, Some(Trigger::Changed));
        assert!(waits > 1, "the debounce is longer than one wait");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn sighup_is_told_without_a_change() {
        let _alone = ALONE.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("router.yaml");
        fs::write(&path, "a: 1").unwrap();
        let mut watcher = Watcher::new(&path).unwrap();
        let sent = std::process::Command::new("kill")
            .args(["-HUP", &std::process::id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        assert_eq!(next(&mut watcher).await, Some(Trigger::Hangup));
    }
}
