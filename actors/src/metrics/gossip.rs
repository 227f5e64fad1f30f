//! Metrics of the gossip itself: who is there, how old what they say is, what outages they tell of.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// These metrics, registered with the others.
#[derive(Clone, Debug)]
pub struct Gossiping {
    /// `llm_router_gossip_rounds_total`
    pub rounds_total: IntCounter,
    /// `llm_router_gossip_members{state}`
    pub members: IntGaugeVec,
    /// `llm_router_gossip_values_total{kind}`
    pub values_total: IntCounterVec,
    /// `llm_router_gossip_fact_age_seconds{kind}`
    pub fact_age_seconds: GaugeVec,
    /// `llm_router_gossip_facts{kind}`
    pub facts: IntGaugeVec,
    /// `llm_router_gossip_state_bytes`
    pub state_bytes: IntGauge,
    /// `llm_router_gossip_seeds`
    pub seeds: IntGauge,
    /// `llm_router_gossip_outages_total{what}`
    pub outages_total: IntCounterVec,
}

impl Gossiping {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($kind:ident, $name:literal, $help:literal $(, $labels:expr)?) => {{
                let options = Opts::new(concat!("llm_router_gossip_", $name), $help);
                let metric = $kind::new(options $(, $labels)?)?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
            (plain $kind:ident, $name:literal, $help:literal) => {{
                let metric = $kind::new(concat!("llm_router_gossip_", $name), $help)?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        Ok(Self {
            rounds_total: register!(plain IntCounter, "rounds_total", "Rounds of gossip this node made."),
            members: register!(
                IntGaugeVec,
                "members",
                "Routers known, this one included, by state: live, leaving or silent.",
                &["state"]
            ),
            values_total: register!(
                IntCounterVec,
                "values_total",
                "Values of peers that were taken in, by kind.",
                &["kind"]
            ),
            fact_age_seconds: register!(
                GaugeVec,
                "fact_age_seconds",
                "Age of the oldest value of a live peer since its arrival here, by kind.",
                &["kind"]
            ),
            facts: register!(IntGaugeVec, "facts", "Values of live peers that are kept, by kind.", &["kind"]),
            state_bytes: register!(plain IntGauge, "state_bytes", "Bytes this node tells its peers, keys included."),
            seeds: register!(
                plain IntGauge,
                "seeds",
                "Addresses the configured seeds stood for when they were looked up last."
            ),
            outages_total: register!(
                IntCounterVec,
                "outages_total",
                "News of outages: told to peers, heeded when a peer told, doubted since own requests were served.",
                &["what"]
            ),
        })
    }
}
