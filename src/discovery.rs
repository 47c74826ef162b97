//! Where the store is: as configured, or as DNS says. For `srv` the SRV records of a domain are
//! looked for in Patroni's order, by the name servers that /etc/resolv.conf names at the time.
//!
//! Patroni passes over a name that cannot be looked up. Here that ends the search, and the next one
//! begins anew: the records that come later promise less (no TLS, then a peer's word).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::{Name, Rtype};
use domain::rdata::Srv;
use domain::resolv::StubResolver;
use domain::resolv::stub::conf::{ResolvConf, ServerConf, Transport};

use crate::api::client::Client;
use crate::config::{CtlTls, EtcdSection};
use crate::dcs::{Find, Options};

/// Services, the scheme of what they name, and whether that is the port of etcd's peers.
const SERVICES: [(&str, &str, bool); 6] = [
    ("_etcd-client-ssl", "https", false),
    ("_etcd-client", "http", false),
    ("_etcd-ssl", "https", false),
    ("_etcd", "http", false),
    ("_etcd-server-ssl", "https", true),
    ("_etcd-server", "http", true),
];

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A peer of etcd tells its cluster's members in this time, or the next one is asked.
const MEMBERS_WITHIN: Duration = Duration::from_secs(3);

/// More would be no etcd cluster.
const RECORDS_MAX: usize = 64;

/// Which name servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Those of /etc/resolv.conf.
    System,
    These(Vec<SocketAddr>),
}

/// How the store is reached. With `srv` its endpoints are looked up when one is first needed, and
/// again when one fails; those that are configured beside it count as long as DNS names none.
pub fn options(etcd: &EtcdSection, prefix: String) -> Options {
    Options {
        endpoints: etcd.endpoints.clone(),
        find: etcd.srv.is_some().then(|| find(etcd.clone(), Servers::System)),
        username: etcd.username.clone(),
        password: etcd.password.clone(),
        cacert: etcd.cacert.clone(),
        cert: etcd.cert.clone(),
        key: etcd.key.clone(),
        prefix,
    }
}

/// The search of [`endpoints`], to be done again and again.
pub fn find(etcd: EtcdSection, servers: Servers) -> Find {
    Find::new(move || {
        let (etcd, servers) = (etcd.clone(), servers.clone());
        async move { endpoints(&etcd, &servers).await }
    })
}

/// The URLs that DNS names for `srv`, sorted by the priority of their records.
///
/// # Errors
/// Says which name could not be looked up, or that there is none.
pub async fn endpoints(etcd: &EtcdSection, servers: &Servers) -> Result<Vec<String>, String> {
    let Some(srv) = &etcd.srv else { return Ok(etcd.endpoints.clone()) };
    let resolver = resolver(servers).await?;
    let suffix = srv.suffix.as_ref().map(|suffix| format!("-{suffix}")).unwrap_or_default();
    for (service, scheme, peers) in SERVICES {
        let name = format!("{service}{suffix}._tcp.{}", srv.domain);
        let records = records(&resolver, &name).await.map_err(|why| format!("{name}: {why}"))?;
        let urls = records.iter().map(|(_, host, port)| format!("{scheme}://{host}:{port}"));
        let urls: Vec<String> = urls.collect();
        match (urls.is_empty(), peers) {
            (true, _) => {}
            (false, false) => return Ok(urls),
            (false, true) => {
                return members(etcd, &urls).await.map_err(|why| format!("{name}: {why}"));
            }
        }
    }
    Err(format!("{}: DNS has no SRV record {}{suffix}._tcp or the like", srv.domain, SERVICES[0].0))
}

async fn resolver(servers: &Servers) -> Result<StubResolver, String> {
    let mut conf = ResolvConf::new();
    match servers {
        Servers::These(servers) => {
            let server = |at: &SocketAddr| ServerConf::new(*at, Transport::UdpTcp);
            conf.servers = servers.iter().map(server).collect();
        }
        Servers::System => {
            let read = tokio::task::spawn_blocking(|| std::fs::read_to_string(RESOLV_CONF)).await;
            let text = match read.map_err(std::io::Error::other).flatten() {
                Ok(text) => text,
                // Then the name server is this machine, as for the C library.
                Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
                Err(error) => return Err(format!("{RESOLV_CONF}: {error}")),
            };
            // Our names are absolute, and other systems' keywords are none to the parser.
            let ours = |line: &&str| line.starts_with("nameserver") || line.starts_with("options");
            let text: String = text.lines().filter(ours).flat_map(|line| [line, "\n"]).collect();
            conf.parse(&mut text.as_bytes()).map_err(|error| format!("{RESOLV_CONF}: {error}"))?;
        }
    }
    conf.finalize();
    Ok(StubResolver::from_conf(conf))
}

/// Priority, host and port. Only "these" and "no such name" are answers.
async fn records(resolver: &StubResolver, name: &str) -> Result<Vec<(u16, String, u16)>, String> {
    let name: Name<Vec<u8>> = name.parse().map_err(|error| format!("no domain name: {error}"))?;
    let answer = resolver.query((name, Rtype::SRV)).await.map_err(|error| error.to_string())?;
    match answer.header().rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => {}
        code => return Err(format!("the name server says {code}")),
    }
    let broken = |error: domain::base::wire::ParseError| format!("a broken answer: {error}");
    let section = answer.answer().map_err(broken)?;
    let mut found = Vec::new();
    for record in section.limit_to_in::<Srv<_>>().take(RECORDS_MAX) {
        let record = record.map_err(broken)?;
        let srv = record.data();
        let host = srv.target().to_string();
        // A lone dot says that the service is decidedly not offered.
        if !matches!(host.as_str(), "" | ".") {
            found.push((srv.priority(), host, srv.port()));
        }
    }
    found.sort();
    Ok(found)
}

/// What etcd's members say where clients reach them, asked of one after another of the peers.
async fn members(etcd: &EtcdSection, peers: &[String]) -> Result<Vec<String>, String> {
    let tls = CtlTls {
        cacert: etcd.cacert.clone(),
        certfile: etcd.cert.clone(),
        keyfile: etcd.key.clone(),
        ..CtlTls::default()
    };
    let client =
        Client::new(None, &tls).map_err(|error| format!("{:#}", anyhow::anyhow!(error)))?;
    let mut why = String::new();
    for peer in peers {
        let url = format!("{peer}/members");
        why = match client.get(&url, MEMBERS_WITHIN).await {
            Ok(answer) if answer.status < 400 => match client_urls(&answer.body) {
                urls if urls.is_empty() => format!("{url}: the answer names no clientURLs"),
                urls => return Ok(urls),
            },
            Ok(answer) => format!("{url}: status {}", answer.status),
            Err(error) => format!("{:#}", anyhow::anyhow!(error)),
        };
    }
    Err(why)
}

fn client_urls(members: &serde_json::Value) -> Vec<String> {
    let members = members.as_array().into_iter().flatten();
    let urls = members.filter_map(|member| member.get("clientURLs")?.as_array()).flatten();
    urls.filter_map(|url| url.as_str().map(str::to_owned)).take(RECORDS_MAX).collect()
}
