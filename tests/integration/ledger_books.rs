//! Many requests of every shape of usage; afterwards the ledger beside the mocks' own books.
//!
//! `LEDGER_REQUESTS=200000 cargo test --release --test integration ledger_books -- --nocapture` runs the full
//! number and prints its figures.

use crate::certified::{Place, all_live, free_port, lay_down};
use crate::fixture::{DEADLINE, Router, cluster, eventually, fast, file, header, upstream};
use futures_util::{StreamExt, stream};
use llm_router::certs::Authority;
use llm_router::mock::{self, Faults, Mock};
use llm_router_logic::backend::Kind;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Requests where the environment names no number.
const REQUESTS: u64 = 4_000;
/// Requests under way at once.
const AT_ONCE: usize = 48;
/// No request ending for this long is a standstill: longer than any shape takes.
const STANDSTILL: Duration = Duration::from_secs(45);
/// How often a long run tells how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Requests to each model before the others, which are answered in full.
const TAUGHT: u64 = 40;
/// The model of the cluster that only the peer reaches.
const PRIVATE: &str = "tiny";
/// Output tokens of a whole answer.
const ANSWER: u64 = 16;
/// Tokens after which an answer falls silent that its client leaves.
const STALLED: u64 = 10;
/// USD per million tokens: input, cached read, cache write, output, reasoning.
const PRICES: [i64; 5] = [1, 3, 5, 7, 11];

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Plain,
    Stream,
    Tools,
    /// A word in the prompt that a fault rule of the mocks looks for.
    Marked(&'static str, bool),
    LeavesBefore,
    LeavesDuring,
    LeavesAfter,
    /// Served by a cluster behind a peer, whole or streamed.
    Relayed(bool),
    /// The same, left within the answer.
    RelayedLeaves,
}

const SHAPES: [Shape; 25] = [
    Shape::Plain,
    Shape::Stream,
    Shape::Tools,
    Shape::Marked("shape-classes", false),
    Shape::Marked("shape-classes", true),
    Shape::Marked("shape-missing", false),
    Shape::Marked("shape-missing", true),
    Shape::Marked("shape-zero", false),
    Shape::Marked("shape-zero", true),
    Shape::Marked("shape-doubled", false),
    Shape::Marked("shape-doubled", true),
    Shape::Marked("shape-twice", true),
    Shape::Marked("shape-cut", true),
    Shape::Marked("shape-cleanend", true),
    Shape::Marked("shape-refused", false),
    Shape::Marked("shape-refused", true),
    Shape::Marked("shape-halfway", false),
    Shape::LeavesBefore,
    Shape::LeavesDuring,
    Shape::LeavesDuring,
    Shape::LeavesAfter,
    Shape::Stream,
    Shape::Relayed(false),
    Shape::Relayed(true),
    Shape::RelayedLeaves,
];

/// The shape of the `nth` request.
fn shape_of(nth: u64) -> Shape {
    SHAPES[usize::try_from(nth).unwrap() % SHAPES.len()]
}

/// What the mocks do to marked requests; `first` also refuses some, so that the second has to stand in.
fn faults(first: bool) -> Faults {
    let mut rules = vec![
        json!({"match": {"contains": "shape-classes"}, "action": {"usageClasses": {"cached": 0.4, "written": 0.2, "reasoning": 0.5}}}),
        json!({"match": {"contains": "shape-missing"}, "action": {"wrongUsage": {"missing": true}}}),
        json!({"match": {"contains": "shape-zero"}, "action": {"wrongUsage": {"factor": 0}}}),
        json!({"match": {"contains": "shape-doubled"}, "action": {"wrongUsage": {"factor": 2}}}),
        json!({"match": {"contains": "shape-twice"}, "action": {"usageClasses": {"twice": true}}}),
        json!({"match": {"contains": "shape-cut"}, "action": {"cut": {"afterTokens": 6}}}),
        json!({"match": {"contains": "shape-cleanend"}, "action": {"cleanEnd": {"afterTokens": 6}}}),
        json!({"match": {"contains": "shape-slow"}, "action": {"slow": {"ttft": "10s"}}}),
        json!({"match": {"contains": "shape-pace"}, "action": {"stall": {"afterTokens": 10}}}),
    ];
    if first {
        rules.push(json!({"match": {"contains": "shape-refused"}, "action": {"status": {"code": 500}}}));
        rules.push(json!({"match": {"contains": "shape-halfway"}, "action": {"cut": {"afterTokens": 6}}}));
    }
    Faults::parse(&json!(rules).to_string()).unwrap()
}

