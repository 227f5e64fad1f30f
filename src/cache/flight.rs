//! A generation that runs for whoever waits for it.
//!
//! Started by [`launch`] in a task of its own. It pulls the answer in as fast as the backend gives it and keeps
//! it from its beginning, so that whoever joins late reads all of it and then goes on live. It ends with its
//! last reader: no client left means nobody to generate for.
//!
//! An answer that outgrows its bound is no longer kept: nobody can join it any more, and it goes on at the pace
//! of its slowest reader.

use super::answer::{Answer, Completion, Whole, kept, text};
use crate::relay::{Failed, KEEP_ALIVE};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, StatusCode};
use llm_router_logic::fault::{ApiError, ErrorKind};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// A response and who tells that it came to its end.
pub(crate) struct Generated {
    pub(crate) response: Response,
    pub(crate) completion: Arc<Completion>,
}

/// How much running generations may keep.
#[derive(Debug)]
pub(crate) struct Room {
    /// One of them, in bytes.
    each_max: AtomicUsize,
    /// All together, in bytes.
    all_max: AtomicUsize,
    held: AtomicUsize,
}

impl Room {
    pub(crate) fn new(each_max: usize, all_max: usize) -> Arc<Self> {
        let (each_max, all_max) = (AtomicUsize::new(each_max), AtomicUsize::new(all_max));
        Arc::new(Self { each_max, all_max, held: AtomicUsize::new(0) })
    }

    pub(crate) fn resize(&self, each_max: usize, all_max: usize) {
        self.each_max.store(each_max, Ordering::Relaxed);
        self.all_max.store(all_max, Ordering::Relaxed);
    }

    /// Whether one that keeps `bytes` keeps too much.
    fn is_exceeded(&self, bytes: usize) -> bool {
        bytes > self.each_max.load(Ordering::Relaxed) || self.held() > self.all_max.load(Ordering::Relaxed)
    }

    /// Kept now, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// What a reader is told before the body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Whether the body is read as it comes.
    pub(crate) streams: bool,
}

impl Head {
    /// The id of the decision that made it.
    pub(crate) fn decision(&self) -> String {
        text(&self.headers, "x-llm-router-decision")
    }
}

/// How a generation ended.
#[derive(Clone, Debug)]
pub(crate) enum Landed {
    /// Complete, and whole enough to be kept.
    Kept(Arc<Answer>),
    /// Complete, and too large to be kept.
    TooLarge(Whole),
    /// It broke off after its first byte.
    Broken,
    /// Nothing came of it.
    Failed(Arc<Failed>),
    /// Nobody waited any more.
    Abandoned,
}

impl Landed {
    /// What a complete answer came to.
    pub(crate) fn whole(&self) -> Option<&Whole> {
        match self {
            Self::Kept(answer) => Some(&answer.whole),
            Self::TooLarge(whole) => Some(whole),
            Self::Broken | Self::Failed(_) | Self::Abandoned => None,
        }
    }
}

/// One running generation.
#[derive(Debug)]
pub(crate) struct Flight {
    state: Mutex<State>,
    /// Readers wait for it.
    grown: watch::Sender<()>,
    /// The generation waits for it where it outgrew its bound.
    read: Notify,
    abandoned: CancellationToken,
    room: Arc<Room>,
}

#[derive(Debug, Default)]
struct State {
    head: Option<Arc<Head>>,
    chunks: VecDeque<Bytes>,
    /// Number of the first of `chunks`, from 0.
    first: u64,
    /// Bytes in `chunks`.
    bytes: usize,
    /// It outgrew its bound: `chunks` begins where the slowest reader is.
    is_cut: bool,
    landed: Option<Landed>,
    /// Each with its name and the number of the chunk it reads next.
    readers: Vec<(u64, u64)>,
    named: u64,
}

/// Starts `generate` for the reader returned. Once it ended, whatever the end, `land` is told.
pub(crate) fn launch(
    room: &Arc<Room>,
    generate: impl Future<Output = Result<Generated, Failed>> + Send + 'static,
    land: impl FnOnce(&Landed) + Send + 'static,
) -> (Arc<Flight>, Reader) {
    let flight = Arc::new(Flight {
        state: Mutex::default(),
        grown: watch::Sender::new(()),
        read: Notify::new(),
        abandoned: CancellationToken::new(),
        room: Arc::clone(room),
    });
    let reader = flight.seat(&mut flight.state());
    let mut landing = Landing { flight: Arc::clone(&flight), land: Some(land) };
    tokio::spawn(async move {
        let flight = Arc::clone(&landing.flight);
        let landed = tokio::select! {
            biased;
            landed = flight.fly(generate) => landed,
            () = flight.abandoned.cancelled() => Landed::Abandoned,
        };
        landing.end(landed);
    });
    (flight, reader)
}

