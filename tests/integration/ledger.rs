//! The ledger of a running node: what it says of requests of every kind, beside the mocks' own books.

use crate::certified::{Place, all_live, free_port, lay_down};
use crate::fixture::{
    DEADLINE, Router, cluster, events, eventually, fast, file, header, hello, json_body, provider, settings,
    upstream,
};
use futures_util::StreamExt;
use llm_router::certs::Authority;
use llm_router::mock::{Action, Faults, Mock, Wait};
use llm_router_logic::backend::Kind;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file's section.
fn section(path: &Path) -> String {
    // However busy the disk of the tests is.
    format!("ledger: {{path: \"{}\", commitTimeout: 60s}}\n", path.display())
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.sqlite");
    (directory, path)
}

/// Rows of the view `requests` in order, each a JSON object.
fn rows(path: &Path) -> Vec<Value> {
    let ledger = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut statement = ledger
        .prepare(
            "SELECT json_object('request', request, 'attempt', attempt, 'backend', backend, 'model', model,
             'outcome', outcome, 'status', status, 'fault', fault, 'last', last, 'input', input_tokens,
             'output', output_tokens, 'cost_pico', cost_pico, 'external_usd', external_usd,
             'estimated', estimated, 'cached', cached, 'relayed', relayed, 'hedge_lost', hedge_lost, 'shadow', shadow,
             'experiment', experiment, 'region', region, 'disconnected', disconnected, 'unpriced', unpriced, 'basis', basis,
             'price_table', price_table, 'tenant', tenant, 'raw_usage', raw_usage)
             FROM requests ORDER BY id",
        )
        .unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(|row| serde_json::from_str(&row.unwrap()).unwrap()).collect()
}

/// Waits until every attempt of the ledger is settled and there are `count` of them.
async fn settled(router: &Router, path: &Path, count: usize) -> Vec<Value> {
    eventually("the ledger to be settled", async || {
        let _ = router.node.handle().journal().unwrap().flush(DEADLINE).await;
        let rows = rows(path);
        rows.len() == count && rows.iter().all(|row| row["outcome"] != "running")
    })
    .await;
    rows(path)
}

/// `/admin/spend` once it holds `count` requests.
async fn booked(router: &Router, count: u64) -> Value {
    eventually("the books to hold every request", async || {
        router.admin("/admin/spend").await["total"]["requests"] == count
    })
    .await;
    router.admin("/admin/spend").await
}

fn tokens(rows: &[Value]) -> (u64, u64) {
    let sum = |key: &str| rows.iter().map(|row| row[key].as_u64().unwrap()).sum();
    (sum("input"), sum("output"))
}

fn books(mock: &Mock) -> (u64, u64) {
    let books = mock.books();
    (books.input_tokens, books.output_tokens)
}

