//! The queue of spans and the task that sends them.
//!
//! Started by the tracer; receives the spans of one request at a time; tells the collector. What does not fit
//! is dropped and counted; a collector that is slow or gone costs the spans of that time and nothing else.

use crate::config::Export;
use llm_router_actors::metrics::Metrics;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// After a failed batch the collector is left alone for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// A collector that stays away is told of in the log no more often than this.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The way of spans to the collector.
pub(super) struct Queue {
    sender: mpsc::Sender<Vec<SpanData>>,
    /// Spans that wait or are being sent.
    waiting: Arc<AtomicUsize>,
    most: usize,
    metrics: Metrics,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    /// When the flush at the end must be over.
    end: Arc<std::sync::Mutex<Option<Instant>>>,
}

impl Queue {
    /// Starts the task that hands spans to `exporter`.
    pub(super) fn start<E: SpanExporter + 'static>(exporter: E, export: &Export, metrics: Metrics) -> Self {
        // No request has less than one span: there are never more messages than spans.
        let (sender, receiver) = mpsc::channel(export.queue_spans);
        let (waiting, stop, end) = (Arc::<AtomicUsize>::default(), CancellationToken::new(), Arc::default());
        let sending = Sending {
            receiver,
            exporter,
            endpoint: export.endpoint.clone(),
            batch: export.batch_spans,
            delay: export.delay,
            timeout: export.timeout,
            waiting: Arc::clone(&waiting),
            metrics: metrics.clone(),
            stop: stop.clone(),
            end: Arc::clone(&end),
            failing: None,
        };
        let task = Mutex::new(Some(tokio::spawn(sending.run())));
        Self { sender, waiting, most: export.queue_spans, metrics, stop, task, end }
    }

    /// Takes the spans of one request, or drops them where too many wait. Never waits.
    pub(super) fn offer(&self, spans: Vec<SpanData>) {
        let count = spans.len();
        let fits = |waiting: usize| waiting.checked_add(count).filter(|sum| *sum <= self.most);
        let taken = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok();
        if taken && self.sender.try_send(spans).is_ok() {
            self.metrics.telemetry.spans_waiting.set(i64::try_from(self.waiting()).unwrap_or(i64::MAX));
            return;
        }
        if taken {
            self.waiting.fetch_sub(count, Ordering::AcqRel);
        }
        let why = if self.stop.is_cancelled() { "stopping" } else { "queue_full" };
        dropped(&self.metrics, why, count);
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Sends what waits within `patience`.
    pub(super) async fn shutdown(&self, patience: Duration) {
        let end = Instant::now() + patience;
        *self.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(end);
        self.stop.cancel();
        let Some(mut task) = self.task.lock().await.take() else { return };
        if timeout_at(end + PAUSE, &mut task).await.is_err() {
            task.abort();
        }
    }
}

fn dropped(metrics: &Metrics, why: &str, count: usize) {
    metrics.telemetry.spans_dropped_total.with_label_values(&[why]).inc_by(count as u64);
}

/// The task's own.
struct Sending<E> {
    receiver: mpsc::Receiver<Vec<SpanData>>,
    exporter: E,
    endpoint: String,
    batch: usize,
    delay: Duration,
    timeout: Duration,
    waiting: Arc<AtomicUsize>,
    metrics: Metrics,
    stop: CancellationToken,
    end: Arc<std::sync::Mutex<Option<Instant>>>,
    /// Since the collector takes nothing: when that was told last, and spans lost since.
    failing: Option<(Instant, usize)>,
}

impl<E: SpanExporter> Sending<E> {
    async fn run(mut self) {
        loop {
            let (spans, more) = self.gather().await;
            if !spans.is_empty() {
                let good = self.send(spans).await;
                if !good && !self.stop.is_cancelled() {
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
            }
            if !more {
                break;
            }
        }
        // Blocks for a moment at most: the exporters only let go of their connection.
        let _ = self.exporter.shutdown();
    }

    /// The next batch, and whether another may follow.
    async fn gather(&mut self) -> (Vec<SpanData>, bool) {
        let mut spans = Vec::new();
        let mut until = None;
        while spans.len() < self.batch {
            if self.stop.is_cancelled() {
                self.receiver.close();
                match self.receiver.try_recv() {
                    Ok(more) => spans.extend(more),
                    Err(_) => return (spans, false),
                }
                continue;
            }
            let wait = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                more = self.receiver.recv() => match more {
                    Some(more) => {
                        until.get_or_insert_with(|| Instant::now() + self.delay);
                        spans.extend(more);
                    }
                    None => return (spans, false),
                },
                () = wait => break,
            }
        }
        (spans, true)
    }

    /// Hands a batch over; whether it was taken.
    async fn send(&mut self, spans: Vec<SpanData>) -> bool {
        let count = spans.len();
        let end = *self.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let by = Instant::now() + self.timeout;
        let stopped = async {
            self.stop.cancelled().await;
            let end = *self.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            tokio::time::sleep_until(end.unwrap_or_else(Instant::now)).await;
        };
        let result = tokio::select! {
            sent = timeout_at(end.map_or(by, |end| end.min(by)), self.exporter.export(spans)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {:?}", self.timeout)),
            },
            () = stopped => Err("the router stops".to_owned()),
        };
        let left = self.waiting.fetch_sub(count, Ordering::AcqRel) - count;
        let figures = &self.metrics.telemetry;
        figures.spans_waiting.set(i64::try_from(left).unwrap_or(i64::MAX));
        match result {
            Ok(()) => {
                figures.spans_exported_total.inc_by(count as u64);
                if let Some((_, lost)) = self.failing.take() {
                    tracing::info!(endpoint = self.endpoint, lost, "the collector takes spans again");
                }
                true
            }
            Err(why) => {
                dropped(&self.metrics, "not_taken", count);
                self.told(count, &why);
                false
            }
        }
    }

    /// Says that the collector takes nothing, seldom.
    fn told(&mut self, lost: usize, why: &str) {
        let now = Instant::now();
        let (told, lost) = self.failing.map_or((None, lost), |(told, before)| (Some(told), before + lost));
        if told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY) {
            tracing::warn!(
                endpoint = self.endpoint,
                lost,
                why,
                "the collector takes no spans: they are dropped, requests go on as before"
            );
            self.failing = Some((now, lost));
        } else if let Some(told) = told {
            self.failing = Some((told, lost));
        }
    }
}
