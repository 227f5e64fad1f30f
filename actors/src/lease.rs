//! A request's hold on a backend: taken before the attempt, given back with its outcome.

use crate::backend::{Ended, Msg};
use crate::clock::Clock;
use crate::gate::Slot;
use crate::snapshot::Door;
use crate::trial::Trial;
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::fault::Fault;
use llm_router_logic::guard::pace::Unread;
use llm_router_logic::time::Moment;
use std::time::Duration;

/// Wait after a 429 that names none.
const DEFAULT_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait believed: a backend cannot take itself out for longer than this by one header.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// One attempt's place at a backend. Ends with [`succeed`](Self::succeed) or [`fail`](Self::fail);
/// dropping it otherwise means the client went away, which says nothing about the backend's health.
#[derive(Debug)]
pub struct Lease {
    /// The place held; `None` where a peer holds one for us, and learns the outcome itself.
    place: Option<(Door, Slot)>,
    /// Where it is the trial of a half-open breaker.
    trial: Option<Trial>,
    clock: Clock,
    model: String,
    estimated_tokens: u32,
    /// Its prompt, while that is being read.
    prompt: Option<Unread>,
    started: Moment,
    ttft: Option<Duration>,
    output_tokens: u64,
    ended: bool,
}

impl Lease {
    pub(crate) fn new(door: Door, slot: Slot, clock: Clock, model: String, estimated_tokens: u32) -> Self {
        let started = clock.now();
        door.actor.send(Msg::Started { at: started });
        Self::begin(Some((door, slot)), clock, model, estimated_tokens)
    }

    /// A hold on a backend that is used through a peer: that peer's router takes the place, and its actor
    /// judges the backend by what comes of it. Here only the time is kept.
    pub(crate) fn through_peer(clock: Clock) -> Self {
        Self::begin(None, clock, String::new(), 0)
    }

    fn begin(place: Option<(Door, Slot)>, clock: Clock, model: String, estimated_tokens: u32) -> Self {
        let started = clock.now();
        let (trial, ttft, output_tokens, ended) = (None, None, 0, false);
        let prompt = None;
        Self { place, trial, clock, model, estimated_tokens, prompt, started, ttft, output_tokens, ended }
    }

    /// The same as the fleet's trial of a half-open breaker.
    pub(crate) fn on_trial(mut self, trial: Option<Trial>) -> Self {
        self.trial = trial;
        self
    }

    /// Notes that a prompt of `input_tokens` is sent now, so that decisions know what is still to be read there.
    pub fn sent(&mut self, input_tokens: u32) {
        if let (Some((door, _)), None) = (&self.place, self.prompt) {
            self.prompt = Some(door.gate.sent(input_tokens));
        }
    }

    /// Notes that the first content byte has come; later calls change nothing.
    pub fn first_token(&mut self) {
        if self.ttft.is_none() {
            let ttft = self.clock.now().since(self.started);
            if let Some((door, _)) = &self.place {
                door.gate.answered(self.prompt.take(), ttft);
            }
            self.ttft = Some(ttft);
        }
    }

    /// Time to first token, once known.
    pub fn ttft(&self) -> Option<Duration> {
        self.ttft
    }

    /// Notes output seen so far, so that an abandoned stream still counts towards throughput.
    pub fn saw_output(&mut self, tokens: u64) {
        self.output_tokens = tokens;
    }

    /// The backend answered in full.
    pub fn succeed(mut self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.output_tokens = usage.total_output();
            let actual = u32::try_from(usage.total_input() + usage.total_output()).unwrap_or(u32::MAX);
            if let Some((door, _)) = &self.place {
                door.gate.settle_tokens(self.estimated_tokens, actual);
            }
        }
        if let (Some((door, _)), None) = (&self.place, self.ttft) {
            door.gate.answered_whole(self.clock.now().since(self.started));
        }
        if let Some((door, _)) = &self.place {
            door.gate.served(&self.model, self.started);
        }
        self.end(Verdict::Served);
    }

    /// The attempt failed. A 429 closes the account's gate at once for as long as it asked, or the
    /// model's where limits are per model; a 503 with `Retry-After` closes it for the model.
    pub fn fail(mut self, fault: &Fault) {
        if let Some((door, _)) = &self.place {
            let gate = &door.gate;
            let until = |wait: Duration| self.clock.now() + wait.min(MAX_BACKOFF);
            match fault {
                Fault::Status { status: 429, retry_after, .. } => {
                    gate.refused();
                    gate.throttled(&self.model, until(retry_after.unwrap_or(DEFAULT_BACKOFF)));
                }
                Fault::Status { status: 503, retry_after, .. } => {
                    gate.refused();
                    if let Some(wait) = retry_after {
                        gate.back_off_model(&self.model, until(*wait));
                    }
                }
                Fault::FirstByteTimeout(_) => gate.refused(),
                _ => {}
            }
        }
        self.end(if fault.counts_against_backend() {
            Verdict::Failed { unreachable: matches!(fault, Fault::Connect(_)) }
        } else {
            Verdict::Neutral
        });
    }

    /// No request was made after all: what its rate limit gave is given back.
    pub fn unused(mut self) {
        if let Some((door, _)) = &self.place {
            door.gate.settle_tokens(self.estimated_tokens, 0);
        }
        self.end(Verdict::Neutral);
    }

    fn end(&mut self, verdict: Verdict) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(trial) = self.trial.take() {
            trial.ended(verdict);
        }
        let Some((door, _)) = &self.place else { return };
        if let Some(prompt) = self.prompt.take() {
            door.gate.read(prompt);
        }
        door.actor.send(Msg::Ended(Ended {
            model: std::mem::take(&mut self.model),
            verdict,
            began: self.started,
            ttft: self.ttft,
            output_tokens: self.output_tokens,
        }));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(Verdict::Neutral);
    }
}

/// What an ended attempt says of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Served in full.
    Served,
    /// Failed by the backend's fault.
    Failed {
        /// Not even a connection.
        unreachable: bool,
    },
    /// Says nothing: cancelled, or the client's own mistake.
    Neutral,
}
