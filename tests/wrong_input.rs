//! Wrong input: each mistake gets one clear line and exit code 1 or an HTTP 4xx, and nothing is
//! lost. Real programs on loopback.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::etcd::Etcd;
use crate::lab::process::{lives, signal};
use crate::lab::wait::wait_until;
use crate::rig::{self, Member, Rig, as_postgres, output};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_configuration_that_cannot_be_read_is_refused_with_its_place() {
    let rig = Rig::new(Vec::new());
    let cases = [
        ("scope: [a\n", "config.yml:2:1: "),
        ("", "config.yml:"),
        ("# nothing\n", "config.yml:"),
        ("name: x\n", "scope"),
        ("- a\n", "config.yml:1:1: "),
    ];
    for (text, expected) in cases {
        let member = rig.member("m");
        member.write(text);
        let log = member.refused();
        assert!(log.contains(expected), "{text:?}: {log}");
        assert!(!member.data().exists());
    }
}

#[test]
fn variables_that_are_not_text_are_left_alone_and_one_of_ours_is_refused() {
    let rig = Rig::new(Vec::new());
    let odd = OsStr::from_bytes(b"\xff");
    let run = |name: &str| {
        let mut command = as_postgres(&[&rig.program(), "check-config", "/nonexistent.yml"]);
        output(command.env(name, odd))
    };
    let (code, text) = run("LESS_TERMCAP_mb");
    assert!(code == Some(1) && text.contains("/nonexistent.yml"), "{code:?}: {text}");
    let (code, text) = run("PATRONI_NAME");
    let refusal = "error: PATRONI_NAME: the value of this environment variable is not UTF-8";
    assert_eq!((code, text.trim()), (Some(1), refusal));
}

#[test]
fn all_errors_are_told_at_once_and_unknown_keys_are_warned_of() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let member = rig.member("m");
    let wrong = member.config().replace("  pgpass:", "  pg_pass:").replace("scope: wrong", "s: 1");
    member.write(&wrong.replace(&format!(":{}", member.rest), ":99999"));
    let log = member.refused();
    assert!(log.contains("restapi.listen") && log.contains("scope"), "{log}");
    let checked = output(&mut as_postgres(&[&rig.program(), "check-config", &member.file()]));
    assert_eq!(checked.0, Some(1));
    assert!(checked.1.contains("pg_pass"), "{}", checked.1);
}

#[test]
fn a_directory_of_files_is_a_configuration() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let member = rig.member("m");
    let folder = member.directory.join("conf.d");
    rig::make_directory(&folder);
    let (first, second) = member.config().split_once("postgresql:").map_or_else(
        || panic!("a section postgresql"),
        |(a, b)| (a.to_owned(), format!("postgresql:{b}")),
    );
    fs::write(folder.join("a.yml"), first).expect("a file");
    fs::write(folder.join("b.yml"), &second).expect("a file");
    let check = || {
        output(&mut as_postgres(&[&rig.program(), "check-config", &folder.display().to_string()]))
    };
    let (code, text) = check();
    assert_eq!(code, Some(0), "{text}");
    fs::write(folder.join("b.yml"), second.replace("data_dir", "[")).expect("a file");
    let (code, text) = check();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("b.yml:"), "{text}");
}

#[test]
fn a_missing_program_is_named() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let member = rig.member("m");
    let bin = rig::bin_dir();
    member.write(&member.config().replace(&bin, "/nonexistent/bin"));
    let log = member.refused();
    assert!(log.contains("/nonexistent/bin"), "{log}");
    rig::one_error(&log);
}

#[test]
fn a_port_in_use_is_named() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let member = rig.member("m");
    for port in [member.rest, member.port] {
        let taken = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        member.write(&member.config());
        let log = member.refused();
        rig::one_error(&log);
        assert!(log.contains(&format!("127.0.0.1:{port}")), "{log}");
        assert!(log.contains("in use"), "{log}");
        drop(taken);
    }
}

#[test]
fn a_directory_that_is_no_cluster_is_not_touched() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let member = rig.member("m");
    rig::make_directory(&member.data());
    fs::write(member.data().join("letters"), "dear").expect("a file");
    member.write(&member.config());
    let log = member.refused();
    rig::one_error(&log);
    assert!(log.contains("letters") && log.contains("/data"), "{log}");
    assert_eq!(fs::read_to_string(member.data().join("letters")).expect("it"), "dear");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let member = rig.member("m");
    member.initdb();
    member.write(&member.config());
    let before = contents(&member.data());
    fs::set_permissions(member.data(), fs::Permissions::from_mode(0o500)).expect("chmod");
    let log = member.refused();
    rig::one_error(&log);
    assert!(log.contains("/data") && log.contains("Permission denied"), "{log}");
    assert_eq!(contents(&member.data()), before);
}

