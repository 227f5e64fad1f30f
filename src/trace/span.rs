//! One span, put together: bounded in everything.

use super::{Context, wall};
use llm_router_logic::fault::ErrorKind;
use llm_router_logic::time::Moment;
use opentelemetry::trace::{Event, Link, SpanId, SpanKind, Status};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use std::borrow::Cow;

/// Attributes of one span or event.
const ATTRIBUTES_MAX: usize = 64;
/// Events of one span.
const EVENTS_MAX: usize = 48;
/// Bytes of one attribute's text.
const TEXT_BYTES_MAX: usize = 256;
/// Entries of one list.
const LIST_MAX: usize = 16;

/// A span in the making.
pub(super) struct Span {
    data: SpanData,
}

impl Span {
    /// The span of a whole request, which ended now.
    pub(super) fn request(context: &Context, sampled: bool, ended: Moment) -> Self {
        let (name, kind) = match context.copy_of() {
            None => (Cow::Owned(format!("POST {}", context.route())), SpanKind::Server),
            Some(_) => (Cow::Borrowed("shadow copy"), SpanKind::Internal),
        };
        let mut span = Self::new(context, sampled, context.span_id(), name, kind);
        if let Some(of) = context.copy_of() {
            span.data.links.links.push(Link::with_context(of.clone()));
        }
        span.data.parent_span_id = context.parent().unwrap_or(SpanId::INVALID);
        span.data.parent_span_is_remote = context.parent().is_some();
        span.data.end_time = wall(context, ended);
        if context.copy_of().is_none() {
            span.text("http.request.method", "POST");
        }
        span.text("http.route", context.route());
        if let Some(decision) = context.decision() {
            span.text("llm_router.decision.id", decision);
        }
        span
    }

    /// A span within the request's.
    pub(super) fn child(
        context: &Context,
        sampled: bool,
        id: SpanId,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        (started, ended): (Moment, Moment),
    ) -> Self {
        let mut span = Self::new(context, sampled, id, name.into(), kind);
        span.data.parent_span_id = context.span_id();
        span.data.start_time = wall(context, started);
        span.data.end_time = wall(context, ended.max(started));
        span
    }

    fn new(context: &Context, sampled: bool, id: SpanId, name: Cow<'static, str>, kind: SpanKind) -> Self {
        let data = SpanData {
            span_context: context.of_span(id, sampled),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: kind,
            name,
            start_time: context.wall(),
            end_time: context.wall(),
            attributes: Vec::with_capacity(24),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("llm-router")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        };
        Self { data }
    }

    fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        if self.data.attributes.len() < ATTRIBUTES_MAX {
            self.data.attributes.push(KeyValue::new(key, value));
        } else {
            self.data.dropped_attributes_count += 1;
        }
    }

    pub(super) fn text(&mut self, key: &'static str, text: &str) {
        self.put(key, cut(text, TEXT_BYTES_MAX).to_owned());
    }

    /// Text with a bound of its own.
    pub(super) fn long_text(&mut self, key: &'static str, text: &str, bytes_max: usize) {
        self.put(key, cut(text, bytes_max).to_owned());
    }

    pub(super) fn number(&mut self, key: &'static str, number: i64) {
        self.put(key, number);
    }

    /// A count that the wire holds in one bit less.
    pub(super) fn count(&mut self, key: &'static str, count: u64) {
        self.put(key, i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn float(&mut self, key: &'static str, number: f64) {
        self.put(key, number);
    }

    pub(super) fn flag(&mut self, key: &'static str, is: bool) {
        self.put(key, is);
    }

    pub(super) fn texts<'a>(&mut self, key: &'static str, texts: impl Iterator<Item = &'a str>) {
        let texts: Vec<StringValue> =
            texts.take(LIST_MAX).map(|text| cut(text, TEXT_BYTES_MAX).to_owned().into()).collect();
        self.put(key, Value::Array(Array::String(texts)));
    }

    /// Something that was the case at `at`.
    pub(super) fn event(
        &mut self,
        context: &Context,
        name: &'static str,
        at: Moment,
        mut attributes: Vec<KeyValue>,
    ) {
        let events: &mut SpanEvents = &mut self.data.events;
        if events.events.len() >= EVENTS_MAX {
            events.dropped_count += 1;
            return;
        }
        attributes.truncate(ATTRIBUTES_MAX);
        events.events.push(Event::new(name, wall(context, at), attributes, 0));
    }

    /// It came to a bad end: `kind` is one of a few words, `why` in words of ours. `is_ours` = the fault is not
    /// the client's, so that the whole span counts as an error.
    pub(super) fn fail(&mut self, kind: &str, why: &str, is_ours: bool) {
        self.text("error.type", kind);
        if is_ours {
            self.data.status = Status::error(cut(why, TEXT_BYTES_MAX).to_owned());
        }
    }

    pub(super) fn into_data(self) -> SpanData {
        self.data
    }
}

/// As an attribute of an event.
pub(super) fn text(key: &'static str, text: &str) -> KeyValue {
    KeyValue::new(key, cut(text, TEXT_BYTES_MAX).to_owned())
}

/// The word of an error that a client was told.
pub(crate) fn error_word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest => "invalid_request",
        ErrorKind::Authentication => "authentication",
        ErrorKind::Permission => "permission",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Timeout => "timeout",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::RateLimit => "rate_limit",
        ErrorKind::Internal => "internal",
        ErrorKind::Upstream => "upstream",
        ErrorKind::Unavailable => "unavailable",
    }
}

/// At most `bytes_max` bytes of `text`, whole characters only.
fn cut(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("grüße", 3), "gr");
        assert_eq!(cut("grüße", 4), "grü");
        assert_eq!(cut("short", 256), "short");
    }
}
