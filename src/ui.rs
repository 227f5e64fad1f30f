//! The live page: static files in the binary, and the shape of the figures they poll.
//!
//! Owns the files under `ui/assets`, their content types, entity tags and security headers. Never
//! computes a figure: those come from `GET /ui/data`, which the node answers with a [`data::UiData`].
//! No build step, no CDN: the page works offline, and its content security policy allows nothing but
//! this origin and no inline script or style.

pub mod data;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::get;

/// Nothing but this origin; nobody may frame the page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// One file of the page.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
}

macro_rules! assets {
    ($($path:literal $content_type:ident $file:literal,)*) => {
        const ASSETS: &[Asset] = &[$(Asset {
            path: $path,
            content_type: $content_type,
            body: include_str!(concat!("ui/assets/", $file)),
        },)*];
    };
}

assets! {
    "/" HTML "index.html",
    "/ui/style.css" CSS "style.css",
    "/ui/icon.svg" SVG "icon.svg",
    "/ui/app.js" SCRIPT "app.js",
    "/ui/decisions.js" SCRIPT "decisions.js",
    "/ui/dom.js" SCRIPT "dom.js",
    "/ui/fleet.js" SCRIPT "fleet.js",
    "/ui/format.js" SCRIPT "format.js",
    "/ui/headline.js" SCRIPT "headline.js",
    "/ui/members.js" SCRIPT "members.js",
    "/ui/playground.js" SCRIPT "playground.js",
    "/ui/poll.js" SCRIPT "poll.js",
    "/ui/share.js" SCRIPT "share.js",
    "/ui/tones.js" SCRIPT "tones.js",
}

/// The routes of the page's files: `/` and `/ui/*`. `/ui/data` is not among them.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let tag = entity_tag(asset.body);
        router.route(
            asset.path,
            get(move |headers: HeaderMap| std::future::ready(serve(asset, &tag, &headers))),
        )
    })
}

/// Answers with the file, or with 304 where the browser already has it.
fn serve(asset: &'static Asset, tag: &HeaderValue, asked: &HeaderMap) -> Response<Body> {
    let known = asked.get_all(IF_NONE_MATCH).iter().any(|value| names_tag(value, tag));
    let body = if known { Body::empty() } else { Body::from(Bytes::from_static(asset.body.as_bytes())) };
    let mut response = Response::new(body);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(ETAG, tag.clone());
    // Names carry no version, so that a new binary's files are seen at once; the tag makes it a 304.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Whether an `If-None-Match` value names `tag`, alone, in a list, weakly, or as `*`.
fn names_tag(value: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(value), Ok(tag)) = (value.to_str(), tag.to_str()) else { return false };
    value.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// A tag from the content: 64-bit FNV-1a, the same on every node that runs the same build.
fn entity_tag(body: &str) -> HeaderValue {
    let hash = body.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    HeaderValue::try_from(format!("\"{hash:016x}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}
