//! The fuzz targets of `fuzz/`, driven on the stable toolchain: inputs of the corpus and of the golden cases, changed
//! at random from a seed.
//!
//!     cargo test -p llm-router-logic --test fuzz                        a second or two for each target
//!     FUZZ_RUNS=2000000 cargo test --release -p llm-router-logic --test fuzz -- --nocapture
//!     FUZZ_SEED=7 …                                                     other changes
#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "the targets are a library of their own")]
#![expect(clippy::print_stderr, reason = "tells how much was run")]

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use serde_json::{Value, json};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use targets::{ASKED, KINDS};

/// Longest input.
const BYTES_MAX: usize = 8 * 1024;
/// How long a target is driven where no number of runs is asked for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pieces that mean something to one of the readers.
const WORDS: [&str; 28] = [
    "\n\n",
    "\r\n",
    "data: ",
    "event: ",
    "[DONE]",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "-0",
    "1e999",
    "18446744073709551616",
    "\"model\":",
    "\"messages\":[]",
    "\"tool_calls\":[{}]",
    "\"usage\":{}",
    "\"stream\":true",
    "\"content\":null",
    "\u{feff}",
    "\u{2028}",
    "\"type\":\"error\"",
    "\"parts\":[]",
    "[[[[[[[[",
];

/// A generator of random numbers that needs no library (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).unwrap() % limit.max(1)
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let span = self.below(32).min(input.len() - at);
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = u8::try_from(self.below(256)).unwrap(),
            2 => drop(input.drain(at..at + span)),
            3 => {
                let again = input[at..at + span].to_vec();
                let times = 1 + self.below(8);
                drop(input.splice(at..at, again.repeat(times)));
            }
            4 => input.truncate(at),
            5 => {
                let other = &seeds[self.below(seeds.len())];
                let (from, to) = (self.below(other.len() + 1), self.below(other.len() + 1));
                drop(input.splice(at..at, other[from.min(to)..from.max(to)].iter().copied()));
            }
            _ => drop(input.splice(at..at + span, WORDS[self.below(WORDS.len())].bytes())),
        }
        input.truncate(BYTES_MAX);
    }
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The committed corpus of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(folder("../fuzz/corpus").join(target)).into_iter().flatten();
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

/// What clients send and backends answer in the golden cases, in the layout of `fuzz/src/lib.rs`.
fn golden() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for pair in std::fs::read_dir(folder("tests/golden")).unwrap() {
        for file in std::fs::read_dir(pair.unwrap().path()).unwrap() {
            let case: Value =
                serde_json::from_str(&std::fs::read_to_string(file.unwrap().path()).unwrap()).unwrap();
            let operation = case["operation"].as_str().unwrap_or("chat");
            let asked = ASKED.iter().position(|(dialect, known)| {
                let words = [format!("{dialect:?}").to_lowercase(), format!("{known:?}").to_lowercase()];
                Some(words[0].as_str()) == case["client"].as_str() && words[1] == operation.replace('_', "")
            });
            let kind = KINDS.iter().position(|kind| Some(kind.as_str()) == case["backend"].as_str());
            let (Some(asked), Some(kind)) = (asked, kind) else { continue };
            let streams = case["path"]["stream"] == true || case["request"]["stream"] == true;
            let flags = u8::from(streams) | (2 * u8::from(case["receives"].is_array()));
            let choice = [u8::try_from(asked).unwrap(), u8::try_from(kind).unwrap(), flags, 7];
            if case["request"].is_object() {
                requests.push([&choice[..], case["request"].to_string().as_bytes()].concat());
            }
            match &case["receives"] {
                Value::Null => {}
                Value::Array(events) => {
                    let events = events.iter().map(|event| match (event.get("event"), event.get("data")) {
                        (Some(name), Some(data)) => {
                            format!("event: {}\ndata: {data}\n\n", name.as_str().unwrap_or(""))
                        }
                        _ => format!(
                            "data: {}\n\n",
                            event.as_str().map_or_else(|| event.to_string(), str::to_owned)
                        ),
                    });
                    replies.push([&choice[..], events.collect::<String>().as_bytes()].concat());
                }
                body => replies.push([&choice[..], body.to_string().as_bytes()].concat()),
            }
        }
    }
    assert!(requests.len() > 100 && replies.len() > 100, "{} and {}", requests.len(), replies.len());
    (requests, replies)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

fn drive(target: &str, run: fn(&[u8]), seeds: &[Vec<u8>]) {
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (wanted, started) = (number("FUZZ_RUNS"), Instant::now());
    let mut runs = 0;
    let mut hold = |input: &[u8]| {
        if catch_unwind(|| run(input)).is_err() {
            panic!("{target}, run {runs} of seed {seed}, fails on {}", json!(String::from_utf8_lossy(input)));
        }
        runs += 1;
        match wanted {
            Some(wanted) => runs < wanted,
            None => started.elapsed() < PATIENCE,
        }
    };
    seeds.iter().all(|input| hold(input));
    let mut go_on = true;
    while go_on {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            random.change(&mut input, seeds);
        }
        go_on = hold(&input);
    }
    eprintln!("{target}: {runs} runs in {:?}", started.elapsed());
}

#[test]
fn requests_of_clients() {
    drive("request", targets::request::run, &golden().0);
}

#[test]
fn answers_of_backends() {
    drive("reply", targets::reply::run, &golden().1);
}

#[test]
fn event_streams() {
    let events = golden().1.into_iter().map(|reply| reply[3..].to_vec());
    drive("sse", targets::sse::run, &events.chain(corpus("sse")).collect::<Vec<_>>());
}

#[test]
fn values_of_peers() {
    drive("gossip", targets::gossip::run, &corpus("gossip"));
}

#[test]
fn headers_of_signed_requests() {
    drive("hmac", targets::hmac::run, &corpus("hmac"));
}
