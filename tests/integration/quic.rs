//! Nodes that gossip over QUIC with certificates of their cluster: what they share, whom they refuse,
//! and what a change of certificates does to them.

use crate::certified::{Place, all_live, free_port, lay_down, live};
use crate::fixture::{Router, cluster, eventually, fast, file, upstream};
use llm_router::certs::{Authority, Request, days};
use llm_router_logic::backend::Kind;
use std::time::{Duration, Instant};

async fn refused(router: &Router, why: &str) -> f64 {
    router.metric(&format!("llm_router_gossip_refused_total{{why=\"{why}\"}}")).await.unwrap_or(0.0)
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

/// Carries datagrams between whoever comes to the address it returns, and `inner`.
async fn translator(inner: u16) -> u16 {
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = front.local_addr().unwrap().port();
    tokio::spawn(async move {
        use std::collections::btree_map::Entry;
        let front = std::sync::Arc::new(front);
        let mut backs = std::collections::BTreeMap::<_, std::sync::Arc<tokio::net::UdpSocket>>::new();
        let mut bytes = vec![0; 65_536];
        while let Ok((length, from)) = front.recv_from(&mut bytes).await {
            if let Entry::Vacant(vacant) = backs.entry(from) {
                let back = std::sync::Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
                back.connect(("127.0.0.1", inner)).await.unwrap();
                vacant.insert(std::sync::Arc::clone(&back));
                let front = std::sync::Arc::clone(&front);
                tokio::spawn(async move {
                    let mut bytes = vec![0; 65_536];
                    while let Ok(length) = back.recv(&mut bytes).await {
                        let _ = front.send_to(&bytes[..length], from).await;
                    }
                });
            }
            let _ = backs[&from].send(&bytes[..length]).await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_a_translated_address_is_reached_at_the_one_it_advertises() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let place = Place::new();
    let authority = Authority::new("fleet").unwrap();
    for node in ["a", "b"] {
        lay_down(place.directory.path(), node, &authority, authority.pem());
    }
    let (bound, other) = (free_port(), free_port());
    let advertised = translator(bound).await;
    // A calls nobody that answers; B knows only what A advertises.
    let a = place.node("a", "fleet", bound, free_port());
    let a = a.replace("seeds:", &format!("advertise: \"127.0.0.1:{advertised}\", seeds:"));
    let b = place.node("b", "fleet", other, advertised);
    let a = Router::start(&file(&a, &cluster("behind-a", &llama, 0.05), "")).await;
    let b = Router::start(&file(&b, &cluster("at-b", &llama, 0.05), "")).await;
    all_live(&[&a, &b]).await;
    for (router, backend) in [(&b, "behind-a"), (&a, "at-b")] {
        router
            .wait_for("the other's fact", |view| {
                let mut foreign = view["foreign"].as_array().unwrap().iter();
                foreign.any(|fact| fact["backend"] == backend && fact["health"] == "healthy")
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_the_cluster_id_and_no_certificate_learns_nothing_and_disturbs_nobody() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let place = Place::new();
    let authority = Authority::new("fleet").unwrap();
    for node in ["a", "b"] {
        lay_down(place.directory.path(), node, &authority, authority.pem());
    }
    let (one, other) = (free_port(), free_port());
    let rows = cluster("c1", &llama, 0.05);
    let a = Router::start(&file(&place.node("a", "fleet", one, other), &rows, "")).await;
    let thief = format!(
        "node: {{name: thief, region: nowhere}}\nrouter: {{healthCheckInterval: 2s}}\n\
         gossip: {{listen: \"127.0.0.1:0\", seeds: [\"127.0.0.1:{one}\"], clusterId: fleet}}"
    );
    let thief = Router::start(&file(&thief, &rows, "")).await;
    // Long enough for a peer with a certificate to come in and be heard.
    let b = Router::start(&file(&place.node("b", "fleet", other, one), &rows, "")).await;
    all_live(&[&a, &b]).await;
    eventually("some rounds of the thief", async || {
        thief.metric("llm_router_gossip_rounds_total").await.is_some_and(|rounds| rounds >= 10.0)
    })
    .await;
    assert_eq!(live(&thief.view().await), ["thief"]);
    assert!(a.view().await["members"].as_array().unwrap().iter().all(|member| member["node"] != "thief"));
}

/// On demand only, since it is about time: `FLOOD_SECONDS=5 cargo test --test integration flood -- --nocapture`.
/// Without it the flood lasts a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_twenty_thousand_packets_a_second_keeps_no_fact_and_no_request() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let place = Place::new();
    let authority = Authority::new("fleet").unwrap();
    let names = ["a", "b", "c"];
    for node in names {
        lay_down(place.directory.path(), node, &authority, authority.pem());
    }
    let ports = [free_port(), free_port(), free_port()];
    let mut routers = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let yaml = place.node(name, "fleet", ports[index], ports[(index + 1) % 3]);
        routers.push(Router::start(&file(&yaml, &cluster("c1", &llama, 0.05), "")).await);
    }
    all_live(&routers.iter().collect::<Vec<_>>()).await;
    let seconds: u64 = std::env::var("FLOOD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let length = Duration::from_secs(seconds);
    let flood = std::thread::spawn(move || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (started, mut sent, mut state) = (Instant::now(), 0_u64, 0x9E37_79B9_7F4A_7C15_u64);
        let mut packet = [0_u8; 1_200];
        while started.elapsed() < length {
            if started.elapsed().mul_f64(20_000.0) < Duration::from_secs(sent) {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            for byte in packet.iter_mut().step_by(7) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
            let bytes = 64 + (state >> 40) as usize % 1_100;
            sent += u64::from(socket.send_to(&packet[..bytes], ("127.0.0.1", ports[0])).is_ok());
        }
        sent
    });
    // Under the flood: a fact told by the flooded node reaches the others, and each of them serves.
    let (mut served, mut slowest, mut told) = (0_u32, Duration::ZERO, 0_u32);
    while !flood.is_finished() || told == 0 {
        let (name, asked) = (format!("n{told}"), Instant::now());
        let board = routers[0].node.handle().facts();
        let fact = llm_router_logic::gossip::quota::Revoked { keys: Vec::new() };
        board.publish(&name, &fact).unwrap();
        for router in &routers[1..] {
            eventually("a fact of the flooded node", async || {
                let posted = router.node.handle().facts().posted();
                posted.iter().any(|posted| *posted.name == *name)
            })
            .await;
        }
        slowest = slowest.max(asked.elapsed());
        told += 1;
        for router in &routers {
            let response = router.chat(crate::fixture::hello("tiny", false), &[]).await;
            assert_eq!(response.status(), 200);
            served += 1;
        }
    }
    let sent = flood.join().unwrap();
    assert!(sent > 1_000, "{sent} packets are no flood");
    for router in &routers {
        assert_eq!(live(&router.view().await).len(), 3);
    }
    tracing::info!(sent, seconds, served, told, ?slowest, "flooded");
    if std::env::var_os("FLOOD_SECONDS").is_some() {
        assert!(
            slowest < Duration::from_secs(2),
            "{sent} packets in {seconds} s: a fact took {slowest:?}, {told} told, {served} served"
        );
    }
}
