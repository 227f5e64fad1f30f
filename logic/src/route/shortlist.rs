//! Where a decision looks first when there are many backends.
//!
//! A view of up to [`WHOLE`] backends is looked at as a whole. In a larger one a decision that judged
//! every backend would cost as much as the network hop it saves: it walks ranked lists instead, cheapest
//! or fastest first, and stops when enough good candidates were found. The near equals at the head of a
//! list are entered at a place drawn by lot, so that routers do not all look at the same few. The lists
//! say where to look and nothing else: who may serve is judged anew each time.

use crate::backend::BackendSpec;
use crate::ids::BackendId;
use crate::request::{ANY_MODEL, Request};
use crate::route::eligible::known_models;
use crate::route::prepared::PreparedView;
use crate::route::score;
use crate::route::strategy::Strategy;
use crate::time::Moment;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Views of no more backends are looked at as a whole.
pub const WHOLE: usize = 64;
/// Good candidates after which a list is left: eight times what can be attempted.
const ENOUGH: usize = 24;
/// Backends looked at after which any candidates are enough.
const LOOKS_MAX: usize = 192;
/// Candidates that are enough then.
const FEW: usize = 8;
/// Lists are ranked anew after this: costs move slowly, and a view may be published every 2 ms.
const AGE_MAX: Duration = Duration::from_millis(100);

/// Ranked lists of one view.
#[derive(Debug)]
pub(crate) struct Shortlists {
    made_at: Moment,
    /// What the indexes in the lists mean.
    specs: Vec<Arc<BackendSpec>>,
    places: HashMap<BackendId, usize>,
    /// By every name and alias.
    of_model: HashMap<Arc<str>, Lists>,
    of_any: Lists,
}

#[derive(Debug, Default)]
struct Lists {
    clusters: List,
    providers: List,
    fastest: List,
}

/// Indexes of backends, best first.
#[derive(Debug, Default)]
struct List {
    indexes: Vec<usize>,
    /// How many at the head are near equal.
    equals: usize,
}

