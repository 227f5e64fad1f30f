//! What a backend's TLS is made of: the client certificate shown to it, and whom its own may come from.
//!
//! Owns reading the PEM files and noticing that they changed: certificates are rotated under a running router,
//! by whatever writes its files.

use super::OutboundError;
use crate::config::{Auth, Connection};
use llm_router_logic::ids::BackendId;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The TLS of one backend.
#[derive(Default)]
pub(super) struct Certified {
    pub(super) identity: Option<reqwest::Identity>,
    /// The only authorities its certificate may come from; empty = those the system trusts.
    pub(super) authorities: Vec<reqwest::Certificate>,
}

/// What tells one version of a file from the next: a change of the file, or of the link that leads to it.
pub(super) type Stamp = Vec<Option<(PathBuf, SystemTime, u64)>>;

/// Whether `connection` has a TLS of its own, so that it shares its connections with no other.
pub(super) fn is_own(connection: &Connection) -> bool {
    connection.ca.is_some() || matches!(connection.auth, Auth::Mtls { .. })
}

/// What the files of `connection` look like now.
pub(super) fn stamp(connection: &Connection) -> Stamp {
    let seen = |path: &Path| {
        let target = std::fs::canonicalize(path).ok()?;
        let told = std::fs::metadata(&target).ok()?;
        Some((target, told.modified().ok()?, told.len()))
    };
    let mut files: Vec<&Path> = connection.ca.iter().map(PathBuf::as_path).collect();
    if let Auth::Mtls { cert, key } = &connection.auth {
        files.extend([cert.as_path(), key.as_path()]);
    }
    files.into_iter().map(seen).collect()
}

/// Reads the files of `connection`.
pub(super) fn read(backend: &BackendId, connection: &Connection) -> Result<Certified, OutboundError> {
    let failed = |file: &Path, why: String| OutboundError::Identity {
        backend: backend.clone(),
        file: file.display().to_string(),
        why,
    };
    let bytes = |path: &Path| std::fs::read(path).map_err(|error| failed(path, error.to_string()));
    let identity = match &connection.auth {
        Auth::Mtls { cert, key } => {
            let mut pem = bytes(cert)?;
            pem.push(b'\n');
            pem.extend(bytes(key)?);
            Some(reqwest::Identity::from_pem(&pem).map_err(|error| failed(cert, error.to_string()))?)
        }
        _ => None,
    };
    let authorities = match &connection.ca {
        Some(path) => {
            let found = reqwest::Certificate::from_pem_bundle(&bytes(path)?)
                .map_err(|error| failed(path, error.to_string()))?;
            if found.is_empty() {
                return Err(failed(path, "it has no certificate".to_owned()));
            }
            found
        }
        None => Vec::new(),
    };
    Ok(Certified { identity, authorities })
}
