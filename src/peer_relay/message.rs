//! What passes between two routers besides the backend's own request and answer: headers, and a failure.
//!
//! Both ends read and write it here. A peer of another version that sends a word more or less is understood:
//! unknown members are ignored, missing ones have a default.

use http::HeaderName;
use llm_router_logic::fault::{Fault, UpstreamError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Path below which requests are taken; the backend's name follows.
pub(super) const PATH: &str = "/relay/v1/";
/// Path and query below the backend's address.
pub(super) const UPSTREAM_PATH: HeaderName = HeaderName::from_static("x-llm-router-relay-path");
/// The model asked for, by the backend's own name.
pub(super) const MODEL: HeaderName = HeaderName::from_static("x-llm-router-relay-model");
/// Estimated tokens, input and output together.
pub(super) const TOKENS: HeaderName = HeaderName::from_static("x-llm-router-relay-tokens");
/// Milliseconds left for the first byte.
pub(super) const PATIENCE: HeaderName = HeaderName::from_static("x-llm-router-relay-patience-ms");
/// Milliseconds left for all of it.
pub(super) const DEADLINE: HeaderName = HeaderName::from_static("x-llm-router-deadline-ms");
/// Hops the request has made with this one: always 1.
pub(super) const HOPS: HeaderName = HeaderName::from_static("x-llm-router-relay-hops");
/// Id of the decision record at the node the client came to.
pub(super) const DECISION: HeaderName = HeaderName::from_static("x-llm-router-decision");
/// The region of the router that answers.
pub(super) const REGION: HeaderName = HeaderName::from_static("x-llm-router-region");
/// Set on an answer that is a [`Failure`] and not the backend's.
pub(super) const FAILED: HeaderName = HeaderName::from_static("x-llm-router-relay-failed");
/// Largest failure read.
pub(super) const FAILURE_BYTES_MAX: usize = 64 * 1024;

/// Why a peer got no answer from the backend.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Failure {
    /// The fault's label, or one of the relay's own: `unreachable`, `busy`, `refused`.
    pub(super) what: String,
    /// For people.
    pub(super) message: String,
    /// The backend's status.
    pub(super) status: u16,
    pub(super) retry_after_ms: Option<u64>,
    pub(super) kind: Option<String>,
    pub(super) code: Option<String>,
    pub(super) param: Option<String>,
}

impl Failure {
    /// A failure of the relay's own.
    pub(super) fn new(what: &str, message: impl Into<String>) -> Self {
        Self { what: what.to_owned(), message: message.into(), ..Self::default() }
    }

    /// What became of the attempt.
    pub(super) fn of(fault: &Fault) -> Self {
        match fault {
            Fault::Status { status, retry_after, error } => Self {
                what: "status".to_owned(),
                message: error.message.clone(),
                status: *status,
                retry_after_ms: retry_after.map(llm_router_logic::time::millis),
                kind: error.kind.clone(),
                code: error.code.clone(),
                param: error.param.clone(),
            },
            other => Self::new(other.label(), other.to_string()),
        }
    }

    /// The same as a fault of the attempt through `peer`.
    pub(super) fn fault(self, peer: &str, patience: Duration) -> Fault {
        let told = format!("router `{peer}`: {}", self.message);
        match self.what.as_str() {
            "status" => Fault::Status {
                status: self.status,
                retry_after: self.retry_after_ms.map(Duration::from_millis),
                error: UpstreamError {
                    kind: self.kind,
                    code: self.code,
                    message: self.message,
                    param: self.param,
                },
            },
            "first_byte_timeout" => Fault::FirstByteTimeout(patience),
            "busy" => Fault::Status {
                status: 503,
                retry_after: None,
                error: UpstreamError { message: told, ..UpstreamError::default() },
            },
            "connect" | "unreachable" | "refused" => Fault::Connect(told),
            "malformed" => Fault::Malformed(told),
            _ => Fault::Broken(told),
        }
    }
}

/// Whether `path` is one that a router asks of a backend. A peer is trusted with requests to models, not with
/// everything a backend's credentials open.
pub(super) fn is_model_path(path: &str) -> bool {
    let (route, query) = path.split_once('?').unwrap_or((path, ""));
    let plain = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    ];
    let gemini = route.strip_prefix("/v1beta/models/").and_then(|rest| rest.rsplit_once(':'));
    let calls =
        ["generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"];
    let named = |model: &str| !model.is_empty() && !model.contains('/') && !model.contains("..");
    let known =
        plain.contains(&route) || gemini.is_some_and(|(model, call)| named(model) && calls.contains(&call));
    known && matches!(query, "" | "alt=sse")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_comes_back_as_the_same_kind_of_fault() {
        let status = Fault::Status {
            status: 429,
            retry_after: Some(Duration::from_secs(7)),
            error: UpstreamError { code: Some("quota".to_owned()), ..UpstreamError::default() },
        };
        let back = |fault: &Fault| {
            let text = serde_json::to_string(&Failure::of(fault)).unwrap();
            serde_json::from_str::<Failure>(&text).unwrap().fault("b", Duration::from_secs(1))
        };
        assert_eq!(back(&status), status);
        for fault in [
            Fault::Connect("refused".to_owned()),
            Fault::FirstByteTimeout(Duration::from_secs(1)),
            Fault::Broken("cut".to_owned()),
            Fault::Malformed("no JSON".to_owned()),
        ] {
            assert_eq!(back(&fault).label(), fault.label());
        }
        assert_eq!(Failure::new("busy", "").fault("b", Duration::ZERO).label(), "server_error");
        assert!(back(&Fault::Connect("refused".to_owned())).to_string().contains("router `b`"));
    }

    #[test]
    fn a_later_peers_words_are_borne() {
        let later = r#"{"what":"melted","message":"m","new_member":[1]}"#;
        let fault = serde_json::from_str::<Failure>(later).unwrap().fault("b", Duration::ZERO);
        assert_eq!(fault.label(), "broken");
    }

    #[test]
    fn only_requests_to_models_pass() {
        for path in [
            "/v1/chat/completions",
            "/v1/messages/count_tokens",
            "/v1beta/models/gemini-1.5:streamGenerateContent?alt=sse",
            "/v1beta/models/gemini-1.5:generateContent",
        ] {
            assert!(is_model_path(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/v1/files",
            "/v1/chat/completions/../files",
            "/v1/chat/completions?x=1",
            "//evil/v1/chat/completions",
            "http://evil/v1/chat/completions",
            "/v1beta/models/a/../../files:generateContent",
            "/v1beta/models/:generateContent",
            "/v1beta/models/x:delete",
        ] {
            assert!(!is_model_path(path), "{path}");
        }
    }
}
