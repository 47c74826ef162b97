//! The program itself, `patroni` and `pgvigil` installed under that name: command lines, what is
//! refused, signals and exit codes. Real programs on loopback, one member at a time.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Book;
use super::differences::{LINES_DIFFER, SIGNALS_DIFFER};
use crate::dns::{Entry, NameServer};
use crate::etcd::Etcd;
use crate::lab::Product::{self, Patroni, Pgvigil};
use crate::lab::process::{lives, signal};
use crate::lab::pypi;
use crate::lab::wait::wait_until;
use crate::rig::{Member, Rig, as_postgres, bin_dir};

const SOON: Duration = Duration::from_secs(90);
/// A leader that a signal ends, ends within this.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Of each product the start of its command line; `None` if Patroni cannot be had.
fn programs(rig: &Rig) -> Option<[(Product, Vec<String>); 2]> {
    let program = rig.program();
    let base = Path::new(&program).parent().expect("a directory");
    let patroni = match pypi::patroni(base) {
        Ok(command) => command,
        Err(reason) => {
            println!("twins: SKIPPED, Patroni cannot be had from PyPI: {reason}");
            return None;
        }
    };
    // Its entry point of that name is a script of pip's with the path of another copy.
    let link = base.join("bin");
    fs::create_dir(&link).expect("a directory");
    symlink(&program, link.join("patroni")).expect("a link");
    let named = link.join("patroni").display().to_string();
    Some([(Patroni, patroni), (Pgvigil, vec![named])])
}

/// The one of this product.
fn program(rig: &Rig, product: Product) -> Option<Vec<String>> {
    programs(rig)?.into_iter().find_map(|(which, program)| (which == product).then_some(program))
}

#[test]
fn command_lines() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let Some(programs) = programs(&rig) else { return };
    let mut book = Book { meant: LINES_DIFFER, ..Book::default() };
    let files = Files::new(&rig.member("m"));
    for (product, program) in &programs {
        let member = rig.member_of("m", program);
        for line in LINES {
            let _held = files.write(line);
            let mut command = as_postgres(&member.line(line));
            let answer = answer(command.current_dir(&member.directory), line.contains(&"--print"));
            book.note("", &line.join(" "), *product, &answer);
        }
        for (name, config) in files.refused() {
            member.write(&config);
            book.note("a member starts", name, *product, &ended(member.ended().0));
        }
        fs::remove_dir_all(&member.directory).expect("a directory");
    }
    book.judge("command lines of the program");
}

/// GOOD, BUSY, FAR, NONE and so on are files; NEW is none yet.
const LINES: &[&[&str]] = &[
    &[],
    &["--version"],
    &["--help"],
    &["--nosuch"],
    &["GOOD", "GOOD"],
    &["NONE"],
    &["--validate-config"],
    &["--validate-config", "NONE"],
    &["--validate-config", "EMPTY"],
    &["--validate-config", "BROKEN"],
    &["--validate-config", "LIST"],
    &["--validate-config", "NOWHERE"],
    &["--validate-config", "GOOD"],
    &["--validate-config", "--print", "GOOD"],
    &["--validate-config", "-p", "BROKEN"],
    &["--validate-config", "BUSY"],
    &["--validate-config", "--ignore-listen-port", "BUSY"],
    &["--validate-config", "-i", "-p", "BUSY"],
    &["--validate-config", "FAR"],
    &["--validate-config", "--generate-config"],
    &["--validate-config", "--generate-sample-config"],
    &["--generate-sample-config"],
    &["--generate-sample-config", "NEW"],
    &["--generate-sample-config", "NEW"],
    &["--generate-config", "--dsn", "host=127.0.0.1 port=1 user=x password=x"],
    &["--generate-config", "--dsn", "nonsense"],
    &["--generate-config"],
];

/// Configurations of every kind. Patroni wants addresses that others reach, and etcd's port open.
struct Files {
    directory: PathBuf,
    good: String,
    etcd: TcpListener,
    rest: u16,
}

