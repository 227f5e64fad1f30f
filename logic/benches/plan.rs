//! How long one decision takes: `cargo bench -p llm-router-logic`.
//!
//! Aims: at most 1 µs over 10 backends, at most 20 µs over 1,000. What it allocates is counted by
//! `tests/allocations.rs`.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use llm_router_logic::backend::{BackendSpec, Kind, Placement, ServedModel};
use llm_router_logic::capability::Capabilities;
use llm_router_logic::cost::price::TokenPrice;
use llm_router_logic::ids::{NodeId, Region};
use llm_router_logic::money::Money;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::request::Request;
use llm_router_logic::route::{Loads, LocalLoad, Policy, PreparedView, Strategy, plan};
use llm_router_logic::standing::Standing;
use llm_router_logic::time::Moment;
use llm_router_logic::view::{BackendView, ClusterView, OwnFact, PeerFact};
use std::sync::Arc;

const NOW: Moment = Moment::from_secs(1_000);
const SIZES: [usize; 3] = [10, 100, 1_000];

fn main() {
    divan::main();
}

/// Loads by index without any lock, so that the decision alone is measured.
struct Busy(Vec<LocalLoad>);

impl Loads for Busy {
    fn load(&self, index: usize, _tokens: u32, _now: Moment) -> LocalLoad {
        self.0[index]
    }
}

/// Two clusters for each provider, one in ten refused, each known by this node and heard of by two.
fn backend(n: usize) -> BackendView {
    let cluster = !n.is_multiple_of(3);
    let micro = |usd: usize| Money::from_pico(usd as i128 * 1_000_000);
    let placement = Placement::Cluster {
        cloud: "aws".to_owned(),
        region: Region::new("us-west-2"),
        cost_per_hour: micro(90_000 + n % 40 * 1_000),
    };
    let price = TokenPrice::flat(micro(1), micro(2));
    let report = Report {
        health: if n % 10 == 9 { Health::Unhealthy } else { Health::Healthy },
        queue_depth: (n % 7) as u32,
        tokens_per_second: Some(10.0 + (n % 30) as f32),
        latency_p95_ms: Some(400),
        ttft_ms: Some(200 + (n % 50) as u32),
        rtt_ms: Some(3),
        slots: Some(4),
        ..Report::default()
    };
    let peer = |name: &str| PeerFact {
        node: NodeId::new(name),
        region: Region::new("us-central1"),
        report,
        arrived_at: Moment::from_millis(999_500),
        models: Arc::from([]),
    };
    BackendView {
        spec: Arc::new(BackendSpec {
            id: format!("backend-{n}").as_str().into(),
            kind: if cluster { Kind::Llama } else { Kind::OpenAi },
            placement: if cluster { placement } else { Placement::External },
            models: vec![ServedModel {
                price: (!cluster).then_some(price),
                context_window: Some(8_192),
                ..ServedModel::named("llama-3.1-8b")
            }],
            default_model: None,
            capabilities: Capabilities::default(),
            rate_limit: None,
            slots: None,
            scale_to_zero: None,
            reached_from: Vec::new(),
        }),
        own: Some(OwnFact { report, observed_at: NOW, ..OwnFact::default() }),
        peers: vec![peer("gcp-0"), peer("azure-0")],
        standing: Standing::default(),
    }
}

fn scene(size: usize) -> (PreparedView, Busy, Request) {
    let view = ClusterView {
        node: NodeId::new("aws-0"),
        region: Region::new("us-west-2"),
        backends: (0..size).map(backend).collect(),
        foreign: Vec::new(),
        members: Vec::new(),
    };
    let view = PreparedView::new(view, &Policy::default(), NOW, None);
    let load = |n: usize| LocalLoad { in_flight: (n % 4) as u32, limit: 4, ..LocalLoad::default() };
    let request = Request {
        model: Some("llama-3.1-8b".to_owned()),
        needs: Capabilities::new(["chat", "tools"]),
        input_tokens: 1_200,
        output_tokens: 250,
        ..Request::default()
    };
    (view, Busy((0..size).map(load).collect()), request)
}

#[divan::bench(args = SIZES, sample_size = 200)]
fn hybrid(bencher: Bencher<'_, '_>, size: usize) {
    decide(bencher, size, Strategy::Hybrid);
}

#[divan::bench(args = SIZES, sample_size = 200)]
fn latency(bencher: Bencher<'_, '_>, size: usize) {
    decide(bencher, size, Strategy::Latency);
}

fn decide(bencher: Bencher<'_, '_>, size: usize, strategy: Strategy) {
    let (view, loads, request) = scene(size);
    let policy = Policy { strategy, ..Policy::default() };
    let mut draw = 0_u64;
    bencher.counter(ItemsCount::new(size)).bench_local(|| {
        draw = draw.wrapping_add(1);
        // Freed within the measurement, as each request frees its own: plans kept for later would be
        // written to memory that no cache holds.
        black_box(plan(black_box(&view), &loads, black_box(&request), &policy, draw, NOW)).steps.len()
    });
}
