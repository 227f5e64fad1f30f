//! TLS 1.3 on the doors of this program: the API listener, the admin listener and the sidecar's.
//!
//! Owns reading and judging the PEM files, the settings in force, the handshakes under way and the renewal of
//! certificates while the program runs: a new one holds for the next connection, those in use go on with
//! theirs. Never decides what a client may do; the relay and the gossip between routers have their own doors,
//! which demand certificates of the cluster ([`crate::identity`]).

mod validity;

use arc_swap::ArcSwap;
use prometheus::IntGauge;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use validity::validity;

/// Longest handshake, the wait for a place included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once on one listener; further ones wait. Each holds some 20 kB.
const HANDSHAKES_MAX: usize = 512;
/// How often the files are read again. (Looking at what they hold finds every way of changing them, symbolic
/// links switched by Kubernetes included.)
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// First byte of every TLS connection: a handshake record (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;
/// What whoever speaks plain HTTP here is told.
const NOT_TLS: &str = "{\"error\":{\"message\":\"this listener speaks TLS: use `https://`\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"tls_required\"}}";

/// The PEM files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The listener's certificate, then any between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of the authorities clients may come from.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show one.
    pub client_auth: ClientAuth,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// It is not asked for one.
    #[default]
    None,
    /// It is asked, and may have none; one that does not hold is refused.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// Why a listener cannot speak TLS as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{0}`: {1}")]
    Read(PathBuf, std::io::Error),
    /// A file holds no usable PEM.
    #[error("`{0}` holds no usable PEM: {1}")]
    Pem(PathBuf, String),
    /// The certificate is not in force.
    #[error("the certificate in `{0}` {1}")]
    Time(PathBuf, &'static str),
    /// Certificate and key are not a pair, or cannot be used by TLS.
    #[error("certificate `{0}` and its key cannot be used: {1}")]
    Key(PathBuf, rustls::Error),
}

/// Whom a listener tells of its certificate and of refused handshakes.
pub struct Signals {
    /// Unix time at which the certificate in force ends.
    pub expires: IntGauge,
    /// Counts a refused handshake by its reason.
    pub refused: Box<dyn Fn(&str) + Send + Sync>,
}

/// A client that showed a certificate which holds; among the extensions of each of its requests.
#[derive(Clone, Debug)]
pub struct Certified {
    /// Serial number of its certificate in hex.
    pub serial: String,
}

/// The TLS side of one listener.
pub struct Acceptor {
    config: ArcSwap<ServerConfig>,
    handshakes: Semaphore,
    signals: Signals,
}

/// What the files held when they were read.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Settings made of files, and what is told of them.
struct Loaded {
    config: ServerConfig,
    serial: String,
    expires: i64,
}

