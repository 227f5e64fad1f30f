//! What is noted of a request while it runs: times and small values, no spans.
//!
//! Where nothing is traced nothing is noted.

use super::spans::operation_word;
use super::{Context, Tracer};
use crate::relay::Call;
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::fault::Fault;
use llm_router_logic::ids::{BackendId, NodeId};
use llm_router_logic::money::Money;
use llm_router_logic::route::Step;
use llm_router_logic::time::Moment;
use opentelemetry::trace::SpanId;
use std::sync::Arc;
use std::time::Duration;

/// Parts of a request that are noted; more are left out.
const SECTIONS_MAX: usize = 32;
/// Attempts noted: more than any policy allows.
const ATTEMPTS_MAX: usize = 16;

/// What is noted of one request; by default of none.
#[derive(Default)]
pub(crate) struct Trail {
    pub(super) tracer: Option<Arc<Tracer>>,
    pub(super) context: Arc<Context>,
    pub(super) sections: Vec<Section>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) asked: Asked,
}

/// What the client asked for.
#[derive(Default)]
pub(super) struct Asked {
    /// In OpenTelemetry's word.
    pub(super) operation: Option<&'static str>,
    pub(super) stream: bool,
    pub(super) tenant: String,
    /// The beginning of its body, where the configuration wants that shown.
    pub(super) body: Option<String>,
}

/// A part of a request's way that took its time.
#[derive(Debug)]
pub(crate) struct Section {
    pub(super) name: &'static str,
    pub(super) started: Moment,
    pub(super) ended: Moment,
    pub(super) words: Vec<(&'static str, String)>,
    pub(super) error: Option<&'static str>,
}

impl Section {
    /// `name` lasted from one moment to another.
    pub(crate) fn new(name: &'static str, started: Moment, ended: Moment) -> Self {
        Self { name, started, ended, words: Vec::new(), error: None }
    }

    /// With an attribute; never of a prompt or a secret.
    pub(crate) fn word(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.words.push((key, value.into()));
        self
    }

    /// It failed, in one word.
    pub(crate) fn failed(mut self, error: Option<&'static str>) -> Self {
        self.error = error;
        self
    }
}

/// An attempt at a backend.
pub(super) struct Attempt {
    pub(super) span: SpanId,
    pub(super) step: Step,
    pub(super) queued: Duration,
    pub(super) started: Moment,
    pub(super) ended: Option<Moment>,
    pub(super) is_hedge: bool,
    pub(super) ttft: Option<Duration>,
    /// The kind of fault, the status it came with, and what may be said of it.
    pub(super) fault: Option<(&'static str, Option<u16>, String)>,
    pub(super) ending: Option<Ending>,
    /// Where the peer's relay is, for an attempt through one.
    pub(super) through: Option<(NodeId, Option<Arc<str>>)>,
}

/// What an attempt came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    pub(crate) usage: Usage,
    pub(crate) estimated: bool,
    pub(crate) cost: Option<Money>,
    /// The model as the backend named it.
    pub(crate) model: Option<Arc<str>>,
    /// Why it stopped, in its own words, separated by commas.
    pub(crate) finish: Option<Arc<str>>,
    /// Whether another attempt was faster, or the client went away.
    pub(crate) cancelled: bool,
}

impl Trail {
    pub(super) fn new(tracer: Option<Arc<Tracer>>, context: Arc<Context>) -> Self {
        Self { tracer, context, sections: Vec::new(), attempts: Vec::new(), asked: Asked::default() }
    }

    /// Where the request stands.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Notes what is asked for; the body is looked at only where the configuration wants it shown.
    pub(crate) fn asked(&mut self, call: &Call) {
        let Some(tracer) = &self.tracer else { return };
        let body = tracer.settings.body_bytes.map(|most| {
            let end = call.body.len().min(most);
            String::from_utf8_lossy(&call.body[..end]).into_owned()
        });
        self.asked = Asked {
            operation: Some(operation_word(call.operation, call.dialect)),
            stream: call.inspected.stream,
            tenant: call.principal.tenant.to_string(),
            body,
        };
    }

    /// Notes a part of its way.
    pub(crate) fn section(&mut self, section: Section) {
        if self.tracer.is_some() && self.sections.len() < SECTIONS_MAX {
            self.sections.push(section);
        }
    }

    /// An attempt at `step` begins after it was `queued`. Returns what its backend is told.
    pub(crate) fn attempt(&mut self, step: &Step, queued: Duration, is_hedge: bool, snapshot: &Snapshot) {
        let Some(tracer) = &self.tracer else { return };
        if self.attempts.len() >= ATTEMPTS_MAX {
            return;
        }
        let relay = |peer: &NodeId| (peer.clone(), snapshot.view.relay_of(peer).cloned());
        self.attempts.push(Attempt {
            span: tracer.ids.span(),
            step: step.clone(),
            queued,
            started: tracer.clock.now(),
            ended: None,
            is_hedge,
            ttft: None,
            fault: None,
            ending: None,
            through: step.via.as_ref().map(relay),
        });
    }

    /// What the backend of `step` is told of the trace, by `tracer`, which is there also where nothing is
    /// noted.
    pub(crate) fn told(&self, tracer: &Tracer, step: &Step) -> Vec<(&'static str, String)> {
        let open = self.attempts.iter().rev().find(|attempt| attempt.step.backend == step.backend);
        let span = open.map_or_else(|| self.context.span_id(), |attempt| attempt.span);
        tracer.told(&self.context, span, &step.backend, step.via.is_some())
    }

    /// The latest attempt at `backend` that has not ended.
    fn open(&mut self, backend: &BackendId) -> Option<&mut Attempt> {
        let of = |attempt: &&mut Attempt| attempt.ending.is_none() && attempt.step.backend == *backend;
        self.attempts.iter_mut().rev().find(of)
    }

    /// It has begun to answer.
    pub(crate) fn first_token(&mut self, backend: &BackendId, ttft: Duration) {
        if let Some(attempt) = self.open(backend) {
            attempt.ttft.get_or_insert(ttft);
        }
    }

    /// It failed.
    pub(crate) fn failed(&mut self, backend: &BackendId, fault: &Fault) {
        if let Some(attempt) = self.open(backend) {
            attempt.fault = Some(said(fault));
        }
    }

    /// It is settled.
    pub(crate) fn settled(&mut self, backend: &BackendId, now: Moment, ending: Ending) {
        if let Some(attempt) = self.open(backend) {
            attempt.ended = Some(now);
            attempt.ending = Some(ending);
        }
    }
}

/// A fault in words of ours: a backend's own may quote a prompt or a key.
pub(super) fn said(fault: &Fault) -> (&'static str, Option<u16>, String) {
    let (status, why) = match fault {
        Fault::Status { status, .. } => (Some(*status), format!("status {status}")),
        Fault::Broken(_) => (None, "the response broke off".to_owned()),
        Fault::Malformed(_) => (None, "the response was malformed".to_owned()),
        Fault::Connect(_) => (None, "cannot connect".to_owned()),
        Fault::FirstByteTimeout(_) | Fault::IdleTimeout(_) | Fault::Deadline => (None, fault.to_string()),
    };
    (fault.label(), status, why)
}
