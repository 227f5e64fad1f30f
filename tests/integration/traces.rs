//! Traces at a collector that reads OTLP over HTTP, and what becomes of requests when it does not.

use crate::fixture::{DEADLINE, Router, cluster, eventually, fast, file, header, hello, provider, upstream};
use axum::body::Bytes;
use axum::extract::State;
use llm_router_logic::backend::Kind;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector of ours.
#[derive(Clone, Default)]
struct Collector {
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    /// Starts one and returns it with its address.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let take = async |State(collector): State<Self>, body: Bytes| {
            collector.bodies.lock().unwrap().push(body.to_vec());
        };
        let routes =
            axum::Router::new().route("/v1/traces", axum::routing::post(take)).with_state(collector.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (collector, format!("http://{address}"))
    }

    fn spans(&self) -> Vec<Span> {
        let bodies = self.bodies.lock().unwrap();
        let requests = bodies.iter().map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap());
        let resources = requests.flat_map(|request| request.resource_spans);
        resources.flat_map(|one| one.scope_spans).flat_map(|one| one.spans).collect()
    }

    /// Waits until `count` requests have been told of.
    async fn requests(&self, count: usize) -> Vec<Span> {
        let servers = |spans: &[Span]| spans.iter().filter(|span| span.name.starts_with("POST ")).count();
        eventually("the collector to hear of it", async || servers(&self.spans()) >= count).await;
        self.spans()
    }
}

fn traced(endpoint: &str, more: &str) -> String {
    format!("telemetry: {{traces: {{endpoint: \"{endpoint}\"{more}}}}}")
}