impl Acceptor {
    /// Reads `files` and goes on reading them until `stop`; `listener` is the word logs know it by.
    ///
    /// # Errors
    /// [`TlsError`] where they cannot be used.
    pub fn start(
        listener: &'static str,
        files: TlsFiles,
        signals: Signals,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, TlsError> {
        let contents = Contents::read(&files)?;
        let loaded = load(&files, &contents)?;
        tracing::info!(listener, serial = loaded.serial, "TLS");
        signals.expires.set(loaded.expires);
        let acceptor = Arc::new(Self {
            config: ArcSwap::from_pointee(loaded.config),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            signals,
        });
        let watched = Arc::clone(&acceptor);
        tokio::spawn(async move {
            stop.run_until_cancelled(watched.watch(listener, files, contents)).await;
        });
        Ok(acceptor)
    }

    /// The handshake with a client; `None` where there is none to be had, which is counted.
    pub async fn accept(&self, mut stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
            // Nothing of the client is looked at, and nothing made for it, before its turn.
            let _place = self.handshakes.acquire().await.ok();
            if !begins_tls(&stream).await? {
                answer_plainly(&mut stream).await;
                return Err(std::io::Error::other(rustls::Error::InappropriateMessage {
                    expect_types: Vec::new(),
                    got_type: rustls::ContentType::ApplicationData,
                }));
            }
            TlsAcceptor::from(self.config.load_full()).accept(stream).await
        });
        match shaken.await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                let why = refusal(&error);
                tracing::debug!(%error, why, "refused a TLS client");
                (self.signals.refused)(why);
                None
            }
            Err(_) => {
                (self.signals.refused)("timeout");
                None
            }
        }
    }

    /// Puts changed files into force. Bad ones change nothing and are said once; they may be files of which only
    /// a part is written yet.
    async fn watch(&self, listener: &'static str, files: TlsFiles, mut in_force: Contents) {
        let mut told = None;
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let (from, current) = (files.clone(), in_force.clone());
            let changed = tokio::task::spawn_blocking(move || match Contents::read(&from) {
                Ok(contents) if contents == current => None,
                Ok(contents) => Some(load(&from, &contents).map(|loaded| (contents, loaded))),
                Err(error) => Some(Err(error)),
            });
            match changed.await {
                Ok(None) | Err(_) => told = None,
                Ok(Some(Ok((contents, loaded)))) => {
                    self.signals.expires.set(loaded.expires);
                    tracing::info!(listener, serial = loaded.serial, "the new TLS certificate is in force");
                    self.config.store(Arc::new(loaded.config));
                    (in_force, told) = (contents, None);
                }
                Ok(Some(Err(error))) => {
                    let why = error.to_string();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(
                            listener,
                            why,
                            "the new TLS certificate cannot be used, the one in force stays"
                        );
                        (self.signals.refused)("certificate_reload");
                        told = Some(why);
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// Whom the handshake proved the client to be; `None` where it showed no certificate.
pub fn certified(stream: &TlsStream<TcpStream>) -> Option<Certified> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    Some(Certified { serial: crate::identity::serial(certificate) })
}

/// The metric label of a handshake that failed.
pub fn refusal(error: &std::io::Error) -> &'static str {
    use rustls::{CertificateError, Error};
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::NoCertificatesPresented) => "certificate_missing",
        Some(Error::InappropriateMessage { expect_types, .. }) if expect_types.is_empty() => "not_tls",
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => "certificate_foreign",
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => "certificate_expired",
            CertificateError::ApplicationVerificationFailure => "certificate_cluster",
            _ => "certificate_invalid",
        },
        _ => "handshake",
    }
}

async fn begins_tls(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == HANDSHAKE_RECORD),
    }
}

/// A person with `http://` in their file reads why, instead of seeing a connection that breaks.
async fn answer_plainly(stream: &mut TcpStream) {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{NOT_TLS}",
        NOT_TLS.len()
    );
    // Whether it arrives is the client's affair.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    // What it sent is taken off, or the system would take the answer back with a reset.
    let mut sink = [0; 1024];
    for _ in 0..64 {
        if !matches!(stream.try_read(&mut sink), Ok(read) if read > 0) {
            break;
        }
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            crate::identity::read(path).map_err(|error| match error {
                crate::identity::IdentityError::Read(path, error) => TlsError::Read(path, error),
                other => TlsError::Pem(path.to_owned(), other.to_string()),
            })
        };
        let asks = files.client_auth != ClientAuth::None;
        let client_ca = files.client_ca.as_deref().filter(|_| asks).map(read).transpose()?;
        Ok(Self { cert: read(&files.cert)?, key: read(&files.key)?, client_ca })
    }
}

fn load(files: &TlsFiles, contents: &Contents) -> Result<Loaded, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.cert, &contents.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|error| TlsError::Pem(files.key.clone(), error.to_string()))?;
    let serial = crate::identity::serial(&chain[0]);
    let (begins, ends) = validity(&chain[0])
        .ok_or_else(|| TlsError::Pem(files.cert.clone(), "its time of validity cannot be read".to_owned()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if now > ends {
        return Err(TlsError::Time(files.cert.clone(), "has expired: renew it"));
    }
    if now < begins {
        return Err(TlsError::Time(files.cert.clone(), "is not valid yet: compare this machine's clock"));
    }
    let unusable = |error| TlsError::Key(files.cert.clone(), error);
    let key = Arc::new(CertifiedKey::from_der(chain, key, &provider).map_err(unusable)?);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?;
    let builder = match (&files.client_ca, &contents.client_ca) {
        (Some(path), Some(pem)) => {
            let failed = |why: String| TlsError::Pem(path.clone(), why);
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, pem)? {
                roots.add(authority).map_err(|error| failed(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match files.client_auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| failed(error.to_string()))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if files.client_auth != ClientAuth::None {
        // A resumed session would not look at the client's certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Loaded { config, serial, expires: ends })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError::Pem(path.to_owned(), "it has no certificate".to_owned())),
        Err(error) => Err(TlsError::Pem(path.to_owned(), error.to_string())),
    }
}