/// Ends a flight also where its task dies.
struct Landing<L: FnOnce(&Landed)> {
    flight: Arc<Flight>,
    land: Option<L>,
}

impl<L: FnOnce(&Landed)> Landing<L> {
    fn end(&mut self, landed: Landed) {
        let Some(land) = self.land.take() else { return };
        // What is kept is kept before any reader is at its end.
        land(&landed);
        self.flight.state().landed = Some(landed);
        self.flight.grown.send_replace(());
    }
}

impl<L: FnOnce(&Landed)> Drop for Landing<L> {
    fn drop(&mut self) {
        let error = ApiError::new(ErrorKind::Internal, "the generation ended without an answer");
        self.end(Landed::Failed(Arc::new(Failed::of(error))));
    }
}

impl Flight {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one step: a panic in between leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(self: &Arc<Self>, state: &mut State) -> Reader {
        let name = state.named;
        state.named += 1;
        state.readers.push((name, 0));
        Reader { flight: Arc::clone(self), name, grown: self.grown.subscribe() }
    }

    /// A further reader, from the beginning; `None` where the beginning is gone or the generation was given up.
    pub(crate) fn join(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state();
        let is_joinable = !state.is_cut && !self.abandoned.is_cancelled();
        is_joinable.then(|| self.seat(&mut state))
    }

    /// Whether nobody can join any more although it still runs for somebody.
    pub(crate) fn is_cut(&self) -> bool {
        self.state().is_cut
    }

    async fn fly(&self, generate: impl Future<Output = Result<Generated, Failed>>) -> Landed {
        let Generated { response, completion } = match generate.await {
            Ok(generated) => generated,
            Err(failed) => return Landed::Failed(Arc::new(failed)),
        };
        let (parts, body) = response.into_parts();
        let streams = http_body::Body::size_hint(&body).exact().is_none();
        let head = Arc::new(Head { status: parts.status, headers: parts.headers, streams });
        self.state().head = Some(Arc::clone(&head));
        self.grown.send_replace(());
        let mut body = body.into_data_stream();
        while let Some(chunk) = body.next().await {
            match chunk {
                // Readers say for themselves that they live.
                Ok(bytes) if bytes == KEEP_ALIVE => {}
                Ok(bytes) => self.push(bytes).await,
                Err(_) => return Landed::Broken,
            }
        }
        match completion.told() {
            None => Landed::Broken,
            Some(whole) => self.whole(&head, whole),
        }
    }

    async fn push(&self, bytes: Bytes) {
        {
            let mut state = self.state();
            state.bytes += bytes.len();
            self.room.held.fetch_add(bytes.len(), Ordering::Relaxed);
            state.chunks.push_back(bytes);
            state.is_cut |= self.room.is_exceeded(state.bytes);
        }
        self.grown.send_replace(());
        while self.is_ahead() {
            self.read.notified().await;
        }
    }

