//! What the packages bring: units, rules, catalog, the helpers that the unit calls.

pub mod built;
mod leftover;
mod machine;
mod rpm;
mod server;
mod servers;
mod setup;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use pgvigil::core::events;

use crate::docs::read;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pgvigil");
const UNITS: [&str; 2] = ["systemd/pgvigil.service", "systemd/pgvigil@.service"];

/// Newest glibc whose symbols may be needed: RHEL 9's. Debian 12 has 2.36, Ubuntu 22.04 has 2.35.
const GLIBC: (u32, u32) = (2, 34);

#[test]
fn the_catalog_explains_every_class_of_events_and_no_other() {
    let catalog = read("systemd/pgvigil.catalog");
    let explained: BTreeSet<&str> = catalog.lines().filter_map(|l| l.strip_prefix("-- ")).collect();
    assert_eq!(explained, events::ALL.into_iter().collect());
    for entry in catalog.split("-- ").skip(1) {
        let (head, text) = entry.split_once("\n\n").expect("a blank line after the head");
        assert!(head.contains("\nSubject: ") && !text.trim().is_empty(), "{entry}");
    }
    let code = read("src/core/events.rs");
    let ids = code.lines().filter(|line| line.starts_with("pub const") && line.contains("&str = "));
    assert_eq!(ids.count(), events::ALL.len(), "a class is missing in ALL");
}

/// journald's own reader of catalogs.
#[test]
fn the_catalog_can_be_compiled() {
    let root = tempfile::tempdir().unwrap();
    let places =
        ["usr/lib/systemd/catalog", "var/lib/systemd/catalog"].map(|p| root.path().join(p));
    places.iter().for_each(|place| fs::create_dir_all(place).unwrap());
    fs::write(places[0].join("pgvigil.catalog"), read("systemd/pgvigil.catalog")).unwrap();
    let run = |argument: &str| {
        let root = format!("--root={}", root.path().display());
        Command::new("journalctl").args([&root, argument]).output()
    };
    let Ok(made) = run("--update-catalog") else {
        return println!("catalog: SKIPPED, there is no journalctl");
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let listed = run("--list-catalog").unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), events::ALL.len());
}

/// A class that nothing emits would be a promise that nothing backs.
#[test]
fn every_class_of_events_is_said_somewhere() {
    let names = read("src/core/events.rs");
    let names = names.lines().filter_map(|l| l.strip_prefix("pub const ")?.split_once(": &str"));
    let mut said = String::new();
    for room in ["src/agent", "src/supervisor"] {
        for entry in fs::read_dir(format!("{}/{room}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
            said += &fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        }
    }
    let here = read("src/core/events.rs");
    let by_phase = &here[here.find("pub fn of_phases").unwrap()..];
    assert!(said.contains("events::of_phases") && said.contains("events::of_rule"));
    for (name, _) in names {
        let emitted = said.contains(&format!("events::{name}"))
            || by_phase.contains(&format!("=> {name},"))
            || by_phase.contains(&format!("{{ {name} }}"));
        assert!(emitted, "{name} is never said");
    }
}

#[test]
fn systemd_accepts_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for unit in UNITS {
        let file = directory.path().join(unit.rsplit('/').next().unwrap());
        fs::write(&file, read(unit).replace("/usr/bin/pgvigil", PROGRAM)).unwrap();
        files.push(file.display().to_string().replace("pgvigil@.", "pgvigil@15-main."));
    }
    fs::rename(directory.path().join("pgvigil@.service"), &files[1]).unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&files).output();
    let Ok(answer) = verify else {
        return println!("units: SKIPPED, there is no systemd-analyze");
    };
    let said = String::from_utf8_lossy(&answer.stderr);
    // Other units of this machine are not ours to judge.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pgvigil")).collect();
    assert!(answer.status.success() && ours.is_empty(), "{said}");
}

/// Assignments of a unit, each with all its values.
fn settings(unit: &str) -> BTreeMap<String, Vec<String>> {
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in read(unit).lines().filter(|line| !line.starts_with(['#', '['])) {
        if let Some((name, value)) = line.split_once('=') {
            settings.entry(name.to_owned()).or_default().push(value.to_owned());
        }
    }
    settings
}

