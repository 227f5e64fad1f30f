//! Endpoints that refuse, hang and come back, in virtual time.

use super::*;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use llm_router_logic::report::Health;
use llm_router_logic::route::{Policy, PreparedView};
use llm_router_logic::time::Moment;
use llm_router_logic::view::ClusterView;
use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use tokio::time::Instant;

/// How a receiver takes the next try.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Takes,
    Refuses,
    AsksToWait(u64),
    Hangs,
}

/// Receivers that follow a script, and take everything once it is over.
#[derive(Default)]
struct Receivers {
    scripts: Mutex<BTreeMap<String, VecDeque<Answer>>>,
    /// Endpoint, id of the event, when, and how it was taken.
    tries: Mutex<Vec<(String, Parcel, Instant, Answer)>>,
}

impl Receivers {
    fn script(&self, endpoint: &str, answers: impl IntoIterator<Item = Answer>) {
        self.scripts.lock().unwrap().insert(endpoint.into(), answers.into_iter().collect());
    }

    fn of(&self, endpoint: &str) -> Vec<(Parcel, Instant, Answer)> {
        let tries = self.tries.lock().unwrap();
        let own = tries.iter().filter(|(name, ..)| name == endpoint);
        own.map(|(_, parcel, at, answer)| (parcel.clone(), *at, *answer)).collect()
    }

    fn taken(&self, endpoint: &str) -> Vec<String> {
        let taken = self.of(endpoint).into_iter().filter(|(.., answer)| *answer == Answer::Takes);
        taken.map(|(parcel, ..)| parcel.id).collect()
    }
}

struct Way(Arc<Receivers>);

impl Deliver for Way {
    fn deliver(&self, endpoint: Arc<str>, parcel: Parcel) -> BoxFuture<'static, Result<(), Undelivered>> {
        let mut scripts = self.0.scripts.lock().unwrap();
        let answer = scripts.get_mut(&*endpoint).and_then(VecDeque::pop_front).unwrap_or(Answer::Takes);
        self.0.tries.lock().unwrap().push((endpoint.to_string(), parcel, Instant::now(), answer));
        let refuse = |retry_after| Undelivered { why: "answered 500".into(), retry_after };
        async move {
            match answer {
                Answer::Takes => Ok(()),
                Answer::Refuses => Err(refuse(None)),
                Answer::AsksToWait(seconds) => Err(refuse(Some(Duration::from_secs(seconds)))),
                Answer::Hangs => std::future::pending().await,
            }
        }
        .boxed()
    }
}

struct Scene {
    receivers: Arc<Receivers>,
    webhooks: Webhooks,
    notices: broadcast::Sender<Notice>,
    published: Arc<ArcSwap<Snapshot>>,
    clock: Clock,
    actor: ActorRef<Msg>,
}

fn spec(name: &str) -> EndpointSpec {
    EndpointSpec {
        name: Arc::from(name),
        kinds: Kind::ALL.to_vec(),
        sample: 1.0,
        queue_max: 10,
        attempts_max: 4,
        timeout: Duration::from_secs(5),
    }
}

fn down(nth: usize) -> Told {
    Told::Backend { backend: BackendId::new(format!("b{nth}")), health: Health::Unhealthy }
}

fn decision() -> DecisionTold {
    DecisionTold {
        id: "d-1".into(),
        unix_ms: 0,
        model: "m".into(),
        strategy: "cost",
        backend: None,
        backend_model: None,
        reason: None,
        outcome: "served",
        status: 200,
        attempts: Vec::new(),
        ttft_ms: None,
        duration_ms: 0,
        input_tokens: 0,
        output_tokens: 0,
        cost_usd: Some(Money::ZERO),
        external_cost_usd: None,
    }
}

fn empty(clock: Clock) -> Snapshot {
    let view = ClusterView {
        node: NodeId::new("n"),
        region: Region::default(),
        backends: Vec::new(),
        foreign: Vec::new(),
        members: Vec::new(),
    };
    let policy = Arc::new(Policy::default());
    let view = PreparedView::new(view, &policy, clock.now(), None);
    Snapshot { view, policy, awake: None, doors: Vec::new() }
}

