//! The one table from what went wrong to what a client is told.

use llm_router_logic::fault::{ApiError, ErrorKind, Fault};
use llm_router_logic::request::Request;
use llm_router_logic::route::eligible::Refusal;
use llm_router_logic::route::{Plan, Step};
use llm_router_logic::time::Moment;

/// What a client is told of a fault at `step`.
pub(super) fn told(fault: &Fault, step: Option<&Step>) -> ApiError {
    let backend = step.map_or("the backend", |step| step.backend.as_str());
    let with_code =
        |kind, code: &str| ApiError::new(kind, format!("backend `{backend}`: {fault}")).with_code(code);
    match fault {
        Fault::Deadline => {
            ApiError::new(ErrorKind::Timeout, fault.to_string()).with_code("deadline_exceeded")
        }
        Fault::FirstByteTimeout(_) | Fault::IdleTimeout(_) => {
            with_code(ErrorKind::Timeout, "upstream_timeout")
        }
        Fault::QueueTimeout(_) => with_code(ErrorKind::Unavailable, "overloaded"),
        Fault::Connect(_) => with_code(ErrorKind::Upstream, "upstream_unreachable"),
        Fault::Broken(_) => with_code(ErrorKind::Upstream, "upstream_broken"),
        Fault::Malformed(_) => with_code(ErrorKind::Upstream, "upstream_malformed"),
        Fault::Status {
            status: 429,
            retry_after,
            ..
        } => {
            let error = with_code(ErrorKind::RateLimit, "upstream_rate_limited");
            match retry_after {
                Some(wait) => error.with_retry_after(*wait),
                None => error,
            }
        }
        // The router's own key or the operator's model list is wrong, which no client can mend.
        Fault::Status {
            status: 401 | 403, ..
        } => with_code(ErrorKind::Upstream, "upstream_refused_router"),
        Fault::Status { status: 404, .. } => with_code(ErrorKind::Upstream, "upstream_not_found"),
        Fault::Status {
            status: 413, error, ..
        } => client_fault(ErrorKind::TooLarge, 413, error),
        Fault::Status { status, error, .. } if (400..500).contains(status) => {
            client_fault(ErrorKind::InvalidRequest, *status, error)
        }
        Fault::Status {
            status: 503 | 529,
            retry_after,
            ..
        } => {
            let error = with_code(ErrorKind::Unavailable, "upstream_unavailable");
            match retry_after {
                Some(wait) => error.with_retry_after(*wait),
                None => error,
            }
        }
        Fault::Status { .. } => with_code(ErrorKind::Upstream, "upstream_error"),
    }
}

/// The upstream blames the request itself: its words are the ones that help.
fn client_fault(kind: ErrorKind, status: u16, error: &llm_router_logic::fault::UpstreamError) -> ApiError {
    let message = if error.message.is_empty() {
        "the backend refused the request"
    } else {
        &error.message
    };
    let mut told = ApiError::new(kind, message);
    told.status = status;
    told.code.clone_from(&error.code);
    told.param.clone_from(&error.param);
    told
}

/// What a client is told when the plan is empty: 404 where nobody serves the model, 400 where the
/// request fits no backend as configured, else 503 with the reasons.
pub(super) fn nothing_can_serve(request: &Request, plan: &Plan, now: Moment) -> ApiError {
    let told: Vec<_> = plan
        .refused
        .iter()
        .filter(|(_, refusal)| !matches!(refusal, Refusal::ModelNotServed | Refusal::NotPinned { .. }))
        .collect();
    if told.is_empty() {
        let what = match (&request.model, &request.hints.backend) {
            (Some(model), Some(backend)) => format!("backend `{backend}` does not serve model `{model}`"),
            (None, Some(backend)) => format!("there is no backend `{backend}`"),
            (Some(model), None) => format!("no backend serves model `{model}`"),
            (None, None) => "no backend serves any model".to_owned(),
        };
        return ApiError::new(
            ErrorKind::NotFound,
            format!("{what}; GET /v1/models lists what is served"),
        )
        .with_code("model_not_found")
        .with_param("model");
    }
    let reasons: Vec<String> = told
        .iter()
        .map(|(backend, refusal)| format!("{backend}: {refusal}"))
        .collect();
    let reasons = reasons.join("; ");
    if let Some((_, first)) = told
        .iter()
        .find(|_| !told.iter().any(|(_, refusal)| refusal.may_pass()))
    {
        let code = match first {
            Refusal::ContextWindow { .. } => "context_length_exceeded",
            other => other.code(),
        };
        return ApiError::new(
            ErrorKind::InvalidRequest,
            format!("no backend can serve this request ({reasons})"),
        )
        .with_code(code);
    }
    let retry_after = plan
        .refused
        .iter()
        .filter_map(|(_, refusal)| refusal.retry_after(now))
        .min();
    let error = ApiError::new(
        ErrorKind::Unavailable,
        format!("no backend can serve this now ({reasons})"),
    )
    .with_code("no_backend_available");
    match retry_after {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    }
}
