//! A mock upstream: one HTTP server that answers like OpenAI, Anthropic, Gemini or llama-server.
//!
//! It exists so that the demo, smart mocking and the tests can run the real outbound code against real
//! sockets and real wire formats without a paid call. It owns its speed, its slots, its fault rules and
//! its books; it never calls anything and never shares code with the dialect translation it is used to
//! prove. Several run in one process. `docs/MOCK.md` states what is counted and how faults are written.

mod anthropic;
mod app;
mod books;
mod control;
mod embedding;
mod error;
mod fault;
mod gate;
mod gemini;
mod generation;
mod llama;
mod openai;
mod responses;
mod server;
mod text;

pub use books::{Books, ModelBooks, StatedBooks};
pub use fault::{Action, Faults, FaultsError, Match, Rule, Wait};
pub use text::{answer, input_tokens};

use app::App;
use axum::body::Body;
use llm_router_logic::backend::Kind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

/// How long [`Mock::shutdown`] lets running answers finish.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// What a mock pretends to be.
#[derive(Clone, Debug)]
pub struct MockConfig {
    /// The dialect and habits.
    pub kind: Kind,
    /// Models served. Empty: every name is accepted, and the kind's usual names are listed. A llama
    /// mock serves the first and ignores what a request asks for, as llama-server does.
    pub models: Vec<String>,
    /// Time from getting a slot to the first token.
    pub ttft: Duration,
    /// Tokens per second of one slot; 0 or infinite means without pause.
    pub tokens_per_second: f64,
    /// Answers produced at once; the rest wait in order of arrival.
    pub slots: usize,
    /// Requests that may wait; one more is refused (503 from llama, 429 from a provider). `None` =
    /// no bound, as llama-server has none.
    pub queue_limit: Option<usize>,
    /// The key clients must present; `None` = no authentication. A test value, not a secret.
    pub api_key: Option<String>,
    /// Shared secret of HMAC v1; when set, requests other than health checks must be signed.
    pub hmac_secret: Option<String>,
    /// Length of an answer that `max_tokens` does not cut, in tokens.
    pub output_tokens: u64,
    /// Context window in tokens; a longer prompt is refused in the dialect's own way.
    pub context_window: u64,
    /// Length of an embedding vector unless the request asks for another.
    pub embedding_dimensions: usize,
    /// Whether embeddings are served (llama-server answers 501 without `--embeddings`).
    pub embeddings: bool,
    /// How long after the start every llama route answers 503 "Loading model".
    pub loading: Duration,
}

impl MockConfig {
    /// A mock of `kind` with usual figures: a llama server has 4 slots at 40 tokens/s and 200 ms to the
    /// first token, a provider 64 slots at 80 tokens/s and 350 ms.
    pub fn new(kind: Kind) -> Self {
        let llama = kind == Kind::Llama;
        Self {
            kind,
            models: Vec::new(),
            ttft: Duration::from_millis(if llama { 200 } else { 350 }),
            tokens_per_second: if llama { 40.0 } else { 80.0 },
            slots: if llama { 4 } else { 64 },
            queue_limit: None,
            api_key: None,
            hmac_secret: None,
            output_tokens: 32,
            context_window: if llama { 4_096 } else { 128_000 },
            embedding_dimensions: 64,
            embeddings: true,
            loading: Duration::ZERO,
        }
    }
}

/// How fast a mock answers; changeable while it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Time from getting a slot to the first token.
    pub ttft: Duration,
    /// Tokens per second of one slot; 0 or infinite means without pause.
    pub tokens_per_second: f64,
}

/// A running mock. Dropping it closes its listener and every connection at once, like `kill -9`.
#[derive(Debug)]
pub struct Mock {
    addr: SocketAddr,
    app: Arc<App>,
    stop: oneshot::Sender<()>,
    task: AbortOnDropHandle<()>,
}

/// Starts a mock on `listen` (port 0 picks a free one).
///
/// # Errors
/// When the address cannot be bound.
pub async fn start(listen: SocketAddr, config: MockConfig, faults: Faults) -> anyhow::Result<Mock> {
    let app = Arc::new(App::new(config, faults));
    let listener = server::bind(listen).await?;
    let addr = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    // A dropped sender ends the server too, but then its task is being aborted anyway.
    let stopped = async { stopped.await.unwrap_or_default() };
    let routes = app.routes();
    let task = AbortOnDropHandle::new(tokio::spawn(server::serve(listener, routes, stopped, SHUTDOWN_GRACE)));
    Ok(Mock { addr, app, stop, task })
}

/// A mock that nobody can reach but through [`call`](InProcess::call): for a network simulated in the
/// same process, on whatever clock its runtime has.
#[derive(Clone, Debug)]
pub struct InProcess {
    app: Arc<App>,
    routes: axum::Router,
}

/// The mock closed the connection without an answer, as a fault rule wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HungUp;

impl InProcess {
    /// A mock without a listener.
    pub fn new(config: MockConfig, faults: Faults) -> Self {
        let app = Arc::new(App::new(config, faults));
        Self { routes: app.routes(), app }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// [`HungUp`] where it closes the connection instead.
    pub async fn call(&self, request: http::Request<Body>) -> Result<http::Response<Body>, HungUp> {
        let Ok(response) = self.routes.clone().oneshot(request).await;
        let hangs_up = response.extensions().get::<server::HangUp>().is_some();
        if hangs_up { Err(HungUp) } else { Ok(response) }
    }

    /// What it counted so far.
    pub fn books(&self) -> Books {
        self.app.books()
    }

    /// Replaces the fault rules; their counters start afresh.
    pub fn set_faults(&self, faults: Faults) {
        self.app.set_faults(faults);
    }

    /// Changes the pace, also of answers under way.
    pub fn set_speed(&self, speed: Speed) {
        self.app.set_speed(speed);
    }
}

impl Mock {
    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it counted so far.
    pub fn books(&self) -> Books {
        self.app.books()
    }

    /// Replaces the fault rules; their counters start afresh.
    pub fn set_faults(&self, faults: Faults) {
        self.app.set_faults(faults);
    }

    /// Changes the pace, also of answers under way.
    pub fn set_speed(&self, speed: Speed) {
        self.app.set_speed(speed);
    }

    /// Stops listening, lets running answers finish for up to two seconds, then closes what is left.
    pub async fn shutdown(self) {
        let Self { stop, task, .. } = self;
        // Refused only where the server is gone already.
        let _ = stop.send(());
        // The task ends by itself within the grace; only its panic could make this an error.
        if let Err(error) = task.await {
            tracing::warn!(%error, "mock server ended abnormally");
        }
    }
}

#[cfg(test)]
mod faulty_test;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod wire_test;
