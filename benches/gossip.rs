//! How long a change takes from one node to the other two, over QUIC and over plain UDP, and what three
//! idle nodes cost: the figures of `docs/adr/0002-gossip-over-quic.md`. Takes two minutes.
//!
//! `cargo bench --bench gossip`
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a measurement for a person")]

#[path = "../tests/integration/certified.rs"]
mod certified;
#[path = "../tests/integration/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod fixture;

use certified::{Place, all_live, free_port, lay_down};
use fixture::{Router, cluster, fast, file, hello, upstream};
use llm_router::certs::Authority;
use llm_router_logic::backend::Kind;
use std::time::{Duration, Instant};

/// Rounds of the measurement.
const ROUNDS: usize = 60;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // `cargo test --benches` asks every target for its tests; there are none here.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    for over_quic in [false, true] {
        let (mut seen, cpu) = propagation(over_quic).await;
        seen.sort_unstable();
        let at = |share: usize| seen[(seen.len() - 1) * share / 100].as_millis();
        println!(
            "{}: p50 {} ms, p99 {} ms of {}; cpu of three idle nodes {:.2} % of a core",
            if over_quic { "QUIC" } else { "UDP" },
            at(50),
            at(99),
            seen.len(),
            cpu * 100.0
        );
    }
}

/// Times from a change of A's own fact to its arrival at B and at C, and the share of a core the process
/// used while nothing changed.
async fn propagation(over_quic: bool) -> (Vec<Duration>, f64) {
    let mut mock = fast(Kind::Llama, "tiny");
    mock.tokens_per_second = 1.0;
    mock.output_tokens = 600;
    let llama = upstream(mock).await;
    let other = upstream(fast(Kind::Llama, "other")).await;
    let place = Place::new();
    let authority = Authority::new("fleet").unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let mut routers = Vec::new();
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        lay_down(place.directory.path(), name, &authority, authority.pem());
        let mut yaml = place.node(name, "fleet", ports[index], ports[(index + 1) % 3]);
        if !over_quic {
            yaml = yaml.split(", identity:").next().unwrap().to_owned() + "}";
        }
        let mock = if index == 0 { &llama } else { &other };
        let rows = cluster(&format!("at-{name}"), mock, 0.05);
        routers.push(Router::start_unready(&file(&yaml, &rows, "")).await);
    }
    all_live(&routers.iter().collect::<Vec<_>>()).await;
    let [a, b, c] = &routers[..] else { unreachable!("three were started") };
    a.wait_for("A's cluster", |view| view["backends"][0]["own"]["health"] == "healthy").await;

    let (before, started) = (cpu_seconds(), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let cpu = (cpu_seconds() - before) / started.elapsed().as_secs_f64();

    let own = |router: &Router| {
        let snapshot = router.node.handle().snapshot();
        snapshot.view.backends[0].own.as_ref().map_or(0, |fact| fact.report.in_flight)
    };
    let told = |router: &Router| {
        let snapshot = router.node.handle().snapshot();
        let fact = snapshot.view.foreign.iter().find(|(backend, _)| backend.as_str() == "at-a");
        fact.map_or(0, |(_, fact)| fact.report.in_flight)
    };
    let mut seen = Vec::new();
    let mut running = None;
    for round in 0..ROUNDS {
        // Off the beat of the rounds of gossip, and slower than changes are told at most.
        tokio::time::sleep(Duration::from_millis(410 + 37 * (round as u64 % 11))).await;
        let wanted = match running.take() {
            None => {
                running = Some(a.chat(hello("tiny", true), &[]).await);
                1
            }
            Some(response) => {
                drop(response);
                0
            }
        };
        until(|| own(a) == wanted).await;
        let changed = Instant::now();
        let at = async |router: &Router| {
            until(|| told(router) == wanted).await;
            changed.elapsed()
        };
        let (at_b, at_c) = tokio::join!(at(b), at(c));
        seen.extend([at_b, at_c]);
    }
    (seen, cpu)
}

/// Waits for a condition to the millisecond.
async fn until(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < fixture::DEADLINE, "waited in vain");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// CPU time of this process so far (fields 14 and 15 of `/proc/self/stat`, in hundredths of a second).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}
