//! Callers and what they say: handshakes, then one reader per connection, both bounded.

use super::delta;
use super::frame::{self, FRAME_MAX};
use super::link::Links;
use super::{CONNECTION_AGE_MAX, LINGER, Proven, Shared};
use llm_router_actors::ports::{Deserializable, GossipMessage};
use quinn::{Incoming, ReadToEndError, RecvStream, VarInt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Handshakes at once; a caller beyond them is refused and comes again.
const HANDSHAKES_MAX: usize = 64;
/// From this many on, a caller must first show that its address is its own.
const HANDSHAKES_TRUSTED: usize = 16;
/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at once, both directions.
const CONNECTIONS_MAX: usize = 2048;
/// A message must have arrived within this.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes calls until the transport ends.
pub(super) async fn accept(shared: Arc<Shared>, links: Links) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let incoming = tokio::select! {
            incoming = shared.endpoint.accept() => incoming,
            () = shared.stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        let busy = HANDSHAKES_MAX - handshakes.available_permits();
        if busy >= HANDSHAKES_TRUSTED && incoming.may_retry() {
            // It fails only where the caller has shown its address already.
            let _ = incoming.retry();
            continue;
        }
        let (Ok(permit), true) = (
            Arc::clone(&handshakes).try_acquire_owned(),
            shared.endpoint.open_connections() < CONNECTIONS_MAX,
        ) else {
            shared.count("too_many_connections");
            incoming.refuse();
            continue;
        };
        let (shared, links) = (Arc::clone(&shared), links.clone());
        tokio::spawn(async move {
            let proven = handshake(&shared, incoming).await;
            drop(permit);
            if let Some(proven) = proven {
                links.offer(&proven);
                listen(shared, proven).await;
            }
        });
    }
    // Peers are told at once; nothing waits for their answer.
    shared.endpoint.close(VarInt::from_u32(0), b"leaving");
}

async fn handshake(shared: &Shared, incoming: Incoming) -> Option<Proven> {
    let address = incoming.remote_address();
    let identity = *shared.identity.borrow();
    let Ok(connected) = timeout(HANDSHAKE_TIMEOUT, incoming).await else {
        shared.count("handshake");
        return None;
    };
    match connected {
        Ok(connection) => shared.prove(connection, identity),
        Err(error) => {
            shared.refused(address, &error);
            None
        }
    }
}

/// Hears a connection until it ends, or until some time after it should have been replaced.
pub(super) async fn listen(shared: Arc<Shared>, proven: Proven) {
    let mut identities = shared.identity.subscribe();
    let stale = async {
        tokio::select! {
            _ = identities.wait_for(|now| *now != proven.identity) => {}
            () = tokio::time::sleep_until(proven.since + CONNECTION_AGE_MAX) => {}
        }
        tokio::time::sleep(LINGER).await;
    };
    tokio::pin!(stale);
    // As many as the peer may open; they end with the connection.
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = proven.connection.accept_uni() => match stream {
                Ok(stream) => drop(readers.spawn(hear(Arc::clone(&shared), proven.clone(), stream))),
                Err(error) => {
                    // A caller sees its refusal only after the handshake seemed to be done.
                    tracing::debug!(node = %proven.name.node, serial = proven.serial, %error, "gossip connection ended");
                    break;
                }
            },
            Some(_) = readers.join_next() => {}
            () = &mut stale => {
                proven.connection.close(VarInt::from_u32(0), b"replaced");
                break;
            }
            () = shared.stop.cancelled() => break,
        }
    }
}

async fn hear(shared: Arc<Shared>, proven: Proven, mut stream: RecvStream) {
    let frame = match timeout(READ_TIMEOUT, stream.read_to_end(FRAME_MAX)).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(ReadToEndError::TooLong)) => return shared.count("oversized_frame"),
        // Cut short by the peer or the network: nothing to judge.
        Ok(Err(ReadToEndError::Read(_))) => return,
        Err(_) => return shared.count("slow_frame"),
    };
    shared.metrics.gossip_bytes_total.with_label_values(&["received"]).inc_by(frame.len() as u64);
    let Some(bytes) = frame::unpack(frame) else {
        return shared.count("malformed_frame");
    };
    if let Err(why) = delta::judge(&bytes) {
        tracing::debug!(node = %proven.name.node, why, "refused a peer's message");
        return shared.count(why);
    }
    let Ok(message) = GossipMessage::deserialize(&mut bytes.as_slice()) else {
        return shared.count("malformed_packet");
    };
    if !frame::may_be_from(&bytes, proven.name.node.as_str()) {
        tracing::debug!(node = %proven.name.node, "a message is not from the node its certificate names");
        return shared.count("another_node");
    }
    if shared.heard.try_send((proven.connection.remote_address(), message)).is_err() {
        shared.count("inbox_full");
    }
}
