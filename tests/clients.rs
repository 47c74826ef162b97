//! Programs that follow a Patroni cluster follow ours: HAProxy, Prometheus, a virtual address,
//! templates filled from etcd, scripts that read what `patronictl` prints.
//!
//! Debian 12's vip-manager (1.0.2) knows etcd's old interface and Consul only, so that a small
//! shell loop stands for it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Config;

use crate::cluster::{impossible, leader, node_lost, switchover};
use crate::lab::Product::Pgvigil;
use crate::lab::ctl::Beside;
use crate::lab::net::Host;
use crate::lab::wait::wait_until;
use crate::lab::{Lab, PASSWORD, Settings, http};

const SOON: Duration = Duration::from_secs(60);
const WRITES: u16 = 5000;
const READS: u16 = 5001;
const PROMETHEUS: u16 = 9090;
const VIRTUAL: &str = "10.77.0.200";

#[test]
fn everybody_follows_the_leader() {
    let settings = Settings::default();
    let missing = ["/usr/sbin/haproxy", "/usr/bin/prometheus", "/usr/bin/arping"]
        .into_iter()
        .find(|path| !Path::new(path).exists());
    if let Some(reason) = impossible(&settings).or(missing.map(|path| format!("no {path}"))) {
        println!("clients: SKIPPED, {reason}");
        return;
    }
    let mut lab = Lab::new(settings);
    for number in lab.numbers() {
        // The address comes and goes: whoever wants to be reached by it listens on all.
        let own = format!("listen: {}:5432", Host::Member(number).address());
        let (local, both) =
            ("- local all", "- host all all 127.0.0.1/32 scram-sha-256\n  - local all");
        lab.member(number)
            .configure(|text| text.replace(&own, "listen: 0.0.0.0:5432").replacen(local, both, 1));
    }
    lab.bootstrap();
    let _proxy = haproxy(&lab);
    let _prometheus = prometheus(&lab);
    let mut loops: Vec<Beside> = lab.numbers().map(|n| address_loop(&lab, n)).collect();
    check(&mut lab, "at the start");
    switchover(&mut lab);
    check(&mut lab, "after a switchover");
    let old = leader(&lab);
    node_lost(&mut lab);
    // As systemd would start it with the machine.
    loops[usize::from(old) - 1] = address_loop(&lab, old);
    check(&mut lab, "after a failover");
    metrics_are_well_formed(&lab);
    lists_are_parsed(&mut lab);
}

fn check(lab: &mut Lab, when: &str) {
    let view = lab.wait_healthy(when, Duration::from_secs(90));
    let leader = view.leader().expect("a healthy view").number;
    println!("clients: {when}: m{leader} leads");
    wait_until("HAProxy to route writes to the leader", SOON, || {
        let rows = through(lab, "127.0.0.1", WRITES, "SELECT inet_server_addr()").ok()?;
        let host = rows.first()?.first()?.clone()?;
        (host == Host::Member(leader).address().to_string()).then_some(())
    });
    let insert = "CREATE TABLE IF NOT EXISTS routed (at timestamptz); \
                  INSERT INTO routed VALUES (now())";
    // HAProxy takes every server for good until its first check.
    wait_until("a write through HAProxy", SOON, || through(lab, "127.0.0.1", WRITES, insert).ok());
    wait_until("HAProxy to route reads to both replicas", SOON, || {
        let sql = "SELECT pg_is_in_recovery(), inet_server_addr()";
        let mut hosts = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let rows = through(lab, "127.0.0.1", READS, sql).ok()?;
            hosts.insert(rows.first().filter(|row| row[0].as_deref() == Some("t"))?[1].clone());
        }
        (hosts.len() == 2).then_some(())
    });
    wait_until("the address to be at the leader", SOON, || {
        let sql = "SELECT pg_is_in_recovery()";
        let rows = through(lab, VIRTUAL, crate::lab::POSTGRES_PORT, sql).ok()?;
        let at = lab.numbers().filter(|&n| has_address(lab, n));
        (rows[0][0].as_deref() == Some("f") && at.eq([leader])).then_some(())
    });
    wait_until("Prometheus to see one primary, the leader", SOON, || {
        let up = ask_prometheus(lab, "up==1")?.len();
        let primaries = ask_prometheus(lab, "patroni_primary==1")?;
        let name = format!("m{leader}");
        let [one] = primaries.as_slice() else { return None };
        (up == 3 && one["metric"]["name"] == *name && one["metric"]["scope"] == "lab").then_some(())
    });
}

