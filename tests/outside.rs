//! What others see of a member: systemd's notify socket, Patroni's own command line.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::etcd::Etcd;
use crate::lab::process::signal;
use crate::lab::pypi;
use crate::lab::wait::{let_pass, wait_until};
use crate::rig::{Member, Rig, as_postgres, free_port, make_directory, output};

const SOON: Duration = Duration::from_secs(30);

/// Everything that came so far, one message a line, and what comes until one contains `wanted`.
fn hear(socket: &UnixDatagram, heard: &mut String, wanted: &str) {
    wait_until(wanted, SOON, || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        heard.contains(wanted).then_some(())
    });
}

/// systemd's end, and its address.
fn notify_socket(member: &Member) -> (UnixDatagram, String) {
    let folder = member.directory.join("notify");
    make_directory(&folder);
    let path = folder.join("socket");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_nonblocking(true).expect("non-blocking");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    (socket, path.display().to_string())
}

#[test]
fn systemd_hears_ready_status_reload_and_stop() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.write(&member.config());
    let (socket, path) = notify_socket(&member);
    member.start_with("NOTIFY_SOCKET", &path);
    let mut heard = String::new();
    hear(&socket, &mut heard, "READY=1");
    assert!(!heard.contains("RELOADING"), "{heard}");
    // READY does not wait for the cluster; STATUS tells of it.
    hear(&socket, &mut heard, "STATUS=primary running, timeline 1, lease confirmed for ");
    hear(&socket, &mut heard, " s: no action. I am (m), the leader");
    heard.clear();
    let supervisor = member.pid();
    signal(supervisor, Signal::SIGHUP);
    hear(&socket, &mut heard, "RELOADING=1");
    assert!(heard.contains("MONOTONIC_USEC="), "{heard}");
    hear(&socket, &mut heard, "READY=1");
    heard.clear();
    signal(supervisor, Signal::SIGTERM);
    hear(&socket, &mut heard, "STOPPING=1");
    assert!(member.wait_exit(SOON).success());
}

#[test]
fn the_rest_api_moves_with_a_reload() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.lead(&member.config());
    let before = member.rest;
    member.rest = free_port();
    member.write(&member.config());
    signal(member.pid(), Signal::SIGHUP);
    member.wait_primary();
    let old = SocketAddr::from(([127, 0, 0, 1], before));
    assert!(TcpStream::connect(old).is_err(), "it still listens on {old}");
    // Members and ctl find it there.
    wait_until("the new address in the member key", SOON, || {
        let list = member.get("/cluster")?.json();
        let url = list["members"][0]["api_url"].as_str()?.to_owned();
        (url == format!("http://127.0.0.1:{}/patroni", member.rest)).then_some(())
    });
    assert!(!member.log().contains("ERROR"), "{}", member.log());
}

/// The agent has read its configuration and waits for another file when the signal comes, which the
/// supervisor counts before it has told this agent anything.
#[test]
fn a_reload_that_comes_while_the_agent_starts_is_not_lost() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let mut member = rig.member("m");
    member.write(&member.config());
    let cached = member.data().join("patroni.dynamic.json");
    make_directory(&member.data());
    nix::unistd::mkfifo(&cached, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a pipe");
    let (socket, path) = notify_socket(&member);
    member.start_with("NOTIFY_SOCKET", &path);
    let mut pipe = wait_until("the agent to read", SOON, || {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(nix::libc::O_NONBLOCK).open(&cached).ok()
    });
    member.rest = free_port();
    member.write(&member.config());
    signal(member.pid(), Signal::SIGHUP);
    hear(&socket, &mut String::new(), "RELOADING=1");
    pipe.write_all(b"{}").expect("read");
    drop(pipe);
    wait_until("the new address", SOON, || member.get("/liveness"));
    hear(&socket, &mut String::new(), "READY=1");
}

#[test]
fn a_restart_that_nothing_can_come_of_is_answered() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let mut member = rig.member("m");
    member.write(&member.config());
    member.start();
    let restart = || member.post("/restart", &json!({}));
    wait_until("an answer", SOON, || {
        restart().filter(|a| a.status == 503 && a.body.contains("the data directory is empty"))
    });
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    // That gives a failover no time to wait, and people who restart a member their usual one.
    let at_once = "retry_timeout: 2\n    primary_start_timeout: 0\n";
    member.lead(&member.config().replace("retry_timeout: 2\n", at_once));
    assert_eq!(member.post("/restart", &json!({})).expect("an answer").status, 200);
    let pid = member.postmaster().expect("a pid");
    std::fs::remove_file(member.data().join("global/pg_control")).expect("removed");
    signal(pid, Signal::SIGKILL);
    let answer = wait_until("no server", SOON, || {
        member.post("/restart", &json!({})).filter(|answer| answer.status != 200)
    });
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("restart failed: "), "{answer:?}");
    assert!(answer.body.contains("pg_control"), "{answer:?}");
}

