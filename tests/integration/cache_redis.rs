//! Answers that two routers share through a real Redis: found, forged, slow, dead and back.

use crate::cache::{asking, told};
use crate::fixture::{DEADLINE, Router, eventually, fast, file, header, provider, upstream};
use llm_router::mock::Mock;
use llm_router_logic::backend::Kind;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MODEL: &str = "gpt";
const PASSWORD: &str = "a-password-of-the-tests";

/// A Redis of its own on loopback, ended with the test.
struct Redis {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        Self { process: Self::spawn(port, &directory), port, directory }
    }

    fn spawn(port: u16, directory: &tempfile::TempDir) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--requirepass", PASSWORD, "--dir", &directory.path().display().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server ({error}): install the Debian package redis-server"))
    }

    fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}/0", self.port)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::spawn(self.port, &self.directory);
    }

    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    async fn run<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query_async(&mut self.connection().await).await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A router over `mock` that shares answers through `redis`.
async fn sharing(redis: &Redis, mock: &Mock) -> Router {
    let cache = format!("cache: {{redis: {{url: \"{}\", secret: a-secret-of-the-tests}}}}", redis.url());
    let router = Router::start(&file(&cache, "", &provider("p1", mock, MODEL))).await;
    up(&router, 1.0).await;
    router
}

async fn up(router: &Router, wanted: f64) {
    eventually("the router to see Redis so", async || {
        router.metric("llm_router_cache_redis_up").await == Some(wanted)
    })
    .await;
}

async fn counted(router: &Router, result: &str) -> f64 {
    let series = format!("llm_router_cache_redis_total{{result=\"{result}\"}}");
    router.metric(&series).await.unwrap_or(0.0)
}

async fn written(router: &Router, count: f64) {
    eventually("the answers to be written", async || counted(router, "written").await == count).await;
}

async fn ask(router: &Router, text: &str, stream: bool) -> (String, u16, String) {
    told(router.chat(asking(text, stream), &[]).await).await
}

/// Looks that were over before Redis answered, which on a busy machine happens.
async fn missed(router: &Router) -> f64 {
    counted(router, "slow").await + counted(router, "skipped").await
}

