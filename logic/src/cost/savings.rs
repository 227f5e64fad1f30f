//! What routing saved on a day: by one router, and by a fleet of them.
//!
//! Gross is the price of the best external alternative less what the same requests cost. Net is gross less
//! idle: what our machines cost by the hour beyond what requests were charged for them. A cluster that several
//! routers use is paid for once: of its day the most that any of them saw counts.
//!
//! Owns the sums, what routers tell each other of them, and how those are put together. It never looks at a
//! clock: days are numbers.

use crate::cost::day;
use crate::gossip::fact::{Fact, Topic};
use crate::ids::{BackendId, NodeId};
use crate::money::Money;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Days kept, today included.
pub const DAYS_KEPT: usize = 8;
/// Routers remembered of a fleet's day; further ones are left out.
const ROUTERS_MAX: usize = 512;
/// Clusters remembered of a fleet's day.
const CLUSTERS_MAX: usize = 4_096;

/// Sums over the requests of a day. Each of them only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Requests that ended.
    pub requests: u64,
    /// What all attempts cost.
    pub cost: Money,
    /// What requests with an external alternative would have cost there.
    pub external: Money,
    /// What those requests cost.
    pub compared: Money,
    /// Of `cost`, what was charged for our own machines.
    pub charged: Money,
}

impl Saved {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.cost += other.cost;
        self.external += other.external;
        self.compared += other.compared;
        self.charged += other.charged;
    }
}

/// A machine's paid time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paid {
    /// In milliseconds.
    pub millis: u64,
    /// What it cost.
    pub cost: Money,
}

impl Paid {
    fn add(&mut self, other: &Self) {
        self.millis += other.millis;
        self.cost += other.cost;
    }
}

/// One router's day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Its requests.
    pub saved: Saved,
    /// Our clusters' time, used or idle.
    pub machines: BTreeMap<BackendId, Paid>,
}

/// One router's last days, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Days(BTreeMap<u32, Day>);

impl Days {
    /// The day of that number; the oldest goes where there are too many.
    pub fn day(&mut self, number: u32) -> &mut Day {
        if !self.0.contains_key(&number) && self.0.len() >= DAYS_KEPT {
            self.0.pop_first();
        }
        self.0.entry(number).or_default()
    }

    /// Adds what an earlier run of this router kept of a day.
    pub fn recover(&mut self, number: u32, kept: &Day) {
        let day = self.day(number);
        day.saved.add(&kept.saved);
        for (cluster, paid) in &kept.machines {
            day.machines.entry(cluster.clone()).or_default().add(paid);
        }
    }

    /// The days and what they hold, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Day)> {
        self.0.iter().map(|(number, day)| (*number, day))
    }

    /// The figures of each day, the newest first.
    pub fn figures(&self) -> Vec<DayFigures> {
        let one = |(number, day): (&u32, &Day)| {
            let machines = day.machines.values().map(|paid| paid.cost).sum();
            DayFigures::of(*number, 1, &day.saved, machines, 0)
        };
        self.0.iter().rev().map(one).collect()
    }
}

/// What a day came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DayFigures {
    /// `2026-11-23`, in UTC.
    pub day: String,
    /// Routers whose figures are in it.
    pub routers: u32,
    /// Requests that ended.
    pub requests: u64,
    /// What all attempts cost.
    pub cost_usd: Money,
    /// What requests with an external alternative would have cost there.
    pub external_equivalent_usd: Money,
    /// That less what those requests cost; idle machine hours are not in it.
    pub gross_savings_usd: Money,
    /// What our clusters cost by the hour, used or idle.
    pub machine_usd: Money,
    /// Of that, what no request was charged for.
    pub idle_usd: Money,
    /// `gross_savings_usd` less `idle_usd`.
    pub net_savings_usd: Money,
    /// Clusters whose hours routers could not tell: where it is not 0, `idle_usd` is too small.
    pub machines_left_out: u32,
}

impl DayFigures {
    fn of(number: u32, routers: u32, saved: &Saved, machines: Money, left_out: u32) -> Self {
        let (gross, idle) = (saved.external - saved.compared, machines - saved.charged);
        Self {
            day: day::text(number),
            routers,
            requests: saved.requests,
            cost_usd: saved.cost,
            external_equivalent_usd: saved.external,
            gross_savings_usd: gross,
            machine_usd: machines,
            idle_usd: idle,
            net_savings_usd: gross - idle,
            machines_left_out: left_out,
        }
    }
}

/// What a router tells of one of its days, under the day's number. Amounts are pico-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldDay {
    /// The day.
    pub day: u32,
    /// As in [`Saved`].
    pub requests: u64,
    /// As in [`Saved`].
    pub cost: i64,
    /// As in [`Saved`].
    pub external: i64,
    /// As in [`Saved`].
    pub compared: i64,
    /// As in [`Saved`].
    pub charged: i64,
    /// Whether earlier runs of this router are in it, by its ledger.
    pub kept: bool,
    /// Clusters it does not tell of.
    pub left_out: u32,
}

impl Fact for ToldDay {
    const TOPIC: Topic = Topic::Savings;
    const VERSION: u8 = 1;
}

impl ToldDay {
    /// What to tell of `day`.
    pub fn new(day: u32, saved: &Saved, kept: bool, left_out: u32) -> Self {
        let Saved { requests, cost, external, compared, charged } = *saved;
        let [cost, external, compared, charged] = [cost, external, compared, charged].map(pico);
        Self { day, requests, cost, external, compared, charged, kept, left_out }
    }

