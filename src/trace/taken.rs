//! The spans of a request that a peer's router sends through this one: its way in and the attempt it becomes.

use super::note::said;
use super::span::Span;
use super::spans::{at, provider_word};
use super::{Context, Tracer};
use http::HeaderMap;
use llm_router_logic::fault::Fault;
use llm_router_logic::ids::BackendId;
use llm_router_logic::time::Moment;
use opentelemetry::trace::{SpanId, SpanKind};
use std::sync::Arc;
use std::time::Duration;

/// The route of the relay's listener.
const ROUTE: &str = "/relay/v1/{backend}";

/// What is noted of a request taken for a peer; dropped, it has ended.
pub(crate) struct Taken {
    tracer: Arc<Tracer>,
    context: Arc<Context>,
    attempt: SpanId,
    backend: Option<BackendId>,
    model: String,
    peer: String,
    /// When the backend was asked.
    asked: Option<Moment>,
    ttft: Option<Duration>,
    ending: Option<(&'static str, Option<u16>, String)>,
    served: bool,
}

impl Tracer {
    /// A peer's request came in with `headers`.
    pub(crate) fn take(self: &Arc<Self>, headers: &HeaderMap, decision: &str) -> Taken {
        let context = self.begin(headers, ROUTE);
        context.decided(decision);
        Taken {
            tracer: Arc::clone(self),
            attempt: self.ids.span(),
            context,
            backend: None,
            model: String::new(),
            peer: String::new(),
            asked: None,
            ttft: None,
            ending: None,
            served: false,
        }
    }
}

impl Taken {
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// `backend` is asked for `model` now. Returns what it is told of the trace.
    pub(crate) fn asks(
        &mut self,
        backend: &BackendId,
        model: &str,
        peer: &str,
    ) -> Vec<(&'static str, String)> {
        self.backend = Some(backend.clone());
        (self.model, self.peer) = (model.to_owned(), peer.to_owned());
        self.asked = Some(self.tracer.clock.now());
        self.tracer.told(&self.context, self.attempt, backend, false)
    }

    /// The first bytes of an answer came.
    pub(crate) fn began(&mut self) {
        if let (None, Some(asked)) = (self.ttft, self.asked) {
            self.ttft = Some(self.tracer.clock.now().since(asked));
        }
    }

    /// It was refused at the door, in one word.
    pub(crate) fn refused(&mut self, why: &'static str) {
        self.ending.get_or_insert((why, None, "not taken".to_owned()));
    }

    /// The backend failed.
    pub(crate) fn failed(&mut self, fault: &Fault) {
        self.ending = Some(said(fault));
    }

    /// The whole answer went through.
    pub(crate) fn served(&mut self) {
        self.served = true;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Self { tracer, context, .. } = &*self;
        if !tracer.is_on() {
            return;
        }
        let now = tracer.clock.now();
        let settings = &tracer.settings;
        let slow = now.since(context.started()) > settings.slow
            || self.ttft.is_some_and(|ttft| ttft > settings.slow_first_token);
        let Some(sampled) = tracer.keep(context, self.ending.is_some(), slow) else { return };
        let mut request = Span::request(context, sampled, now);
        request.text("llm_router.node", tracer.node.as_str());
        request.text("llm_router.region", tracer.region.as_str());
        request.text("llm_router.peer", &self.peer);
        let mut spans = Vec::with_capacity(2);
        if let (Some(backend), Some(asked)) = (&self.backend, self.asked) {
            request.text("llm_router.backend", backend.as_str());
            let place = tracer.place(backend);
            let name = format!("relayed {}", self.model);
            let mut span = Span::child(context, sampled, self.attempt, name, SpanKind::Client, (asked, now));
            if let Some(place) = &place {
                span.text("gen_ai.provider.name", provider_word(place.kind));
            }
            span.text("gen_ai.request.model", &self.model);
            span.text("llm_router.backend", backend.as_str());
            at(&mut span, place.as_ref());
            if let Some(ttft) = self.ttft {
                span.float("gen_ai.response.time_to_first_chunk", ttft.as_secs_f64());
            }
            self.end(&mut span);
            spans.push(span);
        }
        self.end(&mut request);
        spans.push(request);
        tracer.send(spans);
    }
}

impl Taken {
    fn end(&self, span: &mut Span) {
        match &self.ending {
            Some((word, status, why)) => {
                if let Some(status) = status {
                    span.number("http.response.status_code", (*status).into());
                }
                span.fail(word, why, true);
            }
            None if !self.served => span.fail("cancelled", "the peer went away", false),
            None => {}
        }
    }
}
