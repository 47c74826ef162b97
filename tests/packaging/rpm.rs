//! The .rpm: its scripts, run by rpm on a server with systemd. No RHEL, but its systemd (252).

use std::time::Duration;

use super::built::{self, VERSIONS};
use super::machine::Machine;

const SOON: Duration = Duration::from_secs(60);
const PRIMARY: &str = "curl -sf http://127.0.0.1:8008/primary";
const MAIN: &str = "systemctl show --value -p MainPID pgvigil";
const POSTMASTER: &str = "head -n 1 /var/lib/postgresql/15/main/postmaster.pid";

#[test]
#[ignore = "make rpm-check"]
fn a_server_lives_with_the_rpm() {
    let machine = Machine::boot("db1", |payload| built::make_versions("rpm", payload));
    let machine = match machine {
        Ok(machine) => machine,
        Err(why) => return println!("a server with the rpm: SKIPPED, {why}"),
    };
    // Its requirements are names of RHEL's packages.
    let rpm = |what: &str, version: &str| {
        machine.run(&format!("rpm --initdb; rpm {what} --nodeps /mnt/pgvigil-{version}.*.rpm"))
    };
    rpm("--install", VERSIONS[0]);
    assert_eq!(machine.run("getent group pgvigil | cut -d: -f4"), "", "a group without members");
    assert_eq!(machine.try_run("systemctl is-enabled pgvigil").1.trim(), "disabled");
    assert_eq!(machine.run("rpm -qc pgvigil").lines().count(), 2, "modules-load and modprobe");
    machine.run("systemd-run --unit=lab-etcd /usr/bin/etcd --data-dir /var/lib/etcd-lab");
    machine.run(
        "umask 027; pgvigil generate-config >/etc/pgvigil/pgvigil.yml && \
         chgrp postgres /etc/pgvigil/pgvigil.yml && systemctl enable --now pgvigil",
    );
    machine.wait("a primary", SOON, PRIMARY);
    let (main, postmaster) = (machine.run(MAIN), machine.run(POSTMASTER));

    let said = rpm("--upgrade", VERSIONS[1]);
    assert!(said.contains(&format!("process {main} is pgvigil")), "{said}");
    let said = rpm("--upgrade --oldpackage", VERSIONS[0]);
    assert!(said.contains(&format!("process {main} is pgvigil")), "{said}");
    machine.run(&format!("test /proc/{main}/exe -ef /usr/bin/pgvigil"));
    assert_eq!((machine.run(MAIN), machine.run(POSTMASTER)), (main, postmaster));
    machine.run(PRIMARY);

    let (code, said) = machine.try_run("rpm --erase pgvigil");
    assert!(code != Some(0) && said.contains("nobody fences its PostgreSQL"), "{said}");
    machine.run(PRIMARY);
    machine.run("systemctl disable --now pgvigil && rpm --erase pgvigil");
    machine.run("test ! -e /usr/bin/pgvigil -a -e /etc/pgvigil/pgvigil.yml");
}
