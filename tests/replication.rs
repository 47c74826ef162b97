//! Synchronous standbys by quorum and by number, permanent slots, callbacks and the log file, with
//! the real PostgreSQL and etcd.

use std::fs;
use std::time::Duration;

use crate::etcd::Etcd;
use crate::lab::wait::wait_until;
use crate::rig::{self, Member, Rig};

const SOON: Duration = Duration::from_secs(120);

const DYNAMIC: &str = "retry_timeout: 2
    synchronous_mode: quorum
    member_slots_ttl: 1h
    slots:
      phys: {type: physical}
      logi: {type: logical, database: postgres, plugin: test_decoding}
    postgresql:
      parameters: {wal_level: logical}
";

fn psql(member: &Member, sql: &str) -> Option<String> {
    psql_in("postgres", member, sql)
}

fn psql_in(database: &str, member: &Member, sql: &str) -> Option<String> {
    let (program, port) = (format!("{}/psql", rig::bin_dir()), member.port.to_string());
    let host = member.directory.display().to_string();
    let command =
        [&program, "-h", &host, "-p", &port, "-U", "postgres", "-d", database, "-XAtc", sql];
    let (code, text) = rig::output(&mut rig::as_postgres(&command));
    (code == Some(0)).then(|| text.trim().to_owned())
}

fn wait_for(member: &Member, sql: &str, want: &str) {
    let mut last = None;
    let seen = wait_until(sql, SOON, || {
        let now = psql(member, sql);
        if now != last {
            println!("{sql}: {now:?}, wanted {want}");
        }
        last = now;
        last.as_deref().filter(|text| *text == want).map(str::to_owned)
    });
    assert_eq!(seen, want);
}

fn wait_sync(etcd: &Etcd, want: &str) {
    wait_until(want, SOON, || {
        let sync = etcd.etcdctl(&["get", "/service/wrong/sync", "--print-value-only"]).ok()?;
        (sync.trim() == want).then_some(())
    });
}

const SLOTS: &str =
    "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
const NAMES: &str = "SHOW synchronous_standby_names";

