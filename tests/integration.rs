//! Real nodes on ports of their own, mock upstreams, real sockets.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "integration/actors.rs"]
mod actors;
#[path = "integration/auth.rs"]
mod auth;
#[path = "integration/cache.rs"]
mod cache;
#[path = "integration/cache_redis.rs"]
mod cache_redis;
#[path = "integration/certified.rs"]
mod certified;
#[path = "integration/decision.rs"]
mod decision;
#[path = "integration/edge.rs"]
mod edge;
#[path = "integration/explain.rs"]
mod explain;
#[path = "integration/fallback.rs"]
mod fallback;
#[path = "integration/fixture.rs"]
mod fixture;
#[path = "integration/gossip.rs"]
mod gossip;
#[path = "integration/guards.rs"]
mod guards;
#[path = "integration/hedging.rs"]
mod hedging;
#[path = "integration/hostile.rs"]
mod hostile;
#[path = "integration/idempotency.rs"]
mod idempotency;
#[path = "integration/ledger.rs"]
mod ledger;
#[path = "integration/ledger_books.rs"]
mod ledger_books;
#[path = "integration/life.rs"]
mod life;
#[path = "integration/outage.rs"]
mod outage;
#[path = "integration/peer_relay.rs"]
mod peer_relay;
#[path = "integration/quic.rs"]
mod quic;
#[path = "integration/quota.rs"]
mod quota;
#[path = "integration/series.rs"]
mod series;
#[path = "integration/standing.rs"]
mod standing;
#[path = "integration/tls.rs"]
mod tls;
#[path = "integration/traces.rs"]
mod traces;
#[path = "integration/trial.rs"]
mod trial;
#[path = "integration/webhook.rs"]
mod webhook;