/// What the supervisor relies on, with the reason in docs/OPERATIONS.md or FENCING.md.
#[test]
fn the_units_have_what_the_fence_needs_and_differ_only_in_the_instance() {
    let [single, instance] = UNITS.map(settings);
    for (name, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "exec"),
        ("KillMode", "process"),
        ("Restart", "always"),
        ("RestartSec", "100ms"),
        ("StartLimitIntervalSec", "0"),
        ("TimeoutStartSec", "infinity"),
        ("Delegate", "yes"),
        ("FileDescriptorStoreMax", "16"),
        ("SupplementaryGroups", "pgvigil"),
        ("LimitMEMLOCK", "infinity"),
        ("OOMPolicy", "continue"),
    ] {
        assert_eq!(single.get(name).map(Vec::as_slice), Some(&[value.to_owned()][..]), "{name}");
    }
    // They would take from PostgreSQL, its scripts or the watchdog what they need.
    for name in ["NoNewPrivileges", "PrivateDevices", "PrivateTmp", "ProtectControlGroups"] {
        assert!(!single.contains_key(name), "{name}");
    }
    let different: Vec<&String> =
        single.keys().filter(|name| single.get(*name) != instance.get(*name)).collect();
    let wanted = ["After", "Conflicts", "Description", "ExecStart", "ExecStartPre", "ExecStopPost"];
    assert_eq!(different, wanted);
    assert_eq!(single.len(), instance.len());
    let there = ["fence-leftover", "take-in"].iter().all(|c| {
        single["ExecStartPre"].iter().chain(&single["ExecStopPost"]).any(|l| l.contains(c))
    });
    assert!(there, "{single:?}");
}

/// Who reads them on a server has no clone. (Why things are as they are stays there.)
#[test]
fn the_packaged_documents_refer_to_packaged_ones() {
    let manifest = read("Cargo.toml");
    let assets = manifest.lines().filter_map(|line| line.trim().strip_prefix("[\"docs/"));
    let packaged: BTreeSet<&str> = assets.filter_map(|line| line.split('"').next()).collect();
    assert!(packaged.contains("INSTALL.md") && packaged.len() > 5, "{packaged:?}");
    for document in &packaged {
        let text = read(&format!("docs/{document}"));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let here = link.ends_with(".md") && !link.contains('/');
            assert!(!here || packaged.contains(link), "{document}: {link}");
        }
    }
}

/// Nothing loads a module or sets an option of one unless somebody takes the `#` away.
#[test]
fn nothing_is_loaded_unasked() {
    for file in ["systemd/pgvigil.modules-load", "systemd/pgvigil.modprobe"] {
        let text = read(file);
        assert!(text.lines().all(|line| line.starts_with('#')), "{file}");
        assert!(text.contains("\n#softdog") || text.contains("\n#options softdog"), "{file}");
    }
    assert!(
        !UNITS.iter().any(|u| settings(u)["ExecStartPre"].iter().any(|l| l.contains("modprobe")))
    );
}

#[test]
fn the_program_needs_no_newer_glibc_than_the_oldest_distribution_has() {
    let bytes = fs::read(PROGRAM).unwrap();
    let versions = glibc_versions(&bytes);
    assert!(versions.contains(&(2, 2)) || versions.contains(&(2, 17)), "not found: {versions:?}");
    let newer: Vec<_> = versions.iter().filter(|version| **version > GLIBC).collect();
    assert!(newer.is_empty(), "needs glibc {newer:?}");
    assert_eq!(glibc_versions(b"x\0GLIBC_2.36\0"), BTreeSet::from([(2, 36)]));
}

/// The names of the versions that the dynamic symbols need: strings of their own, `GLIBC_2.34`.
fn glibc_versions(bytes: &[u8]) -> BTreeSet<(u32, u32)> {
    let strings = bytes.split(|byte| *byte == 0).filter_map(|s| s.strip_prefix(b"GLIBC_"));
    let numbers = strings.filter_map(|s| std::str::from_utf8(s).ok()?.split_once('.'));
    numbers
        .filter_map(|(major, rest)| {
            Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
        })
        .collect()
}
