//! Packages made of the program that is there. Run by `make package-check` and `make rpm-check`,
//! after `packaging/setup.sh` and with the example `manual` built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PROGRAM;
use crate::docs::read;
use crate::rig::output;

/// What every package must bring, whatever else.
const FILES: [&str; 17] = [
    "/usr/bin/pgvigil",
    "/usr/bin/pgvigilctl",
    "/usr/lib/pgvigil/package",
    "/usr/lib/systemd/system/pgvigil.service",
    "/usr/lib/systemd/system/pgvigil@.service",
    "/usr/lib/systemd/catalog/pgvigil.catalog",
    "/usr/lib/sysusers.d/pgvigil.conf",
    "/usr/lib/tmpfiles.d/pgvigil.conf",
    "/usr/lib/udev/rules.d/70-pgvigil-watchdog.rules",
    "/etc/modules-load.d/pgvigil.conf",
    "/etc/modprobe.d/pgvigil.conf",
    "/usr/share/man/man1/pgvigil.1.gz",
    "/usr/share/man/man1/pgvigil-doctor.1.gz",
    "/usr/share/man/man1/pgvigilctl-switchover.1.gz",
    "/usr/share/bash-completion/completions/pgvigilctl",
    "/usr/share/doc/pgvigil/OPERATIONS.md",
    "/usr/share/doc/pgvigil/examples/pgvigil.yml",
];

/// Of [`make_versions`], the older one first.
pub const VERSIONS: [&str; 2] = ["0.1.0-1", "0.1.1-1"];

/// Makes a package in `directory`; its file.
pub fn make(kind: &str, directory: &Path) -> PathBuf {
    make_version(kind, directory, None)
}

/// An older package and a newer one of the same program, in `directory`.
pub fn make_versions(kind: &str, directory: &Path) {
    for version in VERSIONS {
        make_version(kind, directory, Some(version));
    }
}

fn make_version(kind: &str, directory: &Path, version: Option<&str>) -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    let manual = Path::new(PROGRAM).with_file_name("examples").join("manual");
    assert!(manual.exists(), "cargo build --example manual");
    let mut make = Command::new(format!("{root}/packaging/package.sh"));
    make.arg(kind).args([Path::new(PROGRAM), &manual, directory]).env("FAST", "1");
    make.args(version);
    let made = make.output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    PathBuf::from(String::from_utf8_lossy(&made.stdout).trim())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let (code, text) = output(Command::new(program).args(arguments));
    assert_eq!(code, Some(0), "{program} {arguments:?}\n{text}");
    text
}

/// The same commit must give the same package, so times are the commit's.
#[test]
#[ignore = "make package-check"]
fn the_deb_is_clean_and_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = make("deb", directory.path());
    let deb = file.to_str().unwrap();
    let listed = run("dpkg-deb", &["--contents", deb]);
    for file in FILES {
        assert!(
            listed.lines().any(|line| line.ends_with(&format!(" .{file}"))),
            "{file}: {listed}"
        );
    }
    assert!(!listed.contains("-help-") && !listed.contains("fence-leftover"), "{listed}");
    run("lintian", &["--allow-root", "--fail-on", "error,warning", deb]);
    let control = directory.path().join("control");
    run("dpkg-deb", &["--control", deb, control.to_str().unwrap()]);
    let conffiles = fs::read_to_string(control.join("conffiles")).unwrap();
    let wanted = ["modules-load.d", "modprobe.d", "needrestart/conf.d"];
    let wanted = wanted.map(|place| format!("/etc/{place}/pgvigil.conf\n"));
    assert_eq!(conffiles, wanted.concat());
    for script in ["postinst", "prerm", "postrm"] {
        harmless(&fs::read_to_string(control.join(script)).unwrap());
    }
    harmless(&read("packaging/helper.sh"));

    let first = fs::read(&file).unwrap();
    assert!(first == fs::read(make("deb", directory.path())).unwrap(), "not reproducible");
}

/// No script of a package stops, restarts or kills what runs; SIGUSR2 is all that is sent.
fn harmless(script: &str) {
    for line in script.lines().filter(|line| !line.trim_start().starts_with(['#', 'e'])) {
        let bad =
            ["systemctl stop", "systemctl restart", "systemctl try", "systemctl kill", "pkill"];
        assert!(!bad.iter().any(|word| line.contains(word)), "{line}");
        assert!(!line.contains("kill -") || line.contains("kill -USR2 \"$pid\""), "{line}");
    }
}

#[test]
#[ignore = "make rpm-check"]
fn the_rpm_is_clean_and_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = make("rpm", directory.path());
    let rpm = file.to_str().unwrap();
    let config = format!("{}/packaging/rpmlint.toml", env!("CARGO_MANIFEST_DIR"));
    let judged = run("rpmlint", &["--config", &config, rpm]);
    assert!(judged.contains(" 0 errors, 0 warnings"), "{judged}");
    harmless(&run("rpm", &["-qp", "--scripts", rpm]));

    let root = directory.path().join("root");
    let root = format!("--root={}", root.display());
    run("rpm", &[&root, "--initdb"]);
    run("rpm", &[&root, "--install", "--nodeps", "--noscripts", "--ignorearch", rpm]);
    run("rpm", &[&root, "--verify", "--nodeps", "pgvigil"]);
    let listed = run("rpm", &[&root, "--query", "--list", "pgvigil"]);
    for file in FILES {
        assert!(listed.lines().any(|line| line == file), "{file}: {listed}");
    }
    run("rpm", &[&root, "--erase", "--noscripts", "pgvigil"]);
}
