//! TLS: certificates and keys from files in PEM form, and whom to believe. What the REST API, its
//! clients and sessions with PostgreSQL make of that is theirs.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::RootCertStore;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use thiserror::Error;

pub mod verifier;

/// Larger files hold no certificate.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{key}: {path}: cannot be read: {source}")]
    Read { key: &'static str, path: String, source: std::io::Error },
    #[error("{key}: {path}: holds no {what} in PEM form")]
    Empty { key: &'static str, path: String, what: &'static str },
    #[error(
        "{key}: {path}: the private key is encrypted: set {password_key}, and if the file says \
         `Proc-Type`, convert it: openssl pkcs8 -topk8 -in {path}"
    )]
    Encrypted { key: &'static str, path: String, password_key: &'static str },
    #[error("{key}: {path}: the private key cannot be decrypted with {password_key}")]
    Password { key: &'static str, path: String, password_key: &'static str },
    #[error("{key}: {path}: {source}")]
    Unusable { key: &'static str, path: String, source: rustls::Error },
    #[error("restapi.ciphers: {0}")]
    Ciphers(String),
    #[error("the certificates of the system cannot be read: {0}; name a file in {1}")]
    NoRoots(String, &'static str),
}

/// The name that a server's certificate has to bear.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => Some(ServerName::from(address)),
        Err(_) => ServerName::try_from(host.to_owned()).ok(),
    }
}

/// The configuration keys of one side, for messages.
pub struct Keys {
    pub certfile: &'static str,
    pub keyfile: &'static str,
    pub password: &'static str,
}

/// A chain and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Chain and key; without a key file both stand in the certificate's.
pub fn identity(
    keys: &Keys,
    certfile: &str,
    keyfile: Option<&String>,
    password: &Option<String>,
) -> Result<Identity, TlsError> {
    let chain = certificates(keys.certfile, certfile)?;
    let (key, path) = match keyfile {
        Some(path) => (keys.keyfile, path.as_str()),
        None => (keys.certfile, certfile),
    };
    Ok((chain, private_key(key, path, keys.password, password.as_deref())?))
}

fn read(key: &'static str, path: &str) -> Result<Vec<u8>, TlsError> {
    let error = |source| TlsError::Read { key, path: path.to_owned(), source };
    let length = fs::metadata(Path::new(path)).map_err(error)?.len();
    if length > FILE_BYTES_MAX {
        return Err(error(std::io::Error::other("longer than 1 MiB")));
    }
    fs::read(path).map_err(error)
}

fn certificates(key: &'static str, path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::Empty { key, path: path.to_owned(), what: "certificate" }),
    }
}

fn private_key(
    key: &'static str,
    path: &str,
    password_key: &'static str,
    password: Option<&str>,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(key, path)?;
    let path = path.to_owned();
    if pem.windows(10).any(|line| line == b"Proc-Type:") {
        return Err(TlsError::Encrypted { key, path, password_key });
    }
    if let Ok(plain) = PrivateKeyDer::from_pem_slice(&pem) {
        return Ok(plain);
    }
    let Some(sealed) = encrypted(&pem) else {
        return Err(TlsError::Empty { key, path, what: "private key" });
    };
    let Some(password) = password else {
        return Err(TlsError::Encrypted { key, path, password_key });
    };
    let opened = EncryptedPrivateKeyInfoRef::try_from(sealed.as_slice())
        .ok()
        .and_then(|info| info.decrypt(password).ok());
    match opened {
        Some(opened) => Ok(PrivatePkcs8KeyDer::from(opened.as_bytes().to_vec()).into()),
        None => Err(TlsError::Password { key, path, password_key }),
    }
}

/// The body of `-----BEGIN ENCRYPTED PRIVATE KEY-----`, which rustls does not look for.
fn encrypted(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ENCRYPTED PRIVATE KEY-----")?;
    let (body, _) = rest.split_once("-----END ENCRYPTED PRIVATE KEY-----")?;
    // The same base64 under a heading that the reader of PEM knows.
    let known = format!("-----BEGIN PRIVATE KEY-----{body}-----END PRIVATE KEY-----\n");
    let mut reader = std::io::BufReader::new(known.as_bytes());
    let found = rustls::pki_types::pem::from_buf(&mut reader).ok()??;
    matches!(found.0, SectionKind::PrivateKey).then_some(found.1)
}

/// Whom to believe, and the certificates themselves: see `verifier`.
#[derive(Debug)]
pub struct Anchors {
    pub roots: Arc<RootCertStore>,
    pub certificates: Vec<CertificateDer<'static>>,
}

pub fn anchors(file: Option<&String>, key: &'static str) -> Result<Anchors, TlsError> {
    let certificates = match file {
        Some(path) => certificates(key, path)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(TlsError::NoRoots(errors.join(", "), key));
            }
            found.certs
        }
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    match (added, file) {
        (0, Some(path)) => {
            Err(TlsError::Empty { key, path: path.clone(), what: "usable certificate" })
        }
        _ => Ok(Anchors { roots: Arc::new(roots), certificates }),
    }
}
