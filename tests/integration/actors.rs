//! Every actor panics under load, its supervisor restarts it, and no request fails.

use crate::fixture::{Router, cluster, eventually, fast, file, hello, provider, upstream};
use llm_router_actors::handle::ActorName;
use llm_router_logic::backend::Kind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SHARED: &str = "shared";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_actor_may_panic_under_load_and_no_request_fails() {
    let mut slow = fast(Kind::Llama, SHARED);
    slow.tokens_per_second = 100.0;
    slow.slots = 16;
    let llama = upstream(slow).await;
    let spare = upstream(fast(Kind::OpenAi, SHARED)).await;
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger.sqlite");
    let gossip = format!(
        "router: {{healthCheckInterval: 2s}}\ngossip: {{listen: \"127.0.0.1:0\", seeds: []}}\nledger: {{path: \"{}\", commitTimeout: 60s}}",
        ledger.display()
    );
    let yaml = file(&gossip, &cluster("c1", &llama, 0.05), &provider("p1", &spare, SHARED));
    let router = Arc::new(Router::start(&yaml).await);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let load: Vec<_> = (0..8)
        .map(|nth| {
            let (router, stop, served) = (Arc::clone(&router), Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let stream = nth % 2 == 0;
                    let response = router.chat(hello(SHARED, stream), &[]).await;
                    let status = response.status();
                    let text = response.text().await.unwrap();
                    assert_eq!(status, 200, "{text}");
                    assert!(!stream || text.ends_with("data: [DONE]\n\n"), "{text}");
                    assert!(!text.contains("\"error\""), "{text}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let victims = [
        (ActorName::Backend("c1".into()), "backend"),
        (ActorName::Prober("c1".into()), "prober"),
        (ActorName::Backend("p1".into()), "backend"),
        (ActorName::Dispatcher, "dispatcher"),
        (ActorName::Cost, "cost"),
        (ActorName::Ledger, "ledger"),
        (ActorName::Gossip, "gossip"),
        (ActorName::Webhook, "webhook"),
        (ActorName::Root, "root"),
        (ActorName::Dispatcher, "dispatcher"),
    ];
    for (victim, label) in victims {
        let series = format!("llm_router_actor_restarts_total{{actor=\"{label}\"}}");
        let before = router.metric(&series).await.unwrap_or(0.0);
        let served_before = served.load(Ordering::SeqCst);
        // The actor that would pass the poison on may itself be reborn just now: ask again.
        let mut next_dose = Instant::now();
        eventually(&format!("{label} to be restarted"), async || {
            if Instant::now() >= next_dose {
                router.node.handle().poison(&victim);
                next_dose += Duration::from_secs(1);
            }
            router.metric(&series).await.unwrap_or(0.0) > before
        })
        .await;
        eventually("requests to go on", async || served.load(Ordering::SeqCst) >= served_before + 16).await;
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        task.await.unwrap();
    }
    // The reborn actors do their work: the books go on, and a new fact reaches the view.
    let total = served.load(Ordering::SeqCst);
    eventually("the books to hold every request", async || {
        router.admin("/admin/spend").await["total"]["requests"] == total
    })
    .await;
    drop(llama);
    router
        .wait_for("the reborn backend actor to see its cluster die", |view| {
            view["backends"][0]["own"]["health"] == "unhealthy"
        })
        .await;
}
