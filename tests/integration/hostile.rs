//! Hostile input at the doors, and hostile answers from backends: refused in clear words, nothing lost, nothing
//! grown.

use crate::fixture::{
    DEADLINE, Router, cluster, eventually, fast, file, hello, json_body, provider, upstream,
};
use llm_router_logic::backend::Kind;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CHAT: &str = "/v1/chat/completions";
/// First bytes of an HTTP/2 connection, with empty settings (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Sends `bytes` and reads until the router closes or `patience` is over.
async fn exchange(to: SocketAddr, bytes: &[u8], patience: Duration) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The router may close while we are still sending.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(patience, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// As [`exchange`], and true where the router itself closed.
async fn is_closed(to: SocketAddr, first: &[u8], then: &[u8], pause: Duration) -> bool {
    let mut stream = TcpStream::connect(to).await.unwrap();
    if stream.write_all(first).await.is_err() {
        return true;
    }
    let started = Instant::now();
    let mut buffer = [0; 4096];
    while started.elapsed() < DEADLINE {
        let read = tokio::time::timeout(pause, stream.read(&mut buffer)).await;
        match read {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => {
                if stream.write_all(then).await.is_err() {
                    return true;
                }
            }
        }
    }
    false
}

fn http2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

async fn series(router: &Router) -> usize {
    let text =
        router.client.get(format!("{}/metrics", router.url)).send().await.unwrap().text().await.unwrap();
    text.lines().filter(|line| !line.starts_with('#')).count()
}

/// Resident memory of this process in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}

/// A node with one good backend, quick to lose patience.
async fn impatient() -> Router {
    let mock = upstream(fast(Kind::Llama, "tiny")).await;
    let yaml = file("", &cluster("c1", &mock, 0.05), "")
        .replace("port: 0}", "port: 0, readTimeout: 1s, headerTimeout: 500ms, maxBodyBytes: 100000}");
    let router = Router::start(&yaml).await;
    // The mock lives as long as the test process.
    std::mem::forget(mock);
    router
}

async fn still_serves(router: &Router) {
    assert_eq!(router.chat(hello("tiny", false), &[]).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_slow_bodies_are_let_go_on_every_listener() {
    let router = impatient().await;
    let (api, admin) = (router.node.addr(), router.node.admin_addr().unwrap());
    let pause = Duration::from_millis(100);
    let body_of = |path: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: 5000\r\n\r\n{{").into_bytes()
    };
    let token = format!("authorization: Bearer {}\r\n", crate::fixture::TOKEN);
    let started = Instant::now();
    for (to, first) in [
        (api, b"POST /v1/chat/completions HTTP/1.1\r\n".to_vec()),
        (admin, b"GET /admin/view HTTP/1.1\r\n".to_vec()),
    ] {
        assert!(is_closed(to, &first, b"x-slow: 1\r\n", pause).await, "a slow head");
    }
    for (to, path, more) in [
        (api, CHAT, ""),
        (api, "/v1/messages", ""),
        (api, "/api/auth", ""),
        (api, "/no/such/route", ""),
        (admin, "/admin/explain", &token),
        (admin, "/admin/backends/c1/price", &token),
        (admin, "/admin/view", ""),
    ] {
        assert!(is_closed(to, &body_of(path, more), b" ", pause).await, "a slow body at {path}");
    }
    assert!(started.elapsed() < DEADLINE, "all of them in seconds: {:?}", started.elapsed());
    let told = exchange(api, &body_of(CHAT, ""), Duration::from_secs(5)).await;
    assert!(told.starts_with("HTTP/1.1 408") && told.contains("request_timeout"), "{told}");
    still_serves(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_heads_and_bodies_are_refused_before_they_are_held() {
    let router = impatient().await;
    let to = router.node.addr();
    let huge = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-big: {}\r\n\r\n", "a".repeat(2 * 1024 * 1024));
    let many = format!("GET /livez HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(5_000));
    let target = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(200_000));
    for (what, bytes) in [("a huge header", huge), ("many headers", many), ("a long target", target)] {
        let answer = exchange(to, bytes.as_bytes(), Duration::from_secs(5)).await;
        let refused = ["HTTP/1.1 431", "HTTP/1.1 414", "HTTP/1.1 400", "HTTP/1.1 404"];
        assert!(
            answer.is_empty() || refused.iter().any(|status| answer.starts_with(status)),
            "{what}: {answer:.200}"
        );
    }
    let chunk = format!("{:x}\r\n{}\r\n", 60_000, "a".repeat(60_000));
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}{chunk}0\r\n\r\n"
    );
    let stated =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n{}", "a".repeat(300_000));
    for bytes in [chunked, stated] {
        let answer = exchange(to, bytes.as_bytes(), Duration::from_secs(5)).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("request_too_large"), "{answer:.300}");
    }
    still_serves(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_is_one_request_however_its_length_is_told() {
    let router = impatient().await;
    let body = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    let length = body.len();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\n");
    let tricks = [
        ("CL then TE", format!("{head}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n{body}")),
        ("TE then CL", format!("{head}transfer-encoding: chunked\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("two lengths", format!("{head}content-length: 5\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("lengths in a list", format!("{head}content-length: 5, {length}\r\n\r\n{body}")),
        ("a signed length", format!("{head}content-length: +5\r\n\r\n{body}")),
        ("a folded header", format!("{head}x-a: 1\r\n content-length: {length}\r\n\r\n{body}")),
        ("space before the colon", format!("{head}transfer-encoding : chunked\r\n\r\n{body}")),
        ("another coding", format!("{head}transfer-encoding: xchunked\r\n\r\n{body}")),
        ("not the last coding", format!("{head}transfer-encoding: chunked, identity\r\n\r\n{body}")),
        (
            "TE in HTTP/1.0",
            format!("POST {CHAT} HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{body}"),
        ),
        ("a bare CR", format!("{head}x-a: 1\rtransfer-encoding: chunked\r\n\r\n{body}")),
        ("a NUL", format!("{head}x-a: \0\r\n\r\n{body}")),
    ];
    for (trick, bytes) in tricks {
        let answer = exchange(router.node.addr(), bytes.as_bytes(), Duration::from_secs(3)).await;
        assert!(!answer.contains("/smuggled"), "{trick}: {answer}");
        assert!(answer.matches("HTTP/1.").count() <= 1, "{trick}: {answer}");
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"),
            "{trick}: {answer}"
        );
    }
    still_serves(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_http2_frames_end_their_connection_and_nothing_else() {
    let router = impatient().await;
    // HPACK (RFC 7541): POST, http, /, and an authority given as it is.
    let head = b"\x83\x86\x84\x41\x01x";
    let reset = |stream: u32| {
        let mut frames = http2(1, 4, stream, head);
        frames.extend(http2(3, 0, stream, &8_u32.to_be_bytes()));
        frames
    };
    let floods: [(&str, Vec<u8>); 4] = [
        ("rapid reset", (0..20_000_u32).flat_map(|nth| reset(2 * nth + 1)).collect()),
        ("settings", http2(4, 0, 0, &[]).repeat(100_000)),
        ("ping", http2(6, 0, 0, &[0; 8]).repeat(100_000)),
        ("continuation", [http2(1, 0, 1, head), http2(9, 0, 1, &[0; 8_192]).repeat(2_000)].concat()),
    ];
    still_serves(&router).await;
    let before = resident_mib();
    for (what, frames) in floods {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frames);
        let started = Instant::now();
        assert!(
            is_closed(router.node.addr(), &bytes, &http2(6, 0, 0, &[0; 8]), Duration::from_millis(100)).await,
            "{what}"
        );
        assert!(started.elapsed() < Duration::from_secs(15), "{what}: {:?}", started.elapsed());
        still_serves(&router).await;
    }
    let grown = resident_mib().saturating_sub(before);
    assert!(grown < 64, "{grown} MiB grown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_and_broken_json_is_refused_in_every_dialect() {
    let router = impatient().await;
    let deep = format!("{}{}", "[".repeat(40_000), "]".repeat(40_000));
    let nested = format!(r#"{{"model":"tiny","messages":{deep}}}"#);
    let objects = format!(
        r#"{{"model":"tiny","messages":[],"x":{}1{}}}"#,
        r#"{"a":"#.repeat(10_000),
        "}".repeat(10_000)
    );
    for path in [
        CHAT,
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1beta/models/tiny:generateContent",
    ] {
        for body in
            [&deep, &nested, &objects, "{\"model\":\"ti\u{0}ny\"", "\u{feff}{}", "{\"model\": 1e999999}"]
        {
            let asked = router.client.post(format!("{}{path}", router.url)).body(body.to_owned());
            let answer = asked.send().await.unwrap();
            assert_eq!(answer.status(), 400, "{path}: {body:.60}");
            assert!(json_body(answer).await["error"]["message"].is_string());
        }
    }
    still_serves(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_clients_make_up_become_no_label_and_no_path_leads_elsewhere() {
    let router = impatient().await;
    still_serves(&router).await;
    let _ = router.chat(hello("unknown", false), &[]).await;
    for path in ["/x", "/v1/models/x", "/v1beta/models/x"] {
        let _ = router.client.get(format!("{}{path}", router.url)).send().await.unwrap();
    }
    let before = series(&router).await;
    for nth in 0..150 {
        let name = format!("made-up-{nth}\r\nx-evil: 1");
        let _ = router.chat(hello(&name, false), &[]).await;
        let header = format!("made-up-{nth}");
        for field in [
            "x-llm-router-backend",
            "x-llm-router-session",
            "x-llm-router-strategy",
            "x-request-id",
            "user-agent",
            "traceparent",
            "authorization",
        ] {
            let answer = router.chat(hello("tiny", false), &[(field, &header)]).await;
            assert!(!answer.headers().contains_key("x-evil"));
        }
        let _ = router.client.get(format!("{}/{header}", router.url)).send().await.unwrap();
        let _ = router
            .client
            .request(reqwest::Method::from_bytes(format!("M{nth}").as_bytes()).unwrap(), &router.url)
            .send()
            .await
            .unwrap();
    }
    let grown = series(&router).await - before;
    assert!(grown < 12, "{grown} series more after 1,500 made-up names");

    for target in [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/../admin/view",
        "/%2e%2e/admin/view",
        "/v1/%2e%2e/%2e%2e/admin/view",
        "/..%2fadmin/view",
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/v1/chat/completions%00",
        "/admin/view",
        "/admin/reload",
        "http://169.254.169.254/latest/meta-data/",
        "/ui/../admin/view",
        "/v1/models/..%2f..%2fadmin%2fview",
        "/\\admin/view",
    ] {
        for method in ["GET", "POST"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let answer = exchange(router.node.addr(), request.as_bytes(), Duration::from_secs(3)).await;
            assert!(answer.starts_with("HTTP/1.1 4"), "{method} {target}: {answer:.200}");
            assert!(!answer.contains("\"members\""), "{method} {target}");
        }
    }
    // Whatever host a client names, nothing of it comes back and nothing depends on it.
    for host in ["evil.example", "127.0.0.1:1\r\nhost: evil.example", "\"><script>", "x@y"] {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: {host}\r\nx-forwarded-host: evil.example\r\nconnection: close\r\n\r\n"
        );
        let answer = exchange(router.node.addr(), request.as_bytes(), Duration::from_secs(3)).await;
        assert!(!answer.contains("evil.example") && !answer.contains("\"><script>"), "{host}");
    }
}

/// A listener that counts who comes.
async fn canary() -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, visits) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&visits);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, visits)
}

/// A backend that answers every request for an answer with these bytes, and ends.
async fn scripted(answer: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(read) if read > 0 => head.extend(&buffer[..read]),
                        _ => return,
                    }
                }
                let models = br#"{"object":"list","data":[{"id":"gpt","object":"model"}]}"#;
                if head.starts_with(b"GET") {
                    let told = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                        models.len()
                    );
                    let _ = stream.write_all(told.as_bytes()).await;
                    let _ = stream.write_all(models).await;
                    return;
                }
                let _ = stream.write_all(&answer()).await;
                let _ = stream.shutdown().await;
                // What the router still sends is read, so that nothing is reset.
                while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
            });
        }
    });
    address
}

