//! Addresses to listen on and to send to.

use super::Check;
use crate::config::path::Path;
use reqwest::Url;
use std::net::{IpAddr, SocketAddr};

impl Check<'_> {
    /// An `address:port`.
    pub(super) fn address(&mut self, at: &Path, text: Option<String>) -> Option<SocketAddr> {
        let text = text?;
        let address = text.parse().ok();
        if address.is_none() {
            self.findings.problem(
                at,
                format!("expected an IP address and a port such as `127.0.0.1:9090`, found `{text}`"),
            );
        }
        address
    }

    /// The base of an upstream's address, without a final slash and version.
    pub(super) fn base_url(&mut self, at: &Path, text: &str, schemes: &[&str]) -> Option<String> {
        match base_url(text, schemes) {
            Ok(base) => Some(base),
            Err(message) => {
                self.findings.problem(at, message);
                None
            }
        }
    }
}

/// Checks an upstream's address and cuts it down to what wire paths such as `/v1/models` are added to.
fn base_url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let expected = || format!("expected an address such as `{}://host:8080`, found `{text}`", schemes[0]);
    // Credentials in the text must not be printed.
    if text.contains('@') {
        return Err("an address may not hold a user or password (use the keys for secrets)".to_owned());
    }
    let url = Url::parse(text).map_err(|_| expected())?;
    if !schemes.contains(&url.scheme()) {
        return Err(expected());
    }
    if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        return Err(expected());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("an address may not hold `?` or `#` (only scheme, host, port and path)".to_owned());
    }
    let base = url.as_str().trim_end_matches('/');
    let base = ["/v1", "/v1beta"].iter().find_map(|version| base.strip_suffix(version)).unwrap_or(base);
    Ok(base.trim_end_matches('/').to_owned())
}

/// Whether an address is this machine's own, so that nothing sent there crosses a network.
pub(super) fn is_loopback_url(base: &str) -> bool {
    Url::parse(base).is_ok_and(|url| url.host_str().is_some_and(is_loopback_host))
}

pub(super) fn is_loopback_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_loses_its_version_and_final_slashes() {
        for (text, base) in [
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
            ("https://api.openai.com/v1", "https://api.openai.com"),
            ("https://api.openai.com/v1/", "https://api.openai.com"),
            ("https://generativelanguage.googleapis.com/v1beta", "https://generativelanguage.googleapis.com"),
            ("https://openrouter.ai/api/v1", "https://openrouter.ai/api"),
            ("http://[::1]:8080/", "http://[::1]:8080"),
            ("https://host/v12", "https://host/v12"),
        ] {
            assert_eq!(base_url(text, &["http", "https"]).as_deref(), Ok(base), "{text}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_asked() {
        for text in [
            "",
            "host:8080",
            "ftp://host",
            "http://",
            "http://host:0",
            "http://host/?key=1",
            "http://host/#a",
            "http://host:99999",
            "unix:/socket",
            "mock://cluster",
        ] {
            assert!(base_url(text, &["http", "https"]).is_err(), "{text}");
        }
        let refusal = base_url("http://user:hunter2@host", &["http"]).unwrap_err();
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }

    #[test]
    fn knows_its_own_machine() {
        for (url, own) in [
            ("http://localhost:1", true),
            ("http://127.8.0.1", true),
            ("http://[::1]:8", true),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback_url(url), own, "{url}");
        }
    }
}
