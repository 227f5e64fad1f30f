//! Whole fleets in virtual time: boards of facts joined by a network that is cut and slow.

use super::*;
use llm_router_logic::gossip::key::Key;
use llm_router_logic::ids::{KeyId, Region, TenantId};
use llm_router_logic::route::Policy;
use llm_router_logic::route::PreparedView;
use llm_router_logic::time::Moment;
use llm_router_logic::view::ClusterView;
use std::collections::VecDeque;

const DOLLAR: i64 = 1_000_000_000_000;
/// One step of the tests' world.
const STEP: Duration = Duration::from_millis(50);
/// How long a fact is under way.
const DELAY_STEPS: u64 = 6;

struct Fleet {
    clock: Clock,
    nodes: Vec<Router>,
    cut: Vec<Vec<bool>>,
    step: u64,
    principal: Principal,
}

struct Router {
    id: NodeId,
    facts: Facts,
    quotas: Quotas,
    inbox: VecDeque<(u64, usize, Key, Option<llm_router_logic::gossip::fact::Payload>)>,
    alive: bool,
}

fn month() -> Calendar {
    Calendar(Arc::new(|_| Period { id: 1, starts: 0, ends: 4_000_000_000 }))
}

fn budget(usd: i64, mode: Mode) -> BudgetSpec {
    let limit = Money::from_pico(i128::from(usd * DOLLAR));
    BudgetSpec { limit, mode, counts_clusters: false, period: "month", calendar: month() }
}

fn scope(name: &str, budget: Option<BudgetSpec>, limits: LimitSpec) -> ScopeSpec {
    ScopeSpec { name: Arc::from(name), budget, limits }
}

fn board(this: &NodeId, clock: Clock, store: Option<Arc<dyn QuotaStore>>) -> (Facts, Quotas) {
    let metrics = Metrics::new().unwrap();
    let facts = Facts::new(metrics.clone(), crate::address::Address::vacant());
    let view = ClusterView {
        node: this.clone(),
        region: Region::default(),
        backends: Vec::new(),
        foreign: Vec::new(),
        members: Vec::new(),
    };
    let policy = Arc::new(Policy::default());
    let view = PreparedView::new(view, &policy, clock.now(), None);
    let published =
        Arc::new(ArcSwap::from_pointee(Snapshot { view, policy, awake: None, doors: Vec::new() }));
    let quotas =
        Quotas::new(this.clone(), clock, 1_700_000_000_000, facts.clone(), metrics, published, store, None);
    (facts, quotas)
}

impl Fleet {
    fn new(count: usize, scopes: &[ScopeSpec]) -> Self {
        let clock = Clock::start();
        let names: Vec<NodeId> = (0..count).map(|index| NodeId::new(format!("n{index}"))).collect();
        let nodes = names.iter().map(|id| {
            let (facts, quotas) = board(id, clock, None);
            quotas.configure(QuotaSpec { nodes: names.clone(), scopes: scopes.to_vec() });
            Router { id: id.clone(), facts, quotas, inbox: VecDeque::new(), alive: true }
        });
        let nodes = nodes.collect();
        let principal = Principal { key: Some(KeyId::new("k")), ..Principal::of(TenantId::new("team")) };
        Self { clock, nodes, cut: vec![vec![false; count]; count], step: 0, principal }
    }

    fn drawn(&self, at: usize) -> Drawn {
        self.nodes[at].quotas.of(&self.principal)
    }

    fn now(&self) -> Moment {
        self.clock.now()
    }

