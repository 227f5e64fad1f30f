//! The demo's load: seeded requests of mixed length, model and strategy, over real HTTP to all regions.
//!
//! Bounded: about [`PER_SECOND`] requests a second, at most [`AT_ONCE`] under way; one that finds no
//! place is held back and counted. A request counts as answered only when its answer is whole.

use super::scenario::{ALIAS, LARGE, PLACES, PROVIDERS, SMALL, TENANTS, key_of};
use llm_router_logic::route::Strategy;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Mean requests per second, over all regions.
pub(super) const PER_SECOND: f64 = 6.0;
/// Most requests under way.
const AT_ONCE: usize = 48;
/// In a burst, so many times as many requests come in, and as many may be under way.
const BURST: u32 = 5;
/// One request in so many belongs to a session.
const SESSION_SHARE: f64 = 0.25;
/// Longest pause between two requests.
const GAP_MAX: Duration = Duration::from_secs(1);
/// The same demo every time.
const SEED: u64 = 0x00A1_1DE0;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

const SUBJECTS: [&str; 8] = [
    "the tides",
    "a hash map",
    "the history of paper",
    "a two-phase commit",
    "sourdough bread",
    "the Doppler effect",
    "an index of a database",
    "the Silk Road",
];
const LONG: &str = "Here is the transcript of a meeting about moving a service between three clouds. The team wants \
    lower cost without slower answers, fears the price of traffic between regions, and disagrees on who \
    owns the queue. List the decisions, who asked for them, what they depend on and what was left open. ";

/// One request of the load.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    /// Pause before it.
    pub(super) gap: Duration,
    /// Index into [`TENANTS`].
    pub(super) tenant: usize,
    /// Index into [`PLACES`].
    pub(super) place: usize,
    pub(super) model: &'static str,
    /// `None` = the router's own.
    pub(super) strategy: Option<Strategy>,
    pub(super) stream: bool,
    pub(super) max_tokens: u32,
    pub(super) prompt: String,
    /// The session it belongs to.
    pub(super) session: Option<u32>,
}

impl Ask {
    fn body(&self) -> String {
        serde_json::json!({
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "stream": self.stream,
            "max_tokens": self.max_tokens,
        })
        .to_string()
    }
}

/// Requests without end, the same for the same seed.
pub(super) struct Mix(StdRng);

impl Mix {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// One of `options` by weight.
    fn pick<T: Copy>(&mut self, options: &[(u32, T)]) -> Option<T> {
        let all: u32 = options.iter().map(|(weight, _)| weight).sum();
        let mut draw = self.0.random_range(0..all.max(1));
        for (weight, option) in options {
            match draw.checked_sub(*weight) {
                Some(rest) => draw = rest,
                None => return Some(*option),
            }
        }
        None
    }
}

impl Iterator for Mix {
    type Item = Ask;

    fn next(&mut self) -> Option<Ask> {
        // Arrivals of many independent clients: exponential gaps.
        let gap = -(1.0 - self.0.random::<f64>()).ln() / PER_SECOND;
        let place = self.0.random_range(0..PLACES.len());
        let tenant =
            self.pick(&std::array::from_fn::<_, { TENANTS.len() }, _>(|at| (TENANTS[at].weight, at)))?;
        let model =
            self.pick(&[(76, ALIAS), (8, "auto"), (9, LARGE), (3, SMALL), (4, PROVIDERS[0].model)])?;
        // What no cluster serves is asked for by those only whose budget lasts.
        let lasts = TENANTS[tenant].budget_usd.is_none_or(|usd| usd >= 1.0);
        let model = if lasts || model != PROVIDERS[0].model { model } else { ALIAS };
        let strategy = self.pick(&[
            (68, None),
            (4, Some(Strategy::Slo)),
            (8, Some(Strategy::Cost)),
            (7, Some(Strategy::Latency)),
            (7, Some(Strategy::ClusterFirst)),
            (6, Some(Strategy::ExternalFirst)),
        ])?;
        let (long, max_tokens) = self.pick(&[(55, (false, 24)), (33, (false, 40)), (12, (true, 80))])?;
        let subject = SUBJECTS[self.0.random_range(0..SUBJECTS.len())];
        let prompt = if long {
            format!("{}Start with {subject}.", LONG.repeat(3))
        } else {
            format!("Explain {subject} in a few sentences.")
        };
        Some(Ask {
            gap: Duration::from_secs_f64(gap).min(GAP_MAX),
            tenant,
            place,
            model,
            strategy,
            stream: self.0.random_bool(0.7),
            max_tokens,
            prompt,
            session: self.0.random_bool(SESSION_SHARE).then(|| self.0.random_range(0..400)),
        })
    }
}

