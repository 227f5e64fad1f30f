//! Nodes that gossip over QUIC with certificates of their cluster: what they share, whom they refuse,
//! and what a change of certificates does to them.

use crate::fixture::{Router, cluster, eventually, fast, file, hello, upstream};
use llm_router::certs::{Authority, Request, days};
use llm_router_logic::backend::Kind;
use serde_json::Value;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A UDP port that is free now.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Writes the identity of `node`, by `issuer`, that trusts `trusted`.
fn lay_down(directory: &Path, node: &str, issuer: &Authority, trusted: &str) {
    let request = Request { node: node.to_owned(), valid: days(1), dns: Vec::new(), ip: Vec::new() };
    let issued = issuer.issue(&request).unwrap();
    // Each file at once, as a person would copy them: half a change must do no harm.
    let put = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    put(&format!("{node}.key"), &issued.key);
    put(&format!("{node}.pem"), &issued.cert);
    put(&format!("{node}-ca.pem"), trusted);
}

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn node(&self, name: &str, cluster_id: &str, port: u16, seed: u16) -> String {
        let path = |suffix: &str| self.path(&format!("{name}{suffix}")).display().to_string();
        format!(
            "node: {{name: {name}, region: region-{name}}}\nrouter: {{healthCheckInterval: 2s}}\n\
             gossip: {{listen: \"127.0.0.1:{port}\", seeds: [\"127.0.0.1:{seed}\"], clusterId: {cluster_id}, \
             identity: {{cert: \"{}\", key: \"{}\", ca: \"{}\"}}}}",
            path(".pem"),
            path(".key"),
            path("-ca.pem")
        )
    }
}

fn live(view: &Value) -> Vec<&str> {
    let members = view["members"].as_array().unwrap().iter();
    members.filter(|m| m["live"] == true).map(|m| m["node"].as_str().unwrap()).collect()
}

async fn refused(router: &Router, why: &str) -> f64 {
    router.metric(&format!("llm_router_gossip_refused_total{{why=\"{why}\"}}")).await.unwrap_or(0.0)
}