impl Files {
    fn new(member: &Member) -> Files {
        let etcd = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = etcd.local_addr().expect("an address").port();
        let reachable = "connect_address: 10.77.0.11:";
        let good = member.config().replace("connect_address: 127.0.0.1:", reachable);
        let good = good.replace("127.0.0.1:1]", &format!("127.0.0.1:{port}]"));
        // The shortest that it takes.
        let good =
            good.replace("ttl: 5", "ttl: 20").replace("retry_timeout: 2", "retry_timeout: 3");
        Files { directory: member.directory.clone(), good, etcd, rest: member.rest }
    }

    /// The files; what keeps the port of `BUSY` busy.
    fn write(&self, line: &[&str]) -> Option<TcpListener> {
        let path = |name: &str| self.directory.join(name);
        let unreachable = self.good.replace(&self.etcd_port(), "1");
        let nowhere = self.good.replace("etcd3:", "nosuch:");
        for (name, text) in [
            ("GOOD", self.good.as_str()),
            ("BUSY", &self.good),
            ("FAR", &unreachable),
            ("NOWHERE", &nowhere),
            ("EMPTY", ""),
            ("BROKEN", "a: [\n"),
            ("LIST", "- a\n"),
        ] {
            fs::write(path(name), text).expect("a file");
        }
        let busy = line.contains(&"BUSY");
        busy.then(|| TcpListener::bind(("127.0.0.1", self.rest)).expect("a free port"))
    }

    fn etcd_port(&self) -> String {
        self.etcd.local_addr().expect("an address").port().to_string()
    }

    /// What a member does not start with.
    fn refused(&self) -> Vec<(&'static str, String)> {
        vec![
            ("nothing in the file", String::new()),
            ("not YAML", "a: [\n".to_owned()),
            ("a list", "- a\n".to_owned()),
            ("no store", self.good.replace("etcd3:", "nosuch:")),
        ]
    }
}

/// Exit code, and what is said where; `whole`: word for word.
fn answer(command: &mut Command, whole: bool) -> String {
    // No server of this machine is found by accident.
    command.env("PGHOST", "127.0.0.1").env("PGPORT", "1").env("PGPASSWORD", "x");
    // Patroni's sample asks `postgres` for its version.
    command.env("PATH", format!("{}:/usr/bin:/bin", bin_dir()));
    let output = command.stdin(Stdio::null()).output().expect("a program");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let out = match whole || out.lines().count() == 1 {
        // Run by `python -m` it does not know its name.
        true => out.replace("__main__.py", "patroni"),
        false if out.is_empty() => "nothing".to_owned(),
        false => "text".to_owned(),
    };
    format!("{}, on standard output: {out}", ended(output.status))
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(Ok(signal))) => format!("killed by {signal}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn signals_and_refusals() {
    let mut book = Book { meant: SIGNALS_DIFFER, ..Book::default() };
    for product in [Patroni, Pgvigil] {
        let etcd = Etcd::start(1);
        let rig = Rig::new(etcd.urls());
        let Some(program) = program(&rig, product) else { return };
        let mut member = rig.member_of("m", &program);
        member.write(&member.config());
        for wanted in [
            Signal::SIGHUP,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGABRT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
        ] {
            let answer = signalled(&mut member, wanted);
            book.note("a leader gets", wanted.as_str(), product, &answer);
        }
        member.start();
        member.wait_primary();
        for (what, answer) in refusals(&rig, &program, &member) {
            book.note("beside a leader", what, product, &answer);
        }
        for (what, answer) in optime(&etcd) {
            book.note("the leader writes optime/leader", what, product, &answer);
        }
    }
    book.judge("signals and refusals");
}

/// Whether it goes on, or how it ended and what became of PostgreSQL.
fn signalled(member: &mut Member, wanted: Signal) -> String {
    member.write(&member.config());
    member.start();
    member.wait_primary();
    let postmaster = member.postmaster().expect("a postmaster");
    let tagged = format!("{}tags:\n  zone: {wanted}\n", member.config());
    member.write(&tagged);
    signal(member.pid(), wanted);
    let ended_by = match wanted {
        Signal::SIGHUP => {
            wait_until("a reload", SOON, || {
                member.get("/patroni").filter(|answer| answer.body.contains("\"zone\": \"SIGHUP\""))
            });
            None
        }
        _ => member.exits_within(ENDS_WITHIN),
    };
    let left = if lives(postmaster) { "goes on" } else { "has stopped" };
    match ended_by {
        Some(status) => format!("{}, PostgreSQL {left}", ended(status)),
        None => {
            signal(member.pid(), Signal::SIGTERM);
            member.wait_exit(SOON);
            format!("it goes on, PostgreSQL {left}")
        }
    }
}

