//! The section `router.network`.

use super::Check;
use crate::config::file::{LinkFile, NetworkFile};
use crate::config::path::Path;
use llm_router_logic::ids::Region;
use llm_router_logic::route::network::{Link, Network};

impl Check<'_> {
    /// `cloud` is the one this node runs in.
    pub(super) fn network(&mut self, file: Option<&NetworkFile>, cloud: &str) -> Network {
        let at = Path::default().key("router").key("network");
        let mut network = Network { cloud: cloud.to_owned(), ..Network::default() };
        let Some(file) = file else {
            return network;
        };
        let internet = self.dollars(&at.key("internetPerGB"), file.internet_per_gb);
        network.internet_per_gb.extend(internet.map(|price| (cloud.to_owned(), price)));
        network.between_regions_per_gb =
            self.dollars(&at.key("betweenRegionsPerGB"), file.between_regions_per_gb);
        for (index, link) in file.links.iter().flatten().enumerate() {
            let at = at.key("links").index(index);
            match link {
                Some(link) => network.links.extend(self.link(&at, link)),
                None => self.findings.problem(&at, "is empty (fill it in or remove it)"),
            }
        }
        network
    }

    fn link(&mut self, at: &Path, file: &LinkFile) -> Option<Link> {
        let egress_per_gb = self.dollars(&at.key("egressPerGB"), file.egress_per_gb);
        let names = self.texts(&at.key("between"), file.between.clone());
        let [(_, one), (_, other)] = &names[..] else {
            let text = "must name two regions (for example `[us-west-2, us-central1]`)";
            self.findings.problem(&at.key("between"), text);
            return None;
        };
        let rtt = file.rtt.as_ref().map(|rtt| rtt.0);
        Some(Link { between: [Region::new(one), Region::new(other)], rtt, egress_per_gb })
    }
}
