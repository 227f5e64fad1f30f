//! Shadow copies: requests sent elsewhere as well, to see what would come of it.
//!
//! A copy is made in a task of its own, within bounds on how many run and what they may cost, and only
//! where a place is free that no client would take next. Nothing of it reaches the client, a breaker, the
//! estimates or the sums of clients' requests; it has its own metrics, record and flag in the books.

use super::account::{Account, End, unix_ms};
use super::estimate::Estimates;
use super::sending::reply_fault;
use super::tally::record::open_record;
use super::tally::settlement::basis;
use super::{Call, Relay};
use crate::config::{Shadow, Timeouts};
use crate::decisions::{Attempt, Circumstances, Decision, Decisions, Outcome};
use crate::outbound::Outbound;
use crate::trace::{Ending, Section, Tracer, Trail};
use llm_router_actors::Handle;
use llm_router_actors::handle::Payer;
use llm_router_actors::lease::Lease;
use llm_router_logic::cost::entry::{Basis, Intent, Outcome as Ended};
use llm_router_logic::fault::Fault;
use llm_router_logic::money::Money;
use llm_router_logic::request::{ANY_MODEL, Hints, Request};
use llm_router_logic::route::{Loads, Step, plan};
use llm_router_logic::time::millis;
use llm_router_logic::wire::{self, Exchange, Operation, Reply};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// What is configured to be copied, and what copies have cost.
pub(crate) struct Shadows {
    specs: Vec<(Arc<Shadow>, Arc<Semaphore>)>,
    /// What copies cost, those under way at what they are predicted to. Survives a reload.
    spent: Arc<Mutex<Money>>,
    stop: CancellationToken,
}

impl Default for Shadows {
    fn default() -> Self {
        Self { specs: Vec::new(), spent: Arc::default(), stop: CancellationToken::new() }
    }
}

impl Shadows {
    /// The same books with other shadows.
    pub(crate) fn with(&self, shadows: &[Shadow]) -> Self {
        let spec = |shadow: &Shadow| {
            let places = Arc::new(Semaphore::new(shadow.max_concurrent as usize));
            (Arc::new(shadow.clone()), places)
        };
        let specs = shadows.iter().map(spec).collect();
        Self { specs, spent: Arc::clone(&self.spent), stop: self.stop.clone() }
    }

    /// Ends every copy, and makes none any more.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Why no copy came of it, or how it ended: the metric's label.
type Word = &'static str;

struct Copyist {
    handle: Handle,
    outbound: Arc<Outbound>,
    tracer: Option<Arc<Tracer>>,
    decisions: Arc<Decisions>,
    estimates: Arc<Estimates>,
    timeouts: Timeouts,
    spent: Arc<Mutex<Money>>,
    shadow: Arc<Shadow>,
    call: Call,
    /// The decision that is copied.
    of: String,
    _place: OwnedSemaphorePermit,
}

impl Relay {
    /// Ends copies under way, for a node that stops.
    pub fn stop_shadows(&self) {
        self.shadows.stop();
    }

    /// Copies `call`, whose decision is `of`, to the shadows that take it. Returns at once.
    pub(super) fn cast_shadows(&self, call: &Call, of: &str) {
        let Shadows { specs, spent, stop } = &self.shadows;
        if stop.is_cancelled() || call.operation == Operation::CountTokens {
            return;
        }
        for (shadow, places) in specs {
            let model = call.inspected.model.as_deref().unwrap_or(ANY_MODEL);
            // The upper 53 bits of a draw, as a number below 1.
            let draw = (self.handle.draw() >> 11) as f64 / (1_u64 << 53) as f64;
            if draw >= shadow.share || !shadow.scope.covers(model, Some(call.principal.tenant.as_str())) {
                continue;
            }
            let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                count(&self.handle, shadow, "too_many");
                continue;
            };
            let copyist = Copyist {
                handle: self.handle.clone(),
                outbound: Arc::clone(&self.outbound),
                tracer: self.tracer.clone(),
                decisions: Arc::clone(&self.decisions),
                estimates: Arc::clone(&self.estimates),
                timeouts: self.timeouts,
                spent: Arc::clone(spent),
                shadow: Arc::clone(shadow),
                call: call.clone(),
                of: of.to_owned(),
                _place: place,
            };
            let stop = stop.clone();
            tokio::spawn(async move {
                let (handle, shadow) = (copyist.handle.clone(), Arc::clone(&copyist.shadow));
                let ending = tokio::select! {
                    ending = copyist.copy() => ending,
                    () = stop.cancelled() => "cancelled",
                };
                count(&handle, &shadow, ending);
            });
        }
    }
}

