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
