//! The section `tls` of a listener.

use schemars::JsonSchema;
use serde::Deserialize;

/// TLS of a listener; without this section it speaks plain HTTP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct TlsFile {
    /// PEM file of the listener's certificate and any between it and its authority, relative to this file's
    /// directory. Read again every two seconds. Required.
    pub cert_file: Option<String>,
    /// PEM file of the certificate's key, relative to this file's directory. Required.
    pub key_file: Option<String>,
    /// PEM file of the authorities whose certificates clients may show.
    pub client_ca_file: Option<String>,
    /// Whether clients must show a certificate: `none`, `optional` (one that does not hold is refused) or
    /// `required`. Default: `required` where there is a `clientCaFile`, else `none`.
    #[schemars(extend("enum" = ["none", "optional", "required", null]))]
    pub client_auth: Option<String>,
}