/// Others that are started while it leads, and end at once.
fn refusals(rig: &Rig, program: &[String], leader: &Member) -> Vec<(&'static str, String)> {
    let mut said = Vec::new();
    let other = rig.member_of("other", program);
    other.write(&other.config());
    other.initdb();
    said.push(("the data directory of another cluster", ended(other.ended().0)));
    let twin = rig.member_of("twin", program);
    twin.write(&twin.config().replace("name: twin", "name: m"));
    said.push(("a member of the same name", ended(twin.ended().0)));
    let port = rig.member_of("port", program);
    let rest = |of: &Member| format!("127.0.0.1:{}", of.rest);
    port.write(&port.config().replace(&rest(&port), &rest(leader)));
    said.push(("the REST port in use", ended(port.ended().0)));
    said
}

/// Where members before Patroni 2.1 look for the leader's position.
fn optime(etcd: &Etcd) -> [(&'static str, String); 2] {
    let get = |key: &str| {
        let key = format!("/service/wrong/{key}");
        etcd.etcdctl(&["get", "--print-value-only", &key]).expect("an answer of etcd")
    };
    let today = format!("{:?}", get("optime/leader"));
    let old = r#"{"conn_url":"postgres://10.77.0.19:5432/postgres","version":"2.0.2"}"#;
    etcd.etcdctl(&["put", "/service/wrong/members/old", old]).expect("an answer of etcd");
    let written = wait_until("optime/leader", SOON, || {
        let status: serde_json::Value = serde_json::from_str(&get("status")).ok()?;
        let position = get("optime/leader").parse().ok()?;
        (status["optime"].as_u64() == Some(position)).then_some("the position of /status")
    });
    [("for members of today", today), ("for one of Patroni 2.0", written.to_owned())]
}

#[test]
fn dns() {
    if !Path::new("/etc/resolv.conf").exists() {
        return println!("twins: dns: SKIPPED, there is no /etc/resolv.conf to put another over");
    }
    // Where DNS is: only root has that port, and may give a program another /etc/resolv.conf.
    let server = match NameServer::start_at(SocketAddr::from(([127, 77, 0, 53], 53))) {
        Ok(server) => server,
        Err(error) => return println!("twins: dns: SKIPPED, no name server at port 53: {error}"),
    };
    let mut book = Book { meant: &[], ..Book::default() };
    for product in [Patroni, Pgvigil] {
        let etcd = Etcd::start(1);
        let rig = Rig::new(etcd.urls());
        let Some(program) = program(&rig, product) else { return };
        let mut member = rig.member_of("m", &program);
        member.ask_dns(server.address.ip());
        // The last of all services: whoever finds it has asked for the others before.
        let peer = etcd.peers()[0].rsplit(':').next().and_then(|port| port.parse().ok());
        let records = vec![(0, "localhost".to_owned(), peer.expect("a port"))];
        server.set("_etcd-server-lab._tcp.lab.test", Entry::Records(records));
        let hosts = member.config();
        let hosts = hosts.lines().find(|line| line.starts_with("  hosts:")).expect("a line");
        let srv = "  srv: lab.test\n  srv_suffix: lab";
        member.lead(&member.config().replace(hosts, srv));
        let asked = server.asked();
        let asked = asked.iter().filter(|name| name.ends_with(".lab.test")).take(6);
        let asked: Vec<&str> = asked.map(String::as_str).collect();
        assert_eq!(asked.len(), 6, "{asked:?}");
        book.note("a member starts", "the names that it asks for", product, &asked.join(" "));
        if product == Pgvigil {
            let (code, text) = member.ctl(&["list"]);
            assert!(code == Some(0) && text.contains("| m "), "{text}");
        }
    }
    book.judge("etcd in DNS");
}