/// About as many words as a real prompt has, so that estimates are judged on one.
fn prompt(nth: u64, mark: &str) -> String {
    let words = 60 + nth % 50;
    format!("{mark} request {nth}: {}", "some words of a question ".repeat(usize::try_from(words).unwrap()))
}

fn body(shape: Shape, model: &str, nth: u64) -> Value {
    let (mark, stream) = match shape {
        Shape::Plain => ("", false),
        Shape::Stream | Shape::LeavesAfter => ("", true),
        Shape::Tools => ("use_tool", nth.is_multiple_of(2)),
        Shape::Marked(mark, stream) => (mark, stream),
        Shape::LeavesBefore => ("shape-slow", true),
        Shape::LeavesDuring | Shape::RelayedLeaves => ("shape-pace", true),
        Shape::Relayed(stream) => ("", stream),
    };
    // Usage that is not true shall not teach the estimators of the others.
    let model = if mark == "shape-doubled" { format!("{model}-doubled") } else { model.to_owned() };
    let mut body = json!({
        "model": model, "stream": stream, "max_tokens": 64,
        "messages": [{"role": "user", "content": prompt(nth, mark)}],
    });
    if shape == Shape::Tools {
        body["tools"] = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}]);
    }
    body
}

/// Of answers that their client left: the decision, and the tokens in truth, as far as the client saw.
type Left = Mutex<Vec<(String, u64)>>;

/// Sends one request and behaves as its shape says.
async fn ask(router: &Router, shape: Shape, model: &str, nth: u64, left: &Left) {
    let sent = router
        .client
        .post(format!("{}/v1/chat/completions", router.url))
        .header("content-type", "application/json")
        .body(body(shape, model, nth).to_string())
        .send();
    match shape {
        Shape::LeavesBefore => {
            // Long enough for the mock to be at work, far from its first token.
            let _ = tokio::time::timeout(Duration::from_millis(300), sent).await;
        }
        Shape::LeavesDuring | Shape::RelayedLeaves => {
            let response = sent.await.unwrap();
            let decision = header(&response, "x-llm-router-decision").to_owned();
            let mut answer = response.bytes_stream();
            let mut tokens = 0;
            while tokens < ANSWER / 2 {
                let Some(Ok(chunk)) = answer.next().await else { return };
                tokens += chunk.windows(10).filter(|part| *part == b"\"content\":").count() as u64;
            }
            let prompt = mock::input_tokens(&prompt(nth, "shape-pace"));
            left.lock().unwrap().push((decision, prompt + STALLED));
        }
        _ => {
            let response = sent.await.unwrap();
            // The half of a stream that broke off is an answer with an error in it.
            let status = response.status();
            let text = response.text().await.unwrap_or_default();
            assert_eq!(status, 200, "{shape:?} {model} {text}");
        }
    }
}

/// What is under way, so that a standstill is seen and said.
#[derive(Default)]
struct Watch {
    under_way: Mutex<BTreeMap<u64, (Shape, &'static str, Instant)>>,
    ended: Mutex<(u64, Option<Instant>)>,
}

impl Watch {
    fn begin(&self, nth: u64, shape: Shape, model: &'static str) {
        self.under_way.lock().unwrap().insert(nth, (shape, model, Instant::now()));
    }