/// One statement as superuser, from the client's host.
fn through(
    lab: &Lab,
    host: &str,
    port: u16,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>, String> {
    let mut target = Config::new();
    target.host(host).port(port).user("postgres").password(PASSWORD).dbname("postgres");
    lab.query_at(&target, sql)
}

/// What a template's engine reads: the member keys, and the parts of their URLs.
fn members(lab: &Lab) -> Vec<(String, String, String)> {
    let endpoint = format!("--endpoints={}", Host::Etcd(1).socket(2379));
    let command = ["etcdctl", &endpoint, "get", "--prefix", "/service/lab/members/"];
    let said = lab.at_client(&command.map(str::to_owned), "");
    let lines: Vec<&str> = said.out.lines().collect();
    let member = |pair: &[&str]| {
        let data: Value = serde_json::from_str(pair[1]).expect("a member's document");
        let part = |field: &str| data[field].as_str()?.split('/').nth(2).map(str::to_owned);
        let connect = part("conn_url").expect("conn_url");
        let connect = connect.rsplit('@').next().expect("a host").to_owned();
        let port = part("api_url").and_then(|url| Some(url.rsplit_once(':')?.1.to_owned()));
        let name = pair[0].rsplit('/').next().expect("a name").to_owned();
        (name, connect, port.expect("api_url"))
    };
    lines.chunks(2).map(member).collect()
}

/// With the configuration that Patroni's documentation recommends, filled as confd would.
fn haproxy(lab: &Lab) -> Beside {
    let section = |name: &str, port: u16, check: &str| {
        let mut text = format!(
            "listen {name}\n    bind *:{port}\n    option httpchk OPTIONS {check}\n    \
             http-check expect status 200\n    default-server inter 1s fall 2 rise 1 \
             on-marked-down shutdown-sessions\n"
        );
        for (name, connect, port) in members(lab) {
            text += &format!("    server {name} {connect} maxconn 100 check port {port}\n");
        }
        text
    };
    let text = format!(
        "global\n    maxconn 100\n\ndefaults\n    mode tcp\n    retries 2\n    \
         timeout client 30m\n    timeout connect 4s\n    timeout server 30m\n    \
         timeout check 5s\n\n{}\n{}",
        section("primary", WRITES, "/primary"),
        section("replicas", READS, "/replica")
    );
    let file = lab.directory().join("haproxy.cfg");
    fs::write(&file, text).expect("a file");
    let command = ["/usr/sbin/haproxy", "-db", "-f", &file.display().to_string()];
    lab.beside(Host::Client, "haproxy", &command.map(str::to_owned))
}

fn prometheus(lab: &Lab) -> Beside {
    let targets: Vec<String> =
        lab.numbers().map(|n| format!("'{}'", Host::Member(n).socket(8008))).collect();
    let text = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: patroni\n  \
         static_configs:\n  - targets: [{}]\n",
        targets.join(", ")
    );
    let file = lab.directory().join("prometheus.yml");
    fs::write(&file, text).expect("a file");
    let data = lab.directory().join("prometheus");
    let command = [
        "/usr/bin/prometheus".to_owned(),
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", data.display()),
        format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"),
    ];
    lab.beside(Host::Client, "prometheus", &command)
}

fn ask_prometheus(lab: &Lab, query: &str) -> Option<Vec<Value>> {
    let server = SocketAddr::from(([127, 0, 0, 1], PROMETHEUS));
    let path = format!("/api/v1/query?query={query}");
    let ask = || http::request(server, "GET", &path, "", Duration::from_secs(5)).ok();
    let answer = lab.network.at(Host::Client, ask)?.json();
    answer["data"]["result"].as_array().cloned()
}

