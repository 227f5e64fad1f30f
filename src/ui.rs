//! The live page: static files in the binary, and the shape of the figures they poll.
//!
//! Owns the files under `ui/assets`, their content types, entity tags and security headers. Never
//! computes a figure: those come from `GET /ui/data`, which the node answers with a [`data::UiData`].
//! No bundler, no CDN: the page works offline, and its content security policy allows nothing but this
//! origin and no inline script or style. The build packs each file with gzip, and a client that takes gzip
//! is sent that.

pub mod data;
pub mod history;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
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
const TEXT: &str = "text/plain; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// One file of the page.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
    /// The same, packed.
    gzip: &'static [u8],
}

macro_rules! assets {
    ($($path:literal $content_type:ident $file:literal,)*) => {
        const ASSETS: &[Asset] = &[$(Asset {
            path: $path,
            content_type: $content_type,
            body: include_str!(concat!("ui/assets/", $file)),
            gzip: include_bytes!(concat!(env!("OUT_DIR"), "/ui/", $file, ".gz")),
        },)*];
    };
}

assets! {
    "/" HTML "index.html",
    "/ui/LICENSES.txt" TEXT "LICENSES.txt",
    "/ui/icon.svg" SVG "icon.svg",
    "/ui/style.css" CSS "style.css",
    "/ui/activity.js" SCRIPT "activity.js",
    "/ui/answer.js" SCRIPT "answer.js",
    "/ui/app.js" SCRIPT "app.js",
    "/ui/arms.js" SCRIPT "arms.js",
    "/ui/ask.js" SCRIPT "ask.js",
    "/ui/breakages.js" SCRIPT "breakages.js",
    "/ui/chart.js" SCRIPT "chart.js",
    "/ui/charts.js" SCRIPT "charts.js",
    "/ui/days.js" SCRIPT "days.js",
    "/ui/decisions.js" SCRIPT "decisions.js",
    "/ui/dom.js" SCRIPT "dom.js",
    "/ui/fleet.js" SCRIPT "fleet.js",
    "/ui/format.js" SCRIPT "format.js",
    "/ui/headline.js" SCRIPT "headline.js",
    "/ui/login.js" SCRIPT "login.js",
    "/ui/members.js" SCRIPT "members.js",
    "/ui/money.js" SCRIPT "money.js",
    "/ui/playground.js" SCRIPT "playground.js",
    "/ui/poll.js" SCRIPT "poll.js",
    "/ui/record.js" SCRIPT "record.js",
    "/ui/share.js" SCRIPT "share.js",
    "/ui/tenants.js" SCRIPT "tenants.js",
    "/ui/tones.js" SCRIPT "tones.js",
    "/ui/troubles.js" SCRIPT "troubles.js",
    "/ui/views.js" SCRIPT "views.js",
}

/// The routes of the page's files: `/` and `/ui/*`. `/ui/data` is not among them.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let tags = Tags { plain: entity_tag(asset.body, ""), gzip: entity_tag(asset.body, "-gzip") };
        router.route(
            asset.path,
            get(move |headers: HeaderMap| std::future::ready(serve(asset, &tags, &headers))),
        )
    })
}

/// Answers with the file, packed where the client takes that, or with 304 where it has it already.
fn serve(asset: &'static Asset, tags: &Tags, asked: &HeaderMap) -> Response<Body> {
    let packed = takes_gzip(asked);
    let tag = if packed { &tags.gzip } else { &tags.plain };
    let known = asked.get_all(IF_NONE_MATCH).iter().any(|value| names_tag(value, tag));
    let bytes = if packed { asset.gzip } else { asset.body.as_bytes() };
    let body = if known { Body::empty() } else { Body::from(Bytes::from_static(bytes)) };
    let mut response = Response::new(body);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    if packed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(ETAG, tag.clone());
    // Names carry no version, so that a new binary's files are seen at once; the tag makes it a 304.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Whether a client says that it takes gzip, and not that it does by a weight of zero.
fn takes_gzip(asked: &HeaderMap) -> bool {
    let lists = asked.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut codings = lists.flat_map(|list| list.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused =
            weight.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// Whether an `If-None-Match` value names `tag`, alone, in a list, weakly, or as `*`.
fn names_tag(value: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(value), Ok(tag)) = (value.to_str(), tag.to_str()) else { return false };
    value.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// The tags of a file as it is and packed: two forms, so two tags.
#[derive(Clone)]
struct Tags {
    plain: HeaderValue,
    gzip: HeaderValue,
}

/// A tag from the content: 64-bit FNV-1a, the same on every node that runs the same build.
fn entity_tag(body: &str, form: &str) -> HeaderValue {
    let hash = body.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    HeaderValue::try_from(format!("\"{hash:016x}{form}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
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
                Some((_, "txt")) => TEXT,
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
        // The policy keeps a library from loading or running anything foreign; its comments may name sites.
        let own = ASSETS.iter().filter(|asset| !asset.path.starts_with("/ui/chart.js"));
        for asset in own {
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

    #[tokio::test]
    async fn who_takes_gzip_is_sent_less_and_the_whole_page_stays_small() {
        let asked = |encoding| Request::get("/ui/app.js").header(ACCEPT_ENCODING, encoding);
        for (encoding, packed) in
            [("gzip, deflate", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("br", false)]
        {
            let request = asked(encoding).body(Body::empty()).unwrap();
            let response = routes::<()>().oneshot(request).await.unwrap();
            let headers = response.headers();
            assert_eq!(headers.contains_key(CONTENT_ENCODING), packed, "{encoding}");
            assert_eq!(headers[ETAG].to_str().unwrap().contains("-gzip"), packed, "{encoding}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            // The first bytes of every gzip file.
            assert_eq!(body.starts_with(&[0x1f, 0x8b]), packed, "{encoding}");
        }
        let all: usize = ASSETS.iter().map(|asset| asset.gzip.len()).sum();
        assert!(all < 600 * 1024, "the page takes {all} bytes");
    }

    #[test]
    fn the_library_is_what_its_notice_says() {
        let body = |path: &str| ASSETS.iter().find(|asset| asset.path == path).unwrap().body;
        let (library, notice) = (body("/ui/chart.js"), body("/ui/LICENSES.txt"));
        let version = library.split("Chart.js v").nth(1).unwrap().split_whitespace().next().unwrap();
        assert!(notice.contains(&format!("Chart.js {version}")), "{version}");
        assert!(notice.contains("Permission is hereby granted"));
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
