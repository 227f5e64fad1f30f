//! TLS on the API listener, the admin listener and the sidecar's, and to clusters by certificates.

use crate::certified::Place;
use crate::fixture::{Router, cluster, events, eventually, fast, file, header, hello, upstream};
use futures_util::StreamExt;
use llm_router::certs::{Authority, Request, days};
use llm_router::config::{self, SidecarConfig};
use llm_router::identity;
use llm_router::mock::Mock;
use llm_router::sidecar::{self, Sidecar};
use llm_router_logic::backend::Kind;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// One authority, and a folder with what it issued.
struct Certificates {
    place: Place,
    authority: Authority,
}

impl Certificates {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let issued = Self { place: Place::new(), authority: Authority::new("fleet").unwrap() };
        std::fs::write(issued.place.path("ca.pem"), issued.authority.pem()).unwrap();
        for name in ["server", "client"] {
            issued.issue(name, &issued.authority);
        }
        issued
    }

    /// Writes `name.pem` and `name.key`.
    fn issue(&self, name: &str, issuer: &Authority) {
        let issued = issuer.issue(&request(name)).unwrap();
        std::fs::write(self.place.path(&format!("{name}.key")), issued.key).unwrap();
        std::fs::write(self.place.path(&format!("{name}.pem")), issued.cert).unwrap();
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.place.path(name)).unwrap()
    }

    /// The section `tls` of a listener.
    fn section(&self, client_auth: &str) -> String {
        let path = |name: &str| self.place.path(name).display().to_string();
        format!(
            "tls: {{certFile: \"{}\", keyFile: \"{}\", clientCaFile: \"{}\", clientAuth: {client_auth}}}",
            path("server.pem"),
            path("server.key"),
            path("ca.pem")
        )
    }

    /// A client of this authority, with the certificate `name` where there is one.
    fn client(&self, name: Option<&str>) -> reqwest::Client {
        let authority = reqwest::Certificate::from_pem(self.authority.pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([authority]);
        let builder = match name {
            Some(name) => {
                let pem =
                    format!("{}\n{}", self.text(&format!("{name}.pem")), self.text(&format!("{name}.key")));
                builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
            }
            None => builder,
        };
        builder.build().unwrap()
    }

    /// A connection by hand, with `alpn`.
    async fn connect(&self, to: SocketAddr, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(self.text("client.pem").as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.text("client.key").as_bytes()).unwrap();
        let mut config =
            ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::from(to.ip());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

fn request(name: &str) -> Request {
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    Request { node: name.to_owned(), valid: days(1), dns: vec!["localhost".to_owned()], ip: vec![local] }
}

/// Serial number of the server's certificate.
fn serial(stream: &TlsStream<TcpStream>) -> String {
    identity::serial(&stream.get_ref().1.peer_certificates().unwrap()[0])
}

/// A node whose API listener has `tls`.
async fn node(section: &str, mock: &Mock) -> Router {
    let yaml = file("", &cluster("c1", mock, 0.05), "").replace("port: 0}", &format!("port: 0, {section}}}"));
    let router = Router::start_unready(&yaml).await;
    router
        .wait_for("the cluster to be healthy", |view| view["backends"][0]["own"]["health"] == "healthy")
        .await;
    router
}

/// Asks over a connection by hand, and gives back what came within the answer's length.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64 * 1024];
    let read =
        tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

async fn metric_over_admin(router: &Router, client: &reqwest::Client, series: &str) -> Option<f64> {
    let url = format!("https://localhost:{}/metrics", router.node.addr().port());
    let text = client.get(url).send().await.ok()?.text().await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_is_refused_where_one_is_demanded() {
    let certificates = Certificates::new();
    let foreign = Authority::new("fleet").unwrap();
    certificates.issue("foreign", &foreign);
    let (now, day) = (SystemTime::now(), days(1));
    let expired =
        certificates.authority.issue_between(&request("expired"), "fleet", now - day * 2, now - day).unwrap();
    std::fs::write(certificates.place.path("expired.pem"), expired.cert).unwrap();
    std::fs::write(certificates.place.path("expired.key"), expired.key).unwrap();
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let section = certificates.section("required");
    let yaml = file("", &cluster("c1", &mock, 0.05), "")
        .replace("port: 0}", &format!("port: 0, {section}}}"))
        .replace("admin: {", &format!("admin: {{{section}, "));
    let router = Router::start_unready(&yaml).await;
    let good = certificates.client(Some("client"));
    let doors = [
        ("server", router.node.addr(), "/livez"),
        ("admin", router.node.admin_addr().unwrap(), "/admin/view"),
    ];
    for (door, address, path) in doors {
        let url = format!("https://localhost:{}{path}", address.port());
        let asked = good.get(&url).bearer_auth(crate::fixture::TOKEN).send().await.unwrap();
        assert_eq!(asked.status(), 200, "{door}");
        for (why, name) in [
            ("certificate_missing", None),
            ("certificate_foreign", Some("foreign")),
            ("certificate_expired", Some("expired")),
        ] {
            let asked = certificates.client(name).get(&url).bearer_auth(crate::fixture::TOKEN);
            assert!(asked.send().await.is_err(), "{door} let {why} in");
            let series = format!("llm_router_tls_refused_total{{listener=\"{door}\",why=\"{why}\"}}");
            eventually(why, async || metric_over_admin(&router, &good, &series).await == Some(1.0)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_optional_certificate_may_be_missing_but_not_wrong() {
    let certificates = Certificates::new();
    certificates.issue("foreign", &Authority::new("fleet").unwrap());
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let router = node(&certificates.section("optional"), &mock).await;
    let url = format!("https://localhost:{}/v1/chat/completions", router.node.addr().port());
    for (name, let_in) in [(None, true), (Some("client"), true), (Some("foreign"), false)] {
        let asked = certificates.client(name).post(&url).body(hello("tiny", false).to_string()).send().await;
        assert_eq!(asked.is_ok_and(|answer| answer.status() == 200), let_in, "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_seen_by_new_connections_and_old_ones_go_on() {
    let certificates = Certificates::new();
    let mut slow = fast(Kind::Llama, "tiny");
    (slow.tokens_per_second, slow.output_tokens) = (20.0, 120);
    let mock = upstream(slow).await;
    let router = node(&certificates.section("required"), &mock).await;
    let (address, client) = (router.node.addr(), certificates.client(Some("client")));
    let mut old = certificates.connect(address, &["http/1.1"]).await.unwrap();
    let before = serial(&old);
    assert!(ask(&mut old, "/livez").await.starts_with("HTTP/1.1 200"));
    let expires = "llm_router_certificate_expires_timestamp_seconds{certificate=\"server\"}";
    let ends = metric_over_admin(&router, &client, expires).await.unwrap();
    // A stream over HTTP/2 that is longer than the change takes.
    let url = format!("https://localhost:{}/v1/chat/completions", address.port());
    let running = client.post(url).body(hello("tiny", true).to_string()).send().await.unwrap();
    assert_eq!(running.version(), reqwest::Version::HTTP_2);

    // Half a change first: the certificate without its key.
    let (now, week) = (SystemTime::now(), days(7));
    let renewed =
        certificates.authority.issue_between(&request("server"), "fleet", now - days(1), now + week).unwrap();
    std::fs::write(certificates.place.path("server.pem"), &renewed.cert).unwrap();
    let refused = "llm_router_tls_refused_total{listener=\"server\",why=\"certificate_reload\"}";
    eventually("the half change to be refused", async || {
        metric_over_admin(&router, &client, refused).await == Some(1.0)
    })
    .await;
    assert_eq!(serial(&certificates.connect(address, &[]).await.unwrap()), before, "the one in force stays");
    std::fs::write(certificates.place.path("server.key"), &renewed.key).unwrap();
    let expected = identity::serial(&CertificateDer::from_pem_slice(renewed.cert.as_bytes()).unwrap());
    eventually("new connections to see the new certificate", async || {
        serial(&certificates.connect(address, &[]).await.unwrap()) == expected
    })
    .await;
    assert_ne!(expected, before);
    assert!(metric_over_admin(&router, &client, expires).await.unwrap() > ends + 5.0 * 86_400.0);
    // Those of before go on.
    assert!(ask(&mut old, "/livez").await.starts_with("HTTP/1.1 200"));
    let text = running.text().await.unwrap();
    assert_eq!(events(&text).last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listener_speaks_tls_1_3_with_http_2_and_1_and_says_so_to_plain_clients() {
    let certificates = Certificates::new();
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let router = node(&certificates.section("none"), &mock).await;
    let address = router.node.addr();
    for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = certificates.connect(address, offered).await.unwrap();
        let (_, tls) = stream.get_ref();
        assert_eq!(tls.alpn_protocol(), Some(chosen.as_bytes()));
        assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
    assert!(certificates.connect(address, &["spdy/3"]).await.is_err());
    let old = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .tls_version_max(reqwest::tls::Version::TLS_1_2);
    let url = format!("https://localhost:{}/livez", address.port());
    assert!(old.build().unwrap().get(&url).send().await.is_err(), "TLS 1.2 is refused");
    let plain = router.client.get(format!("http://{address}/livez")).send().await.unwrap();
    assert_eq!(plain.status(), 400);
    assert!(plain.text().await.unwrap().contains("tls_required"));
    let client = certificates.client(None);
    for why in ["not_tls", "handshake"] {
        let series = format!("llm_router_tls_refused_total{{listener=\"server\",why=\"{why}\"}}");
        eventually(why, async || metric_over_admin(&router, &client, &series).await >= Some(1.0)).await;
    }
}

#[tokio::test]
async fn a_node_does_not_start_with_a_certificate_that_cannot_be_used() {
    let certificates = Certificates::new();
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let yaml = |section: &str| {
        file("", &cluster("c1", &mock, 0.05), "").replace("port: 0}", &format!("port: 0, {section}}}"))
    };
    let refusal = async |yaml: String| {
        let started = llm_router::node::Node::start(crate::fixture::settings(&yaml)).await;
        started.err().map(|error| error.to_string()).unwrap_or_default()
    };
    certificates.issue("other", &certificates.authority);
    let foreign_key = certificates.section("none").replace("server.key", "other.key");
    assert!(refusal(yaml(&foreign_key)).await.contains("server.tls: certificate"));
    let missing = certificates.section("none").replace("server.pem", "nowhere.pem");
    assert!(refusal(yaml(&missing)).await.contains("nowhere.pem"));
    let (now, day) = (SystemTime::now(), days(1));
    let expired =
        certificates.authority.issue_between(&request("server"), "fleet", now - day * 2, now - day).unwrap();
    std::fs::write(certificates.place.path("server.pem"), expired.cert).unwrap();
    std::fs::write(certificates.place.path("server.key"), expired.key).unwrap();
    assert!(refusal(yaml(&certificates.section("none"))).await.contains("has expired"));
}

/// A sidecar before `mock`, with more of its section.
async fn beside(mock: &Mock, more: &str) -> Sidecar {
    let yaml = format!(
        "sidecar: {{listen: \"127.0.0.1:0\", upstream: \"{}\", costPerHour: 0.1, name: c1, {more}}}",
        mock.url()
    );
    let (config, _): (SidecarConfig, _) =
        config::load_sidecar_str(&yaml, Path::new("."), &|_| None).unwrap_or_else(|error| panic!("{error}"));
    sidecar::start(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_reached_by_mutual_tls_and_a_rotated_client_certificate_is_shown() {
    let certificates = Certificates::new();
    let mut slow = fast(Kind::Llama, "tiny");
    (slow.tokens_per_second, slow.output_tokens) = (40.0, 80);
    let mock = upstream(slow).await;
    let sidecar = beside(&mock, &format!("authType: mtls, {}", certificates.section("required"))).await;
    let path = |name: &str| certificates.place.path(name).display().to_string();
    let row = |certificate: &str, ca: &str| {
        format!(
            "  - {{name: c1, endpoint: \"https://localhost:{}\", costPerHour: 0.05, authType: mtls, \
             certFile: \"{}\", keyFile: \"{}\", caFile: \"{}\"}}\n",
            sidecar.addr().port(),
            path(&format!("{certificate}.pem")),
            path(&format!("{certificate}.key")),
            path(ca)
        )
    };
    let policy = "router: {calibrateThroughput: false, healthCheckInterval: 2s}";
    let router = Router::start_unready(&file(policy, &row("client", "ca.pem"), "")).await;
    router.wait_for("the cluster", |view| view["backends"][0]["own"]["health"] == "healthy").await;
    let running = router.chat(hello("tiny", true), &[]).await;
    assert_eq!((running.status().as_u16(), header(&running, "x-llm-router-backend")), (200, "c1"));
    // The client certificate is replaced by one the sidecar refuses: seen only if it is really shown.
    certificates.issue("client", &Authority::new("fleet").unwrap());
    router.node.renew().unwrap();
    let refused = router.chat(hello("tiny", false), &[]).await;
    assert_ne!(refused.status(), 200);
    certificates.issue("client", &certificates.authority);
    router.node.renew().unwrap();
    eventually("the cluster to be back", async || {
        router.chat(hello("tiny", false), &[]).await.status() == 200
    })
    .await;
    let mut stream = running.bytes_stream();
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    assert!(text.trim_end().ends_with("[DONE]"), "the stream of before went on: {text}");

    // A cluster of another authority is no cluster of ours.
    std::fs::write(certificates.place.path("other-ca.pem"), Authority::new("fleet").unwrap().pem()).unwrap();
    let stranger = Router::start_unready(&file("", &row("client", "other-ca.pem"), "")).await;
    stranger
        .wait_for("the stranger's certificate to be refused", |view| {
            view["backends"][0]["own"]["health"] == "unhealthy"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_by_v2_a_router_reaches_a_sidecar_that_takes_nothing_else_while_the_secret_changes() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let secrets = "authType: hmac_v2, sharedSecret: new-secret, keyId: k2, previousSecret: old-secret, previousKeyId: k1";
    let sidecar = beside(&mock, secrets).await;
    let row = |more: &str| {
        format!("  - {{name: c1, endpoint: \"http://{}\", costPerHour: 0.05, {more}}}\n", sidecar.addr())
    };
    for more in [
        "authType: hmac_v2, sharedSecret: old-secret, keyId: k1",
        "authType: hmac_v2, sharedSecret: new-secret, keyId: k2",
    ] {
        let router = Router::start(&file("", &row(more), "")).await;
        let answers =
            futures_util::future::join_all((0..8).map(|_| router.chat(hello("tiny", false), &[]))).await;
        assert!(answers.iter().all(|answer| answer.status() == 200), "equal requests in one second all pass");
    }
    let refused =
        Router::start_unready(&file("", &row("authType: hmac, sharedSecret: new-secret"), "")).await;
    assert_ne!(refused.chat(hello("tiny", false), &[]).await.status(), 200);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/metrics", sidecar.addr());
    let text = client.get(url).send().await.unwrap().text().await.unwrap();
    assert!(
        text.lines()
            .any(|line| line.starts_with("llm_sidecar_auth_refused_total") && line.contains("version")),
        "{text}"
    );
    let unsigned =
        client.post(format!("http://{}/v1/chat/completions", sidecar.addr())).body(json!({}).to_string());
    assert_eq!(unsigned.send().await.unwrap().status(), 401);
}
