//! `llm-router explain`: who would serve a request, and why, without sending it.
//!
//! Offline it reads the configuration, looks once at each backend with the free probe and asks the very
//! `plan` that production asks; with `--url` a running node answers from its own view. Never sends the
//! request to a backend and never makes a paid call.

use crate::cli::{self, ExplainOptions};
use crate::config::{self, Config};
use crate::http::chat::{self, Route};
use crate::outbound::{HttpProbe, Outbound};
use crate::relay::estimate::Estimates;
use crate::relay::trial::InArms;
use bytes::Bytes;
use futures_util::future::join_all;
use llm_router_actors::ports::{Probe, Reading};
use llm_router_logic::guard::policy::GuardPolicy;
use llm_router_logic::ids::BackendId;
use llm_router_logic::report::{Health, Report};
use llm_router_logic::route::{Explanation, Loads, LocalLoad, PreparedView, Reason, explain};
use llm_router_logic::standing::Standing;
use llm_router_logic::time::{Moment, millis_u32};
use llm_router_logic::view::{BackendView, ClusterView, OwnFact};
use secrecy::ExposeSecret;
use serde::Serialize;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest answer read of a node.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest wait for a node's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An explanation with a sentence that says what comes of it.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Who is chosen and why, in one sentence.
    summary: String,
    /// Backends that could not be asked, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_asked: Vec<String>,
    /// Arms of experiments it is in, each as `experiment=arm`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    experiments: Vec<String>,
    #[serde(flatten)]
    explanation: Explanation,
}

impl Answer {
    /// Sums `explanation` up.
    pub fn new(explanation: Explanation) -> Self {
        let summary = match explanation.candidates.as_slice() {
            [] => "nobody can serve this request now: each reason is below".to_owned(),
            [first, rest @ ..] => {
                let because = because(first.reason);
                let then = match rest {
                    [] => "no other backend can stand in".to_owned(),
                    [next, ..] => format!("should it fail, `{}` is next", next.backend),
                };
                format!("`{}` is asked first, for {}: {because}; {then}", first.backend, first.model)
            }
        };
        Self { summary, not_asked: Vec::new(), experiments: Vec::new(), explanation }
    }

    /// The same, with the arms it is in.
    #[must_use]
    pub fn in_arms(self, experiments: Vec<String>) -> Self {
        Self { experiments, ..self }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n{}", self.summary, self.explanation)?;
        for arm in &self.experiments {
            writeln!(f, "in experiment {arm}")?;
        }
        for why in &self.not_asked {
            writeln!(f, "could not be asked: {why}")?;
        }
        Ok(())
    }
}

/// The reason's label as the second half of a sentence.
fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::LowestCost => "it is the cheapest for this request",
        Reason::LowestLatency => "its first token is expected soonest",
        Reason::ExternalFirst => "providers are preferred",
        Reason::ClusterFallback => "no better placed provider can serve it, so a cluster stands in",
        Reason::ClusterFirst => "clusters are preferred",
        Reason::ExternalFallback => "no cluster can serve it, so a provider stands in",
        Reason::HybridCluster => "it is a cluster at or under `clusterCostThreshold`",
        Reason::HybridCheapest => "no cluster is under `clusterCostThreshold`, and it is the cheapest of all",
        Reason::SloCheapest => "it is the cheapest that is expected to meet the latency targets",
        Reason::SloFastest => "none is expected to meet the latency targets, and it is the fastest",
        Reason::Sticky => "it served this session last",
        Reason::PrefixAffinity => {
            "prompts that begin like this one go there, where their beginning is cached"
        }
        Reason::Pinned => "the client named it",
        Reason::LeastBad => "its circuit breaker is open, but so are too many others",
    }
}