#[test]
fn a_quorum_of_standbys_and_the_slots_survive_the_primary() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut members: Vec<Member> = ["a", "b", "c"].iter().map(|name| rig.member(name)).collect();
    for member in &mut members {
        let (calls, base) = (member.directory.join("calls"), member.directory.display());
        let callback = format!("postgresql:\n  callbacks: {{on_reload: '{base}/note'}}\n");
        let log = format!("log: {{dir: '{base}', format: '%(levelname)-8s %(message)s'}}\n");
        let config = member.config().replace("retry_timeout: 2\n", DYNAMIC);
        member.write(&(log + &config.replace("postgresql:\n  listen", &(callback + "  listen"))));
        rig::script(&member.directory, "note", &format!("echo \"$@\" >> {}", calls.display()));
    }
    let first = members.iter_mut().next().expect("a member");
    first.start();
    first.wait_primary();
    for member in &mut members[1..] {
        member.start();
    }
    wait_sync(&etcd, r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#);
    wait_for(&members[0], NAMES, "ANY 1 (b,c)");
    wait_for(&members[0], SLOTS, "b,c,logi,phys");
    // Its copy of the logical slot comes with a restart; until then there are only the others.
    wait_for(&members[1], SLOTS, "a,c,logi,phys");
    let moved = "SELECT restart_lsn > '0/2000000' FROM pg_replication_slots WHERE slot_name = 'c'";
    assert!(psql(&members[0], "CREATE TABLE t (n int); SELECT pg_switch_wal()").is_some());
    wait_for(&members[1], moved, "t");

    let number = r#"{"synchronous_mode": true, "synchronous_node_count": 2,
                     "postgresql": {"parameters": {"work_mem": "5MB", "no_such": 1}}}"#;
    assert_eq!(members[0].ask("PATCH", "/config", number).map(|a| a.status), Some(200));
    wait_sync(&etcd, r#"{"leader":"a","quorum":0,"sync_standby":"b,c"}"#);
    wait_for(&members[0], NAMES, "2 (b,c)");
    wait_until("on_reload", SOON, || {
        let calls = fs::read_to_string(members[1].directory.join("calls")).ok()?;
        calls.contains("on_reload replica wrong").then_some(())
    });
    wait_for(&members[1], "SHOW work_mem", "5MB");
    // It would keep every member from its next start.
    let written = members[1].directory.join("data/postgresql.conf");
    assert!(!fs::read_to_string(written).expect("a configuration").contains("no_such"));
    let quorum = r#"{"synchronous_mode": "quorum", "synchronous_node_count": 1}"#;
    assert_eq!(members[0].ask("PATCH", "/config", quorum).map(|a| a.status), Some(200));
    wait_sync(&etcd, r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#);
    assert!(psql(&members[0], "INSERT INTO t VALUES (7)").is_some());

    drop(members.remove(0));
    let leader = wait_until("another primary", SOON, || {
        members.iter().position(|m| m.get("/primary").is_some_and(|a| a.status == 200))
    });
    assert_eq!(psql(&members[leader], "SELECT n FROM t").as_deref(), Some("7"));
    let other = members[1 - leader].directory.file_name().expect("a name");
    let other = other.to_string_lossy();
    let key = |of: &str| {
        let name = if other == "b" { "c" } else { "b" };
        format!(r#"{{"leader":"{name}","quorum":0,"sync_standby":"{of}"}}"#)
    };
    wait_sync(&etcd, &key(&other));
    wait_for(&members[leader], SLOTS, &format!("a,{other},logi,phys"));
    let log = fs::read_to_string(members[leader].directory.join("patroni.log")).expect("a log");
    assert!(log.contains("INFO     promoted self to leader by acquiring session lock"), "{log}");
}

const LOGICAL: &str = "retry_timeout: 2
    slots:
      logi: {type: logical, database: shop, plugin: test_decoding}
    postgresql:
      basebackup: {checkpoint: fast}
      parameters: {wal_level: logical}
";

/// What the consumer of the slot reads now, once.
fn consumed(member: &Member) -> String {
    let sql = "SELECT string_agg(substring(data FROM 'INSERT.*:(.*)'), ',') \
               FROM pg_logical_slot_get_changes('logi', NULL, NULL) WHERE data LIKE '%INSERT%'";
    wait_until("the consumer's rows", SOON, || psql_in("shop", member, sql))
}

#[test]
fn a_logical_slot_goes_on_after_a_switchover_and_a_failover() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut members: Vec<Member> = ["a", "b"].iter().map(|name| rig.member(name)).collect();
    for member in &mut members {
        member.write(&member.config().replace("retry_timeout: 2\n", LOGICAL));
        member.start();
    }
    let leads = |m: &Member| m.get("/primary").is_some_and(|a| a.status == 200);
    let first = wait_until("a primary", SOON, || members.iter().position(leads));
    let (old, new) = (&members[first], &members[1 - first]);
    wait_until("the database", SOON, || psql(old, "CREATE DATABASE shop"));
    assert!(psql_in("shop", old, "CREATE TABLE t (n int)").is_some());
    let there = "SELECT database FROM pg_replication_slots WHERE slot_name = 'logi'";
    wait_for(old, there, "shop");
    assert!(psql_in("shop", old, "INSERT INTO t VALUES (1)").is_some());
    assert_eq!(consumed(old), "1");
    wait_for(new, there, "shop");
    wait_for(new, "SHOW hot_standby_feedback", "on");
    let moved = |from: &Member, to: &Member| {
        let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'logi'";
        let at = psql(from, sql).expect("a position");
        let sql = format!(
            "SELECT confirmed_flush_lsn >= '{at}' FROM pg_replication_slots \
             WHERE slot_name = 'logi'"
        );
        wait_for(to, &sql, "t");
    };
    moved(old, new);
    wait_until("a proof", SOON, || {
        new.log().contains("logi is safe to be used after a failover").then_some(())
    });
    assert_eq!(new.log().matches("restarting with copies").count(), 1, "{}", new.log());

    assert!(psql_in("shop", old, "INSERT INTO t VALUES (2)").is_some());
    let name = |m: &Member| m.directory.file_name().expect("a name").to_string_lossy().into_owned();
    let asked = serde_json::json!({"leader": name(old), "candidate": name(new)});
    assert_eq!(old.post("/switchover", &asked).expect("an answer").status, 200);
    new.wait_primary();
    assert_eq!(consumed(new), "2");
    assert!(psql_in("shop", new, "INSERT INTO t VALUES (3)").is_some());
    wait_until("a replica", SOON, || old.get("/replica?lag=0").filter(|a| a.status == 200));
    wait_for(old, there, "shop");
    moved(new, old);

    drop(members.remove(1 - first));
    let last = &members[0];
    last.wait_primary();
    assert!(psql_in("shop", last, "INSERT INTO t VALUES (4)").is_some());
    assert_eq!(consumed(last), "3,4");
}

#[test]
fn a_standby_cluster_follows_is_promoted_and_follows_again() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut near = rig.member("a");
    near.lead(&near.config());
    let follow = format!("dcs:\n    standby_cluster: {{host: 127.0.0.1, port: {}}}\n", near.port);
    let mut far: Vec<Member> = ["r", "s"].iter().map(|name| rig.member(name)).collect();
    for member in &mut far {
        let config = member.config().replace("scope: wrong", "scope: far");
        member.write(&config.replace("dcs:\n", &follow));
        member.start();
        let status = |path: &str| member.get(path).filter(|answer| answer.status == 200);
        wait_until("a standby leader or its replica", SOON, || {
            status("/standby-leader").or_else(|| status("/replica?lag=1MB"))
        });
    }
    let leads = |m: &Member| m.get("/standby-leader").is_some_and(|a| a.status == 200);
    assert_eq!(far.iter().filter(|m| leads(m)).count(), 1);
    let leader = far.iter().position(leads).expect("a standby leader");
    assert!(psql(&near, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)").is_some());
    for member in &far {
        wait_for(member, "SELECT n FROM t", "7");
    }
    let (code, text) = far[0].ctl(&["promote-cluster", "--force"]);
    assert!(code == Some(0) && text.contains(" cluster is successfully promoted\n"), "{text}");
    far[leader].wait_primary();
    assert!(psql(&far[leader], "INSERT INTO t VALUES (8)").is_some());
    wait_for(&far[1 - leader], "SELECT max(n) FROM t", "8");
    let port = near.port.to_string();
    let demote = ["demote-cluster", "--force", "--host", "127.0.0.1", "--port", &port];
    let (code, text) = far[0].ctl(&demote);
    assert!(code == Some(0) && text.contains(" cluster is successfully demoted\n"), "{text}");
    assert_eq!(psql(&far[leader], "SELECT pg_is_in_recovery()").as_deref(), Some("t"));
    assert!(far[leader].log().contains("the standby leader with the lock"));
}