    fn end(&self, nth: u64) {
        self.under_way.lock().unwrap().remove(&nth);
        let mut ended = self.ended.lock().unwrap();
        *ended = (ended.0 + 1, Some(Instant::now()));
    }

    /// Returns, with what is under way, once nothing has ended for too long.
    async fn standstill(&self, tells: bool) -> String {
        let (started, mut told) = (Instant::now(), (Instant::now(), 0));
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (count, last) = *self.ended.lock().unwrap();
            let stands = last.unwrap_or(started).elapsed() >= STANDSTILL;
            if tells && told.0.elapsed() >= TOLD_EVERY {
                let rate = (count - told.1) as f64 / told.0.elapsed().as_secs_f64();
                let line = format!("{count} requests ended, {rate:.0}/s; oldest {}\n", self.oldest());
                std::io::stdout().write_all(line.as_bytes()).unwrap();
                told = (Instant::now(), count);
            }
            if stands {
                return self.oldest();
            }
        }
    }

    fn oldest(&self) -> String {
        let under_way = self.under_way.lock().unwrap();
        let mut oldest: Vec<_> =
            under_way.iter().map(|(nth, (shape, model, at))| (at.elapsed(), nth, shape, model)).collect();
        oldest.sort_by_key(|one| std::cmp::Reverse(one.0));
        oldest.truncate(4);
        format!("{oldest:.1?} of {}", under_way.len())
    }
}

/// A router beside ours that alone reaches a cluster, both with the certificates of one fleet.
struct Peer {
    _place: Place,
    mock: Mock,
    node: Router,
    /// What our own router's file needs.
    section: String,
    cluster: String,
}

impl Peer {
    async fn start() -> Self {
        let mut config = fast(Kind::Llama, PRIVATE);
        (config.output_tokens, config.slots, config.ttft) = (ANSWER, 64, Duration::from_millis(1));
        config.tokens_per_second = 20_000.0;
        let mock = upstream(config).await;
        let place = Place::new();
        let authority = Authority::new("fleet").unwrap();
        for node in ["a", "b"] {
            lay_down(place.directory.path(), node, &authority, authority.pem());
        }
        let (ours, theirs) = (free_port(), free_port());
        let section = |name, port, seed| {
            let yaml = place.node(name, "fleet", port, seed);
            yaml.replace("identity: {", "relay: {listen: \"127.0.0.1:0\"}, identity: {")
        };
        let private = cluster("private", &mock, 0.05)
            .replace("authType: none", "authType: none, reachedFrom: [region-b]");
        let node = Router::start_unready(&file(&section("b", theirs, ours), &private, "")).await;
        let section = section("a", ours, theirs);
        Self { _place: place, mock, node, section, cluster: private }
    }

    /// Waits until `ours` may use the cluster through it, and makes the mock treat marked requests.
    async fn reached_from(&self, ours: &Router) {
        all_live(&[ours, &self.node]).await;
        ours.wait_for("the peer to say that it reaches its cluster and relays", |view| {
            let relays = view["members"]
                .as_array()
                .unwrap()
                .iter()
                .any(|m| m["node"] == "b" && m["relay"].is_string());
            let backends = view["backends"].as_array().unwrap();
            let private = backends.iter().find(|backend| backend["name"] == "private").unwrap();
            let known = |fact: &Value| fact["health"] == "healthy" && fact["tokens_per_second"].is_number();
            relays && private["peers"].as_array().unwrap().iter().any(known)
        })
        .await;
        self.mock.set_faults(faults(false));
    }
}

