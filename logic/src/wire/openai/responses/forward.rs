//! What a look at a responses event or body tells, where it is passed through.

use crate::cost::usage::Usage;
use crate::fault::UpstreamError;
use crate::wire::error::status_of;
use crate::wire::openai::read_usage;
use crate::wire::reply::ReplyError;
use serde_json::Value;

/// What the look told.
#[derive(Debug, Default)]
pub(in crate::wire) struct Look {
    pub(in crate::wire) content: bool,
    pub(in crate::wire) usage: Option<Usage>,
    pub(in crate::wire) stopped: bool,
}

/// Looks into one event of a stream.
pub(in crate::wire) fn event(event: &Value) -> Result<Look, ReplyError> {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "error" => Err(failed(event)),
        "response.failed" => Err(failed(event.pointer("/response/error").unwrap_or(event))),
        "response.completed" | "response.incomplete" => {
            let usage = event.pointer("/response/usage").and_then(read_usage);
            Ok(Look { content: false, usage, stopped: true })
        }
        _ => {
            let delta =
                event.get("delta").is_some_and(|delta| delta.as_str().is_none_or(|text| !text.is_empty()));
            let added = kind == "response.output_item.added"
                && event
                    .pointer("/item/type")
                    .and_then(Value::as_str)
                    .is_some_and(|kind| kind.ends_with("_call"));
            Ok(Look { content: delta || added, usage: None, stopped: false })
        }
    }
}

/// Looks into a whole body.
pub(in crate::wire) fn body(body: &Value) -> Result<Look, ReplyError> {
    match body.get("status").and_then(Value::as_str) {
        Some("failed") => Err(failed(body.get("error").unwrap_or(body))),
        _ if body.get("output").is_none() => {
            Err(ReplyError::Malformed("the answer has no `output`".to_owned()))
        }
        _ => Ok(Look { content: true, usage: body.get("usage").and_then(read_usage), stopped: true }),
    }
}

fn failed(error: &Value) -> ReplyError {
    let word = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
    let error = UpstreamError {
        kind: word("type").filter(|kind| kind != "error"),
        code: word("code"),
        message: word("message").unwrap_or_else(|| "the response failed".to_owned()),
        param: word("param"),
    };
    ReplyError::Upstream { status: status_of(&error), error }
}
