//! The section `sidecar`.

use super::{Check, LOCAL, OVERHEAD_FACTOR_DEFAULT};
use crate::config::file::SidecarFile;
use crate::config::path::Path;
use crate::config::settings::SidecarConfig;
use std::time::Duration;

/// Below the 30 s Kubernetes gives by default.
const DRAIN_DEFAULT: Duration = Duration::from_secs(25);

impl Check<'_> {
    pub(super) fn sidecar(&mut self, file: Option<SidecarFile>) -> Option<SidecarConfig> {
        let at = Path::default().key("sidecar");
        let file = self.required(&at, file, "sidecar: {listen: …, upstream: …}")?;
        let listen = self.required(&at.key("listen"), file.listen, "0.0.0.0:8080");
        let listen = self.address(&at.key("listen"), listen);
        let upstream = self.required(&at.key("upstream"), file.upstream, "http://127.0.0.1:8081");
        let upstream =
            upstream.and_then(|text| self.base_url(&at.key("upstream"), &text, &["http", "https"]));
        let cost_per_hour = self.required(&at.key("costPerHour"), file.cost_per_hour, "0.0928");
        let cost_per_hour = self.dollars(&at.key("costPerHour"), cost_per_hour);

        let secret_at = at.key("sharedSecret");
        let secret = self.secret(&secret_at, file.shared_secret);
        let auth = match file.auth_type.as_deref() {
            Some("hmac") => self.needed_by("authType: hmac", &secret_at, secret, "${LLM_SHARED_SECRET}"),
            Some("none") => {
                if secret.is_some() {
                    self.findings.warning(&secret_at, "not used: `authType` is `none`");
                }
                None
            }
            Some("mtls") => {
                self.findings.problem(
                    &at.key("authType"),
                    "the sidecar cannot verify `mtls` in this version (use `hmac`)",
                );
                None
            }
            Some(word) => {
                self.findings
                    .problem(&at.key("authType"), format!("expected `hmac` or `none`, found `{word}`"));
                None
            }
            None => secret,
        };
        if auth.is_none() && listen.is_some_and(|listen| !listen.ip().is_loopback()) {
            self.findings.warning(
                &at.key("listen"),
                "whoever reaches this address may use the machine: no `sharedSecret` is demanded",
            );
        }

        let default_name = self.host_name();
        let name = self.name_or(&at.key("name"), file.name, &default_name);
        let provider = self.name_or(&at.key("provider"), file.provider, LOCAL);
        let region = self.name_or(&at.key("region"), file.region, LOCAL);
        let overhead_factor =
            self.factor(&at.key("overheadFactor"), file.overhead_factor, OVERHEAD_FACTOR_DEFAULT);
        let upstream_api_key = self.secret(&at.key("upstreamApiKey"), file.upstream_api_key);
        let max_body_bytes = self.body_bytes(&at.key("maxBodyBytes"), file.max_body_bytes);
        let drain_timeout =
            self.duration(&at.key("drainTimeout"), file.drain_timeout, DRAIN_DEFAULT, Duration::ZERO);
        Some(SidecarConfig {
            listen: listen?,
            upstream: upstream?,
            auth,
            cost_per_hour: cost_per_hour?,
            overhead_factor,
            provider,
            region,
            name,
            upstream_api_key,
            max_body_bytes,
            drain_timeout,
        })
    }
}