    fn saved(&self) -> Saved {
        let [cost, external, compared, charged] =
            [self.cost, self.external, self.compared, self.charged].map(|pico| Money::from_pico(pico.into()));
        Saved { requests: self.requests, cost, external, compared, charged }
    }
}

/// What a router tells of a cluster's last two days, under the cluster's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldMachine {
    /// Day, milliseconds, pico-dollars.
    pub days: Vec<(u32, u64, i64)>,
    /// As in [`ToldDay`].
    pub kept: bool,
}

impl Fact for ToldMachine {
    const TOPIC: Topic = Topic::Machine;
    const VERSION: u8 = 1;
}

/// An amount as it is told; 9.2 million dollars at most.
pub fn pico(money: Money) -> i64 {
    i64::try_from(money.pico()).unwrap_or(i64::MAX)
}

/// What one router told, over its runs.
#[derive(Clone, Copy, Debug, Default)]
struct Share<T> {
    generation: u64,
    current: T,
    /// Runs that ended, where the present one does not tell of them.
    ended: T,
}

impl<T: Copy + Default> Share<T> {
    fn hear(&mut self, generation: u64, value: T, kept: bool, add: impl FnOnce(&mut T, &T)) {
        if generation < self.generation {
            return;
        }
        if generation > self.generation {
            if kept {
                self.ended = T::default();
            } else {
                add(&mut self.ended, &self.current);
            }
            self.generation = generation;
        }
        self.current = value;
    }
}

#[derive(Clone, Debug, Default)]
struct FleetDay {
    routers: BTreeMap<NodeId, (Share<Saved>, u32)>,
    machines: BTreeMap<BackendId, BTreeMap<NodeId, Share<Paid>>>,
}

/// What the other routers told of their last days. It outlives them: what a dead router saved is saved.
#[derive(Clone, Debug, Default)]
pub struct Fleet(BTreeMap<u32, FleetDay>);

impl Fleet {
    fn day(&mut self, number: u32, today: u32) -> Option<&mut FleetDay> {
        // A peer's clock may be a day ahead; what is further away or too old is nobody's.
        let oldest = today.saturating_sub(u32::try_from(DAYS_KEPT).unwrap_or(u32::MAX) - 1);
        (oldest..=today.saturating_add(1)).contains(&number).then(|| self.0.entry(number).or_default())
    }

    /// A router told a day.
    pub fn hear_day(&mut self, node: &NodeId, generation: u64, told: &ToldDay, today: u32) {
        let Some(day) = self.day(told.day, today) else { return };
        if day.routers.len() >= ROUTERS_MAX && !day.routers.contains_key(node) {
            return;
        }
        let (share, left_out) = day.routers.entry(node.clone()).or_default();
        share.hear(generation, told.saved(), told.kept, Saved::add);
        *left_out = told.left_out;
    }

    /// A router told a cluster's time.
    pub fn hear_machine(
        &mut self,
        node: &NodeId,
        generation: u64,
        cluster: &BackendId,
        told: &ToldMachine,
        today: u32,
    ) {
        for (number, millis, cost) in told.days.iter().take(2) {
            let Some(day) = self.day(*number, today) else { continue };
            if day.machines.len() >= CLUSTERS_MAX && !day.machines.contains_key(cluster) {
                continue;
            }
            let routers = day.machines.entry(cluster.clone()).or_default();
            if routers.len() >= ROUTERS_MAX && !routers.contains_key(node) {
                continue;
            }
            let paid = Paid { millis: *millis, cost: Money::from_pico((*cost).into()) };
            routers.entry(node.clone()).or_default().hear(generation, paid, told.kept, Paid::add);
        }
    }

    /// The figures of each of `own` days with the other routers' part in it, the newest first. Days of theirs
    /// that this router did not see are there too.
    pub fn figures(&mut self, own: &Days, today: u32) -> Vec<DayFigures> {
        let oldest = today.saturating_sub(u32::try_from(DAYS_KEPT).unwrap_or(u32::MAX) - 1);
        self.0.retain(|number, _| *number >= oldest);
        let mut numbers: Vec<u32> = own.0.keys().chain(self.0.keys()).copied().collect();
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        numbers.dedup();
        let (none, nobody) = (Day::default(), FleetDay::default());
        let one = |number: u32| {
            let (mine, theirs) =
                (own.0.get(&number).unwrap_or(&none), self.0.get(&number).unwrap_or(&nobody));
            let (mut saved, mut left_out) = (mine.saved, 0);
            for (share, left) in theirs.routers.values() {
                saved.add(&share.current);
                saved.add(&share.ended);
                left_out = left_out.max(*left);
            }
            let mut machines: BTreeMap<&BackendId, Money> =
                mine.machines.iter().map(|(cluster, paid)| (cluster, paid.cost)).collect();
            for (cluster, routers) in &theirs.machines {
                let most = routers.values().map(|share| share.current.cost + share.ended.cost).max();
                let entry = machines.entry(cluster).or_default();
                *entry = (*entry).max(most.unwrap_or_default());
            }
            let routers = theirs.routers.len() + usize::from(own.0.contains_key(&number));
            let routers = u32::try_from(routers).unwrap_or(u32::MAX);
            DayFigures::of(number, routers, &saved, machines.into_values().sum(), left_out)
        };
        numbers.into_iter().map(one).collect()
    }
}

#[cfg(test)]
#[path = "savings_tests.rs"]
mod tests;