fn text(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        Any::DoubleValue(number) => number.to_string(),
        Any::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    })
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span `{name}`: {spans:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_is_told_as_one_trace_from_the_clients_span_to_both_backends() {
    let good = upstream(fast(Kind::OpenAi, "big")).await;
    let broken = axum::Router::new().fallback(|headers: http::HeaderMap| async move {
        let state = headers.get("tracestate").is_some();
        (http::StatusCode::INTERNAL_SERVER_ERROR, format!("{{\"error\":{{\"message\":\"{state}\"}}}}"))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, broken).await });
    let (collector, endpoint) = Collector::start().await;
    let failing = provider("failing", &good, "big").replace(&good.url(), &format!("http://127.0.0.1:{port}"));
    let cheap = failing.replace("input: 1.0, output: 2.0", "input: 0.1, output: 0.2");
    let both = cheap + &provider("good", &good, "big");
    let yaml = file(&traced(&endpoint, ""), "", &both);
    let router = Router::start_unready(&yaml).await;
    router.wait_for("the good provider", |view| view["backends"][1]["own"]["health"] == "healthy").await;

    let headers = [("traceparent", PARENT), ("tracestate", "vendor=1")];
    let response = router.chat(hello("big", true), &headers).await;
    assert_eq!(header(&response, "x-llm-router-backend"), "good");
    let decision = header(&response, "x-llm-router-decision").to_owned();
    response.text().await.unwrap();

    let spans = collector.requests(1).await;
    let request = named(&spans, "POST /v1/chat/completions");
    assert!(spans.iter().all(|span| hex(&span.trace_id) == "4bf92f3577b34da6a3ce929d0e0e4736"));
    assert!(spans.iter().all(|span| span.trace_state == "vendor=1"));
    assert_eq!(hex(&request.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(text(request, "llm_router.decision.id"), Some(decision.clone()));
    assert_eq!(text(request, "llm_router.backend").as_deref(), Some("good"));
    assert_eq!(text(request, "gen_ai.usage.output_tokens").as_deref(), Some("12"));
    assert!(text(request, "llm_router.cost_usd").is_some_and(|cost| cost.parse::<f64>().unwrap() > 0.0));

    let plan = named(&spans, "plan");
    assert_eq!(plan.parent_span_id, request.span_id);
    let candidates: Vec<_> = plan.events.iter().filter(|event| event.name == "candidate").collect();
    assert_eq!(candidates.len(), 2);
    assert!(candidates[0].attributes.iter().any(|one| one.key == "llm_router.fact_age_ms"));
    assert!(candidates[0].attributes.iter().any(|one| one.key.starts_with("llm_router.term.")));

    let attempts: Vec<_> = spans.iter().filter(|span| span.name == "chat big").collect();
    assert_eq!(attempts.len(), 2, "{spans:#?}");
    assert!(attempts.iter().all(|attempt| attempt.parent_span_id == request.span_id && attempt.kind == 3));
    assert_eq!(text(attempts[0], "error.type").as_deref(), Some("server_error"));
    assert_eq!(text(attempts[0], "http.response.status_code").as_deref(), Some("500"));
    assert_eq!(attempts[0].status.as_ref().unwrap().code, 2);
    assert_eq!(text(attempts[0], "server.port").unwrap(), port.to_string());
    assert_eq!(text(attempts[1], "error.type"), None);
    assert_eq!(text(attempts[1], "gen_ai.provider.name").as_deref(), Some("openai"));
    assert_eq!(text(attempts[1], "gen_ai.response.model").as_deref(), Some("big"));
    assert!(text(attempts[1], "gen_ai.response.finish_reasons").unwrap().contains("stop"));
    assert!(text(attempts[1], "gen_ai.response.time_to_first_chunk").is_some());
    assert!(attempts[0].end_time_unix_nano <= attempts[1].start_time_unix_nano);
    assert!(request.start_time_unix_nano <= plan.start_time_unix_nano);
    assert!(attempts[1].end_time_unix_nano <= request.end_time_unix_nano);

    // The histogram's bucket points to it.
    let metrics = router.client.get(format!("{}/metrics", router.url));
    let metrics =
        metrics.header("accept", "application/openmetrics-text;version=1.0.0").send().await.unwrap();
    assert!(header(&metrics, "content-type").starts_with("application/openmetrics-text"));
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("# {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"}"), "{metrics}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caches_word_and_the_wait_for_the_ledger_are_parts_of_each_requests_trace() {
    let directory = tempfile::tempdir().unwrap();
    let mut slow = fast(Kind::OpenAi, "big");
    slow.ttft = Duration::from_millis(300);
    let mock = upstream(slow).await;
    let (collector, endpoint) = Collector::start().await;
    let ledger = directory.path().join("ledger.sqlite");
    let more = format!("{}\ncache: {{}}\nledger: {{path: \"{}\"}}", traced(&endpoint, ""), ledger.display());
    let router = Router::start(&file(&more, "", &provider("p1", &mock, "big"))).await;
    let mut body = hello("big", false);
    body["temperature"] = 0.into();
    let ask = async |body: &serde_json::Value, headers: &[(&str, &str)]| {
        let response = router.chat(body.clone(), headers).await;
        let decision = header(&response, "x-llm-router-decision").to_owned();
        response.text().await.unwrap();
        decision
    };
    let (one, two) = tokio::join!(ask(&body, &[]), ask(&body, &[]));
    let kept = ask(&body, &[]).await;
    let off = ask(&body, &[("x-llm-router-cache", "off")]).await;
    let spans = collector.requests(4).await;
    // What is beneath the request that made `decision`, by name.
    let tree = |decision: &str| {
        let own = |span: &&Span| text(span, "llm_router.decision.id").as_deref() == Some(decision);
        let request = spans.iter().find(|span| span.kind == 2 && own(span)).unwrap();
        let children = spans.iter().filter(|span| span.parent_span_id == request.span_id);
        let mut names: Vec<_> = children.clone().map(|span| span.name.as_str()).collect();
        names.sort_unstable();
        let cache = children.clone().find(|span| span.name == "cache").unwrap();
        assert!(request.start_time_unix_nano <= cache.start_time_unix_nano);
        assert!(cache.end_time_unix_nano <= request.end_time_unix_nano);
        (text(cache, "llm_router.cache").unwrap(), names, request)
    };
    // Either of the two that came at once may have been the first.
    let (first, second) = if tree(&one).0 == "miss" { (one, two) } else { (two, one) };
    let generated = vec!["cache", "chat big", "ledger", "plan"];
    assert_eq!((tree(&first).0.as_str(), &tree(&first).1), ("miss", &generated));
    for (decision, word, from) in [(&second, "joined", "running_answer"), (&kept, "hit", "cache")] {
        let (told, names, request) = tree(decision);
        assert_eq!((told.as_str(), names), (word, vec!["cache"]));
        assert_eq!(text(request, "llm_router.answered_from").as_deref(), Some(from));
        assert_eq!(text(request, "llm_router.answer_of"), Some(first.clone()));
    }
    assert_eq!((tree(&off).0.as_str(), &tree(&off).1), ("off", &generated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_copy_is_a_trace_of_its_own_that_points_to_the_request_it_copies() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let next = axum::Router::new().fallback(move |headers: http::HeaderMap, method: http::Method| {
        let parent = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
        if method == http::Method::POST {
            seen.lock().unwrap().push(parent);
        }
        async move {
            if method == http::Method::POST {
                http::StatusCode::INTERNAL_SERVER_ERROR
            } else {
                http::StatusCode::OK
            }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, next).await });
    let main = upstream(fast(Kind::OpenAi, "big")).await;
    let (collector, endpoint) = Collector::start().await;
    let more = traced(&endpoint, ", ratio: 0")
        + "\nshadows:\n  - {name: trial, share: 1.0, backend: next, model: next, maxSpendShare: 1000.0}";
    let providers =
        provider("main", &main, "big") + &provider("next", &main, "next").replace(&main.url(), &address);
    let router = Router::start(&file(&more, "", &providers)).await;
    // The first copy waits for something that copies can be measured against; none of these is sampled.
    let failed = "llm_router_shadow_requests_total{outcome=\"failed\",shadow=\"trial\"}";
    eventually("a copy", async || {
        router.chat(hello("big", false), &[]).await.text().await.unwrap();
        router.metric(failed).await.unwrap_or(0.0) > 0.0
    })
    .await;
    let before = router.metric(failed).await.unwrap();
    router.chat(hello("big", false), &[("traceparent", PARENT)]).await.text().await.unwrap();
    eventually("its copy", async || router.metric(failed).await.unwrap() > before).await;
    let copies =
        || -> Vec<Span> { collector.spans().into_iter().filter(|span| span.name == "shadow copy").collect() };
    eventually("the copy's spans", async || !copies().is_empty()).await;
    let (spans, copies) = (collector.spans(), copies());
    assert_eq!(copies.len(), 1, "a copy is told of where its request was sampled");
    let (request, copy) = (named(&spans, "POST /v1/chat/completions"), &copies[0]);
    assert_ne!(copy.trace_id, request.trace_id);
    assert!(copy.parent_span_id.is_empty());
    assert_eq!((&copy.links[0].trace_id, &copy.links[0].span_id), (&request.trace_id, &request.span_id));
    assert_eq!(text(copy, "llm_router.shadow").as_deref(), Some("trial"));
    assert_eq!(text(copy, "llm_router.shadow_of"), text(request, "llm_router.decision.id"));
    assert_eq!(text(copy, "error.type").as_deref(), Some("server_error"));
    assert_eq!(copy.status.as_ref().unwrap().code, 2);
    let within: Vec<_> = spans.iter().filter(|span| span.parent_span_id == copy.span_id).collect();
    let names: Vec<_> = within.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["plan", "chat next"]);
    // Its backend is told where the copy stands, not the request.
    let attempt = format!("00-{}-{}-01", hex(&copy.trace_id), hex(&within[1].span_id));
    assert_eq!(told.lock().unwrap().last().unwrap().as_deref(), Some(attempt.as_str()));
    assert_eq!(router.metric("llm_router_traces_total{result=\"error\"}").await, None, "no request failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_requests_that_are_not_sampled_only_the_bad_ones_are_told_of() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let (collector, endpoint) = Collector::start().await;
    let yaml = file(&traced(&endpoint, ", ratio: 0"), &cluster("one", &mock, 0.05), "");
    let router = Router::start(&yaml).await;
    for _ in 0..5 {
        let response = router.chat(hello("tiny", false), &[]).await;
        assert_eq!(response.status(), 200);
        response.text().await.unwrap();
    }
    // Nothing is that fast: told only for being slow.
    let response = router.chat(hello("tiny", false), &[("x-llm-router-deadline-ms", "1")]).await;
    assert!(response.status().is_server_error(), "{}", response.status());
    let spans = collector.requests(1).await;
    let requests: Vec<_> = spans.iter().filter(|span| span.name.starts_with("POST ")).collect();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].status.as_ref().unwrap().code, 2);
    assert!(text(requests[0], "error.type").is_some());
    assert_eq!(router.metric("llm_router_traces_total{result=\"not_sampled\"}").await, Some(5.0));
    assert_eq!(router.metric("llm_router_traces_total{result=\"error\"}").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_prompt_and_no_key_is_in_any_span_whatever_goes_wrong() {
    const SECRET: &str = "the-secret-the-client-wrote";
    let (collector, endpoint) = Collector::start().await;
    // A backend that quotes what it was sent, its key included.
    let echo = axum::Router::new().fallback(|headers: http::HeaderMap, body: String| async move {
        let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
        let told = serde_json::json!({"error": {"message": format!("{key:?} {body}"), "type": SECRET, "code": SECRET}});
        (http::StatusCode::INTERNAL_SERVER_ERROR, told.to_string())
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, echo).await });
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let quoting = provider("quoting", &mock, "tiny").replace(&mock.url(), &address);
    let router =
        Router::start_unready(&file(&traced(&endpoint, ""), &cluster("one", &mock, 0.05), &quoting)).await;
    router.wait_for("the cluster", |view| view["backends"][0]["own"]["tokens_per_second"].is_number()).await;
    let mut body = hello("tiny", true);
    body["messages"][0]["content"] = SECRET.into();
    body["user"] = SECRET.into();
    for strategy in ["external_first", "cluster_first"] {
        let headers = [
            ("x-llm-router-strategy", strategy),
            ("authorization", "Bearer the-secret-the-client-wrote"),
            ("x-llm-router-session", SECRET),
            ("baggage", "prompt=the-secret-the-client-wrote"),
        ];
        let response = router.chat(body.clone(), &headers).await;
        assert_eq!(response.status(), 200, "falls back to the cluster");
        response.text().await.unwrap();
    }
    let pinned = router.chat(body, &[("x-llm-router-backend", "quoting")]).await;
    assert!(pinned.text().await.unwrap().contains(SECRET), "the client is told what the backend said");
    collector.requests(3).await;
    for exported in collector.bodies.lock().unwrap().iter() {
        let text = String::from_utf8_lossy(exported);
        assert!(!text.contains(SECRET), "{text}");
        assert!(!text.contains("sk-test"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_shown_only_where_the_configuration_says_so_and_up_to_its_bound() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let (collector, endpoint) = Collector::start().await;
    let yaml = file(&traced(&endpoint, ", bodyBytes: 40"), &cluster("one", &mock, 0.05), "");
    let router = Router::start(&yaml).await;
    router.chat(hello("tiny", false), &[]).await.text().await.unwrap();
    let spans = collector.requests(1).await;
    let shown = text(named(&spans, "POST /v1/chat/completions"), "llm_router.request.body").unwrap();
    assert_eq!(shown, hello("tiny", false).to_string()[..40]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_or_never_answers_costs_its_spans_and_nothing_else() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    // One takes connections and never says a word; at the other nobody listens.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [silent.local_addr().unwrap(), gone.local_addr().unwrap()];
    drop(gone);
    for (address, protocol) in addresses.into_iter().zip(["grpc", "http/protobuf"]) {
        let more = format!(", protocol: {protocol}, timeout: 1s, queueSpans: 64");
        let yaml = file(&traced(&format!("http://{address}"), &more), &cluster("one", &mock, 0.05), "");
        let router = Router::start(&yaml).await;
        for _ in 0..40 {
            let response = router.chat(hello("tiny", false), &[]).await;
            assert_eq!(response.status(), 200);
            response.text().await.unwrap();
            let waiting = router.metric("llm_router_spans_waiting").await.unwrap_or(0.0);
            assert!(waiting <= 64.0, "{waiting} spans wait");
        }
        let sampled = router.metric("llm_router_traces_total{result=\"sampled\"}").await;
        assert_eq!(sampled, Some(40.0));
        // Each request has a request, a plan and an attempt.
        let lost = async || {
            let mut sum = 0.0;
            for why in ["queue_full", "not_taken", "stopping"] {
                let series = format!("llm_router_spans_dropped_total{{why=\"{why}\"}}");
                sum += router.metric(&series).await.unwrap_or(0.0);
            }
            sum
        };
        eventually("every span to be counted as dropped", async || lost().await == 120.0).await;
        assert_eq!(router.metric("llm_router_spans_exported_total").await, Some(0.0));
        let ended = tokio::time::timeout(DEADLINE, router.node.shutdown()).await;
        assert!(ended.is_ok(), "the node's end waits for no collector");
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_when_a_node_ends_is_sent_first() {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let (collector, endpoint) = Collector::start().await;
    let router = Router::start(&file(&traced(&endpoint, ""), &cluster("one", &mock, 0.05), "")).await;
    router.chat(hello("tiny", false), &[]).await.text().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), router.node.shutdown()).await.unwrap();
    assert!(collector.spans().iter().any(|span| span.name == "chat tiny"));
}