#[test]
fn a_full_data_directory_is_refused() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let member = rig.member("m");
    rig::make_directory(&member.data());
    let Some(_mount) = rig::Mount::tmpfs(&member.data(), "64k") else {
        println!("skipped: only root can mount a small file system");
        return;
    };
    // lost+found alone is an empty directory: what fills the volume lies in there.
    let filler = member.data().join("lost+found");
    fs::create_dir(&filler).expect("a directory");
    let _ = fs::write(filler.join("filler"), vec![0; 1 << 20]);
    member.write(&member.config());
    let log = member.refused();
    rig::one_error(&log);
    assert!(log.contains("/data") && log.contains("No space left"), "{log}");
}

#[test]
fn without_etcd_a_member_waits_and_goes_on_when_it_is_there() {
    let mut etcd = Etcd::start(1);
    etcd.kill_member(0);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.write(&member.config());
    member.start();
    wait_until("a word about etcd", SOON, || {
        member.log().contains("waiting on etcd: ").then_some(())
    });
    assert_eq!(member.get("/liveness").map(|a| a.status), Some(200));
    assert_ne!(member.get("/primary").map(|a| a.status), Some(200));
    etcd.start_member(0);
    member.wait_primary();
    assert!(member.log().contains("the store answers again"), "{}", member.log());
}

/// The primary goes on by what was accepted last: with another agent, and with another supervisor.
#[test]
fn a_file_that_is_broken_later_costs_a_running_member_nothing() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    let right = member.config();
    member.lead(&right);
    let postmaster = member.postmaster();
    let unusable = [
        right.replace("scope:", "scope: ["),
        right.replace("name: m", "name: other"),
        right.replace("  listen: 127.0.0.1:", "  certfile: /none.crt\n  listen: 127.0.0.1:"),
        right.clone() + "ctl:\n  cacert: /none.crt\n",
    ];
    for (kills, wrong) in (1..).zip(&unusable) {
        member.write(wrong);
        let agent = member.agent().expect("an agent");
        signal(agent, Signal::SIGKILL);
        wait_until("the next agent", SOON, || {
            let accepted = member.log().matches("what was accepted last stays in force").count();
            let leads = member.get("/primary").is_some_and(|a| a.status == 200);
            (accepted == kills && leads && member.agent() != Some(agent)).then_some(())
        });
    }
    // What a reload accepts is what the next one falls back on.
    member.write(&(right.clone() + "tags: {clonefrom: true}\n"));
    let tagged = |member: &Member| {
        let answer = member.get("/patroni").filter(|answer| answer.status == 200);
        answer.is_some_and(|answer| answer.json()["tags"]["clonefrom"] == true).then_some(())
    };
    assert_eq!(member.post("/reload", &json!(null)).map(|answer| answer.status), Some(202));
    wait_until("the reload", SOON, || tagged(&member));
    signal(member.pid(), Signal::SIGKILL);
    wait_until("its end", SOON, || (!lives(member.pid())).then_some(()));
    member.write(&unusable[0]);
    member.start();
    member.wait_primary();
    wait_until("the tags", SOON, || tagged(&member));
    assert_eq!(member.postmaster(), postmaster);
    let log = member.log();
    assert!(log.contains("config.yml:2:5: "), "{log}");

    // An agent before it kept nothing, and what this one cannot run by it does not keep.
    for path in kept_files(&member) {
        fs::remove_file(path).expect("a file of the last agent");
    }
    let (port, other) = (member.port.to_string(), rig::free_port().to_string());
    member.write(&right.replace("/data\n", "/data2\n").replace(&port, &other));
    signal(member.agent().expect("an agent"), Signal::SIGKILL);
    wait_until("a refusal", SOON, || {
        member.log().contains("the data directory of a running member cannot change").then_some(())
    });
    assert!(kept_files(&member).is_empty());
    member.write(&right);
    wait_until("an agent that can", SOON, || (kept_files(&member).len() == 1).then_some(()));

    // After an orderly end the start is a person's.
    member.write(&unusable[0]);
    signal(member.pid(), Signal::SIGTERM);
    assert!(member.wait_exit(SOON).success());
    assert!(kept_files(&member).is_empty());
    let log = member.refused();
    assert!(log.contains("config.yml:2:5: ") && member.postmaster().is_none(), "{log}");
}

/// What was accepted last of its configuration.
fn kept_files(member: &Member) -> Vec<PathBuf> {
    let own = member.file().replace('/', "-");
    let files = fs::read_dir("/dev/shm").expect("a folder").flatten().map(|entry| entry.path());
    files.filter(|path| path.to_string_lossy().ends_with(&own)).collect()
}

