//! `llm-router certs`: a cluster's own certificate authority and the identities of its nodes.
//!
//! Owns writing the PEM files: `ca.pem` and `ca.key` of the authority, `NODE.pem` and `NODE.key` of a
//! node. A private key can be read by its owner alone. An authority is never overwritten; a node's files
//! are, since that is how its certificate is renewed, each in one step so that no half file is ever seen.

use crate::identity::{Contents, Identity, IdentityError, IdentityFiles, NodeName};
use llm_router_logic::ids::NodeId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Days an authority holds.
const CA_DAYS: u32 = 3650;
/// Days a node's certificate holds where nothing else is asked for.
pub const NODE_DAYS: u32 = 90;
/// A new certificate holds from this long ago, for clocks that run behind.
const BACKDATED: Duration = Duration::from_secs(5 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest name of a cluster or node, as in the configuration.
const NAME_CHARS_MAX: usize = 64;
/// Stands for the node in the URI of an authority, which is none.
const AUTHORITY: &str = "authority";
/// A private key: its owner's alone.
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// An authority is there already.
    #[error("`{0}` exists: an authority is never overwritten (take another `--dir`, or remove it by hand)")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {0} `{1}`: {2}")]
    File(&'static str, PathBuf, std::io::Error),
    /// A name that cannot stand in a certificate.
    #[error("`{0}` is no name: 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_` and `.` are")]
    Name(String),
    /// A DNS name that is none.
    #[error("`{0}` is no DNS name")]
    Dns(String),
    /// A certificate that would never hold.
    #[error("`--days` must be from 1 to {CA_DAYS}")]
    Days,
    /// The directory holds no authority of ours.
    #[error("`{0}` is no authority of `llm-router certs init`: {1}")]
    Authority(PathBuf, String),
    /// The certificate cannot be made.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The certificate was made but would not hold.
    #[error("the new certificate cannot be used: {0}")]
    Unusable(#[from] IdentityError),
}

/// What to issue.
#[derive(Clone, Debug)]
pub struct Request {
    /// The node.
    pub node: String,
    /// How long the certificate holds, from now.
    pub valid: Duration,
    /// DNS names besides `NODE.CLUSTER.llm-router`.
    pub dns: Vec<String>,
    /// Addresses.
    pub ip: Vec<IpAddr>,
}

/// An authority that was made or read.
pub struct Authority {
    cluster: String,
    certificate: String,
    key: String,
}

/// A certificate with its key, as PEM.
pub struct Issued {
    /// Certificate.
    pub cert: String,
    /// Private key.
    pub key: String,
}

impl Authority {
    /// Makes the authority of a cluster.
    ///
    /// # Errors
    /// A bad name, or no randomness.
    pub fn new(cluster: &str) -> Result<Self, CertsError> {
        let key = KeyPair::generate()?;
        let params = authority_params(cluster)?;
        Ok(Self {
            cluster: cluster.to_owned(),
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Reads the authority in `directory`.
    ///
    /// # Errors
    /// Where there is none, or one that [`init`] did not make.
    pub fn read(directory: &Path) -> Result<Self, CertsError> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(|error| CertsError::File("read", path, error))
        };
        let (certificate, key) = (read("ca.pem")?, read("ca.key")?);
        let strange = |why: String| CertsError::Authority(directory.join("ca.pem"), why);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| strange(error.to_string()))?;
        match NodeName::of_certificate(&der) {
            Some(NodeName { cluster, node }) if node.as_str() == AUTHORITY => {
                Ok(Self { cluster, certificate, key })
            }
            _ => Err(strange("it names no cluster".to_owned())),
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The authority's certificate, as PEM.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// Issues an identity of a node of this cluster.
    ///
    /// # Errors
    /// Bad names, or an authority whose key does not fit.
    pub fn issue(&self, request: &Request) -> Result<Issued, CertsError> {
        let now = SystemTime::now();
        self.issue_between(request, &self.cluster, now - BACKDATED, now + request.valid)
    }

    /// Issues a certificate for any cluster and time, to prove what is refused.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_between(
        &self,
        request: &Request,
        cluster: &str,
        from: SystemTime,
        to: SystemTime,
    ) -> Result<Issued, CertsError> {
        let name = NodeName { cluster: named(cluster)?.to_owned(), node: NodeId::new(named(&request.node)?) };
        let own = format!("{}.{cluster}.llm-router", request.node);
        let mut sans = vec![SanType::URI(ia5(&name.uri())?)];
        // A name such as `a_b` can be a node's and not a host's: the URI is what counts.
        if is_dns_name(&own) {
            sans.push(SanType::DnsName(ia5(&own)?));
        }
        for dns in &request.dns {
            if !is_dns_name(dns) {
                return Err(CertsError::Dns(dns.clone()));
            }
            sans.push(SanType::DnsName(ia5(dns)?));
        }
        sans.extend(request.ip.iter().copied().map(SanType::IpAddress));
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, request.node.as_str());
        params.subject_alt_names = sans;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = from.into();
        params.not_after = to.into();
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(authority_params(&self.cluster)?, KeyPair::from_pem(&self.key)?);
        Ok(Issued { cert: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// `certs init`: makes a cluster's authority in `directory`.
///
/// # Errors
/// [`CertsError`]; an authority that is there already stays.
pub fn init(directory: &Path, cluster: &str) -> Result<[PathBuf; 2], CertsError> {
    let paths = [directory.join("ca.pem"), directory.join("ca.key")];
    if let Some(there) = paths.iter().find(|path| path.exists()) {
        return Err(CertsError::Exists(there.clone()));
    }
    let authority = Authority::new(cluster)?;
    std::fs::create_dir_all(directory)
        .map_err(|error| CertsError::File("create", directory.to_owned(), error))?;
    // The key first: a certificate without its key would be of no use.
    create(&paths[1], &authority.key, PRIVATE)?;
    create(&paths[0], &authority.certificate, PUBLIC)?;
    Ok(paths)
}

/// `certs issue`: issues a node's certificate by the authority in `directory`, into `out`.
///
/// # Errors
/// [`CertsError`]; files that were there stay as they were then.
pub fn issue(directory: &Path, request: &Request, out: &Path) -> Result<IdentityFiles, CertsError> {
    if request.valid < DAY || request.valid > DAY * CA_DAYS {
        return Err(CertsError::Days);
    }
    let authority = Authority::read(directory)?;
    let issued = authority.issue(request)?;
    std::fs::create_dir_all(out).map_err(|error| CertsError::File("create", out.to_owned(), error))?;
    let files = IdentityFiles {
        cert: out.join(format!("{}.pem", request.node)),
        key: out.join(format!("{}.key", request.node)),
        ca: out.join("ca.pem"),
    };
    replace(&files.key, &issued.key, PRIVATE)?;
    replace(&files.cert, &issued.cert, PUBLIC)?;
    // A bundle of authorities that is there stays: it may hold more than ours.
    if !files.ca.exists() {
        replace(&files.ca, &authority.certificate, PUBLIC)?;
    }
    // Found out here and not by the node: a bundle that lacks this authority, a key that is not its own.
    let name = NodeName { cluster: authority.cluster, node: NodeId::new(&*request.node) };
    Identity::new(&Contents::read(&files)?, &name)?;
    Ok(files)
}

/// The length of `days`.
pub fn days(days: u32) -> Duration {
    DAY * days
}

/// The same parameters make the authority and, later, sign for it: its subject must not change.
fn authority_params(cluster: &str) -> Result<CertificateParams, CertsError> {
    let name = NodeName { cluster: named(cluster)?.to_owned(), node: NodeId::new(AUTHORITY) };
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{cluster} llm-router authority"));
    params.subject_alt_names = vec![SanType::URI(ia5(&name.uri())?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * CA_DAYS).into();
    Ok(params)
}

fn named(name: &str) -> Result<&str, CertsError> {
    let good = (1..=NAME_CHARS_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if good { Ok(name) } else { Err(CertsError::Name(name.to_owned())) }
}

fn is_dns_name(text: &str) -> bool {
    DnsName::try_from(text).is_ok()
}

fn ia5(text: &str) -> Result<Ia5String, CertsError> {
    Ia5String::try_from(text).map_err(CertsError::Make)
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    write(path, file, text)
}

/// Writes beside the file and renames over it: a reader sees the old one or the new one.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    create(&beside, text, mode)?;
    std::fs::rename(&beside, path).map_err(|error| CertsError::File("write", path.to_owned(), error))
}

fn write(path: &Path, file: std::io::Result<File>, text: &str) -> Result<(), CertsError> {
    let failed = |error| CertsError::File("write", path.to_owned(), error);
    let mut file = file.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
#[path = "certs/certs_test.rs"]
mod tests;
