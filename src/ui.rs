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
    "/ui/login.js" SCRIPT "login.js",
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use llm_router_logic::route::{Reason, Strategy};
    use tower::ServiceExt;

    async fn get(path: &str, known: Option<&HeaderValue>) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get(path);
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let response = routes::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Paths of this origin that `text` loads: quoted strings that begin with `/ui/` or `./`.
    fn loads(text: &str) -> Vec<String> {
        let quoted = text.split(['"', '\'']);
        let local = quoted.filter(|part| part.starts_with("/ui/") || part.starts_with("./"));
        local.map(|path| path.replacen("./", "/ui/", 1)).filter(|path| path.contains('.')).collect()
    }

    #[tokio::test]
    async fn every_file_the_page_loads_is_served_with_its_type_and_the_policy() {
        let mut seen = vec!["/".to_owned()];
        let mut next = 0;
        while let Some(path) = seen.get(next).cloned() {
            let (status, headers, body) = get(&path, None).await;
            assert_eq!(status, StatusCode::OK, "{path}");
            assert_eq!(headers[CONTENT_SECURITY_POLICY], POLICY, "{path}");
            assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
            let expected = match path.rsplit_once('.') {
                None => HTML,
                Some((_, "css")) => CSS,
                Some((_, "js")) => SCRIPT,
                Some((_, "svg")) => SVG,
                Some((_, other)) => panic!("`{path}`: no type is expected for `{other}`"),
            };
            assert_eq!(headers[CONTENT_TYPE], expected, "{path}");
            for found in loads(&body) {
                if !seen.contains(&found) {
                    seen.push(found);
                }
            }
            next += 1;
        }
        assert_eq!(seen.len(), ASSETS.len(), "files that nothing loads, or the other way round: {seen:?}");
    }

    #[test]
    fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
        for asset in ASSETS {
            let foreign = asset.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{}", asset.path);
            for banned in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!asset.body.contains(banned), "{} uses {banned}", asset.path);
            }
        }
        let page = ASSETS[0].body;
        for banned in [" style=", " onclick=", " onload=", "<style", "<script>", "javascript:"] {
            assert!(!page.contains(banned), "the page has {banned}");
        }
    }

    #[tokio::test]
    async fn a_file_the_browser_has_is_not_sent_again() {
        let (_, headers, body) = get("/ui/app.js", None).await;
        assert!(!body.is_empty());
        let (status, again, body) = get("/ui/app.js", Some(&headers[ETAG])).await;
        assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!(again[ETAG], headers[ETAG]);
        let (status, ..) = get("/ui/style.css", Some(&headers[ETAG])).await;
        assert_eq!(status, StatusCode::OK, "another file has another tag");
    }

    #[test]
    fn every_strategy_can_be_chosen_and_every_label_of_it_is_explained() {
        let body = |path: &str| ASSETS.iter().find(|asset| asset.path == path).unwrap().body;
        for strategy in Strategy::ALL {
            let option = format!("<option value=\"{strategy}\">");
            assert!(body("/").contains(&option), "the playground does not offer `{strategy}`");
        }
        // The same exhaustive list as the compiler's: a new reason does not compile until it is here.
        let after = |reason: Option<Reason>| match reason {
            None => Some(Reason::LowestCost),
            Some(Reason::LowestCost) => Some(Reason::LowestLatency),
            Some(Reason::LowestLatency) => Some(Reason::ExternalFirst),
            Some(Reason::ExternalFirst) => Some(Reason::ClusterFallback),
            Some(Reason::ClusterFallback) => Some(Reason::ClusterFirst),
            Some(Reason::ClusterFirst) => Some(Reason::ExternalFallback),
            Some(Reason::ExternalFallback) => Some(Reason::HybridCluster),
            Some(Reason::HybridCluster) => Some(Reason::HybridCheapest),
            Some(Reason::HybridCheapest) => Some(Reason::SloCheapest),
            Some(Reason::SloCheapest) => Some(Reason::SloFastest),
            Some(Reason::SloFastest) => Some(Reason::Sticky),
            Some(Reason::Sticky) => Some(Reason::PrefixAffinity),
            Some(Reason::PrefixAffinity) => Some(Reason::Pinned),
            Some(Reason::Pinned) => Some(Reason::LeastBad),
            Some(Reason::LeastBad) => None,
        };
        for reason in std::iter::successors(after(None), |reason| after(Some(*reason))) {
            let entry = format!("  {reason}: \"");
            assert!(body("/ui/format.js").contains(&entry), "`{reason}` is not explained");
        }
    }

    #[test]
    fn a_tag_is_known_in_a_list_weakly_and_by_a_star() {
        let tag = HeaderValue::from_static("\"a\"");
        let names = |value| names_tag(&HeaderValue::from_static(value), &tag);
        assert!(names("\"a\"") && names("W/\"a\"") && names("\"b\", \"a\"") && names("*"));
        assert!(!names("\"b\"") && !names("a"));
    }
}