/// What the load saw, as a client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) failed: u64,
    /// Not sent, since too many were under way.
    pub(super) held_back: u64,
    /// What the first failure was.
    pub(super) first_failure: Option<String>,
}

/// The running load. Dropping it ends everything at once.
pub(super) struct Load {
    tally: Arc<Mutex<Tally>>,
    tracker: TaskTracker,
    ended: CancellationToken,
    stopped: CancellationToken,
    _sender: AbortOnDropHandle<()>,
}

impl Load {
    /// Starts sending to the routers at `addresses`, many times as much while `burst` says so. With keys made
    /// from the demo's `token` it is its tenants, and no limit for visitors holds for it.
    pub(super) fn start(
        addresses: Vec<SocketAddr>,
        token: &str,
        burst: watch::Receiver<bool>,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (ended, stopped, tracker) =
            (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let keys = TENANTS.iter().map(|tenant| key_of(tenant, token)).collect();
        let client = Client { client, addresses: addresses.into(), keys };
        let sender = {
            let (tally, tracker) = (Arc::clone(&tally), tracker.clone());
            let (ended, stopped) = (ended.clone(), stopped.clone());
            async move {
                for ask in Mix::new(SEED) {
                    let factor = if *burst.borrow() { BURST } else { 1 };
                    tokio::select! {
                        () = tokio::time::sleep(ask.gap / factor) => {}
                        () = ended.cancelled() => break,
                    }
                    if tracker.len() >= AT_ONCE * factor as usize {
                        note(&tally, |tally| tally.held_back += 1);
                        continue;
                    }
                    note(&tally, |tally| tally.sent += 1);
                    let (client, tally, stopped) = (client.clone(), Arc::clone(&tally), stopped.clone());
                    tracker.spawn(async move {
                        let Some(outcome) = stopped.run_until_cancelled(client.send(ask)).await else {
                            return;
                        };
                        note(&tally, |tally| match outcome {
                            Ok(()) => tally.answered += 1,
                            Err(why) => {
                                tally.failed += 1;
                                tally.first_failure.get_or_insert(why);
                            }
                        });
                    });
                }
                tracker.close();
            }
        };
        let sender = AbortOnDropHandle::new(tokio::spawn(sender));
        Ok(Self { tally, tracker, ended, stopped, _sender: sender })
    }

    /// No further request.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Once the load has ended and every request has its answer.
    pub(super) async fn drained(&self) {
        self.tracker.wait().await;
    }

    /// Gives up on the answers still missing.
    pub(super) fn stop(&self) {
        self.ended.cancel();
        self.stopped.cancel();
    }

    /// Requests without an answer yet.
    pub(super) fn under_way(&self) -> usize {
        self.tracker.len()
    }

    /// What was seen so far.
    pub(super) fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn note(tally: &Mutex<Tally>, change: impl FnOnce(&mut Tally)) {
    change(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
}

/// A client of all regions.
#[derive(Clone)]
struct Client {
    client: reqwest::Client,
    addresses: Arc<[SocketAddr]>,
    /// In the order of [`TENANTS`].
    keys: Arc<[String]>,
}

impl Client {
    /// Sends `ask` to its region, or to the next one where nobody listens there, as a health-checked DNS
    /// name would; the error says what was wrong with the answer.
    async fn send(self, ask: Ask) -> Result<(), String> {
        let mut refused = String::new();
        for hop in 0..self.addresses.len() {
            let address = self.addresses[(ask.place + hop) % self.addresses.len()];
            match self.send_to(address, &ask).await {
                Ok(response) => return read(response, ask.stream).await,
                Err(error) if error.is_connect() => refused = format!("no answer: {error}"),
                Err(error) => return Err(format!("no answer: {error}")),
            }
        }
        Err(refused)
    }

    async fn send_to(&self, address: SocketAddr, ask: &Ask) -> reqwest::Result<reqwest::Response> {
        let mut request = self
            .client
            .post(format!("http://{address}/v1/chat/completions"))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", self.keys[ask.tenant]))
            .body(ask.body());
        if let Some(strategy) = ask.strategy {
            request = request.header("x-llm-router-strategy", strategy.as_str());
        }
        if let Some(session) = ask.session {
            request = request.header("x-llm-router-session", format!("visitor-{session}"));
        }
        request.send().await
    }
}

/// Reads the whole answer; the error says what was wrong with it.
async fn read(response: reqwest::Response, stream: bool) -> Result<(), String> {
    let status = response.status();
    let body = response.text().await.map_err(|error| format!("the answer broke off: {error}"))?;
    if !status.is_success() {
        return Err(format!("status {status}: {}", body.chars().take(300).collect::<String>()));
    }
    whole(stream, &body)
}

/// Whether an answer is complete: a stream ends with `[DONE]` and holds no error event, a plain answer
/// has a choice.
fn whole(stream: bool, body: &str) -> Result<(), String> {
    if !stream {
        let value: serde_json::Value =
            serde_json::from_str(body).map_err(|error| format!("the answer is no JSON: {error}"))?;
        return value["choices"][0]
            .is_object()
            .then_some(())
            .ok_or_else(|| "the answer has no choice".to_owned());
    }
    let mut events = body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    if let Some(error) = events.clone().find(|event| event.starts_with("{\"error\"")) {
        return Err(format!("an error within the stream: {error}"));
    }
    events
        .any(|event| event == "[DONE]")
        .then_some(())
        .ok_or_else(|| "the stream ended without [DONE]".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_same_seed_gives_the_same_load() {
        let some = |seed| Mix::new(seed).take(50).collect::<Vec<_>>();
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
    }

    #[test]
    fn the_load_keeps_its_rate_and_reaches_every_region_model_and_strategy() {
        let asks: Vec<Ask> = Mix::new(SEED).take(3_000).collect();
        let seconds: f64 = asks.iter().map(|ask| ask.gap.as_secs_f64()).sum();
        let rate = asks.len() as f64 / seconds;
        assert!((PER_SECOND * 0.9..PER_SECOND * 1.15).contains(&rate), "{rate} requests per second");
        let (mut places, mut models, mut strategies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for ask in &asks {
            *places.entry(ask.place).or_insert(0) += 1;
            *models.entry(ask.model).or_insert(0) += 1;
            *strategies.entry(ask.strategy.map(Strategy::as_str)).or_insert(0) += 1;
        }
        assert!(places.len() == 3 && places.values().all(|count| *count > 800), "{places:?}");
        assert_eq!(models.len(), 5, "{models:?}");
        assert_eq!(strategies.len(), Strategy::ALL.len(), "{strategies:?}");
        assert!(strategies[&None] > 2_000, "mostly the router's own strategy: {strategies:?}");
        assert!(asks.iter().any(|ask| ask.stream) && asks.iter().any(|ask| !ask.stream));
        assert!(
            asks.iter().any(|ask| ask.prompt.len() > 600) && asks.iter().any(|ask| ask.prompt.len() < 80)
        );
    }

    #[test]
    fn an_answer_counts_only_when_it_is_whole() {
        let done = "data: {\"choices\":[]}\n\ndata: [DONE]\n\n";
        assert_eq!(whole(true, done), Ok(()));
        assert!(whole(true, "data: {\"choices\":[]}\n\n").is_err(), "cut off");
        assert!(whole(true, "data: {\"error\":{\"message\":\"gone\"}}\n\ndata: [DONE]\n\n").is_err());
        assert_eq!(whole(false, "{\"choices\":[{\"index\":0}]}"), Ok(()));
        assert!(whole(false, "{\"choices\":[]}").is_err());
        assert!(whole(false, "").is_err());
    }

    #[tokio::test]
    async fn a_request_without_an_answer_is_a_failure_and_the_load_ends_when_told() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Nobody listens on a port that was just given back.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let load = Load::start(vec![closed; 3], "none", watch::channel(false).1).unwrap();
        let failed = async {
            while load.tally().failed == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), failed).await.unwrap();
        load.end();
        tokio::time::timeout(Duration::from_secs(10), load.drained()).await.unwrap();
        let tally = load.tally();
        assert_eq!((tally.answered, tally.sent), (0, tally.failed));
        assert!(tally.first_failure.unwrap().starts_with("no answer"));
    }
}