fn count(handle: &Handle, shadow: &Shadow, ending: Word) {
    handle.metrics().states.shadow_requests_total.with_label_values(&[&*shadow.name, ending]).inc();
}

impl Copyist {
    async fn copy(self) -> Word {
        let snapshot = self.handle.snapshot();
        let (clock, request) = (self.handle.clock(), self.request());
        let planning = clock.now();
        let made = plan(&snapshot.view, &*snapshot, &request, &snapshot.policy, self.handle.draw(), planning);
        let planned = clock.now();
        let Some(step) = made.steps.first() else { return "not_eligible" };
        // A peer's router books and guards what goes through it as a client's request, which a copy is not.
        if step.via.is_some() {
            return "relayed";
        }
        let tokens = request.input_tokens.saturating_add(request.output_tokens);
        let load = snapshot.load(step.index, tokens, clock.now());
        // The last free place is left to clients.
        if load.waiting > 0 || load.in_flight.saturating_add(1) >= load.limit {
            return "no_room";
        }
        let Some(predicted) = step.predicted_cost() else { return "unpriced" };
        let Some(reserved) = self.reserve(predicted) else { return "over_spend" };
        let tenant = self.call.principal.tenant.as_str();
        let Ok(lease) = self.handle.lease(&snapshot, step, tenant, tokens, Duration::ZERO).await else {
            return "no_room";
        };
        let kind = snapshot.view.backends[step.index].spec.kind;
        let Ok(mut encoded) = wire::encode(&self.call.inbound(), &self.call.inspected, kind, &step.model)
        else {
            lease.unused();
            return "not_eligible";
        };
        let id = format!("{:016x}", self.handle.draw());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let exchange = Exchange::new(
            &self.call.inbound(),
            &self.call.inspected,
            &encoded,
            kind,
            &step.model,
            id,
            created,
        );

        let mut record = open_record(&self.handle, &request, &made);
        let external = !snapshot.view.backends[step.index].spec.is_cluster();
        let journal = self.handle.journal();
        let intent = |basis| self.intent(&record, step, external, basis);
        let tokens_in = request.input_tokens;
        let started = clock.now();
        let account =
            Account::open(step, external, basis(&snapshot, step), intent, journal, tokens_in, started);
        let mut trail = self.trail(&record.id);
        trail.section(Section::new("plan", planning, planned));
        trail.attempt(step, Duration::ZERO, false, &snapshot);
        if let Some(tracer) = &self.tracer {
            encoded.headers.extend(trail.told(tracer, step));
        }
        let mut seen = Seen { lease, reply: Reply::new(exchange), account: account.of_shadow() };
        let whole = tokio::time::timeout(self.timeouts.total, self.drive(step, encoded, &mut seen)).await;
        let result = whole.unwrap_or(Err(Fault::Deadline));
        let Seen { lease, mut account, .. } = seen;
        let ttft = lease.ttft();
        // A copy says nothing of its backend's health: the lease is dropped as it is.
        drop(lease);
        if let Some(ttft) = ttft {
            trail.first_token(&step.backend, ttft);
        }
        if let Err(fault) = &result {
            account.failed(fault);
            trail.failed(&step.backend, fault);
        }
        let served = result.is_ok();
        let (outcome, status) = if served { (Ended::Served, 200) } else { (Ended::Failed, 502) };
        let end = End { outcome, status, is_last: true, now: clock.now() };
        let (model, finish) = account.said();
        let (charged, settlement) = account.settle(end, journal, false, Payer::default(), |_, _| None);
        let ending = Ending {
            usage: charged.usage,
            estimated: charged.estimated,
            cost: charged.cost,
            model,
            finish,
            cancelled: false,
        };
        trail.settled(&step.backend, end.now, ending);
        self.handle.settle(settlement);
        reserved.settle(charged.cost.unwrap_or(predicted));
        record.attempts = vec![Attempt {
            via: None,
            backend: step.backend.clone(),
            waited_ms: 0,
            model: Arc::clone(&step.model),
            hedge: None,
            fault: result.as_ref().err().map(Fault::to_string),
        }];
        let error = result.as_ref().err().map(Fault::label);
        record.error = result.err().map(|fault| fault.to_string());
        record.outcome = if served { Outcome::Served } else { Outcome::Failed };
        record.status = status;
        record.reason = Some(step.reason);
        record.backend = Some(step.backend.clone());
        record.backend_model = Some(Arc::clone(&step.model));
        record.ttft_ms = ttft.map(millis);
        record.duration_ms = millis(clock.now().since(started));
        record.predicted_cost = step.predicted_cost();
        (record.cost, record.usage, record.usage_estimated) =
            (charged.cost, charged.usage, charged.estimated);
        self.keep(record, trail, error);
        if served { "served" } else { "failed" }
    }

