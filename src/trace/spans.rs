//! The spans of a request, from its decision record and what was noted of it.
//!
//! Names and meanings are listed in docs/TRACES.md.

use super::note::{Attempt, Section, Trail};
use super::span::{Span, text};
use super::{Context, Place, Tracer};
use crate::decisions::{Decision, Outcome};
use llm_router_logic::backend::Kind;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;
use llm_router_logic::route::Step;
use llm_router_logic::time::Moment;
use llm_router_logic::wire::{Dialect, Operation};
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use std::time::Duration;

/// Candidates and refusals told of a decision.
const TOLD_MAX: usize = 16;

impl Trail {
    /// The request has ended as `record` says. Returns whether it is kept, so that metrics may point to it.
    pub(crate) fn end(&mut self, record: &Decision, error: Option<&'static str>) -> bool {
        let Some(tracer) = self.tracer.take() else { return false };
        let settings = &tracer.settings;
        let failed = record.status >= 500 || self.attempts.iter().any(|attempt| attempt.fault.is_some());
        let slow_token =
            record.ttft_ms.is_some_and(|ms| Duration::from_millis(ms) > settings.slow_first_token);
        let slow = slow_token || Duration::from_millis(record.duration_ms) > settings.slow;
        let kept = match self.context.copy_of() {
            // A copy is no request: it is told of beside the one it copies, or not at all.
            Some(_) => self.context.is_sampled().then_some(true),
            None => tracer.keep(&self.context, failed, slow),
        };
        let Some(sampled) = kept else { return false };
        let now = tracer.clock.now();
        let mut spans = Vec::with_capacity(2 + self.sections.len() + self.attempts.len());
        spans.push(self.request(&tracer, record, error, sampled, now));
        for section in self.context.cache().into_iter().chain(&self.sections) {
            let span = section_span(&tracer, &self.context, section, sampled);
            spans.push(if section.name == "plan" {
                decided(&self.context, span, section, record)
            } else {
                span
            });
        }
        for attempt in &self.attempts {
            spans.push(self.attempt_span(&tracer, attempt, record, sampled, now));
        }
        tracer.send(spans);
        true
    }

    fn request(
        &self,
        tracer: &Tracer,
        record: &Decision,
        error: Option<&'static str>,
        sampled: bool,
        now: Moment,
    ) -> Span {
        let mut span = Span::request(&self.context, sampled, now);
        let circumstances = &record.circumstances;
        match &circumstances.shadow {
            None => span.number("http.response.status_code", record.status.into()),
            Some(name) => span.text("llm_router.shadow", name),
        }
        if let Some(of) = &circumstances.shadow_of {
            span.text("llm_router.shadow_of", of);
        }
        if let Some(from) = circumstances.answered_from {
            span.text("llm_router.answered_from", from.as_str());
        }
        if let Some(of) = &circumstances.answer_of {
            span.text("llm_router.answer_of", of);
        }
        span.text("llm_router.node", tracer.node.as_str());
        span.text("llm_router.region", tracer.region.as_str());
        if !self.asked.tenant.is_empty() {
            span.text("llm_router.tenant", &self.asked.tenant);
        }
        if let Some(operation) = self.asked.operation {
            span.text("gen_ai.operation.name", operation);
        }
        span.text("gen_ai.request.model", &record.model);
        span.flag("gen_ai.request.stream", self.asked.stream);
        chosen(&mut span, record);
        if record.usage != Usage::default() {
            usage(&mut span, &record.usage, record.usage_estimated);
        }
        if let Some(ms) = record.ttft_ms {
            span.float("gen_ai.response.time_to_first_chunk", ms as f64 / 1_000.0);
        }
        span.count("llm_router.attempts", record.attempts.len() as u64);
        money(&mut span, "llm_router.cost_usd", record.cost);
        money(&mut span, "llm_router.external_cost_usd", record.external_cost);
        if let Some(stopped) = record.stopped {
            span.text("llm_router.retries.stopped", stopped.as_str());
        }
        let experiments = circumstances.experiments.iter();
        if experiments.len() > 0 {
            span.texts("llm_router.experiments", experiments.map(String::as_str));
        }
        if let (Some(body), Some(most)) = (&self.asked.body, tracer.settings.body_bytes) {
            span.long_text("llm_router.request.body", body, most);
        }
        match record.outcome {
            Outcome::Served | Outcome::Running => {}
            Outcome::Cancelled => span.fail("cancelled", "the client went away", false),
            Outcome::Failed => {
                let word = error.unwrap_or("unknown");
                let why = match circumstances.shadow {
                    None => format!("told {} to the client", record.status),
                    Some(_) => "the copy failed".to_owned(),
                };
                span.fail(word, &why, record.status >= 500);
            }
        }
        span
    }

