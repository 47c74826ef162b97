//! The configuration file of a member, readable by pgvigil and by Patroni.

use std::path::Path;

use super::net::Host;
use super::{PASSWORD, POSTGRES_PORT, REST_PORT, Settings};

pub fn render(settings: &Settings, member: u8, directory: &Path) -> String {
    let Settings { ttl, loop_wait, retry_timeout, synchronous, use_pg_rewind, .. } = settings;
    let hosts: Vec<String> =
        (1..=settings.etcds).map(|n| Host::Etcd(n).socket(2379).to_string()).collect();
    let hosts = hosts.join(", ");
    let (address, base) = (Host::Member(member).address(), directory.display());
    let bin_dir = settings.bin_dir.display();
    let (volume, health) = match settings.health {
        None => ("", String::new()),
        Some((limit, every)) => (
            "/volume",
            format!(
                "vigil:
  health: {{answer_timeout: {limit}, write_timeout: {limit}, storage_timeout: {limit},
    hand_over_interval: {every}}}
"
            ),
        ),
    };
    let waldir = match settings.wal_apart {
        true => format!("\n  - waldir: {base}/wal/pg_wal"),
        false => String::new(),
    };
    format!(
        "\
scope: lab
name: m{member}
watchdog: {{mode: off}}
restapi:
  listen: {address}:{REST_PORT}
  connect_address: {address}:{REST_PORT}
etcd3:
  hosts: [{hosts}]
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    maximum_lag_on_failover: 1048576
    synchronous_mode: {synchronous}
    postgresql:
      use_pg_rewind: {use_pg_rewind}
      use_slots: true
      parameters:
        wal_log_hints: on
        max_connections: 50
        shared_buffers: 32MB
        wal_keep_size: 16MB
        max_wal_size: 256MB
  initdb:
  - encoding: UTF8
  - data-checksums{waldir}
  - auth-host: scram-sha-256
  - auth-local: scram-sha-256
postgresql:
  listen: {address}:{POSTGRES_PORT}
  connect_address: {address}:{POSTGRES_PORT}
  data_dir: {base}{volume}/data
  bin_dir: {bin_dir}
  pgpass: {base}/pgpass
  authentication:
    superuser: {{username: postgres, password: {PASSWORD}}}
    replication: {{username: replicator, password: {PASSWORD}}}
    rewind: {{username: rewind_user, password: {PASSWORD}}}
  remove_data_directory_on_rewind_failure: true
  basebackup:
  - checkpoint: fast
  - max-rate: 20M{waldir}
  parameters:
    unix_socket_directories: {base}
  pg_hba:
  - local all all scram-sha-256
  - host replication replicator 10.77.0.0/24 scram-sha-256
  - host all all 10.77.0.0/24 scram-sha-256
{health}"
    )
}
