//! A small cluster that each test bends to its case.

use llm_router_logic::backend::{BackendSpec, Kind, Placement, ServedModel};
use llm_router_logic::capability::Capabilities;
use llm_router_logic::cost::price::TokenPrice;
use llm_router_logic::guard::breaker::{BreakerState, Cause};
use llm_router_logic::ids::{NodeId, Region};
use llm_router_logic::money::Money;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::request::Request;
use llm_router_logic::route::{
    Loads, LocalLoad, Plan, Policy, PreparedView, Reason, Refusal, Strategy, plan,
};
use llm_router_logic::standing::Standing;
use llm_router_logic::time::Moment;
use llm_router_logic::view::{BackendView, ClusterView, ModelGuard, OwnFact, PeerFact};
use std::sync::Arc;

/// The moment of every decision.
pub(crate) const NOW: Moment = Moment::from_secs(1_000);

/// One backend under test.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) spec: BackendSpec,
    pub(crate) own: Option<OwnFact>,
    pub(crate) peers: Vec<PeerFact>,
    pub(crate) load: LocalLoad,
    pub(crate) standing: Standing,
}

/// An own observation made now.
pub(crate) fn seen(report: Report) -> OwnFact {
    OwnFact { report, observed_at: NOW, ..OwnFact::default() }
}

/// A healthy cluster that serves `tiny`, at `usd_per_hour` and `speed` tokens per second.
pub(crate) fn cluster(name: &str, usd_per_hour: f64, speed: f32) -> Part {
    Part {
        spec: BackendSpec {
            id: name.into(),
            kind: Kind::Llama,
            placement: Placement::Cluster {
                cloud: "aws".into(),
                region: Region::new("us-west-2"),
                cost_per_hour: Money::from_usd(usd_per_hour).unwrap(),
            },
            models: vec![ServedModel::named("tiny")],
            default_model: None,
            capabilities: Capabilities::default(),
            rate_limit: None,
            slots: Some(4),
            scale_to_zero: None,
            reached_from: Vec::new(),
        },
        own: Some(seen(Report {
            health: Health::Healthy,
            tokens_per_second: Some(speed),
            ..Report::default()
        })),
        peers: Vec::new(),
        load: LocalLoad { limit: 4, ..LocalLoad::default() },
        standing: Standing::default(),
    }
}

/// A provider that serves `tiny`, at USD per million tokens of input and output.
pub(crate) fn provider(name: &str, input: f64, output: f64) -> Part {
    let [input, output] = [input, output].map(|usd| Money::from_usd(usd / 1e6).unwrap());
    let price = TokenPrice::flat(input, output);
    Part {
        spec: BackendSpec {
            kind: Kind::OpenAi,
            placement: Placement::External,
            models: vec![ServedModel { price: Some(price), ..ServedModel::named("tiny") }],
            slots: None,
            ..cluster(name, 0.0, 0.0).spec
        },
        own: None,
        peers: Vec::new(),
        load: LocalLoad { limit: 64, ..LocalLoad::default() },
        standing: Standing::default(),
    }
}

impl Part {
    /// Changes the own report.
    pub(crate) fn report(mut self, change: impl FnOnce(&mut Report)) -> Self {
        change(&mut self.own.get_or_insert_with(|| seen(Report::default())).report);
        self
    }

    /// Changes the own fact.
    pub(crate) fn fact(mut self, change: impl FnOnce(&mut OwnFact)) -> Self {
        change(self.own.get_or_insert_with(|| seen(Report::default())));
        self
    }

    /// Changes the local load.
    pub(crate) fn load(mut self, change: impl FnOnce(&mut LocalLoad)) -> Self {
        change(&mut self.load);
        self
    }

