//! `pgvigil init` and `pgvigil generate-config`: what they write starts a real member.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use crate::docs::read;
use crate::etcd::Etcd;
use crate::lab::wait::wait_until;
use crate::rig::{Rig, as_postgres, bin_dir, output};

#[test]
fn what_init_writes_starts_a_member_and_generate_config_describes_it() {
    let etcd = Etcd::start(1);
    let rig = Rig::new(etcd.urls());
    let mut member = rig.member("node1");
    let host = etcd.urls()[0].replace("http://", "");
    let (data, file) = (member.data().display().to_string(), member.file());
    let answers =
        format!("shop\nnode1\n127.0.0.1\n{host}\n{data}\n{}\n127.0.0.1/32\nn\n", bin_dir());
    let mut init = as_postgres(&[&rig.program(), "init", &file]);
    let mut init = init.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    init.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
    let said = init.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("It can be run. What doctor says:"), "{text}");
    assert!(text.contains("member node1 of shop"), "doctor looked at it: {text}");
    assert_ne!(said.status.code(), Some(2), "{text}");

    // Ports of this test, and a machine that is not to be reset by it.
    let written = fs::read_to_string(&file).unwrap();
    let [rest, port] = [member.rest, member.port].map(|port| format!(":{port}\""));
    let own = written.replace(":8008\"", &rest).replace(":5432\"", &port);
    let own = own.replace("mode: automatic", "mode: off");
    // ... nor has it postgres's home, where pgpass would be.
    let sockets = format!(
        "  pgpass: '{0}/pgpass'\n  parameters: {{unix_socket_directories: '{0}'}}\n",
        rig_dir(&file)
    );
    member.write(&own.replace("  pg_hba:\n", &(sockets + "  pg_hba:\n")));
    member.start();
    member.wait_primary();

    let password = own.split("superuser: ").nth(1).and_then(|s| s.split('"').nth(3)).unwrap();
    let dsn = format!(
        "host=127.0.0.1 port={} user=postgres password={password} dbname=postgres",
        member.port
    );
    let (code, made) =
        output(&mut as_postgres(&[&rig.program(), "generate-config", "--dsn", &dsn]));
    assert_eq!(code, Some(0), "{made}");
    for wanted in
        [data.as_str(), password, "host all all 127.0.0.1/32 scram-sha-256", bin_dir().as_str()]
    {
        assert!(made.contains(wanted), "{wanted}: {made}");
    }
    let again = rig_dir(&file) + "/again.yml";
    fs::write(&again, &made).unwrap();
    let (code, findings) = output(&mut as_postgres(&[&rig.program(), "check-config", &again]));
    assert_eq!((code, findings.as_str()), (Some(0), ""), "{made}");
    wait_until("the member goes on", Duration::from_secs(5), || member.get("/primary"));
}

fn rig_dir(file: &str) -> String {
    file.rsplit_once('/').map(|(directory, _)| directory.to_owned()).unwrap()
}

#[test]
fn the_example_is_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("example.yml");
    fs::write(&path, read("packaging/example.yml")).unwrap();
    let mut check = std::process::Command::new(super::PROGRAM);
    let (code, text) = output(check.arg("check-config").arg(&path));
    assert_eq!((code, text.as_str()), (Some(0), ""));
}
