//! `explain` against a running node, and what it never does.

use crate::fixture::{Router, TOKEN, cluster, fast, file, provider, upstream};
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};

const SHARED: &str = "shared";

async fn ask(router: &Router, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, String) {
    let url = format!("http://{}/admin/explain{path}", router.node.admin_addr().unwrap());
    let mut request = router.client.post(url).bearer_auth(TOKEN).body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_node_explains_a_request_without_sending_it() {
    let llama = upstream(fast(Kind::Llama, SHARED)).await;
    let openai = upstream(fast(Kind::OpenAi, SHARED)).await;
    let yaml = file("", &cluster("own", &llama, 0.05), &provider("api", &openai, SHARED));
    let router = Router::start(&yaml).await;
    let body = json!({"model": SHARED, "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]});

    let (status, text) = ask(&router, "", &[], &body).await;
    assert_eq!(status, 200, "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["candidates"][0]["backend"], "own");
    assert_eq!(told["candidates"][0]["reason"], "hybrid_cluster");
    assert!(told["candidates"][0]["facts"]["age_ms"].is_number(), "{told}");
    assert!(told["candidates"][1]["extra_cost_usd"].is_number(), "{told}");
    assert_eq!(told["output_tokens"], 50);
    assert!(told["summary"].as_str().unwrap().starts_with("`own` is asked first"), "{told}");

    let hints = [("x-llm-router-strategy", "external_first"), ("accept", "text/plain")];
    let (_, text) = ask(&router, "", &hints, &body).await;
    assert!(text.starts_with("`api` is asked first"), "{text}");
    assert!(text.contains("should it fail, `own` is next"), "{text}");

    let images = json!({"model": SHARED, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}]});
    let (_, text) = ask(&router, "", &[], &images).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["refused"][0]["code"], "missing_capability", "{told}");

    let (status, text) = ask(&router, "?path=/v1/nothing", &[], &body).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("/v1/nothing"), "{text}");
    let (status, text) = ask(&router, "?path=/v1/messages", &[], &body).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(openai.books().requests, 0, "nothing may be sent to a provider");
    let decisions = router.admin("/admin/decisions").await;
    assert_eq!(decisions["decisions"], json!([]), "nothing is recorded");
}
