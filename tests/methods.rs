//! Other ways than initdb and pg_basebackup to come to a data directory: the user's own scripts.

use std::fs;
use std::time::Duration;

use crate::etcd::Etcd;
use crate::lab::wait::wait_until;
use crate::rig::{self, Rig, script};

const SOON: Duration = Duration::from_secs(90);

#[test]
fn replica_methods_run_in_order_until_one_succeeds() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut leader = rig.member("a");
    leader.lead(&leader.config());
    let mut replica = rig.member("b");
    let calls = replica.directory.join("calls");
    let note = format!("echo \"$@\" >> {}", calls.display());
    let fails =
        script(&replica.directory, "fails", &format!("{note}\nmkdir $4; touch $4/x; false"));
    let copies = "for a in \"$@\"; do case $a in --datadir=*) d=${a#*=};; --connstring=*) \
                  c=${a#*=};; esac; done";
    let copy = format!("{}/pg_basebackup -X stream -c fast -D \"$d\" -d \"$c\"", rig::bin_dir());
    let works = script(&replica.directory, "works", &format!("{note}\n{copies}\n{copy}"));
    let methods = format!(
        "postgresql:
  create_replica_methods: [broken, fails, works]
  broken:
    command: /nonexistent/program
  fails:
    command: {fails} one 'two three'
    no_params: true
    stanza: main
  works:
    command: {works}
    speed: 7
"
    );
    replica
        .write(&replica.config().replace("postgresql:\n  listen", &format!("{methods}  listen")));
    replica.start();
    wait_until("a streaming replica", SOON, || {
        replica.get("/replica?lag=16MB").filter(|answer| answer.status == 200)
    });
    let calls = fs::read_to_string(calls).expect("the calls");
    let lines: Vec<&str> = calls.lines().collect();
    assert_eq!(lines[0], "one two three --stanza=main");
    let data = replica.data().display().to_string();
    let start = format!("--speed=7 --scope=wrong --role=replica --datadir={data} --connstring=");
    assert!(lines[1].starts_with(&start) && lines[1].contains("host=127.0.0.1"), "{calls}");
    assert_eq!(lines.len(), 2, "{calls}");
    assert!(replica.log().contains("replica has been created using works"));

    // From the leader: the built-in method, whatever is configured; its progress is told.
    fs::write(replica.directory.join("works"), "#!/bin/sh\nfalse\n").expect("a script");
    let body = serde_json::json!({"from_leader": true});
    assert_eq!(replica.post("/reinitialize", &body).map(|a| a.status), Some(200));
    let progress = wait_until("the progress", SOON, || {
        let status = replica.get("/patroni")?.json();
        status["vigil"]["basebackup"]["total_bytes"].as_u64()
    });
    assert!(progress > 1 << 20, "{progress}");
    wait_until("the new copy", SOON, || {
        replica.log().contains("replica has been created using basebackup").then_some(())
    });
    wait_until("a streaming replica", SOON, || {
        replica.get("/replica?lag=16MB").filter(|answer| answer.status == 200)
    });
    wait_until("the progress to go", SOON, || {
        let status = replica.get("/patroni")?.json();
        (status["vigil"].is_object() && status["vigil"]["basebackup"].is_null()).then_some(())
    });
}

#[test]
fn the_users_own_bootstrap_makes_the_cluster() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    let calls = member.directory.join("calls");
    let restore = format!(
        "echo \"$@\" > {calls}\nd=${{2#*=}}\n\
         {bin}/initdb --no-sync -U postgres -A reject -D \"$d\" && touch \"$d/standby.signal\"",
        calls = calls.display(),
        bin = rig::bin_dir()
    );
    let restore = script(&member.directory, "restore", &restore);
    // Slower than ttl: the lease must last.
    let after =
        script(&member.directory, "after", &format!("sleep 7; echo \"$1\" >> {}", calls.display()));
    let bootstrap = format!(
        "bootstrap:
  method: mine
  mine:
    command: {restore}
    source: archive
    recovery_conf:
      restore_command: 'false'
      recovery_target_action: promote
  post_bootstrap: {after}
"
    );
    member.write(&member.config().replace("bootstrap:\n", &bootstrap));
    member.start();
    wait_until("an initialized cluster", SOON, || {
        etcd.etcdctl(&["get", "/service/wrong/initialize", "--print-value-only"])
            .is_ok_and(|value| value.len() > 10)
            .then_some(())
    });
    member.wait_primary();
    let called = fs::read_to_string(calls).expect("the calls");
    let data = member.data();
    let first = format!("--scope=wrong --datadir={} --source=archive\n", data.display());
    assert!(called.starts_with(&first), "{called}");
    assert!(called.contains("dbname=postgres user=postgres"), "{called}");
    let hba = fs::read_to_string(data.join("pg_hba.conf")).expect("pg_hba.conf");
    assert!(hba.contains("scram-sha-256") && !hba.contains("\"postgres\" trust"), "{hba}");
    let conf = fs::read_to_string(data.join("postgresql.conf")).expect("postgresql.conf");
    assert!(!conf.contains("restore_command"), "{conf}");
    assert!(!member.log().contains("Frozen"), "{}", member.log());
}

#[test]
fn a_bootstrap_that_cannot_be_finished_is_set_aside() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    for (wrong, said) in [
        ("bootstrap:\n  method: mine\n  mine: {command: /bin/false}\n", "bootstrap failed"),
        ("bootstrap:\n  post_bootstrap: /bin/false\n", "post_bootstrap: "),
    ] {
        let member = rig.member("m");
        member.write(&member.config().replace("bootstrap:\n", wrong));
        let log = member.refused();
        assert!(log.contains("ERROR: Failed to bootstrap cluster"), "{log}");
        assert!(log.contains(said) || !member.data().exists(), "{log}");
        assert!(!member.data().exists());
        let keys = etcd.etcdctl(&["get", "--prefix", "--keys-only", "/service/wrong/"]);
        let keys = keys.expect("etcdctl");
        assert!(!keys.contains("initialize") && !keys.contains("leader"), "{keys}");
    }
    assert!(rig.member("m").directory.join("data.failed").exists());
}
