//! What lies between the demo's regions: connections and gossip that a partition cuts.
//!
//! Owns who is cut off. A cut breaks connections at once, where a real one would often let them time out.

use super::scenario::PLACES;
use async_trait::async_trait;
use llm_router_actors::ports::{GossipMessage, GossipSocket, GossipTransport};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Pause after a failed accept.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Which regions, as indices into [`PLACES`], nothing gets into or out of.
type CutOff = [bool; PLACES.len()];

/// The network of the demo.
#[derive(Clone)]
pub(super) struct Network {
    cut: Arc<watch::Sender<CutOff>>,
    /// Gossip addresses, in the order of [`PLACES`].
    gossip: Arc<[SocketAddr]>,
}

impl Network {
    /// Nothing is cut.
    pub(super) fn new(gossip: &[SocketAddr]) -> Self {
        Self { cut: Arc::new(watch::Sender::default()), gossip: gossip.into() }
    }

    /// Cuts the region off or joins it again.
    pub(super) fn cut_off(&self, place: usize, cut: bool) {
        self.cut.send_modify(|all| {
            if let Some(one) = all.get_mut(place) {
                *one = cut;
            }
        });
    }

    /// What puts the region's gossip behind the cuts.
    pub(super) fn gate(&self, place: usize) -> crate::node::Gate {
        let network = self.clone();
        Box::new(move |transport| Arc::new(Gated { transport, network: network.clone(), place }))
    }

    /// A way from the router of one region to a backend of another.
    pub(super) async fn link(&self, from: usize, to: usize, backend: SocketAddr) -> std::io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let cut = self.cut.subscribe();
        let task = tokio::spawn(carry(listener, backend, cut, move |all| separates(all, from, to)));
        Ok(Link { addr, _task: AbortOnDropHandle::new(task) })
    }
}

fn separates(cut: &CutOff, from: usize, to: usize) -> bool {
    from != to && [from, to].iter().any(|place| cut.get(*place).copied().unwrap_or_default())
}

/// A running way; dropping it closes it.
pub(super) struct Link {
    pub(super) addr: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

async fn carry(
    listener: TcpListener,
    backend: SocketAddr,
    mut cut: watch::Receiver<CutOff>,
    separated: impl Fn(&CutOff) -> bool + Copy + Send + Sync + 'static,
) {
    // Connections end with their ends or with the cut; the tracker only counts them.
    let connections = TaskTracker::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if separated(&cut.borrow_and_update()) {
            continue;
        }
        let mut cut = cut.clone();
        connections.spawn(async move {
            tokio::select! {
                () = pass_on(stream, backend) => {}
                // It fails where the network is gone, which cuts as well.
                _ = cut.wait_for(separated) => {}
            }
        });
    }
}

async fn pass_on(mut near: TcpStream, backend: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(backend).await else { return };
    // Tokens are small and must not wait for full packets.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    // Whichever end breaks, both are closed.
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

/// A gossip transport that sends nothing across a cut.
struct Gated {
    transport: Arc<dyn GossipTransport>,
    network: Network,
    place: usize,
}

#[async_trait]
impl GossipTransport for Gated {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn GossipSocket>> {
        let socket = self.transport.open(listen).await?;
        Ok(Box::new(GatedSocket { socket, network: self.network.clone(), place: self.place }))
    }
}

struct GatedSocket {
    socket: Box<dyn GossipSocket>,
    network: Network,
    place: usize,
}

#[async_trait]
impl GossipSocket for GatedSocket {
    async fn send(&mut self, to: SocketAddr, message: GossipMessage) -> anyhow::Result<()> {
        let there = self.network.gossip.iter().position(|address| *address == to);
        let cut = there.is_some_and(|there| separates(&self.network.cut.borrow(), self.place, there));
        if cut { Ok(()) } else { self.socket.send(to, message).await }
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, GossipMessage)> {
        self.socket.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_cut_breaks_what_runs_and_lets_nothing_new_through_until_it_is_mended() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let network = Network::new(&[]);
        let link = network.link(0, 1, backend).await.unwrap();
        let answers = async |stream: &mut TcpStream| {
            let mut byte = [0];
            stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
        };
        let within = Duration::from_secs(5);
        let mut running = TcpStream::connect(link.addr).await.unwrap();
        assert!(tokio::time::timeout(within, answers(&mut running)).await.unwrap());
        network.cut_off(2, true);
        assert!(tokio::time::timeout(within, answers(&mut running)).await.unwrap(), "another region's cut");
        network.cut_off(1, true);
        let broken = async { while answers(&mut running).await {} };
        tokio::time::timeout(within, broken).await.unwrap();
        let mut new = TcpStream::connect(link.addr).await.unwrap();
        assert!(!tokio::time::timeout(within, answers(&mut new)).await.unwrap());
        network.cut_off(1, false);
        let mut new = TcpStream::connect(link.addr).await.unwrap();
        assert!(tokio::time::timeout(within, answers(&mut new)).await.unwrap());
    }
}