#[test]
fn patronis_own_command_line_reads_the_cluster_as_ours_does() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.lead(&member.config());
    let python = match pypi::patroni(&member.directory) {
        Ok(command) => command[0].clone(),
        Err(reason) => {
            println!("SKIPPED: Patroni cannot be had from PyPI: {reason}");
            return;
        }
    };
    let file = member.file();
    let code = "from patroni.ctl import ctl; ctl()";
    for arguments in [&["list", "-f", "json"][..], &["list", "-f", "tsv"], &["show-config"]] {
        wait_until("the same answer", SOON, || {
            let theirs = [&[python.as_str(), "-c", code, "-c", &file][..], arguments].concat();
            let mut theirs: Command = as_postgres(&theirs);
            let theirs = output(theirs.env("LANG", "C.UTF-8"));
            let ours = member.ctl(arguments);
            assert_eq!(theirs.0, Some(0), "{}", theirs.1);
            (theirs == ours).then_some(())
        });
    }
}

/// `driver: testing`: a named pipe for a device.
#[test]
fn a_device_that_appears_while_the_member_leads_is_armed() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    let device = member.directory.join("device");
    let watchdog =
        format!("watchdog: {{mode: automatic, driver: testing, device: {}}}\n", device.display());
    member.lead(&(member.config() + &watchdog));
    let armed = || {
        let page = member.get("/metrics").expect("metrics").body;
        page.lines().any(|l| l.starts_with("pgvigil_watchdog_armed{") && l.ends_with(" 1"))
    };
    assert!(!armed());
    let (code, text) = output(&mut as_postgres(&["mkfifo", &device.display().to_string()]));
    assert_eq!(code, Some(0), "{text}");
    wait_until("an armed device", SOON, || armed().then_some(()));
    assert!(member.log().contains("a watchdog device has appeared"), "{}", member.log());
    assert_eq!(member.get("/primary").expect("an answer").status, 200);
}

#[test]
fn a_server_that_does_not_let_us_in_is_named_and_left_alone() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    let right = member.config();
    member.lead(&right);
    let rule = "- host all all 127.0.0.1/32 ";
    member.write(&right.replace(&format!("{rule}scram-sha-256"), &format!("{rule}reject")));
    signal(member.pid(), Signal::SIGHUP);
    let hba = member.data().join("pg_hba.conf");
    let holds = |word: &str| std::fs::read_to_string(&hba).is_ok_and(|text| text.contains(word));
    wait_until("the rule", SOON, || holds("reject").then_some(()));
    // The session that is open would go on.
    let first = member.postmaster().expect("a postmaster");
    signal(first, Signal::SIGKILL);
    let second = wait_until("another", SOON, || member.postmaster().filter(|pid| *pid != first));
    let said = "PostgreSQL runs and does not serve pgvigil: ";
    wait_until("its words", SOON, || {
        member.log().lines().any(|l| l.contains(said) && l.contains("pg_hba")).then_some(())
    });
    // For longer than a lease of 5 s lives.
    let_pass(Duration::from_secs(6));
    assert_eq!(member.postmaster(), Some(second), "{}", member.log());
    member.write(&right);
    signal(member.pid(), Signal::SIGHUP);
    member.wait_primary();
    assert_eq!(member.postmaster(), Some(second), "{}", member.log());
}

/// What an upgrade does: nobody is alarmed, and PostgreSQL does not notice.
#[test]
fn a_supervisor_that_is_replaced_is_no_error() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.lead(&member.config());
    let (postmaster, agent) = (member.postmaster(), member.agent());
    signal(member.pid(), Signal::SIGUSR2);
    wait_until("another agent that leads", SOON, || {
        let another = member.agent().is_some_and(|now| Some(now) != agent);
        let leads = member.get("/primary").is_some_and(|answer| answer.status == 200);
        (another && leads).then_some(())
    });
    assert_eq!(member.postmaster(), postmaster);
    let log = member.log();
    let alarm = |line: &&str| line.contains("ERROR") || line.contains("the supervisor is gone");
    assert_eq!(log.lines().find(alarm), None, "{log}");
}