/// Holds the address while the leader key has this member's name. What a lost event would break,
/// the look at the key mends every five seconds.
fn address_loop(lab: &Lab, number: u8) -> Beside {
    let endpoints: Vec<String> =
        (1..=lab.settings.etcds).map(|n| Host::Etcd(n).socket(2379).to_string()).collect();
    let script = format!(
        "key=/service/lab/leader
         follow() {{
             if [ \"$1\" = m{number} ]; then
                 ip -o address show dev eth0 | grep -qF ' {VIRTUAL}/' && return
                 ip address add {VIRTUAL}/24 dev eth0 && arping -q -U -c 1 -I eth0 {VIRTUAL}
             else
                 ip address del {VIRTUAL}/24 dev eth0 2>/dev/null
             fi
         }}
         etcdctl() {{ timeout 5 etcdctl --endpoints={endpoints} \"$@\"; }}
         while :; do
             follow \"$(etcdctl get --print-value-only $key)\"
             etcdctl watch $key | while read -r event && read -r name && read -r value; do
                 follow \"$value\"
             done
         done",
        endpoints = endpoints.join(",")
    );
    let command = ["sh", "-c", &script].map(str::to_owned);
    lab.beside(Host::Member(number), "address", &command)
}

fn has_address(lab: &Lab, number: u8) -> bool {
    let name = lab.network.unique_name(Host::Member(number));
    let output = std::process::Command::new("ip")
        .args(["-n", &name, "-o", "address", "show", "dev", "eth0"])
        .output()
        .expect("ip");
    String::from_utf8_lossy(&output.stdout).contains(&format!(" {VIRTUAL}/"))
}

fn metrics_are_well_formed(lab: &Lab) {
    for number in lab.numbers() {
        let page = lab.get(number, "/metrics").expect("/metrics").body;
        let command = ["/usr/bin/promtool", "check", "metrics"].map(str::to_owned);
        let said = lab.at_client(&command, &page);
        println!("clients: promtool on m{number}: {:?} {}", said.code, said.err.trim());
        // 3: it has advice on names, which are Patroni's.
        let patronis =
            said.err.lines().all(|l| l.starts_with("patroni_") && l.contains("\"_total\""));
        assert!(matches!(said.code, Some(0 | 3)) && patronis, "{said:?}");
    }
}

/// As playbooks and scripts do it.
fn lists_are_parsed(lab: &mut Lab) {
    let leader = format!("m{}", leader(lab));
    let list = lab.ctl(Pgvigil, &["list", "-f", "json"]).out;
    let program = "import json, sys\n\
                   members = json.load(sys.stdin)\n\
                   print([m['Member'] for m in members if m['Role'] == 'Leader'][0])\n\
                   assert all(m['State'] in ('running', 'streaming') for m in members)\n\
                   leads = lambda m: m['Role'] == 'Leader'\n\
                   assert all(m.get('Replay Lag', 0) == 0 or not leads(m) for m in members)";
    let command = ["/usr/bin/python3", "-c", program].map(str::to_owned);
    let said = lab.at_client(&command, &list);
    assert_eq!((said.code, said.out.trim()), (Some(0), leader.as_str()), "{said:?}\n{list}");
    let tsv = lab.ctl(Pgvigil, &["list", "-f", "tsv"]).out;
    let command = ["awk", "-F", "\t", "$4 == \"Leader\" {print $2}"].map(str::to_owned);
    assert_eq!(lab.at_client(&command, &tsv).out.trim(), leader, "{tsv}");
    let table = lab.ctl(Pgvigil, &["list"]).out;
    let command = ["awk", "/Leader/ {print $2}"].map(str::to_owned);
    assert_eq!(lab.at_client(&command, &table).out.trim(), leader, "{table}");
    let yaml = lab.ctl(Pgvigil, &["list", "-f", "yaml"]).out;
    assert_eq!(yaml.matches("  Role: Leader\n").count(), 1, "{yaml}");
}
