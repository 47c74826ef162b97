//! `pgvigil::discovery`: SRV records from a name server on loopback, and a real etcd behind them.

use std::net::UdpSocket;
use std::time::Duration;

use pgvigil::config::{EtcdSection, Srv};
use pgvigil::dcs::{Dcs, DcsError, Options};
use pgvigil::discovery::{self, Servers};

use crate::dcs::{run, until};
use crate::dns::{Entry, NameServer};
use crate::etcd::Etcd;

const WITHIN: Duration = Duration::from_secs(3);

/// In Patroni's order.
const NAMES: [&str; 6] = [
    "_etcd-client-ssl._tcp.lab.test",
    "_etcd-client._tcp.lab.test",
    "_etcd-ssl._tcp.lab.test",
    "_etcd._tcp.lab.test",
    "_etcd-server-ssl._tcp.lab.test",
    "_etcd-server._tcp.lab.test",
];

fn section(suffix: Option<&str>) -> EtcdSection {
    let srv = Srv { domain: "lab.test".to_owned(), suffix: suffix.map(str::to_owned) };
    EtcdSection { srv: Some(srv), ..EtcdSection::default() }
}

fn look(server: &NameServer, suffix: Option<&str>) -> Result<Vec<String>, String> {
    let servers = Servers::These(vec![server.address]);
    run(discovery::endpoints(&section(suffix), &servers))
}

fn records(records: &[(u16, &str, u16)]) -> Vec<(u16, String, u16)> {
    records.iter().map(|&(priority, host, port)| (priority, host.to_owned(), port)).collect()
}

fn host_and_port(url: &str) -> (u16, String, u16) {
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    (0, "localhost".to_owned(), port)
}

fn hosts(urls: &[String]) -> Entry {
    Entry::Records(urls.iter().map(|url| host_and_port(url)).collect())
}

#[test]
fn the_first_service_with_records_counts() {
    let all = records(&[(20, "c.lab.test", 1), (10, "b.lab.test", 2379), (10, "a.lab.test", 9)]);
    let urls = ["a.lab.test:9", "b.lab.test:2379", "c.lab.test:1"];
    for (number, name) in NAMES.into_iter().enumerate().take(4) {
        let server = NameServer::start();
        NAMES[number..].iter().for_each(|name| server.set(name, Entry::Records(all.clone())));
        let scheme = if name.contains("-ssl.") { "https" } else { "http" };
        let expected = urls.map(|url| format!("{scheme}://{url}"));
        assert_eq!(look(&server, None), Ok(expected.to_vec()), "{name}");
        assert_eq!(server.asked(), NAMES[..=number]);
    }
}

#[test]
fn suffixes_long_answers_and_names_that_offer_nothing() {
    let server = NameServer::start();
    server.set("_etcd-client-prod._tcp.lab.test", Entry::Records(records(&[(0, "p", 1)])));
    assert_eq!(look(&server, Some("prod")), Ok(vec!["http://p:1".to_owned()]));
    assert_eq!(server.asked()[0], "_etcd-client-ssl-prod._tcp.lab.test");
    let error = look(&server, None).unwrap_err();
    assert!(error.contains("lab.test: DNS has no SRV record"), "{error}");
    assert_eq!(server.asked(), NAMES);

    // Over UDP it says that it is too long: the same is asked over TCP.
    let many: Vec<_> = (1..=60).map(|n| (n, format!("etcd-{n}.lab.test"), 2379)).collect();
    server.set(NAMES[0], Entry::Long(many));
    let found = look(&server, None).unwrap();
    assert_eq!((found.len(), &*found[59]), (60, "https://etcd-60.lab.test:2379"));

    // A lone dot: this service is not offered here.
    server.set(NAMES[0], Entry::Records(records(&[(0, ".", 0)])));
    server.set(NAMES[1], Entry::Records(records(&[(0, "plain", 2)])));
    assert_eq!(look(&server, None), Ok(vec!["http://plain:2".to_owned()]));

    // What could not be asked is not passed over: what comes later has no TLS.
    server.set(NAMES[0], Entry::Broken);
    let error = look(&server, None).unwrap_err();
    assert!(error.contains(NAMES[0]) && error.contains("SERVFAIL"), "{error}");
}

