//! Day two on two servers with a systemd of their own, in the words of docs/OPERATIONS.md, while a
//! client writes: a second member, a minor upgrade of PostgreSQL, a server replaced.

use std::time::Duration;

use super::built;
use super::machine::Machine;

const SOON: Duration = Duration::from_secs(60);
const PRIMARY: &str = "curl -sf http://127.0.0.1:8008/primary";
const REPLICA: &str = "curl -sf http://127.0.0.1:8008/replica";
const ADDRESSES: [&str; 2] = ["10.77.1.1", "10.77.1.2"];
const BIN: &str = "/usr/lib/postgresql/15/bin";
/// What runs is what is installed: another file stands there after an upgrade.
const NEW_RUNS: &str = "test /proc/$(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)/exe \
                        -ef /usr/lib/postgresql/15/bin/postgres";
/// A switchover hands the leadership over: nobody waited for the end of a lease, which lasts 15 s.
const GAP_MAX_S: f64 = 10.0;

#[test]
#[ignore = "make package-check"]
fn two_servers_are_upgraded_and_one_is_replaced_under_a_writer() {
    let boot = |name| Machine::boot(name, |payload| drop(built::make("deb", payload)));
    let (db1, db2) = match (boot("db1"), boot("db2")) {
        (Ok(db1), Ok(db2)) => (db1, db2),
        (Err(why), _) | (_, Err(why)) => return println!("two servers: SKIPPED, {why}"),
    };
    let mut begun = std::time::Instant::now();
    let mut lap = |what: &str| {
        println!("two servers: {what}, {:.1} s", begun.elapsed().as_secs_f32());
        begun = std::time::Instant::now();
    };
    db1.wire(&db2, ADDRESSES.map(|address| format!("{address}/24")));
    first(&db1);
    lap("the first member");
    second(&db1, &db2);
    lap("the second member");
    write(&db1);
    upgrade(&db2);
    switch_over(&db2, "db1", "db2");
    upgrade(&db1);
    lap("a minor upgrade of PostgreSQL");
    replace(&db1, &db2);
    lap("the second member is gone for ever");
    written(&db1);
}

/// The answers to `pgvigil init`, the rest as it proposes.
fn install(machine: &Machine, last: &str) {
    machine.run("dpkg -i /mnt/pgvigil_*.deb");
    let address = if machine.name == "db1" { ADDRESSES[0] } else { ADDRESSES[1] };
    let answers = format!("shop\\n\\n{address}\\n10.77.1.1:2379\\n\\n\\n\\n{last}");
    let init = format!("printf '{answers}' | pgvigil init");
    let (code, said) = machine.try_run(&init);
    assert!(said.contains("It can be run") && code != Some(2), "{said}");
    machine.run(
        "sed -i 's|^  mode: automatic|  mode: off|; s|ttl: 30|ttl: 15|; \
         s|loop_wait: 10|loop_wait: 4|; s|retry_timeout: 10|retry_timeout: 4|' \
         /etc/pgvigil/pgvigil.yml",
    );
    machine.run("systemctl enable --now pgvigil");
}

fn first(db1: &Machine) {
    db1.run(
        "systemd-run --unit=lab-etcd /usr/bin/etcd --data-dir /var/lib/etcd-lab \
         --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://10.77.1.1:2379",
    );
    install(db1, "n\\n");
    db1.wait("a primary", SOON, PRIMARY);
}

/// It gets the passwords of the first.
fn second(db1: &Machine, db2: &Machine) {
    let passwords = db1.run("sed -n 's/.*password: \"\\(.*\\)\"}/\\1/p' /etc/pgvigil/pgvigil.yml");
    let logins: String = passwords.lines().map(|password| format!("\\n{password}\\n")).collect();
    install(db2, &format!("y\\n{logins}"));
    db2.wait("a replica", SOON, REPLICA);
    let listed = "pgvigilctl list | grep 'db2.*Replica.*streaming'";
    db2.wait("a replica that streams", SOON, listed);
}

