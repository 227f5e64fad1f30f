//! What 1,000 tokens cost at each backend now, on average and on the margin: figures for people, beside
//! the ones that each decision computes for its own request.

use crate::backend::ServedModel;
use crate::money::Money;
use crate::report::Health;
use crate::request::Request;
use crate::route::eligible::known_models;
use crate::route::plan::Loads;
use crate::route::prepared::PreparedView;
use crate::route::score::{score, unit_cost};
use crate::route::strategy::Policy;
use crate::time::Moment;
use serde::Serialize;

/// Both unit costs of one backend, per 1,000 tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UnitCosts {
    /// The machine's price at its measured throughput, or a provider's list price; `None` = unknown.
    pub average: Option<Money>,
    /// What one more request adds to the bill: nothing at a cluster with room, since its hour is paid; at a
    /// full one what the cheapest backend with room charges for one of its models, else its average. `None`
    /// where the average is unknown or the cluster is not well.
    pub marginal: Option<Money>,
}

/// The unit costs of all backends of `view`, in its order.
pub fn unit_costs(view: &PreparedView, loads: &impl Loads, policy: &Policy, now: Moment) -> Vec<UnitCosts> {
    let indices = 0..view.backends.len();
    let priced: Vec<Priced<'_>> = indices.map(|index| Priced::new(view, index, loads, policy, now)).collect();
    priced.iter().map(|one| UnitCosts { average: one.average, marginal: one.marginal(&priced) }).collect()
}

struct Priced<'v> {
    cluster: bool,
    models: &'v [ServedModel],
    average: Option<Money>,
    serves: bool,
    has_room: bool,
}

impl<'v> Priced<'v> {
    fn new(view: &'v PreparedView, index: usize, loads: &impl Loads, policy: &Policy, now: Moment) -> Self {
        let backend = &view.backends[index];
        let models = known_models(backend);
        let facts = backend.facts(now);
        let health = facts.as_ref().map_or(Health::Unknown, |facts| facts.report.health);
        let cluster = backend.spec.is_cluster();
        let load = loads.load(index, 0, now);
        let any = ServedModel::named("");
        let model = models.first().unwrap_or(&any);
        let report = facts.as_ref().map(|facts| &facts.report);
        let scored = score(backend, view.ready(index), model, report, &load, &Request::default());
        Self {
            cluster,
            models,
            average: unit_cost(backend, policy.overhead_factor, now),
            serves: health == Health::Healthy || !cluster && health != Health::Unhealthy,
            has_room: scored.has_room() && load.closed_until.is_none_or(|until| until <= now),
        }
    }

    fn with_room(&self) -> Option<Money> {
        if self.cluster { self.average.map(|_| Money::ZERO) } else { self.average }
    }

    fn marginal(&self, all: &[Self]) -> Option<Money> {
        let average = self.average.filter(|_| self.serves)?;
        if self.has_room || !self.cluster {
            return self.with_room();
        }
        let alternatives =
            all.iter().filter(|other| other.serves && other.has_room && other.stands_in_for(self));
        Some(alternatives.filter_map(Self::with_room).min().unwrap_or(average))
    }

    /// Whether it has a model of `other`'s, by any of its names.
    fn stands_in_for(&self, other: &Self) -> bool {
        let answers_to = |model: &ServedModel, name: &str| {
            *model.name == *name || model.aliases.iter().any(|alias| **alias == *name)
        };
        other.models.iter().any(|wanted| {
            let mut names = std::iter::once(&*wanted.name).chain(wanted.aliases.iter().map(|alias| &**alias));
            names.any(|name| self.models.iter().any(|model| answers_to(model, name)))
        })
    }
}
