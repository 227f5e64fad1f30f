//! The section `telemetry`, and the variables of OpenTelemetry's specification, which win over it.

use super::Check;
use crate::config::duration::Span;
use crate::config::file::{TelemetryFile, TracesFile};
use crate::config::path::Path;
use crate::config::settings::{
    Export, ExportTls, LogFormat, Propagate, Protocol, Sampler, Telemetry, Traces,
};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::time::Duration;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const SERVICE_NAME: &str = "llm-router";
const QUEUE_SPANS: usize = 8_192;
/// Spans of one request stay below this.
const QUEUE_SPANS_LEAST: usize = 64;
const BATCH_SPANS: usize = 512;
const DELAY: Duration = Duration::from_secs(1);
const BODY_BYTES_MAX: u32 = 65_536;
/// Path of a collector's HTTP receiver.
const TRACES_PATH: &str = "/v1/traces";
/// Headers, and attributes of a resource, that are taken over.
const PAIRS_MAX: usize = 64;

impl Check<'_> {
    pub(super) fn telemetry(&mut self, file: TelemetryFile) -> Telemetry {
        let at = Path::default().key("telemetry");
        let of = |word: &str| match word.to_ascii_lowercase().as_str() {
            "human" => Some(LogFormat::Human),
            "json" => Some(LogFormat::Json),
            _ => None,
        };
        let named = file.log_format.map(|word| {
            of(&word).unwrap_or_else(|| {
                let why = format!("expected `human` or `json`, found `{word}`");
                self.findings.problem(&at.key("logFormat"), why);
                LogFormat::Human
            })
        });
        let variable = self.variable("LOG_FORMAT").and_then(|word| of(&word));
        let log_format = variable.or(named).unwrap_or_default();
        let traces = self.traces(&at.key("traces"), file.traces.unwrap_or_default());
        Telemetry { log_format, traces }
    }

    fn traces(&mut self, at: &Path, file: TracesFile) -> Traces {
        let default = Traces::default();
        let propagate = match file.propagate.as_deref() {
            None | Some("all") => Propagate::All,
            Some("clusters") => Propagate::Clusters,
            Some("none") => Propagate::None,
            Some(other) => {
                let why = format!("expected `all`, `clusters` or `none`, found `{other}`");
                self.findings.problem(&at.key("propagate"), why);
                Propagate::All
            }
        };
        let body_bytes = file.body_bytes.unwrap_or(0);
        if body_bytes > BODY_BYTES_MAX {
            let why = format!("must be at most {BODY_BYTES_MAX}, is `{body_bytes}`");
            self.findings.problem(&at.key("bodyBytes"), why);
        }
        Traces {
            sampler: self.sampler(at, file.sampler.as_deref(), file.ratio),
            slow: self.timeout(&at.key("slow"), file.slow, default.slow),
            slow_first_token: self.timeout(
                &at.key("slowFirstToken"),
                file.slow_first_token,
                default.slow_first_token,
            ),
            keep_per_second: file.keep_per_second.unwrap_or(default.keep_per_second),
            propagate,
            body_bytes: (body_bytes > 0).then_some(body_bytes as usize),
            export: self.export(at, file),
        }
    }

    fn sampler(&mut self, at: &Path, named: Option<&str>, ratio: Option<f64>) -> Sampler {
        let argument = self.number("OTEL_TRACES_SAMPLER_ARG", |share| (0.0..=1.0).contains(share));
        let ratio = argument.or(ratio).unwrap_or(1.0);
        if !(0.0..=1.0).contains(&ratio) {
            self.findings.problem(&at.key("ratio"), format!("must be from 0 to 1, is `{ratio}`"));
        }
        let of = |word: &str| {
            let (parent_based, word) = match word.strip_prefix("parentbased_") {
                Some(word) => (true, word),
                None => (false, word),
            };
            let keeps_bad = parent_based || word != "always_off";
            let ratio = match word {
                "always_on" => 1.0,
                "always_off" => 0.0,
                "traceidratio" => ratio,
                _ => return None,
            };
            Some(Sampler { parent_based, ratio, keeps_bad })
        };
        if let Some(word) = self.variable("OTEL_TRACES_SAMPLER") {
            match of(&word) {
                Some(sampler) => return sampler,
                None => self.ignored("OTEL_TRACES_SAMPLER", "no sampler of that name is known here"),
            }
        }
        let Some(word) = named else { return Sampler { ratio, ..Sampler::default() } };
        of(word).unwrap_or_else(|| {
            self.findings.problem(&at.key("sampler"), format!("unknown sampler `{word}`"));
            Sampler::default()
        })
    }

    fn export(&mut self, at: &Path, file: TracesFile) -> Option<Export> {
        let timeout = self.timeout(&at.key("timeout"), file.timeout, TIMEOUT_DEFAULT);
        let queue_at = at.key("queueSpans");
        let queue_spans = self.count(&queue_at, file.queue_spans).map_or(QUEUE_SPANS, |spans| spans as usize);
        if queue_spans < QUEUE_SPANS_LEAST {
            let why = format!("must be at least {QUEUE_SPANS_LEAST}, is `{queue_spans}`");
            self.findings.problem(&queue_at, why);
        }
        let protocol = self.protocol(at, file.protocol.as_deref());
        let attributes = self.pairs(&at.key("resourceAttributes"), file.resource_attributes.as_deref());
        let headers = file.headers.as_ref().map(ExposeSecret::expose_secret);
        let headers = self.pairs(&at.key("headers"), headers);

        let is_off = self.variable("OTEL_SDK_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true"));
        let exporter = self.variable("OTEL_TRACES_EXPORTER");
        if is_off || exporter.as_deref() == Some("none") {
            return None;
        }
        let (endpoint, whole) = match self.variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            Some(endpoint) => (Some(endpoint), true),
            None => (self.variable("OTEL_EXPORTER_OTLP_ENDPOINT").or(file.endpoint), false),
        };
        let endpoint = endpoint.or_else(|| {
            let port = if protocol == Protocol::Grpc { 4317 } else { 4318 };
            (exporter.as_deref() == Some("otlp")).then(|| format!("http://localhost:{port}"))
        })?;
        let endpoint = self.endpoint(&at.key("endpoint"), &endpoint, protocol, whole)?;

        let mut export = Export {
            endpoint,
            protocol,
            headers: headers.into_iter().map(|(name, value)| (name, SecretString::from(value))).collect(),
            timeout: self.either_millis(
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
                "OTEL_EXPORTER_OTLP_TIMEOUT",
                timeout,
            ),
            service_name: file.service_name.unwrap_or_else(|| SERVICE_NAME.to_owned()),
            attributes,
            queue_spans: self.size("OTEL_BSP_MAX_QUEUE_SIZE", queue_spans).max(QUEUE_SPANS_LEAST),
            batch_spans: self.size("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS),
            delay: self.either_millis("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_SCHEDULE_DELAY", DELAY),
            tls: self.export_tls(),
        };
        let told = self
            .variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
            .or_else(|| self.variable("OTEL_EXPORTER_OTLP_HEADERS"));
        for (name, value) in self.pairs(&at.key("headers"), told.as_deref()) {
            export.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
            export.headers.push((name, SecretString::from(value)));
        }
        let told = self.variable("OTEL_RESOURCE_ATTRIBUTES");
        for (name, value) in self.pairs(&at.key("resourceAttributes"), told.as_deref()) {
            export.attributes.retain(|(known, _)| *known != name);
            export.attributes.push((name, value));
        }
        // The variable of its own counts more than the attribute, whichever of them says it.
        if let Some(at) = export.attributes.iter().position(|(name, _)| name == "service.name") {
            export.service_name = export.attributes.remove(at).1;
        }
        if let Some(name) = self.variable("OTEL_SERVICE_NAME") {
            export.service_name = name;
        }
        Some(export)
    }

    /// Files for TLS, which only variables name: where they lie is the machine's affair.
    fn export_tls(&mut self) -> ExportTls {
        let file = |name: &str| {
            let either = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
            either.iter().find_map(|name| self.variable(name)).map(PathBuf::from)
        };
        let authorities = file("CERTIFICATE");
        let (cert, key) = (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY"));
        if cert.is_some() != key.is_some() {
            let missing = if cert.is_some() { "CLIENT_KEY" } else { "CLIENT_CERTIFICATE" };
            let at = Path::default().key("telemetry");
            let why =
                format!("a certificate of its own needs `OTEL_EXPORTER_OTLP_{missing}`, too: none is shown");
            self.findings.warning(&at, why);
        }
        ExportTls { authorities, identity: cert.zip(key) }
    }

    fn protocol(&mut self, at: &Path, named: Option<&str>) -> Protocol {
        let of = |word: &str| match word {
            "grpc" => Some(Protocol::Grpc),
            "http/protobuf" => Some(Protocol::Http),
            _ => None,
        };
        for variable in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            let Some(word) = self.variable(variable) else { continue };
            match of(&word) {
                Some(protocol) => return protocol,
                None => self.ignored(variable, "`grpc` and `http/protobuf` are spoken here"),
            }
        }
        let Some(word) = named else { return Protocol::Http };
        of(word).unwrap_or_else(|| {
            let why = format!("expected `http/protobuf` or `grpc`, found `{word}`");
            self.findings.problem(&at.key("protocol"), why);
            Protocol::Http
        })
    }

    /// The address spans are sent to; `whole` says that nothing is added to it.
    fn endpoint(&mut self, at: &Path, given: &str, protocol: Protocol, whole: bool) -> Option<String> {
        let uri = given.parse::<http::Uri>().ok();
        let uri = uri.filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        let Some(uri) = uri else {
            self.findings.problem(
                at,
                "must be an address such as `http://otel-collector:4318` (`http://` or `https://`)",
            );
            return None;
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            self.findings.problem(at, "holds a user or password: put it into `headers`");
            return None;
        }
        let usual = match (protocol, uri.port_u16()) {
            (Protocol::Http, Some(4317)) => Some("grpc"),
            (Protocol::Grpc, Some(4318)) => Some("http/protobuf"),
            _ => None,
        };
        if let Some(usual) = usual {
            self.findings.warning(at, format!("this port is usually spoken to as `protocol: {usual}`"));
        }
        if protocol == Protocol::Grpc || whole {
            return Some(given.to_owned());
        }
        let base = given.trim_end_matches('/');
        Some(if base.ends_with(TRACES_PATH) { base.to_owned() } else { format!("{base}{TRACES_PATH}") })
    }

    /// `name=value,name=value`, values percent-encoded. Never quotes a value: it may be a secret.
    fn pairs(&mut self, at: &Path, text: Option<&str>) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for pair in text.unwrap_or_default().split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let read = pair.split_once('=').and_then(|(name, value)| {
                let name = name.trim();
                let printable = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | ';' | '\\');
                let value = decoded(value.trim())?;
                (!name.is_empty() && name.chars().all(printable)).then(|| (name.to_owned(), value))
            });
            match read {
                Some(pair) if pairs.len() < PAIRS_MAX => pairs.push(pair),
                Some(_) => {
                    self.findings.problem(at, format!("has more than {PAIRS_MAX} pairs"));
                    break;
                }
                None => self.findings.problem(at, "must be `name=value,name=value`, values percent-encoded"),
            }
        }
        pairs
    }

    /// A variable of the environment that says something.
    fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A number in a variable; what is none is told and ignored, as OpenTelemetry's specification asks.
    fn number(&mut self, name: &str, good: impl Fn(&f64) -> bool) -> Option<f64> {
        let value = self.variable(name)?;
        let number = value.parse().ok().filter(good);
        if number.is_none() {
            self.ignored(name, "it is not a number in its range");
        }
        number
    }

    fn size(&mut self, name: &str, default: usize) -> usize {
        let number = self.number(name, |size| (1.0..=1_000_000.0).contains(size));
        number.map_or(default, |size| size as usize)
    }

    /// Milliseconds in the first of two variables that is set.
    fn either_millis(&mut self, name: &str, other: &str, default: Duration) -> Duration {
        let name = if self.variable(name).is_some() { name } else { other };
        let millis = self.number(name, |millis| (1.0..=3_600_000.0).contains(millis));
        millis.map_or(default, |millis| Span(Duration::from_millis(millis as u64)).0)
    }

    fn ignored(&mut self, variable: &str, why: &str) {
        let at = Path::default().key("telemetry");
        self.findings.warning(&at, format!("environment variable `{variable}` is ignored: {why}"));
    }
}

/// Percent-decoded UTF-8 without control characters.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}
