//! Kept answers that a region's routers share, in Redis.
//!
//! Owns how long a request may wait for it, and that it waits for nothing else: a look is bounded in
//! milliseconds, and after a few slow ones, or a broken connection, Redis is left alone until it answers again,
//! so that a dead one costs nothing. Writes go through a bounded queue behind the requests' backs; what does not
//! fit is dropped and counted.
//!
//! What stands there is sealed to its key (`logic::cache_key::Seal`): anything else is counted and passed over.

use super::answer::{Answer, Whole};
use crate::config::Redis as Settings;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use llm_router_actors::clock::Clock;
use llm_router_actors::metrics::Metrics;
use llm_router_logic::cache_key::{Digest256, SEALED_EXTRA, Seal};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, cmd};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Writes that wait; a further one is dropped.
const WRITES_MAX: usize = 256;
/// Looks in a row that may be too slow before Redis is left alone.
const SLOW_MAX: u32 = 3;
/// To connect, to answer a trial and to take a write.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two trials to reach it: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Bytes of a value besides the answer's own: seal, headers, figures.
const EXTRA_BYTES: usize = SEALED_EXTRA + 8 * 1024;

/// The way to a region's Redis. Dropped, its tasks end.
pub(super) struct Shared {
    line: Arc<Line>,
    writes: mpsc::Sender<Write>,
    terms: Arc<Terms>,
    _stop: DropGuard,
}

/// What all of it goes by.
struct Terms {
    seal: Seal,
    prefix: String,
    ttl: Duration,
    lookup_timeout: Duration,
    /// A longer value is none of ours.
    value_bytes_max: usize,
    clock: Clock,
    metrics: Metrics,
}

/// The connection, where there is a good one.
struct Line {
    connection: ArcSwapOption<MultiplexedConnection>,
    slow: AtomicU32,
    broken: Notify,
}

struct Write {
    key: Digest256,
    answer: Arc<Answer>,
    at_ms: u64,
}

/// What stands before an answer's body.
#[derive(Serialize, Deserialize)]
struct Meta {
    at_ms: u64,
    status: u16,
    headers: Vec<(String, String)>,
    streams: bool,
    decision: String,
    whole: Whole,
}

impl Shared {
    /// The Redis of `settings`; answers live for `ttl` and have at most `entry_bytes_max`.
    pub(super) fn new(
        settings: &Settings,
        ttl: Duration,
        entry_bytes_max: usize,
        clock: Clock,
        metrics: &Metrics,
    ) -> Option<Self> {
        let seal = Seal::new(settings.secret.expose_secret().as_bytes())?;
        let client = Client::open(settings.url.expose_secret())
            .inspect_err(|_| tracing::error!("`cache.redis.url` is no Redis address, answers are not shared"))
            .ok()?;
        let terms = Arc::new(Terms {
            seal,
            prefix: settings.key_prefix.clone(),
            ttl,
            lookup_timeout: settings.lookup_timeout,
            value_bytes_max: entry_bytes_max + EXTRA_BYTES,
            clock,
            metrics: metrics.clone(),
        });
        let line = Arc::new(Line {
            connection: ArcSwapOption::empty(),
            slow: AtomicU32::new(0),
            broken: Notify::new(),
        });
        let (writes, waiting) = mpsc::channel(WRITES_MAX);
        let stop = CancellationToken::new();
        tokio::spawn(keep(Arc::clone(&line), client, metrics.clone(), stop.clone()));
        tokio::spawn(write(Arc::clone(&line), Arc::clone(&terms), waiting));
        Some(Self { line, writes, terms, _stop: stop.drop_guard() })
    }

    /// A kept answer and its age. Waits for a few milliseconds at most, and not at all while Redis is ill.
    pub(super) async fn find(&self, key: &Digest256) -> Option<(Arc<Answer>, Duration)> {
        let terms = &*self.terms;
        let Some(connection) = self.line.connection.load_full() else {
            terms.count("skipped");
            return None;
        };
        let mut connection = MultiplexedConnection::clone(&connection);
        let mut look = cmd("GETRANGE");
        // One byte more than may be there: whatever is longer is not read to its end.
        look.arg(terms.name(key)).arg(0).arg(terms.value_bytes_max);
        let looked = look.query_async::<Vec<u8>>(&mut connection);
        match tokio::time::timeout(terms.lookup_timeout, looked).await {
            Ok(Ok(value)) => {
                self.line.slow.store(0, Ordering::Relaxed);
                if value.is_empty() {
                    terms.count("miss");
                    return None;
                }
                let found = terms.read(key, &value);
                terms.count(if found.is_some() { "hit" } else { "refused" });
                found
            }
            Ok(Err(error)) if is_of_the_connection(&error) => {
                terms.count("error");
                self.line.trip();
                None
            }
            // Another kind of value under our name.
            Ok(Err(_)) => {
                terms.count("refused");
                None
            }
            Err(_) => {
                terms.count("slow");
                if self.line.slow.fetch_add(1, Ordering::Relaxed) + 1 >= SLOW_MAX {
                    self.line.trip();
                }
                None
            }
        }
    }

