//! Looks at one backend at a steady pace.
//!
//! Started by its `Backend`, receives from it, tells only it. Lost on restart: the pace, which begins
//! anew with a look at once. Never decides anything.

use crate::address::Address;
use crate::backend;
use crate::clock::Clock;
use crate::gate::{Ask, Gate};
use crate::poison::poison;
use crate::ports::Probe;
use llm_router_logic::backend::BackendSpec;
use llm_router_logic::guard::health::FAILURES_IN_A_ROW;
use llm_router_logic::time::Moment;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::Duration;

/// A backend is never looked at more often than this: each look makes a llama-server postpone its
/// check for abandoned requests by a second.
pub(crate) const MIN_GAP: Duration = Duration::from_secs(2);
/// A look that takes longer is a failure.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// A calibration that takes longer is given up.
const CALIBRATION_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Prober;

pub(crate) struct Arguments {
    pub(crate) me: Address<Msg>,
    pub(crate) spec: Arc<BackendSpec>,
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) backend: Address<backend::Msg>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: Clock,
    pub(crate) interval: Duration,
}

#[derive(Debug)]
pub(crate) enum Msg {
    /// The scheduled look number so-and-so is due.
    Due(u64),
    /// Something happened: look soon.
    LookSoon,
    /// Measure the speed of this model.
    Calibrate(String),
    /// Panic, to prove that the supervisor answers it.
    Poison,
}

pub(crate) struct State {
    arguments: Arguments,
    /// Number of the only scheduled look that counts.
    scheduled: u64,
    last_look: Option<Moment>,
    /// Looks that failed in a row.
    failures: u8,
}

impl Actor for Prober {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        me.cast(Msg::Due(0))?;
        arguments.me.occupy(me);
        Ok(State { arguments, scheduled: 0, last_look: None, failures: 0 })
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(message, Msg::Due(_)) {
            state.arguments.me.received();
        }
        match message {
            Msg::Due(number) if number == state.scheduled => {
                state.look().await;
                state.schedule(&me, state.pause());
            }
            Msg::Due(_) => {}
            Msg::LookSoon => {
                let now = state.arguments.clock.now();
                let gap =
                    state.last_look.map_or(Duration::ZERO, |last| MIN_GAP.saturating_sub(now.since(last)));
                state.schedule(&me, gap);
            }
            Msg::Calibrate(model) => state.calibrate(model).await,
            Msg::Poison => poison(),
        }
        Ok(())
    }
}

impl State {
    fn schedule(&mut self, me: &ActorRef<Msg>, after: Duration) {
        self.scheduled += 1;
        let number = self.scheduled;
        me.send_after(after, move || Msg::Due(number));
    }

    /// A doubt is settled quickly: after a failure the next look comes soon, until as many have failed in
    /// a row as make a backend unhealthy.
    fn pause(&self) -> Duration {
        let in_doubt = (1..FAILURES_IN_A_ROW).contains(&self.failures);
        if in_doubt { MIN_GAP } else { self.arguments.interval }
    }

    async fn look(&mut self) {
        let Arguments { spec, probe, backend, clock, .. } = &self.arguments;
        self.last_look = Some(clock.now());
        let looked = tokio::time::timeout(LOOK_TIMEOUT, probe.probe(Arc::clone(spec))).await;
        let reading =
            looked.unwrap_or_else(|_| Err(format!("no answer to the probe within {LOOK_TIMEOUT:?}")));
        self.failures = if reading.is_ok() { 0 } else { self.failures.saturating_add(1) };
        backend.send(backend::Msg::Probed(reading));
    }

    /// Measures speed in a slot of the gate like any request, and only when one is free at once.
    async fn calibrate(&mut self, model: String) {
        let Arguments { spec, probe, backend, gate, .. } = &self.arguments;
        let ask = Ask {
            tenant: "",
            model: &model,
            tokens: 0,
            trial: false,
            max_wait: Duration::ZERO,
            max_waiting: 0,
        };
        let Ok(_slot) = gate.admit(ask).await else {
            return;
        };
        let measured =
            tokio::time::timeout(CALIBRATION_TIMEOUT, probe.calibrate(Arc::clone(spec), model)).await;
        let speed = measured.unwrap_or_else(|_| Err(format!("not done within {CALIBRATION_TIMEOUT:?}")));
        backend.send(backend::Msg::Calibrated(speed));
    }
}
