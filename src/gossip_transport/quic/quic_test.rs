//! Two transports on loopback, and strangers made by hand.

use super::delta::tests::Forged;
use super::frame::{self, FRAME_MAX};
use super::*;
use crate::certs::{Authority, Issued, Request, days};
use llm_router_actors::ports::{Deserializable, GossipId};
use llm_router_logic::ids::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::SystemTime;
use tempfile::TempDir;

const CLUSTER: &str = "test";
const DEADLINE: Duration = Duration::from_secs(15);
const RELOAD: Duration = Duration::from_millis(50);

fn request(node: &str) -> Request {
    Request { node: node.to_owned(), valid: days(1), dns: Vec::new(), ip: Vec::new() }
}

fn lay_down(directory: &Path, issued: &Issued, authorities: &str) -> IdentityFiles {
    let path = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    IdentityFiles {
        key: path("node.key", &issued.key),
        cert: path("node.pem", &issued.cert),
        ca: path("ca.pem", authorities),
    }
}

struct Peer {
    quic: Quic,
    socket: Box<dyn GossipSocket>,
    directory: TempDir,
    addr: SocketAddr,
}

impl Peer {
    async fn bind(authority: &Authority, node: &str) -> Self {
        Self::bind_at(authority, node, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    async fn bind_at(authority: &Authority, node: &str, listen: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = lay_down(directory.path(), &authority.issue(&request(node)).unwrap(), authority.pem());
        let name = NodeName { cluster: authority.cluster().to_owned(), node: NodeId::new(node) };
        let quic = Quic::bind(listen, files, name, RELOAD, Metrics::new().unwrap()).await.unwrap();
        let addr = quic.local_addr().unwrap();
        Self { socket: quic.open(addr).await.unwrap(), quic, directory, addr }
    }

    async fn send(&mut self, to: SocketAddr) {
        self.socket.send(to, GossipMessage::BadCluster).await.unwrap();
    }

    async fn hear(&mut self) -> SocketAddr {
        tokio::time::timeout(DEADLINE, self.socket.recv()).await.expect("nothing was heard").unwrap().0
    }

    /// Nothing is waiting to be heard.
    fn is_undisturbed(&self) -> bool {
        self.quic.inner.inbox.try_lock().unwrap().try_recv().is_err()
    }

    fn counted(&self, why: &str) -> u64 {
        self.quic.inner.shared.metrics.gossip_refused_total.with_label_values(&[why]).get()
    }

    async fn wait_counted(&self, why: &str, least: u64) {
        eventually(why, || self.counted(why) >= least).await;
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Believes whatever server it meets.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Calls `to` with any certificate, or none, by quinn alone.
async fn call_as(to: SocketAddr, issued: Option<&Issued>) -> (Endpoint, Result<Connection, ConnectionError>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match issued {
        None => config.with_no_client_auth(),
        Some(issued) => {
            let chain = vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let connected = endpoint.connect_with(config, to, "anybody").unwrap().await;
    (endpoint, connected)
}

async fn say(connection: &Connection, frame: &[u8]) {
    let mut stream = connection.open_uni().await.unwrap();
    // A receiver that has read enough stops the stream.
    let _ = stream.write_all(frame).await;
    let _ = stream.finish();
}

fn good_frame() -> Vec<u8> {
    Packer::new().unwrap().pack(&GossipMessage::BadCluster.serialize_to_vec()).unwrap()
}

#[tokio::test]
async fn a_message_is_answered_on_the_connection_it_came_on() {
    let authority = Authority::new(CLUSTER).unwrap();
    let (mut a, mut b) = (Peer::bind(&authority, "a").await, Peer::bind(&authority, "b").await);
    a.send(b.addr).await;
    let from = b.hear().await;
    assert_eq!(from, a.addr);
    b.send(from).await;
    assert_eq!(a.hear().await, b.addr);
    for peer in [&a, &b] {
        assert_eq!(peer.quic.inner.shared.endpoint.open_connections(), 1);
        for direction in ["sent", "received"] {
            let bytes = &peer.quic.inner.shared.metrics.gossip_bytes_total;
            assert_eq!(bytes.with_label_values(&[direction]).get(), good_frame().len() as u64);
        }
    }
}

#[tokio::test]
async fn a_peer_behind_a_translated_address_is_answered() {
    let authority = Authority::new(CLUSTER).unwrap();
    let (mut a, mut b) = (Peer::bind(&authority, "a").await, Peer::bind(&authority, "b").await);
    // A knows B by `front` alone, and B sees A come from `back`.
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (front_addr, back_addr) = (front.local_addr().unwrap(), back.local_addr().unwrap());
    let (a_addr, b_addr) = (a.addr, b.addr);
    let translator = tokio::spawn(async move {
        let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                Ok((length, _)) = front.recv_from(&mut there) => drop(back.send_to(&there[..length], b_addr).await),
                Ok((length, _)) = back.recv_from(&mut here) => drop(front.send_to(&here[..length], a_addr).await),
            }
        }
    });
    a.send(front_addr).await;
    assert_eq!(b.hear().await, back_addr);
    b.send(back_addr).await;
    assert_eq!(a.hear().await, front_addr);
    translator.abort();
}

#[tokio::test]
async fn strangers_are_refused_counted_and_not_heard() {
    let (authority, foreign) = (Authority::new(CLUSTER).unwrap(), Authority::new(CLUSTER).unwrap());
    let elsewhere = Authority::new("elsewhere").unwrap();
    let mut b = Peer::bind(&authority, "b").await;
    let now = SystemTime::now();
    let old = now - days(2);
    let strangers = [
        ("certificate_missing", None),
        ("certificate_foreign", Some(foreign.issue(&request("a")).unwrap())),
        ("certificate_foreign", Some(elsewhere.issue(&request("a")).unwrap())),
        (
            "certificate_expired",
            Some(authority.issue_between(&request("a"), CLUSTER, old, now - days(1)).unwrap()),
        ),
        (
            "certificate_expired",
            Some(authority.issue_between(&request("a"), CLUSTER, now + days(1), now + days(2)).unwrap()),
        ),
        (
            "certificate_cluster",
            Some(authority.issue_between(&request("a"), "other", now - days(1), now + days(1)).unwrap()),
        ),
    ];
    for (why, stranger) in &strangers {
        let before = b.counted(why);
        let (_endpoint, connected) = call_as(b.addr, stranger.as_ref()).await;
        // A TLS 1.3 client believes it is connected until it is told otherwise.
        if let Ok(connection) = connected {
            if let Ok(mut stream) = connection.open_uni().await {
                let _ = stream.write_all(&good_frame()).await;
                let _ = stream.finish();
            }
            tokio::time::timeout(DEADLINE, connection.closed()).await.expect("the connection stayed open");
        }
        b.wait_counted(why, before + 1).await;
        assert!(b.is_undisturbed(), "{why}");
    }
    let (_endpoint, connected) = call_as(b.addr, Some(&authority.issue(&request("a")).unwrap())).await;
    let connection = connected.unwrap();
    say(&connection, &good_frame()).await;
    b.hear().await;
}

#[tokio::test]
async fn a_node_does_not_talk_to_a_stranger_it_was_told_to_call() {
    let (authority, foreign) = (Authority::new(CLUSTER).unwrap(), Authority::new(CLUSTER).unwrap());
    let (mut a, b) = (Peer::bind(&authority, "a").await, Peer::bind(&foreign, "b").await);
    a.send(b.addr).await;
    a.wait_counted("certificate_foreign", 1).await;
    a.wait_counted("peer_unreachable", 1).await;
    assert!(b.is_undisturbed());
}

#[tokio::test]
async fn bad_frames_of_a_proven_peer_are_counted_and_the_next_good_one_is_heard() {
    let authority = Authority::new(CLUSTER).unwrap();
    let mut b = Peer::bind(&authority, "b").await;
    let (_endpoint, connected) = call_as(b.addr, Some(&authority.issue(&request("a")).unwrap())).await;
    let connection = connected.unwrap();
    say(&connection, &vec![0; FRAME_MAX + 1]).await;
    b.wait_counted("oversized_frame", 1).await;
    let mut bomb = vec![1];
    bomb.extend(zstd::bulk::compress(&vec![0; 1 << 24], 19).unwrap());
    say(&connection, &bomb).await;
    b.wait_counted("malformed_frame", 1).await;
    say(&connection, b"").await;
    b.wait_counted("malformed_frame", 2).await;
    say(&connection, b"\0no gossip").await;
    b.wait_counted("malformed_packet", 1).await;
    say(&connection, &syn_of("c")).await;
    b.wait_counted("another_node", 1).await;
    assert!(b.is_undisturbed());
    say(&connection, &syn_of("a")).await;
    b.hear().await;
}

/// A digest in which only `node` stands, as chitchat writes it.
fn syn_of(node: &str) -> Vec<u8> {
    let mut message = vec![0x53, 0xB0, 0, 0];
    1_u16.serialize(&mut message);
    GossipId::new(node, 7, SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).serialize(&mut message);
    (0..3).for_each(|_| 1_u64.serialize(&mut message));
    CLUSTER.to_owned().serialize(&mut message);
    assert!(GossipMessage::deserialize(&mut message.as_slice()).is_ok(), "chitchat's format has changed");
    assert!(frame::may_be_from(&message, node) && !frame::may_be_from(&message, "nobody"));
    Packer::new().unwrap().pack(&message).unwrap()
}

#[tokio::test]
async fn a_dead_peer_holds_nothing_up_and_is_found_when_it_comes_back() {
    let authority = Authority::new(CLUSTER).unwrap();
    let mut a = Peer::bind(&authority, "a").await;
    let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dead = hole.local_addr().unwrap();
    let started = Instant::now();
    for _ in 0..1000 {
        a.send(dead).await;
    }
    assert!(started.elapsed() < Duration::from_secs(1), "sending waited for {:?}", started.elapsed());
    // The queue holds some, and the call ends in vain.
    a.wait_counted("queue_full", 900).await;
    a.wait_counted("peer_unreachable", 1).await;
    drop(hole);
    let mut b = Peer::bind_at(&authority, "b", dead).await;
    let heard = async { b.hear().await };
    let sending = async {
        loop {
            a.send(dead).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        from = heard => assert_eq!(from, a.quic.local_addr().unwrap()),
        () = sending => {}
    }
}

#[tokio::test]
async fn a_restarted_peer_is_answered_at_once() {
    let authority = Authority::new(CLUSTER).unwrap();
    let (mut a, mut b) = (Peer::bind(&authority, "a").await, Peer::bind(&authority, "b").await);
    a.send(b.addr).await;
    let from = b.hear().await;
    b.send(from).await;
    a.hear().await;
    // Another process takes A's place: B's connection leads nowhere, and A's call replaces it.
    let addr = a.addr;
    drop(a);
    eventually("the port to be free", || UdpSocket::bind(addr).is_ok()).await;
    let mut a = Peer::bind_at(&authority, "a", addr).await;
    a.send(b.addr).await;
    assert_eq!(b.hear().await, addr);
    b.send(addr).await;
    a.hear().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_message_lost() {
    let authority = Authority::new(CLUSTER).unwrap();
    let (mut a, mut b) = (Peer::bind(&authority, "a").await, Peer::bind(&authority, "b").await);
    a.send(b.addr).await;
    b.hear().await;
    let serial = |issued: &Issued| {
        crate::identity::serial(&CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap())
    };
    let known = |b: &Peer, addr: SocketAddr| b.quic.inner.links.offered(addr).map(|proven| proven.serial);
    let first = known(&b, a.addr).unwrap();

    let ends = |peer: &Peer| {
        let gauge = &peer.quic.inner.shared.metrics.certificate_expires_timestamp_seconds;
        gauge.with_label_values(&["gossip"]).get()
    };
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap();
    assert!((now + 86_000..=now + 86_400).contains(&ends(&a)), "one day, not {} s", ends(&a) - now);

    // A key that does not fit yet: the files are being written.
    let renewed = authority.issue(&Request { valid: days(9), ..request("a") }).unwrap();
    std::fs::write(a.directory.path().join("node.key"), &renewed.key).unwrap();
    a.wait_counted("identity_reload", 1).await;
    a.send(b.addr).await;
    b.hear().await;
    assert_eq!(known(&b, a.addr), Some(first.clone()));

    lay_down(a.directory.path(), &renewed, authority.pem());
    let started = Instant::now();
    while known(&b, a.addr) != Some(serial(&renewed)) {
        assert!(started.elapsed() < DEADLINE, "the new certificate was never shown");
        a.send(b.addr).await;
        b.hear().await;
    }
    assert_ne!(first, serial(&renewed));
    assert!(ends(&a) > now + 8 * 86_400, "the metric follows the certificate in force");
    assert_eq!(a.counted("peer_unreachable") + a.counted("queue_full"), 0, "nothing was dropped");
    assert_eq!(a.counted("identity_reload"), 1);
    // The connection made under the old one ends by itself.
    eventually("one connection", || a.quic.inner.shared.endpoint.open_connections() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_garbage_disturbs_nobody() {
    let authority = Authority::new(CLUSTER).unwrap();
    let (mut a, mut b) = (Peer::bind(&authority, "a").await, Peer::bind(&authority, "b").await);
    let target = b.addr;
    let flood = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut sent = 0;
        for _ in 0..20_000 {
            let packet: Vec<u8> = (0..64 + (state % 1300))
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect();
            sent += usize::from(socket.send_to(&packet, target).is_ok());
        }
        sent
    });
    let mut heard = 0;
    while !flood.is_finished() || heard < 20 {
        a.send(b.addr).await;
        b.hear().await;
        heard += 1;
    }
    assert!(flood.await.unwrap() > 15_000);
    b.send(a.addr).await;
    a.hear().await;
    assert!(b.is_undisturbed());
    assert_eq!(b.quic.inner.shared.endpoint.open_connections(), 1);
}

#[tokio::test]
async fn a_transport_let_go_closes_its_port() {
    let authority = Authority::new(CLUSTER).unwrap();
    let Peer { quic, socket, addr, directory: _directory } = Peer::bind(&authority, "a").await;
    drop(quic);
    assert!(UdpSocket::bind(addr).is_err(), "the gossip task still has it");
    drop(socket);
    eventually("the port to be free", || UdpSocket::bind(addr).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_any_number_of_forged_replayed_and_garbage_datagrams_none_is_accepted() {
    let authority = Authority::new(CLUSTER).unwrap();
    let (mut a, mut b) = (Peer::bind(&authority, "a").await, Peer::bind(&authority, "b").await);
    // What really passes between two nodes, to be replayed: A speaks to B through a wire that is listened in to.
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (front_addr, b_addr) = (front.local_addr().unwrap(), b.addr);
    let recorded: Arc<std::sync::Mutex<Vec<Vec<u8>>>> = Arc::default();
    let tape = Arc::clone(&recorded);
    let back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let a_addr = a.addr;
    let wire = tokio::spawn(async move {
        let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                Ok((length, _)) = front.recv_from(&mut there) => {
                    tape.lock().unwrap().push(there[..length].to_vec());
                    drop(back.send_to(&there[..length], b_addr).await);
                }
                Ok((length, _)) = back.recv_from(&mut here) => drop(front.send_to(&here[..length], a_addr).await),
            }
        }
    });
    for _ in 0..20 {
        a.send(front_addr).await;
        b.hear().await;
    }
    let recorded = recorded.lock().unwrap().clone();
    assert!(recorded.len() > 20);

    let datagrams: u64 = std::env::var("FORGED").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let attacker = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // The same datagrams with every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for number in 0..datagrams {
        let mut bytes = match number % 4 {
            // As it passed; with bits turned over; chitchat's own bytes without any cover; noise.
            0 | 1 => recorded[draw() as usize % recorded.len()].clone(),
            2 => good_frame(),
            _ => (0..draw() % 1_200).map(|_| draw() as u8).collect(),
        };
        if number % 4 == 1 && !bytes.is_empty() {
            for _ in 0..=draw() % 8 {
                let at = draw() as usize % bytes.len();
                bytes[at] ^= 1 << (draw() % 8);
            }
        }
        let _ = attacker.send_to(&bytes, b.addr).await;
        // In the midst of it the real peer is heard.
        if number % 10_000 == 0 {
            a.send(front_addr).await;
            b.hear().await;
        }
    }
    // What the real peer says now comes after all that was sent before.
    a.send(front_addr).await;
    b.hear().await;
    assert!(b.is_undisturbed(), "something forged was accepted");
    a.send(front_addr).await;
    b.hear().await;
    wire.abort();
}

#[tokio::test]
async fn forged_deltas_of_a_proven_peer_are_counted_and_the_next_good_message_is_heard() {
    let authority = Authority::new(CLUSTER).unwrap();
    let mut b = Peer::bind(&authority, "b").await;
    let (_endpoint, connected) = call_as(b.addr, Some(&authority.issue(&request("a")).unwrap())).await;
    let connection = connected.unwrap();
    let forged = || Forged::default().node("victim", 0, 0);
    let pack = |message: Vec<u8>| Packer::new().unwrap().pack(&message).unwrap();
    for (why, message) in [
        ("unsound_delta", forged().value("k", "v", 10).highest(5).ack()),
        ("unsound_delta", forged().value("k", "v", u64::MAX).ack()),
        ("oversized_value", forged().value("k", &"v".repeat(60_000), 1).ack()),
    ] {
        let before = b.counted(why);
        say(&connection, &pack(message)).await;
        b.wait_counted(why, before + 1).await;
        assert!(b.is_undisturbed());
    }
    say(&connection, &pack(forged().value("k", "v", 1).ack())).await;
    b.hear().await;
}

#[tokio::test]
async fn a_caller_of_another_protocol_is_refused_and_counted() {
    let authority = Authority::new(CLUSTER).unwrap();
    let b = Peer::bind(&authority, "b").await;
    let issued = authority.issue(&request("a")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"llm-router-gossip/0".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    assert!(endpoint.connect_with(config, b.addr, "anybody").unwrap().await.is_err());
    b.wait_counted("handshake", 1).await;
    assert!(b.is_undisturbed());
}