/// Each row is a session of its own, wherever the primary is; what was acknowledged is noted.
fn write(machine: &Machine) {
    machine.run(
        "cat >/run/writer <<'END'
export PGPASSWORD=$(sed -n 's/.*superuser:.*password: \"\\(.*\\)\"}/\\1/p' /etc/pgvigil/pgvigil.yml)
export PGHOST=10.77.1.1,10.77.1.2 PGUSER=postgres PGDATABASE=postgres PGCONNECT_TIMEOUT=2
export PGTARGETSESSIONATTRS=read-write
psql -qc 'create table written (n int)'
for ((n = 1; ; n++)); do
    psql -qc \"insert into written values ($n)\" && echo $n $(date +%s.%N) >>/run/acknowledged
    sleep 0.05
done
END
systemd-run --unit=lab-writer bash /run/writer",
    );
    machine.wait("a row", SOON, "test -s /run/acknowledged");
}

/// A member that does not lead: a newer PostgreSQL is installed as dpkg does it, with Debian's own
/// scripts, and nothing restarts; then the member does.
fn upgrade(machine: &Machine) {
    let before = machine.run("systemctl show -p NRestarts -p MainPID pgvigil");
    let script = |name: &str, arguments: &str| {
        machine.run(&format!(
            "export DPKG_MAINTSCRIPT_PACKAGE=postgresql-15; \
             sh -ec 'db_stop() {{ :; }}; set -- {arguments}; \
             . /var/lib/dpkg/info/postgresql-15.{name}'"
        ))
    };
    script("prerm", "upgrade 15.99");
    machine.run(&format!("sed -i 's/\\b15\\.[0-9][0-9] (Debian/15.99 (Debian/g' {BIN}/*"));
    script("postinst", "configure 15.1");
    machine.run(&format!("{BIN}/postgres --version | grep 15.99 && ! {NEW_RUNS}"));
    machine.run(REPLICA);

    machine.run(&format!("pgvigilctl restart shop {} --force", machine.name));
    machine.wait("the new PostgreSQL", SOON, NEW_RUNS);
    machine.wait("a replica", SOON, REPLICA);
    machine.run("journalctl -q -t postgres | grep 'starting PostgreSQL 15.99'");
    assert_eq!(machine.run("systemctl show -p NRestarts -p MainPID pgvigil"), before);
}

fn switch_over(to: &Machine, leader: &str, candidate: &str) {
    to.run(&format!("pgvigilctl switchover --leader {leader} --candidate {candidate} --force"));
    to.wait("the new leader", SOON, PRIMARY);
    to.wait("the old one follows", SOON, &format!("pgvigilctl list | grep '{leader}.*streaming'"));
}

/// The old server leads: a switchover first, then it is stopped.
fn replace(db1: &Machine, db2: &Machine) {
    switch_over(db1, "db2", "db1");
    db2.run("systemctl disable --now pgvigil");
    assert_eq!(db2.try_run("pgrep -c postgres").1.trim(), "0");
    let alone = "pgvigilctl list | grep db1 && ! pgvigilctl list | grep db2";
    db1.wait("one member", SOON, alone);
    db1.run(PRIMARY);
    let slots = "su postgres -c \"psql -Atqc 'select slot_name from pg_replication_slots'\"";
    assert_eq!(db1.run(slots), "db2", "it keeps WAL for member_slots_ttl");
    db1.run("pgvigilctl edit-config --force -s member_slots_ttl=0");
    db1.wait("no slot", SOON, &format!("test -z \"$({slots})\""));
    db2.run("dpkg -r pgvigil");
}

fn written(machine: &Machine) {
    machine.run("systemctl stop lab-writer");
    let rows = machine.run("su postgres -c \"psql -Atqc 'select n from written'\"");
    let rows: std::collections::BTreeSet<&str> = rows.lines().collect();
    let acknowledged = machine.run("cat /run/acknowledged");
    let lines: Vec<(&str, f64)> = acknowledged
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(n, at)| (n, at.parse().expect("a time")))
        .collect();
    let gap = lines.windows(2).map(|pair| pair[1].1 - pair[0].1).fold(0.0, f64::max);
    println!("two servers: {} rows, the longest gap {gap:.2} s", lines.len());
    assert!(lines.iter().all(|(n, _)| rows.contains(n)), "acknowledged rows are lost");
    assert!(lines.len() > 20 && gap < GAP_MAX_S, "{} rows, {gap} s", lines.len());
}
