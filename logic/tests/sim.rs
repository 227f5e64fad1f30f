//! Replays over made-up scenes: nothing is lost, nothing beats the bound, the seed decides everything.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "sim/troubles.rs"]
mod troubles;

use llm_router_logic::backend::{BackendSpec, Kind, Placement, ServedModel};
use llm_router_logic::capability::Capabilities;
use llm_router_logic::cost::price::TokenPrice;
use llm_router_logic::guard::limit::RateLimit;
use llm_router_logic::ids::Region;
use llm_router_logic::money::Money;
use llm_router_logic::route::{CostBasis, Policy, Strategy};
use llm_router_logic::sim::{
    Arrival, Backend, Behaviour, Choice, Machine, Provider, Scene, clairvoyant_bound, replay,
};
use llm_router_logic::time::Moment;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn spec(name: &str, kind: Kind, placement: Placement) -> BackendSpec {
    BackendSpec {
        id: name.into(),
        kind,
        placement,
        models: vec![ServedModel::named("m")],
        default_model: None,
        capabilities: Capabilities::default(),
        rate_limit: None,
        slots: None,
        scale_to_zero: None,
        reached_from: Vec::new(),
    }
}

fn cluster(name: &str, usd_per_hour: f64, slots: u32, prefill: f64, decode: f64) -> Backend {
    let placement = Placement::Cluster {
        cloud: "aws".into(),
        region: Region::new("r"),
        cost_per_hour: Money::from_usd(usd_per_hour).unwrap(),
    };
    let machine = Machine {
        slots,
        prefill_tokens_per_second: prefill,
        decode_tokens_per_second: decode,
        aggregate_tokens_per_second: decode * f64::from(slots) / 2.0,
        rtt: ms(5),
    };
    Backend { spec: Arc::new(spec(name, Kind::Llama, placement)), behaviour: Behaviour::Cluster(machine) }
}

fn provider(name: &str, per_million: f64, requests_per_minute: Option<u32>) -> Backend {
    let token = Money::from_usd(per_million / 1e6).unwrap();
    let price = TokenPrice::flat(token, token.times(4));
    let mut spec = spec(name, Kind::OpenAi, Placement::External);
    spec.models[0].price = Some(price);
    spec.rate_limit = requests_per_minute.map(|limit| RateLimit {
        requests_per_minute: Some(limit),
        tokens_per_minute: None,
        burst_multiplier: 1.0,
        ..RateLimit::default()
    });
    let behaviour = Behaviour::Provider(Provider {
        ttft_p50: ms(400),
        ttft_p95: ms(1_200),
        decode_tokens_per_second: 80.0,
    });
    Backend { spec: Arc::new(spec), behaviour }
}

fn scene(backends: Vec<Backend>, seed: u64) -> Scene {
    Scene {
        backends,
        policy: Policy { cost_basis: CostBasis::Marginal, ..Policy::default() },
        region: "us-west-2".into(),
        staleness: ms(500),
        deadline: Duration::from_secs(60),
        slo_ttft: Duration::from_secs(2),
        probe_interval: Duration::from_secs(5),
        troubles: Vec::new(),
        seed,
    }
}

fn trace(rows: &[(u64, u32, u32)]) -> Vec<Arrival> {
    let mut at = Moment::ZERO;
    let arrival = |(gap_ms, input_tokens, output_tokens): &(u64, u32, u32)| {
        at = at + ms(*gap_ms);
        Arrival { at, input_tokens: *input_tokens, output_tokens: *output_tokens }
    };
    rows.iter().map(arrival).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_request_ends_once_and_no_strategy_beats_the_bound(
        rows in proptest::collection::vec((0u64..400, 0u32..3_000, 0u32..600), 1..120),
        slots in 1u32..9,
        decode in 5.0f64..200.0,
        prefill in 50.0f64..5_000.0,
        limit in proptest::option::of(1u32..120),
        seed in any::<u64>(),
    ) {
        let backends = vec![
            cluster("fast", 1.0, slots, prefill, decode),
            cluster("slow", 0.1, 1, prefill / 8.0, decode / 8.0),
            provider("cheap", 0.5, limit),
            provider("dear", 2.0, None),
        ];
        let (scene, trace) = (scene(backends, seed), trace(&rows));
        let all: Vec<_> = Choice::ALL.into_iter().map(|choice| replay(&scene, &trace, choice)).collect();
        let bound = clairvoyant_bound(&scene, &trace, &all);
        prop_assert!(bound.cost >= bound.machine_cost && bound.cost <= bound.machine_cost + bound.external_cost);
        for replayed in &all {
            prop_assert_eq!(replayed.ttfts.len() + replayed.refused, trace.len(), "{}", replayed.choice);
            prop_assert!(replayed.at_clusters <= replayed.ttfts.len());
            let summary = replayed.summary(&bound, scene.slo_ttft);
            prop_assert!(
                summary.cost_usd >= bound.cost, "{} costs {} below {}", summary.strategy, summary.cost_usd, bound.cost
            );
            prop_assert!((0.0..=1.0).contains(&summary.slo_attainment));
            prop_assert!(replayed == &replay(&scene, &trace, replayed.choice), "the seed decides everything");
        }
    }
}