#[test]
fn a_name_server_that_is_silent_is_followed_by_the_next() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let server = NameServer::start();
    server.set(NAMES[1], Entry::Records(records(&[(0, "a", 1)])));
    let both = Servers::These(vec![silent.local_addr().expect("an address"), server.address]);
    let found = run(discovery::endpoints(&section(None), &both));
    assert_eq!(found, Ok(vec!["http://a:1".to_owned()]));
}

#[test]
fn peers_of_etcd_tell_where_its_clients_go() {
    let etcd = Etcd::start(2);
    let server = NameServer::start();
    // Nobody listens at the first one.
    let mut peers = vec![(0, "localhost".to_owned(), 1)];
    peers.extend(etcd.peers().iter().map(|url| host_and_port(url)));
    server.set(NAMES[5], Entry::Records(peers));
    let mut found = look(&server, None).unwrap();
    let mut expected = etcd.urls();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

fn dcs(server: &NameServer, endpoints: &[String]) -> Dcs {
    let servers = Servers::These(vec![server.address]);
    let find = Some(discovery::find(section(None), servers));
    let (endpoints, prefix) = (endpoints.to_vec(), "/service/demo/".to_owned());
    Dcs::new(Options { endpoints, find, prefix, ..Options::default() }).unwrap()
}

#[test]
fn an_etcd_that_moves_is_followed() {
    let mut etcd = Etcd::start(3);
    let urls = etcd.urls();
    let server = NameServer::start();
    run(async {
        let dcs = dcs(&server, &[]);
        let mut changes = dcs.watch();
        // DNS knows nothing yet.
        let error = dcs.read(Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, DcsError::Unreachable { maybe_applied: false, .. }), "{error}");
        assert!(error.to_string().contains("DNS has no SRV record"), "{error}");
        server.set(NAMES[1], hosts(&urls[..1]));
        until("the first endpoint", async || dcs.read(WITHIN).await.is_ok()).await;
        assert_eq!(seen(&dcs).await, named(&urls[..1]));

        etcd.kill_member(0);
        server.set(NAMES[1], hosts(&urls[1..]));
        until("the others", async || dcs.read(WITHIN).await.is_ok()).await;
        assert_eq!(seen(&dcs).await, named(&urls[1..]));
        let before = *changes.borrow_and_update();
        let patience = tokio::time::timeout(Duration::from_secs(30), async {
            while *changes.borrow() == before {
                etcd.etcdctl(&["put", "/service/demo/leader", "x"]).expect("a put");
                let _ = tokio::time::timeout(WITHIN, changes.changed()).await;
            }
        });
        patience.await.expect("the watch is there, too");

        // DNS knows nothing any more: what was found is kept.
        server.set(NAMES[1], Entry::Broken);
        etcd.start_member(0);
        server.asked();
        // Whichever of them it asks first, that one fails.
        for number in [1, 2] {
            etcd.kill_member(number);
            until("another endpoint", async || dcs.read(WITHIN).await.is_ok()).await;
            etcd.start_member(number);
            until("a quorum", async || dcs.read(WITHIN).await.is_ok()).await;
        }
        until("another search", async || server.asked().contains(&NAMES[1].to_owned())).await;
        assert_eq!(seen(&dcs).await, named(&urls[1..]));
    });
}

/// As DNS names them, in a settled order.
fn named(urls: &[String]) -> Vec<String> {
    let mut named: Vec<String> =
        urls.iter().map(|url| url.replace("127.0.0.1", "localhost")).collect();
    named.sort();
    named
}

async fn seen(dcs: &Dcs) -> Vec<String> {
    let seen = dcs.endpoints_seen(Duration::from_millis(500)).await;
    let mut urls: Vec<String> = seen.into_iter().map(|seen| seen.url).collect();
    urls.sort();
    urls
}

#[test]
fn hosts_beside_the_domain_count_while_dns_names_none() {
    let etcd = Etcd::start(1);
    let server = NameServer::start();
    run(async {
        let dcs = dcs(&server, &etcd.urls());
        until("the host", async || dcs.read(WITHIN).await.is_ok()).await;
        assert_eq!(seen(&dcs).await, etcd.urls());
    });
    server.set(NAMES[1], hosts(&etcd.urls()));
    run(async {
        let dcs = dcs(&server, &["http://127.0.0.1:1".to_owned()]);
        until("what DNS names", async || dcs.read(WITHIN).await.is_ok()).await;
        assert_eq!(seen(&dcs).await, named(&etcd.urls()));
    });
}
