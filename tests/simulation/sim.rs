//! One run per seed, and the command that repeats it.

use crate::checks;
use crate::clients;
use crate::fleet::Fleet;
use crate::history::{Event, fingerprint};
use crate::randomness::{self, Draws};
use crate::schedule;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// Seeds of a run that was told none; few where nothing is optimised.
const SEEDS: Range<u64> = if cfg!(debug_assertions) { 1..4 } else { 1..201 };
const NODES: usize = 5;
/// Virtual time in which clients ask and faults happen.
const LENGTH: Duration = Duration::from_secs(120);
/// Time between two looks at the views.
const LOOK: Duration = Duration::from_millis(100);
/// After the last request: longer than any request may take.
const AFTERWARDS: Duration = Duration::from_secs(30);

type Recorded = Vec<(Duration, Event)>;

/// Names the seed to the process that plays it.
const SEED_VARIABLE: &str = "SIM_ONE_SEED";

/// What a run in a process of its own came to.
struct Outcome {
    fingerprint: String,
    broken: Vec<String>,
}

/// Plays `seed` in a process of its own: libraries keep counters for as long as a process lives, and a
/// run must not depend on those before it.
fn outcome(seed: u64) -> Outcome {
    let this_program = std::env::current_exe().unwrap();
    let child = Command::new(this_program)
        .args(["--exact", "sim::one_seed_keeps_every_invariant", "--nocapture"])
        .env(SEED_VARIABLE, seed.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let told =
        |key: &str| text.lines().filter_map(|line| line.strip_prefix(key)).map(str::to_owned).collect();
    let fingerprints: Vec<String> = told(FINGERPRINT);
    let mut broken: Vec<String> = told(BROKEN);
    if fingerprints.len() != 1 || child.status.success() != broken.is_empty() {
        let errors = String::from_utf8_lossy(&child.stderr);
        broken.push(format!("the run itself broke, {}: {errors}", child.status));
    }
    Outcome { fingerprint: fingerprints.concat(), broken }
}

const FINGERPRINT: &str = "history: ";
const BROKEN: &str = "broken: ";

async fn play(seed: u64) -> Recorded {
    let fleet = Fleet::new(seed, NODES);
    for node in 0..NODES {
        fleet.start(node).await;
    }
    let faults = schedule::plan(seed, NODES, LENGTH);
    let healed = faults.iter().map(|planned| planned.start + planned.length).max().unwrap_or_default();
    for planned in faults {
        tokio::spawn(schedule::inflict(fleet.clone(), planned));
    }
    tokio::spawn(load(fleet.clone(), Draws::new(!seed)));
    let looks = (LENGTH + AFTERWARDS).as_millis() / LOOK.as_millis();
    let mut told = false;
    for look in 0..looks {
        sleep(LOOK).await;
        fleet.note_views();
        if !told && LOOK * look as u32 > healed {
            fleet.history.note(Event::Healed);
            told = true;
        }
    }
    let events = fleet.history.events();
    for node in 0..NODES {
        fleet.kill(node).await;
    }
    events
}

/// Clients that ask at random moments, each the router it is told.
async fn load(fleet: Fleet, mut draws: Draws) {
    let mut spent = Duration::from_secs(4);
    sleep(spent).await;
    let mut request = 1;
    while spent < LENGTH {
        let pause = Duration::from_millis(draws.between(20, 300));
        sleep(pause).await;
        spent += pause;
        let node = draws.below(fleet.size as u64) as usize;
        tokio::spawn(clients::ask(fleet.clone(), request, node, Draws::new(draws.next())));
        request += 1;
    }
}

#[test]
fn one_seed_keeps_every_invariant() {
    let seed = std::env::var(SEED_VARIABLE).map_or(0, |seed| seed.parse().expect("a number"));
    randomness::seed(seed);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let events = runtime.block_on(play(seed));
    if std::env::var_os("SIM_TRACE").is_some() {
        for (at, event) in events.iter().filter(|(_, event)| !matches!(event, Event::View { .. })) {
            println!("{at:?} {event:?}");
        }
    }
    let broken = checks::all(&events);
    println!("\n{FINGERPRINT}{:016x}", fingerprint(&events));
    for broken in &broken {
        println!("{BROKEN}{broken}");
    }
    assert!(broken.is_empty(), "again: {}", command(seed));
}

fn command(seed: u64) -> String {
    format!("SIM_SEEDS={seed}..{} cargo test --release sim", seed + 1)
}

#[test]
fn every_seed_keeps_every_invariant() {
    let seeds = std::env::var("SIM_SEEDS").map_or(SEEDS, |range| {
        let (from, to) = range.split_once("..").expect("SIM_SEEDS=FROM..TO");
        from.trim().parse().expect("SIM_SEEDS: a number")..to.trim().parse().expect("SIM_SEEDS: a number")
    });
    let next = AtomicU64::new(seeds.start);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mine = std::iter::from_fn(|| {
                Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| seeds.contains(seed))
            });
            let failed = mine.filter_map(|seed| {
                let broken = outcome(seed).broken;
                let told = format!("seed {seed}:\n  {}\n  again: {}", broken.join("\n  "), command(seed));
                (!broken.is_empty()).then_some(told)
            });
            failed.collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!(
        "{} seeds of {} virtual seconds with {NODES} routers",
        seeds.end - seeds.start,
        LENGTH.as_secs()
    );
    assert!(failures.is_empty(), "{} seeds failed\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let (one, two, other) = (outcome(7), outcome(7), outcome(8));
    assert_eq!(one.fingerprint, two.fingerprint);
    assert_ne!(one.fingerprint, other.fingerprint);
}
