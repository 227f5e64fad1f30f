//! The last days of this node and of the fleet: what requests cost and saved, what machines cost beside them.
//!
//! Kept by `Cost`, which adds to it and has it tell peers through the board of facts. It belongs to no actor:
//! it outlives `Cost`. What a node tells only grows while it runs; [`Fleet`] puts runs and nodes together.

use crate::cost::Settlement;
use crate::facts::Facts;
use llm_router_logic::cost::savings::{Day, DayFigures, Days, Fleet, Paid, ToldDay, ToldMachine, pico};
use llm_router_logic::gossip::fact::Topic;
use llm_router_logic::ids::BackendId;
use std::collections::{BTreeMap, BTreeSet};

/// Clusters whose time this node tells: the board is shared with budgets, which matter more.
const MACHINES_TOLD_MAX: usize = 16;

/// The days of a node and of its fleet.
#[derive(Debug, Default)]
pub(crate) struct Savings {
    days: Days,
    fleet: Fleet,
    /// Whether the days hold what earlier runs kept in the ledger.
    kept: bool,
    told: BTreeSet<(Topic, String)>,
}

impl Savings {
    /// Adds what earlier runs of this node kept.
    pub(crate) fn recover(&mut self, days: &[(u32, Day)]) {
        if !std::mem::replace(&mut self.kept, true) {
            for (number, day) in days {
                self.days.recover(*number, day);
            }
        }
    }

    /// Whether [`recover`](Self::recover) was called.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Adds what an attempt came to; `on_machine` says that one of our clusters made it.
    pub(crate) fn settle(&mut self, today: u32, settlement: &Settlement, on_machine: bool) {
        let saved = &mut self.days.day(today).saved;
        saved.requests += u64::from(settlement.is_last && !settlement.shadow);
        let Some(cost) = settlement.cost else { return };
        saved.cost += cost;
        if on_machine {
            saved.charged += cost;
        }
        if let Some(external) = settlement.external_cost {
            saved.external += external;
            saved.compared += cost;
        }
    }

    /// Adds a machine's time.
    pub(crate) fn pay(&mut self, today: u32, cluster: &BackendId, paid: Paid) {
        let machine = self.days.day(today).machines.entry(cluster.clone()).or_default();
        machine.millis += paid.millis;
        machine.cost += paid.cost;
    }

    /// Tells peers of today and yesterday, and takes in what they told.
    pub(crate) fn exchange(&mut self, facts: &Facts, today: u32) {
        let recent = today.saturating_sub(1)..=today;
        let mut machines: BTreeMap<&BackendId, Vec<(u32, u64, i64)>> = BTreeMap::new();
        for (number, day) in self.days.iter().filter(|(number, _)| recent.contains(number)) {
            for (cluster, paid) in &day.machines {
                machines.entry(cluster).or_default().push((number, paid.millis, pico(paid.cost)));
            }
        }
        let mut left_out = machines.len().saturating_sub(MACHINES_TOLD_MAX);
        let mut told = BTreeSet::new();
        for (cluster, days) in machines.into_iter().take(MACHINES_TOLD_MAX) {
            match facts.publish(cluster.as_str(), &ToldMachine { days, kept: self.kept }) {
                Ok(()) => drop(told.insert((Topic::Machine, cluster.to_string()))),
                Err(_) => left_out += 1,
            }
        }
        let left_out = u32::try_from(left_out).unwrap_or(u32::MAX);
        for (number, day) in self.days.iter().filter(|(number, _)| recent.contains(number)) {
            let name = number.to_string();
            // Refusals are counted by the board.
            if facts.publish(&name, &ToldDay::new(number, &day.saved, self.kept, left_out)).is_ok() {
                told.insert((Topic::Savings, name));
            }
        }
        for (topic, name) in self.told.difference(&told) {
            facts.withdraw(*topic, name);
        }
        self.told = told;
        for heard in facts.heard::<ToldDay>() {
            self.fleet.hear_day(&heard.node, heard.generation, &heard.fact, today);
        }
        for heard in facts.heard::<ToldMachine>() {
            let cluster = BackendId::new(&*heard.name);
            self.fleet.hear_machine(&heard.node, heard.generation, &cluster, &heard.fact, today);
        }
    }

    /// The figures of this node's days, the newest first.
    pub(crate) fn days(&self) -> Vec<DayFigures> {
        self.days.figures()
    }

    /// The figures of the fleet's days, the newest first.
    pub(crate) fn fleet_days(&mut self, today: u32) -> Vec<DayFigures> {
        self.fleet.figures(&self.days, today)
    }
}