async fn before(address: SocketAddr) -> Router {
    let row = format!(
        "  - {{name: p1, type: openai, enabled: true, apiKey: sk-test, baseURL: \"http://{address}\", defaultModel: gpt, \
         models: [{{name: gpt, price: {{input: 1.0, output: 2.0}}}}]}}\n"
    );
    Router::start(
        &file("router: {routingStrategy: external_first, retries: {max: 0}}", "", &row)
            .replace(", retries: {max: 0}", ""),
    )
    .await
}

fn head(more: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{more}\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_field_of_a_request_makes_the_router_fetch_anything() {
    let (address, visits) = canary().await;
    let openai = upstream(fast(Kind::OpenAi, "gpt")).await;
    let router = Router::start(&file("", "", &provider("p1", &openai, "gpt"))).await;
    let url = format!("http://{address}/secret.png");
    let image = json!({"model": "gpt", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": url}},
        {"type": "file", "file": {"file_id": url, "file_data": url}}, {"type": "input_audio", "input_audio": {"data": url}}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": url, "$schema": url}}}],
        "webhook": url, "callback_url": url, "base_url": url, "api_base": url, "metadata": {"url": url}});
    let _ = router.chat(image, &[]).await;
    let _ = router.chat(hello(&url, false), &[]).await;
    for name in [
        "x-llm-router-backend",
        "x-llm-router-session",
        "x-forwarded-for",
        "x-original-url",
        "x-forwarded-host",
        "referer",
        "forwarded",
        "x-rewrite-url",
    ] {
        let _ = router.chat(hello("gpt", false), &[(name, &url)]).await;
    }
    let anthropic = json!({"model": "gpt", "max_tokens": 5, "mcp_servers": [{"type": "url", "url": url, "name": "m"}], "messages": [
        {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": url}}]}]});
    let gemini = json!({"contents": [{"role": "user", "parts": [{"fileData": {"fileUri": url, "mimeType": "image/png"}}]}]});
    for (path, body) in [("/v1/messages", anthropic), ("/v1beta/models/gpt:generateContent", gemini)] {
        let _ =
            router.client.post(format!("{}{path}", router.url)).body(body.to_string()).send().await.unwrap();
    }
    let absolute = format!(
        "POST {url} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
    );
    let connect = format!("CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    for bytes in [absolute, connect] {
        let answer = exchange(router.node.addr(), bytes.as_bytes(), Duration::from_secs(3)).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backends_redirect_is_not_followed() {
    let (address, visits) = canary().await;
    for status in [301, 302, 307, 308] {
        let told = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: http://{address}/\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let router = before(scripted(move || told.clone().into_bytes()).await).await;
        let answer = router.chat(hello("gpt", false), &[]).await;
        assert!(answer.status().is_server_error(), "{status}: {}", answer.status());
        assert!(!answer.headers().contains_key("location"));
        assert!(json_body(answer).await["error"]["message"].is_string());
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_backends_send_without_measure_is_bounded_and_told() {
    let line = |length: usize| {
        let mut bytes = head("content-type: text/event-stream\r\n");
        bytes.extend(b"data: {\"choices\":[{\"delta\":{\"content\":\"");
        bytes.extend(vec![b'a'; length]);
        bytes
    };
    let json = |body: &[u8]| {
        let mut bytes = head("content-type: application/json\r\n");
        bytes.extend(body);
        bytes
    };
    let deep = format!("{{\"choices\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    // A gzip member of zeros: nobody asked for a coding, so it is no answer.
    let bomb = {
        let mut bytes = head("content-type: application/json\r\ncontent-encoding: gzip\r\n");
        bytes.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xed, 0xc1, 1, 0x0d, 0, 0, 0, 0xc2, 0xa0]);
        bytes.extend(vec![0; 200_000]);
        bytes
    };
    let crlf = json(br#"{"id":"x","object":"chat.completion","model":"gpt\r\nset-cookie: evil=1","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#);
    let base = resident_mib();
    let cases: [(&str, Vec<u8>, bool, bool); 6] = [
        ("a giant line of an event stream", line(96 * 1024 * 1024), true, false),
        ("a giant plain answer", json(&vec![b' '; 80 * 1024 * 1024]), false, false),
        // Nothing reads it: client and backend speak one dialect.
        ("deep JSON", json(deep.as_bytes()), false, true),
        ("a gzip bomb", bomb, false, false),
        ("line feeds in a name", crlf, false, true),
        (
            "a huge head",
            format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(4 * 1024 * 1024)).into_bytes(),
            false,
            false,
        ),
    ];
    for (what, bytes, stream, good) in cases {
        let router = before(scripted(move || bytes.clone()).await).await;
        let answer = router.chat(hello("gpt", stream), &[]).await;
        assert!(!answer.headers().contains_key("set-cookie"), "{what}");
        let status = answer.status();
        let text = answer.text().await.unwrap();
        let told = text.contains("\"error\"");
        assert!(if good { status == 200 && !told } else { told }, "{what}: {status} {text:.300}");
        assert!(text.len() < 80 * 1024 * 1024, "{what}: {} bytes came through", text.len());
        router.node.kill().await;
    }
    // The bytes of the cases themselves are some 180 MiB, and the largest answer held is 64 MiB.
    let grown = resident_mib().saturating_sub(base);
    assert!(grown < 700, "{grown} MiB grown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_the_password_is_slowed_and_other_pages_change_nothing() {
    let llama = upstream(fast(Kind::Llama, "tiny")).await;
    let demo = "demo: {enabled: true, password: opensesame, sessionTimeout: 1h, rateLimitPerIP: 1000}";
    let router = Router::start(&file(demo, &cluster("c1", &llama, 0.05), "")).await;
    let login = async |password: &str| {
        let body = json!({"password": password}).to_string();
        router.client.post(format!("{}/api/auth", router.url)).body(body).send().await.unwrap()
    };
    let welcome = login("opensesame").await;
    let cookie = crate::fixture::header(&welcome, "set-cookie").split(';').next().unwrap().to_owned();
    let mut refused = Vec::new();
    for nth in 0..30 {
        refused.push(login(&format!("guess-{nth}")).await.status().as_u16());
    }
    assert_eq!(refused.iter().filter(|status| **status == 401).count(), 10, "{refused:?}");
    assert_eq!(refused.iter().filter(|status| **status == 429).count(), 20);
    assert_eq!(login("opensesame").await.status(), 429, "nor does the right one pass meanwhile");

    let post = async |path: &str, headers: &[(&str, &str)]| {
        let mut request =
            router.client.post(format!("{}{path}", router.url)).body("{}").header("cookie", &cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let own = router.url.clone();
    assert_eq!(post("/ui/explain", &[("content-type", "text/plain")]).await, 403, "a form of another page");
    assert_eq!(
        post("/ui/explain", &[("x-llm-router-page", "1"), ("origin", "http://evil.example")]).await,
        403
    );
    assert_eq!(
        post("/ui/explain", &[("x-llm-router-page", "1"), ("sec-fetch-site", "cross-site")]).await,
        403
    );
    assert_ne!(
        post(
            "/ui/explain",
            &[("x-llm-router-page", "1"), ("origin", &own), ("sec-fetch-site", "same-origin")]
        )
        .await,
        403
    );
    for path in [CHAT, "/v1/messages", "/api/auth", "/v1beta/models/tiny:generateContent"] {
        for foreign in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
        ] {
            assert_eq!(
                post(path, &[foreign, ("content-type", "text/plain")]).await,
                403,
                "{path} {foreign:?}"
            );
        }
    }
    // The admin listener knows no cookie.
    let admin = format!("http://{}/admin/reload", router.node.admin_addr().unwrap());
    assert_eq!(router.client.post(admin).header("cookie", &cookie).send().await.unwrap().status(), 401);
    still_serves(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections_leave_nothing_behind() {
    let router = impatient().await;
    let open = async || router.metric("process_open_fds").await.unwrap_or_default();
    still_serves(&router).await;
    let before = open().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(router.node.addr()).await.unwrap();
        stream.write_all(b"G").await.unwrap();
        silent.push(stream);
    }
    still_serves(&router).await;
    // Each is closed by the router, though its client stays.
    for mut stream in silent {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok());
    }
    // Other tests of this process open and close files too.
    eventually("the descriptors to be given back", async || open().await <= before + 150.0).await;
    let view: Value = router.view().await;
    assert!(view["backends"].is_array());
}
