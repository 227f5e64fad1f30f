//! What goes wrong in a run, and when: all of it follows from the seed.

use crate::fleet::{CLUSTERS, Fleet, PROVIDERS, fresh_backend};
use crate::history::Event;
use crate::network::Host;
use crate::randomness::Draws;
use llm_router::mock::{Action, Faults, Match, Rule, Speed, Wait};
use std::time::Duration;
use tokio::time::sleep;

/// One fault.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    KillNode(usize),
    RestartStorm {
        node: usize,
        times: u64,
    },
    FreezeNode(usize),
    /// The nodes of the set and the others lose each other, both ways.
    Partition(Vec<usize>),
    OneWay {
        from: usize,
        to: usize,
    },
    SingleLink(usize, usize),
    /// One node loses one backend that the others still reach.
    BackendLink {
        node: usize,
        backend: usize,
    },
    /// Gossip is lost, repeated, overtaken and late everywhere.
    BadNetwork,
    KillBackend(usize),
    HangBackend(usize),
    SlowBackend(usize),
    /// Says it is well and fails what it is asked.
    LyingBackend(usize),
    RateLimit(usize),
    CutStreams(usize),
    /// Bills a thousand times what it used.
    LyingUsage(usize),
    /// A node loses a backend and one of the peers that could relay there.
    RelayLink {
        node: usize,
        peer: usize,
        backend: usize,
    },
}

/// A fault with its time.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) start: Duration,
    pub(crate) length: Duration,
    pub(crate) fault: Fault,
}

/// Faults of a run of `length` with `nodes` routers: none in the first 8 s, which the fleet needs to
/// get to know itself, none after the last 20 s began.
pub(crate) fn plan(seed: u64, nodes: usize, length: Duration) -> Vec<Planned> {
    let mut draws = Draws::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let count = draws.between(4, 10);
    let end = length.as_millis() as u64 - 20_000;
    let planned = (0..count).map(|_| {
        let start = draws.between(8_000, end - 2_000);
        let length = draws.between(500, 15_000).min(end - start);
        let millis = Duration::from_millis;
        Planned { start: millis(start), length: millis(length), fault: draw(&mut draws, nodes) }
    });
    planned.collect()
}

fn draw(draws: &mut Draws, nodes: usize) -> Fault {
    let node = draws.below(nodes as u64) as usize;
    let peer = (node + 1 + draws.below(nodes as u64 - 1) as usize) % nodes;
    let backend = draws.below((CLUSTERS + PROVIDERS) as u64) as usize;
    match draws.below(17) {
        0 => Fault::KillNode(node),
        1 => Fault::RestartStorm { node, times: draws.between(2, 5) },
        2 => Fault::FreezeNode(node),
        3 => Fault::Partition((0..nodes).filter(|_| draws.chance(0.5)).collect()),
        4 => Fault::OneWay { from: node, to: peer },
        5 => Fault::SingleLink(node, peer),
        6 => Fault::BackendLink { node, backend },
        7 => Fault::BadNetwork,
        8 => Fault::KillBackend(backend),
        9 => Fault::HangBackend(backend),
        10 => Fault::SlowBackend(backend),
        11 => Fault::LyingBackend(backend),
        12 => Fault::RateLimit(backend),
        13 => Fault::LyingUsage(backend),
        14 | 15 => Fault::RelayLink { node, peer, backend },
        _ => Fault::CutStreams(backend),
    }
}

