//! A view with everything worked out that depends on facts alone, so that a decision only adds the
//! request and the load of its moment.
//!
//! Made once per publication of the view and read by every decision until the next. Never decides.

use crate::backend::ServedModel;
use crate::ids::{NodeId, Region};
use crate::money::Money;
use crate::report::{Health, Report};
use crate::route::affinity;
use crate::route::network::Toll;
use crate::route::score;
use crate::route::shortlist::Shortlists;
use crate::route::strategy::Policy;
use crate::time::Moment;
use crate::view::{BackendView, ClusterView, Facts, PEER_FACT_LIMIT};
use std::ops::Deref;
use std::sync::Arc;

/// A [`ClusterView`] made ready for [`plan`](crate::route::plan()).
#[derive(Clone, Debug)]
pub struct PreparedView {
    view: ClusterView,
    ready: Vec<Ready>,
    shortlists: Option<Arc<Shortlists>>,
}

/// What is worked out of one backend.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    source: Source,
    /// The report that counts.
    pub(crate) report: Report,
    /// When it was observed or heard.
    since: Moment,
    models: Models,
    /// Requests that fresh peers have running there.
    pub(crate) peers_in_flight: u32,
    /// What 1,000 tokens cost at its measured speed; `None` at providers and where the speed is unknown.
    pub(crate) cost_per_1k: Option<Money>,
    /// Microseconds from token to token of one answer alone; `None` as above.
    pub(crate) token_micros: Option<u32>,
    /// Round trip as configured, in microseconds.
    pub(crate) rtt: Option<u32>,
    /// What traffic to it costs.
    pub(crate) toll: Toll,
    /// Hash of its name, the same on every node.
    pub(crate) hash: u64,
}

/// Who said what counts; peers by their place.
#[derive(Clone, Copy, Debug)]
enum Source {
    Nobody,
    Own,
    Peer(usize),
}

/// Whose list of models counts.
#[derive(Clone, Copy, Debug)]
enum Models {
    Configured,
    Own,
    Peer(usize),
}

impl PreparedView {
    /// Prepares `view` as of `now` for decisions under `policy`.
    ///
    /// `last` is the preparation it replaces: where it is young its shortlists, which only views of many
    /// backends have, are taken over.
    pub fn new(view: ClusterView, policy: &Policy, now: Moment, last: Option<&Self>) -> Self {
        let ready: Vec<Ready> =
            view.backends.iter().map(|backend| Ready::of(&view.region, backend, policy, now)).collect();
        let mut prepared = Self { view, ready, shortlists: None };
        prepared.shortlists = Shortlists::of(&prepared, now, last.and_then(|last| last.shortlists.as_ref()));
        prepared
    }

    /// The view as it was told.
    pub fn into_inner(self) -> ClusterView {
        self.view
    }

    /// What is worked out of backend `index`.
    pub(crate) fn ready(&self, index: usize) -> &Ready {
        &self.ready[index]
    }

    /// Which backends a decision looks at first; `None` where it looks at all of them.
    pub(crate) fn shortlists(&self) -> Option<&Shortlists> {
        self.shortlists.as_deref()
    }

    /// As [`BackendView::facts`], already worked out.
    #[inline]
    pub(crate) fn facts(&self, index: usize, now: Moment) -> Option<Facts<'_>> {
        let (ready, backend) = (&self.ready[index], &self.view.backends[index]);
        let age = now.since(ready.since);
        let said_by: Option<&NodeId> = match ready.source {
            Source::Nobody => return None,
            Source::Own => None,
            Source::Peer(_) if age > PEER_FACT_LIMIT => return None,
            Source::Peer(at) => Some(&backend.peers[at].node),
        };
        Some(Facts { report: ready.report, age, said_by, models: ready.models_of(backend) })
    }
}

impl Deref for PreparedView {
    type Target = ClusterView;
    fn deref(&self) -> &ClusterView {
        &self.view
    }
}

impl Ready {
    fn of(here: &Region, backend: &BackendView, policy: &Policy, now: Moment) -> Self {
        let facts = backend.facts(now);
        let at = |node: &NodeId| backend.peers.iter().position(|fact| fact.node == *node);
        let own = backend.own.as_ref().filter(|own| own.report.health != Health::Unknown);
        let (source, since) = match (&facts, own) {
            (None, _) => (Source::Nobody, Moment::ZERO),
            (Some(Facts { said_by: None, .. }), own) => (Source::Own, own.map_or(now, |own| own.observed_at)),
            (Some(Facts { said_by: Some(node), .. }), _) => match at(node) {
                Some(at) => (Source::Peer(at), backend.peers[at].arrived_at),
                None => (Source::Nobody, Moment::ZERO),
            },
        };
        let same =
            |models: &[ServedModel]| facts.as_ref().is_some_and(|facts| std::ptr::eq(facts.models, models));
        let models = match &backend.own {
            _ if same(&backend.spec.models) => Models::Configured,
            Some(own) if same(&own.models) => Models::Own,
            _ => backend
                .peers
                .iter()
                .position(|fact| same(&fact.models))
                .map_or(Models::Configured, Models::Peer),
        };
        let report = facts.map(|facts| facts.report).unwrap_or_default();
        Self {
            source,
            since,
            models,
            peers_in_flight: backend.peers_in_flight(now),
            cost_per_1k: score::cluster_cost_per_1k(backend, &report, policy.overhead_factor),
            token_micros: score::token_micros(backend, &report),
            rtt: policy
                .network
                .rtt(here, &backend.spec)
                .map(|rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
            toll: policy.network.toll(here, &backend.spec),
            hash: affinity::hash(backend.spec.id.as_str().as_bytes()),
            report,
        }
    }

    #[inline]
    fn models_of<'v>(&self, backend: &'v BackendView) -> &'v [ServedModel] {
        match (self.models, &backend.own) {
            (Models::Peer(at), _) => &backend.peers[at].models,
            (Models::Own, Some(own)) => &own.models,
            (Models::Configured | Models::Own, _) => &backend.spec.models,
        }
    }
}
