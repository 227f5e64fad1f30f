//! A whole answer that can be given again, and how a generation tells that it came to one.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

/// Headers of an answer that still hold when it is given again. The others are of one request: its decision,
/// its cost, its limits.
const KEPT_HEADERS: [HeaderName; 6] = [
    CONTENT_TYPE,
    CACHE_CONTROL,
    HeaderName::from_static("x-llm-router-backend"),
    HeaderName::from_static("x-llm-router-region"),
    HeaderName::from_static("x-llm-router-via"),
    HeaderName::from_static("x-llm-router-dropped"),
];
/// Of an answer in memory besides its bytes.
const OVERHEAD_BYTES: usize = 1024;

/// What a generation came to, told once by whoever reads its end; nothing is told of one that failed or was
/// cut off.
#[derive(Debug, Default)]
pub struct Completion(OnceLock<Whole>);

/// An answer that ended as it should, with its reason to finish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whole {
    /// What it cost; `None` = unpriced.
    pub(crate) cost: Option<Money>,
    /// The tokens it took.
    pub(crate) usage: Usage,
    /// The model that gave it.
    pub(crate) model: Arc<str>,
    /// Whether it has any content.
    pub(crate) has_content: bool,
}

impl Completion {
    /// Tells it.
    pub(crate) fn tell(&self, whole: Whole) {
        // What was told first holds.
        let _ = self.0.set(whole);
    }

    /// What was told.
    pub(crate) fn told(&self) -> Option<Whole> {
        self.0.get().cloned()
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Those that still hold.
    pub(crate) headers: HeaderMap,
    /// Its bytes as the first client got them, signs of life left out.
    pub(crate) body: Bytes,
    /// Whether it is a stream.
    pub(crate) streams: bool,
    /// Id of the decision that made it.
    pub(crate) decision: String,
    /// What it came to.
    pub(crate) whole: Whole,
}

impl Answer {
    /// What it takes in memory, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.body.len() + OVERHEAD_BYTES
    }

    /// The backend that gave it.
    pub(crate) fn backend(&self) -> String {
        text(&self.headers, "x-llm-router-backend")
    }

    /// It as a response.
    pub(crate) fn response(&self) -> Response {
        let body = if self.streams {
            let events = Events { rest: self.body.clone() };
            Body::from_stream(stream::iter(events.map(Ok::<_, Infallible>)))
        } else {
            Body::from(self.body.clone())
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// Of `headers` those that hold for whoever gets the answer.
pub(crate) fn kept(headers: &HeaderMap) -> HeaderMap {
    let kept = |name: &HeaderName| Some((name.clone(), headers.get(name)?.clone()));
    KEPT_HEADERS.iter().filter_map(kept).collect()
}

/// A header of `headers` as text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> String {
    let text = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    text.unwrap_or_default().to_owned()
}

/// A stream's events one by one, so that a client reads them as it read them first.
struct Events {
    rest: Bytes,
}

impl Iterator for Events {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.windows(2).position(|pair| pair == b"\n\n").map_or(self.rest.len(), |at| at + 2);
        Some(self.rest.split_to(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_given_again_event_by_event_and_byte_by_byte() {
        for text in
            ["", "data: a\n\n", "data: a\n\ndata: b\n\ndata: [DONE]\n\n", "[{\"a\":1}\n,{}]", "x\n\ny"]
        {
            let events: Vec<Bytes> = Events { rest: Bytes::from_static(text.as_bytes()) }.collect();
            assert_eq!(events.concat(), text.as_bytes());
            assert_eq!(events.len(), text.split_inclusive("\n\n").count(), "{text:?}");
        }
    }

    #[test]
    fn headers_of_one_request_are_not_given_again() {
        let mut headers = HeaderMap::new();
        for name in
            ["content-type", "x-llm-router-backend", "x-llm-router-decision", "x-ratelimit-limit-requests"]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let kept = kept(&headers);
        assert_eq!(kept.len(), 2);
        assert_eq!(text(&kept, "x-llm-router-backend"), "v");
        assert_eq!(text(&kept, "x-llm-router-decision"), "");
    }
}
