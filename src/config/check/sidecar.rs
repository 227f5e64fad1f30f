//! The section `sidecar`.

use super::{Check, LOCAL, OVERHEAD_FACTOR_DEFAULT};
use crate::config::file::SidecarFile;
use crate::config::path::Path;
use crate::config::settings::{HmacKey, SidecarAuth, SidecarConfig};
use crate::tls::ClientAuth;
use llm_router_logic::sign;
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

        let tls = self.tls(&at.key("tls"), file.tls);
        let secret_at = at.key("sharedSecret");
        let secret = self.secret(&secret_at, file.shared_secret);
        let previous = self.secret(&at.key("previousSecret"), file.previous_secret);
        let key_id = self.key_id(&at.key("keyId"), file.key_id);
        let previous_id = self.key_id(&at.key("previousKeyId"), file.previous_key_id);
        let word = file.auth_type.as_deref().unwrap_or(if secret.is_some() { "hmac" } else { "none" });
        if secret.is_some() && matches!(word, "none" | "mtls") {
            self.findings.warning(&secret_at, format!("not used: `authType` is `{word}`"));
        }
        let auth = match word {
            "hmac" | "hmac_v2" => {
                let needs = if word == "hmac" { "authType: hmac" } else { "authType: hmac_v2" };
                let secret = self.needed_by(needs, &secret_at, secret, "${LLM_SHARED_SECRET}");
                let mut keys: Vec<_> =
                    secret.into_iter().map(|secret| HmacKey::new(key_id.clone(), secret)).collect();
                keys.extend(previous.map(|secret| HmacKey::new(previous_id, secret)));
                if let [now, before] = &keys[..]
                    && now.id == before.id
                {
                    self.findings.problem(
                        &at.key("previousKeyId"),
                        format!("`{}` is the name of `sharedSecret` too (give each secret its own)", now.id),
                    );
                }
                SidecarAuth::Hmac { v1: word == "hmac", keys }
            }
            "none" => SidecarAuth::None,
            "mtls" => {
                if tls.as_ref().is_none_or(|tls| tls.client_auth == ClientAuth::None) {
                    self.findings.problem(
                        &at.key("authType"),
                        "`mtls` needs `tls.clientCaFile`: the authorities routers' certificates come from",
                    );
                }
                SidecarAuth::Certificate
            }
            word => {
                self.findings.problem(
                    &at.key("authType"),
                    format!("expected `hmac`, `hmac_v2`, `mtls` or `none`, found `{word}`"),
                );
                SidecarAuth::None
            }
        };
        if matches!(auth, SidecarAuth::None)
            && tls.as_ref().is_none_or(|tls| tls.client_auth != ClientAuth::Required)
            && listen.is_some_and(|listen| !listen.ip().is_loopback())
        {
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
            tls,
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

    /// A name for a secret, as it may stand in a header.
    pub(super) fn key_id(&mut self, at: &Path, id: Option<String>) -> Option<String> {
        let id = id?;
        if !sign::v2::is_key_id(&id) {
            self.findings
                .problem(at, format!("expected 1 to 64 letters, digits, `-`, `_` and `.`, found `{id}`"));
        }
        Some(id)
    }
}
