//! Where traces go, by the file and by OpenTelemetry's variables.

use super::*;
use secrecy::ExposeSecret;
use std::time::Duration;

const BACKEND: &str = "clusters: [{name: a, endpoint: \"http://127.0.0.1:1\", region: r, provider: aws, costPerHour: 1, authType: none}]\n";

fn with(telemetry: &str, variables: &[(&str, &str)]) -> (Telemetry, Vec<String>) {
    let env =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let text = format!("{BACKEND}telemetry: {{{telemetry}}}\n");
    let loaded = load_str(&text, Path::new("."), &env).unwrap_or_else(|problems| panic!("{problems}"));
    let warnings = loaded.warnings.iter().map(ToString::to_string);
    (loaded.config.telemetry, warnings.filter(|warning| warning.starts_with("telemetry")).collect())
}

#[test]
fn nothing_is_traced_without_an_endpoint_and_the_file_alone_is_enough_for_all() {
    assert!(with("", &[]).0.traces.export.is_none());
    let (telemetry, warnings) = with(
        "logFormat: json, traces: {endpoint: \"http://c:4317/\", protocol: grpc, headers: \"a=b%20c, d=e\", timeout: 3s, \
         serviceName: s, resourceAttributes: \"x=y\", sampler: traceidratio, ratio: 0.25, slow: 2s, propagate: clusters}",
        &[],
    );
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(telemetry.log_format, LogFormat::Json);
    let Traces { sampler, slow, propagate, export, .. } = telemetry.traces;
    assert_eq!(sampler, Sampler { parent_based: false, ratio: 0.25, keeps_bad: true });
    assert_eq!((slow, propagate), (Duration::from_secs(2), Propagate::Clusters));
    let export = export.unwrap();
    assert_eq!((export.endpoint.as_str(), export.protocol), ("http://c:4317/", Protocol::Grpc));
    assert_eq!((export.timeout, export.service_name.as_str()), (Duration::from_secs(3), "s"));
    assert_eq!(export.attributes, [("x".to_owned(), "y".to_owned())]);
    let headers: Vec<_> =
        export.headers.iter().map(|(name, value)| (&**name, value.expose_secret())).collect();
    assert_eq!(headers, [("a", "b c"), ("d", "e")]);
    assert!(!format!("{export:?}").contains("b c"), "headers hold secrets");
}

#[test]
fn the_environment_wins_over_the_file_as_opentelemetry_names_it() {
    let file = "logFormat: json, traces: {endpoint: \"http://file:4318\", headers: \"a=1,b=2\", serviceName: s, ratio: 0.5}";
    let (telemetry, _) = with(
        file,
        &[
            ("LOG_FORMAT", "human"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://env:4318/base/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "A=3"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=of-attributes,k=v"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ],
    );
    assert_eq!(telemetry.log_format, LogFormat::Human);
    assert_eq!(telemetry.traces.sampler, Sampler { parent_based: true, ratio: 0.1, keeps_bad: true });
    let export = telemetry.traces.export.unwrap();
    assert_eq!(export.endpoint, "https://env:4318/base/v1/traces");
    assert_eq!((export.timeout, export.queue_spans), (Duration::from_millis(1_500), 100));
    assert_eq!(export.service_name, "of-attributes");
    let headers: Vec<_> =
        export.headers.iter().map(|(name, value)| (&**name, value.expose_secret())).collect();
    assert_eq!(headers, [("b", "2"), ("A", "3")]);

    let endpoint_of = |variables: &[(&str, &str)]| {
        with(file, variables).0.traces.export.map(|export| (export.endpoint, export.service_name))
    };
    let own = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own/exactly"), ("OTEL_SERVICE_NAME", "n")];
    assert_eq!(endpoint_of(&own), Some(("http://own/exactly".to_owned(), "n".to_owned())));
    assert_eq!(endpoint_of(&[("OTEL_SDK_DISABLED", "TRUE")]), None);
    assert_eq!(endpoint_of(&[("OTEL_TRACES_EXPORTER", "none")]), None);
    let usual = with("", &[("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert_eq!(usual.0.traces.export.unwrap().endpoint, "http://localhost:4317");
}

#[test]
fn files_for_tls_are_named_by_variables_and_a_certificate_of_its_own_needs_its_key() {
    let file = "traces: {endpoint: \"https://c:4318\"}";
    let (ca, cert, key) = (
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    );
    let tls = |variables: &[(&str, &str)]| {
        let (telemetry, warnings) = with(file, variables);
        (telemetry.traces.export.unwrap().tls, warnings.len())
    };
    assert_eq!(tls(&[]), (ExportTls::default(), 0));
    let own = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/of-traces.pem");
    let (files, warnings) = tls(&[(ca, "/ca.pem"), own, (cert, "/c.pem"), (key, "/k.pem")]);
    assert_eq!(files.authorities.as_deref(), Some(Path::new("/of-traces.pem")));
    assert_eq!((files.identity, warnings), (Some(("/c.pem".into(), "/k.pem".into())), 0));
    assert_eq!(tls(&[(cert, "/c.pem")]), (ExportTls::default(), 1));
}

#[test]
fn a_variable_that_says_nothing_known_is_told_and_ignored() {
    let (telemetry, warnings) = with(
        "traces: {endpoint: \"http://c:4317\"}",
        &[
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER_ARG", "7"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ],
    );
    assert_eq!(telemetry.traces.sampler, Sampler::default());
    assert_eq!(telemetry.traces.export.unwrap().protocol, Protocol::Http);
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("usually spoken to as `protocol: grpc`")));
}

#[test]
fn what_is_wrong_in_the_file_is_named_and_no_header_is_quoted() {
    let told =
        |telemetry: &str| problems(&format!("{BACKEND}telemetry: {{{telemetry}}}\n"), &empty).join("\n");
    for (wrong, expected) in [
        ("traces: {endpoint: \"collector:4318\"}", "telemetry.traces.endpoint: must be an address"),
        ("traces: {endpoint: \"http://u:p@c\"}", "telemetry.traces.endpoint: holds a user or password"),
        ("traces: {headers: \"hush\"}", "telemetry.traces.headers: must be `name=value"),
        ("traces: {ratio: 2}", "telemetry.traces.ratio: must be from 0 to 1"),
        ("traces: {sampler: some}", "telemetry.traces.sampler: unknown sampler `some`"),
        ("traces: {queueSpans: 3}", "telemetry.traces.queueSpans: must be at least 64"),
        ("traces: {propagate: most}", "telemetry.traces.propagate: expected `all`"),
        ("traces: {protocol: http}", "telemetry.traces.protocol: expected `http/protobuf` or `grpc`"),
        ("logFormat: xml", "telemetry.logFormat: expected `human` or `json`"),
    ] {
        let told = told(wrong);
        assert!(told.contains(expected), "{wrong}: {told}");
        assert!(!told.contains("hush"), "{told}");
    }
}