    fn attempt_span(
        &self,
        tracer: &Tracer,
        attempt: &Attempt,
        record: &Decision,
        sampled: bool,
        now: Moment,
    ) -> Span {
        let step = &attempt.step;
        let place = tracer.place(&step.backend);
        let operation = self.asked.operation.unwrap_or("chat");
        let name = format!("{operation} {}", step.model);
        let times = (attempt.started, attempt.ended.unwrap_or(now));
        let mut span = Span::child(&self.context, sampled, attempt.span, name, SpanKind::Client, times);
        span.text("gen_ai.operation.name", operation);
        if let Some(place) = &place {
            span.text("gen_ai.provider.name", provider_word(place.kind));
        }
        span.text("gen_ai.request.model", &step.model);
        span.flag("gen_ai.request.stream", self.asked.stream);
        match &attempt.through {
            None => at(&mut span, place.as_ref()),
            Some((peer, address)) => {
                span.text("llm_router.via", peer.as_str());
                let address = address.as_deref().and_then(|address| address.rsplit_once(':'));
                if let Some((host, port)) = address {
                    span.text("server.address", host);
                    span.number("server.port", port.parse().unwrap_or_default());
                }
            }
        }
        span.text("llm_router.backend", step.backend.as_str());
        span.text("llm_router.reason", step.reason.as_str());
        span.text("llm_router.decision.id", &record.id);
        span.float("llm_router.queue_ms", attempt.queued.as_secs_f64() * 1_000.0);
        span.float("llm_router.fact_age_ms", step.fact_age().as_secs_f64() * 1_000.0);
        money(&mut span, "llm_router.predicted_cost_usd", step.predicted_cost());
        if attempt.is_hedge {
            span.flag("llm_router.hedge", true);
        }
        if let Some(ttft) = attempt.ttft {
            span.float("gen_ai.response.time_to_first_chunk", ttft.as_secs_f64());
        }
        if let Some(ending) = &attempt.ending {
            if let Some(model) = &ending.model {
                span.text("gen_ai.response.model", model);
            }
            if let Some(finish) = &ending.finish {
                span.texts("gen_ai.response.finish_reasons", finish.split(','));
            }
            if ending.usage != Usage::default() {
                usage(&mut span, &ending.usage, ending.estimated);
            }
            money(&mut span, "llm_router.cost_usd", ending.cost);
            if ending.cancelled && attempt.fault.is_none() {
                span.text("error.type", "cancelled");
            }
        }
        if let Some((word, status, why)) = &attempt.fault {
            if let Some(status) = status {
                span.number("http.response.status_code", (*status).into());
            }
            span.fail(word, why, true);
        }
        span
    }
}

fn section_span(tracer: &Tracer, context: &Context, section: &Section, sampled: bool) -> Span {
    let times = (section.started, section.ended);
    let id = tracer.ids.span();
    let mut span = Span::child(context, sampled, id, section.name, SpanKind::Internal, times);
    for (key, word) in &section.words {
        span.text(key, word);
    }
    if let Some(error) = section.error {
        span.fail(error, error, true);
    }
    span
}

/// The decision, on the span of the plan: what was chosen and why, what it was judged by, who was refused.
fn decided(context: &Context, mut span: Span, section: &Section, record: &Decision) -> Span {
    span.text("llm_router.decision.id", &record.id);
    span.text("llm_router.strategy", record.strategy.as_str());
    chosen(&mut span, record);
    span.count("llm_router.predicted_input_tokens", record.predicted_input_tokens.into());
    span.count("llm_router.predicted_output_tokens", record.predicted_output_tokens.into());
    span.count("llm_router.candidates", record.candidates.len() as u64);
    span.count("llm_router.refused", record.refused.len() as u64);
    for (rank, step) in record.candidates.iter().take(TOLD_MAX).enumerate() {
        span.event(context, "candidate", section.ended, candidate(rank, step));
    }
    for (backend, why) in record.refused.iter().take(TOLD_MAX) {
        let told = vec![
            text("llm_router.backend", backend.as_str()),
            text("llm_router.why", why.refusal.code()),
            text("llm_router.why.told", &why.text),
        ];
        span.event(context, "refused", section.ended, told);
    }
    for passed in record.passed_over.iter().take(TOLD_MAX) {
        let told = vec![text("llm_router.backend", passed.backend.as_str())];
        span.event(context, "passed_over", section.ended, told);
    }
    span
}

