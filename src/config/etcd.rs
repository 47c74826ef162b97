//! The `etcd3` and `etcd` sections: where the store is and how to speak to it.

use std::fmt;

use super::address;
use super::diagnostics::Report;
use super::reader::Reader;
use super::tree::{Data, Position};

/// The store. Both sections mean the same etcd cluster over its v3 API.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdSection {
    /// `http://host:2379`, in the order written; may be empty beside `srv`.
    pub endpoints: Vec<String>,
    /// DNS names the endpoints.
    pub srv: Option<Srv>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub cacert: Option<String>,
    pub cert: Option<String>,
    pub key: Option<String>,
    /// The endpoints are proxies: never replaced by the member list of etcd.
    pub use_proxies: bool,
}

/// Where DNS is asked for etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    pub domain: String,
    /// Appended to the service's name, with a hyphen.
    pub suffix: Option<String>,
}

impl fmt::Debug for EtcdSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSection")
            .field("endpoints", &self.endpoints)
            .field("srv", &self.srv)
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
        srv: None,
        username: section.text("username"),
        password: section.text("password"),
        cacert: section.text("cacert"),
        cert: section.text("cert"),
        key: section.text("key"),
        use_proxies: section.boolean("use_proxies").unwrap_or(false) || section.has("proxy"),
    };
    let listed = srv(section).and_then(|srv| {
        etcd.srv = srv;
        endpoints(section, &mut etcd)
    });
    match listed {
        Ok(list) => etcd.endpoints = list,
        Err((key, why)) => report.error(&section.at(key, &at), &format!("{name}.{key}"), why),
    }
    if etcd.key.is_some() && etcd.cert.is_none() {
        let why = "is of no use without cert";
        report.error(&section.at("key", &at), &format!("{name}.key"), why);
    }
    let plain = etcd.srv.is_none() && etcd.endpoints.iter().all(|e| e.starts_with("http:"));
    for (key, file) in [("cacert", &etcd.cacert), ("cert", &etcd.cert)] {
        if file.is_some() && plain {
            let why = "has no effect without `protocol: https`";
            report.warn(&section.at(key, &at), &format!("{name}.{key}"), why);
        }
    }
    etcd
}

type Failure = (&'static str, String);

/// Patroni's key and its older names; the last one that is there counts.
const SRV_KEYS: [&str; 3] = ["srv", "discovery_srv", "srv_domain"];

/// Longest name that leaves room for that of the service (RFC 1035: 255 in all).
const DOMAIN_BYTES_MAX: usize = 200;

fn srv(section: Reader) -> Result<Option<Srv>, Failure> {
    let named = SRV_KEYS.into_iter().rev().find_map(|key| Some((key, section.text(key)?)));
    // A proxy is asked in place of what DNS names.
    let Some((key, domain)) = named.filter(|_| !section.has("proxy")) else { return Ok(None) };
    let is_label = |label: &str| {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(is_fine)
    };
    let domain = domain.trim_end_matches('.').to_owned();
    if domain.len() > DOMAIN_BYTES_MAX || !domain.split('.').all(is_label) {
        return Err((key, "must be a domain, such as `example.com`".to_owned()));
    }
    let suffix = section.text("srv_suffix").filter(|suffix| !suffix.is_empty());
    // The longest name of a service has 16 characters and a hyphen before the suffix.
    if suffix.as_ref().is_some_and(|suffix| !is_label(suffix) || suffix.len() > 40) {
        return Err(("srv_suffix", "must be part of a name in DNS, such as `prod`".to_owned()));
    }
    Ok(Some(Srv { domain, suffix }))
}

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
        (None, None) if etcd.srv.is_some() => return Ok(vec![]),
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
