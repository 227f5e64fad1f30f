//! What an attempt is charged by and settles to, in the ledger and in the node's books.

use super::Tally;
use crate::relay::account::{Account, Charged, End, unix_ms};
use llm_router_actors::handle::{Payer, Settlement};
use llm_router_actors::snapshot::Snapshot;
use llm_router_logic::cost::entry::{Basis, Charge, Flags, Intent, Outcome as Ended};
use llm_router_logic::cost::usage::Usage;
use llm_router_logic::money::Money;
use llm_router_logic::route::Step;
use llm_router_logic::time::millis;

/// What the ledger keeps of a request beside its attempts.
pub(super) struct Who {
    pub(super) tenant: String,
    pub(super) key: String,
    pub(super) experiment: String,
    pub(super) stream: bool,
    /// Counting tokens costs nothing anywhere.
    pub(super) free: bool,
}

impl Tally {
    pub(super) fn open_account(&self, step: &Step) -> Account {
        let handle = &self.sources.handle;
        let external = self.is_external(step);
        let basis = self.basis(step);
        let number = u32::try_from(self.record.attempts.len()).unwrap_or(u32::MAX);
        let intent = |basis| self.intent(number, Some(step), external, basis);
        let (journal, now) = (handle.journal(), handle.clock().now());
        let input_tokens = self.record.predicted_input_tokens;
        Account::open(step, external, basis, intent, journal, input_tokens, now)
    }

    pub(super) fn intent(&self, attempt: u32, step: Option<&Step>, external: bool, basis: Basis) -> Intent {
        let (record, who) = (&self.record, &self.who);
        let topology = self.sources.handle.topology();
        Intent {
            id: 0,
            request: record.id.clone(),
            attempt,
            at_ms: unix_ms(),
            node: topology.node.to_string(),
            region: topology.region.to_string(),
            tenant: who.tenant.clone(),
            key: who.key.clone(),
            experiment: who.experiment.clone(),
            asked: record.model.clone(),
            backend: step.map(|step| step.backend.to_string()).unwrap_or_default(),
            model: step.map(|step| step.model.to_string()).unwrap_or_default(),
            external,
            stream: who.stream,
            input_tokens: record.predicted_input_tokens,
            output_tokens: record.predicted_output_tokens,
            basis,
        }
    }

    fn payer(&self) -> Payer {
        Payer { tenant: self.who.tenant.clone(), key: self.who.key.clone() }
    }

    pub(super) fn basis(&self, step: &Step) -> Basis {
        if self.who.free { Basis::Free } else { basis(&self.sources.snapshot, step) }
    }

    /// Settles an attempt that another one follows.
    pub(super) fn settle_failed(&mut self) {
        let end = End { outcome: Ended::Failed, status: 0, is_last: false, now: self.now() };
        if let Some(charged) = self.settle(end) {
            self.spent = self.spent.zip(charged.cost).map(|(spent, cost)| spent + cost);
        }
    }

    pub(super) fn settle(&mut self, end: End) -> Option<Charged> {
        let account = self.account.take()?;
        let charged = self.settle_account(account, end);
        self.allowance.settle(charged.cost);
        Some(charged)
    }

    pub(super) fn settle_account(&mut self, mut account: Account, end: End) -> Charged {
        let charged = account.charged(end.outcome == Ended::Served);
        self.tell_attempt(&account, &charged, end);
        let externals = self.record.candidates.iter().filter(|step| self.is_external(step));
        let alternative = |usage: &Usage, batch: bool| {
            externals.filter_map(|step| self.basis(step).charge(usage, batch)).min()
        };
        let fallback = self.record.attempts.iter().any(|attempt| attempt.fault.is_some());
        let handle = &self.sources.handle;
        let (charged, settlement) =
            account.settle(end, handle.journal(), fallback, self.payer(), alternative);
        if end.is_last {
            self.record.external_cost = settlement.external_cost;
        }
        handle.settle(settlement);
        charged
    }

    /// Books a request that nothing was tried for: it has a row of its own, and costs nothing.
    pub(super) fn settle_untried(&self, end: End) -> Charged {
        let handle = &self.sources.handle;
        if let Some(journal) = handle.journal() {
            let (intent, _) = journal.intend(self.intent(1, None, false, Basis::Free));
            journal.settle(Charge {
                intent,
                at_ms: unix_ms(),
                outcome: end.outcome,
                status: end.status,
                fault: String::new(),
                is_last: true,
                usage: Usage::default(),
                raw_usage: None,
                cost: Some(Money::ZERO),
                external_cost: None,
                flags: Flags::default().with_if(Flags::DISCONNECTED, end.outcome == Ended::Cancelled),
                ttft_ms: None,
                duration_ms: millis(end.now.since(self.started)),
            });
        }
        handle.settle(Settlement {
            backend: None,
            via: None,
            served: end.outcome == Ended::Served,
            is_last: true,
            fallback: false,
            usage: Usage::default(),
            cost: Some(Money::ZERO),
            external_cost: None,
            ttft: None,
            duration: end.now.since(self.started),
            shadow: false,
            payer: self.payer(),
        });
        Charged { usage: Usage::default(), estimated: false, cost: Some(Money::ZERO) }
    }
}

/// What an attempt at `step` is charged by: the price list of a provider, or the machine cost per 1,000
/// tokens of a cluster at the throughput the decision saw.
pub(in crate::relay) fn basis(snapshot: &Snapshot, step: &Step) -> Basis {
    let spec = &snapshot.view.backends[step.index].spec;
    if spec.is_cluster() {
        return step.cost_per_1k().map_or(Basis::Unpriced, Basis::Machine);
    }
    let price = spec.models.iter().find(|model| model.name == step.model).and_then(|model| model.price);
    price.map_or(Basis::Unpriced, |price| Basis::Listed(Box::new(price)))
}
