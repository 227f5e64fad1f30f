//! Opens many streamed answers at once and notes when their bytes came; one JSON object on standard output.
//!
//! ```text
//! llm-router-bench-streams ADDRESS REQUEST_FILE STREAMS RAMP_MS ROUNDS
//! ```
//! `REQUEST_FILE` holds a whole HTTP/1.1 request as it is sent. `STREAMS` connections are opened, spread over
//! `RAMP_MS`, and each asks `ROUNDS` times, one after the other over the same connection. Times are from the last
//! byte of a request to the first byte of its answer's body and to its end; `events` counts `data:` lines.
//! Load generators count to the head of an answer or to its end: neither is what a reader of a stream waits for.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest head of an answer that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A stream is given up after this.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one answer came to.
struct Seen {
    first_body_byte: Duration,
    end: Duration,
    events: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(report) => {
            let written = writeln!(std::io::stdout(), "{report}");
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, file, streams, ramp, rounds] = words.as_slice() else {
        return Err("usage: ADDRESS REQUEST_FILE STREAMS RAMP_MS ROUNDS".into());
    };
    let number = |word: &str| word.parse::<u64>().map_err(|error| format!("`{word}`: {error}"));
    let (streams, ramp, rounds) = (number(streams)?, Duration::from_millis(number(ramp)?), number(rounds)?);
    let request: Arc<[u8]> = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?.into();
    let began = Instant::now();
    let clients: Vec<_> = (0..streams)
        .map(|nth| {
            let (address, request) = (address.clone(), Arc::clone(&request));
            let pause = ramp.mul_f64(nth as f64 / streams as f64);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let asked = tokio::time::timeout(PATIENCE, client(&address, &request, rounds)).await;
                asked.unwrap_or_else(|_| Err("not answered in time".into()))
            })
        })
        .collect();
    let (mut seen, mut failed, mut why) = (Vec::new(), 0u64, String::new());
    for client in clients {
        match client.await {
            Ok(Ok(answers)) => seen.extend(answers),
            Ok(Err(error)) => (failed, why) = (failed + 1, error),
            Err(error) => (failed, why) = (failed + 1, error.to_string()),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let events: u64 = seen.iter().map(|answer| answer.events).sum();
    let mut first: Vec<Duration> = seen.iter().map(|answer| answer.first_body_byte).collect();
    let mut end: Vec<Duration> = seen.iter().map(|answer| answer.end).collect();
    first.sort();
    end.sort();
    Ok(format!(
        "{{\"answers\":{},\"failed\":{failed},\"why\":{why:?},\"seconds\":{seconds:.3},\"events\":{events},\
         \"ttfb_us\":{},\"end_us\":{}}}",
        seen.len(),
        quantiles(&first),
        quantiles(&end),
    ))
}

/// p50, p90 and p99 in microseconds, as JSON.
fn quantiles(ordered: &[Duration]) -> String {
    let at = |share: f64| {
        let index = (share * ordered.len() as f64) as usize;
        ordered.get(index.min(ordered.len().saturating_sub(1))).map_or(0, Duration::as_micros)
    };
    format!("{{\"p50\":{},\"p90\":{},\"p99\":{}}}", at(0.5), at(0.9), at(0.99))
}

/// Asks `rounds` times over one connection.
async fn client(address: &str, request: &[u8], rounds: u64) -> Result<Vec<Seen>, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(told)?;
    stream.set_nodelay(true).map_err(told)?;
    let mut seen = Vec::new();
    for _ in 0..rounds {
        stream.write_all(request).await.map_err(told)?;
        seen.push(answer(&mut stream).await?);
    }
    Ok(seen)
}

/// Reads one answer to its last byte.
async fn answer(stream: &mut TcpStream) -> Result<Seen, String> {
    let asked = Instant::now();
    let mut read = Vec::with_capacity(16 * 1024);
    let head = loop {
        more(stream, &mut read).await?;
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if read.len() > HEAD_BYTES_MAX {
            return Err("the answer's head does not end".into());
        }
    };
    let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") {
        return Err(text.lines().next().unwrap_or_default().to_owned());
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = read.split_off(head);
    let mut first_body_byte = (!body.is_empty()).then(|| asked.elapsed());
    let mut events = 0;
    // Only the tail is kept: enough to see the end, and a `data:` that two reads have cut.
    let mut total = 0usize;
    let mut counted = 0usize;
    loop {
        let fresh = count_events(&body, counted);
        events += fresh;
        let over = match length {
            Some(length) => total + body.len() >= length,
            None => body.ends_with(b"0\r\n\r\n"),
        };
        if over {
            break;
        }
        let keep = body.len().saturating_sub(8);
        total += keep;
        body.drain(..keep);
        counted = body.len();
        more(stream, &mut body).await?;
        first_body_byte.get_or_insert_with(|| asked.elapsed());
    }
    let end = asked.elapsed();
    Ok(Seen { first_body_byte: first_body_byte.unwrap_or(end), end, events })
}

/// How many `data:` end behind the first `counted` bytes of `body`.
fn count_events(body: &[u8], counted: usize) -> u64 {
    let mark = b"data:";
    let starts = body.windows(mark.len()).enumerate().filter(|(_, bytes)| bytes == mark);
    starts.filter(|(at, _)| at + mark.len() > counted).count() as u64
}

async fn more(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<(), String> {
    match stream.read_buf(into).await {
        Ok(0) => Err("the connection ended within an answer".into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
