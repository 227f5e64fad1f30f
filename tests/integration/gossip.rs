//! Three nodes in one process over loopback UDP: what one sees, all know.

use crate::fixture::{Router, cluster, eventually, fast, file, header, hello, upstream};
use llm_router_actors::facts::Facts;
use llm_router_logic::backend::Kind;
use llm_router_logic::gossip::fact::{Fact, Topic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::UdpSocket;

/// A UDP port that is free now.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn node(name: &str, port: u16, seed: u16, interval: &str) -> String {
    format!(
        "node: {{name: {name}, region: region-{name}}}\nrouter: {{healthCheckInterval: {interval}}}\n\
         gossip: {{listen: \"127.0.0.1:{port}\", seeds: [\"127.0.0.1:{seed}\"]}}"
    )
}

fn peer_says(view: &Value, backend: &str, node: &str, health: &str) -> bool {
    let configured = view["backends"].as_array().unwrap().iter().filter(|b| b["name"] == backend);
    let facts = configured.flat_map(|b| b["peers"].as_array().unwrap());
    let foreign = view["foreign"].as_array().unwrap().iter().filter(|f| f["backend"] == backend);
    facts
        .chain(foreign)
        .any(|fact| fact["node"] == node && fact["health"] == health && fact["age_ms"].is_u64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_share_what_each_of_them_sees() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let other = upstream(fast(Kind::Llama, "other")).await;
    let ports = [free_port(), free_port(), free_port()];
    let only_a = file(&node("a", ports[0], ports[1], "2s"), &cluster("behind-a", &llama, 0.05), "");
    let a = Router::start(&only_a).await;
    let b =
        Router::start(&file(&node("b", ports[1], ports[0], "2s"), &cluster("at-b", &other, 0.05), "")).await;
    let c =
        Router::start(&file(&node("c", ports[2], ports[0], "2s"), &cluster("at-c", &other, 0.05), "")).await;
    for router in [&a, &b, &c] {
        router
            .wait_for("three live members", |view| {
                let members = view["members"].as_array().unwrap();
                members.len() == 3 && members.iter().all(|m| m["live"] == true && m["region"] != "")
            })
            .await;
    }
    for router in [&b, &c] {
        // The speed is measured after the first look.
        let measured = |view: &Value| {
            let mut facts = view["foreign"].as_array().unwrap().iter();
            facts.any(|fact| fact["backend"] == "behind-a" && fact["tokens_per_second"].is_f64())
        };
        let view = router
            .wait_for("A's fact", |view| peer_says(view, "behind-a", "a", "healthy") && measured(view))
            .await;
        let fact = &view["foreign"].as_array().unwrap().iter().find(|f| f["backend"] == "behind-a").unwrap();
        assert_eq!(fact["slots"], 4);
        assert!(fact["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(fact["models"][0], "tiny");
    }
    drop(llama);
    for router in [&b, &c] {
        router.wait_for("A's bad news", |view| peer_says(view, "behind-a", "a", "unhealthy")).await;
    }
    // A leaves: its facts go with it.
    a.node.shutdown().await;
    for router in [&b, &c] {
        router
            .wait_for("A to be missed", |view| {
                let members = view["members"].as_array().unwrap();
                let gone = members.iter().all(|m| m["node"] != "a" || m["live"] == false);
                gone && view["foreign"].as_array().unwrap().iter().all(|f| f["node"] != "a")
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_uses_a_peers_fact_at_once_for_a_backend_it_has_not_probed() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let (first, second) = (free_port(), free_port());
    let a = Router::start(&file(&node("a", first, second, "2s"), &cluster("shared", &llama, 0.05), "")).await;
    // B's own way to the cluster hangs: its probes tell it nothing.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = file(&node("b", second, first, "2s"), &cluster("shared", &llama, 0.05), "")
        .replace(&llama.url(), &format!("http://{}", deaf.local_addr().unwrap()));
    let b = Router::start_unready(&yaml).await;
    let view = b.wait_for("A's fact", |view| peer_says(view, "shared", "a", "healthy")).await;
    assert!(view["backends"][0]["own"].is_null(), "B must not have an observation of its own yet");
    let models: Value = {
        let response = b.client.get(format!("{}/v1/models", b.url)).send().await.unwrap();
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    };
    assert_eq!(models["data"][0]["id"], "tiny", "what A learnt B can offer");
    drop(a);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_shared_between_routers() {
    let mut mock = fast(Kind::Llama, "tiny");
    mock.slots = 4;
    mock.tokens_per_second = 10.0;
    mock.output_tokens = 60;
    let llama = upstream(mock).await;
    let (first, second) = (free_port(), free_port());
    let a = Router::start(&file(&node("a", first, second, "2s"), &cluster("shared", &llama, 0.05), "")).await;
    let b = Router::start(&file(&node("b", second, first, "2s"), &cluster("shared", &llama, 0.05), "")).await;
    let mut running = Vec::new();
    for _ in 0..3 {
        let response = a.chat(hello("tiny", true), &[]).await;
        assert_eq!(header(&response, "x-llm-router-backend"), "shared");
        running.push(response);
    }
    b.wait_for("A's three requests", |view| {
        view["backends"][0]["peers"].as_array().unwrap().iter().any(|fact| fact["in_flight"] == 3)
    })
    .await;
    eventually("B to keep to the one slot left", async || {
        let data: Value = {
            let response = b.client.get(format!("{}/ui/data", b.url)).send().await.unwrap();
            serde_json::from_str(&response.text().await.unwrap()).unwrap()
        };
        data["backends"][0]["limit"] == 1
    })
    .await;
}

#[tokio::test]
async fn gossip_off_loopback_is_refused_with_the_reason() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let yaml = file("gossip: {listen: \"0.0.0.0:0\"}", &cluster("c1", &llama, 0.05), "");
    let loaded = llm_router::config::load_str(&yaml, std::path::Path::new("."), &|_| None);
    let refusal = match loaded {
        Err(problems) => problems.to_string(),
        Ok(loaded) => llm_router::node::Node::start(loaded.config).await.err().unwrap().to_string(),
    };
    assert!(refusal.contains("gossip.listen") && refusal.contains("loopback"), "{refusal}");
}

/// What the tests tell.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note(u64);

impl Fact for Note {
    const TOPIC: Topic = Topic::Price;
    const VERSION: u8 = 1;
}

/// What a later version of the router would tell instead.
#[derive(Serialize, Deserialize)]
struct LaterNote(String);

impl Fact for LaterNote {
    const TOPIC: Topic = Topic::Price;
    const VERSION: u8 = 2;
}

fn notes(facts: &Facts) -> Vec<(String, String, u64)> {
    let live = facts.heard::<Note>().into_iter().filter(|heard| heard.live);
    live.map(|heard| (heard.node.to_string(), heard.name.to_string(), heard.fact.0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_facts_reach_every_peer_outlive_a_dead_actor_and_go_when_withdrawn() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let (first, second) = (free_port(), free_port());
    let a = Router::start(&file(&node("a", first, second, "2s"), &cluster("c1", &llama, 0.05), "")).await;
    let b = Router::start(&file(&node("b", second, first, "2s"), &cluster("c1", &llama, 0.05), "")).await;
    let (tells, hears) = (a.node.handle().facts(), b.node.handle().facts());
    let mut changes = hears.changes(Topic::Price);
    tells.publish("one", &Note(1)).unwrap();
    tells.publish("two", &Note(2)).unwrap();
    let one = ("a".to_owned(), "one".to_owned(), 1);
    let two = ("a".to_owned(), "two".to_owned(), 2);
    eventually("both notes", async || notes(hears) == [one.clone(), two.clone()]).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let later = ("a".to_owned(), "one".to_owned(), 7);
    tells.publish("one", &Note(7)).unwrap();
    eventually("the newer value", async || notes(hears) == [later.clone(), two.clone()]).await;
    assert!(changes.has_changed().unwrap());
    assert!(hears.last_heard(&"a".into()).is_some());

    // A version nobody here reads: left out and counted, the rest goes on.
    tells.publish("three", &LaterNote("later".to_owned())).unwrap();
    let refused = "llm_router_gossip_refused_total{why=\"version_future\"}";
    eventually("the later version to be counted", async || {
        notes(hears).len() == 2 && b.metric(refused).await == Some(1.0)
    })
    .await;

    a.node.handle().poison(&llm_router_actors::handle::ActorName::Gossip);
    let generation = hears.heard::<Note>()[0].generation;
    eventually("the actor's successor to tell everything anew", async || {
        let heard = hears.heard::<Note>();
        notes(hears) == [later.clone(), two.clone()] && heard.iter().all(|note| note.generation > generation)
    })
    .await;

    tells.withdraw(Topic::Price, "two");
    eventually("the withdrawal", async || notes(hears) == [later.clone()]).await;
    a.node.shutdown().await;
    eventually("A's notes to go with it", async || notes(hears).is_empty()).await;
}
