//! Smart mocking: simulated backends in this process stand in for the configured ones, so that no
//! paid call is possible.

use super::NodeError;
use crate::config::{Auth, Config, Connection, SmartMocking};
use crate::mock::{self, Faults, Mock, MockConfig};
use llm_router_logic::backend::{BackendSpec, Placement};
use llm_router_logic::ids::BackendId;
use llm_router_logic::money::Money;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Tokens per second of a simulated cluster: what turns a price per 1,000 tokens into one per hour.
const CLUSTER_TOKENS_PER_SECOND: f64 = 50.0;

/// The simulated backends of a node. One stays as long as its backend is configured, so that a reload
/// cuts no stream.
#[derive(Default)]
pub(super) struct Mocks {
    running: HashMap<BackendId, Mock>,
}

impl Mocks {
    /// Where `config` asks for smart mocking, starts what is missing and points every backend at its
    /// stand-in.
    pub(super) async fn stand_in(&mut self, config: &mut Config) -> Result<(), NodeError> {
        let Some(settings) = config.smart_mocking else {
            self.running.clear();
            return Ok(());
        };
        let overhead = config.policy.overhead_factor;
        for backend in &mut config.backends {
            let id = backend.spec.id.clone();
            if !self.running.contains_key(&id) {
                let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let mock = mock::start(listen, mock_config(&backend.spec, settings), Faults::none()).await;
                self.running.insert(id.clone(), mock.map_err(|error| NodeError::Mock(error.to_string()))?);
            }
            let Some(mock) = self.running.get(&id) else {
                continue;
            };
            backend.connection = Connection { base_url: mock.url(), auth: Auth::None, ca: None, wake: None };
            backend.spec = Arc::new(priced(&backend.spec, settings.cluster_cost, overhead));
        }
        self.running.retain(|id, _| config.backends.iter().any(|backend| backend.spec.id == *id));
        Ok(())
    }
}

fn mock_config(spec: &BackendSpec, settings: SmartMocking) -> MockConfig {
    let mut mock = MockConfig::new(spec.kind);
    mock.models = spec.models.iter().map(|model| model.name.to_string()).collect();
    if spec.is_cluster() {
        mock.ttft = settings.cluster_latency;
        mock.tokens_per_second = CLUSTER_TOKENS_PER_SECOND;
    }
    mock
}

/// The cluster at the hourly price that makes its tokens cost `per_1k` at the simulated speed: the
/// formula of `cost::unit::cost_per_1k`, solved for the hour.
fn priced(spec: &BackendSpec, per_1k: Money, overhead: f64) -> BackendSpec {
    let mut spec = spec.clone();
    if let Placement::Cluster { cost_per_hour, .. } = &mut spec.placement
        && let Some(price) = Money::from_usd(per_1k.as_usd() * CLUSTER_TOKENS_PER_SECOND * 3.6 / overhead)
    {
        *cost_per_hour = price;
    }
    spec
}
