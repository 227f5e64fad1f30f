//! One attempt's account: its intent on the way to the ledger, what is seen of it, and what it is
//! charged in the end.
//!
//! Owns the books of one attempt. Whether it is tried, and what the client is told, is not decided here.

use llm_router_actors::handle::{Payer, Settlement};
use llm_router_actors::ledger::{Journal, NotDurable, Written};
use llm_router_logic::cost::entry::{Basis, Charge, Flags, Intent, Outcome, Seen, tokens};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::fault::Fault;
use llm_router_logic::money::Money;
use llm_router_logic::route::Step;
use llm_router_logic::time::{Moment, millis};
use llm_router_logic::wire::Reply;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix milliseconds, as the ledger is dated.
pub(super) fn unix_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// An attempt's open account.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) step: Step,
    pub(super) external: bool,
    basis: Basis,
    input_tokens: u32,
    started: Moment,
    /// Its id where a ledger is kept.
    intent: Option<i64>,
    written: Option<Written>,
    seen: Seen,
    /// Whether a byte of the answer was read.
    answered: bool,
    batch: bool,
    raw_usage: Option<Arc<str>>,
    fault: &'static str,
    hedge_lost: bool,
    ttft: Option<Duration>,
    /// The model as the backend names it, and why it stopped, in its words.
    said: (Option<Arc<str>>, Option<Arc<str>>),
    /// Whether it is a copy that no client asked for.
    shadow: bool,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charged {
    pub(super) usage: Usage,
    pub(super) estimated: bool,
    /// `None` = unpriced.
    pub(super) cost: Option<Money>,
}

/// How an attempt and its request ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    /// Told to the client; 0 where another attempt follows.
    pub(super) status: u16,
    pub(super) is_last: bool,
    pub(super) now: Moment,
}

impl Account {
    /// Opens the account of an attempt at `step`; the intent goes to the ledger, where there is one.
    pub(super) fn open(
        step: &Step,
        external: bool,
        basis: Basis,
        intent: impl FnOnce(Basis) -> Intent,
        journal: Option<&Journal>,
        input_tokens: u32,
        started: Moment,
    ) -> Self {
        let (id, written) = journal.map(|journal| journal.intend(intent(basis.clone()))).unzip();
        Self {
            step: step.clone(),
            external,
            basis,
            input_tokens,
            started,
            intent: id,
            written,
            // A machine's time is paid for whether or not a request that never began was let go.
            seen: Seen { at_work: external, ..Seen::default() },
            answered: false,
            batch: false,
            raw_usage: None,
            fault: "",
            hedge_lost: false,
            ttft: None,
            said: (None, None),
            shadow: false,
        }
    }

    /// The same, of a copy that no client asked for.
    pub(super) fn of_shadow(self) -> Self {
        Self { shadow: true, ..self }
    }

    /// Waits until the intent would survive a crash: before the first byte goes to the client.
    ///
    /// # Errors
    /// Why the answer must not be passed on.
    pub(super) async fn durable(&mut self, journal: &Journal) -> Result<(), NotDurable> {
        match self.written.take() {
            Some(written) => journal.wait(written, self.external).await,
            None => Ok(()),
        }
    }

    /// Notes what was read of the answer.
    pub(super) fn saw(&mut self, reply: &Reply) {
        self.answered = true;
        self.seen.reported = reply.usage();
        self.seen.content_events = reply.content_events();
        self.batch = reply.is_batch();
        self.raw_usage = reply.raw_usage();
        self.said = (reply.model(), reply.finish_reasons());
    }

    /// Notes that the attempt failed.
    pub(super) fn failed(&mut self, fault: &Fault) {
        self.fault = fault.label();
        self.seen.at_work &= match fault {
            Fault::Connect(_) | Fault::Status { .. } => false,
            // Who waits in silence may be charged for it; who was cut off before a byte was not served.
            Fault::Broken(_) | Fault::Malformed(_) => self.answered,
            Fault::FirstByteTimeout(_) | Fault::IdleTimeout(_) | Fault::Deadline => true,
        };
    }

