//! What a decision allocates: its plan and nothing else.
//!
//! Counted by an allocator of this test binary's own. A plan is one vector of its steps, made in one piece,
//! and one of the refusals, which grows as they are found: for 4, 8, 16 and so on. The names in both are
//! shared with the view. That is all a decision may allocate, however many backends it judged.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait; this one counts and passes on")]

use llm_router_logic::backend::{BackendSpec, Kind, Placement, ServedModel};
use llm_router_logic::capability::Capabilities;
use llm_router_logic::ids::{NodeId, Region};
use llm_router_logic::money::Money;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::request::Request;
use llm_router_logic::route::{CostBasis, Loads, LocalLoad, Policy, PreparedView, Strategy, plan};
use llm_router_logic::standing::Standing;
use llm_router_logic::time::Moment;
use llm_router_logic::view::{BackendView, ClusterView, OwnFact};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    static COUNTED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts what this thread asks of it.
struct Counting;

fn count() {
    // Gone only while the thread ends, when nobody counts any more.
    let _ = COUNTED.try_with(|counted| counted.set(counted.get() + 1));
}

// SAFETY: every call is passed on as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATIONS: Counting = Counting;

const NOW: Moment = Moment::from_secs(1_000);

struct Idle;

impl Loads for Idle {
    fn load(&self, index: usize, _tokens: u32, _now: Moment) -> LocalLoad {
        LocalLoad { in_flight: index as u32 % 5, limit: 4, ..LocalLoad::default() }
    }
}

/// Clusters and providers in turn; every `refused_every`th is found dead.
fn view(size: usize, refused_every: usize) -> PreparedView {
    let backend = |n: usize| {
        let placement = Placement::Cluster {
            cloud: "aws".to_owned(),
            region: Region::new("us-west-2"),
            cost_per_hour: Money::from_usd(0.1 + (n % 7) as f64 / 100.0).unwrap(),
        };
        let dead = refused_every > 0 && n.is_multiple_of(refused_every);
        let report = Report {
            health: if dead { Health::Unhealthy } else { Health::Healthy },
            slots: Some(4),
            tokens_per_second: Some(20.0),
            ttft_ms: Some(200 + n as u32 % 90),
            ..Report::default()
        };
        BackendView {
            spec: Arc::new(BackendSpec {
                id: format!("backend-{n}").as_str().into(),
                kind: if n % 3 == 2 { Kind::OpenAi } else { Kind::Llama },
                placement: if n % 3 == 2 { Placement::External } else { placement },
                models: vec![ServedModel::named("llama-3.1-8b")],
                default_model: None,
                capabilities: Capabilities::default(),
                rate_limit: None,
                slots: None,
                scale_to_zero: None,
                reached_from: Vec::new(),
            }),
            own: Some(OwnFact { report, observed_at: NOW, ..OwnFact::default() }),
            peers: Vec::new(),
            standing: Standing::default(),
        }
    };
    let view = ClusterView {
        node: NodeId::new("aws-0"),
        region: Region::new("us-west-2"),
        backends: (0..size).map(backend).collect(),
        foreign: Vec::new(),
        members: Vec::new(),
    };
    PreparedView::new(view, &Policy::default(), NOW, None)
}

/// How often a vector that grows one by one asks for memory until it holds `len`.
fn growths(len: usize) -> usize {
    let capacities = std::iter::successors(Some(4), |capacity| Some(capacity * 2));
    if len == 0 {
        0
    } else {
        capacities.take_while(|capacity: &usize| capacity / 2 < len || *capacity == 4).count()
    }
}

#[test]
fn a_decision_allocates_its_steps_once_and_the_list_of_its_refusals_and_nothing_else() {
    let request = Request {
        model: Some("llama-3.1-8b".to_owned()),
        needs: Capabilities::new(["chat", "tools"]),
        input_tokens: 1_200,
        output_tokens: 250,
        prefix: Some(77),
        ..Request::default()
    };
    for size in [1, 10, 16, 17, 64, 65, 1_000] {
        for refused_every in [0, 7, 2] {
            let view = view(size, refused_every);
            for strategy in Strategy::ALL {
                for cost_basis in [CostBasis::Average, CostBasis::Marginal] {
                    let policy = Policy { strategy, cost_basis, ..Policy::default() };
                    for draw in 0..20 {
                        let before = COUNTED.get();
                        let made = plan(&view, &Idle, &request, &policy, draw, NOW);
                        let counted = COUNTED.get() - before;
                        let steps = usize::from(!made.steps.is_empty());
                        let allowed = steps + growths(made.refused.len());
                        assert!(
                            counted <= allowed,
                            "{counted} allocations, {allowed} for {} steps and {} refusals: {strategy}, {size} backends",
                            made.steps.len(),
                            made.refused.len(),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_allowance_is_that_of_a_vector_that_grows() {
    for len in [0, 1, 4, 5, 8, 9, 100] {
        let before = COUNTED.get();
        let mut list = Vec::new();
        for n in 0..len {
            list.push((n, [0_u64; 8]));
        }
        assert_eq!(COUNTED.get() - before, growths(len), "{len}");
    }
}