/// Which route a request is for: the path named, else what its body looks like.
///
/// # Errors
/// What to do where neither tells.
pub(crate) fn route_of(path: Option<&str>, body: &[u8]) -> Result<Route, String> {
    let path = match path {
        Some(path) => path,
        None => {
            let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)
                .map_err(|error| format!("the request is not a JSON object: {error}"))?;
            let shapes = [
                ("messages", "/v1/chat/completions"),
                ("prompt", "/v1/completions"),
                ("contents", "/v1beta/models/auto:generateContent"),
                ("input", "/v1/embeddings"),
            ];
            let shape = shapes.iter().find(|(key, _)| keys.contains_key(*key));
            shape.map(|(_, path)| *path).ok_or(
                "the request has neither `messages`, `prompt`, `contents` nor `input`: name its route, for example with `--path /v1/responses`",
            )?
        }
    };
    Route::of_path(path).ok_or_else(|| {
        format!("`{path}` is no route to a model (for example `/v1/chat/completions` or `/v1/messages`)")
    })
}

/// Why there is no explanation.
enum Failure {
    Usage(String),
    Config(config::Problems),
    Failed(String),
}

/// Runs the command and prints what it finds.
pub async fn run(options: &ExplainOptions) -> ExitCode {
    let told = match (&options.config, &options.url) {
        (Some(config), _) => offline(config, options).await,
        (None, Some(url)) => asked(url, options).await,
        (None, None) => Err(Failure::Usage("name a `--config` or a `--url`".to_owned())),
    };
    // A closed standard output or error leaves nobody to tell; the exit code still says it.
    match told {
        Ok(text) => match writeln!(std::io::stdout().lock(), "{}", text.trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(Failure::Config(problems)) => cli::refuse(&problems),
        Err(Failure::Usage(why)) => {
            let _ = writeln!(std::io::stderr().lock(), "{why}");
            ExitCode::from(cli::EXIT_USAGE)
        }
        Err(Failure::Failed(why)) => {
            let _ = writeln!(std::io::stderr().lock(), "{why}");
            ExitCode::FAILURE
        }
    }
}

async fn offline(path: &Path, options: &ExplainOptions) -> Result<String, Failure> {
    let loaded = config::load(path, &config::process_env).map_err(Failure::Config)?;
    let body = body(&options.request, loaded.config.server.max_body_bytes)?;
    let route = route_of(options.path.as_deref(), &body).map_err(Failure::Usage)?;
    let call = chat::inspected(route, body).map_err(|error| Failure::Usage(error.message))?;
    let estimates = Estimates::default();
    let mut request = call.routing_request(&estimates, None);
    request.hints.strategy = options.strategy;
    let in_arms = InArms::new(&loaded.config.experiments, &call, request, &estimates);
    let mut not_asked = Vec::new();
    let looked = if options.no_probe {
        Vec::new()
    } else {
        let looked = look(&loaded.config).await?;
        let failed = looked.iter().filter_map(|(id, looked)| Some((id, looked.as_ref().err()?)));
        not_asked.extend(failed.map(|(id, why)| format!("`{id}`: {why}")));
        looked
    };
    let started = Instant::now();
    let view = view(&loaded.config, &looked);
    let now = Moment::ZERO + started.elapsed();
    let policy = &loaded.config.policy;
    let view = PreparedView::new(view, policy, now, None);
    let plan = in_arms.plan(&view, &Idle(&view), policy, 0, now);
    let explanation = explain(&plan, &view, &in_arms.request, policy, now);
    let answer = Answer { not_asked, ..Answer::new(explanation).in_arms(in_arms.arms) };
    if !options.json {
        return Ok(answer.to_string());
    }
    serde_json::to_string_pretty(&answer).map_err(|error| Failure::Failed(error.to_string()))
}

type Looked = Vec<(BackendId, Result<Reading, String>)>;

/// Looks at each backend once, all at the same time.
async fn look(config: &Config) -> Result<Looked, Failure> {
    let outbound = Outbound::new(&config.backends, config.timeouts);
    let probe = HttpProbe::new(Arc::new(outbound.map_err(|error| Failure::Failed(error.to_string()))?));
    let looks = config.backends.iter().map(|backend| {
        let look = probe.probe(Arc::clone(&backend.spec));
        async move { (backend.spec.id.clone(), look.await) }
    });
    Ok(join_all(looks).await)
}

/// The view of a node that has just started and looked once: speed is what the backend tells of itself,
/// and no time to first token has been measured yet.
fn view(config: &Config, looked: &Looked) -> ClusterView {
    let fact = |id: &BackendId| {
        let (_, reading) = looked.iter().find(|(seen, _)| seen == id)?;
        let reading = reading.as_ref().ok()?;
        let report = Report {
            health: if reading.loading { Health::Loading } else { Health::Healthy },
            queue_depth: reading.queue_depth.unwrap_or(0),
            slots: reading.slots,
            #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more than an f32")]
            tokens_per_second: reading.tokens_per_second.map(|rate| rate as f32),
            latency_p95_ms: reading.latency_p95.map(millis_u32),
            rtt_ms: Some(millis_u32(reading.rtt)),
            ..Report::default()
        };
        Some(OwnFact {
            report,
            observed_at: Moment::ZERO,
            models: reading.models.clone().into(),
            ..OwnFact::default()
        })
    };
    ClusterView {
        node: config.node.name.clone(),
        region: config.node.region.clone(),
        backends: config
            .backends
            .iter()
            .map(|backend| BackendView {
                spec: Arc::clone(&backend.spec),
                own: fact(&backend.spec.id),
                peers: Vec::new(),
                standing: Standing::default(),
            })
            .collect(),
        foreign: Vec::new(),
        members: Vec::new(),
    }
}

/// No request of this process runs anywhere.
struct Idle<'v>(&'v ClusterView);