    /// Changes what is configured.
    pub(crate) fn spec(mut self, change: impl FnOnce(&mut BackendSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    /// Changes the first model.
    pub(crate) fn model(mut self, change: impl FnOnce(&mut ServedModel)) -> Self {
        change(&mut self.spec.models[0]);
        self
    }

    /// No measured throughput, no price.
    pub(crate) fn unpriced(self) -> Self {
        self.report(|report| report.tokens_per_second = None).model(|model| model.price = None)
    }

    /// Ill as this node sees it.
    pub(crate) fn ill(self) -> Self {
        self.report(|report| report.health = Health::Unhealthy)
    }

    /// Adds what a peer said `age_ms` ago.
    pub(crate) fn peer(mut self, report: Report, age_ms: u64) -> Self {
        self.peers.push(PeerFact {
            node: NodeId::new("gcp-0"),
            region: Region::new("us-central1"),
            report,
            arrived_at: Moment::from_micros(NOW.micros() - age_ms * 1_000),
            models: Arc::from([]),
        });
        self
    }
}

/// `part` with the breaker of `model` in `state` after five failures.
pub(crate) fn ejected(part: Part, model: &str, state: BreakerState) -> Part {
    let guard = ModelGuard {
        model: model.to_owned(),
        breaker: state,
        cause: Some(Cause::InARow { failures: 5 }),
        closed_until: None,
    };
    part.fact(|fact| fact.guards = Arc::from([guard]))
}

/// A request for `tiny` with 100 tokens in and 100 out.
pub(crate) fn chat() -> Request {
    Request {
        model: Some("tiny".into()),
        needs: Capabilities::new(["chat"]),
        input_tokens: 100,
        output_tokens: 100,
        ..Request::default()
    }
}

/// A request under `strategy`.
pub(crate) fn chat_by(strategy: Strategy) -> Request {
    let mut request = chat();
    request.hints.strategy = Some(strategy);
    request
}

/// Loads by index, as the parts have them.
pub(crate) struct PartLoads(Vec<LocalLoad>);

impl Loads for PartLoads {
    fn load(&self, index: usize, _tokens: u32, _now: Moment) -> LocalLoad {
        self.0[index]
    }
}

/// The parts as a view with their loads.
pub(crate) fn view(parts: &[Part]) -> (PreparedView, PartLoads) {
    view_under(parts, &Policy::default())
}

/// The same under a policy.
pub(crate) fn view_under(parts: &[Part], policy: &Policy) -> (PreparedView, PartLoads) {
    let backends = parts.iter().map(|part| BackendView {
        spec: Arc::new(part.spec.clone()),
        own: part.own.clone(),
        peers: part.peers.clone(),
        standing: part.standing,
    });
    let view = ClusterView {
        node: NodeId::new("aws-0"),
        region: Region::new("us-west-2"),
        backends: backends.collect(),
        foreign: Vec::new(),
        members: Vec::new(),
    };
    let view = PreparedView::new(view, policy, NOW, None);
    (view, PartLoads(parts.iter().map(|part| part.load).collect()))
}

/// Plans `request` over `parts`.
pub(crate) fn planned(parts: &[Part], request: &Request, policy: &Policy, draw: u64) -> Plan {
    let (view, loads) = view_under(parts, policy);
    plan(&view, &loads, request, policy, draw, NOW)
}

/// Backends and reasons of the steps, under the default policy.
pub(crate) fn steps(parts: &[Part], request: &Request) -> Vec<(String, Reason)> {
    let plan = planned(parts, request, &Policy::default(), 7);
    plan.steps.iter().map(|step| (step.backend.to_string(), step.reason)).collect()
}

/// Names of the steps in order.
pub(crate) fn order(parts: &[Part], request: &Request) -> Vec<String> {
    steps(parts, request).into_iter().map(|(name, _)| name).collect()
}

/// The refusal of the backend `name`, under the default policy.
pub(crate) fn refusal(parts: &[Part], request: &Request, name: &str) -> Option<Refusal> {
    let plan = planned(parts, request, &Policy::default(), 7);
    plan.refused.into_iter().find(|(id, _)| id.as_str() == name).map(|(_, refusal)| refusal)
}
