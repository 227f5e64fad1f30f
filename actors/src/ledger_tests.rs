use super::*;
use crate::ports::{OpenLedger, Spent, Tended};
use llm_router_logic::cost::entry::Outcome;
use std::sync::mpsc;

/// Figures of a ledger in memory that fails or waits when told to.
#[derive(Default)]
struct Memory {
    written: Mutex<Vec<Vec<i64>>>,
    fails: AtomicBool,
    cannot_open: AtomicBool,
    slow: Mutex<Option<mpsc::Receiver<()>>>,
}

struct Storage(Arc<Memory>);

fn full() -> LedgerError {
    LedgerError::Full { file: "l".into(), why: "w".into() }
}

impl LedgerStorage for Storage {
    fn open(&self, _now_unix_ms: u64, recover: bool) -> Result<OpenLedger, LedgerError> {
        if self.0.cannot_open.load(Ordering::Acquire) {
            return Err(full());
        }
        Ok(OpenLedger {
            store: Box::new(Storage(Arc::clone(&self.0))),
            last_id: i64::MAX / 2,
            recovered: if recover { 2 } else { 0 },
            days: Vec::new(),
        })
    }

    fn spent_since(&self, _unix_ms: u64) -> Result<Spent, LedgerError> {
        Ok(Spent::default())
    }
}

impl LedgerStore for Storage {
    fn commit(&mut self, batch: &[Entry]) -> Result<(), LedgerError> {
        let gate = self.0.slow.lock().unwrap().take();
        if let Some(gate) = gate {
            let _ = gate.recv();
        }
        if self.0.fails.load(Ordering::Acquire) {
            return Err(full());
        }
        let ids = batch.iter().map(|entry| match entry {
            Entry::Intent(intent) => intent.id,
            Entry::Charge(charge) => -charge.intent,
            Entry::Machine(_) => 0,
        });
        self.0.written.lock().unwrap().push(ids.collect());
        Ok(())
    }

    fn tend(&mut self, _now_unix_ms: u64) -> Result<Tended, LedgerError> {
        Ok(Tended::default())
    }
}

const SOON: Duration = Duration::from_secs(10);

fn journal() -> (Journal, Arc<Memory>) {
    let memory = Arc::<Memory>::default();
    let storage = Arc::new(Storage(Arc::clone(&memory)));
    let settings = JournalSettings { posture: Posture::Degraded, patience: SOON };
    let journal = Journal::new(storage, settings, Metrics::new().unwrap());
    (journal, memory)
}

fn intent() -> Intent {
    Intent {
        id: 0,
        request: "r".into(),
        attempt: 1,
        at_ms: 1,
        node: String::new(),
        region: String::new(),
        tenant: String::new(),
        key: String::new(),
        experiment: String::new(),
        asked: String::new(),
        backend: "b".into(),
        model: "m".into(),
        external: true,
        stream: false,
        input_tokens: 1,
        output_tokens: 1,
        basis: Default::default(),
    }
}

fn charge(intent: i64) -> Charge {
    Charge {
        intent,
        at_ms: 1,
        outcome: Outcome::Served,
        status: 200,
        fault: String::new(),
        is_last: true,
        usage: Default::default(),
        raw_usage: None,
        cost: None,
        external_cost: None,
        flags: Default::default(),
        ttft_ms: None,
        duration_ms: 1,
    }
}

#[tokio::test]
async fn intents_of_many_requests_become_durable_together_and_in_order() {
    let (journal, memory) = journal();
    journal.start().unwrap();
    journal.opened(SOON).await.unwrap();
    // The first commit is held up until all the others have gathered.
    let (go, gate) = mpsc::channel();
    *memory.slow.lock().unwrap() = Some(gate);
    let (first, written) = journal.intend(intent());
    tokio::time::timeout(SOON, async {
        while memory.slow.lock().unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let others: Vec<_> = (0..100).map(|_| journal.intend(intent())).collect();
    go.send(()).unwrap();
    written.durable(SOON).await.unwrap();
    let mut last = first;
    assert!(first > i64::MAX / 2, "ids go on from those in the file");
    for (id, written) in others {
        assert!(id > last);
        last = id;
        written.durable(SOON).await.unwrap();
        journal.settle(charge(id));
    }
    journal.flush(SOON).await.unwrap();
    let batches = memory.written.lock().unwrap().clone();
    assert_eq!(batches[0], [first]);
    assert_eq!(batches[1].len(), 100, "one commit for all that gathered meanwhile");
    assert_eq!(batches.concat().len(), 201);
    assert_eq!(journal.shared.metrics.ledger_recovered_total.get(), 2);
    journal.stop(SOON).await;
}

#[tokio::test]
async fn a_full_disk_refuses_at_once_and_what_was_taken_in_is_written_later() {
    let (journal, memory) = journal();
    journal.start().unwrap();
    journal.opened(SOON).await.unwrap();
    memory.fails.store(true, Ordering::Release);
    let (first, written) = journal.intend(intent());
    assert_eq!(written.durable(SOON).await, Err(NotDurable::Broken));
    assert_eq!((journal.refuses(true), journal.refuses(false)), (Some(NotDurable::Broken), None));
    let (second, written) = journal.intend(intent());
    assert_eq!(written.durable(SOON).await, Err(NotDurable::Broken), "without asking the disk again");
    journal.settle(charge(first));
    memory.fails.store(false, Ordering::Release);
    tokio::time::timeout(SOON, async {
        while !journal.is_sound() || journal.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    journal.flush(SOON).await.unwrap();
    assert_eq!(memory.written.lock().unwrap().concat(), [first, second, -first]);
    assert!(journal.shared.metrics.ledger_failures_total.with_label_values(&["full"]).get() >= 1);
    assert_eq!(journal.shared.metrics.ledger_recovered_total.get(), 2, "what is its own is not recovered");
    journal.stop(SOON).await;
}

#[tokio::test]
async fn a_disk_that_is_too_slow_is_told_apart_from_a_broken_one() {
    let (journal, memory) = journal();
    journal.start().unwrap();
    journal.opened(SOON).await.unwrap();
    let (go, gate) = mpsc::channel();
    *memory.slow.lock().unwrap() = Some(gate);
    let (_, written) = journal.intend(intent());
    assert_eq!(written.durable(Duration::from_millis(20)).await, Err(NotDurable::Slow));
    go.send(()).unwrap();
    journal.flush(SOON).await.unwrap();
    journal.stop(SOON).await;
}

#[tokio::test]
async fn a_ledger_that_cannot_be_opened_refuses_until_it_can() {
    let (journal, memory) = journal();
    memory.cannot_open.store(true, Ordering::Release);
    journal.start().unwrap();
    assert_eq!(journal.opened(SOON).await, Err(NotDurable::Broken));
    assert!(!journal.is_sound());
    memory.cannot_open.store(false, Ordering::Release);
    tokio::time::timeout(SOON, async {
        while !journal.is_sound() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    journal.intend(intent()).1.durable(SOON).await.unwrap();
    journal.stop(SOON).await;
}

#[tokio::test]
async fn what_waits_is_bounded_and_counted() {
    let (journal, _) = journal();
    for _ in 0..WAITING_MAX + 3 {
        journal.settle(charge(1));
    }
    assert_eq!(journal.waiting(), WAITING_MAX);
    assert_eq!(journal.shared.metrics.ledger_lost_total.get(), 3);
}
