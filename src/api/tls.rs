//! TLS of both sides: what files and keys of the configuration make of rustls.
//!
//! Certificates are read when the configuration is loaded, at start and at each reload, so that a
//! renewed certificate needs no restart: a new connection gets what was read last.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ServerConfig};

use crate::config::{CtlTls, RestTls, VerifyClient};
use crate::tls::verifier::{Clients, Servers};
use crate::tls::{Keys, TlsError, anchors, identity};

use super::ciphers;

/// What the REST server presents and demands; `None`: no `certfile`, hence plain HTTP.
///
/// # Errors
/// Names the key and the file.
pub fn server(tls: &RestTls) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let Some(certfile) = &tls.certfile else { return Ok(None) };
    let suites = tls.ciphers.as_deref().map(ciphers::suites).transpose();
    let mut provider = aws_lc_rs::default_provider();
    if let Some(suites) = suites.map_err(TlsError::Ciphers)? {
        provider.cipher_suites = suites;
    }
    let provider = Arc::new(provider);
    let (chain, key) = identity(&RESTAPI, certfile, tls.keyfile.as_ref(), &tls.keyfile_password)?;
    let unusable = |source| TlsError::Unusable { key: "restapi", path: certfile.clone(), source };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match tls.verify_client {
        VerifyClient::None => builder.with_no_client_auth(),
        demanded => {
            let anchors = anchors(tls.cafile.as_ref(), "restapi.cafile")?;
            let required = demanded == VerifyClient::Required;
            let verifier = Clients::new(anchors, provider, required).map_err(unusable)?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// What members and pgvigilctl present to the REST API of others, and what they believe.
///
/// # Errors
/// Names the key and the file.
pub fn client(tls: &CtlTls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let unusable = |source| TlsError::Unusable {
        key: "ctl",
        path: tls.certfile.clone().or(tls.cacert.clone()).unwrap_or_default(),
        source,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let servers = Arc::new(servers(tls, &provider)?);
    let builder = builder.dangerous().with_custom_certificate_verifier(servers);
    let config = match &tls.certfile {
        Some(certfile) => {
            let (keyfile, password) = (tls.keyfile.as_ref(), &tls.keyfile_password);
            let (chain, key) = identity(&CTL, certfile, keyfile, password)?;
            builder.with_client_auth_cert(chain, key).map_err(unusable)?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// As Patroni: `insecure` believes everybody; with a client certificate of our own it only leaves
/// the name out, for whoever has a certificate has the authority's, too.
fn servers(tls: &CtlTls, provider: &CryptoProvider) -> Result<Servers, TlsError> {
    if tls.insecure && tls.certfile.is_none() {
        return Ok(Servers::new(None, provider, false));
    }
    let anchors = anchors(tls.cacert.as_ref(), "ctl.cacert")?;
    Ok(Servers::new(Some(anchors), provider, !tls.insecure))
}

const RESTAPI: Keys = Keys {
    certfile: "restapi.certfile",
    keyfile: "restapi.keyfile",
    password: "restapi.keyfile_password",
};
const CTL: Keys =
    Keys { certfile: "ctl.certfile", keyfile: "ctl.keyfile", password: "ctl.keyfile_password" };