    /// Keeps an answer that is complete now, some time later.
    pub(super) fn put(&self, key: Digest256, answer: Arc<Answer>) {
        let at_ms = self.terms.clock.unix_ms();
        if self.writes.try_send(Write { key, answer, at_ms }).is_err() {
            self.terms.count("dropped");
        }
    }
}

impl Line {
    /// Leaves Redis alone until it answers again.
    fn trip(&self) {
        self.connection.store(None);
        self.slow.store(0, Ordering::Relaxed);
        self.broken.notify_one();
    }
}

impl Terms {
    fn count(&self, result: &str) {
        self.metrics.answers.cache_redis_total.with_label_values(&[result]).inc();
    }

    fn name(&self, key: &Digest256) -> String {
        format!("{}:{}", self.prefix, self.seal.name(key))
    }

    /// The sealed value of an answer: the length of what is known of it, that as JSON, its body.
    fn value(&self, write: &Write) -> Option<Vec<u8>> {
        let Write { key, answer, at_ms } = write;
        let header = |(name, value): (&HeaderName, &HeaderValue)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        };
        let meta = Meta {
            at_ms: *at_ms,
            status: answer.status.as_u16(),
            headers: answer.headers.iter().filter_map(header).collect(),
            streams: answer.streams,
            decision: answer.decision.clone(),
            whole: answer.whole.clone(),
        };
        let meta = serde_json::to_vec(&meta).ok()?;
        let length = u32::try_from(meta.len()).ok()?;
        let value = self.seal.close(key, &[&length.to_be_bytes()[..], &meta, &answer.body].concat());
        (value.len() <= self.value_bytes_max).then_some(value)
    }

    fn read(&self, key: &Digest256, value: &[u8]) -> Option<(Arc<Answer>, Duration)> {
        let payload = self.seal.open(key, value)?;
        let (length, rest) = payload.split_first_chunk::<4>()?;
        let (meta, body) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        let meta: Meta = serde_json::from_slice(meta).ok()?;
        // The clocks of two routers differ a little: an answer of the future is new.
        let age = Duration::from_millis(self.clock.unix_ms().saturating_sub(meta.at_ms));
        if age >= self.ttl {
            return None;
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &meta.headers {
            headers.insert(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
        }
        let answer = Answer {
            status: StatusCode::from_u16(meta.status).ok()?,
            headers,
            body: Bytes::copy_from_slice(body),
            streams: meta.streams,
            decision: meta.decision,
            whole: meta.whole,
        };
        Some((Arc::new(answer), age))
    }
}

/// Whether an error says that the connection is of no more use.
fn is_of_the_connection(error: &redis::RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
}

/// Holds a connection for as long as it is good, and finds a new one then.
async fn keep(line: Arc<Line>, client: Client, metrics: Metrics, stop: CancellationToken) {
    let up = &metrics.answers.cache_redis_up;
    let mut pause = PAUSE.0;
    let mut was_told = false;
    loop {
        let reached = tokio::select! {
            () = stop.cancelled() => break,
            reached = tokio::time::timeout(PATIENCE, reach(&client)) => reached,
        };
        match reached {
            Ok(Ok(connection)) => {
                tracing::info!("answers are shared through Redis");
                (pause, was_told) = (PAUSE.0, false);
                line.connection.store(Some(Arc::new(connection)));
                up.set(1);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = line.broken.notified() => {}
                }
                line.connection.store(None);
                up.set(0);
                tracing::warn!("Redis is slow or gone: answers are not shared until it is back");
            }
            failed => {
                if !std::mem::replace(&mut was_told, true) {
                    let why = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => format!("no answer within {PATIENCE:?}"),
                    };
                    tracing::warn!(why, "cannot reach Redis, answers are not shared; trying on");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE.1);
    }
    line.connection.store(None);
    up.set(0);
}

/// A connection over which Redis has answered.
async fn reach(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    cmd("PING").query_async::<()>(&mut connection).await?;
    Ok(connection)
}

/// Writes what waits, one after another.
async fn write(line: Arc<Line>, terms: Arc<Terms>, mut waiting: mpsc::Receiver<Write>) {
    // Ends with the sender.
    while let Some(write) = waiting.recv().await {
        let Some(connection) = line.connection.load_full() else {
            terms.count("dropped");
            continue;
        };
        let Some(value) = terms.value(&write) else {
            terms.count("dropped");
            continue;
        };
        let mut connection = MultiplexedConnection::clone(&connection);
        let ttl = u64::try_from(terms.ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut set = cmd("SET");
        set.arg(terms.name(&write.key)).arg(value).arg("PX").arg(ttl);
        match tokio::time::timeout(PATIENCE, set.query_async::<()>(&mut connection)).await {
            Ok(Ok(())) => terms.count("written"),
            Ok(Err(error)) if !is_of_the_connection(&error) => {
                tracing::debug!(%error, "Redis does not take an answer");
                terms.count("write_failed");
            }
            _ => {
                terms.count("write_failed");
                line.trip();
            }
        }
    }
}
