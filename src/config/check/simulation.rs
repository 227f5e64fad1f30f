//! The section `simulation`: how backends behave in a replay, and what is assumed of those it leaves out.

use super::Check;
use crate::config::duration::Span;
use crate::config::file::{SimulatedFile, SimulationFile};
use crate::config::path::Path;
use crate::config::settings::{Backend, Simulated, Simulation};
use llm_router_logic::backend::Placement;
use llm_router_logic::money::Money;
use llm_router_logic::sim::{Behaviour, Machine, Provider};
use std::time::Duration;

/// How old facts are where the file does not say.
const STALENESS_DEFAULT: Duration = Duration::from_millis(500);
/// Places of a cluster whose configuration states no number: llama-server's usual four.
const SLOTS_ASSUMED: u32 = 4;
/// A cluster cheaper than this an hour is taken for one without a GPU.
const CPU_BELOW: Money = Money::from_pico(200_000_000_000);

impl Check<'_> {
    pub(super) fn simulation(&mut self, file: Option<SimulationFile>, backends: &[Backend]) -> Simulation {
        let file = file.unwrap_or_default();
        let at = Path::default().key("simulation");
        let staleness = self.timeout(&at.key("staleness"), file.staleness, STALENESS_DEFAULT);
        let mut simulated: Vec<Simulated> = backends.iter().map(assumed).collect();
        let list_at = at.key("backends");
        for (index, given) in file.backends.unwrap_or_default().into_iter().enumerate() {
            let at = list_at.index(index);
            let Some(given) = given else {
                self.findings.problem(&at, "is empty (fill it in or remove it)");
                continue;
            };
            let Some(name) = self.required(&at.key("name"), given.name.clone(), "aws-us-west-2") else {
                continue;
            };
            match backends.iter().position(|backend| backend.spec.id.as_str() == name) {
                Some(place) => self.simulated(&at, &given, &mut simulated[place]),
                None => self
                    .findings
                    .problem(&at.key("name"), format!("`{name}` is no cluster and no enabled provider")),
            }
        }
        Simulation { staleness, backends: simulated }
    }

    fn simulated(&mut self, at: &Path, given: &SimulatedFile, simulated: &mut Simulated) {
        simulated.assumed = false;
        let mut speed = |key: &str, given: Option<f64>, place: &mut f64| {
            let Some(speed) = given else {
                return;
            };
            if !speed.is_finite() || speed <= 0.0 {
                let message = format!("must be a number above 0, is `{speed}`");
                self.findings.problem(&at.key(key), message);
            }
            *place = speed;
        };
        let span = |given: Option<Span>, place: &mut Duration| {
            if let Some(Span(span)) = given {
                *place = span;
            }
        };
        let (other_kind, wrong): (&str, [(&str, bool); 3]) = match &mut simulated.behaviour {
            Behaviour::Cluster(machine) => {
                let decode = &mut machine.decode_tokens_per_second;
                speed(
                    "prefillTokensPerSecond",
                    given.prefill_tokens_per_second,
                    &mut machine.prefill_tokens_per_second,
                );
                speed("decodeTokensPerSecond", given.decode_tokens_per_second, decode);
                let together = given.aggregate_tokens_per_second;
                speed("aggregateTokensPerSecond", together, &mut machine.aggregate_tokens_per_second);
                span(given.rtt, &mut machine.rtt);
                let wrong = [("ttftP50", given.ttft_p50.is_some()), ("ttftP95", given.ttft_p95.is_some())];
                ("a provider", [wrong[0], wrong[1], ("", false)])
            }
            Behaviour::Provider(provider) => {
                let decode = &mut provider.decode_tokens_per_second;
                speed("decodeTokensPerSecond", given.decode_tokens_per_second, decode);
                span(given.ttft_p50, &mut provider.ttft_p50);
                span(given.ttft_p95, &mut provider.ttft_p95);
                if provider.ttft_p50.is_zero() || provider.ttft_p95 < provider.ttft_p50 {
                    let message = format!(
                        "the 95th percentile `{:?}` must be at least the median `{:?}`, and that above 0",
                        provider.ttft_p95, provider.ttft_p50
                    );
                    self.findings.problem(&at.key("ttftP95"), message);
                }
                let wrong = [
                    ("prefillTokensPerSecond", given.prefill_tokens_per_second.is_some()),
                    ("aggregateTokensPerSecond", given.aggregate_tokens_per_second.is_some()),
                    ("rtt", given.rtt.is_some()),
                ];
                ("a cluster", wrong)
            }
        };
        for (key, _) in wrong.into_iter().filter(|(_, given)| *given) {
            self.findings.problem(&at.key(key), format!("is a figure of {other_kind}, which this is not"));
        }
    }
}

/// What a backend is taken to be where the file says nothing of it; docs/REPLAY.md has the sources.
fn assumed(backend: &Backend) -> Simulated {
    let behaviour = match &backend.spec.placement {
        Placement::Cluster { cost_per_hour, .. } => {
            let (prefill, decode, aggregate) =
                if *cost_per_hour < CPU_BELOW { (75.0, 5.5, 5.5) } else { (2_250.0, 52.0, 90.0) };
            Behaviour::Cluster(Machine {
                slots: backend.spec.slots.unwrap_or(SLOTS_ASSUMED),
                prefill_tokens_per_second: prefill,
                decode_tokens_per_second: decode,
                aggregate_tokens_per_second: aggregate,
                rtt: Duration::from_millis(20),
            })
        }
        Placement::External => Behaviour::Provider(Provider {
            ttft_p50: Duration::from_millis(500),
            ttft_p95: Duration::from_millis(1_500),
            decode_tokens_per_second: 80.0,
        }),
    };
    Simulated { behaviour, assumed: true }
}
