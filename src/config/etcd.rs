//! The `etcd3` and `etcd` sections: where the store is and how to speak to it.

use std::fmt;

use super::address;
use super::diagnostics::Report;
use super::reader::Reader;
use super::yaml11::{Data, Position};

/// The store. Both sections mean the same etcd cluster over its v3 API.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdSection {
    /// `http://host:2379`, in the order written.
    pub endpoints: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub cacert: Option<String>,
    pub cert: Option<String>,
    pub key: Option<String>,
    /// The endpoints are proxies: never replaced by the member list of etcd.
    pub use_proxies: bool,
}

impl fmt::Debug for EtcdSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSection")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("cacert", &self.cacert)
            .field("cert", &self.cert)
            .field("use_proxies", &self.use_proxies)
            .finish_non_exhaustive()
    }
}

const PORT: u16 = 2379;

/// Reads whichever section is there; `etcd3` if both are.
pub fn read(root: Reader, whole: &Position, report: &mut Report) -> EtcdSection {
    let name = if root.has("etcd3") { "etcd3" } else { "etcd" };
    if root.has("etcd3") && root.has("etcd") {
        let at = root.at("etcd", whole);
        report.warn(&at, "etcd", "is ignored because etcd3 is there, too");
    }
    if !root.has(name) {
        report.error(whole, "etcd3", "is missing: name the store, such as `hosts: a:2379,b:2379`");
        return EtcdSection::default();
    }
    let section = root.sub(name);
    let at = section.at("", whole);
    let mut etcd = EtcdSection {
        endpoints: Vec::new(),
        username: section.text("username"),
        password: section.text("password"),
        cacert: section.text("cacert"),
        cert: section.text("cert"),
        key: section.text("key"),
        use_proxies: section.boolean("use_proxies").unwrap_or(false) || section.has("proxy"),
    };
    match endpoints(section, &mut etcd) {
        Ok(list) => etcd.endpoints = list,
        Err((key, why)) => report.error(&section.at(key, &at), &format!("{name}.{key}"), why),
    }
    if etcd.key.is_some() && etcd.cert.is_none() {
        let why = "is of no use without cert";
        report.error(&section.at("key", &at), &format!("{name}.key"), why);
    }
    let plain = etcd.endpoints.iter().all(|e| e.starts_with("http:"));
    for (key, file) in [("cacert", &etcd.cacert), ("cert", &etcd.cert)] {
        if file.is_some() && plain {
            let why = "has no effect without `protocol: https`";
            report.warn(&section.at(key, &at), &format!("{name}.{key}"), why);
        }
    }
    etcd
}

type Failure = (&'static str, String);

fn endpoints(section: Reader, etcd: &mut EtcdSection) -> Result<Vec<String>, Failure> {
    for key in ["proxy", "url"] {
        if let Some(text) = section.text(key) {
            let url = Url::parse(&text).map_err(|why| (key, why.to_owned()))?;
            etcd.username = url.username.or(etcd.username.take());
            etcd.password = url.password.or(etcd.password.take());
            return Ok(vec![url.endpoint]);
        }
    }
    let protocol = section.text("protocol").unwrap_or_else(|| "http".to_owned()).to_lowercase();
    let default = section.integer("port", "").and_then(|p| u16::try_from(p).ok()).unwrap_or(PORT);
    let (key, hosts) = match (section.node("hosts"), section.text("host")) {
        (Some(node), _) => (
            "hosts",
            match &node.data {
                Data::List(_) => section.texts("hosts").unwrap_or_default(),
                _ => split(&section.text("hosts").unwrap_or_default()),
            },
        ),
        (None, Some(host)) => ("host", vec![host]),
        // SRV discovery is refused by the table of unsupported keys.
        (None, None) if section.has("srv") || section.has("discovery_srv") => return Ok(vec![]),
        (None, None) if section.has("srv_domain") => return Ok(vec![]),
        (None, None) => return Err(("hosts", "is missing".to_owned())),
    };
    if hosts.is_empty() {
        return Err((key, "names no host".to_owned()));
    }
    let mut endpoints = Vec::with_capacity(hosts.len());
    for host in hosts {
        if host.contains("://") {
            let why = "write host:port; the scheme belongs into `protocol`";
            return Err((key, why.to_owned()));
        }
        let endpoint = address::endpoint(&host, Some(default)).map_err(|why| (key, why))?;
        if endpoint.host.is_empty() {
            return Err((key, format!("`{host}` names no host")));
        }
        endpoints.push(format!("{protocol}://{endpoint}"));
    }
    Ok(endpoints)
}

fn split(hosts: &str) -> Vec<String> {
    hosts.split(',').map(|h| h.trim().to_owned()).filter(|h| !h.is_empty()).collect()
}

/// `scheme://[user[:password]@]host[:port][/path]`, taken literally (no percent-decoding, as in
/// Patroni). Errors never repeat the text: it may hold a
/// password.
struct Url {
    endpoint: String,
    username: Option<String>,
    password: Option<String>,
}

impl Url {
    fn parse(text: &str) -> Result<Url, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("must be a URL: http://host:2379")?;
        if !matches!(scheme, "http" | "https") {
            return Err("must begin with http:// or https://");
        }
        let authority = rest.split('/').next().unwrap_or(rest);
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let wrong = "must be a URL with a host and, if any, a valid port: http://host:2379";
        let endpoint = address::endpoint(host, Some(PORT)).map_err(|_| wrong)?;
        if endpoint.host.is_empty() {
            return Err(wrong);
        }
        let (username, password) = match user.map(|u| u.split_once(':').unwrap_or((u, ""))) {
            Some((name, password)) => (filled(name), filled(password)),
            None => (None, None),
        };
        Ok(Url { endpoint: format!("{scheme}://{endpoint}"), username, password })
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
