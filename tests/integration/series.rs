//! How many series there are does not depend on what clients and backends say.

use crate::fixture::{Router, TOKEN, cluster, fast, file, hello, provider, upstream};
use axum::response::{IntoResponse, Response};
use llm_router_logic::backend::Kind;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// One configured key, so that other keys are a client's text.
const KEY: &str = "sk-llmr-of-the-tests-0123456789";

/// Names and labels of all series; of a histogram only its count.
async fn series(router: &Router) -> BTreeSet<String> {
    let request = router.client.get(format!("{}/metrics", router.url)).bearer_auth(TOKEN);
    let text = request.send().await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series);
    names.filter(|name| !name.contains("_bucket{")).map(str::to_owned).collect()
}

/// A backend that writes `word` wherever a backend's own words can stand, with a status of its own choice.
async fn talkative(word: Arc<Mutex<(u16, String)>>) -> String {
    let answer = move |method: http::Method| {
        let (status, word) = word.lock().unwrap().clone();
        async move {
            if method == http::Method::GET {
                http::StatusCode::OK.into_response()
            } else {
                said(status, &word)
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    address
}

fn said(status: u16, word: &str) -> Response {
    let code = http::StatusCode::from_u16(status).unwrap();
    let body = if status == 200 {
        json!({"id": word, "object": word, "created": 1, "model": word,
               "choices": [{"index": 0, "finish_reason": word, "message": {"role": "assistant", "content": word}}],
               "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    } else {
        json!({"error": {"message": word, "type": word, "code": word, "param": word}})
    };
    (code, [("content-type", "application/json"), ("x-request-id", word)], body.to_string()).into_response()
}

/// Requests of every shape a client may send, each with `word` wherever a client's text can stand.
async fn ask(router: &Router, word: &str) {
    let bearer = format!("Bearer {KEY}");
    let known = ("authorization", bearer.as_str());
    for model in ["tiny", "big", "talk", word] {
        for stream in [false, true] {
            let mut body = hello(model, stream);
            body["user"] = word.into();
            body["metadata"] = json!({ word: word });
            body["temperature"] = 0.into();
            let headers =
                [known, ("x-llm-router-session", word), ("x-group", word), ("idempotency-key", word)];
            router.chat(body, &headers).await.text().await.unwrap();
        }
    }
    for name in ["strategy", "backend", "capabilities", "deadline-ms", "max-cost-usd", "cache"] {
        let name = format!("x-llm-router-{name}");
        router.chat(hello("tiny", false), &[known, (&name, word)]).await.text().await.unwrap();
    }
    for (name, value) in [("authorization", format!("Bearer {word}")), ("x-api-key", word.to_owned())] {
        router.chat(hello("tiny", false), &[(name, &value)]).await.text().await.unwrap();
    }
    let headers = [known, ("user-agent", word), ("traceparent", word), ("origin", word), ("x-tenant", word)];
    router.chat(hello("tiny", false), &headers).await.text().await.unwrap();
    let method = reqwest::Method::from_bytes(word.replace('.', "-").as_bytes()).unwrap();
    for path in ["", "v1/", "v1beta/models/", "v1/models/", "ui/"] {
        let address = format!("{}/{path}{word}", router.url);
        let body = format!("{{\"{word}\":1}}");
        let post = router.client.post(format!("{address}:generateContent")).body(body).bearer_auth(KEY);
        post.send().await.unwrap();
        router.client.get(&address).bearer_auth(KEY).send().await.unwrap();
        router.client.request(method.clone(), &address).send().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_of_a_client_or_a_backend_makes_a_series() {
    let (llama, paid) =
        (upstream(fast(Kind::Llama, "tiny")).await, upstream(fast(Kind::OpenAi, "big")).await);
    let words = Arc::new(Mutex::new((200, "zq-first".to_owned())));
    let address = talkative(Arc::clone(&words)).await;
    let more = format!(
        "cache: {{}}\nauth: {{metricsToken: {TOKEN}, keys: [{{key: {KEY}}}]}}\ntelemetry: {{traces: {{ratio: 1}}}}\nexperiments:\n  \
         - {{name: place, key: \"header:X-Group\", arms: [{{name: a, weight: 1}}, {{name: b, weight: 1}}]}}"
    );
    let providers =
        provider("two", &paid, "big") + &provider("three", &paid, "talk").replace(&paid.url(), &address);
    let router = Router::start_unready(&file(&more, &cluster("one", &llama, 0.05), &providers)).await;
    router.wait_for("the cluster", |view| view["backends"][0]["own"]["tokens_per_second"].is_number()).await;
    // Once through everything a backend may answer.
    for status in [200, 400, 404, 418, 429, 500, 503, 529, 599] {
        *words.lock().unwrap() = (status, "zq-first".to_owned());
        ask(&router, &format!("zq-first-{status}")).await;
    }
    let before = series(&router).await;
    let mut runner = TestRunner::deterministic();
    let (word, status) =
        ("zq[A-Za-z0-9._-]{1,40}", proptest::prop_oneof![proptest::strategy::Just(200_u16), 400..600_u16]);
    let mut said = Vec::new();
    for _ in 0..16 {
        let one =
            (status.new_tree(&mut runner).unwrap().current(), word.new_tree(&mut runner).unwrap().current());
        *words.lock().unwrap() = one.clone();
        ask(&router, &one.1).await;
        said.push(one.1);
    }
    let after = series(&router).await;
    assert!(before.iter().any(|series| series.contains("three")), "the talkative one was asked: {before:#?}");
    for word in said.iter().map(String::as_str).chain(["zq-first"]) {
        assert!(!after.iter().any(|series| series.contains(word)), "{word}: {after:#?}");
    }
    // Another reason or outcome of ours may come up for the first time; statuses and words of others do not.
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.len() <= 6, "{} series, then {new:#?}", before.len());
}
