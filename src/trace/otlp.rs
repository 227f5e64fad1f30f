//! OTLP over gRPC and over HTTP, as the configuration names it.

use crate::config::{Export, ExportTls, Protocol};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Limited};
use llm_router_logic::ids::{NodeId, Region};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use secrecy::ExposeSecret;
use std::collections::HashMap;
use std::path::Path;

/// A collector's answer says next to nothing.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Nothing can be sent to the collector as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The exporter refused its settings.
    #[error("telemetry.traces: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The HTTP client refused its settings.
    #[error("telemetry.traces: cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// A file for TLS cannot be used.
    #[error("telemetry.traces: cannot use `{file}` for TLS towards the collector: {why}")]
    Tls {
        /// Which.
        file: String,
        /// Why.
        why: String,
    },
    /// A header's name or value is none.
    #[error("telemetry.traces.headers: `{0}` cannot be sent as a header")]
    Header(String),
}

/// What sends spans to the collector of `export`.
pub(super) fn exporter(export: &Export, node: &NodeId, region: &Region) -> Result<SpanExporter, OtlpError> {
    let Export { endpoint, timeout, .. } = export;
    let builder = SpanExporter::builder();
    let mut exporter = match export.protocol {
        Protocol::Grpc => {
            let mut headers = HeaderMap::new();
            for (name, value) in &export.headers {
                let bad = |_| OtlpError::Header(name.clone());
                let key =
                    HeaderName::from_bytes(name.as_bytes()).map_err(|_| OtlpError::Header(name.clone()))?;
                let mut value = HeaderValue::from_str(value.expose_secret()).map_err(bad)?;
                value.set_sensitive(true);
                headers.insert(key, value);
            }
            let metadata = MetadataMap::from_headers(headers);
            let builder = builder.with_tonic().with_endpoint(endpoint).with_timeout(*timeout);
            let builder = builder.with_metadata(metadata);
            if endpoint.starts_with("https:") {
                builder.with_tls_config(grpc_tls(&export.tls)?).build()?
            } else {
                builder.build()?
            }
        }
        Protocol::Http => {
            let client = http_tls(reqwest::Client::builder(), &export.tls)?
                .redirect(reqwest::redirect::Policy::none())
                .timeout(*timeout)
                .user_agent(concat!("llm-router/", env!("CARGO_PKG_VERSION")))
                .build()?;
            let headers = export.headers.iter();
            let headers: HashMap<_, _> =
                headers.map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect();
            builder
                .with_http()
                .with_http_client(Client(client))
                .with_endpoint(endpoint)
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_timeout(*timeout)
                .with_headers(headers)
                .build()?
        }
    };
    exporter.set_resource(&resource(export, node, region));
    Ok(exporter)
}

fn grpc_tls(files: &ExportTls) -> Result<ClientTlsConfig, OtlpError> {
    let mut tls = match &files.authorities {
        Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(file)?)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    if let Some((cert, key)) = &files.identity {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(tls)
}

fn http_tls(
    mut builder: reqwest::ClientBuilder,
    files: &ExportTls,
) -> Result<reqwest::ClientBuilder, OtlpError> {
    if let Some(file) = &files.authorities {
        let authorities = reqwest::Certificate::from_pem_bundle(&read(file)?);
        builder = builder.tls_certs_only(authorities.map_err(|error| unusable(file, &error))?);
    }
    if let Some((cert, key)) = &files.identity {
        let mut pem = read(cert)?;
        pem.push(b'\n');
        pem.extend(read(key)?);
        builder =
            builder.identity(reqwest::Identity::from_pem(&pem).map_err(|error| unusable(cert, &error))?);
    }
    Ok(builder)
}

/// A file in PEM.
fn read(file: &Path) -> Result<Vec<u8>, OtlpError> {
    let pem = std::fs::read(file).map_err(|error| unusable(file, &error))?;
    let holds_some = pem.windows(10).any(|bytes| bytes == b"-----BEGIN");
    if holds_some { Ok(pem) } else { Err(unusable(file, &"it holds nothing in PEM")) }
}

fn unusable(file: &Path, why: &dyn std::fmt::Display) -> OtlpError {
    OtlpError::Tls { file: file.display().to_string(), why: why.to_string() }
}

fn resource(export: &Export, node: &NodeId, region: &Region) -> Resource {
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", node.to_string()),
        KeyValue::new("cloud.region", region.to_string()),
    ];
    let given = export.attributes.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    // What is given counts more than what the node says of itself.
    Resource::builder_empty()
        .with_attributes(own)
        .with_attributes(given)
        .with_service_name(export.service_name.clone())
        .build()
}

/// The client every other call of this program uses, too. Its futures need tokio, in which the exporter's task
/// runs.
#[derive(Debug)]
struct Client(reqwest::Client);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = request.map(reqwest::Body::from).try_into()?;
        let answer: Response<reqwest::Body> = self.0.execute(request).await?.into();
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}