#[test]
fn an_address_that_cannot_be_had_costs_a_running_member_its_rest_api_and_no_more() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.lead(&member.config());
    let postmaster = member.postmaster();
    let taken = TcpListener::bind(("127.0.0.1", rig::free_port())).expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    member.write(&member.config().replace(&member.rest.to_string(), &port.to_string()));
    let kill_agent = |member: &Member| signal(member.agent().expect("an agent"), Signal::SIGKILL);
    let leads = |member: &Member| {
        member.get("/primary").is_some_and(|answer| answer.status == 200).then_some(())
    };

    kill_agent(&member);
    wait_until("the old address", SOON, || {
        member.log().contains("the REST API stays at 127.0.0.1:").then(|| leads(&member))?
    });
    assert_eq!(member.post("/reload", &json!(null)).map(|answer| answer.status), Some(202));
    wait_until("the reload", SOON, || {
        member.log().contains("Reloaded the configuration").then_some(())
    });
    kill_agent(&member);
    wait_until("none", SOON, || {
        member.log().contains("there is no REST API until restapi.listen").then_some(())
    });
    drop(taken);
    member.rest = port;
    wait_until("the new address", SOON, || leads(&member));
    assert_eq!(member.postmaster(), postmaster);
}

#[test]
fn a_certificate_is_renewed_beside_a_file_with_an_error() {
    let rig = Rig::new(vec!["http://127.0.0.1:1".to_owned()]);
    let mut member = rig.member("m");
    let [key, certificate] =
        ["rest.key", "rest.crt"].map(|name| member.directory.join(name).display().to_string());
    let renew = || {
        let files = ["-keyout", &key, "-out", &certificate];
        let kind = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=m"];
        let (code, text) = output(Command::new("openssl").args(kind).args(files));
        assert_eq!(code, Some(0), "{text}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
    };
    let address = format!("127.0.0.1:{}", member.rest);
    let served = || {
        let line = "openssl s_client -connect \"$0\" </dev/null | openssl x509 -noout -serial";
        let (code, text) = output(Command::new("sh").args(["-c", line, &address]));
        (code == Some(0))
            .then(|| text.lines().find(|l| l.starts_with("serial=")).map(str::to_owned))?
    };
    renew();
    let files = format!("  certfile: {certificate}\n  keyfile: {key}\n  listen: 127.0.0.1:");
    member.write(&member.config().replacen("  listen: 127.0.0.1:", &files, 1));
    member.start();
    let old = wait_until("the certificate", SOON, served);
    renew();
    member.write("scope: [");
    signal(member.pid(), Signal::SIGHUP);
    wait_until("the new one", SOON, || served().filter(|new| *new != old));
    let log = member.log();
    assert!(log.contains("the configuration was not reloaded"), "{log}");
}

#[test]
fn an_unknown_member_is_no_candidate() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.lead(&member.config());
    for (path, body) in [
        ("/switchover", json!({"leader": "m", "candidate": "nobody"})),
        ("/switchover", json!({"leader": "nobody"})),
        ("/switchover", json!({})),
        ("/failover", json!({"candidate": "nobody"})),
        ("/failover", json!({})),
    ] {
        let answer = member.post(path, &body).expect("an answer");
        assert!((400..500).contains(&answer.status), "{path} {body}: {answer:?}");
        assert!(!answer.body.trim().is_empty(), "{path} {body}");
    }
    for body in ["", "{", "[]"] {
        let answer = member.ask("POST", "/switchover", body).expect("an answer");
        assert!((400..500).contains(&answer.status), "{body:?}: {answer:?}");
    }
    for arguments in [
        &["switchover", "--leader", "m", "--candidate", "nobody", "--force"][..],
        &["switchover", "--leader", "nobody", "--force"],
        &["failover", "--candidate", "nobody", "--force"],
        &["reinit", "wrong", "nobody", "--force"],
    ] {
        let (code, text) = member.ctl(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert!(text.contains("nobody") || text.contains("No candidates"), "{arguments:?}: {text}");
    }
    assert_eq!(member.get("/primary").map(|a| a.status), Some(200));
    let asked = etcd.etcdctl(&["get", "/service/wrong/failover"]).expect("etcdctl");
    assert!(asked.is_empty(), "{asked}");
}

#[test]
fn the_data_directory_of_another_cluster_is_refused() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut first = rig.member("m");
    first.lead(&first.config());
    let second = rig.member("n");
    second.write(&second.config());
    second.initdb();
    let before = contents(&second.data());
    let log = second.refused();
    rig::one_error(&log);
    assert!(log.contains("system ID mismatch, node n belongs to a different cluster"), "{log}");
    assert_eq!(contents(&second.data()), before);
    assert_eq!(first.get("/primary").map(|a| a.status), Some(200));
}

/// Names at the top of a directory.
fn contents(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a directory").flatten();
    let mut names: Vec<String> =
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
