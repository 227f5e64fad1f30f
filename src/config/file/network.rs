//! The section `router.network`: distances and prices of the traffic between regions.

use crate::config::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;

/// Distances and prices of the traffic between regions. The node's cloud is `node.cloud`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct NetworkFile {
    /// Pairs of regions with a price or a round trip of their own.
    pub links: Option<Vec<Option<LinkFile>>>,
    /// USD per gigabyte that leaves `node.cloud` for a provider or another cloud. Default: the cloud's list
    /// price, `aws` 0.09, `gcp` 0.12, `azure` 0.087, others 0.
    #[serde(rename = "internetPerGB")]
    #[schemars(range(min = 0))]
    pub internet_per_gb: Option<f64>,
    /// USD per gigabyte between two regions of one cloud. Default 0.02 in `aws`, `gcp` and `azure`, else 0.
    #[serde(rename = "betweenRegionsPerGB")]
    #[schemars(range(min = 0))]
    pub between_regions_per_gb: Option<f64>,
}

/// Two regions that are something special to each other.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct LinkFile {
    /// The two regions, in any order. Required.
    pub between: Option<Vec<Option<String>>>,
    /// Round trip, used where it has not been measured yet.
    pub rtt: Option<Span>,
    /// USD per gigabyte from one to the other, either way. Default: by cloud, as above.
    #[serde(rename = "egressPerGB")]
    #[schemars(range(min = 0))]
    pub egress_per_gb: Option<f64>,
}
