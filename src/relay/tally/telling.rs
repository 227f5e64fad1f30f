//! What is told of a request and its attempts where people look: its trace, a line in the log, the metrics of
//! OpenTelemetry's conventions.

use super::Tally;
use crate::decisions::Outcome;
use crate::relay::account::{Account, Charged, End};
use crate::telemetry::scope;
use crate::trace::{Ending, Section, provider_word};
use llm_router_actors::ledger::NotDurable;
use llm_router_actors::metrics::{Attempted, Exemplar};
use llm_router_logic::cost::entry::Outcome as Ended;
use llm_router_logic::time::{Moment, millis};
use std::sync::Arc;
use std::time::Duration;

impl Tally {
    /// An attempt has come to its `end`.
    pub(super) fn tell_attempt(&mut self, account: &Account, charged: &Charged, end: End) {
        let step = &account.step;
        let (model, finish) = account.said();
        let cancelled = end.outcome == Ended::Cancelled;
        let ending = Ending {
            usage: charged.usage,
            estimated: charged.estimated,
            cost: charged.cost,
            model,
            finish,
            cancelled,
        };
        self.trail.settled(&step.backend, end.now, ending);
        let fault = account.fault();
        let error = match (fault.is_empty(), cancelled) {
            (false, _) => fault,
            (true, true) => "cancelled",
            (true, false) => "",
        };
        let usage = if charged.estimated { (0, 0) } else { charged_tokens(charged) };
        self.sources.handle.metrics().gen_ai.count(&Attempted {
            operation: self.operation,
            provider: provider_word(self.sources.snapshot.view.backends[step.index].spec.kind),
            backend: step.backend.as_str(),
            model: &step.model,
            error,
            duration: end.now.since(account.started()),
            ttft: account.ttft(),
            tokens: usage,
        });
    }

    /// The ledger was waited for since `began`.
    pub(super) fn tell_ledger(&mut self, began: Moment, written: Result<(), NotDurable>) {
        let now = self.now();
        let error = written.err().map(|why| match why {
            NotDurable::Broken => "broken",
            NotDurable::Slow => "slow",
        });
        if error.is_some() || now > began {
            self.trail.section(Section::new("ledger", began, now).failed(error));
        }
    }

    /// The request has ended and is booked.
    pub(super) fn tell(&mut self, duration: Duration) {
        let context = Arc::clone(self.trail.context());
        let record = &self.record;
        scope::of(&context, || {
            let backend = record.backend.as_ref().map_or("none", |backend| backend.as_str());
            let (status, attempts, duration_ms) = (record.status, record.attempts.len(), millis(duration));
            match record.outcome {
                Outcome::Served | Outcome::Running => {
                    tracing::debug!(backend, status, attempts, duration_ms, "request served");
                }
                Outcome::Cancelled => {
                    tracing::info!(
                        backend,
                        status,
                        attempts,
                        duration_ms,
                        "the client went away before its answer"
                    );
                }
                Outcome::Failed if status >= 500 => {
                    let error = self.error.unwrap_or_default();
                    tracing::warn!(backend, status, error, attempts, duration_ms, "request not served");
                }
                Outcome::Failed => {
                    let error = self.error.unwrap_or_default();
                    tracing::info!(backend, status, error, attempts, duration_ms, "request refused");
                }
            }
        });
        if !self.trail.end(&self.record, self.error) {
            return;
        }
        let metrics = self.sources.handle.metrics();
        let label = self.record.backend.as_ref().map_or("none", |backend| backend.as_str());
        let exemplar = |value: f64| Exemplar {
            trace_id: context.trace_id().to_string(),
            value,
            at_ms: self.sources.handle.clock().unix_ms(),
        };
        let whole = exemplar(duration.as_secs_f64());
        metrics.exemplars.note("llm_router_request_duration_seconds", label, whole);
        if let Some(ms) = self.record.ttft_ms {
            let first = exemplar(Duration::from_millis(ms).as_secs_f64());
            metrics.exemplars.note("llm_router_time_to_first_token_seconds", label, first);
        }
    }
}

fn charged_tokens(charged: &Charged) -> (u64, u64) {
    (charged.usage.total_input(), charged.usage.total_output())
}