impl Shortlists {
    /// The lists of `view`; `None` where it is looked at as a whole. `last` is used again while it is young.
    pub(crate) fn of(view: &PreparedView, now: Moment, last: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        if view.backends.len() <= WHOLE {
            return None;
        }
        let same = |last: &&Arc<Self>| {
            let specs = view.backends.iter().map(|backend| &backend.spec);
            now.since(last.made_at) < AGE_MAX
                && last.specs.len() == view.backends.len()
                && last.specs.iter().zip(specs).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        if let Some(last) = last.filter(same) {
            return Some(Arc::clone(last));
        }
        let mut serving: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (index, backend) in view.backends.iter().enumerate() {
            for model in known_models(backend) {
                let aliases = model.aliases.iter().map(|alias| Arc::from(alias.as_str()));
                for name in std::iter::once(Arc::clone(&model.name)).chain(aliases) {
                    let indexes = serving.entry(name).or_default();
                    if indexes.last() != Some(&index) {
                        indexes.push(index);
                    }
                }
            }
        }
        let specs: Vec<Arc<BackendSpec>> =
            view.backends.iter().map(|backend| Arc::clone(&backend.spec)).collect();
        Some(Arc::new(Self {
            made_at: now,
            places: specs.iter().enumerate().map(|(index, spec)| (spec.id.clone(), index)).collect(),
            of_model: serving.into_iter().map(|(name, all)| (name, Lists::ranked(view, &all))).collect(),
            of_any: Lists::ranked(view, &(0..specs.len()).collect::<Vec<_>>()),
            specs,
        }))
    }
}

impl Lists {
    fn ranked(view: &PreparedView, indexes: &[usize]) -> Self {
        let is_cluster = |index: &usize| view.backends[*index].spec.is_cluster();
        let (clusters, providers): (Vec<usize>, Vec<usize>) = indexes.iter().partition(|at| is_cluster(at));
        let cost = |index: usize| {
            let known = view.ready(index).cost_per_1k;
            known
                .or_else(|| score::list_price(&view.backends[index]))
                .map_or(u64::MAX, |cost| u64::try_from(cost.pico()).unwrap_or(u64::MAX))
        };
        let latency = |index: usize| {
            let report = &view.ready(index).report;
            u64::from(report.ttft_ms.unwrap_or(0)) + u64::from(report.rtt_ms.unwrap_or(0))
        };
        // The bands are those in which the order of candidates draws by lot.
        Self {
            clusters: List::ranked(clusters, cost, |first| first + first / 20),
            providers: List::ranked(providers, cost, |first| first + first / 20),
            fastest: List::ranked(indexes.to_vec(), latency, |first| 2 * first + 10),
        }
    }
}

impl List {
    fn ranked(mut indexes: Vec<usize>, by: impl Fn(usize) -> u64, band: impl Fn(u64) -> u64) -> Self {
        indexes.sort_by_cached_key(|index| by(*index));
        let bound = indexes.first().map_or(0, |first| band(by(*first).min(u64::MAX / 4)));
        let equals = indexes.partition_point(|index| by(*index) <= bound);
        Self { indexes, equals }
    }
}

/// The backends one decision looks at, in turn.
pub(crate) struct Walk<'v> {
    /// Looked at before any list: the backend a client pinned or its session is bound to.
    first: Option<usize>,
    /// The same, so that no list leads there again.
    bound: Option<usize>,
    lists: [Option<&'v List>; 2],
    /// The list walked now; views looked at as a whole have none.
    at: usize,
    place: usize,
    /// Where the near equals at a list's head are entered.
    entry: u64,
    good: usize,
    candidates: usize,
    looks: usize,
    whole: Option<std::ops::Range<usize>>,
}

impl<'v> Walk<'v> {
    pub(crate) fn new(view: &'v PreparedView, request: &Request, strategy: Strategy, draw: u64) -> Self {
        let mut walk = Self {
            first: None,
            bound: None,
            lists: [None; 2],
            at: 0,
            place: 0,
            entry: draw,
            good: 0,
            candidates: 0,
            looks: 0,
            whole: None,
        };
        let Some(shortlists) = view.shortlists() else {
            walk.whole = Some(0..view.backends.len());
            return walk;
        };
        let bound = request.hints.backend.as_ref().or(request.sticky.as_ref());
        walk.first = bound.and_then(|id| shortlists.places.get(id)).copied();
        walk.bound = walk.first;
        if request.hints.backend.is_some() {
            return walk;
        }
        let lists = match request.model.as_deref().filter(|name| *name != ANY_MODEL) {
            Some(name) => shortlists.of_model.get(name),
            None => Some(&shortlists.of_any),
        };
        walk.lists = match (lists, strategy) {
            (None, _) => [None; 2],
            (Some(lists), Strategy::Latency) => [Some(&lists.fastest), None],
            (Some(lists), Strategy::ExternalFirst) => [Some(&lists.providers), Some(&lists.clusters)],
            (Some(lists), _) => [Some(&lists.clusters), Some(&lists.providers)],
        };
        walk
    }

    /// The next backend to look at.
    pub(crate) fn next(&mut self) -> Option<usize> {
        if self.candidates >= WHOLE {
            return None;
        }
        if let Some(whole) = &mut self.whole {
            return whole.next();
        }
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let list = (*self.lists.get(self.at)?)?;
            let left = self.good >= ENOUGH
                || (self.at == 0 && self.candidates >= WHOLE - FEW)
                || (self.looks >= LOOKS_MAX && self.candidates >= FEW);
            if left || self.place >= list.indexes.len() {
                (self.at, self.place, self.good, self.looks) = (self.at + 1, 0, 0, 0);
                continue;
            }
            let place = if self.place < list.equals {
                (self.place + (self.entry % list.equals as u64) as usize) % list.equals
            } else {
                self.place
            };
            self.place += 1;
            self.looks += 1;
            let index = list.indexes.get(place).copied();
            if index != self.bound {
                return index;
            }
        }
    }

    /// Tells that the backend looked at is a candidate, and whether it is one that would do.
    pub(crate) fn found(&mut self, good: bool) {
        self.candidates += 1;
        self.good += usize::from(good);
    }
}