    /// 50 ms: every fourth step each node beats, at different times.
    async fn advance(&mut self) {
        tokio::time::advance(STEP).await;
        self.step += 1;
        for at in 0..self.nodes.len() {
            if (self.step + at as u64).is_multiple_of(4) && self.nodes[at].alive {
                self.nodes[at].quotas.beat();
            }
            if !self.nodes[at].alive {
                continue;
            }
            for (key, payload) in self.nodes[at].facts.take_changed(false) {
                for to in (0..self.nodes.len()).filter(|to| *to != at) {
                    if !self.cut[at][to] {
                        let due = self.step + DELAY_STEPS;
                        self.nodes[to].inbox.push_back((due, at, key.clone(), payload.clone()));
                    }
                }
            }
        }
        let now = self.now();
        for to in 0..self.nodes.len() {
            while self.nodes[to].inbox.front().is_some_and(|(due, ..)| *due <= self.step) {
                let Some((_, from, key, payload)) = self.nodes[to].inbox.pop_front() else { break };
                if let (Key::Fact(topic, name), Some(payload), false) = (key, payload, self.cut[from][to]) {
                    let from = self.nodes[from].id.clone();
                    self.nodes[to].facts.hear((&from, 1), (topic, name), payload, now);
                }
            }
        }
    }

    async fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds * 20 {
            self.advance().await;
        }
    }

    /// Cuts the fleet into three parts, or heals it; healed nodes hear the newest of each other.
    fn partition(&mut self, parts: bool) {
        let count = self.nodes.len();
        for a in 0..count {
            for b in 0..count {
                self.cut[a][b] = parts && a * 3 / count != b * 3 / count;
            }
        }
        if !parts {
            for from in 0..count {
                for (key, payload) in self.nodes[from].facts.take_changed(true) {
                    for to in (0..count).filter(|to| *to != from) {
                        let due = self.step + DELAY_STEPS;
                        self.nodes[to].inbox.push_back((due, from, key.clone(), payload.clone()));
                    }
                }
            }
        }
    }
}

/// Requests that reserve some cents, run for a while and settle for less, on the nodes named.
struct Spending {
    running: Vec<(u64, Reservation, i64)>,
    spent: i64,
    reserved: i64,
    random: u64,
}

impl Spending {
    fn new() -> Self {
        Self { running: Vec::new(), spent: 0, reserved: 0, random: 7 }
    }

