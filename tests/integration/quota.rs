//! Budgets and rate limits through real sockets.

use crate::fixture::{Router, cluster, eventually, fast, file, header, hello, json_body, provider, upstream};
use llm_router::mock::{Action, Faults, Mock, Wait};
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::time::Duration;

const KEY: &str = "a-key-of-these-tests-1";

/// YAML with one key of tenant `team`, its limits and those of the tenant.
fn access(key: &str, tenant: &str) -> String {
    format!("auth: {{keys: [{{id: k, tenant: team, key: {KEY}{key}}}]}}\ntenants: [{{name: team{tenant}}}]\n")
}

fn asking(model: &str, max_tokens: u64) -> Value {
    json!({"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": "hello there"}]})
}

async fn ask(router: &Router, body: Value) -> reqwest::Response {
    router.chat(body, &[("authorization", &format!("Bearer {KEY}"))]).await
}

/// Waits until this node has its share of what is limited.
async fn shared(router: &Router) {
    eventually("the quota to be shared out", async || {
        let limits = router.admin("/admin/limits").await;
        let budgets = limits["budgets"].as_array().unwrap();
        budgets.iter().all(|budget| budget["here"]["allowed_usd"].as_f64().unwrap() > 0.0)
    })
    .await;
}

#[tokio::test]
async fn a_key_gets_so_many_requests_a_minute_and_is_told_so_in_its_dialect() {
    let llama = upstream(fast(Kind::Llama, "m")).await;
    let yaml = access(", limits: {requestsPerMinute: 3}", "");
    let router = Router::start(&file(&yaml, &cluster("c1", &llama, 0.05), "")).await;
    for left in ["2", "1", "0"] {
        let response = ask(&router, hello("m", false)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-ratelimit-limit-requests"), "3");
        assert_eq!(header(&response, "x-ratelimit-remaining-requests"), left);
    }
    let refused = ask(&router, hello("m", false)).await;
    assert_eq!(refused.status(), 429);
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=62).contains(&wait), "{wait}");
    assert_eq!(json_body(refused).await["error"]["code"], "rate_limit_exceeded");

    let body = json!({"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]});
    let request = router.client.post(format!("{}/v1/messages", router.url)).header("x-api-key", KEY);
    let refused = request.body(body.to_string()).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(header(&refused, "anthropic-ratelimit-requests-remaining"), "0");
    assert_eq!(json_body(refused).await["error"]["type"], "rate_limit_error");
    let text = router.admin("/admin/limits").await;
    assert_eq!(text["rates"][0]["scope"], "key:k");
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_budget_stops_providers_and_leaves_own_machines_alone() {
    let openai = upstream(fast(Kind::OpenAi, "gpt")).await;
    let llama = upstream(fast(Kind::Llama, "own")).await;
    // Each request costs some $0.00004: twelve tokens at $2 per million and the input.
    let yaml = access("", ", budget: {usd: 0.0004}");
    let yaml = file(&yaml, &cluster("c1", &llama, 0.05), &provider("p1", &openai, "gpt"));
    let router = Router::start(&yaml).await;
    shared(&router).await;
    let mut served = 0;
    let refused = loop {
        let response = ask(&router, asking("gpt", 12)).await;
        if response.status() != 200 {
            break response;
        }
        served += 1;
        assert!(served < 100, "the budget does not end");
    };
    assert!(served >= 4, "{served}");
    assert_eq!(refused.status(), 429);
    assert!(!header(&refused, "retry-after").is_empty());
    assert_eq!(json_body(refused).await["error"]["code"], "insufficient_quota");
    assert_eq!(ask(&router, asking("own", 12)).await.status(), 200, "own machines go on");

    eventually("the spend to be known", async || {
        let limits = router.admin("/admin/limits").await;
        let budget = &limits["budgets"][0];
        let spent = budget["spent_usd"].as_f64().unwrap();
        budget["scope"] == "tenant:team" && spent > 0.0 && spent <= 0.0004 && budget["reserved_usd"] == 0.0
    })
    .await;
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_hard_budget_survives_a_restart_and_refuses_what_nothing_bounds() {
    let openai = upstream(fast(Kind::OpenAi, "gpt")).await;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("quota.json");
    let yaml = format!(
        "{}quota: {{stateFile: \"{}\"}}\n",
        access(", budget: {usd: 0.002, mode: hard}", ""),
        state.display()
    );
    let yaml = file(&yaml, "", &provider("p1", &openai, "gpt"));
    let mut served = 0;
    for run in 0..3 {
        let router = Router::start(&yaml).await;
        eventually("a request to be served or the budget to be used up", async || {
            let response = ask(&router, asking("gpt", 12)).await;
            served += usize::from(response.status() == 200);
            response.status() == 200 || (run == 2 && response.status() == 429)
        })
        .await;
        for _ in 0..20 {
            served += usize::from(ask(&router, asking("gpt", 12)).await.status() == 200);
        }
        router.node.shutdown().await;
    }
    std::fs::remove_file(&state).unwrap();
    let router = Router::start(&yaml.replace("usd: 0.002", "usd: 500")).await;
    shared(&router).await;
    let unbounded =
        ask(&router, json!({"model": "gpt", "messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!(json_body(unbounded).await["error"]["code"], "output_unbounded");
    router.node.shutdown().await;
    // 12 output tokens at $2 and some 10 input tokens at $1 per million.
    let books = openai.books();
    let cost = 2e-6 * books.output_tokens as f64 + 1e-6 * books.input_tokens as f64;
    assert!(cost <= 0.002, "{cost}");
    assert!(served > 10, "{served}");
}

#[tokio::test]
async fn a_model_without_a_price_is_refused_where_a_budget_applies() {
    let openai = upstream(fast(Kind::OpenAi, "mystery")).await;
    let provider = format!(
        "  - {{name: p1, type: openai, apiKey: sk-test, baseURL: \"{}\", defaultModel: mystery, models: [mystery]}}\n",
        openai.url()
    );
    let router = Router::start(&file(&access("", ", budget: {usd: 5}"), "", &provider)).await;
    let refused = ask(&router, asking("mystery", 12)).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(json_body(refused).await["error"]["code"], "unpriced");
    router.node.shutdown().await;
}

/// What the mock has charged for, at $1 and $2 per million tokens.
fn charged(mock: &Mock) -> f64 {
    let books = mock.books();
    2e-6 * books.output_tokens as f64 + 1e-6 * books.input_tokens as f64
}

#[tokio::test]
async fn a_hedged_request_sets_aside_for_both_and_a_hard_budget_is_kept() {
    let (cheap, dear) =
        (upstream(fast(Kind::OpenAi, "gpt")).await, upstream(fast(Kind::OpenAi, "gpt")).await);
    let directory = tempfile::tempdir().unwrap();
    let yaml = format!(
        "router: {{routingStrategy: cost, hedging: {{enabled: true, maxSpendShare: 1.0}}}}\n{}quota: {{stateFile: \"{}\"}}\n",
        access(", budget: {usd: 0.003, mode: hard}", ""),
        directory.path().join("quota.json").display()
    );
    let providers = provider("cheap", &cheap, "gpt") + &provider("dear", &dear, "gpt");
    let router = Router::start(&file(&yaml, "", &providers)).await;
    shared(&router).await;
    for _ in 0..10 {
        ask(&router, asking("gpt", 12)).await.bytes().await.unwrap();
    }
    let slow = Action::Slow { ttft: Some(Wait(Duration::from_millis(700))), tokens_per_second: None };
    for mock in [&cheap, &dear] {
        mock.set_faults(Faults::always(slow.clone()).unwrap());
    }
    let hedged = async || {
        let text = router.client.get(format!("http://{}/metrics", router.node.admin_addr().unwrap()));
        let text = text.bearer_auth(crate::fixture::TOKEN).send().await.unwrap().text().await.unwrap();
        text.lines().any(|line| line.starts_with("llm_router_hedges_total{"))
    };
    // One at a time there is room for both attempts of each.
    eventually("a hedge, since a budget is no reason not to", async || {
        ask(&router, asking("gpt", 12)).await.bytes().await.unwrap();
        hedged().await
    })
    .await;
    // Eight at once ask for more than is left to set aside.
    eventually("the budget to be used up", async || {
        let asked = futures_util::future::join_all((0..8).map(|_| ask(&router, asking("gpt", 12)))).await;
        asked.iter().any(|response| response.status() == 429)
    })
    .await;
    eventually("all to be settled", async || {
        let budget = &router.admin("/admin/limits").await["budgets"][0];
        budget["reserved_usd"].as_f64() == Some(0.0)
    })
    .await;
    let spent = router.admin("/admin/limits").await["budgets"][0]["spent_usd"].as_f64().unwrap();
    assert!(spent > 0.0 && spent <= 0.003, "{spent}");
    let charged = charged(&cheap) + charged(&dear);
    assert!(charged <= 0.003, "{charged}");
    router.node.shutdown().await;
}

#[tokio::test]
async fn an_account_that_is_used_up_is_429_with_its_limits_in_each_dialect() {
    let openai = upstream(fast(Kind::OpenAi, "gpt")).await;
    // The bucket of an account is a tenth of a minute's allowance: two requests, and 1,000 tokens, at once.
    let limited = |limit: &str| {
        provider("p1", &openai, "gpt")
            .replace("apiKey:", &format!("rateLimit: {{{limit}, burstMultiplier: 1.0}}, apiKey:"))
    };
    let router = Router::start(&file("", "", &limited("requestsPerMinute: 20"))).await;
    for left in ["1", "0"] {
        let response = router.chat(hello("gpt", false), &[]).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-ratelimit-limit-requests"), "20");
        assert_eq!(header(&response, "x-ratelimit-remaining-requests"), left);
    }
    let sent = openai.books().received;
    let text = json!({"model": "gpt", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]});
    let gemini = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let routes = [
        ("/v1/chat/completions", &text, "x-ratelimit-remaining-requests"),
        ("/v1/messages", &text, "anthropic-ratelimit-requests-remaining"),
        // Google's API has no such headers: OpenAI's are told.
        ("/v1beta/models/gpt:generateContent", &gemini, "x-ratelimit-remaining-requests"),
    ];
    for (route, body, remaining) in routes {
        let request = router.client.post(format!("{}{route}", router.url));
        let refused =
            request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
        assert_eq!(refused.status(), 429, "{route}");
        let wait: u64 = header(&refused, "retry-after").parse().unwrap();
        assert!((1..=3).contains(&wait), "{route}: twenty a minute is one every three seconds, not {wait}");
        assert_eq!(header(&refused, remaining), "0", "{route}");
        let told = json_body(refused).await["error"].clone();
        let kind = ["code", "type", "status"].map(|key| told[key].clone());
        let wanted = [json!("rate_limit_exceeded"), json!("rate_limit_error"), json!("RESOURCE_EXHAUSTED")];
        assert!(kind.iter().any(|word| wanted.contains(word)), "{route}: {told}");
        assert!(told["message"].as_str().unwrap().contains("`p1`"), "{told}");
    }
    assert_eq!(openai.books().received, sent, "nothing was sent to it");
    // The wait that was told is enough.
    let wait = Duration::from_secs(3);
    tokio::time::sleep(wait).await;
    assert_eq!(router.chat(hello("gpt", false), &[]).await.status(), 200);
    router.node.shutdown().await;

    // Tokens are a limit of their own, taken as predicted and put right by what was used.
    let router = Router::start(&file("", "", &limited("tokensPerMinute: 1000"))).await;
    let long = |words: usize| json!({"model": "gpt", "max_tokens": 12, "messages": [{"role": "user", "content": "word ".repeat(words)}]});
    let served = router.chat(long(60), &[]).await;
    assert_eq!(served.status(), 200);
    assert_eq!(header(&served, "x-ratelimit-limit-tokens"), "1000");
    let left: u64 = header(&served, "x-ratelimit-remaining-tokens").parse().unwrap();
    assert!(left < 60, "{left} of 100 are left after some 70");
    let refused = router.chat(long(80), &[]).await;
    assert_eq!(refused.status(), 429);
    assert!(!header(&refused, "retry-after").is_empty());
    // With an own machine beside it, the request goes there instead.
    let llama = upstream(fast(Kind::Llama, "gpt")).await;
    router.node.shutdown().await;
    let router =
        Router::start(&file("", &cluster("c1", &llama, 0.05), &limited("requestsPerMinute: 10"))).await;
    let pinned = [("x-llm-router-strategy", "external_first")];
    for (nth, backend) in ["p1", "c1"].into_iter().enumerate() {
        let response = router.chat(hello("gpt", false), &pinned).await;
        assert_eq!(
            (response.status().as_u16(), header(&response, "x-llm-router-backend")),
            (200, backend),
            "{nth}"
        );
    }
    router.node.shutdown().await;
}

#[tokio::test]
async fn spend_is_told_by_tenant_and_by_key() {
    let openai = upstream(fast(Kind::OpenAi, "gpt")).await;
    let yaml = format!(
        "auth: {{keys: [{{id: k, tenant: team, key: {KEY}}}, {{id: k2, tenant: team, key: {KEY}-2}}, {{id: other, tenant: rest, key: {KEY}-3}}]}}\n"
    );
    let router = Router::start(&file(&yaml, "", &provider("p1", &openai, "gpt"))).await;
    for (key, times) in [(KEY.to_owned(), 3), (format!("{KEY}-2"), 2), (format!("{KEY}-3"), 1)] {
        for _ in 0..times {
            let bearer = format!("Bearer {key}");
            let response = router.chat(hello("gpt", false), &[("authorization", &bearer)]).await;
            assert_eq!(response.status(), 200);
            response.bytes().await.unwrap();
        }
    }
    eventually("all to be booked", async || router.admin("/admin/spend").await["total"]["requests"] == 6)
        .await;
    let spend = router.admin("/admin/spend").await;
    let (total, tenants, keys) = (&spend["total"], &spend["tenants"], &spend["keys"]);
    assert_eq!((&tenants["team"]["requests"], &tenants["rest"]["requests"]), (&json!(5), &json!(1)));
    assert_eq!(
        [&keys["k"], &keys["k2"], &keys["other"]].map(|row| row["requests"].clone()),
        [3, 2, 1].map(|n| json!(n))
    );
    for rows in [tenants, keys] {
        for figure in ["input_tokens", "output_tokens"] {
            let sum: u64 = rows.as_object().unwrap().values().map(|row| row[figure].as_u64().unwrap()).sum();
            assert_eq!(sum, total[figure].as_u64().unwrap(), "{figure} of {rows}");
        }
        let usd: f64 = rows.as_object().unwrap().values().map(|row| row["cost_usd"].as_f64().unwrap()).sum();
        assert!(usd > 0.0 && (usd - total["cost_usd"].as_f64().unwrap()).abs() < 1e-12, "{rows}");
    }
    router.node.shutdown().await;
}
