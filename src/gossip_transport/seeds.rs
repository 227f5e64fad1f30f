//! Where seeds' names lead: asked of the system, again and again by the gossip actor.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use llm_router_actors::ports::Resolve;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The system's resolver.
#[derive(Debug)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, seed: String) -> BoxFuture<'static, Result<Vec<SocketAddr>, String>> {
        async move {
            match tokio::time::timeout(PATIENCE, tokio::net::lookup_host(&seed)).await {
                Ok(Ok(found)) => Ok(found.collect()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            }
        }
        .boxed()
    }
}