impl Loads for Idle<'_> {
    fn load(&self, index: usize, _tokens: u32, _now: Moment) -> LocalLoad {
        let backend = self.0.backends.get(index);
        let told = backend.and_then(|backend| backend.own.as_ref()?.report.slots);
        let slots = backend.and_then(|backend| backend.spec.slots).or(told);
        LocalLoad { limit: slots.unwrap_or(GuardPolicy::default().concurrency_max), ..LocalLoad::default() }
    }
}

/// Asks a running node by its admin listener.
async fn asked(url: &str, options: &ExplainOptions) -> Result<String, Failure> {
    let body = body(&options.request, ANSWER_BYTES_MAX * 8)?;
    route_of(options.path.as_deref(), &body).map_err(Failure::Usage)?;
    let mut target = reqwest::Url::parse(&format!("{}/admin/explain", url.trim_end_matches('/')))
        .map_err(|error| Failure::Usage(format!("`{url}` is no address: {error}")))?;
    if let Some(path) = &options.path {
        target.query_pairs_mut().append_pair("path", path);
    }
    let Some(token) = &options.token else {
        return Err(Failure::Usage("`--url` needs `--token` or `LLM_ROUTER_ADMIN_TOKEN`".to_owned()));
    };
    let client = reqwest::Client::builder().timeout(PATIENCE).build();
    let accept = if options.json { "application/json" } else { "text/plain" };
    let failed = |error: reqwest::Error| Failure::Failed(format!("cannot ask `{url}`: {error}"));
    let mut request =
        client.map_err(failed)?.post(target).bearer_auth(token.expose_secret()).header("accept", accept);
    if let Some(strategy) = options.strategy {
        request = request.header("x-llm-router-strategy", strategy.as_str());
    }
    let mut response = request.body(body).send().await.map_err(failed)?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if text.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Failed(format!("`{url}` answered more than {ANSWER_BYTES_MAX} bytes")));
        }
        text.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    match status.as_u16() {
        200 => Ok(text),
        401 => Err(Failure::Usage(format!("`{url}` does not take this token: is it that of `admin.token`?"))),
        404 => Err(Failure::Failed(format!("`{url}` is not the admin listener of a node that can explain"))),
        status => Err(Failure::Failed(format!("`{url}` answered {status}: {text}"))),
    }
}

/// The request's body: of a file, or of standard input for `-`.
fn body(source: &Path, limit: usize) -> Result<Bytes, Failure> {
    let cannot =
        |error: std::io::Error| Failure::Usage(format!("cannot read `{}`: {error}", source.display()));
    let mut bytes = Vec::new();
    let most = limit as u64 + 1;
    if source == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(cannot)?;
    } else {
        let file = std::fs::File::open(source).map_err(cannot)?;
        file.take(most).read_to_end(&mut bytes).map_err(cannot)?;
    }
    if bytes.len() > limit {
        return Err(Failure::Usage(format!("`{}` is larger than {limit} bytes", source.display())));
    }
    Ok(bytes.into())
}