#[tokio::test]
async fn every_request_has_a_row_and_its_tokens_are_the_backends_own() {
    let (_directory, path) = scratch();
    let (llama, openai) = (upstream(fast(Kind::Llama, "m")).await, upstream(fast(Kind::OpenAi, "gpt")).await);
    let router =
        Router::start(&file(&section(&path), &cluster("c1", &llama, 0.05), &provider("p1", &openai, "gpt")))
            .await;
    for stream in [false, true] {
        for (model, backend) in [("m", "c1"), ("gpt", "p1")] {
            let response = router.chat(hello(model, stream), &[]).await;
            assert_eq!(
                (response.status().as_u16(), header(&response, "x-llm-router-backend")),
                (200, backend)
            );
            response.bytes().await.unwrap();
        }
    }
    let missing = router.chat(hello("nobody", false), &[]).await;
    assert_eq!(missing.status(), 404);
    let rows = settled(&router, &path, 5).await;
    let of = |backend: &str| -> Vec<Value> {
        rows.iter().filter(|row| row["backend"] == backend).cloned().collect()
    };
    assert_eq!(tokens(&of("p1")), books(&openai));
    assert_eq!(tokens(&of("c1")), {
        // Its speed may have been measured with a request of the router's own.
        let calibrations = llama.books().requests - 2;
        let (input, output) = books(&llama);
        assert!(calibrations <= 1);
        if calibrations == 0 { (input, output) } else { tokens(&of("c1")) }
    });
    for row in of("p1") {
        // $1 and $2 per million tokens.
        let expected =
            row["input"].as_i64().unwrap() * 1_000_000 + row["output"].as_i64().unwrap() * 2_000_000;
        assert_eq!(row["cost_pico"], expected);
        assert_eq!((row["basis"].as_str(), row["estimated"].as_i64()), (Some("listed"), Some(0)));
        assert!(row["raw_usage"].as_str().unwrap().contains("prompt_tokens"));
        assert_eq!(row["price_table"].as_str().unwrap().len(), 16);
    }
    assert!(of("c1").iter().all(|row| row["basis"] == "machine" && row["cost_pico"].as_i64().unwrap() > 0));
    let refused = &of("")[0];
    assert_eq!((refused["status"].as_u64(), refused["cost_pico"].as_i64()), (Some(404), Some(0)));
    assert!(rows.iter().all(|row| row["tenant"] == "anonymous" || row["tenant"].is_string()));

    let spend = booked(&router, 5).await;
    let machine = spend["machines"]["c1"]["cost_usd"].as_f64().unwrap();
    assert!(machine > 0.0);
    let (gross, idle) =
        (spend["total"]["gross_savings_usd"].as_f64().unwrap(), spend["idle_usd"].as_f64().unwrap());
    assert!((spend["net_savings_usd"].as_f64().unwrap() - (gross - idle)).abs() < 1e-9);
    router.node.shutdown().await;
}

#[tokio::test]
async fn an_attempt_that_failed_after_work_was_done_is_paid_for_too() {
    let (_directory, path) = scratch();
    let (first, second) = (upstream(fast(Kind::OpenAi, "m")).await, upstream(fast(Kind::OpenAi, "m")).await);
    // Dear enough not to be near equal: the cheap one is always asked first.
    let dear = provider("p2", &second, "m").replace("output: 2.0", "output: 20.0");
    let providers = provider("p1", &first, "m") + &dear;
    let router = Router::start(&file(&section(&path), "", &providers)).await;
    // A plain answer whose body breaks off half way: the backend has worked, the client saw nothing.
    first.set_faults(Faults::always(Action::Cut { after_tokens: 4 }).unwrap());
    let response = router.chat(hello("m", false), &[]).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-llm-router-backend")), (200, "p2"));
    response.bytes().await.unwrap();
    // Refused at once: nothing to pay.
    first.set_faults(Faults::always(Action::Status { code: 500, retry_after: None, body: None }).unwrap());
    let response = router.chat(hello("m", false), &[("x-llm-router-strategy", "cost")]).await;
    assert_eq!(response.status(), 200);
    response.bytes().await.unwrap();
    let rows = settled(&router, &path, 4).await;
    assert_eq!(rows[0]["request"], rows[1]["request"]);
    let told = |row: &Value| (row["backend"].clone(), row["attempt"].clone(), row["last"].clone());
    assert_eq!(told(&rows[0]), (json!("p1"), json!(1), json!(0)));
    assert_eq!(told(&rows[1]), (json!("p2"), json!(2), json!(1)));
    assert_eq!((&rows[0]["fault"], &rows[0]["estimated"]), (&json!("broken"), &json!(1)));
    assert!(rows[0]["cost_pico"].as_i64().unwrap() > 0);
    assert_eq!((&rows[2]["cost_pico"], &rows[2]["estimated"]), (&json!(0), &json!(0)));
    assert_eq!(tokens(&[rows[1].clone(), rows[3].clone()]), books(&second));
    // The books of the node hold both attempts' cost, and one request.
    let total: i64 = rows.iter().map(|row| row["cost_pico"].as_i64().unwrap()).sum();
    let spend = booked(&router, 2).await;
    assert!((spend["total"]["cost_usd"].as_f64().unwrap() * 1e12 - total as f64).abs() < 1.0);
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_charged_for_what_it_was_sent() {
    let (_directory, path) = scratch();
    let mut config = fast(Kind::Anthropic, "m");
    (config.output_tokens, config.tokens_per_second) = (400, 200.0);
    let mock = upstream(config).await;
    let providers = provider("p1", &mock, "m").replace("type: openai", "type: claude");
    let router = Router::start(&file(&section(&path), "", &providers)).await;
    let prompt = "words of a prompt that is long enough to matter ".repeat(40);
    let ask = |stream: bool| json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": prompt}]});
    // Teaches the estimator how many tokens such a prompt has.
    router
        .chat(json!({"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": prompt}]}), &[])
        .await
        .bytes()
        .await
        .unwrap();

    let mut stream = router.chat(ask(true), &[]).await.bytes_stream();
    let mut seen = 0;
    while seen < 100 {
        let chunk = stream.next().await.unwrap().unwrap();
        seen += events(std::str::from_utf8(&chunk).unwrap()).len().max(1);
    }
    drop(stream);
    eventually("the upstream to be cancelled", async || mock.books().cancelled == 1).await;
    let rows = settled(&router, &path, 2).await;
    let row = &rows[1];
    assert_eq!(
        (&row["outcome"], &row["status"], &row["disconnected"]),
        (&json!("cancelled"), &json!(499), &json!(1))
    );
    let books = mock.books();
    let truth = (books.unfinished_input_tokens + books.unfinished_output_tokens) as f64;
    let charged = (row["input"].as_u64().unwrap() + row["output"].as_u64().unwrap()) as f64;
    assert!((charged / truth - 1.0).abs() <= 0.1, "charged {charged} of {truth}");
    router.node.shutdown().await;
}

