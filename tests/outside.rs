//! What others see of a member: systemd's notify socket, Patroni's own command line.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::etcd::Etcd;
use crate::lab::process::signal;
use crate::lab::pypi;
use crate::lab::wait::wait_until;
use crate::rig::{Rig, as_postgres, make_directory, output};

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

#[test]
fn systemd_hears_ready_status_reload_and_stop() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.write(&member.config());
    let folder = member.directory.join("notify");
    make_directory(&folder);
    let path = folder.join("socket");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_nonblocking(true).expect("non-blocking");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    member.start_with("NOTIFY_SOCKET", &path.display().to_string());
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
fn patronis_own_command_line_reads_the_cluster_as_ours_does() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("m");
    member.write(&member.config());
    member.start();
    member.wait_primary();
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