/// What became of the attempts at a backend, for who reads a failure.
fn outcomes(ledger: &Connection, backend: &str) -> String {
    let sql = "SELECT outcome || ' ' || status || ' ' || fault || ' estimated ' || estimated || ' last ' || last || ': ' || count(*)
         || ' with ' || sum(output_tokens) || ' of ' || sum(input_tokens) FROM requests WHERE backend = ?1
         GROUP BY outcome, status, fault, estimated, last";
    let mut statement = ledger.prepare(sql).unwrap();
    let lines = statement.query_map([backend], |row| row.get::<_, String>(0)).unwrap();
    lines.map(Result::unwrap).collect::<Vec<_>>().join("\n")
}

fn sum(ledger: &Connection, sql: &str) -> i64 {
    ledger.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).unwrap().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_and_the_backends_own_books_are_the_same_over_every_shape_of_usage() {
    let requests = std::env::var("LEDGER_REQUESTS").map_or(REQUESTS, |number| number.parse().unwrap());
    let started = Instant::now();
    // In memory where there is such a place: not the disk's speed is in question here.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = directory.path().join("ledger.sqlite");
    // Two providers of each dialect: the cheaper one fails some requests, which the other then serves.
    let kinds = [("openai", Kind::OpenAi), ("claude", Kind::Anthropic), ("gemini", Kind::Gemini)];
    let mut providers = String::new();
    let mut mocks: Vec<(String, Mock)> = Vec::new();
    for (word, kind) in kinds {
        for (name, first) in [(format!("{word}-1"), true), (format!("{word}-2"), false)] {
            let mut config = fast(kind, word);
            (config.output_tokens, config.slots, config.ttft) = (ANSWER, 256, Duration::from_millis(1));
            config.tokens_per_second = 20_000.0;
            let mock = upstream(config).await;
            mock.set_faults(faults(first));
            // The second one costs 100 times as much; the breaker shall not end the comparison.
            let scale = if first { 1 } else { 100 };
            let [input, read, write, output, reasoning] = PRICES.map(|usd| usd * scale);
            providers += &format!(
                "  - {{name: {name}, type: {word}, apiKey: k, baseURL: \"{}\", models: [{{name: {word}, aliases: [{word}-doubled], price: \
                 {{input: {input}, cachedRead: {read}, cacheWrite: {write}, output: {output}, reasoning: {reasoning}}}}}]}}\n",
                mock.url()
            );
            mocks.push((name, mock));
        }
    }
    let peer = Peer::start().await;
    // The router's own settings go into the section that the peer's place has made.
    let section = peer.section.replace(
        "router: {",
        "router: {routingStrategy: cost, breaker: {failuresInARow: 1000000, minSuccessPercent: 0}, \
         retries: {percent: 100, perSecond: 100000}, ",
    );
    let more = format!("{section}\nledger: {{path: \"{}\", commitTimeout: 60s}}\n", path.display());
    let router = Router::start_unready(&file(&more, &peer.cluster, &providers)).await;
    router
        .wait_for("every provider to be healthy", |view| {
            let backends = view["backends"].as_array().unwrap().iter();
            backends.filter(|b| b["name"] != "private").all(|b| b["own"]["health"] == "healthy")
        })
        .await;
    peer.reached_from(&router).await;
    // Its speed was measured with a request of the peer's own, which no client pays for.
    let unpaid = peer.mock.books().stated;
    let left = Left::default();
    // Teaches the estimators what such prompts have, as a router that has run for a while knows.
    for nth in 0..TAUGHT {
        for (word, _) in kinds {
            ask(&router, Shape::Plain, word, nth, &left).await;
        }
        ask(&router, Shape::Relayed(true), PRIVATE, nth, &left).await;
    }
    let watch = Watch::default();
    let one = |nth: u64| {
        let (router, left, watch) = (&router, &left, &watch);
        async move {
            let shape = shape_of(nth);
            let model = match shape {
                Shape::Relayed(_) | Shape::RelayedLeaves => PRIVATE,
                _ => kinds[usize::try_from(nth).unwrap() / SHAPES.len() % kinds.len()].0,
            };
            watch.begin(nth, shape, model);
            ask(router, shape, model, nth, left).await;
            watch.end(nth);
        }
    };
    let all = stream::iter(0..requests).map(one).buffer_unordered(AT_ONCE).collect::<Vec<()>>();
    tokio::select! {
        _ = all => {}
        oldest = watch.standstill(requests > REQUESTS) => {
            let view = router.view().await;
            let books: Vec<_> = mocks.iter().map(|(name, mock)| (name, mock.books())).collect();
            panic!("nothing ends any more: {oldest}\n{view:#}\n{books:#?}");
        }
    }

    // Everything ends and is written.
    eventually("the mocks to be idle", async || {
        mocks.iter().map(|(_, mock)| mock).chain([&peer.mock]).all(|mock| mock.books().in_flight == 0)
    })
    .await;
    let idle = Instant::now();
    let taught = TAUGHT * (kinds.len() as u64 + 1);
    // A client that leaves early may do so before the router has read its request: then there is none.
    let early = (0..requests).filter(|nth| shape_of(*nth) == Shape::LeavesBefore).count() as u64;
    let ledger = loop {
        router.node.handle().journal().unwrap().flush(DEADLINE).await.unwrap();
        let ledger = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let ended = sum(&ledger, "SELECT count(*) FROM requests WHERE last").unsigned_abs();
        let booked = router.node.handle().book().total.requests;
        if sum(&ledger, "SELECT count(*) FROM intents WHERE settled = 0") == 0
            && ended == booked
            && ended >= requests + taught - early
        {
            break ledger;
        }
        assert!(
            idle.elapsed() < DEADLINE * 4,
            "never settled: {ended} ended in the ledger, {booked} in the node's books, {requests} and {taught} asked"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let took = started.elapsed();

    let mut disconnects = 0;
    for (name, mock) in &mocks {
        let books = mock.books();
        let scale = if name.ends_with("-1") { 1 } else { 100 };
        let exact = format!(
            "FROM settlements s JOIN intents i ON i.id = s.intent WHERE i.backend = '{name}' AND s.outcome = 'served' AND s.flags & 1 = 0"
        );
        let class = |column: &str| sum(&ledger, &format!("SELECT sum(s.{column}) {exact}"));
        let stated = books.stated;
        let theirs = [
            stated.input_tokens,
            stated.cached_tokens,
            stated.written_tokens,
            stated.output_tokens,
            stated.reasoning_tokens,
        ];
        // Gemini's dialect knows no written tokens: they are input like any other.
        let mut theirs = theirs.map(|tokens| i64::try_from(tokens).unwrap());
        if name.starts_with("gemini") {
            theirs[0] += std::mem::take(&mut theirs[2]);
        }
        let ours =
            [class("input"), class("cached_read"), class("cache_write"), class("output"), class("reasoning")];
        assert_eq!(ours, theirs, "{name}: tokens by class\n{}", outcomes(&ledger, name));
        let pico: i64 = theirs.iter().zip(PRICES).map(|(tokens, usd)| tokens * usd * scale * 1_000_000).sum();
        assert_eq!(class("cost_pico"), pico, "{name}: pico-dollars");
        assert_eq!(
            sum(&ledger, &format!("SELECT count(*) {exact}")),
            i64::try_from(stated.requests).unwrap(),
            "{name}"
        );
        // Those that stated nothing are all there too, flagged.
        let silent = sum(
            &ledger,
            &format!(
                "SELECT count(*) FROM requests WHERE backend = '{name}' AND outcome = 'served' AND estimated"
            ),
        );
        assert_eq!(silent, i64::try_from(stated.silent).unwrap(), "{name}: estimated answers");
        // And whatever else reached the mock has a row.
        let rows = sum(&ledger, &format!("SELECT count(*) FROM requests WHERE backend = '{name}'"));
        assert!(rows >= i64::try_from(books.received).unwrap(), "{name}: {rows} rows");
        disconnects += i64::try_from(books.cancelled).unwrap();
    }
    // The cluster behind the peer: the same tokens, each charged by the machine's price of its moment, once.
    let exact = "FROM settlements s JOIN intents i ON i.id = s.intent WHERE i.backend = 'private' AND s.outcome = 'served'";
    let of_private = |column: &str| sum(&ledger, &format!("SELECT sum({column}) {exact}")).unsigned_abs();
    let books = peer.mock.books();
    let ours = ["s.input", "s.cached_read", "s.cache_write", "s.output", "s.reasoning", "s.flags & 1 = 0"]
        .map(of_private);
    let stated = |of: &dyn Fn(&mock::StatedBooks) -> u64| of(&books.stated) - of(&unpaid);
    let theirs = [
        stated(&|of| of.input_tokens),
        stated(&|of| of.cached_tokens),
        stated(&|of| of.written_tokens),
        stated(&|of| of.output_tokens),
        stated(&|of| of.reasoning_tokens),
        stated(&|of| of.requests),
    ];
    assert_eq!(ours, theirs, "private: tokens by class, and answers");
    let relayed = sum(&ledger, "SELECT count(*) FROM requests WHERE backend = 'private' AND relayed");
    assert_eq!(relayed, sum(&ledger, "SELECT count(*) FROM requests WHERE backend = 'private'"));
    assert_eq!(requests_of(&peer.node).await, 0, "the peer books nothing of it");
    disconnects += i64::try_from(books.cancelled).unwrap();

    // A client may have left before its request had reached the mock.
    let rows = sum(&ledger, "SELECT count(*) FROM requests WHERE disconnected");
    assert!(disconnects > 0 && rows >= disconnects, "{rows} rows of {disconnects} disconnects");

    // What was cut off, by whomever, is estimated: all together, and each that a client left by itself.
    let told = |books: fn(&mock::Books) -> u64| -> u64 {
        mocks.iter().map(|(_, mock)| mock).chain([&peer.mock]).map(|mock| books(&mock.books())).sum()
    };
    let truth = told(|books| books.unfinished_input_tokens + books.unfinished_output_tokens) as f64;
    let charged = sum(
        &ledger,
        "SELECT sum(input_tokens + output_tokens) FROM requests WHERE estimated AND outcome <> 'served'",
    ) as f64;
    assert!((charged / truth - 1.0).abs() <= 0.1, "cut off: charged {charged} of {truth}");
    let left = left.into_inner().unwrap();
    let mut statement = ledger
        .prepare("SELECT request, input_tokens + output_tokens FROM requests WHERE disconnected AND last")
        .unwrap();
    let charged_of: HashMap<String, i64> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    let close = left
        .iter()
        .filter(|(decision, truth)| (charged_of[decision] as f64 / *truth as f64 - 1.0).abs() <= 0.1);
    let close = close.count() as f64 / left.len() as f64;
    assert!(close >= 0.95, "{close} of {} estimates are within a tenth", left.len());
    assert_eq!(problems(&path), Vec::<String>::new());
    let attempts = sum(&ledger, "SELECT count(*) FROM intents");
    let figures = format!(
        "{requests} requests in {took:.1?}: {attempts} attempts, {relayed} relayed, {disconnects} disconnects, {:.2} % of {} estimates within a \
         tenth, cut off charged {charged} of {truth} tokens\n",
        close * 100.0,
        left.len()
    );
    std::io::stdout().write_all(figures.as_bytes()).unwrap();
    router.node.shutdown().await;
    peer.node.node.shutdown().await;
}

async fn requests_of(router: &Router) -> u64 {
    router.admin("/admin/spend").await["total"]["requests"].as_u64().unwrap()
}

/// What `ledger verify` finds.
fn problems(path: &std::path::Path) -> Vec<String> {
    llm_router::ledger::verify(path).unwrap()
}