/// Carries out one fault from its start to its end.
pub(crate) async fn inflict(fleet: Fleet, planned: Planned) {
    sleep(planned.start).await;
    let Planned { length, fault, .. } = planned;
    let network = fleet.network.clone();
    fleet.history.note(Event::Fault(format!("{fault:?} for {length:?}")));
    let rule = |action| {
        Faults::new(1, vec![Rule { r#match: Match::default(), times: None, probability: None, action }])
    };
    let twisted = async |backend: usize, action| {
        network.backend(backend).set_faults(rule(action).unwrap());
        sleep(length).await;
        network.backend(backend).set_faults(Faults::none());
    };
    let both = |a: usize, b: usize, cut: bool| {
        network.set_link(Host::Node(a), Host::Node(b), |link| link.cut = cut);
        network.set_link(Host::Node(b), Host::Node(a), |link| link.cut = cut);
    };
    let unreached = |node: usize, backend: usize, cut: bool| {
        let (node, backend) = (Host::Node(node), Host::Backend(backend));
        network.set_link(node, backend, |link| link.cut = cut);
        network.set_link(backend, node, |link| link.cut = cut);
    };
    match &fault {
        Fault::KillNode(node) => {
            fleet.restart(*node, length).await;
        }
        Fault::RestartStorm { node, times } => {
            for _ in 0..*times {
                fleet.restart(*node, length / (2 * *times as u32)).await;
                sleep(length / (2 * *times as u32)).await;
            }
        }
        Fault::FreezeNode(node) => {
            network.freeze(Host::Node(*node), length);
            sleep(length).await;
        }
        Fault::Partition(side) => {
            let pairs = || {
                (0..fleet.size).filter(|n| !side.contains(n)).flat_map(|n| side.iter().map(move |s| (n, *s)))
            };
            pairs().for_each(|(a, b)| both(a, b, true));
            sleep(length).await;
            pairs().for_each(|(a, b)| both(a, b, false));
        }
        Fault::OneWay { from, to } => {
            network.set_link(Host::Node(*from), Host::Node(*to), |link| link.cut = true);
            sleep(length).await;
            network.set_link(Host::Node(*from), Host::Node(*to), |link| link.cut = false);
        }
        Fault::SingleLink(a, b) => {
            both(*a, *b, true);
            sleep(length).await;
            both(*a, *b, false);
        }
        Fault::BackendLink { node, backend } => {
            unreached(*node, *backend, true);
            sleep(length).await;
            unreached(*node, *backend, false);
        }
        Fault::RelayLink { node, peer, backend } => {
            unreached(*node, *backend, true);
            both(*node, *peer, true);
            sleep(length).await;
            unreached(*node, *backend, false);
            both(*node, *peer, false);
        }
        Fault::LyingUsage(backend) => {
            twisted(*backend, Action::WrongUsage { factor: Some(1_000.0), missing: None }).await;
        }
        Fault::BadNetwork => {
            let all =
                || (0..fleet.size).flat_map(|a| (0..fleet.size).map(move |b| (Host::Node(a), Host::Node(b))));
            for (from, to) in all() {
                network.set_link(from, to, |link| {
                    (link.loss, link.duplication) = (0.2, 0.1);
                    (link.delay, link.jitter) = (Duration::from_millis(75), Duration::from_millis(60));
                });
            }
            sleep(length).await;
            for (from, to) in all() {
                let good = crate::network::Link::GOOD;
                network.set_link(from, to, |link| {
                    (link.loss, link.duplication) = (good.loss, good.duplication);
                    (link.delay, link.jitter) = (good.delay, good.jitter);
                });
            }
        }
        Fault::KillBackend(backend) => {
            network.kill(Host::Backend(*backend));
            sleep(length).await;
            network.replace_backend(*backend, fresh_backend(*backend));
            network.start(Host::Backend(*backend));
        }
        Fault::HangBackend(backend) => {
            network.freeze(Host::Backend(*backend), length);
            sleep(length).await;
        }
        Fault::SlowBackend(backend) => {
            network
                .backend(*backend)
                .set_speed(Speed { ttft: Duration::from_secs(2), tokens_per_second: 4.0 });
            sleep(length).await;
            let usual = Speed { ttft: Duration::from_millis(100), tokens_per_second: 60.0 };
            network.backend(*backend).set_speed(usual);
        }
        Fault::LyingBackend(backend) => {
            twisted(*backend, Action::Status { code: 500, retry_after: None, body: None }).await;
        }
        Fault::RateLimit(backend) => {
            let retry_after = Some(Wait(Duration::from_secs(1)));
            twisted(*backend, Action::Status { code: 429, retry_after, body: None }).await;
        }
        Fault::CutStreams(backend) => twisted(*backend, Action::Cut { after_tokens: 4 }).await,
    }
    fleet.history.note(Event::Fault(format!("end of {fault:?}")));
}
