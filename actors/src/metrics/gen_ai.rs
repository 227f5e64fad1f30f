//! OpenTelemetry's metrics of a client of generative AI, by their names in Prometheus, and how fast tokens come.
//!
//! Names, labels and bucket bounds are those of the GenAI semantic conventions (status: development), with
//! `.` written as `_` and the unit appended, as OpenTelemetry's rules for Prometheus have it. Models are those
//! that backends serve, never a client's text.

use prometheus::{HistogramOpts, HistogramVec, Registry};
use std::time::Duration;

/// Upper bounds of duration buckets in seconds, as the conventions recommend.
const DURATION_BUCKETS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// Upper bounds of buckets of the time to the first chunk in seconds, as the conventions recommend.
const FIRST_CHUNK_BUCKETS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Upper bounds of token buckets, as the conventions recommend.
const TOKEN_BUCKETS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// Upper bounds of buckets of the time per output token in seconds.
const TPOT_BUCKETS: [f64; 13] =
    [0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0];

/// These metrics, registered with the others.
#[derive(Clone, Debug)]
pub struct GenAi {
    /// `gen_ai_client_token_usage{gen_ai_operation_name,gen_ai_provider_name,gen_ai_request_model,gen_ai_token_type}`
    pub token_usage: HistogramVec,
    /// `gen_ai_client_operation_duration_seconds{gen_ai_operation_name,gen_ai_provider_name,gen_ai_request_model,error_type}`
    pub operation_duration_seconds: HistogramVec,
    /// `gen_ai_client_operation_time_to_first_chunk_seconds{gen_ai_operation_name,gen_ai_provider_name,gen_ai_request_model}`
    pub time_to_first_chunk_seconds: HistogramVec,
    /// `llm_router_time_per_output_token_seconds{backend}`
    pub time_per_output_token_seconds: HistogramVec,
}

/// One attempt at a backend, as it ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempted<'a> {
    /// What was asked of the model, in the conventions' word.
    pub operation: &'static str,
    /// Who was asked, in the conventions' word.
    pub provider: &'static str,
    /// The backend.
    pub backend: &'a str,
    /// The model, by the backend's own name.
    pub model: &'a str,
    /// Why it failed; empty where it did not.
    pub error: &'static str,
    /// How long it took.
    pub duration: Duration,
    /// Time to the first chunk of a streamed answer.
    pub ttft: Option<Duration>,
    /// Input and output tokens; zeros = none are known.
    pub tokens: (u64, u64),
}

impl GenAi {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let register = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let metric = HistogramVec::new(options, labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let [operation, provider, model] =
            ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"];
        Ok(Self {
            token_usage: register(
                "gen_ai_client_token_usage",
                "Input and output tokens used by one attempt at a backend.",
                &TOKEN_BUCKETS,
                &[operation, provider, model, "gen_ai_token_type"],
            )?,
            operation_duration_seconds: register(
                "gen_ai_client_operation_duration_seconds",
                "Time one attempt at a backend took; error_type is empty where it did not fail.",
                &DURATION_BUCKETS,
                &[operation, provider, model, "error_type"],
            )?,
            time_to_first_chunk_seconds: register(
                "gen_ai_client_operation_time_to_first_chunk_seconds",
                "Time from an attempt at a backend to the first content of its stream.",
                &FIRST_CHUNK_BUCKETS,
                &[operation, provider, model],
            )?,
            time_per_output_token_seconds: register(
                "llm_router_time_per_output_token_seconds",
                "Time per output token after the first one, of streams that ended well.",
                &TPOT_BUCKETS,
                &["backend"],
            )?,
        })
    }

    /// Counts one attempt.
    pub fn count(&self, one: &Attempted<'_>) {
        let Attempted { operation, provider, model, .. } = *one;
        let seconds = one.duration.as_secs_f64();
        let labels = [operation, provider, model, one.error];
        self.operation_duration_seconds.with_label_values(&labels).observe(seconds);
        let (input, output) = one.tokens;
        for (class, tokens) in [("input", input), ("output", output)] {
            if tokens > 0 {
                let labels = [operation, provider, model, class];
                self.token_usage.with_label_values(&labels).observe(tokens as f64);
            }
        }
        let Some(ttft) = one.ttft else { return };
        let first = self.time_to_first_chunk_seconds.with_label_values(&[operation, provider, model]);
        first.observe(ttft.as_secs_f64());
        if one.error.is_empty() && output > 1 {
            let each = one.duration.saturating_sub(ttft).as_secs_f64() / (output - 1) as f64;
            self.time_per_output_token_seconds.with_label_values(&[one.backend]).observe(each);
        }
    }
}