/// SplitMix64.
fn mixed(nth: u64) -> u64 {
    let mixed = nth.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl Scene {
    async fn new(specs: Vec<EndpointSpec>) -> Self {
        let clock = Clock::start();
        let receivers = Arc::new(Receivers::default());
        let published = Arc::new(ArcSwap::from_pointee(empty(clock)));
        let draws = AtomicU64::new(1);
        let setting = Setting {
            node: NodeId::new("n"),
            region: Region::default(),
            cluster: "fleet".into(),
            clock,
            draw: Arc::new(move || mixed(draws.fetch_add(1, Ordering::Relaxed))),
            metrics: Metrics::new().unwrap(),
            published: Arc::clone(&published),
            roll: Arc::default(),
            deliver: Some(Arc::new(Way(Arc::clone(&receivers)))),
        };
        let notices = broadcast::Sender::new(4);
        let webhooks = Webhooks::new(setting, notices.subscribe());
        webhooks.configure(specs);
        let (actor, _) = Actor::spawn(None, Webhook, webhooks.clone()).await.unwrap();
        Self { receivers, webhooks, notices, published, clock, actor }
    }

    fn metric(&self, what: impl Fn(&crate::metrics::WebhookMetrics) -> u64) -> u64 {
        what(&self.webhooks.inner.setting.metrics.webhook)
    }

    fn result(&self, endpoint: &str, result: &str) -> u64 {
        self.metric(|metrics| metrics.deliveries_total.with_label_values(&[endpoint, result]).get())
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_sent_again_under_its_id_after_growing_pauses() {
    let scene = Scene::new(vec![spec("a")]).await;
    scene.receivers.script("a", [Answer::Refuses, Answer::Refuses, Answer::Refuses]);
    scene.webhooks.tell(down(1));
    seconds(60).await;
    let tries = scene.receivers.of("a");
    assert_eq!(tries.len(), 4);
    assert!(tries.iter().all(|(parcel, ..)| *parcel == tries[0].0), "the same event under the same id");
    let pauses: Vec<f64> = tries.windows(2).map(|two| (two[1].1 - two[0].1).as_secs_f64()).collect();
    for (pause, most) in pauses.iter().zip([1.0, 2.0, 4.0]) {
        assert!((most / 2.0..=most + 0.01).contains(pause), "{pauses:?}");
    }
    assert_eq!((scene.result("a", "delivered"), scene.result("a", "failed")), (1, 0));
    assert_eq!(scene.metric(|metrics| metrics.retries_total.with_label_values(&["a"]).get()), 3);
    scene.actor.stop(None);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_given_up_after_its_tries_and_the_next_one_is_sent() {
    let scene = Scene::new(vec![spec("a")]).await;
    scene.receivers.script("a", [Answer::Refuses; 4]);
    scene.webhooks.tell(down(1));
    scene.webhooks.tell(down(2));
    seconds(60).await;
    let taken = scene.receivers.taken("a");
    assert_eq!(taken.len(), 1);
    assert_ne!(taken[0], scene.receivers.of("a")[0].0.id);
    assert_eq!((scene.result("a", "delivered"), scene.result("a", "failed")), (1, 1));
    scene.actor.stop(None);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_names_a_time_is_left_alone_until_then() {
    let scene = Scene::new(vec![spec("a")]).await;
    scene.receivers.script("a", [Answer::AsksToWait(30), Answer::AsksToWait(1_000_000)]);
    scene.webhooks.tell(down(1));
    seconds(1_000).await;
    let tries = scene.receivers.of("a");
    assert!(tries[1].1 - tries[0].1 >= Duration::from_secs(30));
    let second = tries[2].1 - tries[1].1;
    assert!((600..=610).contains(&second.as_secs()), "not for ever: {second:?}");
    scene.actor.stop(None);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_costs_one_try_at_a_time_drops_the_oldest_and_holds_up_nobody() {
    let scene = Scene::new(vec![spec("dead"), spec("well")]).await;
    scene.receivers.script("dead", [Answer::Hangs; 1_000]);
    for nth in 0..100 {
        scene.webhooks.tell(down(nth));
        tokio::task::yield_now().await;
    }
    seconds(1).await;
    // Ten wait and one is under way.
    assert_eq!(scene.metric(|metrics| metrics.dropped_total.with_label_values(&["dead"]).get()), 89);
    let depth =
        |name: &str| scene.metric(|metrics| metrics.queue_depth.with_label_values(&[name]).get() as u64);
    assert_eq!((depth("dead"), depth("well")), (11, 0));
    let well = scene.receivers.taken("well").len() as u64;
    let dropped = scene.metric(|metrics| metrics.dropped_total.with_label_values(&["well"]).get());
    assert_eq!(well + dropped, 100);
    assert_eq!(scene.receivers.of("dead").len(), 1);
    seconds(3_600).await;
    let tries = scene.receivers.of("dead").len();
    assert!(tries < 110, "about one a minute in the end: {tries}");
    // It comes back: what had waited arrives, in order.
    scene.receivers.script("dead", []);
    scene.webhooks.tell(down(100));
    seconds(120).await;
    assert_eq!(scene.receivers.taken("dead").last(), scene.receivers.taken("well").last());
    scene.actor.stop(None);
}

#[tokio::test(start_paused = true)]
async fn the_actor_may_die_and_nothing_is_lost() {
    let scene = Scene::new(vec![spec("a")]).await;
    scene.receivers.script("a", [Answer::Hangs]);
    for nth in 0..5 {
        scene.webhooks.tell(down(nth));
    }
    seconds(1).await;
    scene.actor.kill();
    seconds(1).await;
    scene.webhooks.tell(down(5));
    seconds(60).await;
    assert_eq!(scene.receivers.of("a").len(), 1, "its tasks died with it");
    let (successor, _) = Actor::spawn(None, Webhook, scene.webhooks.clone()).await.unwrap();
    seconds(5).await;
    let tries = scene.receivers.of("a");
    assert_eq!(tries[1].0.id, tries[0].0.id, "what was under way comes again under its id");
    assert_eq!(scene.receivers.taken("a").len(), 6);
    successor.stop(None);
}

#[tokio::test(start_paused = true)]
async fn decisions_are_sampled_and_made_only_where_somebody_wants_them() {
    let mut tenth = EndpointSpec { sample: 0.1, queue_max: 100_000, ..spec("tenth") };
    let none = EndpointSpec { kinds: vec![Kind::BackendDown], ..spec("none") };
    let scene = Scene::new(vec![tenth.clone(), none]).await;
    let made = AtomicU64::new(0);
    for _ in 0..10_000 {
        scene.webhooks.decided(|| {
            made.fetch_add(1, Ordering::Relaxed);
            decision()
        });
    }
    seconds(1).await;
    let told = scene.receivers.taken("tenth").len() as u64;
    assert!((800..=1_200).contains(&told), "{told}");
    assert_eq!(made.load(Ordering::Relaxed), told);
    assert!(scene.receivers.of("none").is_empty());
    // A reload may change the share, and leave the endpoint away.
    tenth.sample = 0.0;
    scene.webhooks.configure(vec![tenth]);
    scene.webhooks.decided(|| unreachable!());
    scene.webhooks.configure(Vec::new());
    scene.webhooks.tell(down(1));
    seconds(1).await;
    assert_eq!(scene.receivers.taken("tenth").len() as u64, told);
    scene.actor.stop(None);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_stays_over_a_reload_keeps_what_it_is_owed_and_one_that_comes_is_told_no_old_news() {
    let scene = Scene::new(vec![spec("a")]).await;
    scene.receivers.script("a", [Answer::Refuses; 2]);
    scene.webhooks.tell(down(1));
    seconds(0).await;
    scene.webhooks.configure(vec![EndpointSpec { attempts_max: 9, ..spec("a") }, spec("b")]);
    seconds(20).await;
    assert_eq!(scene.receivers.taken("a").len(), 1);
    assert!(scene.receivers.of("b").is_empty());
    scene.webhooks.tell(down(2));
    seconds(1).await;
    assert_eq!(scene.receivers.taken("b").len(), 1);
    scene.actor.stop(None);
}

#[tokio::test(start_paused = true)]
async fn warnings_of_budgets_are_told_and_those_missed_are_counted() {
    let scene = Scene::new(vec![spec("a")]).await;
    let notice = |percent| Notice {
        scope: "tenant:t".into(),
        percent,
        spent: Money::from_pico(i128::from(percent)),
        limit: Money::from_pico(100),
        ends: 1_800_000_000,
    };
    scene.notices.send(notice(50)).unwrap();
    seconds(1).await;
    scene.notices.send(notice(50)).unwrap();
    seconds(1).await;
    let taken = scene.receivers.taken("a");
    assert_eq!(taken.len(), 2);
    assert_eq!(taken[0], taken[1], "receivers know a repeat by its id");
    for _ in 0..10 {
        scene.notices.send(notice(80)).unwrap();
    }
    seconds(1).await;
    assert_eq!(scene.receivers.taken("a").len(), 6);
    assert_eq!(scene.metric(|metrics| metrics.dropped_total.with_label_values(&["a"]).get()), 6);
    scene.actor.stop(None);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_node_waits_for_those_that_answer_and_not_for_others() {
    let scene = Scene::new(vec![spec("dead"), spec("well")]).await;
    scene.receivers.script("dead", [Answer::Refuses; 100]);
    scene.webhooks.tell(down(1));
    seconds(1).await;
    scene.webhooks.tell(down(2));
    let before = Instant::now();
    scene.webhooks.drain(Duration::from_secs(1)).await;
    assert!(before.elapsed() < Duration::from_millis(500), "{:?}", before.elapsed());
    assert_eq!(scene.receivers.taken("well").len(), 2);
    scene.actor.stop(None);
}

/// What a look at this one backend finds.
mod looks {
    use super::*;
    use crate::roster::Stated;
    use llm_router_logic::backend::{BackendSpec, Kind, Placement};
    use llm_router_logic::capability::Capabilities;
    use llm_router_logic::guard::breaker::BreakerState;
    use llm_router_logic::spot::Spoken;
    use llm_router_logic::standing::Standing;
    use llm_router_logic::view::{BackendView, ModelGuard, OwnFact};
    use llm_router_logic::warmth::Warmth;

    struct Looker {
        scene: Scene,
        watch: Watch,
        spec: Arc<BackendSpec>,
    }

    impl Looker {
        async fn new() -> Self {
            let scene = Scene::new(Vec::new()).await;
            let spec = Arc::new(BackendSpec {
                id: BackendId::new("b"),
                kind: Kind::Llama,
                placement: Placement::External,
                models: Vec::new(),
                default_model: None,
                capabilities: Capabilities::default(),
                rate_limit: None,
                slots: None,
                scale_to_zero: None,
                reached_from: Vec::new(),
            });
            Self { scene, watch: Watch::default(), spec }
        }

        fn look(
            &mut self,
            health: Health,
            breaker: Option<BreakerState>,
            stated: Stated,
        ) -> Vec<&'static str> {
            let report = llm_router_logic::report::Report { health, ..Default::default() };
            let guards = breaker.map(|breaker| ModelGuard {
                model: "m".into(),
                breaker,
                cause: None,
                closed_until: None,
            });
            let own = OwnFact {
                report,
                observed_at: Moment::ZERO,
                models: Vec::new().into(),
                guards: guards.into_iter().collect::<Vec<_>>().into(),
            };
            let mut view = ClusterView::clone(&self.scene.published.load().view);
            view.backends = vec![BackendView {
                spec: Arc::clone(&self.spec),
                own: Some(own),
                peers: Vec::new(),
                standing: Standing::default(),
            }];
            let policy = Arc::new(Policy::default());
            let now = self.scene.clock.now();
            let view = PreparedView::new(view, &policy, now, None);
            let snapshot = Arc::new(Snapshot { view, policy, awake: None, doors: Vec::new() });
            let roll = Roll { backends: BTreeMap::from([(BackendId::new("b"), stated)]) };
            let news = self.watch.look(&snapshot, &Arc::new(roll), now, 1_000_000);
            news.iter().map(|told| told.kind().as_str()).collect()
        }

        fn health(&mut self, health: Health) -> Vec<&'static str> {
            self.look(health, None, Stated::default())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_is_told_down_once_and_up_once() {
        let mut looker = Looker::new().await;
        use Health::{Healthy, Loading, Unhealthy, Unknown};
        let steps = [
            (Unknown, vec![]),
            (Loading, vec![]),
            (Healthy, vec![]),
            (Unhealthy, vec!["backend.down"]),
            (Unhealthy, vec![]),
            (Loading, vec![]),
            (Healthy, vec!["backend.up"]),
            (Loading, vec!["backend.down"]),
            (Healthy, vec!["backend.up"]),
            // It fell asleep, which is no illness.
            (Unknown, vec![]),
            (Healthy, vec![]),
        ];
        for (nth, (health, expected)) in steps.into_iter().enumerate() {
            assert_eq!(looker.health(health), expected, "step {nth}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_is_told_when_it_opens_and_when_it_closes_and_not_for_its_trials() {
        let mut looker = Looker::new().await;
        let open = Some(BreakerState::Open { until: Moment::ZERO + Duration::from_secs(1_000) });
        let steps = [
            (None, vec![]),
            (open, vec!["breaker.open"]),
            (Some(BreakerState::HalfOpen), vec![]),
            (open, vec![]),
            (Some(BreakerState::Closed), vec!["breaker.closed"]),
            (open, vec!["breaker.open"]),
            (None, vec!["breaker.closed"]),
            (Some(BreakerState::HalfOpen), vec![]),
        ];
        for (nth, (breaker, expected)) in steps.into_iter().enumerate() {
            let told = looker.look(Health::Healthy, breaker, Stated::default());
            assert_eq!(told, expected, "step {nth}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_is_told_when_it_comes_and_a_wake_by_who_wakes() {
        let mut looker = Looker::new().await;
        let spoken = |at| {
            let mut spoken = Spoken::default();
            spoken.preemption.value = at;
            Stated { spoken, ..Stated::default() }
        };
        for (at, expected) in [
            (None, vec![]),
            (Some(2_000_000), vec!["spot.notice"]),
            (Some(2_000_000), vec![]),
            (Some(9), vec![]),
        ] {
            assert_eq!(looker.look(Health::Healthy, None, spoken(at)), expected);
        }
        let waking = |waker: &str| Stated {
            standing: Standing {
                warmth: Warmth::Waking { until: Moment::ZERO + Duration::from_secs(9) },
                ..Standing::default()
            },
            waker: Some(NodeId::new(waker)),
            ..Stated::default()
        };
        assert!(looker.look(Health::Unknown, None, waking("other")).is_empty());
        assert_eq!(looker.look(Health::Unknown, None, waking("n")), ["wake.started"]);
        assert!(looker.look(Health::Unknown, None, waking("n")).is_empty());
        assert_eq!(looker.look(Health::Healthy, None, Stated::default()), ["wake.ready"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_begins_to_listen_is_told_what_is_down_and_no_other_old_news() {
        let mut looker = Looker::new().await;
        looker.watch.begin();
        let open = Some(BreakerState::Open { until: Moment::ZERO + Duration::from_secs(1_000) });
        assert_eq!(looker.look(Health::Unhealthy, open, Stated::default()), ["backend.down"]);
    }
}
