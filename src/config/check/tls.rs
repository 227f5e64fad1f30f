//! The section `tls` of a listener.

use super::Check;
use crate::config::file::TlsFile;
use crate::config::path::Path;
use crate::tls::{ClientAuth, TlsFiles};

impl Check<'_> {
    /// The files are read when the listener is opened: they need not be on the machine that checks.
    pub(super) fn tls(&mut self, at: &Path, file: Option<TlsFile>) -> Option<TlsFiles> {
        let file = file?;
        let mut path = |key: &str, value: Option<String>, example: &str| {
            let value = self.required(&at.key(key), value.filter(|path| !path.is_empty()), example)?;
            Some(self.file_path(&value))
        };
        let cert = path("certFile", file.cert_file, "certs/server.pem");
        let key = path("keyFile", file.key_file, "certs/server.key");
        let client_ca = file.client_ca_file.filter(|path| !path.is_empty()).map(|path| self.file_path(&path));
        let auth_at = at.key("clientAuth");
        let client_auth = match file.client_auth.as_deref() {
            None if client_ca.is_some() => ClientAuth::Required,
            None => ClientAuth::None,
            Some(word) => {
                let words = [
                    ("none", ClientAuth::None),
                    ("optional", ClientAuth::Optional),
                    ("required", ClientAuth::Required),
                ];
                self.one_of(&auth_at, "clientAuth", word, words)
            }
        };
        match (client_auth, &client_ca) {
            (ClientAuth::None, Some(_)) => {
                self.findings.warning(&at.key("clientCaFile"), "not used: `clientAuth` is `none`");
            }
            (ClientAuth::Optional | ClientAuth::Required, None) => self.findings.problem(
                &at.key("clientCaFile"),
                "missing: `clientAuth` needs the authorities that clients' certificates come from (for example `certs/clients-ca.pem`)",
            ),
            _ => {}
        }
        Some(TlsFiles { cert: cert?, key: key?, client_ca, client_auth })
    }
}