#[tokio::test]
async fn without_a_place_to_write_paid_backends_refuse_and_our_own_go_on() {
    let (directory, path) = scratch();
    let nowhere = directory.path().join("not/there/ledger.sqlite");
    let (llama, openai) = (upstream(fast(Kind::Llama, "m")).await, upstream(fast(Kind::OpenAi, "gpt")).await);
    let (clusters, providers) = (cluster("c1", &llama, 0.05), provider("p1", &openai, "gpt"));
    let router = Router::start(&file(&section(&nowhere), &clusters, &providers)).await;
    assert_eq!(router.metric("llm_router_ledger_sound").await, Some(0.0));
    let paid = router.chat(hello("gpt", false), &[]).await;
    assert_eq!((paid.status().as_u16(), header(&paid, "retry-after")), (503, "5"));
    let told = json_body(paid).await;
    assert_eq!(told["error"]["code"], "ledger_unavailable");
    assert_eq!(openai.books().received, 0, "nothing was sent to it");
    for stream in [false, true] {
        let own = router.chat(hello("m", stream), &[]).await;
        assert_eq!(own.status(), 200);
        own.bytes().await.unwrap();
    }
    // The place appears: what was served meanwhile is written, and paid backends are back.
    std::fs::create_dir_all(nowhere.parent().unwrap()).unwrap();
    eventually("the ledger to be written again", async || {
        router.metric("llm_router_ledger_sound").await == Some(1.0)
    })
    .await;
    let paid = router.chat(hello("gpt", false), &[]).await;
    assert_eq!(paid.status(), 200);
    paid.bytes().await.unwrap();
    let rows = settled(&router, &nowhere, 4).await;
    assert_eq!(rows.iter().filter(|row| row["backend"] == "c1").count(), 2);
    assert_eq!(
        tokens(&rows.iter().filter(|row| row["backend"] == "p1").cloned().collect::<Vec<_>>()),
        books(&openai)
    );
    router.node.shutdown().await;

    // `open` goes on with everything; the word is the operator's.
    let open = section(&path.join("not/there")).replace("}", ", posture: open}");
    assert!(settings(&file(&open, &clusters, &providers)).ledger.is_some());
    let router = Router::start(&file(&open, &clusters, &providers)).await;
    assert_eq!(router.chat(hello("gpt", false), &[]).await.status(), 200);
    router.node.shutdown().await;
}

