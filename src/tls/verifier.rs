//! Whom TLS believes. webpki's verifiers, and one case more: the certificate *is* one of those
//! that we were told to believe. Administrators make one certificate with `openssl req -x509`,
//! which says CA:TRUE, and use it as authority, server and client at once; OpenSSL accepts that,
//! webpki does not (`CaUsedAsEndEntity`). Byte equality with an anchor is as strong as a signature
//! by it: the peer proves by the handshake's signature that it has the key. What a signature would
//! not excuse is still checked here: the period of validity and, for servers, the name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor as chains_to_an_anchor;
use rustls::client::verify_server_name;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::Anchors;

/// An anchor as the peer's own certificate; `None`: it is none of them.
fn as_anchor(
    anchors: &[CertificateDer<'static>],
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Option<Result<(), Error>> {
    anchors.iter().any(|anchor| anchor == certificate).then(|| in_force(certificate, now))
}

fn in_force(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = Certificate::from_der(certificate);
    let parsed = parsed.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let validity = parsed.tbs_certificate().validity();
    let from = validity.not_before.to_unix_duration().as_secs();
    let until = validity.not_after.to_unix_duration().as_secs();
    if now.as_secs() < from {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now.as_secs() > until {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::General(error.to_string())
}

/// Checks the certificates of clients.
#[derive(Debug)]
pub struct Clients {
    anchors: Vec<CertificateDer<'static>>,
    webpki: Arc<dyn ClientCertVerifier>,
}

impl Clients {
    pub fn new(
        anchors: Anchors,
        provider: Arc<CryptoProvider>,
        required: bool,
    ) -> Result<Clients, Error> {
        let builder = WebPkiClientVerifier::builder_with_provider(anchors.roots, provider);
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        let webpki = builder.build().map_err(broken)?;
        Ok(Clients { anchors: anchors.certificates, webpki })
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match as_anchor(&self.anchors, end_entity, now) {
            Some(valid) => valid.map(|()| ClientCertVerified::assertion()),
            None => self.webpki.verify_client_cert(end_entity, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Checks the certificates of servers.
#[derive(Debug)]
pub struct Servers {
    /// `None`: everybody is believed (`ctl.insecure`).
    anchors: Option<Anchors>,
    /// Whether the name counts.
    named: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Servers {
    pub fn new(anchors: Option<Anchors>, provider: &CryptoProvider, named: bool) -> Servers {
        Servers { anchors, named, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(anchors) = &self.anchors else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        match as_anchor(&anchors.certificates, end_entity, now) {
            Some(valid) => valid?,
            None => {
                let (roots, known) = (&anchors.roots, self.algorithms.all);
                chains_to_an_anchor(&certificate, roots, intermediates, now, known)?;
            }
        }
        if self.named {
            verify_server_name(&certificate, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
