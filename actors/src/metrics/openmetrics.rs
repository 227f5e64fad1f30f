//! The figures as OpenMetrics 1.0 text, with exemplars; the classic format is the crate's.
//!
//! Differences from the classic text that matter here: a counter's family is named without `_total`, the text
//! ends with `# EOF`, and a bucket may point to a trace.

use super::exemplars::{Exemplar, Exemplars};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::fmt::Write;

/// What the text is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `families` as text.
pub fn encode(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut text = String::with_capacity(64 * 1024);
    for family in families {
        let kind = family.get_field_type();
        let word = match kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY | MetricType::UNTYPED => continue,
        };
        let name = match kind {
            MetricType::COUNTER => family.name().strip_suffix("_total").unwrap_or(family.name()),
            _ => family.name(),
        };
        line(&mut text, format_args!("# TYPE {name} {word}"));
        line(&mut text, format_args!("# HELP {name} {}", escaped(family.help())));
        for metric in family.get_metric() {
            let labels = labels(metric.get_label());
            match kind {
                MetricType::COUNTER => {
                    let value = number(metric.get_counter().get_value());
                    line(&mut text, format_args!("{name}_total{} {value}", braced(&labels)));
                }
                MetricType::HISTOGRAM => histogram(&mut text, name, &labels, metric, exemplars),
                _ => {
                    let value = number(metric.get_gauge().get_value());
                    line(&mut text, format_args!("{name}{} {value}", braced(&labels)));
                }
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn histogram(text: &mut String, name: &str, labels: &str, metric: &Metric, exemplars: &Exemplars) {
    let figures = metric.get_histogram();
    // A series with several labels has no exemplars.
    let label = match metric.get_label() {
        [one] => Some(one.value()),
        [] => Some(""),
        _ => None,
    };
    let shown = |least: f64, most: f64| label.and_then(|label| exemplars.within(name, label, least, most));
    let with = |bound: &str| {
        let comma = if labels.is_empty() { "" } else { "," };
        format!("{{{labels}{comma}le=\"{bound}\"}}")
    };
    let mut below = f64::NEG_INFINITY;
    for bucket in figures.get_bucket() {
        let bound = bucket.upper_bound();
        if bound.is_infinite() {
            continue;
        }
        let tail = shown(below, bound).map(told).unwrap_or_default();
        let count = bucket.cumulative_count();
        line(text, format_args!("{name}_bucket{} {count}{tail}", with(&number(bound))));
        below = bound;
    }
    let count = figures.get_sample_count();
    let tail = shown(below, f64::INFINITY).map(told).unwrap_or_default();
    line(text, format_args!("{name}_bucket{} {count}{tail}", with("+Inf")));
    line(text, format_args!("{name}_count{} {count}", braced(labels)));
    line(text, format_args!("{name}_sum{} {}", braced(labels), number(figures.get_sample_sum())));
}

fn told(exemplar: Exemplar) -> String {
    let Exemplar { trace_id, value, at_ms } = exemplar;
    format!(" # {{trace_id=\"{trace_id}\"}} {} {}.{:03}", number(value), at_ms / 1_000, at_ms % 1_000)
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(arguments);
    text.push('\n');
}

fn labels(labels: &[LabelPair]) -> String {
    let pair = |label: &LabelPair| format!("{}=\"{}\"", label.name(), escaped(label.value()));
    labels.iter().map(pair).collect::<Vec<_>>().join(",")
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A float always with its point, so that a bound reads the same wherever it is written.
fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        _ if value == f64::INFINITY => "+Inf".to_owned(),
        _ if value == f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => format!("{value:?}"),
    }
}
