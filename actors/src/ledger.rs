//! The ledger: what every attempt was to cost and came to, on disk, without a request ever waiting for
//! an actor.
//!
//! Requests put entries into a [`Journal`]; a thread of its own writes what has gathered as one
//! transaction (group commit) and then tells those that wait for their intent to be durable. The actor
//! is started by `Root`, is told nothing, watches over that thread and shows its figures. Lost on
//! restart: nothing, the journal outlives it.
//!
//! While the disk cannot be written, entries wait in memory, bounded, and are written later; that
//! nothing paid is begun meanwhile is the relay's part, which asks [`Journal::refuses`].

use crate::address::Address;
use crate::metrics::Metrics;
use crate::poison::poison;
use crate::ports::{LedgerError, LedgerStorage, LedgerStore};
use llm_router_logic::cost::entry::{Charge, Entry, Intent, MachineTime};
use llm_router_logic::cost::savings::Day;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// Entries that may wait for the disk; beyond, new ones are dropped and counted.
const WAITING_MAX: usize = 100_000;
/// Entries written as one transaction.
const BATCH_MAX: usize = 4_096;
/// Charges nobody waits for gather this long; an intent is written at once.
const GATHER: Duration = Duration::from_millis(20);
/// Pause after a failed write, doubled up to the longest.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often old rows are looked for.
const TEND: Duration = Duration::from_secs(60);
/// How often the actor looks after the thread.
const LOOK: Duration = Duration::from_secs(1);
/// Bits of an id that count within a millisecond.
const ID_BITS: u32 = 20;

/// Why an intent is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDurable {
    /// The ledger cannot be written.
    #[error("the ledger cannot be written")]
    Broken,
    /// It could not be written in time.
    #[error("the ledger's disk is too slow")]
    Slow,
}

/// The way into the ledger. Clones share it.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    next_id: AtomicI64,
    sound: AtomicBool,
    /// Whether an earlier run's open intents were settled.
    recovered: AtomicBool,
    /// What earlier runs came to, until somebody takes it.
    days: Mutex<Vec<(u32, Day)>>,
    settings: JournalSettings,
    storage: Arc<dyn LedgerStorage>,
    metrics: Metrics,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Entries ever put in, and those of them written or being written.
    put: u64,
    taken: u64,
    /// Told when as many entries as their number are written.
    waiters: VecDeque<(u64, Waiter)>,
    writing: bool,
}

type Waiter = oneshot::Sender<Result<(), NotDurable>>;

/// What happens to requests while the ledger cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Posture {
    /// None is served; and no request is sent to a backend before its intent is durable.
    Closed,
    /// Those at paid backends are refused, our own clusters go on.
    #[default]
    Degraded,
    /// All go on; what they come to is written later, as far as memory reaches.
    Open,
    /// As `Open`, and no request ever waits for the disk.
    Observe,
}

/// How requests and the ledger get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// What happens while it cannot be written.
    pub posture: Posture,
    /// How long a request waits for its intent; beyond, the disk counts as too slow.
    pub patience: Duration,
}

/// An intent on its way to the disk.
#[derive(Debug)]
pub struct Written(oneshot::Receiver<Result<(), NotDurable>>);

impl Written {
    /// Waits until the intent would survive a crash, at most `within`.
    ///
    /// # Errors
    /// [`NotDurable`]; the entry is kept and written as soon as that is possible.
    pub async fn durable(self, within: Duration) -> Result<(), NotDurable> {
        match tokio::time::timeout(within, self.0).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Err(NotDurable::Broken),
            Err(_) => Err(NotDurable::Slow),
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("is_sound", &self.is_sound()).finish_non_exhaustive()
    }
}

/// Unix milliseconds by the system's clock: what a ledger is dated by.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    llm_router_logic::time::millis(now)
}

