//! The demo's password: sessions of the live page, and a limit of requests per address.
//!
//! On only where the configuration has `demo.enabled`. It guards the page's figures and keeps one
//! visitor from using up a public demo; it is not the authentication of an API.

use super::{App, auth};
use crate::config::Demo;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{COOKIE, HOST, HeaderValue, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use llm_router_actors::Handle;
use llm_router_logic::wire::Dialect;
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use subtle::ConstantTimeEq;

const COOKIE_NAME: &str = "llm_router_session";
/// Sessions and addresses remembered at once.
const REMEMBERED_MAX: u64 = 10_000;
/// The window of `rateLimitPerIP`.
const WINDOW: Duration = Duration::from_secs(60);
/// Wrong passwords of one address in a window, after which it is not listened to until the window ends.
const FAILURES_MAX: u32 = 10;
/// Longest password read.
const BODY_MAX: usize = 4 * 1024;

/// The sessions of one node.
#[derive(Debug)]
pub struct Sessions {
    demo: Demo,
    open: Cache<String, ()>,
    requests: Cache<IpAddr, Arc<AtomicU32>>,
    /// Wrong passwords in the window.
    failures: Cache<IpAddr, Arc<AtomicU32>>,
}

impl Sessions {
    /// No session yet.
    pub fn new(demo: Demo) -> Self {
        let open = Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(demo.session_timeout).build();
        let requests = Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(WINDOW).build();
        let failures = Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(WINDOW).build();
        Self { demo, open, requests, failures }
    }

    fn accepts(&self, password: &SecretString) -> bool {
        let (given, wanted) =
            (password.expose_secret().as_bytes(), self.demo.password.expose_secret().as_bytes());
        given.ct_eq(wanted).into()
    }

    /// Opens a session and returns its cookie.
    fn open(&self, handle: &Handle) -> String {
        let token = format!("{:016x}{:016x}", handle.draw(), handle.draw());
        let age = self.demo.session_timeout.as_secs();
        let cookie = format!("{COOKIE_NAME}={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age={age}");
        self.open.insert(token, ());
        cookie
    }

    pub(super) fn is_open(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, token)| name == COOKIE_NAME && self.open.contains_key(token))
    }

    /// Whether a password of `address` is looked at. Counted before it is: guesses at the same time count too.
    fn may_guess(&self, address: IpAddr) -> bool {
        self.failures.get_with(address, Arc::default).fetch_add(1, Ordering::Relaxed) < FAILURES_MAX
    }

    /// A right password was no guess.
    fn forgive(&self, address: IpAddr) {
        self.failures.get_with(address, Arc::default).fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one request of `address`; `false` above the limit.
    fn admit(&self, address: IpAddr) -> bool {
        let count = self.requests.get_with(address, Arc::default);
        count.fetch_add(1, Ordering::Relaxed) < self.demo.rate_limit_per_ip
    }
}

#[derive(Deserialize)]
struct Login {
    password: SecretString,
}

