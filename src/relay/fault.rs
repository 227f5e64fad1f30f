//! What a client is told when its request could not be served.

use super::Call;
use llm_router_actors::ledger::NotDurable;
use llm_router_logic::capability::{JSON, TOOLS, VISION};
use llm_router_logic::fault::{ApiError, ErrorKind, Fault};
use llm_router_logic::ids::BackendId;
use llm_router_logic::request::{ANY_MODEL, Request};
use llm_router_logic::route::eligible::Refusal;
use llm_router_logic::route::{Plan, Step};
use llm_router_logic::time::Moment;
use llm_router_logic::wire::{self, Dialect, Operation};
use std::time::Duration;

/// What a client is told of a fault at `step`.
pub(super) fn told(fault: &Fault, step: Option<&Step>) -> ApiError {
    let mut error = wire::client_error(fault);
    if let Some(step) = step {
        error.message = format!("backend `{}`: {}", step.backend, error.message);
    }
    error
}

/// The last attempt's error where the retry budget allows no further one.
pub(super) fn beyond_retry_budget(mut error: ApiError) -> ApiError {
    error.message.push_str("; no other backend was tried: the retry budget is used up");
    error.with_code("retry_budget_exhausted")
}

/// Wait suggested to a client while the ledger cannot be written.
const LEDGER_RETRY: Duration = Duration::from_secs(5);

/// What a client is told where what it asks for could not be written down.
pub(super) fn not_durable(why: NotDurable, step: &Step) -> ApiError {
    let text =
        format!("backend `{}` is paid by the token and {why}: nothing is spent unrecorded", step.backend);
    ApiError::new(ErrorKind::Unavailable, text).with_code("ledger_unavailable").with_retry_after(LEDGER_RETRY)
}

/// What a client is told when the plan is empty: 404 where nobody serves the model, 400 where the
/// request fits no backend as configured (with the field that asks too much), else 503 with the reasons.
pub(super) fn nothing_can_serve(
    call: &Call,
    request: &Request,
    plan: &Plan,
    now: Moment,
    wait: impl Fn(&BackendId) -> Option<Duration>,
) -> ApiError {
    if let Some(error) = not_allowed(request, plan) {
        return error;
    }
    let told: Vec<&(BackendId, Refusal)> = plan
        .refused
        .iter()
        .filter(|(_, refusal)| {
            !matches!(
                refusal,
                Refusal::ModelNotServed
                    | Refusal::ModelNotAllowed
                    | Refusal::BackendNotAllowed
                    | Refusal::NotPinned { .. }
            )
        })
        .collect();
    if told.is_empty() {
        let what = match (&request.model, &request.hints.backend) {
            (Some(model), Some(backend)) => format!("backend `{backend}` does not serve model `{model}`"),
            (None, Some(backend)) => format!("there is no backend `{backend}`"),
            (Some(model), None) => format!("no backend serves model `{model}`"),
            (None, None) => "no backend serves any model".to_owned(),
        };
        return ApiError::new(ErrorKind::NotFound, format!("{what}; GET /v1/models lists what is served"))
            .with_code("model_not_found")
            .with_param("model");
    }
    let reasons: Vec<String> =
        told.iter().map(|(backend, refusal)| format!("{backend}: {refusal}")).collect();
    let reasons = reasons.join("; ");
    if let Some((_, first)) = told.iter().find(|_| !told.iter().any(|(_, refusal)| refusal.may_pass())) {
        let code = match first {
            Refusal::ContextWindow { .. } => "context_length_exceeded",
            other => other.code(),
        };
        let text = format!("no backend can serve this request ({reasons})");
        let field = match first {
            Refusal::MissingCapability { missing } => Some((field_needing(call, missing), missing)),
            _ => None,
        };
        // Two of the dialects have no place for a field but the text.
        return match field {
            Some((field, missing)) => {
                let text = format!("{text}: `{field}` needs `{missing}`");
                ApiError::new(ErrorKind::InvalidRequest, text).with_param(field)
            }
            None => ApiError::new(ErrorKind::InvalidRequest, text),
        }
        .with_code(code);
    }
    if let Some(error) = out_of_budget(&told) {
        return error;
    }
    let retry_after = |(backend, refusal): &(BackendId, Refusal)| match refusal {
        Refusal::QueueTooLong { .. } => wait(backend),
        refusal => refusal.retry_after(now),
    };
    let retry_after = plan.refused.iter().filter_map(retry_after).min();
    let error = ApiError::new(ErrorKind::Unavailable, format!("no backend can serve this now ({reasons})"))
        .with_code("no_backend_available");
    match retry_after {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    }
}

/// 429 where money stands against every provider and nothing else could serve, 400 where only a price is missing.
fn out_of_budget(told: &[&(BackendId, Refusal)]) -> Option<ApiError> {
    let is_exhausted = |refusal: &Refusal| matches!(refusal, Refusal::BudgetExhausted { .. });
    if !told.iter().all(|(_, refusal)| is_exhausted(refusal) || *refusal == Refusal::Unpriced) {
        return None;
    }
    let reasons: Vec<String> =
        told.iter().map(|(backend, refusal)| format!("{backend}: {refusal}")).collect();
    let text = format!("no backend can serve this request ({})", reasons.join("; "));
    Some(if told.iter().any(|(_, refusal)| is_exhausted(refusal)) {
        ApiError::new(ErrorKind::RateLimit, text).with_code("insufficient_quota")
    } else {
        ApiError::new(ErrorKind::InvalidRequest, text).with_code("unpriced").with_param("model")
    })
}

/// 403 where nothing but the rights of the client's key stands against the request.
fn not_allowed(request: &Request, plan: &Plan) -> Option<ApiError> {
    let is_right =
        |refusal: &Refusal| matches!(refusal, Refusal::ModelNotAllowed | Refusal::BackendNotAllowed);
    let silent = |refusal: &Refusal| matches!(refusal, Refusal::ModelNotServed | Refusal::NotPinned { .. });
    let mut refusals = plan.refused.iter().map(|(_, refusal)| refusal).filter(|refusal| !silent(refusal));
    let first = refusals.next().filter(|refusal| is_right(refusal))?;
    if !refusals.all(is_right) {
        return None;
    }
    let model = request.model.as_deref().unwrap_or(ANY_MODEL);
    let (what, param) = match (first, &request.hints.backend) {
        (Refusal::BackendNotAllowed, Some(backend)) => (format!("backend `{backend}`"), None),
        _ => (format!("model `{model}`"), Some("model")),
    };
    let text = format!("your API key may not use {what}; GET /v1/models lists what it may use");
    let error = ApiError::new(ErrorKind::Permission, text).with_code(first.code());
    Some(match param {
        Some(param) => error.with_param(param),
        None => error,
    })
}

/// The field of the client's request that asks for a capability.
fn field_needing(call: &Call, capability: &str) -> &'static str {
    if !call.inspected.needs.contains(capability) {
        return "x-llm-router-capabilities";
    }
    match (capability, call.dialect, call.operation) {
        (TOOLS, ..) => "tools",
        (VISION, Dialect::Gemini, _) => "contents",
        (VISION, _, Operation::Responses) => "input",
        (VISION, ..) => "messages",
        (JSON, Dialect::Anthropic, _) => "output_config",
        (JSON, Dialect::Gemini, _) => "generationConfig.responseMimeType",
        (JSON, _, Operation::Responses) => "text.format",
        (JSON, ..) => "response_format",
        // A chat, a completion or an embedding is asked of the model.
        _ => "model",
    }
}
