//! Configurations as the common tutorials have them, older layouts included, start a cluster.

use std::time::Duration;

use crate::etcd::Etcd;
use crate::lab::wait::wait_until;
use crate::rig::{Member, Rig, bin_dir};

const SOON: Duration = Duration::from_secs(90);

/// What differs from tutorial to tutorial.
struct Tutorial {
    name: &'static str,
    /// The section that names etcd; ETCD stands for `host:port`.
    store: &'static str,
    /// Below `postgresql:`.
    users: &'static str,
    /// What stands after all that.
    more: &'static str,
}

const TUTORIALS: &[Tutorial] = &[
    Tutorial {
        name: "users below postgresql, as before Patroni 1.0",
        store: "\
etcd:
  scope: wrong
  ttl: 30
  host: ETCD
",
        users: "
  replication:
    username: replicator
    password: rep-pass
    network: 127.0.0.1/32
  superuser:
    username: postgres
    password: su-pass
  rewind:
    username: rewind_user
    password: rw-pass
  use_pg_rewind: true
",
        more: "",
    },
    Tutorial {
        name: "etcd: with one host, users of bootstrap, tags",
        store: "\
etcd:
    host: ETCD
",
        users: "
  authentication:
    replication:
      username: replicator
      password: rep-pass
    superuser:
      username: postgres
      password: su-pass
",
        more: "
tags:
    nofailover: false
    noloadbalance: false
    clonefrom: false
    nosync: false
",
    },
    Tutorial {
        name: "etcd3: with a list, rewind user, a namespace, a watchdog where there is one",
        store: "\
namespace: /db/
etcd3:
  hosts: 'ETCD,ETCD'
  protocol: http
",
        users: "
  authentication:
    replication: {username: replicator, password: rep-pass}
    superuser: {username: postgres, password: su-pass}
    rewind: {username: rewind_user, password: rw-pass}
  parameters:
    unix_socket_directories: '.'
    wal_level: hot_standby
    hot_standby: \"on\"
    max_wal_senders: 5
    max_replication_slots: 5
    wal_log_hints: \"on\"
",
        more: "
watchdog:
  mode: automatic
  device: /dev/watchdog
  safety_margin: 5
log:
  level: INFO
",
    },
    Tutorial {
        name: "etcd3: by URL, one socket directory, callbacks",
        store: "\
etcd3:
  url: http://ETCD
",
        users: "
  use_unix_socket: true
  remove_data_directory_on_rewind_failure: true
  remove_data_directory_on_diverged_timelines: true
  authentication:
    replication: {username: replicator, password: rep-pass}
    superuser: {username: postgres, password: su-pass}
  callbacks:
    on_role_change: /bin/true
    on_start: /bin/true
  parameters:
    unix_socket_directories: DIRECTORY
",
        more: "
restapi:
  authentication:
    username: admin
    password: secret
",
    },
];

#[test]
fn tutorials_start_a_cluster() {
    for tutorial in TUTORIALS {
        println!("tutorials: {}", tutorial.name);
        let etcd = Etcd::start(1);
        let rig = Rig::new(etcd.urls());
        let mut first = rig.member("a");
        let mut second = rig.member("b");
        for member in [&first, &second] {
            member.write(&render(tutorial, member, &etcd));
        }
        first.start();
        first.wait_primary();
        second.start();
        wait_until("a streaming replica", SOON, || {
            second.get("/replica?replication_state=streaming").filter(|a| a.status == 200)
        });
        wait_until("a list of both", SOON, || {
            let (_, list) = first.ctl(&["list", "-f", "tsv"]);
            let lines = ["\tLeader\trunning\t", "\tReplica\tstreaming\t"];
            lines.iter().all(|line| list.matches(line).count() == 1).then_some(())
        });
        for member in [&first, &second] {
            let log = member.log();
            assert!(!log.contains("ERROR") && !log.contains("CRITICAL"), "{log}");
        }
    }
}

fn render(tutorial: &Tutorial, member: &Member, etcd: &Etcd) -> String {
    let name = member.directory.file_name().expect("a name").display();
    let (rest, port, directory) = (member.rest, member.port, member.directory.display());
    let url = &etcd.urls()[0];
    let address = url.strip_prefix("http://").expect("no TLS");
    let Tutorial { store, users, more, .. } = tutorial;
    let restapi =
        format!("restapi:\n  listen: 127.0.0.1:{rest}\n  connect_address: 127.0.0.1:{rest}\n");
    // One section, whatever the tutorial adds to it.
    let (restapi, more) = match more.trim_start().strip_prefix("restapi:\n") {
        Some(added) => (restapi + added, String::new()),
        None => (restapi, (*more).to_owned()),
    };
    let text = format!(
        "\
scope: wrong
name: {name}
{restapi}
{store}
bootstrap:
  dcs:
    ttl: 30
    loop_wait: 2
    retry_timeout: 10
    maximum_lag_on_failover: 1048576
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 40
        shared_buffers: 16MB
  initdb:
  - encoding: UTF8
  - data-checksums
  pg_hba:
  - host replication replicator 127.0.0.1/32 md5
  - host all all 127.0.0.1/32 md5
  users:
    admin:
      password: admin
      options:
      - createrole
      - createdb
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {directory}/data
  bin_dir: {bin}
  pgpass: {directory}/pgpass
{users}
{more}",
        bin = bin_dir()
    );
    text.replace("ETCD", address).replace("DIRECTORY", &directory.to_string())
}