async fn all_live(routers: &[&Router]) {
    for router in routers {
        router.wait_for("all members to be live", |view| live(view).len() == routers.len()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_share_facts_over_quic_and_outlive_a_change_of_authority() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let place = Place::new();
    let (old, new) = (Authority::new("fleet").unwrap(), Authority::new("fleet").unwrap());
    let nodes = ["a", "b", "c"];
    for node in nodes {
        lay_down(place.directory.path(), node, &old, old.pem());
    }
    let ports = [free_port(), free_port(), free_port()];
    let start = async |index: usize, clusters: &str| {
        let yaml = place.node(nodes[index], "fleet", ports[index], ports[(index + 1) % 3]);
        Router::start(&file(&yaml, clusters, "")).await
    };
    let a = start(0, &cluster("behind-a", &llama, 0.05)).await;
    let b = start(1, &cluster("at-b", &llama, 0.05)).await;
    let c = start(2, &cluster("at-c", &llama, 0.05)).await;
    all_live(&[&a, &b, &c]).await;
    for router in [&b, &c] {
        router
            .wait_for("A's fact", |view| {
                let foreign = view["foreign"].as_array().unwrap();
                foreign.iter().any(|f| f["backend"] == "behind-a" && f["health"] == "healthy")
            })
            .await;
    }

    // Trust both authorities, then take certificates of the new one, then forget the old one.
    let both = format!("{}{}", old.pem(), new.pem());
    let steps: [(&Authority, &str); 3] = [(&old, &both), (&new, &both), (&new, new.pem())];
    for (issuer, trusted) in steps {
        for node in nodes {
            lay_down(place.directory.path(), node, issuer, trusted);
        }
        // Longer than a node takes to look at its files; nobody may be missed meanwhile.
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(2_600) {
            for router in [&a, &b, &c] {
                let view = router.view().await;
                assert_eq!(live(&view).len(), 3, "a member was lost: {view:#}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // A newcomer that knows the new authority alone is let in; one of the old authority is not.
    let old_port = free_port();
    lay_down(place.directory.path(), "late", &old, &both);
    let late = place.node("late", "fleet", old_port, ports[0]);
    let late = Router::start(&file(&late, &cluster("at-late", &llama, 0.05), "")).await;
    eventually("the old authority to be refused", async || refused(&a, "certificate_foreign").await > 0.0)
        .await;
    assert_eq!(live(&late.view().await), ["late"]);
    lay_down(place.directory.path(), "d", &new, new.pem());
    let d = place.node("d", "fleet", free_port(), ports[1]);
    let d = Router::start(&file(&d, &cluster("at-d", &llama, 0.05), "")).await;
    all_live(&[&a, &b, &c, &d]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_see_nobody_and_are_counted() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let place = Place::new();
    let (ours, theirs) = (Authority::new("fleet").unwrap(), Authority::new("fleet").unwrap());
    let other = other_cluster(&ours);
    lay_down(place.directory.path(), "a", &ours, ours.pem());
    let port = free_port();
    let a =
        Router::start(&file(&place.node("a", "fleet", port, free_port()), &cluster("c1", &llama, 0.05), ""))
            .await;
    // A foreign authority of the same name, and our own authority's certificate of another cluster.
    lay_down(place.directory.path(), "foreign", &theirs, theirs.pem());
    let foreign = place.node("foreign", "fleet", free_port(), port);
    for (name, text) in [("other.pem", &other.cert), ("other.key", &other.key)] {
        std::fs::write(place.path(name), text).unwrap();
    }
    std::fs::write(place.path("other-ca.pem"), ours.pem()).unwrap();
    let other = place.node("other", "other-fleet", free_port(), port);
    let rows = cluster("c2", &llama, 0.05);
    let foreign = Router::start(&file(&foreign, &rows, "")).await;
    let other = Router::start(&file(&other, &rows, "")).await;
    // Whoever calls finds the stranger first and counts it. A calls nobody here.
    eventually("the foreign authority to be counted", async || {
        refused(&foreign, "certificate_foreign").await > 0.0
    })
    .await;
    eventually("the other cluster to be counted", async || {
        refused(&other, "certificate_cluster").await > 0.0
    })
    .await;
    for (router, name) in [(&a, "a"), (&foreign, "foreign"), (&other, "other")] {
        let view = router.view().await;
        let known: Vec<&str> =
            view["members"].as_array().unwrap().iter().map(|m| m["node"].as_str().unwrap()).collect();
        assert_eq!(known, [name]);
        assert!(view["foreign"].as_array().unwrap().is_empty());
    }
}

fn other_cluster(authority: &Authority) -> llm_router::certs::Issued {
    let request = Request { node: "other".to_owned(), valid: days(1), dns: Vec::new(), ip: Vec::new() };
    let now = std::time::SystemTime::now();
    authority.issue_between(&request, "other-fleet", now - days(1), now + days(1)).unwrap()
}

#[tokio::test]
async fn a_node_with_another_nodes_certificate_does_not_start() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let place = Place::new();
    let authority = Authority::new("fleet").unwrap();
    lay_down(place.directory.path(), "a", &authority, authority.pem());
    let refusal = async |yaml: &str| {
        let config = crate::fixture::settings(&file(yaml, &cluster("c1", &llama, 0.05), ""));
        llm_router::node::Node::start(config).await.err().unwrap().to_string()
    };
    let good = place.node("a", "fleet", 0, free_port());
    let renamed = refusal(&good.replace("name: a,", "name: z,")).await;
    assert!(renamed.contains("gossip.identity") && renamed.contains("is of node `a`"), "{renamed}");
    let moved = refusal(&good.replace("clusterId: fleet", "clusterId: fleet2")).await;
    assert!(moved.contains("in cluster `fleet2`"), "{moved}");
    std::fs::remove_file(place.path("a.key")).unwrap();
    let missing = refusal(&good).await;
    assert!(missing.contains("cannot read") && missing.contains("a.key"), "{missing}");
}

/// Rounds of the measurement.
const ROUNDS: usize = 60;

/// How long a change takes from one node to the other two, over QUIC and over plain UDP, and what three
/// idle nodes cost: the figures of `docs/adr/0002-gossip-over-quic.md`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of two minutes, to be run alone"]
async fn a_change_reaches_three_nodes_over_quic_as_soon_as_over_udp() {
    let mut lines = Vec::new();
    let mut medians = Vec::new();
    for over_quic in [false, true] {
        let (mut seen, cpu) = propagation(over_quic).await;
        seen.sort_unstable();
        let at = |share: usize| seen[(seen.len() - 1) * share / 100].as_millis();
        let name = if over_quic { "QUIC" } else { "UDP" };
        lines.push(format!(
            "{name}: p50 {} ms, p99 {} ms of {}; cpu of three idle nodes {:.2} % of a core",
            at(50),
            at(99),
            seen.len(),
            cpu * 100.0
        ));
        medians.push(at(50));
    }
    std::io::Write::write_all(&mut std::io::stderr(), (lines.join("\n") + "\n").as_bytes()).unwrap();
    assert!(medians[1] < medians[0] * 2 + 100, "{lines:?}");
}

/// Times from a change of A's own fact to its arrival at B and at C, and the share of a core the process
/// used while nothing changed.
async fn propagation(over_quic: bool) -> (Vec<Duration>, f64) {
    let mut mock = fast(Kind::Llama, "tiny");
    mock.tokens_per_second = 1.0;
    mock.output_tokens = 600;
    let llama = upstream(mock).await;
    let other = upstream(fast(Kind::Llama, "other")).await;
    let place = Place::new();
    let authority = Authority::new("fleet").unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let mut routers = Vec::new();
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        lay_down(place.directory.path(), name, &authority, authority.pem());
        let mut yaml = place.node(name, "fleet", ports[index], ports[(index + 1) % 3]);
        if !over_quic {
            yaml = yaml.split(", identity:").next().unwrap().to_owned() + "}";
        }
        let mock = if index == 0 { &llama } else { &other };
        let rows = cluster(&format!("at-{name}"), mock, 0.05);
        routers.push(Router::start_unready(&file(&yaml, &rows, "")).await);
    }
    all_live(&routers.iter().collect::<Vec<_>>()).await;
    let [a, b, c] = &routers[..] else { unreachable!("three were started") };
    a.wait_for("A's cluster", |view| view["backends"][0]["own"]["health"] == "healthy").await;

    let (before, started) = (cpu_seconds(), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let cpu = (cpu_seconds() - before) / started.elapsed().as_secs_f64();

    let own = |router: &Router| {
        let snapshot = router.node.handle().snapshot();
        snapshot.view.backends[0].own.as_ref().map_or(0, |fact| fact.report.in_flight)
    };
    let told = |router: &Router| {
        let snapshot = router.node.handle().snapshot();
        let fact = snapshot.view.foreign.iter().find(|(backend, _)| backend.as_str() == "at-a");
        fact.map_or(0, |(_, fact)| fact.report.in_flight)
    };
    let mut seen = Vec::new();
    let mut running = None;
    for round in 0..ROUNDS {
        // Off the beat of the rounds of gossip, and slower than changes are told at most.
        tokio::time::sleep(Duration::from_millis(410 + 37 * (round as u64 % 11))).await;
        let wanted = match running.take() {
            None => {
                running = Some(a.chat(hello("tiny", true), &[]).await);
                1
            }
            Some(response) => {
                drop(response);
                0
            }
        };
        until(|| own(a) == wanted).await;
        let changed = Instant::now();
        let at = async |router: &Router| {
            until(|| told(router) == wanted).await;
            changed.elapsed()
        };
        let (at_b, at_c) = tokio::join!(at(b), at(c));
        seen.extend([at_b, at_c]);
    }
    (seen, cpu)
}

/// Waits for a condition to the millisecond.
async fn until(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < crate::fixture::DEADLINE, "waited in vain");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// CPU time of this process so far (fields 14 and 15 of `/proc/self/stat`, in hundredths of a second).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}