    /// Notes that an attempt at the same time was faster.
    pub(super) fn lose_hedge(&mut self) {
        self.hedge_lost = true;
    }

    /// Time to the first token, once known.
    pub(super) fn ttft(&self) -> Option<Duration> {
        self.ttft
    }

    /// When it began.
    pub(super) fn started(&self) -> Moment {
        self.started
    }

    /// Why it failed, in one word; empty where it did not.
    pub(super) fn fault(&self) -> &'static str {
        self.fault
    }

    /// The model as the backend names it, and why it stopped, separated by commas.
    pub(super) fn said(&self) -> (Option<Arc<str>>, Option<Arc<str>>) {
        self.said.clone()
    }

    /// Notes the time to the first token.
    pub(super) fn first_token(&mut self, ttft: Duration) {
        self.ttft = Some(ttft);
    }

    /// The usage the backend told so far.
    pub(super) fn reported(&self) -> Option<Usage> {
        self.seen.reported
    }

    /// Whether the backend charges anything by its price or machine for what was seen, so that an
    /// alternative would have, too.
    fn is_worth_comparing(&self, charged: &Charged) -> bool {
        self.seen.complete || charged.usage.total_output() > 0
    }

    /// What the attempt costs as it stands; `complete` says that the whole answer was read.
    pub(super) fn charged(&mut self, complete: bool) -> Charged {
        self.seen.complete = complete;
        self.seen.at_work |= complete;
        let (usage, estimated) = tokens(&self.seen, self.input_tokens);
        let cost =
            if usage == Usage::default() { Some(Money::ZERO) } else { self.basis.charge(&usage, self.batch) };
        Charged { usage, estimated, cost }
    }

    /// Settles the account: in the ledger, and as what the node's books take in. `alternative` is asked
    /// for the price of the same tokens at the best external alternative.
    pub(super) fn settle(
        mut self,
        end: End,
        journal: Option<&Journal>,
        fallback: bool,
        payer: Payer,
        alternative: impl FnOnce(&Usage, bool) -> Option<Money>,
    ) -> (Charged, Settlement) {
        let charged = self.charged(end.outcome == Outcome::Served);
        let external_cost = if end.is_last {
            alternative(&charged.usage, self.batch).filter(|_| self.is_worth_comparing(&charged))
        } else {
            // Tried for nothing: it cost what it cost, and no alternative was spared.
            alternative(&charged.usage, self.batch).map(|_| Money::ZERO)
        };
        let duration = end.now.since(self.started);
        if let (Some(journal), Some(intent)) = (journal, self.intent) {
            journal.settle(Charge {
                intent,
                at_ms: unix_ms(),
                outcome: end.outcome,
                status: end.status,
                fault: self.fault.to_owned(),
                is_last: end.is_last,
                usage: charged.usage,
                raw_usage: self.raw_usage.as_deref().map(str::to_owned),
                cost: charged.cost,
                external_cost,
                flags: Flags::default()
                    .with_if(Flags::ESTIMATED, charged.estimated)
                    .with_if(Flags::UNPRICED, charged.cost.is_none())
                    .with_if(Flags::DISCONNECTED, end.outcome == Outcome::Cancelled)
                    .with_if(Flags::RELAYED, self.step.via.is_some())
                    .with_if(Flags::HEDGE_LOST, self.hedge_lost)
                    .with_if(Flags::BATCH, self.batch)
                    .with_if(Flags::SHADOW, self.shadow),
                ttft_ms: self.ttft.map(millis),
                duration_ms: millis(duration),
            });
        }
        let settlement = Settlement {
            backend: Some(self.step.backend.clone()),
            via: self.step.via.clone(),
            served: end.outcome == Outcome::Served,
            is_last: end.is_last,
            fallback,
            usage: charged.usage,
            cost: charged.cost,
            external_cost,
            ttft: self.ttft,
            duration,
            shadow: self.shadow,
            payer,
        };
        (charged, settlement)
    }
}
