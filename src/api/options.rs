//! What `restapi` configures and a reload changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue, SERVER};
use rustls::ServerConfig;
use thiserror::Error;

use super::auth::{Access, Allowed, AllowedParseError, Credentials};
use super::tls;
use crate::config::{RestApi, VerifyClient};
use crate::core::PATRONI_VERSION;
use crate::tls::TlsError;

/// In force from the next request on, `tls` from the next connection on.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub access: Access,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Sent with every answer: what `headers` makes of the configuration.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("restapi.http_extra_headers: {name:?} cannot be sent as a header with this value")]
pub struct HeaderError {
    pub name: String,
}

/// What of `restapi` cannot be used.
#[derive(Debug, Error)]
pub enum OptionsError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Allowed(#[from] AllowedParseError),
}

impl Options {
    /// Reads the files that the section names.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn new(rest: &RestApi) -> Result<Options, OptionsError> {
        let tls = tls::server(&rest.tls)?;
        let mut extra = rest.http_extra_headers.clone();
        if tls.is_some() {
            extra.extend(rest.https_extra_headers.clone());
        }
        let allowlist: Result<Vec<Allowed>, _> =
            rest.allowlist.iter().map(|text| text.parse()).collect();
        let credentials = rest
            .authentication
            .as_ref()
            .map(|c| Credentials { username: c.username.clone(), password: c.password.clone() });
        Ok(Options {
            access: Access {
                allowlist: allowlist?,
                include_members: rest.allowlist_include_members,
                credentials,
                certificate: tls.is_some() && rest.tls.verify_client != VerifyClient::None,
            },
            tls,
            headers: headers(&extra, &rest.server_tokens, PATRONI_VERSION)?,
        })
    }
}

/// `restapi.http_extra_headers`, and the header `Server` as `restapi.server_tokens` wants it.
/// The token `original` names no program.
pub fn headers(
    extra: &BTreeMap<String, String>,
    server_tokens: &str,
    version: &str,
) -> Result<Vec<(HeaderName, HeaderValue)>, HeaderError> {
    let error = |name: &str| HeaderError { name: name.to_owned() };
    let mut out = Vec::new();
    let server = match server_tokens.to_ascii_lowercase().as_str() {
        "productonly" => Some("Patroni".to_owned()),
        "minimal" => Some(format!("Patroni/{version}")),
        _ => None,
    };
    if let Some(server) = server {
        out.push((SERVER, HeaderValue::try_from(server).map_err(|_| error("Server"))?));
    }
    for (name, value) in extra {
        let pair = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
        out.push(pair.ok_or_else(|| error(name))?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_headers_of_the_configuration() {
        let extra = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let made = headers(&extra("X-Frame-Options", "DENY"), "Minimal", "4.1.5").unwrap();
        let made: Vec<_> =
            made.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        assert_eq!(made, ["server: Patroni/4.1.5", "x-frame-options: DENY"]);
        assert_eq!(headers(&BTreeMap::new(), "original", "4.1.5"), Ok(Vec::new()));
        for (name, value) in [("a b", "x"), ("", "x"), ("a", "x\r\ny: z")] {
            let error = headers(&extra(name, value), "", "").unwrap_err();
            assert_eq!(error.name, name);
        }
    }
}
