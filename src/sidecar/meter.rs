//! Measures the answers that pass: time to first token, output tokens per second, what runs now.

use super::scan::Scan;
use llm_router_logic::cost::unit::ThroughputMeter;
use llm_router_logic::guard::latency::LatencyWindow;
use llm_router_logic::time::Moment;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The figures of one sidecar.
#[derive(Debug)]
pub(crate) struct Meter {
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    latency: LatencyWindow,
    throughput: ThroughputMeter,
    in_flight: u32,
    input_tokens: u64,
    output_tokens: u64,
}

/// What the meter shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) latency_p95: Option<Duration>,
    pub(crate) in_flight: u32,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self { origin: Instant::now(), state: Mutex::default() }
    }
}

impl Meter {
    /// The figures now.
    pub(crate) fn read(&self) -> Measured {
        let now = self.now();
        let state = self.state();
        Measured {
            tokens_per_second: state.throughput.tokens_per_second(now),
            latency_p95: state.latency.p95(now),
            in_flight: state.in_flight,
            input_tokens: state.input_tokens,
            output_tokens: state.output_tokens,
        }
    }

    /// A request for an answer is being forwarded.
    pub(crate) fn begin(self: &Arc<Self>) -> Passing {
        let now = self.now();
        let mut state = self.state();
        state.in_flight += 1;
        state.throughput.started(now);
        Passing { meter: Arc::clone(self), begun: Instant::now(), scan: None, told: 0 }
    }

    fn now(&self) -> Moment {
        Moment::ZERO + self.origin.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Figures survive a panic of one of their writers.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request under way. Dropping it ends it with what had passed by then: a server stops asking for
/// a body once its stated length is sent, so that the end of an answer is often not seen otherwise.
#[derive(Debug)]
pub(crate) struct Passing {
    meter: Arc<Meter>,
    begun: Instant,
    /// Present once a successful answer began.
    scan: Option<Scan>,
    /// Output tokens counted so far, one for each content event.
    told: u64,
}

impl Passing {
    /// A successful answer begins.
    pub(crate) fn answer(&mut self, content_type: &str) {
        self.scan = Some(Scan::new(content_type));
    }

    /// Bytes of the answer pass.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let Some(scan) = &mut self.scan else { return };
        let tokens = scan.push(bytes);
        if tokens == 0 {
            return;
        }
        let now = self.meter.now();
        let mut state = self.meter.state();
        if self.told == 0 {
            state.latency.record(self.begun.elapsed(), now);
        }
        self.told += tokens;
        state.throughput.tokens(tokens, now);
        state.output_tokens += tokens;
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let counts = self.scan.as_mut().and_then(Scan::finish);
        let now = self.meter.now();
        let mut state = self.meter.state();
        state.in_flight -= 1;
        let Some(counts) = counts else {
            return state.throughput.finished(0, now);
        };
        // What was guessed from events is corrected by the answer's own counts.
        let untold = counts.output_tokens.saturating_sub(self.told);
        state.throughput.finished(untold, now);
        state.input_tokens += counts.input_tokens;
        state.output_tokens += untold;
        if let (false, Some(predicted)) =
            (self.scan.as_ref().is_some_and(Scan::is_stream), counts.predicted_ms)
        {
            // A plain answer shows its first token by what is left when production is taken off.
            let predicted = Duration::try_from_secs_f64(predicted / 1e3).unwrap_or_default();
            state.latency.record(self.begun.elapsed().saturating_sub(predicted), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_count_at_once_and_the_answers_own_counts_correct_them() {
        let meter = Arc::new(Meter::default());
        let mut passing = meter.begin();
        passing.answer("text/event-stream");
        passing.bytes(b"data: {\"content\":\"a b\"}\n\n");
        let measured = meter.read();
        assert_eq!((measured.in_flight, measured.output_tokens), (1, 1));
        assert!(measured.latency_p95.is_some());
        passing.bytes(b"data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":20}}\n\n");
        drop(passing);
        let measured = meter.read();
        assert_eq!((measured.in_flight, measured.input_tokens, measured.output_tokens), (0, 3, 20));
        assert!(measured.tokens_per_second.is_some());
    }

    #[test]
    fn an_abandoned_answer_is_no_longer_in_flight() {
        let meter = Arc::new(Meter::default());
        let passing = meter.begin();
        assert_eq!(meter.read().in_flight, 1);
        drop(passing);
        assert_eq!(meter.read().in_flight, 0);
    }
}