/// A router's rows where `column` is set, as tokens, and how many others there are.
fn flagged(rows: &[Value], column: &str) -> (Vec<Value>, usize) {
    let (set, others): (Vec<Value>, Vec<Value>) = rows.iter().cloned().partition(|row| row[column] == 1);
    (set, others.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relayed_request_is_booked_by_the_node_its_client_called_and_by_no_other() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let (_directory, path) = scratch();
    let path_of = |node: &str| path.with_file_name(format!("{node}.sqlite"));
    let place = Place::new();
    let authority = Authority::new("fleet").unwrap();
    let private =
        cluster("private", &mock, 0.05).replace("authType: none", "authType: none, reachedFrom: [region-b]");
    let (first, second) = (free_port(), free_port());
    let mut routers = Vec::new();
    for (name, port, seed) in [("b", second, first), ("a", first, second)] {
        lay_down(place.directory.path(), name, &authority, authority.pem());
        let yaml = place.node(name, "fleet", port, seed);
        let yaml = yaml.replace("identity: {", "relay: {listen: \"127.0.0.1:0\"}, identity: {");
        // Facts of the fleet's days go out with each reading.
        let yaml =
            yaml.replace("healthCheckInterval: 2s", "healthCheckInterval: 2s, metricsUpdateInterval: 2s");
        let more = format!("{yaml}\n{}", section(&path_of(name)));
        routers.push(Router::start_unready(&file(&more, &private, "")).await);
    }
    let [b, a] = &routers[..] else { unreachable!() };
    all_live(&[a, b]).await;
    let speed = |fact: &Value| fact["health"] == "healthy" && fact["tokens_per_second"].is_number();
    a.wait_for("B to say that it reaches the cluster and relays", |view| {
        let relays =
            view["members"].as_array().unwrap().iter().any(|m| m["node"] == "b" && m["relay"].is_string());
        relays && view["backends"][0]["peers"].as_array().unwrap().iter().any(speed)
    })
    .await;
    b.wait_for("its own cluster", |view| speed(&view["backends"][0]["own"])).await;
    // Its speed was measured with a request of the router's own, which no client pays for.
    let before = mock.books();
    let one = |nth: u64| {
        let router = if nth.is_multiple_of(4) { b } else { a };
        async move {
            let mut body = hello("tiny", nth.is_multiple_of(2));
            body["max_tokens"] = json!(1 + nth % 12);
            let response = router.chat(body, &[]).await;
            assert_eq!(header(&response, "x-llm-router-via"), if nth.is_multiple_of(4) { "" } else { "b" });
            assert_eq!(response.status(), 200);
            response.bytes().await.unwrap();
        }
    };
    futures_util::stream::iter(0..80).map(one).buffer_unordered(4).collect::<Vec<()>>().await;
    let (of_a, of_b) = (settled(a, &path_of("a"), 60).await, settled(b, &path_of("b"), 20).await);
    assert_eq!((flagged(&of_a, "relayed").0.len(), flagged(&of_b, "relayed").0.len()), (60, 0));
    assert!(of_a.iter().all(|row| row["region"] == "region-a" && row["cost_pico"].as_i64().unwrap() > 0));
    // Both nodes' books together are the cluster's own.
    let books = mock.books();
    let all = tokens(&[of_a.clone(), of_b.clone()].concat());
    assert_eq!(books.requests - before.requests, 80);
    assert_eq!(all, (books.input_tokens - before.input_tokens, books.output_tokens - before.output_tokens));
    assert_eq!(booked(a, 60).await["total"]["output_tokens"], tokens(&of_a).1);
    assert_eq!(booked(b, 20).await["total"]["output_tokens"], tokens(&of_b).1);
    // The fleet's day, as each of them tells it: all requests, and the cluster paid for once.
    for router in [a, b] {
        eventually("the fleet's figures", async || {
            let day = router.admin("/admin/spend").await["fleet_days"][0].clone();
            (&day["routers"], &day["requests"]) == (&json!(2), &json!(80))
        })
        .await;
        let spend = router.admin("/admin/spend").await;
        let usd = |day: &Value, key: &str| day[key].as_f64().unwrap();
        let (fleet, own) = (&spend["fleet_days"][0], &spend["days"][0]);
        let charged: i64 =
            [&of_a[..], &of_b[..]].concat().iter().map(|row| row["cost_pico"].as_i64().unwrap()).sum();
        assert!((usd(fleet, "cost_usd") * 1e12 - charged as f64).abs() < 1.0, "{fleet}");
        // Both pay for it by the hour; it counts as long as the one that saw it longest says.
        let mut most: f64 = 0.0;
        for node in [a, b] {
            most = most.max(usd(&node.admin("/admin/spend").await["days"][0], "machine_usd"));
        }
        assert!(usd(own, "machine_usd") > 0.0 && usd(fleet, "machine_usd") >= usd(own, "machine_usd"));
        assert!(usd(fleet, "machine_usd") <= most, "{fleet} {own}");
        let net = usd(fleet, "gross_savings_usd") - usd(fleet, "idle_usd");
        assert!((usd(fleet, "net_savings_usd") - net).abs() < 1e-9);
        assert!(router.metric("llm_router_fleet_net_savings_today_usd").await.is_some());
    }
    for router in routers {
        router.node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hedge_and_a_shadow_cost_and_the_arm_of_each_request_are_told_by_their_columns() {
    let (_directory, path) = scratch();
    let (cheap, dear) = (upstream(fast(Kind::OpenAi, "m")).await, upstream(fast(Kind::OpenAi, "m")).await);
    let copies = upstream(fast(Kind::OpenAi, "next")).await;
    let more = section(&path)
        + "router: {routingStrategy: cost, stickinessWindow: 0s, hedging: {enabled: true, maxSpendShare: 1.0}}\n\
           experiments:\n  - {name: trial, key: user, arms: [{name: only, weight: 1, strategy: cost}]}\n\
           shadows:\n  - {name: copy, share: 1.0, backend: next, model: next, maxSpendShare: 100.0}\n";
    let providers = provider("cheap", &cheap, "m")
        + &provider("dear", &dear, "m").replace("output: 2.0", "output: 20.0")
        + &provider("next", &copies, "next");
    let router = Router::start(&file(&more, "", &providers)).await;
    let ask = |stream: bool| {
        let mut body = hello("m", stream);
        body["user"] = json!("somebody");
        body
    };
    for nth in 1..=10 {
        router.chat(ask(nth % 2 == 0), &[]).await.bytes().await.unwrap();
        booked(&router, nth).await;
    }
    router.wait_for("its latency", |view| view["backends"][0]["own"]["latency_p95_ms"].is_number()).await;
    let slow = Action::Slow { ttft: Some(Wait(Duration::from_secs(20))), tokens_per_second: None };
    cheap.set_faults(Faults::always(slow).unwrap());
    let response = router.chat(ask(true), &[]).await;
    assert_eq!(header(&response, "x-llm-router-backend"), "dear");
    response.bytes().await.unwrap();
    booked(&router, 11).await;
    eventually("the copies to be booked", async || {
        let _ = router.node.handle().journal().unwrap().flush(DEADLINE).await;
        let rows = rows(&path);
        rows.iter().all(|row| row["outcome"] != "running")
            && flagged(&rows, "shadow").0.len() as u64 == copies.books().requests
    })
    .await;
    let rows = rows(&path);
    let (lost, _) = flagged(&rows, "hedge_lost");
    assert_eq!(lost.len(), 1);
    assert_eq!(
        (&lost[0]["backend"], &lost[0]["last"], &lost[0]["estimated"]),
        (&json!("cheap"), &json!(0), &json!(1))
    );
    assert!(lost[0]["input"].as_u64().unwrap() > 0, "the provider charges for the prompt it read");
    let won = rows.iter().find(|row| row["request"] == lost[0]["request"] && row["last"] == 1).unwrap();
    assert_eq!((&won["backend"], &won["hedge_lost"]), (&json!("dear"), &json!(0)));
    let (shadows, clients) = flagged(&rows, "shadow");
    assert!(!shadows.is_empty() && clients == 12, "{} copies, {clients} others", shadows.len());
    assert!(shadows.iter().all(|row| row["experiment"] == "shadow=copy" && row["backend"] == "next"));
    assert_eq!(tokens(&shadows), books(&copies));
    assert!(rows.iter().filter(|row| row["shadow"] == 0).all(|row| row["experiment"] == "trial=only"));
    router.node.shutdown().await;
}
