//! The HTTP edge of a node: routes, and the state their handlers share.
//!
//! Owns nothing but the door: requests go to [`crate::relay`], figures come from the actors.

mod admin;
mod auth;
pub(crate) mod chat;
mod connection;
mod error;
mod events;
mod health;
mod models;
mod page;
pub mod server;
mod session;
mod standing;

pub use admin::router as admin_router;
pub use auth::Auth;
pub use health::Readiness;
pub use session::Sessions;

use crate::config::Config;
use crate::decisions::Decisions;
use crate::relay::Relay;
use crate::spot::Notices;
use crate::trace::Tracer;
use crate::ui;
use crate::ui::history::History;
use crate::webhook::HttpDeliver;

use arc_swap::ArcSwap;
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use llm_router_actors::Handle;
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// What the handlers of one node share.
#[derive(Clone)]
pub struct App {
    /// The actors.
    pub handle: Handle,
    /// Traces requests.
    pub tracer: Arc<Tracer>,
    /// The way of a request; replaced by a reload.
    pub relay: Arc<ArcSwap<Relay>>,
    /// The last decisions.
    pub decisions: Arc<Decisions>,
    /// Whether new requests should be sent here.
    pub readiness: Arc<Readiness>,
    /// Sessions of the live page; `None` where it needs no password.
    pub sessions: Option<Arc<Sessions>>,
    /// The keys clients prove themselves with.
    pub auth: Arc<Auth>,
    /// What is fixed until a restart.
    pub fixed: Arc<Fixed>,
    /// Files that tell prices and ends.
    pub notices: Arc<Notices>,
    /// The last minutes in figures.
    pub history: Arc<History>,
    /// Whether the node stands on the demo's stage.
    pub staged: bool,
    /// The way to webhooks' endpoints.
    pub deliver: Arc<HttpDeliver>,
    /// Asks the node to read its file again.
    pub reload: mpsc::Sender<()>,
}

/// Settings of the edge that a reload does not change.
pub struct Fixed {
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// A request's body must have arrived within this.
    pub read_timeout: Duration,
    /// The cloud this node runs in.
    pub cloud: String,
    /// Whether every backend is simulated.
    pub simulated: bool,
    /// Bearer token of the admin listener.
    pub admin_token: Option<SecretString>,
    /// Where the ledger is; `None` = none is kept.
    pub ledger: Option<PathBuf>,
    /// Places for readers of `/admin/events`.
    pub event_readers: Arc<Semaphore>,
}

impl Fixed {
    /// What `config` says of the edge.
    pub fn new(config: &Config, simulated: bool) -> Self {
        Self {
            max_body_bytes: config.server.max_body_bytes,
            read_timeout: config.server.read_timeout,
            cloud: config.node.cloud.clone(),
            simulated,
            admin_token: config.admin.as_ref().map(|admin| admin.token.clone()),
            ledger: config.ledger.as_ref().map(|ledger| ledger.path.clone()),
            event_readers: events::places(),
        }
    }
}

/// The routes of the public listener.
pub fn router(app: App) -> Router {
    router_with(app, Router::new())
}

/// The same with `staged` besides: the demo's own routes, which need a session where the page does, and of
/// which only the router's own page may ask what changes something.
pub fn router_with(app: App, staged: Router<App>) -> Router {
    let limited = from_fn_with_state(app.clone(), session::limit_address);
    let models = Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(chat::completions))
        .route("/v1/embeddings", post(chat::embeddings))
        .route("/v1/responses", post(chat::responses))
        .route("/v1/messages", post(chat::messages))
        .route("/v1/messages/count_tokens", post(chat::count_tokens))
        .route("/v1/models/{*model}", get(models::show).post(chat::generate_content))
        .route("/v1beta/models/{*model}", get(models::show).post(chat::generate_content))
        .route("/api/auth", post(session::login))
        .route_layer(limited)
        .route_layer(from_fn_with_state(app.clone(), session::need_same_site));
    let page = Router::new()
        .route("/ui/explain", post(admin::explain))
        .merge(staged)
        .route_layer(from_fn(session::need_own_page))
        .route("/ui/data", get(page::data))
        .route("/ui/history", get(page::history))
        .route("/ui/tenants", get(page::tenants))
        .route("/ui/decisions/{id}", get(admin::decision))
        .route_layer(from_fn_with_state(app.clone(), session::need_session));
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1beta/models", get(models::list))
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::guarded_metrics))
        .merge(models)
        .merge(page)
        .merge(ui::routes())
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::wrong_method)
        .with_state(app)
}
