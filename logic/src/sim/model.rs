//! What is modelled: how fast each backend really is, which the router only learns by measuring.

use crate::backend::BackendSpec;
use crate::ids::Region;
use crate::money::Money;
use crate::route::Policy;
use crate::sim::trouble::{Trouble, Whom};
use std::sync::Arc;
use std::time::Duration;

/// A self-hosted cluster: one machine whose time its requests share.
///
/// Prompts are read one after the other; the first token comes with the end of a prompt's reading. Each
/// answer is then made at `decode_tokens_per_second`, or less once all of them together would exceed
/// `aggregate_tokens_per_second`. While a prompt is read answers take at most half of the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Requests at once; the others wait at the router.
    pub slots: u32,
    /// Input tokens read per second by the idle machine.
    pub prefill_tokens_per_second: f64,
    /// Output tokens per second of one answer alone.
    pub decode_tokens_per_second: f64,
    /// Output tokens per second of all answers together.
    pub aggregate_tokens_per_second: f64,
    /// Round trip to it.
    pub rtt: Duration,
}

/// An external provider: as many answers at once as its rate limits allow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Provider {
    /// Median time to first token, round trip included.
    pub ttft_p50: Duration,
    /// 95th percentile of the same; between them the distribution is lognormal.
    pub ttft_p95: Duration,
    /// Output tokens per second of one answer.
    pub decode_tokens_per_second: f64,
}

/// How a backend behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behaviour {
    /// A self-hosted cluster.
    Cluster(Machine),
    /// An external provider.
    Provider(Provider),
}

/// A backend as configured, and how it behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// As configured: all that the router is told beforehand.
    pub spec: Arc<BackendSpec>,
    /// How it behaves.
    pub behaviour: Behaviour,
}

/// Everything a replay runs on besides its trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The backends.
    pub backends: Vec<Backend>,
    /// The operator's routing settings.
    pub policy: Policy,
    /// Where the router runs.
    pub region: Region,
    /// How often facts about backends reach the decisions; what this router has running is always known.
    pub staleness: Duration,
    /// Longest a request may wait at the router.
    pub deadline: Duration,
    /// Time to first token that counts as attained.
    pub slo_ttft: Duration,
    /// Pause between two looks at a backend.
    pub probe_interval: Duration,
    /// What befalls backends.
    pub troubles: Vec<Trouble>,
    /// Seed of all randomness.
    pub seed: u64,
}

/// Why a scene cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// There is nothing to compare with.
    #[error(
        "no external provider has a known price: savings are counted against one (give a provider a `price`)"
    )]
    NoPricedProvider,
    /// A speed that would never end, or a behaviour of the other kind.
    #[error(
        "backend `{0}`: its speeds must be finite numbers above 0, its `ttftP95` at least its `ttftP50`, and its slots at least 1"
    )]
    Senseless(String),
    /// Something that cannot happen.
    #[error(
        "the trouble of `{0}` cannot happen: it must name a backend, or a region with a cluster, begin before it ends, slow down by a factor of at least 1, and end no sooner than a preempted machine is taken"
    )]
    Trouble(String),
    /// Staleness of nothing would refresh for ever.
    #[error("`staleness` must be at least 1 ms")]
    Staleness,
}

/// z of the 95th percentile of the standard normal distribution.
const Z95: f64 = 1.644_853_626_951_472_2;

impl Provider {
    /// The time to first token for a draw of the standard normal distribution.
    pub(super) fn ttft(&self, normal: f64) -> Duration {
        let (p50, p95) = (self.ttft_p50.as_secs_f64(), self.ttft_p95.as_secs_f64());
        let sigma = (p95 / p50).ln() / Z95;
        Duration::try_from_secs_f64(p50 * (sigma * normal).exp()).unwrap_or(Duration::MAX)
    }
}

impl Scene {
    /// Whether it can be replayed.
    ///
    /// # Errors
    /// [`ModelError`] for the first thing that keeps it from ending or from being compared.
    pub fn check(&self) -> Result<(), ModelError> {
        let speed = |speed: f64| speed.is_finite() && speed > 0.0;
        for backend in &self.backends {
            let good = match &backend.behaviour {
                Behaviour::Cluster(machine) => {
                    backend.spec.is_cluster()
                        && machine.slots > 0
                        && speed(machine.prefill_tokens_per_second)
                        && speed(machine.decode_tokens_per_second)
                        && speed(machine.aggregate_tokens_per_second)
                }
                Behaviour::Provider(provider) => {
                    !backend.spec.is_cluster()
                        && provider.ttft_p50 > Duration::ZERO
                        && provider.ttft_p95 >= provider.ttft_p50
                        && speed(provider.decode_tokens_per_second)
                }
            };
            if !good {
                return Err(ModelError::Senseless(backend.spec.id.to_string()));
            }
        }
        for trouble in &self.troubles {
            let hits_somebody = self.backends.iter().any(|backend| trouble.hits(&backend.spec));
            if !hits_somebody || !trouble.is_sensible() {
                return Err(ModelError::Trouble(match &trouble.whom {
                    Whom::Backend(id) => id.to_string(),
                    Whom::Region(region) => region.to_string(),
                }));
            }
        }
        if self.staleness < Duration::from_millis(1) {
            return Err(ModelError::Staleness);
        }
        self.cheapest_external(1, 1).map(|_| ()).ok_or(ModelError::NoPricedProvider)
    }

    /// What these tokens cost at the cheapest provider, traffic to it included, its rate limits left out.
    pub(super) fn cheapest_external(&self, input_tokens: u32, output_tokens: u32) -> Option<Money> {
        let providers = self.backends.iter().filter(|backend| !backend.spec.is_cluster());
        let cost = |spec: &BackendSpec| {
            let prices = spec.models.iter().filter_map(|model| model.price.as_ref());
            let price = prices.map(|price| price.predict(input_tokens, output_tokens)).min()?;
            Some(price + self.policy.network.toll(&self.region, spec).of(input_tokens, output_tokens, true))
        };
        providers.filter_map(|backend| cost(&backend.spec)).min()
    }
}