/// `POST /api/auth` with `{"password": …}`: 200 and a session cookie, or 401.
pub(super) async fn login(
    State(app): State<App>,
    peer: Option<Extension<SocketAddr>>,
    request: Request,
) -> Response {
    let Some(sessions) = &app.sessions else {
        return told(StatusCode::NOT_FOUND, "there is no password to give: `demo.enabled` is off");
    };
    let Ok(body) = axum::body::to_bytes(request.into_body(), BODY_MAX).await else {
        return told(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than a password can be");
    };
    let Ok(login) = serde_json::from_slice::<Login>(&body) else {
        return told(StatusCode::BAD_REQUEST, "send a JSON object with `password`");
    };
    let address = peer.map(|Extension(peer)| peer.ip());
    if address.is_some_and(|address| !sessions.may_guess(address)) {
        return too_many("too many wrong passwords from your address, wait a minute");
    }
    if !sessions.accepts(&login.password) {
        return told(StatusCode::UNAUTHORIZED, "wrong password");
    }
    if let Some(address) = address {
        sessions.forgive(address);
    }
    let mut response = Json(json!({"authenticated": true})).into_response();
    if let Ok(cookie) = HeaderValue::from_str(&sessions.open(&app.handle)) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// Lets through who has a session or the admin token. Where the page has no password everybody is let
/// through, unless clients need keys: then the figures of all tenants are not for everybody.
pub(super) async fn need_session(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_admin =
        app.fixed.admin_token.as_ref().is_some_and(|token| auth::carries(request.headers(), token));
    match &app.sessions {
        _ if is_admin => next.run(request).await,
        Some(sessions) if !sessions.is_open(request.headers()) => {
            told(StatusCode::UNAUTHORIZED, "log in at POST /api/auth first")
        }
        None if app.auth.is_on() && !app.staged => told(
            StatusCode::UNAUTHORIZED,
            "the figures need `Authorization: Bearer` with the admin token, or a password: set `demo.enabled`",
        ),
        _ => next.run(request).await,
    }
}

/// The header that the page sends with whatever changes something or takes work. A form of another page
/// cannot carry it, and its scripts only with this router's leave, which is never given.
const FROM_THE_PAGE: &str = "x-llm-router-page";

/// Lets through what this router's own page asks; the rest could be another page in the same browser, which
/// would ride on the session's cookie.
pub(super) async fn need_own_page(request: Request, next: Next) -> Response {
    if is_of_own_page(request.headers()) {
        return next.run(request).await;
    }
    told(
        StatusCode::FORBIDDEN,
        &format!("only the router's own page may ask this: it sends `{FROM_THE_PAGE}: 1`"),
    )
}

/// Whether a request bears the page's header and, where a browser tells its origin, comes from this host.
fn is_of_own_page(headers: &HeaderMap) -> bool {
    headers.contains_key(FROM_THE_PAGE) && is_same_origin(headers)
}

/// Whether a request comes from no browser, from its user by hand, or from a page of this very host.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let same_site = text("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    let host = text(HOST.as_str()).unwrap_or_default();
    let same_origin = text(ORIGIN.as_str())
        .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, authority)| authority == host));
    same_site && same_origin
}

/// Keeps an address within the demo's limit; everybody where the demo is off, and whoever has the admin token.
pub(super) async fn limit_address(
    State(app): State<App>,
    peer: Option<Extension<SocketAddr>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let is_admin =
        app.fixed.admin_token.as_ref().is_some_and(|token| auth::carries(request.headers(), token));
    // The demo's own load carries keys that nobody else has.
    let is_load = app.staged && app.auth.known(Dialect::OpenAi, request.headers()).is_some();
    if let (Some(sessions), Some(Extension(peer))) = (&app.sessions, peer)
        && !is_admin
        && !is_load
        && !sessions.admit(peer.ip())
    {
        return too_many("too many requests from your address, wait a minute");
    }
    next.run(request).await
}

fn too_many(message: &str) -> Response {
    let mut response = told(StatusCode::TOO_MANY_REQUESTS, message);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(WINDOW.as_secs()));
    response
}

/// Turns away what a browser says another site's page asked, where no key is needed to spend money here. (A page
/// cannot make a browser send a client's key, but whatever needs none it can ask, on loopback too.)
pub(super) async fn need_same_site(State(app): State<App>, request: Request<Body>, next: Next) -> Response {
    if app.auth.is_on() || is_same_origin(request.headers()) {
        return next.run(request).await;
    }
    told(
        StatusCode::FORBIDDEN,
        "a page of another site may not ask this router: it needs no key (set `auth` to let keys decide)",
    )
}

fn told(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": {"message": message, "type": "demo"}}))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_own_page(pairs: &[(&'static str, &'static str)]) -> bool {
        let headers = pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        is_of_own_page(&headers.collect())
    }

    #[test]
    fn only_the_page_of_the_same_origin_may_change_something() {
        let (page, host) = (("x-llm-router-page", "1"), ("host", "127.0.0.1:8080"));
        assert!(of_own_page(&[page, host]), "a client that is no browser");
        assert!(of_own_page(&[
            page,
            host,
            ("origin", "http://127.0.0.1:8080"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(!of_own_page(&[host, ("origin", "http://127.0.0.1:8080")]), "a form cannot send the header");
        assert!(!of_own_page(&[page, host, ("origin", "http://127.0.0.1:8081")]), "another port");
        assert!(!of_own_page(&[page, host, ("origin", "null")]));
        assert!(!of_own_page(&[page, host, ("sec-fetch-site", "same-site")]));
    }
}