    /// Whether a flight that is not kept has anything its readers have not read. It then lets go of what all
    /// of them have.
    fn is_ahead(&self) -> bool {
        let mut state = self.state();
        if !state.is_cut {
            return false;
        }
        let slowest = state.readers.iter().map(|(_, next)| *next).min().unwrap_or(u64::MAX);
        while state.first < slowest
            && let Some(bytes) = state.chunks.pop_front()
        {
            state.first += 1;
            state.bytes -= bytes.len();
            self.room.held.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        state.bytes > 0
    }

    fn whole(&self, head: &Head, whole: Whole) -> Landed {
        let state = self.state();
        if state.is_cut {
            return Landed::TooLarge(whole);
        }
        Landed::Kept(Arc::new(Answer {
            status: head.status,
            headers: kept(&head.headers),
            body: joined(state.chunks.iter(), state.bytes),
            streams: head.streams,
            decision: head.decision(),
            whole,
        }))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let bytes = self.state().bytes;
        self.room.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn joined<'c>(mut chunks: impl Iterator<Item = &'c Bytes>, bytes: usize) -> Bytes {
    let Some(first) = chunks.next() else { return Bytes::new() };
    if first.len() == bytes {
        return first.clone();
    }
    let mut all = BytesMut::with_capacity(bytes);
    all.extend_from_slice(first);
    chunks.for_each(|chunk| all.extend_from_slice(chunk));
    all.freeze()
}

/// One client's place at a generation. When the last one is dropped, the generation is.
#[derive(Debug)]
pub(crate) struct Reader {
    flight: Arc<Flight>,
    name: u64,
    grown: watch::Receiver<()>,
}

/// What a reader comes upon.
enum Next {
    Chunk(Bytes),
    End,
    Nothing,
}

impl Reader {
    /// Waits until the answer begins.
    ///
    /// # Errors
    /// Why none does.
    pub(crate) async fn head(&mut self) -> Result<Arc<Head>, Arc<Failed>> {
        loop {
            {
                let state = self.flight.state();
                match (&state.head, &state.landed) {
                    (Some(head), _) => return Ok(Arc::clone(head)),
                    (None, Some(Landed::Failed(failed))) => return Err(Arc::clone(failed)),
                    (None, Some(_)) => return Err(Arc::new(gone())),
                    (None, None) => {}
                }
            }
            if self.grown.changed().await.is_err() {
                return Err(Arc::new(gone()));
            }
        }
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.look() {
                Next::Chunk(bytes) => return Some(bytes),
                Next::End => return None,
                Next::Nothing => self.grown.changed().await.ok()?,
            }
        }
    }

    fn look(&mut self) -> Next {
        let mut state = self.flight.state();
        let (first, held) = (state.first, state.chunks.len() as u64);
        let Some(place) = state.readers.iter().position(|(name, _)| *name == self.name) else {
            return Next::End;
        };
        let next = state.readers[place].1;
        if next >= first + held {
            return if state.landed.is_some() { Next::End } else { Next::Nothing };
        }
        state.readers[place].1 = next + 1;
        let bytes = usize::try_from(next - first).ok().and_then(|at| state.chunks.get(at)).cloned();
        if state.is_cut {
            self.flight.read.notify_one();
        }
        bytes.map_or(Next::End, Next::Chunk)
    }

    /// How it ended; `None` = not yet.
    pub(crate) fn landed(&self) -> Option<Landed> {
        self.flight.state().landed.clone()
    }

    /// All bytes, at the end.
    pub(crate) async fn whole(&mut self) -> Bytes {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while let Some(chunk) = self.next().await {
            bytes += chunk.len();
            chunks.push(chunk);
        }
        joined(chunks.iter(), bytes)
    }

    /// Whether all there is has been read.
    fn is_at_end(&self) -> bool {
        let state = self.flight.state();
        let all = state.first + state.chunks.len() as u64;
        state.readers.iter().any(|(name, next)| *name == self.name && *next >= all)
    }

    /// The bytes as they come; `ended` is told how it ended if this one read it to the end. `keep_alive` = after
    /// this long without any, a sign of life.
    pub(crate) fn into_stream(
        self,
        keep_alive: Option<Duration>,
        ended: impl FnOnce(&Landed) + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        let following = Following { reader: self, ended: Some(ended) };
        stream::unfold(following, move |mut following| async move {
            let bytes = match keep_alive {
                None => following.reader.next().await,
                Some(after) => match tokio::time::timeout(after, following.reader.next()).await {
                    Ok(bytes) => bytes,
                    Err(_) => Some(Bytes::from_static(KEEP_ALIVE)),
                },
            };
            Some((Ok(bytes?), following))
        })
    }
}

/// A reader whose bytes go to a client. The client may hang up once it has all of them, before it is told that
/// there are no more: that is an end as any other.
struct Following<E: FnOnce(&Landed)> {
    reader: Reader,
    ended: Option<E>,
}

impl<E: FnOnce(&Landed)> Drop for Following<E> {
    fn drop(&mut self) {
        if let Some(landed) = self.reader.landed()
            && self.reader.is_at_end()
            && let Some(ended) = self.ended.take()
        {
            ended(&landed);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        state.readers.retain(|(name, _)| *name != self.name);
        if state.readers.is_empty() && state.landed.is_none() {
            self.flight.abandoned.cancel();
        }
        // Where it was the slowest, the others get on.
        self.flight.read.notify_one();
    }
}

fn gone() -> Failed {
    Failed::of(ApiError::new(ErrorKind::Unavailable, "the generation was given up, ask again"))
}
