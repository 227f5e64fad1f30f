//! One log line: for people, or as a JSON object.
//!
//! A line of a request ends with `trace_id`, `span_id` and, once there is one, `decision`.

use super::scope;
use crate::config::LogFormat;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether lines are JSON: the file may say so after the first lines were written.
static JSON: AtomicBool = AtomicBool::new(false);

/// From now on lines are written so.
pub(super) fn write_as(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Writes lines.
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if JSON.load(Ordering::Relaxed) {
            return json(writer, event);
        }
        human(ctx, writer, event)
    }
}

fn human<S, N>(ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    SystemTime.format_time(&mut writer)?;
    let level = event.metadata().level();
    if writer.has_ansi_escapes() {
        let colour = match *level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG => 34,
            Level::TRACE => 35,
        };
        write!(writer, " \x1b[{colour}m{level:>5}\x1b[0m ")?;
    } else {
        write!(writer, " {level:>5} ")?;
    }
    ctx.field_format().format_fields(writer.by_ref(), event)?;
    let told = scope::current(|request| {
        write!(writer, " trace_id={} span_id={}", request.trace_id(), request.span_id())?;
        request.decision().map_or(Ok(()), |decision| write!(writer, " decision={decision}"))
    });
    told.unwrap_or(Ok(()))?;
    writeln!(writer)
}

fn json(mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    let mut object = Map::new();
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    object.insert("timestamp".to_owned(), time.into());
    object.insert("level".to_owned(), event.metadata().level().as_str().into());
    object.insert("target".to_owned(), event.metadata().target().into());
    event.record(&mut Fields(&mut object));
    scope::current(|request| {
        object.insert("trace_id".to_owned(), request.trace_id().to_string().into());
        object.insert("span_id".to_owned(), request.span_id().to_string().into());
        if let Some(decision) = request.decision() {
            object.insert("decision".to_owned(), decision.into());
        }
    });
    writeln!(writer, "{}", Value::Object(object))
}

/// The fields of an event as members of an object.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}