/// Whether Redis takes an answer that is generated now.
async fn is_used(router: &Router) -> bool {
    let before = counted(router, "written").await;
    ask(router, &format!("after {before} {:?}", std::time::Instant::now()), false).await;
    let started = std::time::Instant::now();
    while counted(router, "written").await <= before {
        if started.elapsed() > Duration::from_millis(500) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

#[tokio::test]
async fn what_one_router_generated_the_other_gives_again() {
    let redis = Redis::start();
    let mock = upstream(fast(Kind::OpenAi, MODEL)).await;
    let (a, b) = (sharing(&redis, &mock).await, sharing(&redis, &mock).await);
    let mut generated = 0;
    for stream in [false, true] {
        eventually("an answer to be found in time", async || {
            let text = format!("shared {generated}");
            let first = ask(&a, &text, stream).await;
            generated += 1;
            eventually("it to be written", async || counted(&a, "written").await == f64::from(generated))
                .await;
            let missed_before = missed(&b).await;
            let again = b.chat(asking(&text, stream), &[]).await;
            assert_eq!(header(&again, "x-llm-router-backend"), "p1");
            let age = header(&again, "age").to_owned();
            let again = told(again).await;
            if again.0 == "miss" {
                assert!(missed(&b).await > missed_before, "it was there");
                return false;
            }
            assert!(age.parse::<u64>().unwrap() < DEADLINE.as_secs());
            assert_eq!((first.0.as_str(), again.0.as_str()), ("miss", "hit"));
            assert_eq!((first.1, &first.2), (again.1, &again.2), "stream: {stream}");
            assert_eq!(ask(&b, &text, stream).await.2, first.2);
            true
        })
        .await;
    }
    assert_eq!(counted(&b, "hit").await, 2.0, "the second time it is this router's own");
    assert!(b.metric("llm_router_cache_saved_usd_total").await.unwrap() > 0.0);
    // Neither prompts nor keys stand there, and everything ends.
    let names: Vec<String> = redis.run(&[b"KEYS", b"*"]).await;
    assert!(names.len() >= 2);
    for name in names {
        assert!(name.starts_with("llm-router:") && !name.contains("shared"), "{name}");
        let ttl: i64 = redis.run(&[b"PTTL", name.as_bytes()]).await;
        assert!((1..=300_000).contains(&ttl), "{ttl}");
    }
    a.node.shutdown().await;
    b.node.shutdown().await;
}

#[tokio::test]
async fn a_value_that_is_not_of_this_key_is_counted_and_passed_over() {
    let redis = Redis::start();
    let mock = upstream(fast(Kind::OpenAi, MODEL)).await;
    let (a, b) = (sharing(&redis, &mock).await, sharing(&redis, &mock).await);
    let answers = [ask(&a, "one", false).await.2, ask(&a, "two", false).await.2];
    written(&a, 2.0).await;
    let names: Vec<String> = redis.run(&[b"KEYS", b"*"]).await;
    let [one, two] = [names[0].as_bytes(), names[1].as_bytes()];
    let values: Vec<Vec<u8>> = redis.run(&[b"MGET", one, two]).await;
    // Each under the other's name, as another tenant's answer would be.
    let _: () = redis.run(&[b"MSET", one, &values[1], two, &values[0]]).await;
    assert_eq!(ask(&b, "one", false).await, ("miss".to_owned(), 200, ask(&b, "one", false).await.2));
    assert_eq!(counted(&b, "refused").await + missed(&b).await, 1.0);
    assert_ne!(answers[0], answers[1]);

    let mut changed = values[0].clone();
    *changed.last_mut().unwrap() ^= 1;
    let huge = vec![b'x'; 8 << 20];
    let mut refused = 0.0;
    for garbage in [&b"garbage"[..], b"\x01", &values[0][..40], &changed, &huge] {
        let _: () = redis.run(&[b"MSET", one, garbage, two, garbage]).await;
        let c = sharing(&redis, &mock).await;
        let received = mock.books().received;
        let answer = ask(&c, "two", false).await;
        assert_eq!((answer.0.as_str(), answer.1, mock.books().received), ("miss", 200, received + 1));
        // Where the look was over before the value was there, it was not even read.
        assert_eq!(counted(&c, "refused").await + missed(&c).await, 1.0);
        refused += counted(&c, "refused").await;
        c.node.shutdown().await;
    }
    assert!(refused >= 1.0);
    let _: i64 = redis.run(&[b"DEL", one, two]).await;
    for name in [one, two] {
        let _: i64 = redis.run(&[b"LPUSH", name, b"a list"]).await;
    }
    let c = sharing(&redis, &mock).await;
    assert_eq!(ask(&c, "two", false).await.1, 200);
    assert_eq!(counted(&c, "refused").await + missed(&c).await, 1.0);
    assert_eq!(c.metric("llm_router_cache_redis_up").await, Some(1.0), "Redis itself is well");
    for router in [a, b, c] {
        router.node.shutdown().await;
    }
}

#[tokio::test]
async fn a_redis_that_hangs_is_left_alone_after_three_looks_until_it_answers_again() {
    let redis = Redis::start();
    let mock = upstream(fast(Kind::OpenAi, MODEL)).await;
    let router = sharing(&redis, &mock).await;
    assert_eq!(ask(&router, "before", false).await.0, "miss");
    written(&router, 1.0).await;
    let (slow_before, skipped_before) = (counted(&router, "slow").await, counted(&router, "skipped").await);
    redis.signal("-STOP");
    for nth in 0..12 {
        let answer = ask(&router, &format!("while it hangs {nth}"), false).await;
        assert_eq!((answer.0.as_str(), answer.1), ("miss", 200));
    }
    assert_eq!(ask(&router, "while it hangs 3", false).await.0, "hit", "of this router's own");
    up(&router, 0.0).await;
    let slow = counted(&router, "slow").await - slow_before;
    let skipped = counted(&router, "skipped").await - skipped_before;
    assert!((1.0..=3.0).contains(&slow) && slow + skipped == 12.0, "{slow} {skipped}");
    redis.signal("-CONT");
    up(&router, 1.0).await;
    eventually("answers to be shared again", async || is_used(&router).await).await;
    router.node.shutdown().await;
}

#[tokio::test]
async fn a_redis_that_dies_costs_no_request_and_is_used_again_once_it_is_back() {
    let mut redis = Redis::start();
    let mock = upstream(fast(Kind::OpenAi, MODEL)).await;
    let router = sharing(&redis, &mock).await;
    redis.kill();
    for nth in 0..12 {
        let answer = ask(&router, &format!("while it is dead {nth}"), nth % 2 == 0).await;
        assert_eq!((answer.0.as_str(), answer.1), ("miss", 200));
    }
    up(&router, 0.0).await;
    assert!(counted(&router, "skipped").await >= 10.0);
    redis.restart();
    up(&router, 1.0).await;
    eventually("answers to be shared again", async || is_used(&router).await).await;
    router.node.shutdown().await;
}
