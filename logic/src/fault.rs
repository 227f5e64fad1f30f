//! What can go wrong with an attempt, and what a client is told.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why an attempt at a backend failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection: refused, unreachable, DNS, TLS.
    Connect(String),
    /// No response headers or no first token in time.
    FirstByteTimeout(Duration),
    /// The stream went silent for longer than allowed.
    IdleTimeout(Duration),
    /// The client's deadline passed.
    Deadline,
    /// The backend answered with an error status.
    Status {
        /// HTTP status of the upstream.
        status: u16,
        /// Wait asked for by `Retry-After`.
        retry_after: Option<Duration>,
        /// The upstream's error, read from its body.
        error: UpstreamError,
    },
    /// The response ended or broke before it was complete.
    Broken(String),
    /// The response was not what the dialect allows (bad JSON, wrong content type, too large).
    Malformed(String),
}

/// The error object of an upstream, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamError {
    /// The dialect's `type` or `status` word.
    pub kind: Option<String>,
    /// The dialect's `code`.
    pub code: Option<String>,
    /// Human text.
    pub message: String,
    /// The field blamed.
    pub param: Option<String>,
}

impl Fault {
    /// Whether another backend may be tried, provided no content byte has reached the client.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::FirstByteTimeout(_)
            | Self::IdleTimeout(_)
            | Self::Broken(_)
            | Self::Malformed(_) => true,
            // 401, 403 and 404 are about our key or that account, not about the client's request;
            // 529 is Anthropic's "overloaded".
            Self::Status { status, .. } => matches!(status, 401 | 403 | 404 | 408 | 429 | 500..=599),
            Self::Deadline => false,
        }
    }

    /// Whether the breaker counts it: 5xx, timeouts and broken streams, never a client's 4xx.
    pub fn counts_against_backend(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::FirstByteTimeout(_)
            | Self::IdleTimeout(_)
            | Self::Broken(_)
            | Self::Malformed(_) => true,
            // 501 is a feature the backend lacks, not ill health.
            Self::Status { status, .. } => *status >= 500 && *status != 501,
            Self::Deadline => false,
        }
    }

    /// The wait a 429 or 503 asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// One word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::FirstByteTimeout(_) => "first_byte_timeout",
            Self::IdleTimeout(_) => "idle_timeout",
            Self::Deadline => "deadline",
            Self::Status { status: 429, .. } => "rate_limited",
            Self::Status { status, .. } if *status >= 500 => "server_error",
            Self::Status { .. } => "client_error",
            Self::Broken(_) => "broken",
            Self::Malformed(_) => "malformed",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "cannot connect: {why}"),
            Self::FirstByteTimeout(after) => write!(f, "no first byte within {after:?}"),
            Self::IdleTimeout(after) => write!(f, "no data for {after:?}"),
            Self::Deadline => f.write_str("the request's deadline passed"),
            Self::Status { status, error, .. } if error.message.is_empty() => write!(f, "status {status}"),
            Self::Status { status, error, .. } => write!(f, "status {status}: {}", error.message),
            Self::Broken(why) => write!(f, "response broke off: {why}"),
            Self::Malformed(why) => write!(f, "malformed response: {why}"),
        }
    }
}

/// What kind of error a client is told; each dialect has its own word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// 400: the request itself is wrong.
    InvalidRequest,
    /// 401: no or wrong key.
    Authentication,
    /// 403: the key may not do this.
    Permission,
    /// 404: no such route or model.
    NotFound,
    /// 408 or 504: too slow.
    Timeout,
    /// 413: body too large.
    TooLarge,
    /// 429: too many requests.
    RateLimit,
    /// 500: our own fault.
    Internal,
    /// 502: the backend failed.
    Upstream,
    /// 503: nothing can serve this now.
    Unavailable,
}

/// An error as a client will read it, before it takes the shape of the client's dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// What kind of error.
    pub kind: ErrorKind,
    /// Machine-readable code, for example `model_not_found`.
    pub code: Option<String>,
    /// Text for a person.
    pub message: String,
    /// The request field blamed.
    pub param: Option<String>,
    /// Seconds to wait, sent as `Retry-After` (always present on 429 and 503).
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error with the usual status of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let status = match kind {
            ErrorKind::InvalidRequest => 400,
            ErrorKind::Authentication => 401,
            ErrorKind::Permission => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::Timeout => 504,
            ErrorKind::TooLarge => 413,
            ErrorKind::RateLimit => 429,
            ErrorKind::Internal => 500,
            ErrorKind::Upstream => 502,
            ErrorKind::Unavailable => 503,
        };
        let retry_after = matches!(status, 429 | 503).then_some(Duration::from_secs(1));
        Self { status, kind, code: None, message: message.into(), param: None, retry_after }
    }

    /// Adds a machine-readable code.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Names the request field blamed.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets the wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}
