//! TLS of sessions with PostgreSQL, by libpq's options of the role (`sslmode` and its kin), so that
//! a server whose `pg_hba.conf` demands TLS is no stranger. Source: PostgreSQL's documentation,
//! "Database Connection Control Functions" and "SSL Support".
//!
//! Not honoured here, other than by the programs that get the same options: `sslcrl`, `sslcrldir`,
//! `gssencmode`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::verifier::Servers;
use crate::tls::{Anchors, Keys, TlsError, anchors, identity};

/// Files are named as libpq's options.
const KEYS: Keys = Keys { certfile: "sslcert", keyfile: "sslkey", password: "sslpassword" };
/// What libpq takes where nothing is said, below the home of the user.
const DEFAULTS: [(&str, &str); 3] =
    [("sslrootcert", "root.crt"), ("sslcert", "postgresql.crt"), ("sslkey", "postgresql.key")];

/// libpq's options of one connection.
#[derive(Debug)]
pub struct Terms<'a> {
    options: &'a BTreeMap<String, String>,
    /// A Unix socket knows no TLS.
    local: bool,
}

impl<'a> Terms<'a> {
    /// `host`: a name, an address, or the folder of a socket.
    pub fn new(host: &str, options: &'a BTreeMap<String, String>) -> Terms<'a> {
        Terms { options, local: host.starts_with('/') }
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// `prefer` where nothing is said. `allow`, which tries without TLS first, is as good served by
    /// `prefer`.
    pub fn mode(&self) -> SslMode {
        match self.option("sslmode") {
            _ if self.local => SslMode::Disable,
            Some("disable") => SslMode::Disable,
            None | Some("prefer" | "allow") => SslMode::Prefer,
            Some(_) => SslMode::Require,
        }
    }

    pub fn binding(&self) -> ChannelBinding {
        match self.option("channel_binding") {
            Some("disable") => ChannelBinding::Disable,
            Some("require") => ChannelBinding::Require,
            _ => ChannelBinding::Prefer,
        }
    }

    pub fn negotiation(&self) -> SslNegotiation {
        match self.option("sslnegotiation") {
            Some("direct") if self.mode() == SslMode::Require => SslNegotiation::Direct,
            _ => SslNegotiation::Postgres,
        }
    }

    /// The files are read each time, so that a renewed certificate needs no reload.
    ///
    /// # Errors
    /// Names the option and the file.
    pub fn connector(&self) -> Result<MakeRustlsConnect, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certfile = (!self.local).then(|| self.file("sslcert", false)).flatten();
        let unusable = |source| TlsError::Unusable {
            key: "sslcert",
            path: certfile.clone().unwrap_or_default(),
            source,
        };
        let servers = Servers::new(self.anchors()?, &provider, self.is_named());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers));
        let mut config = match &certfile {
            Some(certfile) => {
                let keyfile = self.file("sslkey", false);
                let password = self.option("sslpassword").map(str::to_owned);
                let (chain, key) = identity(&KEYS, certfile, keyfile.as_ref(), &password)?;
                builder.with_client_auth_cert(chain, key).map_err(unusable)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }

    fn is_named(&self) -> bool {
        self.option("sslmode") == Some("verify-full")
            || self.option("sslrootcert") == Some("system")
    }

    /// Where there is a file of authorities, libpq believes nobody else, whatever `sslmode` says.
    fn anchors(&self) -> Result<Option<Anchors>, TlsError> {
        if self.mode() == SslMode::Disable {
            return Ok(None);
        }
        if self.option("sslrootcert") == Some("system") {
            return anchors(None, "sslrootcert").map(Some);
        }
        let demanded = self.option("sslmode").is_some_and(|mode| mode.starts_with("verify"));
        let file = self.file("sslrootcert", demanded);
        file.map(|path| anchors(Some(&path), "sslrootcert")).transpose()
    }

    /// The file of an option or libpq's default; one that is not there does not count, as in libpq,
    /// unless it is demanded.
    fn file(&self, option: &str, demanded: bool) -> Option<String> {
        let default = || {
            let (_, name) = DEFAULTS.iter().find(|(known, _)| *known == option)?;
            Some(format!("{}/.postgresql/{name}", std::env::var("HOME").ok()?))
        };
        let path = self.option(option).map(str::to_owned).or_else(default);
        path.filter(|path| demanded || Path::new(path).exists())
    }
}
