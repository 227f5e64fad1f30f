//! Many requests of every shape of usage; afterwards the ledger beside the mocks' own books.
//!
//! `LEDGER_REQUESTS=200000 cargo test --release --test integration ledger_books -- --nocapture` runs the full
//! number and prints its figures.

use crate::fixture::{DEADLINE, Router, eventually, fast, file, header, upstream};
use futures_util::{StreamExt, stream};
use llm_router::mock::{self, Faults, Mock};
use llm_router_logic::backend::Kind;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Requests where the environment names no number.
const REQUESTS: u64 = 4_000;
/// Requests under way at once.
const AT_ONCE: usize = 48;
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
}

const SHAPES: [Shape; 22] = [
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
        Shape::LeavesDuring => ("shape-pace", true),
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
        Shape::LeavesDuring => {
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
    let more = format!(
        "ledger: {{path: \"{}\", commitTimeout: 60s}}\nrouter: {{routingStrategy: cost, breaker: {{failuresInARow: 1000000, minSuccessPercent: 0}}, \
         retries: {{percent: 100, perSecond: 100000}}}}\n",
        path.display()
    );
    let router = Router::start(&file(&more, "", &providers)).await;
    let left = Left::default();
    // Teaches the estimators what such prompts have, as a router that has run for a while knows.
    for nth in 0..40 {
        for (word, _) in kinds {
            ask(&router, Shape::Plain, word, nth, &left).await;
        }
    }
    let one = |nth: u64| {
        let (router, left) = (&router, &left);
        async move {
            let index = usize::try_from(nth).unwrap();
            ask(router, shape_of(nth), kinds[index / SHAPES.len() % kinds.len()].0, nth, left).await;
        }
    };
    stream::iter(0..requests).map(one).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;

    // Everything ends and is written.
    eventually("the mocks to be idle", async || mocks.iter().all(|(_, mock)| mock.books().in_flight == 0))
        .await;
    let idle = Instant::now();
    // A client that leaves early may do so before the router has read its request: then there is none.
    let early = (0..requests).filter(|nth| shape_of(*nth) == Shape::LeavesBefore).count() as u64;
    let ledger = loop {
        router.node.handle().journal().unwrap().flush(DEADLINE).await.unwrap();
        let ledger = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let ended = sum(&ledger, "SELECT count(*) FROM requests WHERE last").unsigned_abs();
        let booked = router.node.handle().book().total.requests;
        if sum(&ledger, "SELECT count(*) FROM intents WHERE settled = 0") == 0
            && ended == booked
            && ended >= requests + 120 - early
        {
            break ledger;
        }
        assert!(
            idle.elapsed() < DEADLINE * 4,
            "never settled: {ended} ended in the ledger, {booked} in the node's books, {requests} and 120 asked"
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
    // A client may have left before its request had reached the mock.
    let rows = sum(&ledger, "SELECT count(*) FROM requests WHERE disconnected");
    assert!(disconnects > 0 && rows >= disconnects, "{rows} rows of {disconnects} disconnects");

    // What was cut off, by whomever, is estimated: all together, and each that a client left by itself.
    let told =
        |books: fn(&mock::Books) -> u64| -> u64 { mocks.iter().map(|(_, mock)| books(&mock.books())).sum() };
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
        "{requests} requests in {took:.1?}: {attempts} attempts, {disconnects} disconnects, {:.2} % of {} estimates within a \
         tenth, cut off charged {charged} of {truth} tokens\n",
        close * 100.0,
        left.len()
    );
    std::io::stdout().write_all(figures.as_bytes()).unwrap();
    router.node.shutdown().await;
}

/// What `ledger verify` finds.
fn problems(path: &std::path::Path) -> Vec<String> {
    llm_router::ledger::verify(path).unwrap()
}
