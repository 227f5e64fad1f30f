//! One client connection: its clock of activity, and a transport that lets go of clients who do not
//! read.
//!
//! hyper's own header timeout also ends idle connections and cannot tell a stalled reader, so the
//! three timeouts are kept here: head, idle and write.

use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How patient the edge is with a client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A request's head must have arrived within this of its first byte.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// A request's body must have arrived within this, whoever reads it.
    pub body_timeout: Duration,
    /// A client that takes no byte of its answer for this long is let go.
    pub write_timeout: Duration,
}

/// What a connection is doing, shared by its transport, its requests and its watch.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    requests: AtomicU32,
    /// Microseconds after `opened` of the latest change between the states below.
    since: AtomicU64,
    /// 1 while bytes of a head have come and no request yet.
    in_head: AtomicU32,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            requests: AtomicU32::new(0),
            since: AtomicU64::new(0),
            in_head: AtomicU32::new(0),
        })
    }

    fn mark(&self) {
        let micros = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.since.store(micros, Ordering::Release);
    }

    fn read_bytes(&self) {
        if self.requests.load(Ordering::Acquire) == 0 && self.in_head.swap(1, Ordering::AcqRel) == 0 {
            self.mark();
        }
    }

    /// A request's head is complete; it runs until the returned guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> RequestGuard {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.in_head.store(0, Ordering::Release);
        RequestGuard(Arc::clone(self))
    }

    /// Returns once the connection has overstayed its welcome, saying how.
    pub(super) async fn overdue(&self, limits: Limits) -> &'static str {
        loop {
            let passed = self
                .opened
                .elapsed()
                .saturating_sub(Duration::from_micros(self.since.load(Ordering::Acquire)));
            let (limit, why) = if self.in_head.load(Ordering::Acquire) == 1 {
                (limits.header_timeout, "its request's head did not arrive in time")
            } else {
                (limits.idle_timeout, "it was idle")
            };
            let running = self.requests.load(Ordering::Acquire) > 0;
            if !running && passed >= limit {
                return why;
            }
            // Never sleep past the moment a head that has not even begun would be overdue.
            let next =
                if running { limits.header_timeout } else { (limit - passed).min(limits.header_timeout) };
            sleep(next.max(Duration::from_millis(1))).await;
        }
    }
}

/// A request under way on a connection.
#[derive(Debug)]
pub(super) struct RequestGuard(Arc<Activity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.mark();
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A response body that keeps its request counted until its last byte.
pub(super) struct Guarded<B> {
    pub(super) body: B,
    pub(super) guard: RequestGuard,
}

impl<B: Body + Unpin> Body for Guarded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let _ = &self.guard;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request body that must be whole in time. Handlers that have a word of their own for a slow body say it
/// earlier; this holds for all others, and for what nobody reads.
pub(super) struct Arriving<B> {
    pub(super) body: B,
    pub(super) patience: Duration,
    /// Made when the body is first waited for: most are there at once.
    pub(super) overdue: Option<Pin<Box<Sleep>>>,
}

impl<B> Body for Arriving<B>
where
    B: Body + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = B::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let patience = self.patience;
        let overdue = self.overdue.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(overdue.as_mut().poll(cx));
        Poll::Ready(Some(Err(format!("it did not arrive within {patience:?}").into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A transport that notes reads and gives up on writes that make no progress.
pub(super) struct Timed<S> {
    pub(super) stream: S,
    pub(super) activity: Arc<Activity>,
    pub(super) write_timeout: Duration,
    pub(super) stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    /// Passes `written` on, or an error once writing has been pending for too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let write_timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(stalled.as_mut().poll(cx));
        let why = format!("the client took no byte for {write_timeout:?}");
        Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.read_bytes();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
