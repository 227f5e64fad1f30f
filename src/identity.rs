//! Who a node is, proven by a certificate of its cluster's authority.
//!
//! One certificate serves all traffic between routers. It names its node in a URI SAN,
//! `llm-router://CLUSTER/NODE`: that holds whatever address the node is reached at. Owns reading the PEM
//! files, judging them and the TLS settings made of them. Never opens a connection and never writes a
//! file (`certs` does).

mod verify;

use llm_router_logic::ids::NodeId;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, client, server, version};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use verify::ClusterVerifier;

/// Scheme of the URI a certificate names its node by.
const SCHEME: &str = "llm-router://";
/// Largest PEM file read.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// The last second of the year 9999, RFC 5280's word for a certificate that has no end.
const FAR_FUTURE: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(253_402_300_799));

/// The PEM files of a node's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The node's certificate, then any between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of the authorities a peer may come from; two while one replaces the other.
    pub ca: PathBuf,
}

/// A node of a cluster, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
}

/// What the files held when they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// A usable identity: the certificate is in force, is this node's, and fits its key and its authority.
pub struct Identity {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    verifier: Arc<ClusterVerifier>,
    serial: String,
    expires: UnixTime,
}

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read `{0}`: {1}")]
    Read(PathBuf, std::io::Error),
    /// A file is too large to be what it should be.
    #[error("`{0}` is larger than {FILE_BYTES_MAX} bytes: is it a PEM file?")]
    TooLarge(PathBuf),
    /// A file holds no usable PEM.
    #[error("the {0} file holds no usable PEM: {1}")]
    Pem(&'static str, String),
    /// The certificate does not name a node.
    #[error(
        "the certificate names no node: its URI SAN must be one `llm-router://CLUSTER/NODE` (make it with `llm-router certs issue`)"
    )]
    Unnamed,
    /// The certificate is another node's.
    #[error("the certificate is of node `{}` in cluster `{}`, not of node `{}` in cluster `{}` (see `node.name` and `gossip.clusterId`)", .found.node, .found.cluster, .expected.node, .expected.cluster)]
    Another {
        /// Whom it names.
        found: NodeName,
        /// Whom it should name.
        expected: NodeName,
    },
    /// The certificate would be refused by every peer.
    #[error("the certificate does not hold: {0}")]
    Invalid(rustls::Error),
    /// Certificate and key are not a pair, or cannot be used by TLS.
    #[error("certificate and key cannot be used: {0}")]
    Key(rustls::Error),
}

impl NodeName {
    /// The URI that stands in a certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}", self.cluster, self.node)
    }

    /// Whom a certificate names. `None` where it names nobody, or more than one: no guess is made.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        let mut names = certificate.valid_uri_names().filter_map(|uri| uri.strip_prefix(SCHEME));
        let (cluster, node) = names.next()?.split_once('/')?;
        let only = names.next().is_none() && !cluster.is_empty() && !node.is_empty() && !node.contains('/');
        only.then(|| Self { cluster: cluster.to_owned(), node: NodeId::new(node) })
    }
}

impl Contents {
    /// Reads the files.
    ///
    /// # Errors
    /// Where one cannot be read or is too large.
    pub fn read(files: &IdentityFiles) -> Result<Self, IdentityError> {
        Ok(Self { cert: read(&files.cert)?, key: read(&files.key)?, ca: read(&files.ca)? })
    }
}

impl Identity {
    /// Judges what was read as the identity of `expected`, now.
    ///
    /// # Errors
    /// [`IdentityError`] where a peer would refuse it, or where it is another node's.
    pub fn new(contents: &Contents, expected: &NodeName) -> Result<Self, IdentityError> {
        let chain = certificates("cert", &contents.cert)?;
        let authorities = certificates("ca", &contents.ca)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| IdentityError::Pem("key", error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| IdentityError::Pem("ca", error.to_string()))?;
        }
        let found = NodeName::of_certificate(&chain[0]).ok_or(IdentityError::Unnamed)?;
        if found != *expected {
            return Err(IdentityError::Another { found, expected: expected.clone() });
        }
        let serial = serial(&chain[0]);
        let verifier = Arc::new(ClusterVerifier::new(expected.cluster.clone(), roots, &provider)?);
        // What peers will do, both where this node calls them and where they call it.
        let now = UnixTime::now();
        verifier.verify_as_client(&chain[0], &chain[1..], now).map_err(IdentityError::Invalid)?;
        verifier.verify_as_server(&chain[0], &chain[1..], now).map_err(IdentityError::Invalid)?;
        let expires = verifier.expiry(&chain[0], &chain[1..]).unwrap_or(FAR_FUTURE);
        let key = Arc::new(CertifiedKey::from_der(chain, key, &provider).map_err(IdentityError::Key)?);
        Ok(Self { provider, key, verifier, serial, expires })
    }

    /// When the certificate ends.
    pub fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The certificate's serial number in hex, to tell identities apart.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// TLS settings for taking calls: TLS 1.3, a certificate of the cluster demanded of the caller, no
    /// resumption (a resumed session would not look at the certificate again).
    ///
    /// # Errors
    /// Where TLS 1.3 cannot be had.
    pub fn server_config(&self, alpn: &[u8]) -> Result<ServerConfig, IdentityError> {
        let verifier = Arc::clone(&self.verifier);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(IdentityError::Key)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.session_storage = Arc::new(server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// TLS settings for calling a peer: as [`Self::server_config`], from the other side. The name called
    /// is not looked at, since a node is known by its certificate's URI and not by its address.
    ///
    /// # Errors
    /// Where TLS 1.3 cannot be had.
    pub fn client_config(&self, alpn: &[u8]) -> Result<ClientConfig, IdentityError> {
        let verifier = Arc::clone(&self.verifier);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(IdentityError::Key)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = client::Resumption::disabled();
        Ok(config)
    }
}

/// A certificate's serial number in hex; empty where it is no certificate.
pub fn serial(certificate: &CertificateDer<'_>) -> String {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return String::new();
    };
    certificate.serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(IdentityError::Pem(what, "it has no certificate".to_owned())),
        Err(error) => Err(IdentityError::Pem(what, error.to_string())),
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |error| IdentityError::Read(path.to_owned(), error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(IdentityError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}