impl Journal {
    /// A journal over `storage`. Nothing is written before [`start`](Self::start).
    pub fn new(storage: Arc<dyn LedgerStorage>, settings: JournalSettings, metrics: Metrics) -> Self {
        let first_id = i64::try_from(unix_ms()).unwrap_or(0) << ID_BITS;
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                wake: Condvar::new(),
                next_id: AtomicI64::new(first_id),
                sound: AtomicBool::new(true),
                recovered: AtomicBool::new(false),
                days: Mutex::default(),
                settings,
                storage,
                metrics,
                thread: Mutex::default(),
                stopping: AtomicBool::new(false),
            }),
        }
    }

    /// Starts the writing thread unless it runs.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(&self) -> std::io::Result<()> {
        let mut thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_some_and(|thread| !thread.is_finished()) || self.stopping() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let name = "ledger".to_owned();
        *thread = Some(std::thread::Builder::new().name(name).spawn(move || shared.write())?);
        Ok(())
    }

    /// Whether the last write went well.
    pub fn is_sound(&self) -> bool {
        self.shared.sound.load(Ordering::Acquire)
    }

    /// Why no attempt may be begun at a backend now, `external` or our own; `None` = it may.
    pub fn refuses(&self, external: bool) -> Option<NotDurable> {
        (!self.is_sound() && self.needs_durable(external)).then_some(NotDurable::Broken)
    }

    /// Whether an intent must be durable before its request is sent, and not only before its answer is
    /// passed on.
    pub fn is_strict(&self) -> bool {
        self.shared.settings.posture == Posture::Closed
    }

    /// Waits until an intent is durable, as far as an attempt at such a backend must.
    ///
    /// # Errors
    /// [`NotDurable`] where the attempt must end.
    pub async fn wait(&self, written: Written, external: bool) -> Result<(), NotDurable> {
        if self.shared.settings.posture == Posture::Observe {
            return Ok(());
        }
        let result = written.durable(self.shared.settings.patience).await;
        if self.needs_durable(external) { result } else { Ok(()) }
    }

    fn needs_durable(&self, external: bool) -> bool {
        match self.shared.settings.posture {
            Posture::Closed => true,
            Posture::Degraded => external,
            Posture::Open | Posture::Observe => false,
        }
    }

    /// Takes in an intent, giving it its id. The caller sends its request meanwhile and waits for the
    /// intent to be durable before it passes on the first byte.
    pub fn intend(&self, mut intent: Intent) -> (i64, Written) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        intent.id = id;
        let (told, written) = oneshot::channel();
        if self.is_sound() {
            self.shared.put(Entry::Intent(Box::new(intent)), Some(told));
        } else {
            self.shared.put(Entry::Intent(Box::new(intent)), None);
            let _ = told.send(Err(NotDurable::Broken));
        }
        (id, Written(written))
    }

    /// Takes in the charge that settles an intent.
    pub fn settle(&self, charge: Charge) {
        self.shared.put(Entry::Charge(Box::new(charge)), None);
    }

    /// Takes in a machine's time.
    pub fn machine(&self, time: MachineTime) {
        self.shared.put(Entry::Machine(time), None);
    }

    /// Waits until everything taken in so far is written.
    ///
    /// # Errors
    /// [`NotDurable`] where it cannot be.
    pub async fn flush(&self, within: Duration) -> Result<(), NotDurable> {
        let (told, written) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.entries.is_empty() && !queue.writing {
                return Ok(());
            }
            let put = queue.put;
            queue.waiters.push_back((put, told));
        }
        self.shared.wake.notify_one();
        Written(written).durable(within).await
    }

    /// Waits until the file is open, with the intents of an earlier run settled.
    ///
    /// # Errors
    /// [`NotDurable`] where it cannot be opened, or not in time.
    pub(crate) async fn opened(&self, within: Duration) -> Result<(), NotDurable> {
        let (told, written) = oneshot::channel();
        self.shared.queue().waiters.push_back((0, told));
        self.shared.wake.notify_one();
        Written(written).durable(within).await
    }

    /// Spend settled since `unix_ms`, as budgets start from it after a restart. Reads the disk: not for
    /// the request path.
    ///
    /// # Errors
    /// Why the ledger cannot be read.
    pub fn spent_since(&self, unix_ms: u64) -> Result<crate::ports::Spent, LedgerError> {
        self.shared.storage.spent_since(unix_ms)
    }

    /// What earlier runs came to on the last days, once: read before this run wrote anything. `None` until the
    /// file was opened.
    pub(crate) fn take_days(&self) -> Option<Vec<(u32, Day)>> {
        let opened = self.shared.recovered.load(Ordering::Acquire);
        opened.then(|| std::mem::take(&mut *self.shared.days.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Entries that wait for the disk.
    pub fn waiting(&self) -> usize {
        self.shared.queue().entries.len()
    }

    /// Writes what is left and ends the thread, within `patience`.
    pub(crate) async fn stop(&self, patience: Duration) {
        let flushed = self.flush(patience).await;
        if let Err(why) = flushed {
            tracing::error!(%why, waiting = self.waiting(), "the ledger could not be written before the end");
        }
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake.notify_all();
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread ends by itself once it sees the flag; a disk that hangs is not waited for.
            let ended = tokio::task::spawn_blocking(move || drop(thread.join()));
            let _ = tokio::time::timeout(patience, ended).await;
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }
}

fn tell(waiters: Vec<Waiter>, result: Result<(), NotDurable>) {
    for told in waiters {
        // Whoever went away meanwhile need not know.
        let _ = told.send(result);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, entry: Entry, told: Option<Waiter>) {
        let mut queue = self.queue();
        if queue.entries.len() >= WAITING_MAX {
            drop(queue);
            self.metrics.ledger_lost_total.inc();
            if let Some(told) = told {
                let _ = told.send(Err(NotDurable::Broken));
            }
            return;
        }
        let wake = queue.entries.is_empty() || told.is_some();
        queue.entries.push_back(entry);
        queue.put += 1;
        let put = queue.put;
        queue.waiters.extend(told.map(|told| (put, told)));
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
    }

    /// The thread: opens the store, writes what gathers, tries again after failures.
    fn write(&self) {
        let mut store: Option<Box<dyn LedgerStore>> = None;
        let mut retry = RETRY;
        let mut tended = Instant::now();
        // An earlier thread may have died over its batch.
        self.queue().writing = false;
        loop {
            if store.is_none() {
                store = self.open();
            }
            let worked = match &mut store {
                None => false,
                Some(open) => {
                    if tended.elapsed() >= TEND {
                        tended = Instant::now();
                        self.tend(open.as_mut());
                    }
                    self.write_batch(open.as_mut())
                }
            };
            if worked {
                retry = RETRY;
            } else {
                // What is wrong with a file may be right after opening it again.
                store = None;
                self.refuse_waiters();
                if self.stopping.load(Ordering::Acquire) {
                    return;
                }
                let queue = self.queue();
                drop(self.wake.wait_timeout_while(queue, retry, |_| !self.stopping.load(Ordering::Acquire)));
                retry = (retry * 2).min(RETRY_MAX);
            }
            if self.stopping.load(Ordering::Acquire) && self.queue().entries.is_empty() {
                return;
            }
        }
    }

    fn open(&self) -> Option<Box<dyn LedgerStore>> {
        let started = Instant::now();
        let recover = !self.recovered.load(Ordering::Acquire);
        match self.storage.open(unix_ms(), recover) {
            Ok(opened) => {
                if recover {
                    *self.days.lock().unwrap_or_else(PoisonError::into_inner) = opened.days;
                }
                self.recovered.store(true, Ordering::Release);
                self.next_id.fetch_max(opened.last_id.saturating_add(1), Ordering::AcqRel);
                if opened.recovered > 0 {
                    self.metrics.ledger_recovered_total.inc_by(opened.recovered);
                    tracing::warn!(
                        attempts = opened.recovered,
                        "attempts were under way when the router ended: settled by estimate and flagged"
                    );
                }
                tracing::debug!(took = ?started.elapsed(), "the ledger is open");
                // What waits shows whether it can be written; where nothing does, opening has shown it.
                if self.queue().entries.is_empty() {
                    self.become_sound();
                }
                Some(opened.store)
            }
            Err(error) => {
                self.become_broken(&error);
                None
            }
        }
    }

    /// Waits for entries and writes them; `false` where that failed.
    fn write_batch(&self, store: &mut dyn LedgerStore) -> bool {
        let (batch, waiters) = self.take();
        if batch.is_empty() {
            tell(waiters, Ok(()));
            return true;
        }
        let started = Instant::now();
        let result = store.commit(&batch);
        self.metrics.ledger_commit_seconds.observe(started.elapsed().as_secs_f64());
        let mut queue = self.queue();
        queue.writing = false;
        match result {
            Ok(()) => {
                drop(queue);
                self.become_sound();
                self.metrics.ledger_entries_total.inc_by(batch.len() as u64);
                tell(waiters, Ok(()));
                true
            }
            Err(error) => {
                queue.taken -= batch.len() as u64;
                for entry in batch.into_iter().rev() {
                    queue.entries.push_front(entry);
                }
                drop(queue);
                self.become_broken(&error);
                tell(waiters, Err(NotDurable::Broken));
                false
            }
        }
    }

    /// The next batch, and who waits for it: at once where somebody does, else after a moment.
    fn take(&self) -> (Vec<Entry>, Vec<Waiter>) {
        let stopping = || self.stopping.load(Ordering::Acquire);
        let idle = |queue: &mut Queue| queue.entries.is_empty() && queue.waiters.is_empty() && !stopping();
        let unhurried =
            |queue: &mut Queue| queue.waiters.is_empty() && queue.entries.len() < BATCH_MAX && !stopping();
        let waited = self.wake.wait_timeout_while(self.queue(), TEND, idle);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        if !queue.entries.is_empty() && unhurried(&mut queue) {
            let gathered = self.wake.wait_timeout_while(queue, GATHER, unhurried);
            queue = gathered.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = queue.entries.len().min(BATCH_MAX);
        let batch: Vec<Entry> = queue.entries.drain(..count).collect();
        queue.taken += count as u64;
        queue.writing = !batch.is_empty();
        let mut waiters = Vec::new();
        while queue.waiters.front().is_some_and(|(after, _)| *after <= queue.taken) {
            waiters.extend(queue.waiters.pop_front().map(|(_, told)| told));
        }
        (batch, waiters)
    }

    fn tend(&self, store: &mut dyn LedgerStore) {
        match store.tend(unix_ms()) {
            Ok(tended) => {
                self.metrics.ledger_bytes.set(i64::try_from(tended.bytes).unwrap_or(i64::MAX));
                self.metrics.ledger_deleted_total.inc_by(tended.deleted);
            }
            Err(error) => tracing::error!(%error, "old rows of the ledger could not be deleted"),
        }
    }

    fn refuse_waiters(&self) {
        let waiters = std::mem::take(&mut self.queue().waiters);
        for (_, told) in waiters {
            let _ = told.send(Err(NotDurable::Broken));
        }
    }

    fn become_sound(&self) {
        if !self.sound.swap(true, Ordering::AcqRel) {
            tracing::warn!("the ledger can be written again");
        }
        self.metrics.ledger_sound.set(1);
    }

    fn become_broken(&self, error: &LedgerError) {
        self.metrics.ledger_sound.set(0);
        self.metrics.ledger_failures_total.with_label_values(&[error.label()]).inc();
        if self.sound.swap(false, Ordering::AcqRel) {
            let posture = self.settings.posture;
            tracing::error!(%error, ?posture, "the ledger cannot be written (posture `degraded`: paid backends are refused until it can)");
        }
    }
}

pub(crate) struct Ledger;

#[derive(Clone)]
pub(crate) struct Arguments {
    pub(crate) me: Address<Msg>,
    pub(crate) journal: Journal,
    pub(crate) metrics: Metrics,
}

#[derive(Debug)]
pub(crate) enum Msg {
    /// Look after the thread.
    Look,
    /// Panic, to prove that the supervisor answers it.
    Poison,
}

impl Actor for Ledger {
    type Msg = Msg;
    type State = Arguments;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<Arguments, ActorProcessingErr> {
        me.cast(Msg::Look)?;
        arguments.me.occupy(me);
        Ok(arguments)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut Arguments,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Look => {
                state.journal.start()?;
                state.metrics.ledger_waiting.set(i64::try_from(state.journal.waiting()).unwrap_or(i64::MAX));
                me.send_after(LOOK, || Msg::Look);
            }
            Msg::Poison => poison(),
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