    fn intent(&self, record: &Decision, step: &Step, external: bool, basis: Basis) -> Intent {
        let topology = self.handle.topology();
        let principal = &self.call.principal;
        Intent {
            id: 0,
            request: record.id.clone(),
            attempt: 1,
            at_ms: unix_ms(),
            node: topology.node.to_string(),
            region: topology.region.to_string(),
            tenant: principal.tenant.to_string(),
            key: principal.key.as_ref().map(ToString::to_string).unwrap_or_default(),
            experiment: format!("shadow={}", self.shadow.name),
            asked: record.model.clone(),
            backend: step.backend.to_string(),
            model: step.model.to_string(),
            external,
            stream: self.call.inspected.stream,
            input_tokens: record.predicted_input_tokens,
            output_tokens: record.predicted_output_tokens,
            basis,
        }
    }

    /// What is noted of the copy, whose decision is `id`.
    fn trail(&self, id: &str) -> Trail {
        let (Some(tracer), Some(context)) = (&self.tracer, &self.call.trace) else { return Trail::default() };
        let mut trail = tracer.copied(context);
        trail.context().decided(id);
        trail.asked(&self.call);
        trail
    }

    fn keep(&self, mut record: Decision, mut trail: Trail, error: Option<&'static str>) {
        let name = [&*self.shadow.name];
        let states = &self.handle.metrics().states;
        if let Some(cost) = record.cost {
            states.shadow_spend_usd_total.with_label_values(&name).inc_by(cost.as_usd().max(0.0));
        }
        if let Some(ms) = record.ttft_ms {
            let ttft = states.shadow_ttft_seconds.with_label_values(&name);
            ttft.observe(Duration::from_millis(ms).as_secs_f64());
        }
        record.circumstances = Circumstances {
            shadow: Some(self.shadow.name.clone()),
            shadow_of: Some(self.of.clone()),
            ..Circumstances::default()
        };
        trail.end(&record, error);
        self.decisions.keep(record);
    }

    /// The client's request as the shadow asks it: without the client's wishes and bounds, which are about its
    /// own answer.
    fn request(&self) -> Request {
        let mut request = self.call.routing_request(&self.estimates, None);
        request.rights = Arc::default();
        request.hints = Hints { backend: self.shadow.backend.clone(), ..Hints::default() };
        if let Some(model) = &self.shadow.model {
            request.model = Some(model.clone());
            self.call.predict(&self.estimates, &mut request);
        }
        request
    }

    /// Holds what the copy is predicted to cost; `None` where that is more than copies may cost.
    fn reserve(&self, predicted: Money) -> Option<Reserved> {
        let clients = self.handle.book().total.cost;
        let most = Money::from_usd(clients.as_usd() * self.shadow.max_spend_share)?;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if *spent + predicted > most {
            return None;
        }
        *spent += predicted;
        Some(Reserved { spent: Arc::clone(&self.spent), held: predicted })
    }

    /// Asks and reads to the end.
    async fn drive(&self, step: &Step, encoded: wire::Encoded, seen: &mut Seen) -> Result<(), Fault> {
        let Timeouts { whole_answer, idle, .. } = self.timeouts;
        let mut answer = self.outbound.send(&step.backend, encoded, whole_answer).await?;
        let mut out = Vec::new();
        loop {
            let patience = if seen.reply.has_read_content() { idle } else { whole_answer };
            let chunk = answer.chunk(patience).await?;
            match &chunk {
                Some(chunk) => seen.reply.push(chunk, &mut out).map_err(reply_fault)?,
                None => seen.reply.finish(&mut out).map_err(reply_fault)?,
            }
            // Nobody reads it.
            out.clear();
            if seen.reply.has_read_content() {
                seen.lease.first_token();
            }
            if let Some(ttft) = seen.lease.ttft() {
                seen.account.first_token(ttft);
            }
            seen.lease.saw_output(seen.reply.output_events());
            seen.account.saw(&seen.reply);
            if chunk.is_none() {
                return Ok(());
            }
        }
    }
}

/// What is seen of a copy so far.
struct Seen {
    lease: Lease,
    reply: Reply,
    account: Account,
}

/// What a copy is held to cost; dropped, it is given back.
struct Reserved {
    spent: Arc<Mutex<Money>>,
    held: Money,
}

impl Reserved {
    /// It cost `cost`, which stays spent.
    fn settle(mut self, cost: Money) {
        self.held = self.held - cost;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *spent = *spent - self.held;
    }
}
