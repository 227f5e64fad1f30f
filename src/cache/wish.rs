//! What a client wishes of the response cache.

use http::HeaderMap;
use http::header::CACHE_CONTROL;
use llm_router_logic::fault::{ApiError, ErrorKind};
use std::time::Duration;

/// The header of the router's own words, in requests and responses.
pub(crate) const HEADER: &str = "x-llm-router-cache";

/// What a client wishes of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Neither look nor keep.
    pub(crate) off: bool,
    /// Do not look, keep what is generated.
    pub(crate) refresh: bool,
    /// An answer drawn at random will do as well.
    pub(crate) sampled: bool,
    /// An older answer will not do.
    pub(crate) max_age: Option<Duration>,
}

impl Wish {
    /// What `headers` say: `x-llm-router-cache: on|off|refresh` and `Cache-Control` (RFC 9111, section 5.2.1:
    /// `no-store`, `no-cache`, `max-age`).
    ///
    /// # Errors
    /// A word of our own header that there is not.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut wish = Self::default();
        if let Some(word) = headers.get(HEADER) {
            match word.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
                "off" => wish.off = true,
                "on" => wish.sampled = true,
                "refresh" => wish.refresh = true,
                _ => {
                    let text = format!("header `{HEADER}` is none of `on`, `off` and `refresh`");
                    let error = ApiError::new(ErrorKind::InvalidRequest, text);
                    return Err(error.with_code("invalid_header").with_param(HEADER));
                }
            }
        }
        for value in headers.get_all(CACHE_CONTROL) {
            // What is no text asks for nothing we know.
            for word in value.to_str().unwrap_or_default().split(',') {
                let word = word.trim().to_ascii_lowercase();
                match word.split_once('=') {
                    None if word == "no-store" => wish.off = true,
                    None if word == "no-cache" => wish.refresh = true,
                    Some(("max-age", seconds)) => {
                        let seconds = seconds.trim_matches('"').parse().ok().map(Duration::from_secs);
                        wish.max_age = seconds.or(wish.max_age);
                    }
                    _ => {}
                }
            }
        }
        Ok(wish)
    }

    /// Whether an answer of this age will do.
    pub(crate) fn takes(&self, age: Duration) -> bool {
        self.max_age.is_none_or(|most| age <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn wish(name: &'static str, value: &'static str) -> Result<Wish, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        Wish::read(&headers)
    }

    #[test]
    fn a_wish_is_read_from_either_header() {
        let none = Wish::default();
        let off = Wish { off: true, ..none };
        let refresh = Wish { refresh: true, ..none };
        let aged = |s| Wish { max_age: Some(Duration::from_secs(s)), ..none };
        for (name, value, wanted) in [
            ("x-llm-router-cache", "off", off),
            ("x-llm-router-cache", " Refresh ", refresh),
            ("x-llm-router-cache", "on", Wish { sampled: true, ..none }),
            ("cache-control", "no-store", off),
            ("cache-control", "No-Cache", refresh),
            ("cache-control", "max-age=60, no-transform", aged(60)),
            ("cache-control", "private, max-age=0, no-cache", Wish { refresh: true, ..aged(0) }),
            ("cache-control", "max-age=soon", none),
            ("accept", "no-store", none),
        ] {
            assert_eq!(wish(name, value).unwrap(), wanted, "{name}: {value}");
        }
        assert_eq!(wish("x-llm-router-cache", "maybe").unwrap_err().status, 400);
    }

    #[test]
    fn an_answer_as_old_as_the_bound_will_do() {
        let bounded = Wish { max_age: Some(Duration::from_secs(5)), ..Wish::default() };
        assert!(bounded.takes(Duration::from_secs(5)) && !bounded.takes(Duration::from_secs(6)));
        assert!(Wish::default().takes(Duration::MAX));
    }
}