/// One candidate with the terms it was judged by.
fn candidate(rank: usize, step: &Step) -> Vec<KeyValue> {
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let mut told = vec![
        KeyValue::new("llm_router.rank", i64::try_from(rank + 1).unwrap_or(i64::MAX)),
        text("llm_router.backend", step.backend.as_str()),
        text("gen_ai.request.model", &step.model),
        text("llm_router.reason", step.reason.as_str()),
        KeyValue::new("llm_router.fact_age_ms", ms(step.fact_age())),
    ];
    let costs = [
        ("llm_router.predicted_cost_usd", step.predicted_cost()),
        ("llm_router.cost_per_1k_usd", step.cost_per_1k()),
    ];
    told.extend(costs.into_iter().filter_map(|(key, cost)| Some(KeyValue::new(key, cost?.as_usd()))));
    told.extend(step.predicted_ttft().map(|ttft| KeyValue::new("llm_router.predicted_ttft_ms", ms(ttft))));
    told.push(KeyValue::new("llm_router.score", step.total().value));
    told.extend(step.via.as_ref().map(|via| text("llm_router.via", via.as_str())));
    told.extend(step.terms().list().map(|term| KeyValue::new(term_key(term.name), term.value)));
    told
}

/// Attributes of terms, so that none of them needs memory of its own.
fn term_key(name: &'static str) -> &'static str {
    match name {
        "egress" => "llm_router.term.egress_usd",
        "rtt" => "llm_router.term.rtt_ms",
        "ttft_unloaded" => "llm_router.term.ttft_unloaded_ms",
        "wait" => "llm_router.term.wait_ms",
        "tpot" => "llm_router.term.tpot_ms",
        "completion" => "llm_router.term.completion_ms",
        "load" => "llm_router.term.load",
        "places" => "llm_router.term.places",
        "meets_slo" => "llm_router.term.meets_slo",
        "meets_deadline" => "llm_router.term.meets_deadline",
        "sticky" => "llm_router.term.sticky",
        "prefix" => "llm_router.term.prefix",
        other => other,
    }
}

fn chosen(span: &mut Span, record: &Decision) {
    let first = record.candidates.first();
    let backend = record.backend.as_ref().or(first.map(|step| &step.backend));
    if let Some(backend) = backend {
        span.text("llm_router.backend", backend.as_str());
    }
    if let Some(reason) = record.reason.or(first.map(|step| step.reason)) {
        span.text("llm_router.reason", reason.as_str());
    }
    if let Some(model) = &record.backend_model {
        span.text("llm_router.backend_model", model);
    }
}

fn usage(span: &mut Span, usage: &Usage, estimated: bool) {
    // The conventions count cached tokens as input and reasoning as output, too.
    span.count("gen_ai.usage.input_tokens", usage.total_input());
    span.count("gen_ai.usage.output_tokens", usage.total_output());
    let classes = [
        ("gen_ai.usage.cache_read.input_tokens", usage.cached_read),
        ("gen_ai.usage.cache_creation.input_tokens", usage.cache_write + usage.cache_write_1h),
        ("gen_ai.usage.reasoning.output_tokens", usage.reasoning),
    ];
    for (key, tokens) in classes.into_iter().filter(|(_, tokens)| *tokens > 0) {
        span.count(key, tokens);
    }
    if estimated {
        span.flag("llm_router.usage_estimated", true);
    }
}

fn money(span: &mut Span, key: &'static str, cost: Option<Money>) {
    if let Some(cost) = cost {
        span.float(key, cost.as_usd());
    }
}

/// Where a backend is.
pub(super) fn at(span: &mut Span, place: Option<&Place>) {
    let Some(place) = place.filter(|place| !place.host.is_empty()) else { return };
    span.text("server.address", &place.host);
    if let Some(port) = place.port {
        span.number("server.port", port.into());
    }
}

/// OpenTelemetry's word for what is asked of a model.
pub(crate) fn operation_word(operation: Operation, dialect: Dialect) -> &'static str {
    match operation {
        Operation::Chat if dialect == Dialect::Gemini => "generate_content",
        Operation::Chat | Operation::Responses => "chat",
        Operation::Completion => "text_completion",
        Operation::Embedding => "embeddings",
        Operation::CountTokens => "count_tokens",
    }
}

/// OpenTelemetry's word for who answers; it has none for llama.cpp.
pub(crate) fn provider_word(kind: Kind) -> &'static str {
    match kind {
        Kind::OpenAi => "openai",
        Kind::Anthropic => "anthropic",
        Kind::Gemini => "gcp.gemini",
        Kind::Llama => "llama_cpp",
    }
}