#[test]
fn the_bound_is_what_a_machine_that_can_take_half_must_leave() {
    // 100 requests of 100 output tokens in 99 s; the machine makes 50 tokens/s, so about half of them.
    let rows = [(1_000, 0, 101); 100];
    let scene = scene(vec![cluster("own", 0.0, 2, 1e6, 50.0), provider("api", 1.0, None)], 1);
    let trace = trace(&rows);
    let bound = clairvoyant_bound(&scene, &trace, &[]);
    let share = bound.cost.as_usd() / bound.external_cost.as_usd();
    assert!((share - 0.5).abs() < 0.02, "{share}");
}

#[test]
fn an_idle_cluster_is_filled_first_and_a_full_one_overflows_to_a_provider() {
    let backends = vec![cluster("own", 0.1, 4, 5_000.0, 50.0), provider("api", 1.0, None)];
    let scene = scene(backends, 3);
    let calm = replay(&scene, &trace(&[(10_000, 200, 50); 40]), Choice::Ours(Strategy::Slo));
    assert_eq!((calm.at_clusters, calm.provider_cost), (40, Money::ZERO));
    let rush = replay(&scene, &trace(&[(10, 200, 50); 400]), Choice::Ours(Strategy::Slo));
    assert!(rush.at_clusters > 4 && rush.at_clusters < 400, "{}", rush.at_clusters);
    assert_eq!(rush.refused, 0);
}

#[test]
fn a_rate_limit_keeps_requests_away_and_those_nobody_takes_are_counted_and_charged() {
    let scene = scene(vec![provider("api", 1.0, Some(60))], 4);
    let replayed = replay(&scene, &trace(&[(100, 100, 10); 100]), Choice::RoundRobin);
    assert!(replayed.refused > 50, "{}", replayed.refused);
    assert!(replayed.refused_cost > Money::ZERO);
    let bound = clairvoyant_bound(&scene, &trace(&[(100, 100, 10); 100]), std::slice::from_ref(&replayed));
    let summary = replayed.summary(&bound, scene.slo_ttft);
    assert_eq!(summary.cost_usd, bound.external_cost, "dropping a request saves nothing");
    assert_eq!(summary.captured_saving, None);
    assert!(summary.slo_attainment < 0.5);
}

#[test]
fn a_trace_that_pauses_for_a_year_is_replayed_at_once_and_as_if_time_had_been_told_all_along() {
    let scene = scene(vec![cluster("own", 0.1, 4, 5_000.0, 50.0), provider("api", 1.0, None)], 5);
    let year_ms = 365 * 86_400_000;
    let rows = [(0, 200, 50), (year_ms, 300, 20), (10, 100, 5), (year_ms, 100, 5)];
    let replayed = replay(&scene, &trace(&rows), Choice::Ours(Strategy::Slo));
    assert_eq!((replayed.ttfts.len(), replayed.refused), (4, 0));
}

#[test]
fn traffic_is_paid_for_and_no_strategy_beats_the_bound_with_it() {
    let backends = vec![cluster("own", 0.1, 4, 5_000.0, 50.0), provider("api", 1.0, None)];
    let mut scene = scene(backends, 5);
    // The router runs in another cloud than the cluster.
    scene.policy.network.cloud = "gcp".to_owned();
    let trace = trace(&[(10_000, 200, 50); 40]);
    let replayed = replay(&scene, &trace, Choice::Ours(Strategy::Slo));
    // 200 tokens of 4 bytes at $0.12 a gigabyte there, 50 events of 200 bytes at $0.09 back.
    let each = 200.0 * 4.0 * 0.12e-9 + 50.0 * 200.0 * 0.09e-9;
    assert!((replayed.egress_cost.as_usd() - 40.0 * each).abs() < 1e-9, "{}", replayed.egress_cost);
    let bound = clairvoyant_bound(&scene, &trace, std::slice::from_ref(&replayed));
    assert_eq!(replayed.summary(&bound, scene.slo_ttft).cost_usd, bound.machine_cost + replayed.egress_cost);
    assert!(
        bound.external_cost > bound.machine_cost && bound.cost <= bound.machine_cost + replayed.egress_cost
    );
}

#[test]
fn results_have_the_words_of_the_contract() {
    let scene = scene(vec![cluster("own", 0.1, 4, 5_000.0, 50.0), provider("api", 1.0, None)], 5);
    let trace = trace(&[(1_000, 200, 50); 10]);
    let replayed = replay(&scene, &trace, Choice::Ours(Strategy::Slo));
    let bound = clairvoyant_bound(&scene, &trace, std::slice::from_ref(&replayed));
    let json = serde_json::to_value(replayed.summary(&bound, scene.slo_ttft)).unwrap();
    let words: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        words,
        [
            "strategy",
            "requests",
            "cost_usd",
            "saving_vs_external_usd",
            "bound_cost_usd",
            "captured_saving",
            "slo_attainment",
            "ttft_ms"
        ]
    );
}