    fn draw(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// Spent and reserved at once must never exceed the limit: whatever is reserved may be spent in full.
    fn step(&mut self, fleet: &Fleet, on: &[usize], each: usize) {
        for &at in on.iter().filter(|at| fleet.nodes[**at].alive) {
            for _ in 0..each {
                let amount = (1 + i64::try_from(self.draw() % 20).unwrap()) * DOLLAR / 100;
                if let Ok(reservation) = fleet.drawn(at).reserve(Money::from_pico(amount.into()), false) {
                    let runs = self.draw() % 40;
                    self.reserved += amount;
                    self.running.push((fleet.step + runs, reservation, amount));
                }
            }
        }
        let (due, running): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(|(until, ..)| *until <= fleet.step);
        self.running = running;
        for (_, reservation, amount) in due {
            let actual = amount * i64::try_from(30 + self.draw() % 71).unwrap() / 100;
            reservation.settle(Some(Money::from_pico(actual.into())));
            self.reserved -= amount;
            self.spent += actual;
        }
    }

    fn total(&self) -> i64 {
        self.spent + self.reserved
    }
}

#[tokio::test(start_paused = true)]
async fn a_hard_budget_is_never_exceeded_and_can_be_spent_nearly_whole() {
    for count in [1, 3, 9] {
        let limit = 100 * DOLLAR;
        // Healthy, all load on one node.
        let mut fleet =
            Fleet::new(count, &[scope("tenant:team", Some(budget(100, Mode::Hard)), LimitSpec::default())]);
        let mut spending = Spending::new();
        for _ in 0..20 * 60 {
            fleet.advance().await;
            spending.step(&fleet, &[0], 4);
            assert!(spending.total() <= limit, "{count} nodes: {}", spending.total());
        }
        assert!(spending.spent >= limit * 95 / 100, "{count} nodes: {}", spending.spent);

        // A node dies, then 120 s of a three-way partition, load everywhere; then all is well again.
        let mut fleet =
            Fleet::new(count, &[scope("tenant:team", Some(budget(100, Mode::Hard)), LimitSpec::default())]);
        let mut spending = Spending::new();
        let everywhere: Vec<usize> = (0..count).collect();
        for second in 0..200_u64 {
            if second == 5 {
                fleet.partition(true);
            }
            if second == 60 && count > 1 {
                fleet.nodes[count - 1].alive = false;
            }
            if second == 125 {
                fleet.partition(false);
            }
            for _ in 0..20 {
                fleet.advance().await;
                let each = usize::from(fleet.step.is_multiple_of(4));
                spending.step(&fleet, &everywhere, each);
                assert!(spending.total() <= limit, "{count} nodes at {second} s: {}", spending.total());
            }
        }
        assert!(spending.spent > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_soft_budget_stays_within_the_bound_it_states_and_five_percent() {
    for count in [3, 9] {
        let limit = 100 * DOLLAR;
        let mut fleet =
            Fleet::new(count, &[scope("fleet", Some(budget(100, Mode::Soft)), LimitSpec::default())]);
        let mut spending = Spending::new();
        let everywhere: Vec<usize> = (0..count).collect();
        let mut highest = 0;
        for second in 0..200_u64 {
            match second {
                3 => fleet.partition(true),
                123 => fleet.partition(false),
                _ => {}
            }
            for _ in 0..20 {
                fleet.advance().await;
                spending.step(&fleet, &everywhere, 1);
                highest = highest.max(spending.total());
                let over = Money::from_pico(i128::from(spending.total() - limit)).as_usd();
                assert!(over <= printed(&fleet, "fleet"), "{count} nodes at {second} s: {over}");
            }
        }
        let status = &fleet.nodes[0].quotas.budgets()[0];
        assert!(status.overshoot > Money::ZERO && pico(status.overshoot) <= limit / 20, "{status:?}");
        assert!(highest <= limit + pico(status.overshoot), "{count} nodes: {highest}");
        assert!(spending.spent >= limit * 95 / 100, "{count} nodes: {}", spending.spent);
    }
}

/// The smallest of the bounds that the metric of each node states now.
fn printed(fleet: &Fleet, scope: &str) -> f64 {
    let stated =
        fleet.nodes.iter().filter(|node| node.alive).map(|node| {
            node.quotas.inner.metrics.budget_overshoot_bound_usd.with_label_values(&[scope]).get()
        });
    stated.fold(f64::INFINITY, f64::min)
}

#[tokio::test(start_paused = true)]
async fn a_soft_budget_stays_within_its_bound_when_nodes_die() {
    for count in [3, 9] {
        let limit = 100 * DOLLAR;
        let mut fleet =
            Fleet::new(count, &[scope("fleet", Some(budget(100, Mode::Soft)), LimitSpec::default())]);
        let mut spending = Spending::new();
        let everywhere: Vec<usize> = (0..count).collect();
        for second in 0..120_usize {
            if second >= 4 && second.is_multiple_of(4) && second / 4 < count {
                fleet.nodes[second / 4].alive = false;
            }
            for _ in 0..20 {
                fleet.advance().await;
                spending.step(&fleet, &everywhere, 1);
                let over = Money::from_pico(i128::from(spending.total() - limit)).as_usd();
                assert!(over <= printed(&fleet, "fleet"), "{count} nodes at {second} s: {over}");
            }
        }
        assert!(spending.spent > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_a_minute_are_shared_and_never_exceeded() {
    let limits = LimitSpec { tokens_per_minute: Some(60_000), ..LimitSpec::default() };
    let mut fleet = Fleet::new(3, &[scope("account:p1", None, limits), scope("key:k", None, limits)]);
    fleet.seconds(3).await;
    let mut taken: Vec<(Moment, u64)> = Vec::new();
    for (phase, (on, seconds)) in
        [(&[0][..], 180_u64), (&[1][..], 180), (&[0, 1, 2][..], 180)].into_iter().enumerate()
    {
        fleet.partition(phase == 2);
        for _ in 0..seconds * 20 {
            fleet.advance().await;
            for &at in on {
                if let Ok(admission) = fleet.drawn(at).admit(100) {
                    taken.push((fleet.now(), 100));
                    admission.end(Some(100));
                }
            }
        }
        let now = fleet.now();
        let recent = taken.iter().filter(|(at, _)| now.since(*at) < Duration::from_secs(120));
        let recent: u64 = recent.map(|(_, tokens)| tokens).sum();
        let least = if phase == 2 { 60_000 } else { 114_000 };
        assert!(recent >= least, "phase {phase}: {recent} tokens in two minutes");
    }
    for (nth, (end, _)) in taken.iter().enumerate() {
        let within =
            taken[..=nth].iter().rev().take_while(|(at, _)| end.since(*at) < Duration::from_secs(60));
        let within: u64 = within.map(|(_, tokens)| tokens).sum();
        assert!(within <= 60_000, "{within} tokens within 60 s");
    }
}

#[tokio::test(start_paused = true)]
async fn six_hundred_a_minute_are_shared_and_never_exceeded() {
    let limits = LimitSpec { requests_per_minute: Some(600), ..LimitSpec::default() };
    let mut fleet = Fleet::new(3, &[scope("key:k", None, limits)]);
    fleet.seconds(3).await;
    let mut admitted: Vec<Moment> = Vec::new();
    // 20 requests a second: all on one node, then on another, then everywhere while cut in three, then healed.
    let phases: [(&[usize], u64); 4] = [(&[0], 180), (&[1], 180), (&[0, 1, 2], 240), (&[2], 240)];
    for (phase, (on, seconds)) in phases.into_iter().enumerate() {
        if phase >= 2 {
            fleet.partition(phase == 2);
        }
        for _ in 0..seconds * 20 {
            fleet.advance().await;
            for &at in on {
                if let Ok(admission) = fleet.drawn(at).admit(10) {
                    admitted.push(fleet.now());
                    admission.end(Some(10));
                }
            }
        }
        let now = fleet.now();
        let last_two_minutes =
            admitted.iter().filter(|at| now.since(**at) < Duration::from_secs(120)).count();
        // Healthy: 95 % of what two minutes allow, whatever node is asked.
        let least = if phase == 2 { 600 } else { 1_140 };
        assert!(last_two_minutes >= least, "phase {phase}: {last_two_minutes} in two minutes");
    }
    let mut oldest = 0;
    for (nth, at) in admitted.iter().enumerate() {
        while at.since(admitted[oldest]) >= Duration::from_secs(60) {
            oldest += 1;
        }
        assert!(nth - oldest < 600, "{} within 60 s at {at:?}", nth - oldest + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn slots_are_shared_and_given_back() {
    let limits = LimitSpec { concurrent: Some(6), ..LimitSpec::default() };
    let mut fleet = Fleet::new(3, &[scope("tenant:team", None, limits)]);
    fleet.seconds(4).await;
    let mut held: Vec<Admission> = Vec::new();
    for _ in 0..20 * 30 {
        fleet.advance().await;
        held.extend(fleet.drawn(0).admit(1).ok());
        assert!(held.len() <= 6, "{}", held.len());
    }
    assert!(held.len() >= 5, "one node gets nearly all: {}", held.len());
    assert!(matches!(fleet.drawn(2).admit(1), Err(Denied::Rate { what: "concurrent", .. }) | Ok(_)));
    held.clear();
    let mut there: Vec<Admission> = Vec::new();
    for _ in 0..20 * 30 {
        fleet.advance().await;
        there.extend(fleet.drawn(2).admit(1).ok());
        assert!(there.len() <= 6, "{}", there.len());
    }
    assert!(there.len() >= 5, "another gets them once they are free: {}", there.len());
}

#[tokio::test(start_paused = true)]
async fn a_request_denied_by_one_scope_takes_nothing_from_the_others() {
    let few = LimitSpec { requests_per_minute: Some(2), ..LimitSpec::default() };
    let many =
        LimitSpec { requests_per_minute: Some(10), tokens_per_minute: Some(100), ..LimitSpec::default() };
    let scopes = [scope("key:k", None, many), scope("tenant:team", None, few)];
    let mut fleet = Fleet::new(1, &scopes);
    fleet.seconds(1).await;
    for _ in 0..2 {
        fleet.drawn(0).admit(10).unwrap().end(None);
    }
    for _ in 0..20 {
        let denied = fleet.drawn(0).admit(10).err();
        assert!(matches!(denied, Some(Denied::Rate { what: "requests", limit: 2, .. })), "{denied:?}");
    }
    let status = fleet.drawn(0).rate_status();
    assert_eq!(status.requests.map(|(limit, left, _)| (limit, left)), Some((2, 0)));
    assert_eq!(status.tokens.map(|(limit, left, _)| (limit, left)), Some((100, 80)));
    fleet.seconds(62).await;
    assert!(fleet.drawn(0).admit(10).is_ok(), "a minute later there is room");
}

#[tokio::test(start_paused = true)]
async fn marks_of_a_budget_are_told_once_each() {
    let mut fleet = Fleet::new(1, &[scope("fleet", Some(budget(10, Mode::Soft)), LimitSpec::default())]);
    let mut notices = fleet.nodes[0].quotas.notices();
    let mut told = Vec::new();
    for _ in 0..10 {
        fleet.seconds(1).await;
        fleet.drawn(0).reserve(Money::from_pico(i128::from(DOLLAR)), false).unwrap().settle(None);
    }
    fleet.seconds(1).await;
    while let Ok(notice) = notices.try_recv() {
        told.push(notice.percent);
    }
    assert_eq!(told, [50, 80, 100]);
    let denied = fleet.drawn(0).reserve(Money::from_pico(1), false).err();
    assert!(matches!(denied, Some(Denied::Budget { ends: Some(4_000_000_000), .. })), "{denied:?}");
    assert!(fleet.drawn(0).reserve(Money::from_pico(1), true).is_ok(), "own machines are not counted");
}

struct Memory(Mutex<Vec<Kept>>);

impl QuotaStore for Memory {
    fn load(&self) -> Vec<Kept> {
        self.0.lock().unwrap().clone()
    }

    fn save(&self, kept: Vec<Kept>) -> futures_util::future::BoxFuture<'static, bool> {
        *self.0.lock().unwrap() = kept;
        Box::pin(async { true })
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_spent_before_a_crash_stays_spent() {
    for mode in [Mode::Soft, Mode::Hard] {
        let store = Arc::new(Memory(Mutex::default()));
        let id = NodeId::new("n0");
        let scopes = vec![scope("fleet", Some(budget(100, mode)), LimitSpec::default())];
        let mut spent = 0;
        for _run in 0..4 {
            let (_, quotas) = board(&id, Clock::start(), Some(Arc::clone(&store) as Arc<dyn QuotaStore>));
            let (actor, task) = Actor::spawn(
                None,
                Quota,
                Arguments { me: crate::address::Address::vacant(), quotas: quotas.clone() },
            )
            .await
            .unwrap();
            quotas.configure(QuotaSpec { nodes: Vec::new(), scopes: scopes.clone() });
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let drawn = quotas.of(&Principal::default());
                if let Ok(reservation) = drawn.reserve(Money::from_pico(i128::from(DOLLAR)), false) {
                    reservation.settle(None);
                    spent += DOLLAR;
                }
            }
            // A crash: nothing is said at the end.
            actor.kill();
            let _ = task.await;
            let slack = if mode == Mode::Soft { 11 * DOLLAR } else { 0 };
            assert!(spent <= 100 * DOLLAR + slack, "{mode:?}: {spent}");
        }
        assert!(spent >= 80 * DOLLAR, "{mode:?}: {spent}");
    }
}
