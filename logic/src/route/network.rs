//! What lies between this router and a backend: the round trip, and what each byte on the way costs.
//!
//! Clouds charge whoever sends. A request leaves the router's place, its answer leaves the cluster's; what
//! a provider sends us is free.

use crate::backend::{BackendSpec, Placement};
use crate::ids::Region;
use crate::money::Money;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes of a prompt per token: English text has about four letters to one.
const INPUT_TOKEN_BYTES: u64 = 4;
/// Bytes of an answer per token where it comes as a whole.
const OUTPUT_TOKEN_BYTES: u64 = 4;
/// The same where it is streamed: each token is an event of its own with its JSON around it.
const STREAMED_TOKEN_BYTES: u64 = 200;
/// Bytes of a gigabyte, as clouds bill it.
const GIGABYTE: u64 = 1_000_000_000;
/// Pico-dollars of one cent per gigabyte.
const CENT: i128 = 10_000_000_000;

/// Two regions that are something special to each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The two, in any order.
    pub between: [Region; 2],
    /// Round trip where nobody has measured it yet.
    pub rtt: Option<Duration>,
    /// Price of a gigabyte from one to the other.
    pub egress_per_gb: Option<Money>,
}

/// Distances and prices as configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The cloud this router runs in.
    pub cloud: String,
    /// Pairs of regions with a price or a round trip of their own.
    pub links: Vec<Link>,
    /// Price of a gigabyte that leaves a cloud for the internet or another cloud, where it is not
    /// [`internet_default`]'s.
    pub internet_per_gb: Vec<(String, Money)>,
    /// The same between two regions of one cloud; `None` = [`between_regions_default`]'s.
    pub between_regions_per_gb: Option<Money>,
}

/// What a gigabyte to the internet costs in the first paid tier, by the clouds' price lists of early 2026:
/// AWS 0.09 (aws.amazon.com/ec2/pricing/on-demand, "Data transfer"), Google Cloud 0.12 (premium tier,
/// cloud.google.com/vpc/network-pricing), Azure 0.087 (azure.microsoft.com/pricing/details/bandwidth).
/// Other words are our own machines, whose traffic is taken as free.
pub fn internet_default(cloud: &str) -> Money {
    Money::from_pico(match cloud {
        "aws" => 9 * CENT,
        "gcp" => 12 * CENT,
        "azure" => 87 * CENT / 10,
        _ => 0,
    })
}

/// What a gigabyte between two regions of one cloud costs within North America or Europe, by the same
/// lists: 0.02 at all three.
pub fn between_regions_default(cloud: &str) -> Money {
    Money::from_pico(if matches!(cloud, "aws" | "gcp" | "azure") { 2 * CENT } else { 0 })
}

/// What one backend's traffic costs, in pico-dollars per byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Toll {
    request: u64,
    answer: u64,
}

impl Toll {
    /// Egress of a request and its answer, as far as their tokens tell their bytes.
    #[inline]
    pub(crate) fn of(self, input_tokens: u32, output_tokens: u32, stream: bool) -> Money {
        if self == Self::default() {
            return Money::ZERO;
        }
        let per_token = if stream { STREAMED_TOKEN_BYTES } else { OUTPUT_TOKEN_BYTES };
        let request = (u64::from(input_tokens) * INPUT_TOKEN_BYTES).saturating_mul(self.request);
        let answer = (u64::from(output_tokens) * per_token).saturating_mul(self.answer);
        Money::from_pico(i128::from(request) + i128::from(answer))
    }
}

impl Network {
    /// What traffic between a router in `here` and `spec` costs.
    pub(crate) fn toll(&self, here: &Region, spec: &BackendSpec) -> Toll {
        let per_byte = |per_gb: Money| u64::try_from(per_gb.share(1, GIGABYTE).pico()).unwrap_or(0);
        let Placement::Cluster { cloud, region, .. } = &spec.placement else {
            return Toll { request: per_byte(self.internet(&self.cloud)), answer: 0 };
        };
        if let Some(price) = self.link(here, region).and_then(|link| link.egress_per_gb) {
            return Toll { request: per_byte(price), answer: per_byte(price) };
        }
        let same_cloud = *cloud == self.cloud;
        if here == region {
            return Toll::default();
        }
        let leaving = |cloud: &str| {
            if same_cloud {
                self.between_regions_per_gb.unwrap_or_else(|| between_regions_default(cloud))
            } else {
                self.internet(cloud)
            }
        };
        Toll { request: per_byte(leaving(&self.cloud)), answer: per_byte(leaving(cloud)) }
    }

    /// The round trip to `spec` as configured.
    pub(crate) fn rtt(&self, here: &Region, spec: &BackendSpec) -> Option<Duration> {
        match &spec.placement {
            Placement::Cluster { region, .. } => self.link(here, region)?.rtt,
            Placement::External => None,
        }
    }

    fn internet(&self, cloud: &str) -> Money {
        let own = self.internet_per_gb.iter().find(|(name, _)| name == cloud);
        own.map_or_else(|| internet_default(cloud), |(_, price)| *price)
    }

    fn link(&self, one: &Region, other: &Region) -> Option<&Link> {
        let joins = |link: &&Link| {
            let [a, b] = &link.between;
            (a == one && b == other) || (a == other && b == one)
        };
        self.links.iter().find(joins)
    }
}
