use super::*;
use crate::address::Address;
use crate::clock::Clock;
use llm_router_logic::gossip::fact::Fact as _;
use llm_router_logic::guard::breaker::BreakerPolicy;
use llm_router_logic::guard::policy::GuardPolicy;
use std::sync::Arc;

struct Scene {
    clock: Clock,
    gate: Arc<Gate>,
    facts: Facts,
    outages: Outages,
    breakers: BTreeMap<String, Breaker>,
}

impl Scene {
    fn new() -> Self {
        let clock = Clock::start();
        let metrics = Metrics::new().unwrap();
        let facts = Facts::new(metrics.clone(), Address::vacant());
        let gate = Gate::new(clock, false, None, None, &GuardPolicy::default());
        let outages = Outages::new("p".into(), facts.clone(), metrics);
        Self { clock, gate, facts, outages, breakers: BTreeMap::new() }
    }

    fn fail(&mut self, unreachable: bool) {
        let now = self.clock.now();
        self.outages.note("m", false, unreachable, now, now);
        let breaker =
            self.breakers.entry("m".into()).or_insert_with(|| Breaker::new(BreakerPolicy::default()));
        breaker.record(false, now);
    }

    fn tell(&mut self) -> Option<Duration> {
        self.outages.tell(&self.gate, &self.breakers, self.clock.now())
    }

    /// What peers are told now.
    fn told(&self) -> Option<Outage> {
        let (_, payload) = self.facts.take_changed(true).into_iter().next()?;
        Some(Outage::read(&payload?).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_is_told_once_and_taken_back_when_it_is_over() {
    let mut scene = Scene::new();
    assert_eq!((scene.tell(), scene.told()), (None, None));
    scene.gate.back_off(scene.clock.now() + Duration::from_secs(5));
    assert_eq!(scene.tell(), Some(Duration::from_secs(5)));
    let first = scene.told().unwrap();
    assert_eq!((first.closed_ms, first.models.len()), (5_000, 0));
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(scene.tell(), None, "no news");
    let again = scene.told().unwrap();
    assert_eq!((again.episode, again.closed_ms), (first.episode, 2_000));
    scene.gate.back_off(scene.clock.now() + Duration::from_secs(9));
    scene.tell();
    assert!(scene.told().unwrap().episode > first.episode, "another 429 is news");
    tokio::time::advance(Duration::from_secs(9)).await;
    scene.tell();
    assert_eq!(scene.told(), None);
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_told_is_not_told_on() {
    let mut scene = Scene::new();
    let until = scene.clock.now() + Duration::from_secs(5);
    scene.gate.told_closed(None, until);
    scene.gate.told_closed(Some("m"), until);
    let mut breaker = Breaker::new(BreakerPolicy::default());
    breaker.told_open(until, scene.clock.now());
    breaker.told_failures(9, scene.clock.now());
    scene.breakers.insert("m".into(), breaker);
    scene.tell();
    assert_eq!(scene.told(), None);
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_and_an_open_breaker_are_told_and_a_broken_way_opens_nobody_elses() {
    let mut scene = Scene::new();
    scene.fail(false);
    scene.tell();
    assert_eq!(scene.told(), None, "one is no news");
    for _ in 0..4 {
        scene.fail(false);
        scene.tell();
    }
    let told = scene.told().unwrap().models[0];
    assert_eq!((told.model, told.open_ms, told.failures), (model_hash("m"), 5_000, 5));
    let mut scene = Scene::new();
    for _ in 0..5 {
        scene.fail(true);
    }
    scene.tell();
    let told = scene.told().unwrap().models[0];
    assert_eq!((told.open_ms, told.failures), (0, 5), "a prior, not a verdict");
    tokio::time::advance(STREAK_COUNTS).await;
    scene.tell();
    assert_eq!(scene.told(), None, "old failures are no news");
}

#[tokio::test(start_paused = true)]
async fn the_same_news_is_taken_once_and_a_restarted_peers_anew() {
    let mut scene = Scene::new();
    let news = |generation, episode| News {
        node: "peer".into(),
        generation,
        outage: Outage { episode, closed_ms: 1, models: Vec::new() },
    };
    assert!(scene.outages.is_new(&news(1, 50)));
    assert!(!scene.outages.is_new(&news(1, 50)) && !scene.outages.is_new(&news(1, 49)));
    assert!(scene.outages.is_new(&news(1, 51)) && scene.outages.is_new(&news(2, 1)));
    assert!(!scene.outages.is_new(&news(1, 99)));
}
